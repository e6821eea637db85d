"""What the presets of several configs share; a config adds what its own network needs.

By convention `phantom` is a first run within minutes that needs no data, `tiny` is for tests,
`rsna100` is RSNA's images at 100x100 pixels on two CPU cores, `hands` the same with their aspect
restored, `half` fewer of them at half their native size, in folds, and `finetune` goes on from
another run, `init_from=RUN`. So does `half`; `others` trains what it may start from, on all images
but those.
"""

# RSNA's images at 100x100, stretched, in the folder `rsna100` of the data.
RSNA100 = {'data.folder': 'rsna100', 'data.size': (100, 100), 'data.resize': 'stretch'}

# The same images with the aspect that they had before they were squashed. `data.better_copies` of
# ('rsna_half',) takes the larger ones where there are some.
HANDS = {
    'data.source': 'rsna_bone_age',
    'data.folder': 'rsna100',
    'data.native_sizes': 'annotations/rsna_native_sizes.csv',
    'data.resize': 'pad',
}

# RSNA images at half their native size, below $BONEAGE_DATA in the folder `rsna_half`: 1,127 of the
# training images. So few are all predicted out of fold.
RSNA_HALF = {
    'data.source': 'image_folder',
    'data.image_folder.images': 'rsna_half',
    'data.image_folder.labels': 'rsna_half/labels.csv',
    'data.image_folder.id_space': 'rsna',
    'data.resize': 'pad',
    'data.validation': 100,
    'data.holdout': 0,
    'data.folds': 5,
}

# All RSNA images at 100x100 but those of `rsna_half`, which are the holdout: what a network that
# the folds of RSNA_HALF start from may have seen.
OTHERS = {
    **HANDS,
    'data.better_copies': (),
    'data.holdout_ids': 'rsna_half/labels.csv',
    'data.holdout': 1000,  # any number: the ids above are it
    'data.validation': 400,
    'data.folds': 0,
    'init_from': '',
    'init_map': {},
    'eval_every_epochs': 4,
}

# A recipe of two CPU cores: AdamW with one cycle, batch statistics of images that are not
# augmented.
CPU = {
    'data.placement': 'device',
    'batch_size': 32,
    'optimizer.name': 'adamw',
    'optimizer.learning_rate': 2e-3,
    'optimizer.weight_decay': 0.05,
    'optimizer.schedule': 'one_cycle',
    'precise_bn_batches': 50,
}


def phantom(
    size: tuple[int, int],
    *,
    drawn: tuple[int, int] | None = None,
    count: int = 3000,
    held_out: int = 300,
) -> dict:
    """Phantoms in the place of radiographs.

    Args:
        size: rows and columns that the network sees.
        drawn: rows and columns that the phantoms are drawn with; None = `size`.
        count: of phantoms.
        held_out: images of the validation split, and as many of the holdout split.
    """
    return {
        'data.source': 'hand_phantom',
        'data.phantom.count': count,
        'data.phantom.size': drawn or size,
        'data.size': size,
        'data.validation': held_out,
        'data.holdout': held_out,
    }


def tiny(
    size: tuple[int, int],
    *,
    drawn: tuple[int, int] | None = None,
    count: int = 32,
    held_out: int = 8,
) -> dict:
    """A few phantoms, two epochs: a whole run within seconds; arguments as of `phantom`."""
    return {
        **phantom(size, drawn=drawn, count=count, held_out=held_out),
        'batch_size': 4,
        'epochs': 2,
        'log_every_steps': 1,
    }
