"""The one table of preprocessing stages: functions, options with their defaults, and properties.

Pure data. The configuration takes `data.stage_options` from here and refuses names that are not
here; `plan` imports the functions, which are named as text, where they run. So reading this table
loads no JAX into worker processes.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from boneage_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Stage:
    """A named step of preprocessing.

    A stage either changes the image (`transform`) or finds something on it (`annotate`, or the pair
    `network_input` and `network_output` where a trained network finds it). What it found, its
    annotations, is a dict of arrays and texts that join the image: `hand_mask` at any scale (it is
    enlarged to the image), `keypoints` in the image's pixels, `flags`, `inverted` (the image is to
    be turned).

    Attributes:
        transform: 'module:function' of `(example, **options) -> example`, or None for an image that
            is left out. Cheap: done anew whenever the image is needed.
        annotate: 'module:function' of `(example, **options) -> annotations`. Costly: done once for
            each image and stored.
        network_input: 'module:function' of `(example, **options) -> what the network sees`.
        network_output: 'module:function' of `(predictor, inputs, **options) -> [annotations]`.
        version: raise it when a change alters what comes out.
        options: names of the options with their defaults. An option `run` says where the trained
            network is that the stage predicts with: a run's workdir, a file of `boneage export`, or
            the name of a shipped network; `files` are paths of the user's files.
        files: what the option `files` names, in words; '' where there is none.
        takes_folders: whether `files` may be folders too.
        data_options: options that are keys of `config.data` themselves, `{option: key}`.
        moves_pixels: whether the image's pixels are no longer the source's behind this stage, so
            that points annotated on the source's image do not fit it. A stretch of the whole image
            does not count: annotations follow it.
        unseen_by_networks: whether a network sees the same image, but for its size, with and
            without this stage before it.
        shipped: the name of the shipped network that it predicts with where `run` is ''; '' where
            none is shipped for it.
        kind: what its network must predict, one of `tasks.KINDS`.
    """

    transform: str = ''
    annotate: str = ''
    network_input: str = ''
    network_output: str = ''
    version: int = 1
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: str = ''
    takes_folders: bool = False
    data_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    moves_pixels: bool = False
    unseen_by_networks: bool = False
    shipped: str = ''
    kind: str = ''


_HERE = 'boneage_jax.stages'

STAGES = {
    # A hand mask by Sobel and watershed (Castillo 2018).
    'mask': Stage(
        annotate=f'{_HERE}.hand_mask:watershed_mask',
        # on_doubt: 'flag' | 'whole' | 'error'; positive: turn images whose hand is dark
        options={'on_doubt': 'flag', 'positive': True},
    ),
    # A hand mask by a network of configs/unet.py; run='': the shipped one.
    'unet': Stage(
        network_input=f'{_HERE}.networks:look',
        network_output=f'{_HERE}.networks:masks',
        version=5,
        options={'run': '', 'threshold': 0.5},
        unseen_by_networks=True,
        shipped='hand_mask',
        kind='segmentation',
    ),
    # The mask found before, brought to the skin by a watershed.
    'snap': Stage(
        annotate=f'{_HERE}.hand_mask:snapped_mask',
        # shares of the longer side: how far the mask may move in and out
        options={'inner': 0.005, 'outer': 0.012},
        unseen_by_networks=True,
    ),
    # Cut to the box of the mask.
    'crop': Stage(
        transform=f'{_HERE}.appearance:crop',
        options={'margin': 0.02, 'mask': True},
        moves_pixels=True,
    ),
    # Percentiles of the greys inside the mask (Iglovikov 2018).
    'contrast': Stage(
        transform=f'{_HERE}.appearance:contrast',
        options={'low': 1.0, 'high': 99.0, 'bottom': 11.0, 'top': 245.0, 'background': 0},
    ),
    # Key points from annotation files; images without are left out.
    'points': Stage(
        transform=f'{_HERE}.annotations:points_stage',
        # files: COCO JSON, three-point or landmark CSV, here or below $BONEAGE_DATA; of an image
        # in several the first counts. origins: of the three-point table's rows only those, as
        # ('clicked_by_hand',); empty: all.
        options={'files': (), 'origins': ()},
        files='the COCO JSON or CSV files of annotated hands',
        unseen_by_networks=True,
    ),
    # Hand masks that people drew; images without are left out.
    'outlines': Stage(
        transform=f'{_HERE}.annotations:outlines_stage',
        # files: folders of mask images or of labelme or Supervisely JSON, or COCO JSON files, here
        # or below $BONEAGE_DATA; of an image in several the first counts
        options={'files': ()},
        files='the folders or COCO JSON files of drawn hand masks',
        takes_folders=True,
        unseen_by_networks=True,
    ),
    # Key points by a network of configs/keypoints.py; run='': the shipped one.
    'keypoints': Stage(
        network_input=f'{_HERE}.networks:look',
        network_output=f'{_HERE}.networks:points',
        version=3,
        # least: peak below which a point was not found. Of 133 whole hands the lowest was 0.033;
        # of 24 hands cut in half 14 are below.
        # tips: 'bone' moves those of a network that learnt them at the skin; 'found' leaves them.
        options={'run': '', 'least': 0.03, 'tips': 'bone'},
        unseen_by_networks=True,
        shipped='hand_points',
        kind='keypoints',
    ),
    # Such a network sees the registered hand again, so many times.
    'refine': Stage(
        network_input=f'{_HERE}.networks:look_again',
        network_output=f'{_HERE}.networks:points_again',
        options={'run': '', 'views': 6, 'tips': 'bone'},
        unseen_by_networks=True,
        shipped='hand_points',
        kind='keypoints',
    ),
    # Fingertip and capitate by a network of configs/transformation.py; none is shipped.
    'align': Stage(
        network_input=f'{_HERE}.networks:look',
        network_output=f'{_HERE}.networks:aligned',
        options={'run': ''},
        unseen_by_networks=True,
        kind='similarity',
    ),
    # Upright, thumb to the right (Iglovikov 2018).
    'register': Stage(
        transform=f'{_HERE}.registration:register',
        options={'size': (2080, 1600)},
        moves_pixels=True,
    ),
    # Stretched to rows = ratio x columns, where images lost their aspect.
    'aspect': Stage(
        transform=f'{_HERE}.appearance:aspect',
        options={'ratio': 1.0},
        unseen_by_networks=True,
    ),
    # A region of the registered hand, one resampling from the image.
    'region': Stage(
        transform=f'{_HERE}.registration:region',
        # 'A' | 'B' | 'C' | 'bones', or 'image': as it is, not registered
        options={'region': 'A'},
        moves_pixels=True,
    ),
    # Six filters in the order of Hamrouni 2023; after 'resize', as in the paper.
    'enhance': Stage(
        transform=f'{_HERE}.appearance:enhance',
        options={
            'bilateral': True,
            'bilateral_radius': 2,
            'bilateral_colour': 20.0,
            'bilateral_spatial': 1.5,
            'brightness': 1.1,
            'contrast': 1.2,
            'normalise': True,
            'normalise_low': 0.5,
            'normalise_high': 99.5,
            'blur': 0.5,
            'equalise': True,
            'equalise_tiles': 8,
            'equalise_clip': 0.01,
        },
    ),
    # To data.size; implied at the end where it is not named.
    'resize': Stage(
        transform=f'{_HERE}.appearance:resize',
        data_options={'size': 'size', 'fit': 'resize'},
        moves_pixels=True,
        unseen_by_networks=True,
    ),
}


def default_options() -> dict[str, dict[str, Any]]:
    """Every stage's options with their defaults: `data.stage_options` of the base configuration."""
    return {name: dict(stage.options) for name, stage in STAGES.items() if stage.options}


def check_names(names: Iterable[str]) -> None:
    """Refuses stages that are not in the table with a ConfigError that lists the known ones."""
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ConfigError(f'data.stages: unknown {", ".join(unknown)}; known: {", ".join(STAGES)}')
