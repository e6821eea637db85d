"""A trained network on a few images of a split, evenly spaced by age: the material of figures."""

from __future__ import annotations

import numpy as np

from boneage_jax.data.source import Split


def predict_examples(predictor, examples: Split, count: int) -> tuple[np.ndarray, list[str], dict]:
    """Runs at most `count` images of a split through a network, the youngest first.

    Args:
        predictor: a `runs.predictor.Predictor`.
        examples: the split.
        count: the most images to take; they are evenly spaced in the order of age.

    Returns:
        The images [N, H, W, 1] uint8, a caption for each with its true and its predicted age, and
        the network's auxiliary outputs.
    """
    by_age = np.argsort(examples.months, kind='stable')
    places = np.linspace(0, len(examples) - 1, min(count, len(examples)))
    chosen = by_age[places.astype(int)]
    images = examples.arrays(chosen)['image']
    prediction, aux = predictor(images, examples.male[chosen])
    captions = []
    for i, predicted in zip(chosen, np.asarray(predictor.task.months(prediction))):
        sex = 'M' if examples.male[i] else 'F'
        captions.append(
            f'{examples.ids[i]} {sex}\n{examples.months[i]:.0f} mo, predicted {predicted:.0f}'
        )
    return images, captions, aux
