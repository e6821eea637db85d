r"""Regional age networks: regression and the expectation over 240 months (Iglovikov 2018).

    boneage main --config=configs/regions.py:classical,row=regression-both-A --workdir=runs/region_a
    boneage sweep --config=configs/regions.py --workdir=runs/regions
    boneage sweep --config=configs/regions.py:rsna100 --workdir=runs/regions100 \
        --rows=original,segmented,regression-both-A,classification-both-A
    boneage regional_table --config=configs/regions.py:rsna100 --workdir=runs/regions100
    boneage sweep --config=configs/regions.py:rsna100,hands --workdir=runs/hands --seeds=3 \
        --rows=original,restored,segmented,regression-both-A --config.epochs=10

Hands and key points are found by the networks that come with the code (docs/model_card.md). The
second sweep is for images of 100 pixels and two cores, the next command draws Figs. 5 and 6. The
last one is the preprocessing ablation on images of 100 pixels whose aspect is restored, with these
networks.

The rows of `sweep()` are {regression, classification} x {male, female, both} x region {A hand, B
carpus, C metacarpals and proximal phalanges}: 18 networks. The paper shows 15, none of
classification for both sexes. Three more rows make the preprocessing ablation ('original',
'segmented'; its third, registered, is 'regression-both-A'; 'restored', ours, is the original with
its aspect given back where that was lost). The paper prints validation MAE in
months of 1,000 images: `PAPER`, and 31.56 / 8.76 / 8.08 for the ablation; 4.97 on the 200 test
images. Adam 2e-5, betas .5 and .999, batch 8, 50 epochs; pixels (x - 127.5) / 127.5, ages (months
- 120) / 120. The second convolution, the dense layers and the augmentation are those of the second
author's released code; `second=3x3` is the usual VGG block. `:classical` finds masks by Sobel
filter and watershed and registers by them, so no trained network is needed. Not measured yet.

`:rsna100` takes images of 100x100, stretched to the usual aspect (it was lost; 534 annotated images
have 1.26 or 1.35), masked, registered and cut, a quarter of the paper's pixels a side. Four blocks
of small width end in the same 6x4 map. AdamW with one cycle to 1e-3 replaces the paper's recipe;
classification takes 1e-4, because at higher rates it predicts the median age of every image and
stays there. `:rsna100,networks` registers by key points and masks by a
U-Net (minutes for 12,000 images). Without it Sobel and watershed mask, the masks register (an
hour), and of a doubtful mask (6 of 300 images) the whole image is taken. The ablation and region A
mean something there. Regions B and C do not: one pixel of such an image is 10 to 20 native ones, so
the carpus is about 30 pixels wide and a growth plate one or two.
"""

from boneage_jax import config as c
from boneage_jax import presets

REGIONS = {'A': (500, 375), 'B': (375, 375), 'C': (300, 700)}  # rows, columns of what the net sees
FORMS = {
    'regression': {'model.outputs': 1, 'task.name': 'age'},
    'classification': {'model.outputs': 240, 'task.name': 'age_expectation'},
}
SEXES = ('male', 'female', 'both')

# Fig. 5 and the authors' own article, MAE in months on 1,000 images: (form, sex, region), 'all' for
# a mean over them.
PAPER = {
    ('regression', 'both', 'A'): 8.08,
    ('regression', 'both', 'C'): 8.42,
    ('regression', 'both', 'all'): 7.52,
    ('regression', 'female', 'A'): 7.12,
    ('regression', 'female', 'C'): 6.79,
    ('regression', 'male', 'all'): 6.30,
    ('regression', 'female', 'all'): 6.49,
    ('classification', 'male', 'all'): 6.16,
    ('classification', 'female', 'all'): 6.39,
    ('all', 'all', 'all'): 6.10,
}
TEST = 4.97  # of the challenge's 200 test images

