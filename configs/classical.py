"""Classical baselines: principal components of the pixels, then a regression (Castillo 2018).

    boneage main --config=configs/classical.py:rsna100 --workdir=runs/classical  # linear
    boneage sweep --config=configs/classical.py:rsna100,thirds --workdir=runs/classical_thirds

One model per sex on the flattened image (the paper: hands extracted, 128x128 pixels); the number of
components is chosen on the validation split. The paper prints MAE, in months, on a third of the
images: linear regression 30 (boys) and 29 (girls), logistic regression over 200 one-month classes
36 and 33. The logistic one gives the likeliest class, as the paper's; `model.predicts=expectation`
the mean of the classes, and either way both errors are in metrics.json. Ages above 200 months
count as 200 in training. `:thirds` holds out a third of `rsna100`'s images, as the paper does; an
eighth of the other two thirds chooses the number of components.
"""

from boneage_jax import config as c
from boneage_jax import presets

BASE = c.base()
BASE['trainer'] = 'classical'
BASE['data'].update(size=(128, 128), resize='stretch', stages=('mask', 'crop'))
BASE['model'] = dict(
    name='pca_linear',  # 'pca_linear' | 'pca_logistic'
    components=(25, 50, 100, 200, 400),  # the numbers tried
    # pca_logistic: 'argmax' | 'expectation'; that is also what chooses the components
    predicts='argmax',
    inverse_penalty=1.0,  # pca_logistic: C of scikit-learn (ours: the paper gives none)
)

PRESETS = {
    'rsna100': {'data.folder': 'rsna100', 'data.size': (100, 100), 'data.stages': ()},
    'thirds': {'data.validation': 1000, 'data.holdout': 4000, 'data.official_splits': False},
    'phantom': {**presets.phantom((96, 96)), 'data.stages': ()},
    'tiny': {
        **presets.phantom((64, 64), count=32, held_out=8),
        'data.stages': (),
        'model.components': (1, 2, 3),
    },
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """Table 1 of the paper, months on its held-out third of each sex; it gives none for both
    together. The two rows 'expectation' are ours.
    """
    logistic = {'model.name': 'pca_logistic'}
    for sex, linear, classes in (('male', 30.0, 36.0), ('female', 29.0, 33.0)):
        yield c.Row(f'{sex} linear', {'data.sex': sex}, linear)
        yield c.Row(f'{sex} logistic', {**logistic, 'data.sex': sex}, classes, f'{sex} linear')
        yield c.Row(
            f'{sex} expectation',
            {**logistic, 'data.sex': sex, 'model.predicts': 'expectation'},
            reference=f'{sex} linear',
        )
