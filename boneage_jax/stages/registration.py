"""Registration and regions as stages: how a film was registered becomes a flag, the one text that records keep."""

from boneage_jax.stages import plan
from boneage_jax.preprocess import regions
from boneage_jax.preprocess import register as register_lib


def register(film, *, size):
    return _flagged(film, register_lib.register_stage(film, size=tuple(size)))


def region(film, *, region):
    """`region` 'film' leaves the film as it lies: what the paper compares registration with (its section 3)."""
    if region == 'film':
        return film
    return _flagged(film, regions.region_stage(film, region=region))


def _flagged(before, film):
    """How the film was registered as a flag, where it was not by its key points; records keep no other text."""
    how = film.pop('registered')
    film.pop('doubts', None)
    film.pop('transform', None)
    return film | {'flags': plan.join_flags(before, '' if how == 'keypoints' else f'registered_by_{how}')}
