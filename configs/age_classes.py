r"""Age classes: a CNN, EfficientNet-B0, Inception and ResNet on 3, 5, 10 classes (Hamrouni 2023).

    boneage main --config=configs/age_classes.py:row=resnet-3 --workdir=runs/classes
    boneage main --config=configs/age_classes.py:row=resnet-3 --config.model.use_sex=true \
        --workdir=runs/sex
    boneage sweep --config=configs/age_classes.py:rsna100 --workdir=runs/classes
    boneage compare_classes --without=runs/resnet_3 --with_sex=runs/sex --output=runs/gain_3

The paper prints *validation* accuracies (at best 84.36 / 72.3 / 55.9% on 3 / 5 / 10 classes).
Validation selects here, so ours are of holdout or test. Ages are cut into classes of equal width
between the youngest and the oldest training image. Adam 1e-3, batch 64 and early stopping on the
validation loss are the paper's. Image size, patience, augmentation, the CNN and the sex branch are
ours; Inception is V3 and ResNet has 34 layers. The paper fine-tunes ImageNet's weights:
`init_from=hf:timm/resnet34.a1_in1k,init_map=backbone` (docs/guide.md, Weights).

`:rsna100` changes the recipe for two CPU cores: networks of half width, AdamW, one cycle of 15
epochs, no enhancement (`stages=(resize,enhance)` brings it back). A backbone trained on ages is a
better start. The rows of ours, ResNet-18 with and without the sex, take one from a run of
`configs/prsnet.py:rsna100,row=baseline`:

    boneage sweep --config=configs/age_classes.py:rsna100,finetune,init_from=RUN \
        --rows=resnet18-3,resnet18-3-sex,resnet18-5,resnet18-5-sex,resnet18-10,resnet18-10-sex \
        --workdir=runs/finetuned
"""

from boneage_jax import config as c
from boneage_jax import presets

METRIC = 'accuracy'

BASE = c.base()
BASE['data'].update(size=(224, 224), resize='pad', stages=('resize', 'enhance'))
BASE['model'] = dict(
    name='age_classifier',
    backbone='resnet34',  # 'custom' or a name of boneage_jax.models.BACKBONES
    use_sex=False,  # True: a branch beside the image reads the sex
    width_factor=1.0,  # times the network's own channels
    depth=0,  # blocks a stage, 0 = the network's own
    stem='imagenet',  # 'small': less stride, for small images
    standardise='image',  # 'image': each image to mean 0, deviation 1; 'fixed': (x - 0.5) / 0.25
    dropout=0.2,
    activation='relu',  # of the custom CNN: 'relu' | 'elu'
    regulariser='norm',  # of the custom CNN: 'norm' (batch normalisation) | 'dropout'
)
BASE['task'] = dict(
    name='age_classes',
    classes=3,
    # 'balanced': each class has the same say in the loss, however few its images
    class_weights='none',
)
BASE['optimizer'].update(name='adam', learning_rate=1e-3)
BASE['augment'].update(flip=0.5, rotation=10.0, shift=0.05, scale=0.1)
BASE.update(batch_size=64, epochs=100, patience=10)

CPU_RECIPE = {
    **presets.CPU,
    'model.width_factor': 0.5,
    'data.stages': (),
    'patience': 0,  # one cycle is best at its end
}
PRESETS = {
    'rsna100': {
        **presets.RSNA100,
        **CPU_RECIPE,
        'epochs': 15,
        'augment.rotation': 15.0,
        'augment.shift': 0.1,
        'augment.gamma': 0.2,
    },
    'finetune': {  # with init_from=RUN
        'init_map': {'backbone': 'backbone'},
        'epochs': 3,
        'optimizer.learning_rate': 1e-3,
    },
    'phantom': {**presets.phantom((96, 96)), **CPU_RECIPE, 'epochs': 12},
    'tiny': {
        **presets.tiny((64, 64)),
        'model.width_factor': 0.125,
        'model.depth': 1,
        'precise_bn_batches': 2,
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """The paper's validation accuracies, as shares; 3 classes first. The rows of ResNet-18 are
    ours: without and with the sex.
    """
    paper = {
        'custom': ('custom', 76.1, 65.3, 51.2),
        'efficientnet': ('efficientnet_b0', 82.3, 71.25, 55.9),
        'inception': ('inception_v3', 83.6, 70.63, 54.87),
        'resnet': ('resnet34', 84.36, 72.3, 54.63),
    }
    for place, classes in enumerate((3, 5, 10)):
        shared = {'task.classes': classes}
        for name, (backbone, *percent) in paper.items():
            yield c.Row(
                f'{name}-{classes}',
                {**shared, 'model.backbone': backbone},
                percent[place] / 100,
                f'custom-{classes}',
            )
        ours = {**shared, 'model.backbone': 'resnet18'}
        yield c.Row(f'resnet18-{classes}', ours)
        yield c.Row(
            f'resnet18-{classes}-sex',
            {**ours, 'model.use_sex': True},
            reference=f'resnet18-{classes}',
        )
