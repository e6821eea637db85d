"""Classical baselines of Castillo, Tong, Zhao, Zhu (2018): principal components of the pixels, then linear regression.

    python -m boneage_jax.main --config=configs/classical.py:rsna100 --workdir=runs/classical

One regression per sex on the flattened film (the paper: 128x128 pixels); the number of components is chosen on the
validation split. The paper prints a validation MAE of 30 (boys) and 29 (girls) months: the floor that every network
has to leave far behind. Minutes on two cores; docs/results.md has our figures.
"""

from boneage_jax import config as c

BASE = c.base()
BASE['trainer'] = 'classical'
BASE['data'].update(size=(128, 128), fit='squash')
BASE['model'] = dict(name='pca_linear', components=(25, 50, 100, 200, 400))

PRESETS = {
    'rsna100': {'data.folder': 'rsna100', 'data.size': (100, 100)},
    'phantom': {'data.source': 'hand_phantom', 'data.phantom.count': 3000, 'data.phantom.size': (96, 96),
                'data.size': (96, 96), 'data.validation': 300, 'data.holdout': 300},
    'tiny': {'data.source': 'hand_phantom', 'data.phantom.count': 32, 'data.phantom.size': (64, 64),
             'data.size': (64, 64), 'data.validation': 8, 'data.holdout': 8, 'model.components': (1, 2, 3)},
}


def get_config(arg=None):
    return c.build(BASE, arg, PRESETS, sweep())


def sweep():
    """The paper gives one figure for each sex (30 and 29 months), none for both together."""
    yield c.Row('linear', {})
