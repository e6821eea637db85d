r"""Triplet ranking: ordered embeddings beside the regression of ages (Bae, Bae, Jung 2018).

    boneage main --config=configs/triplet.py --workdir=runs/triplet                # RSNA, 500 px
    boneage sweep --config=configs/triplet.py:rsna100 --workdir=runs/triplet100 --seeds=3
    boneage main --config=configs/triplet.py:phantom --workdir=runs/triplet_first  # phantoms
    boneage embeddings --output=runs/triplet100/tsne \
        --workdir=runs/triplet100/both-plain/seed0,runs/triplet100/both-triplet/seed0

The paper prints, on the 200 test images, a mean absolute error in months of 5.74 (boys) and 5.89
(girls) without the triplet loss, 4.69 and 4.85 with it, one network for each sex: the first four
rows of `sweep()`. Its 5.82 and 4.77 for all are the averages over the two. Inception-V3, pooled
features (2,048) as embedding, L1 in months, 0.01 times the sum over all relative triplets. Not in
the paper, ours: 500x500, batch 32, Adam 1e-4, 100 epochs, the dense layer, the augmentation. Ours
too are the rows 'both', one network that reads the sex (this config alone: with triplets), also
with margins in the softmax's place and with a smooth rank correlation in the triplets'. Measured on
100 px images alone (docs/results.md).

`:rsna100` is ResNet-18 of half width on 100 px images, for two CPU cores: the network of the
baseline of configs/prsnet.py, whose 30 epochs take about 40 minutes.
`:rsna100,finetune,init_from=RUN` starts every row from that baseline's backbone instead, two epochs
each. `:rsna100,inception` takes Inception-V3 there, for an accelerator: its own stem would leave
1x1 maps of 100 px; the small stem leaves 10x10 at 17 GFLOP an image, 94 times the ResNet's.
`:aligned` puts the paper's input stages first: `data.stage_options.unet.run` masks the hand,
`data.stage_options.align.run` turns and centres it.
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['data'].update(size=(500, 500), resize='pad')
BASE['model'] = dict(
    name='embedding',
    backbone='inception_v3',  # any of boneage_jax.models.BACKBONES
    width=0,  # channels of the backbone's first stage, 0 = its own
    depth=0,  # blocks a stage, 0 = its own; 1 in tests
    stem='imagenet',  # 'imagenet' | 'small', for images of about 100 px
    standardise='image',  # 'image': each image to mean 0, deviation 1; 'fixed': (x - 0.5) / 0.25
    hidden_units=(1024,),  # of the layers between embedding and age
    dropout=0.0,
    use_sex=True,  # the dense layers read the sex; False in networks of one sex
)
BASE['task'] = dict(
    name='age_triplet',
    loss='l1',  # 'l1' | 'l2', in months
    # of what the network's last layer gives; the loss is in months all the same
    normalisation='zscore',
    triplet_weight=0.01,  # 0 = without
    # 'sum' over the batch's triplets, as printed | 'mean': then 149 means the same at batch 32
    reduction='sum',
    distance='l2',  # 'l2' | 'squared_l2'
    triplet_form='softmax',  # the paper's | 'margin' | 'semi_hard', which take `margin`
    margin=1.0,  # in units of the distance
    correlation_weight=0.0,  # of a smooth rank correlation (ours)
    temperature=0.1,  # of its ranks, in shares of the mean distance
)
BASE['optimizer'].update(name='adam', learning_rate=1e-4)
BASE['augment'].update(flip=0.5, rotation=15.0, shift=0.1, scale=0.1)
BASE.update(batch_size=32, epochs=100)

CPU_RECIPE = {
    **presets.CPU,
    'model.backbone': 'resnet18',
    'model.width': 32,
    'model.hidden_units': (256,),
}
PRESETS = {
    'rsna100': {**presets.RSNA100, **CPU_RECIPE, 'epochs': 30, 'augment.gamma': 0.2},
    'finetune': {  # with init_from=RUN
        'init_map': {'backbone': 'backbone'},
        'epochs': 2,
        'optimizer.learning_rate': 1e-3,
    },
    'half': {  # with init_from=RUN, a network that has seen none of these images
        **presets.RSNA_HALF,
        **CPU_RECIPE,
        'data.size': (192, 192),
        'data.stages': ('unet', 'contrast', 'crop'),
        'init_map': {'backbone': 'backbone'},
        'epochs': 4,
        'eval_every_epochs': 4,  # nothing is selected: the last parameters predict the fold
        'optimizer.learning_rate': 5e-4,
        'augment.gamma': 0.2,
    },
    'inception': {
        'model.backbone': 'inception_v3',
        'model.stem': 'small',
        'model.hidden_units': (1024,),
    },
    'aligned': {'data.stages': ('unet', 'contrast', 'align', 'register')},
    'phantom': {**presets.phantom((96, 96)), **CPU_RECIPE, 'epochs': 12},
    'tiny': {
        **presets.tiny((40, 40)),
        'model.backbone': 'resnet18',
        'model.width': 4,
        'model.depth': 1,
        'model.hidden_units': (8,),
        'precise_bn_batches': 0,
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """Table 1 of the paper, months on the 200 test images, a network for each sex; the rows 'both'
    are ours.
    """
    for sex, without, with_triplets in (('male', 5.74, 4.69), ('female', 5.89, 4.85)):
        one = {'data.sex': sex, 'model.use_sex': False}
        yield c.Row(f'{sex} plain', {**one, 'task.triplet_weight': 0.0}, without)
        yield c.Row(f'{sex} triplet', one, with_triplets, f'{sex} plain')
    yield c.Row('both plain', {'task.triplet_weight': 0.0})
    for name, change in {
        'triplet': {},
        'margin': {'task.triplet_form': 'margin'},
        'semi-hard': {'task.triplet_form': 'semi_hard'},
        'correlation': {'task.triplet_weight': 0.0, 'task.correlation_weight': 10.0},
    }.items():
        yield c.Row(f'both {name}', change, reference='both plain')
