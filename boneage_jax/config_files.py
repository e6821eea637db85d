"""Where config files are: a path, or a bare name in ./configs or in the package."""

import importlib.util
import pathlib
import types

from boneage_jax.errors import ConfigError

HERE = pathlib.Path('configs')  # where a bare name such as `prsnet` is looked for first
PACKAGE = pathlib.Path(__file__).parent


def load_module(name: pathlib.Path | str) -> types.ModuleType:
    """Imports a config file by its path, or by a bare name such as `prsnet`.

    A bare name is looked for in ./configs, then in the installed package. ConfigError where there
    is none.
    """
    path = _find(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _find(name):
    path = pathlib.Path(name).expanduser()
    if path.suffix or len(path.parts) > 1:
        if path.is_file():
            return path
        known = ', '.join(str(other) for other in sorted(path.parent.glob('*.py')))
        raise ConfigError(f'{path}: no such config file; the configs are: {known or "none"}')
    known = set()
    for folder in (HERE, packaged()):
        if (folder / f'{path}.py').is_file():
            return folder / f'{path}.py'
        known.update(other.stem for other in folder.glob('*.py'))
    raise ConfigError(
        f'{name}: no such config in {HERE.resolve()} or in {packaged()}; known: '
        f'{", ".join(sorted(known)) or "none"}'
    )


def packaged() -> pathlib.Path:
    """The folder of the configs that come with the package, or with its checkout."""
    inside = PACKAGE / 'configs'
    return inside if inside.is_dir() else PACKAGE.parent / 'configs'


def recorded_path(path: pathlib.Path) -> str:
    """A config's path as a config.json keeps it, so that it means something elsewhere too."""
    path = path.resolve()
    if path.is_relative_to(pathlib.Path.cwd()):
        return path.relative_to(pathlib.Path.cwd()).as_posix()
    if path.is_relative_to(packaged().resolve()):
        return f'configs/{path.name}'
    return str(path)


def origin(recorded: str) -> types.ModuleType | None:
    """The config module that a config.json came from, where it is found and has a `finish`."""
    for name in (recorded, pathlib.Path(recorded).stem):
        try:
            module = load_module(name)
        except ConfigError:
            continue
        if hasattr(module, 'finish'):
            return module
    return None
