"""TFDS builders for hand radiographs with an age: no TensorFlow at build or read time.

`BUILDERS` maps a dataset's name to "module:Class". The classes are also attributes of this package
(`tfds_rsna.RsnaBoneAge`) and are imported on first use, so that `import tfds_rsna` stays cheap.
"""

import importlib

BUILDERS = {
    'rsna_bone_age': 'tfds_rsna.rsna_bone_age.builder:RsnaBoneAge',
    'image_folder': 'tfds_rsna.image_folder.builder:ImageFolder',
    'hand_phantom': 'tfds_rsna.hand_phantom.builder:HandPhantom',
    'prepared': 'tfds_rsna.prepared.builder:Prepared',
}
SOURCES = tuple(BUILDERS)  # every name that `data.source` may have
_CLASSES = {target.split(':')[1]: target for target in BUILDERS.values()}


def builder_class(name: str) -> type:
    """The builder class of a name in `BUILDERS`; KeyError that lists the names otherwise."""
    if name not in BUILDERS:
        raise KeyError(f'no dataset {name!r}; there are {", ".join(sorted(BUILDERS))}')
    return __getattr__(BUILDERS[name].split(':')[1])


def __getattr__(attribute: str) -> type:
    if attribute not in _CLASSES:
        raise AttributeError(f'module {__name__!r} has no attribute {attribute!r}')
    module, _, name = _CLASSES[attribute].partition(':')
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_CLASSES])
