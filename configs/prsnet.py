"""PRSNet: Part Relation and Selection Network (Ji, Chen, Lin, Wu, Lin, MICCAI 2019).

    python -m boneage_jax.main --config=configs/prsnet.py --workdir=runs/prsnet           # 512 px
    python -m boneage_jax.main --config=configs/prsnet.py:rsna100 --workdir=runs/rsna100  # 100 px
    python -m boneage_jax.main --config=configs/prsnet.py:phantom --workdir=runs/first    # no data

The paper prints, on the 200 test images, MAE in months: baseline 6.52, without relation 5.05,
without selection 5.20, full 4.49: the rows of `sweep()`, as in `:rsna100,row=baseline`. Alone, the
config is the full model; the baseline is ResNet-34 and the sex as a one-hot vector (section 5.2;
the sex is our reading). Training is the paper's section 4: SGD 1e-3, /10 every 25 epochs, 100
epochs, batch 16 at 512x512. Momentum and weight decay are NTS-Net's, augmentation strengths ours.
`:rsna100` changes the recipe (AdamW, one cycle, ResNet-18 of half the width, batch statistics of
clean images) for two CPU cores: `:rsna100,row=baseline` takes about 40 minutes; its parameters
scored a holdout MAE of 11.4 months (docs/results.md says how). The other rows take four times as
long a step: `:rsna100,finetune,init_from=RUN,row=full` starts every row from the backbone of one
finished baseline RUN, six epochs each. `:phantom` is the baseline row, for a first run within
minutes (`:phantom,row=full` takes about four times as long).
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['data'].update(size=(512, 512), resize='pad')
BASE['model'] = dict(
    name='prsnet',
    backbone='resnet34',
    width=64,  # channels of the backbone's first stage
    depth=0,  # blocks a stage, 0 = the backbone's own; 1 in tests
    stem='imagenet',  # 'imagenet': 7x7/2 and max-pool; 'small': 3x3, no stride
    standardise='image',  # 'image': each image to mean 0, deviation 1; 'fixed': (x - 0.5) / 0.25
    dropout=0.0,
    relation=True,  # part relation, section 2; False: F_i = X_i
    selection=True,  # part selection, section 3; False: no F_local and no ranking loss
    parts=3,  # selected parts an image
    # pixels a side of a part's crop: 96 costs the paper's +10% at 512 px, 224 (NTS-Net's) +57%
    part_size=96,
    # 'crop': the end of the second ResNet (section 3); 'level': its res3, res4 or res5 (section 4)
    part_features='crop',
    nms_iou=0.25,  # parts overlap by less
    anchor_sizes=(
        48,
        96,
        192,
    ),  # at res3, res4, res5 of an image of 448 pixels, growing with the image; 0 = none there
    detach_scores=False,  # True: the ranking loss trains the scores alone (NTS-Net's way)
    # pixels of the image's longer side that the backbone sees, 0 = all; parts are cut from the
    # image as it comes (ours)
    backbone_size=0,
    on_hand=0.0,  # least share of a part that is not black, of images whose hand is masked (ours)
)
BASE['task'].update(
    name='age_parts',
    loss='l2',
    normalisation='zscore',
    rank_weight=1.0,
    # of the parts' own ages; 0 = equation 4 as printed, their ages then stay noise
    part_weight=1.0,
    # 'corrected' | 'literal': equations 2 and 3 as printed | 'correlation' (losses.part_ranking)
    ranking_form='corrected',
)
BASE['optimizer'].update(
    name='sgd',
    learning_rate=1e-3,
    momentum=0.9,
    weight_decay=1e-4,
    schedule='step',
    step_epochs=25,
    step_factor=0.1,
)
BASE['augment'].update(flip=0.5, rotation=15.0, shift=0.1, scale=0.1)
BASE.update(batch_size=16, epochs=100)

CPU_RECIPE = {
    **presets.CPU,
    'model.backbone': 'resnet18',
    'model.width': 32,
    'task.loss': 'l1',
}
PRESETS = {
    'rsna100': {**presets.RSNA100, **CPU_RECIPE, 'epochs': 30, 'augment.gamma': 0.2},
    # with init_from=RUN: every row goes on from one baseline's backbone, also in its part network
    'finetune': {
        'init_map': {'backbone': 'backbone', 'part_backbone': 'backbone'},
        'init_optional': ('part_backbone',),
        'epochs': 6,
        'optimizer.learning_rate': 1e-3,
        # crops of a 100 px image hold no more; 3x3 maps at their end (2x2 are slow on CPUs)
        'model.part_size': 65,
    },
    # with init_from=RUN of :half,others,row=baseline
    'half': {
        **presets.RSNA_HALF,
        **CPU_RECIPE,
        'data.size': (256, 256),
        'data.stages': ('unet', 'contrast', 'crop'),
        'init_map': {'backbone': 'backbone', 'part_backbone': 'backbone'},
        'init_optional': ('part_backbone',),
        'batch_size': 16,
        'epochs': 5,
        'eval_every_epochs': 5,  # nothing is selected: the last parameters predict the fold
        'optimizer.learning_rate': 2e-3,  # of the heads, which every row begins afresh
        'optimizer.backbone_rate': 0.2,
        'augment.gamma': 0.2,
    },
    # as in :half,others,row=baseline, with init_from=RUN of configs/strong.py:rsna100,others
    'others': {
        **presets.OTHERS,
        'init_map': {'backbone': 'backbone'},
        'batch_size': 32,
        'epochs': 3,
        'eval_every_epochs': 3,
        'optimizer.learning_rate': 1e-3,
        'optimizer.backbone_rate': 1.0,
    },
    # the baseline, unless a row says otherwise
    'phantom': {
        **presets.phantom((96, 96)),
        **CPU_RECIPE,
        'epochs': 12,
        'model.relation': False,
        'model.selection': False,
    },
    'tiny': {
        **presets.tiny((64, 64)),
        'model.width': 8,
        'model.depth': 1,
        'model.part_size': 32,
        'precise_bn_batches': 2,
    },
}

FINER = {'data.size': (768, 768), 'model.backbone_size': 256}
# Ways to select parts (ours), all without relation: what makes them pay?
VARIANTS = {
    'detached scores': {'model.detach_scores': True},
    'no ranking': {'task.rank_weight': 0.0},
    'rank correlation': {'task.ranking_form': 'correlation'},
    'parts on the hand': {'model.on_hand': 0.5},
    'small parts': {'model.anchor_sizes': (32, 64, 128)},
    'finer parts': FINER,
    'finer parts on the hand': {**FINER, 'model.on_hand': 0.5},
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """Table 1 of the paper, MAE in months on the 200 test images. The others are ours, where
    `--rows` names them.
    """
    for name, relation, selection, months in (
        ('baseline', False, False, 6.52),
        ('without relation', False, True, 5.05),
        ('without selection', True, False, 5.20),
        ('full', True, True, 4.49),
    ):
        yield c.Row(name, {'model.relation': relation, 'model.selection': selection}, months)
    for name, change in VARIANTS.items():
        switches = {'model.relation': False, 'model.selection': True, **change}
        yield c.Row(name, switches, optional=True)
