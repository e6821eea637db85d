r"""The transformation network turns, zooms and centres a hand (Bae, Bae, Jung 2018, section 2.1).

    boneage main --config=configs/transformation.py --workdir=runs/transformation  # 299 px phantoms
    boneage main --config=configs/transformation.py:rsna100 --workdir=runs/align100 \
        --config.data.extra_train_folders=FOLDER

It regresses the similarity onto the registered image of Iglovikov 2018 as five numbers (log-scale,
cos, sin, dx, dy), which key points give. Input stage `align` takes it:
`data.stages=(align,register)` in an age config, with
`data.stage_options.align.run=runs/transformation`; it moves fingertip and capitate where they
belong and mirrors nothing. The paper gives no more than "Inception-V3" and prints no error: sizes,
recipe and augmentation are ours. Inception-V3 is not measured yet; `:rsna100` misses by 5.5% of the
hand's length after 8 minutes (docs/results.md), key points by 1.4%. `:rsna100` trains ResNet-18 on
the annotated RSNA images (`data.stage_options.points.files`) for two CPU cores;
`extra_train_folders=FOLDER` adds phantoms of 100x100 to them: `python -m boneage_jax.prepare
--config=configs/transformation.py:phantom` prints their folder.
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['data'].update(
    source='hand_phantom',
    size=(299, 299),
    resize='pad',
    validation=300,
    holdout=300,
    placement='device',
)
BASE['data']['phantom'].update(count=4000, size=(299, 299))
BASE['model'] = dict(
    name='embedding',
    outputs=5,
    backbone='inception_v3',  # any of boneage_jax.models.BACKBONES
    width=0,  # channels of the backbone's first stage, 0 = its own
    depth=0,  # blocks a stage, 0 = its own
    stem='imagenet',
    standardise='image',
    hidden_units=(),
    dropout=0.0,
)
BASE['task'] = dict(
    name='similarity',
    loss='l2',  # 'l1' | 'l2', on the five numbers
)
BASE['optimizer'].update(name='adamw', learning_rate=1e-3, weight_decay=0.01, schedule='one_cycle')
BASE['augment'].update(
    flip=0.5, rotation=45.0, shift=0.1, scale=0.25, gamma=0.5, brightness=0.1, contrast=0.3
)
BASE.update(batch_size=32, epochs=30, precise_bn_batches=30)

SMALL = {'model.backbone': 'resnet18', 'model.width': 32}
PRESETS = {
    'rsna100': {
        **presets.RSNA100,
        **SMALL,
        'data.source': 'rsna_bone_age',
        'data.stages': ('points',),
        'data.stage_options.points.files': (
            'annotations/rsna_hand_keypoints_train.json',
            'annotations/rsna_hand_keypoints_val.json',
        ),
        'data.validation': 100,
        'data.holdout': 100,
        'epochs': 100,
    },
    'phantom': {**presets.phantom((100, 100)), **SMALL, 'epochs': 12},
    'tiny': {
        **presets.tiny((40, 40)),
        'model.backbone': 'resnet18',
        'model.width': 4,
        'model.depth': 1,
        'precise_bn_batches': 0,
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """No rows: the paper prints no figure for its transformations."""
    return []
