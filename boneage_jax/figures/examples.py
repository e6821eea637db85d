"""A trained network on a few images of a split, evenly spaced by age: what it makes of them, for
figures.
"""

import numpy as np

from boneage_jax import figures


def predict_examples(predictor, examples, count):
    """(images uint8 `[N, H, W, 1]`, captions, aux) of at most `count` images of the split `images`,
    the youngest first.
    """
    chosen = np.argsort(examples.months, kind='stable')[
        np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
    ]
    images = examples.arrays(chosen)['image']
    prediction, aux = predictor(images, examples.male[chosen])
    months = np.asarray(predictor.task.months(prediction))
    return (
        images,
        [
            f'{examples.ids[i]} {"M" if examples.male[i] else "F"}\n{examples.months[i]:.0f} mo, predicted {m:.0f}'
            for i, m in zip(chosen, months)
        ],
        aux,
    )


def draw_attention(images, captions, aux, path):
    """Castillo 2018, figure 10, from what `at` gave of a network with attention; -> path."""
    multiplied = np.abs(aux['masked']).mean(
        -1
    )  # over channels, which batch normalisation centres: a plain mean is noise
    return figures.attention(
        images, aux['attention'], multiplied, aux['map_box'][0], captions, path
    )
