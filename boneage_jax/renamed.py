"""Names that earlier releases wrote to disk, and what they are called now.

Runs and exports of earlier releases stay readable: whatever reads a config.json, a checkpoint, an
export or a metrics.json passes its names through here, and nothing else knows the old ones.
"""

# Configuration keys, dotted; a block brings its keys along. None: the key is gone, as another one
# says the same.
KEYS = {
    'accumulate': 'grad_accum_steps',
    'data.also': 'data.extra_train_folders',
    'data.fit': 'data.resize',
    'data.stage': 'data.stage_options',
    'evaluate_every': 'eval_every_epochs',
    'features': 'cache_features',
    'log_every': 'log_every_steps',
    'mine.fit': 'mine.resize',
    'model.classes': None,  # task.classes
    'model.dense': 'model.hidden_units',
    'model.form': 'model.head',
    'model.read_sex': 'model.use_sex',
    'model.sex': 'model.use_sex',
    'model.size': None,  # data.size
    'model.units': 'model.hidden_units',
    'optimizer.clip': 'optimizer.grad_clip_norm',
    'optimizer.second_momentum': 'optimizer.b2',
    'save_every': 'checkpoint_every_steps',
    'statistics_batches': 'precise_bn_batches',
    'trunk': 'backbone_weights',
    'trunk_from': 'backbone_from',
}
# Keys of one task or of one model alone: {its name: {key: key}}.
KEYS_OF_TASK = {
    'age_parts': {'task.form': 'task.ranking_form'},
    'age_triplet': {'task.form': 'task.triplet_form'},
}
KEYS_OF_MODEL = {'age_classifier': {'model.width': 'model.width_factor'}}
# Keys that only the earlier runs of one config have, whose `finish` reads them.
CONFIG_FILES = {'trunk': 'configs/attention.py'}
# Values of (renamed) keys.
VALUES = {
    'data.resize': {'squash': 'stretch'},
    'mine.resize': {'squash': 'stretch'},
    'model.standardise': {'film': 'image'},
    'data.stage_options.region.region': {'film': 'image'},
}
# Keys that hold paths of parameters.
PATHS = ('frozen', 'init_map', 'init_optional')
# Parts of a parameter's path.
PARTS = {'trunk': 'backbone', 'part_trunk': 'part_backbone'}
# The first part of an array's name in a checkpoint: the field of the state.
FIELDS = {
    'trainable': 'params',
    'frozen': 'frozen_params',
    'statistics': 'batch_stats',
    'optimizer': 'opt_state',
    'memory': 'loop_state',
}
LOOP_STATE = {
    'stale': 'evals_since_best',
    'rate_scale': 'lr_scale',
    'bad_step': 'first_nonfinite_step',
}
# Keys anywhere in a report (metrics.json).
REPORT_KEYS = {'films': 'images', 'orderedness': 'distance_age_correlation'}


def config(saved: dict) -> dict:
    """A configuration as a run wrote it (plain nested dicts), with the names of today."""
    names = {
        **KEYS,
        **KEYS_OF_TASK.get(saved.get('task', {}).get('name'), {}),
        **KEYS_OF_MODEL.get(saved.get('model', {}).get('name'), {}),
    }
    renamed = {}
    for path, value in _leaves(saved):
        path = _renamed_key(path, names)
        if path is None:
            continue
        if path == 'init_parts':
            renamed['init_map'], renamed['init_optional'] = _init_map(value)
            continue
        if path in PATHS:
            value = _paths(value)
        if path in VALUES and isinstance(value, str):
            value = VALUES[path].get(value, value)
        _put(renamed, path, value)
    for key, file in CONFIG_FILES.items():
        if key in saved:
            renamed['config_file'] = file
            renamed['finish_reads'] = ['backbone_weights', 'backbone_from']
    return renamed


def array(name: str) -> str:
    """The name of an array in a checkpoint, as 'trainable.trunk.stem.kernel', or in an export."""
    first, dot, rest = name.partition('.')
    field = FIELDS.get(first, first)
    if field == 'loop_state':
        return field + dot + LOOP_STATE.get(rest, rest)
    return _path(field + dot + rest)


def arrays(named: dict) -> dict:
    """`{name: array}` of an export of ours, with the names of today."""
    return {_path(name): value for name, value in named.items()}


def report(value):
    """The content of a metrics.json, with the names of today."""
    if isinstance(value, dict):
        return {REPORT_KEYS.get(name, name): report(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [report(inner) for inner in value]
    return value


def _leaves(tree, prefix=''):
    """(dotted key, value) of everything in nested dicts; an init_map is one value."""
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, dict) and path != 'init_map':
            yield from _leaves(value, path + '.')
        else:
            yield path, value


def _put(tree, path, value):
    *parents, leaf = path.split('.')
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def _renamed_key(path, names):
    """A dotted key under its name of today; None for one that is gone."""
    for old, new in names.items():
        if path == old:
            return new
        if path.startswith(old + '.'):
            return new + path.removeprefix(old)
    return path


def _path(path, separator='.'):
    """'trunk.stem' -> 'backbone.stem', except for the branch of that name in a relation module."""
    parts = path.split(separator)
    for place, part in enumerate(parts):
        in_relation = place >= 2 and parts[place - 2] == 'relation'
        if part in PARTS and not in_relation:
            parts[place] = PARTS[part]
    return separator.join(parts)


def _paths(value):
    if isinstance(value, dict):
        return {_path(target, '/'): _path(source, '/') for target, source in value.items()}
    return [_path(path, '/') for path in value]


def _init_map(parts):
    """('trunk', 'part_trunk?=trunk') -> (init_map, init_optional)."""
    chosen = {}
    optional = []
    for part in parts:
        target, _, source = part.replace('.', '/').partition('=')
        if target.endswith('?'):
            target = target.removesuffix('?')
            optional.append(_path(target, '/'))
        chosen[_path(target, '/')] = _path(source or target, '/')
    return chosen, optional