BASE = c.base()
# The paper normalises contrast before it finds key points; the network that comes with the code
# learnt points on images as they came.
BASE['data'].update(size=(500, 375), stages=('unet', 'keypoints', 'contrast', 'region'))
BASE['model'] = dict(
    name='regional',
    widths=(
        32,
        64,
        128,
        128,
        256,
        384,
    ),  # channels of each block; six need 127 pixels a side, four 31
    second='1x1',  # a block's second convolution: '1x1' (released code) | '3x3'
    hidden_units=2048,
    dropout=0.3,
    outputs=1,  # 1: a number | 240: a class a month
    standardise='range',  # 'range': (x - 127.5) / 127.5 | 'image' | 'fixed'
)
BASE['task'].update(name='age', loss='l1', normalisation='unit')
BASE['optimizer'].update(name='adam', learning_rate=2e-5, momentum=0.5, b2=0.999)
BASE['augment'].update(rotation=5.0, shift=0.05, scale=0.05, gamma=0.25)  # gamma 0.8 to 1.25
BASE.update(batch_size=8, epochs=50)

CPU_RECIPE = {
    **presets.CPU,
    'model.widths': (16, 32, 64, 128),
    'model.hidden_units': 256,
    'optimizer.learning_rate': 1e-3,
    'optimizer.momentum': 0.9,
    'epochs': 20,
}
PRESETS = {
    'classical': {'data.stages': ('mask', 'contrast', 'region')},
    'rsna100': {
        **presets.RSNA100,
        **CPU_RECIPE,
        'data.size': (125, 94),
        'data.stages': ('aspect', 'mask', 'contrast', 'region'),
        'data.stage_options.aspect.ratio': 1.33,
        'data.stage_options.mask.on_doubt': 'whole',
    },
    'networks': {  # as in :rsna100,networks
        'data.stages': ('aspect', 'keypoints', 'unet', 'contrast', 'region'),
        'data.stage_options.unet.threshold': 0.3,
    },
    'hands': {  # as in :rsna100,hands
        **presets.HANDS,
        'data.stages': ('unet', 'keypoints', 'contrast', 'region'),
    },
    'half': {  # half the paper's pixels a side; with init_from=RUN of :half,others
        **presets.RSNA_HALF,
        **CPU_RECIPE,
        'data.size': (250, 188),
        'data.stages': ('unet', 'keypoints', 'contrast', 'region'),
        'model.widths': (16, 32, 64, 128, 128),
        'init_map': {'blocks': 'blocks'},
        'epochs': 8,
        'eval_every_epochs': 8,  # nothing is selected: the last parameters predict the fold
    },
    'others': {**presets.OTHERS, 'epochs': 12},  # as in :half,others
    'phantom': {
        **presets.phantom((125, 94)),
        **CPU_RECIPE,
        'data.stages': ('contrast', 'region'),
        'epochs': 12,
    },
    'tiny': {
        **presets.tiny((63, 47), drawn=(64, 48), count=48, held_out=12),
        'model.widths': (4, 8, 8),
        'model.hidden_units': 16,
        'data.stages': ('region',),
        'epochs': 1,
    },
}
# The sizes of REGIONS are divided by this in a preset.
SCALES = {'rsna100': 4, 'half': 2, 'phantom': 4, 'tiny': 8}


def get_config(arg=None):
    named = [token.strip() for token in (arg or '').split(',')]
    scales = [SCALES[name] for name in named if name in SCALES]
    return c.build(BASE, arg, PRESETS, sweep(max(scales, default=1)))


def cell(form, sex, region):
    """The row's name of one net of the grid."""
    return f'{form}-{sex}-{region}'


def sweep(scale=1):
    """Fig. 5 and section 3, validation MAE in months (its validation is a draw of 1,000 training
    images, as our holdout is); paper values of single nets are known for some cells only.
    """
    for form, switches in FORMS.items():
        if form == 'classification' and scale > 1:
            switches = {**switches, 'optimizer.learning_rate': 1e-4}
        for sex in SEXES:
            for region, size in REGIONS.items():
                size = tuple(-(-side // scale) for side in size)
                yield c.Row(
                    cell(form, sex, region),
                    {
                        **switches,
                        'data.sex': sex,
                        'data.stage_options.region.region': region,
                        'data.size': size,
                    },
                    PAPER.get((form, sex, region)),
                    cell('regression', sex, region),
                )
    squashed = {'data.native_sizes': '', 'data.better_copies': ()}
    reference = cell('regression', 'both', 'A')
    yield c.Row('original', {'data.stages': (), **squashed}, 31.56, reference)
    yield c.Row('restored', {'data.stages': ()}, None, reference)  # its aspect (ours)
    yield c.Row(
        'segmented',
        {'data.stage_options.region.region': 'image'},
        8.76,
        reference,
    )
