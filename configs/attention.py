"""Transfer learning and attention mapping: a head on a frozen trunk (Castillo, Tong, Zhao, Zhu 2018).

    python -m boneage_jax.main --config=configs/attention.py:row=both-attention,init_from=vgg16.safetensors --workdir=runs/a
    python -m boneage_jax.sweep --config=configs/attention.py:init_from=hf:timm/vgg16.tv_in1k --workdir=runs/attention
    python -m boneage_jax.sweep --config=configs/attention.py:rsna100,trunk_from.age=RUN --workdir=runs/attention100
    python -m boneage_jax.interpret --workdir=runs/a --output=inside                       # figure 10 for more films

Model 1 ('fc'): VGG16 (ImageNet, frozen), batch normalisation, pool, two dense layers: 1,576,961 trainable parameters at
256x256, 30 epochs. Model 2 ('attention'): a gate on the map, 565,058 at 500x500, 50 epochs. Squared error on raw months,
Adam, the rate times 0.8 on plateaus, one network for boys, girls and both (no sex input). The paper prints MAE, in months,
on 20% of the training films, on which it selects too: here half of them selects, the other half is reported. Rate, batch,
patience of the plateau and the trunk's normalisation for weights of ours are ours. Not measured with ImageNet weights;
with trunks of ours in docs/results.md.

`:rsna100` puts nets of our own, trained on the 100 px films, in VGG16's place: the rows of the paper on the trunk of an age
net, `trunk_from.age` (a run of configs/prsnet.py:rsna100,row=baseline, or of another net with a `trunk` of model.backbone),
and rows of ours on the encoder of a segmenter, `trunk_from.unet` (a run of configs/unet.py:rsna100), on a trunk as drawn,
and trained from scratch. Nothing is augmented, so features are computed once; a row takes some minutes on two cores, the
scratch rows up to an hour. (`trunk_from` belongs behind the colon: `--config.trunk_from.age=` comes too late.)
`:phantom` trains from scratch and needs no data.
"""

from boneage_jax.errors import ConfigError
from boneage_jax import config as c

BASE = c.base()
BASE['data'].update(size=(500, 500), fit='pad', stages=('mask', 'crop'), validation=1261, holdout=1261,
                    official_splits=False)
BASE['model'] = dict(
    name='transfer',
    backbone='vgg16',  # any of boneage_jax.models.TRUNKS
    head='attention',  # 'attention' (Model 2) | 'fc' (Model 1)
    size=(500, 500),  # as data.size
    level=-1,  # which map of the trunk the head reads, -1 = the last
    width=0,  # channels of the trunk's first stage, 0 = its own
    depth=0,  # blocks a stage, 0 = its own
    stem='imagenet',  # 'small': less stride
    channels=3,  # the film repeated; 1 for trunks trained on films
    standardise='imagenet',  # the loaded weights' own | 'film': each film to mean 0, deviation 1 | 'fixed'
    units=1024,  # of the dense layers
    sex=False,  # True (ours): the dense layers read the sex
)
BASE['task'].update(name='age', loss='l2', normalisation='months')
BASE['optimizer'].update(name='adam', learning_rate=1e-3, schedule='plateau', step_factor=0.8, plateau_patience=3)
BASE['augment'].update(flip=0.5, rotation=5.0, shift=0.15, scale=0.25, fill='nearest',
                       shear=0.573)  # degrees: 0.01 radian, Keras' unit at that time
BASE.update(batch_size=32, epochs=50, frozen=('trunk',), init_parts=('trunk',), features='float16')
BASE['trunk'] = 'named'  # 'named': what init_from names | 'age', 'unet': the run of trunk_from | 'fresh': as drawn, frozen |
                         # 'scratch': as drawn, trained
BASE['trunk_from'] = dict(age='', unet='')  # workdirs, or exports, of finished runs

OWN = {'model.channels': 1, 'model.standardise': 'film', 'data.stages': ()}
STILL = {f'augment.{name}': 0.0 for name in ('flip', 'rotation', 'shift', 'scale', 'shear')}
PRESETS = {
    'rsna100': {
        **OWN, **STILL, 'data.folder': 'rsna100', 'data.fit': 'squash', 'data.size': (100, 100), 'model.size': (100, 100),
        'data.validation': 1000, 'data.holdout': 1000, 'data.placement': 'device',
        'model.backbone': 'resnet18', 'model.width': 32, 'trunk': 'age',
    },
    'augmented': {'augment.flip': 0.5, 'augment.rotation': 5.0, 'augment.shift': 0.15, 'augment.scale': 0.25,
                  'augment.shear': 0.573},  # brings the paper's back, as in :rsna100,augmented: the trunk then runs each step
    'phantom': {
        **OWN, **STILL, 'data.source': 'hand_phantom', 'data.phantom.count': 3000, 'data.phantom.size': (96, 96),
        'data.size': (96, 96), 'model.size': (96, 96), 'data.validation': 300, 'data.holdout': 300,
        'data.placement': 'device', 'model.backbone': 'resnet18', 'model.width': 32, 'trunk': 'scratch', 'epochs': 12,
        'statistics_batches': 30,
    },
    'tiny': {
        **OWN, **STILL, 'data.source': 'hand_phantom', 'data.phantom.count': 32, 'data.phantom.size': (64, 64),
        'data.size': (64, 64), 'model.size': (64, 64), 'data.validation': 8, 'data.holdout': 8,
        'model.backbone': 'resnet18', 'model.width': 4, 'model.depth': 1, 'model.units': 8, 'trunk': 'fresh',
        'batch_size': 4, 'epochs': 2, 'log_every': 1,
    },
}


def get_config(arg=None):
    """`trunk` decides what the trunk starts from and whether it is trained; rows name it, runs are named once."""
    config = c.build(BASE, arg, PRESETS, sweep()).unlock()
    if config.trunk in ('fresh', 'scratch'):
        config.init_from, config.init_parts = 'fresh', ()
        if config.trunk == 'scratch':
            config.frozen, config.features = (), 'off'
    elif config.trunk in config.trunk_from:
        config.init_from = config.trunk_from[config.trunk]
        if config.trunk == 'unet':
            config.init_parts = ('trunk/down=down',)
    elif config.trunk != 'named':
        raise ConfigError(f"trunk={config.trunk!r}: expected one of named, fresh, scratch, {', '.join(config.trunk_from)}")
    return config.lock()


def sweep():
    """Table 1 of the paper, months on the 20% that it validates on. The other rows are ours, for `:rsna100`, each with
    both heads: a trunk as drawn and frozen, the same trained from scratch, a segmenter's encoder, and the age net's map
    before the last (7x7 places of a 100 px film, not 4x4)."""
    heads = {'fc': {'model.head': 'fc', 'epochs': 30}, 'attention': {'model.head': 'attention', 'epochs': 50}}
    paper = {'male': (15.21, 9.82), 'female': (16.15, 10.78), 'both': (16.88, 11.45)}
    for sex, months in paper.items():
        for head, value in zip(heads, months):
            yield c.Row(f'{sex}-{head}', {**heads[head], 'data.sex': sex}, value, f'{sex}-fc')
    unet = {'trunk': 'unet', 'model.backbone': 'unet', 'model.width': 8, 'model.depth': 4}
    ours = {'fresh': {'trunk': 'fresh'}, 'scratch': {'trunk': 'scratch'}, 'unet': unet, 'finer': {'model.level': -2}}
    for name, change in ours.items():
        for head, of_head in heads.items():
            yield c.Row(f'{name}-{head}', {**of_head, **change}, reference=f'both-{head}')
