"""What a run starts from: another run's network, an exported or shipped one, or ImageNet weights.

`config.init_from` names it. `config.init_map` says which parts of our network take which parts of
that one, `{'part_backbone': 'backbone'}`; an empty map takes the whole network, which must fit.
`config.init_optional` names the parts of ours that the map mentions but that this network may lack.
What the map does not mention starts fresh.
"""

import pathlib
from collections.abc import Collection, Mapping

import ml_collections
import numpy as np

from boneage_jax import renamed
from boneage_jax.errors import CheckpointError, ConfigError, UserError
from boneage_jax.models import pretrained, weight_files
from boneage_jax.runs import exported
from boneage_jax.runs import workdir as workdir_lib
from boneage_jax.runs.state import State
from boneage_jax.runtime import checkpoint, files, log, tensors


def check(config: ml_collections.ConfigDict, state: State) -> None:
    """Refuses a start that could not work, before any data is read; a folder is looked at later.

    Args:
        config: of the run.
        state: the parameters and batch statistics of its network, or their shapes.

    Raises:
        UserError: a frozen part would stay as it was drawn, or a file of weights does not fit.
    """
    if config.frozen and not config.init_from:
        raise ConfigError(
            f"frozen={tuple(config.frozen)} but init_from='': what is frozen would stay as it was "
            'drawn at random. Give a run or a file of weights as init_from (and init_map), train '
            'all of it with frozen=(), or say init_from=fresh'
        )
    path = _file(config.init_from)
    if path:
        load_file(state, path, config.init_map, config.init_optional)


def start(state: State, config: ml_collections.ConfigDict, splits: dict) -> State:
    """`state` with what `config.init_from` names; as it is where that is '' or 'fresh'.

    Args:
        state: of the new run, at step 0.
        config: of the new run.
        splits: its `{name: Split}`; none that it holds out may have been trained on there.

    Raises:
        UserError: there is no such run or file, it does not fit, or it saw images held out here.
    """
    spec = config.init_from
    if spec in ('', 'fresh'):
        return state
    path = _file(spec)
    if path:
        workdir_lib.check_no_leakage_of_file(path, weight_files.metadata(path), splits)
        state = load_file(state, path, config.init_map, config.init_optional)
        what = 'weights in'
    else:
        workdir_lib.check_no_leakage(spec, splits)
        state = load_run(state, spec, config.init_map, config.init_optional)
        what = 'best parameters of'
    parts = ''
    if config.init_map:
        parts = ': ' + ', '.join(_describe(*pair) for pair in config.init_map.items())
    log.info(f'Starting from the {what} {spec}{parts}.')
    return state


def _file(spec: str) -> pathlib.Path | None:
    """The file that `config.init_from` names, None for a workdir.

    It is downloaded where it is on the Hugging Face hub.
    """
    if weight_files.is_named(spec):
        return weight_files.find(spec, files.cache_folder() / 'weights')
    place = exported.find(spec)
    return place if exported.is_file(place) else None


def load_run(state, workdir, init_map=None, optional=()):
    """`state` with the best parameters of the run in `workdir`; see `take`."""
    with checkpoint.Checkpoints(workdir) as checkpoints:
        step, saved = checkpoints.read_parameters()
        return take(state, saved, init_map, optional, where=checkpoints.directory / str(step))


def load_file(state, path, init_map=None, optional=()):
    """`state` with the weights of a file.

    An export of our own is taken as the run that it came from, see `take`. A file of torchvision's
    or timm's is one backbone: each target of `init_map` is a backbone of ours that it fills, and
    the sources have no meaning there. Age models standardise images themselves, so a stem of three
    colours folds to the plain sum.
    """
    arrays, metadata = weight_files.read(path)
    if metadata.get('format') == tensors.FORMAT:
        return take(state, renamed.arrays(arrays), init_map, optional, where=path)
    shapes = checkpoint.parameter_shapes(state)
    given = pretrained.to_torchvision(arrays)
    if not init_map:
        raise UserError(
            f'init_from={str(path)!r} is {pretrained.describe(given)}, a backbone: name where it '
            f'goes in this model, as init_map=backbone; it has {", ".join(_tops(shapes))}'
        )
    translated = {}
    targets = {}
    for target in init_map:
        prefix = _dotted(target)
        targets[target] = target
        inner = {
            name.removeprefix(f'{prefix}.'): shape
            for name, shape in shapes.items()
            if _is_below(name, prefix)
        }
        if not inner:
            continue  # `take` speaks of parts that are not there
        values = pretrained.translate(given, inner, source=str(path))
        translated |= {f'{prefix}.{name}': value for name, value in values.items()}
    return take(state, translated, targets, optional, where=path)


def take(
    state: State,
    saved: dict[str, np.ndarray],
    init_map: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
    *,
    where: object,
) -> State:
    """`state` with parameters and batch statistics from `saved`, frozen or not there.

    Args:
        state: of our network.
        saved: `{'backbone.stem.kernel': array, ...}`.
        init_map: `{part of ours: part of theirs}`, paths such as 'backbone/down'; the rest of
            `state` stays as it is. Empty or None: the whole network.
        optional: parts of ours in `init_map` that this network may lack.
        where: what `saved` was read from, for messages.

    Raises:
        CheckpointError: a part is not there, or arrays do not fit; it names them.
    """
    wanted = checkpoint.parameter_shapes(state)
    chosen = {}  # our name -> its name in `saved`
    for target, source in (init_map or {'': ''}).items():
        ours = _dotted(target)
        theirs = _dotted(source)
        our_names = [name for name in wanted if _is_below(name, ours)]
        their_names = [name for name in saved if _is_below(name, theirs)]
        if not our_names and target in optional:
            continue
        if not our_names:
            _refuse_part('this model', target, wanted)
        if not their_names:
            _refuse_part(str(where), source, saved)
        # In both directions, so that what is missing on either side is found.
        for name in their_names:
            chosen[ours + name[len(theirs) :]] = name
        for name in our_names:
            chosen[name] = theirs + name[len(ours) :]
    return checkpoint.put_parameters(state, saved, chosen, where=where)


def _refuse_part(what, part, names):
    raise CheckpointError(
        f'init_map: {what} has no parameters below {part!r}; it has {", ".join(_tops(names))}'
    )


def _describe(target, source):
    return target if target == source else f'{target} from {source}'


def _tops(names):
    return sorted({name.partition('.')[0] for name in names})


def _dotted(path):
    return path.replace('/', '.')


def _is_below(name, prefix):
    return not prefix or name == prefix or name.startswith(prefix + '.')
