"""How a run was made: commit, machine, labels, members, its whole config."""

from __future__ import annotations

import json

from boneage_jax.report import collect
from boneage_jax.report.html import Html, tag

# Keys of metrics.json, and what the page calls them.
_KEYS = {
    'commit': 'commit',
    'processor': 'processor',
    'device': 'devices',
    'minutes': 'minutes',
    'step': 'step of the checkpoint',
    'epoch': 'epoch of the checkpoint',
    'selected_by': 'selected by',
    'flip_tta': 'averaged with the mirror image',
    'turn_tta': 'averaged with the image turned, degrees',
    'components': 'components',
    'run': 'run',
    'records': 'records',
}


def provenance(run: collect.Run) -> list[Html | None]:
    """The last part of a run's section."""
    report = run.report or {}
    rows = [('folder', run.place)]
    for key, what in _KEYS.items():
        if report.get(key) is not None:
            rows.append((what, _text(report[key])))
    if 'versions' in report:
        versions = [f'{name} {version}' for name, version in report['versions'].items()]
        rows.append(('versions', ', '.join(versions)))
    rows += _labels(run)
    if isinstance(report.get('leaks'), dict):
        leaks = [f'{key.replace("_", " ")}: {value}' for key, value in report['leaks'].items()]
        rows.append(('leak check', ', '.join(leaks)))
    if run.config and 'seed' in run.config:
        rows.append(('seed', run.config['seed']))
    for missing, splits in run.older.items():
        why = (
            f'{missing} of {", ".join(splits)}, by the same functions: metrics.json has no '
            f'{missing} (an older release)'
        )
        rows.append(('computed for this page', why))
    rows += _members(report)
    lines = [tag('div', tag('dt', key), tag('dd', value)) for key, value in rows]
    return [tag('h3', 'With what it was made'), tag('dl', lines), _config(run)]


def _text(value):
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, dict):
        return json.dumps(value)
    return value


def _labels(run):
    report = run.report or {}
    labels = report.get('labels')
    if not isinstance(labels, dict):
        if report and 'members_differ' not in report:
            return [('labels', 'no fingerprint: this run predates it')]
        return []
    rows = []
    for split, of_split in labels.items():
        if isinstance(of_split, dict):
            digest = of_split.get('sha256', '')[:16]
            text = f'{of_split.get("images", 0):,} images, SHA-256 {digest}'
            rows.append((f'labels of {split}', text))
    return rows


def _members(report):
    rows = []
    for what, values in report.get('members_differ', {}).items():
        for member, value in values.items():
            rows.append((f'{what}, where members differ', f'{member}: {_of_member(value)}'))
    return rows + [('member', member) for member in report.get('members', [])]


def _of_member(value):
    """What a member of an ensemble tells of its labels, or of one kind of leak."""
    if isinstance(value, dict):
        return f'{value["images"]:,} images, SHA-256 {value["sha256"][:16]}'
    return 'nothing said' if value is None else value


def _config(run):
    if not run.config:
        return None
    text = tag('pre', json.dumps(run.config, indent=1))
    return tag('details', tag('summary', 'config.json, whole'), text, class_='long')
