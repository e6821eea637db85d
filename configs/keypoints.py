r"""Key points of the hand: middle fingertip, thumb tip, capitate (Iglovikov 2018, section 3.3).

    boneage main --config=configs/keypoints.py --workdir=runs/points             # the paper's VGG
    boneage main --config=configs/keypoints.py:row=heatmaps --workdir=runs/maps  # heat maps
    boneage main --config=configs/keypoints.py:annotated,row=heatmaps --workdir=runs/real \
        --config.data.extra_train_folders=FOLDER
    boneage main --config=configs/keypoints.py:hands,row=heatmaps --workdir=runs/hands

The paper trains on 800 annotated images and prints no error. `:hands` trains on the three points
that people set on 4,450 of RSNA's images, hands at any angle (docs/model_card.md has its figures).
`:annotated` trains on RSNA images with key points in COCO's manner
(`data.stage_options.points.files`); `extra_train_folders=FOLDER` adds phantoms to them, as
`python -m boneage_jax.prepare --config=configs/keypoints.py` prints their folder. `python -m
boneage_jax.score --config=configs/keypoints.py:annotated --workdir=RUN` measures a network of
phantoms on real images. Images are padded to the paper's aspect and 130x100 pixels,
pixels and augmentation strengths as far as the paper gives them; dense widths and the recipe are
ours.

Measured (docs/results.md): heat maps of width 8 begun from a mined U-Net
(`init_from=MASKS,init_map=(unet.down:down,unet.up:up)`), `:annotated` with 1,200 phantoms and
then alone, 36 minutes on two cores: 1.4% of the hand's length on held-out images, 1.1% on the
Digital Hand Atlas; the regression 17.6% after 18 minutes. Stage `refine` looks once more.
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['data'].update(
    source='hand_phantom', size=(130, 100), resize='pad', validation=300, holdout=300
)
BASE['data']['phantom'].update(count=4000, size=(260, 200))
BASE['model'] = dict(
    name='keypoints',
    head='regression',  # 'regression': the paper's VGG | 'heatmaps': a U-Net
    width=32,  # channels of the first block
    depth=4,  # heatmaps: poolings
    hidden_units=512,  # regression: of each dense layer
    dropout=0.25,  # regression
    standardise='image',
)
BASE['task'] = dict(
    name='keypoints',
    loss='l2',  # 'l1' | 'l2', on points from 0 to 1
    heatmap_weight=1.0,  # of the heat maps' cross-entropy, for a model that has them
    # what the tips of the training points are: 'bone' (COCO, the DHA, phantoms) | 'skin' (the table
    # of three points); the stage `keypoints` moves those at the skin to the bone
    tips='bone',
)
BASE['optimizer'].update(name='adamw', learning_rate=1e-3, weight_decay=0.01, schedule='one_cycle')
BASE['augment'].update(
    flip=0.5,
    rotation=45.0,
    shift=0.1,
    scale=0.25,
    shear=5.0,
    gamma=0.5,
    brightness=0.1,
    contrast=0.3,
)
BASE.update(batch_size=32, epochs=30)
BASE['data']['placement'] = 'device'

PRESETS = {
    'annotated': {
        'data.source': 'rsna_bone_age',
        'data.folder': 'rsna100',
        'data.stages': ('points',),
        'data.stage_options.points.files': ('annotations/rsna_hand_keypoints_train.json',),
        'data.validation': 50,
        'data.holdout': 50,
        'epochs': 100,
        'precise_bn_batches': 30,
    },
    # the three points that people set on 4,453 of RSNA's images, hands at any angle
    'hands': {
        **presets.HANDS,
        'data.better_copies': ('rsna_half',),
        'data.holdout_ids': 'hands_holdout.txt',
        'data.stages': ('points',),
        'data.stage_options.points.files': ('annotations/rsna_three_keypoints.csv',),
        'task.tips': 'skin',
        'data.validation': 200,
        'augment.rotation': 180.0,
        'epochs': 20,
        'precise_bn_batches': 30,
    },
    'tiny': {
        **presets.tiny((48, 40), drawn=(64, 56)),
        'model.width': 4,
        'model.depth': 2,
        'model.hidden_units': 16,
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """The paper's regression beside heat maps; the paper prints no figure."""
    yield c.Row('regression', {})
    yield c.Row('heatmaps', {'model.head': 'heatmaps', 'model.width': 16, 'precise_bn_batches': 30})
