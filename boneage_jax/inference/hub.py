"""A folder as a model hub expects it: model.safetensors, config.json, and a model card, README.md.

The first is a file of `boneage export` as it is, so that `hf:FOLDER` opens like the file itself.
config.json has what its header says, for readers without safetensors.
"""

import json
import os
import pathlib
import shutil
import tempfile

from boneage_jax.runs import exported
from boneage_jax.runtime import log, tensors
from tfds_rsna.errors import UserError

WEIGHTS = 'model.safetensors'
CONFIG = 'config.json'
CARD = 'README.md'
# Of the metadata: texts that hold JSON, and are JSON in config.json.
_NESTED = ('config', 'task', 'figures', 'intervals', 'about')
_PLAIN = ('format', 'format_version', 'kind', 'step', 'dtype', 'commit', 'version', 'train_images')
_TASKS = {
    'age': 'image-classification',
    'age_classes': 'image-classification',
    'segmentation': 'image-segmentation',
    'keypoints': 'keypoint-detection',
}


def check(folder: pathlib.Path) -> None:
    """Refuses (UserError) a folder that exists and is not empty, and one inside of no folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f'--hub={folder}: exists already; delete it or give another name')
    if not folder.absolute().parent.is_dir():
        raise UserError(f'--hub={folder}: {folder.parent}: no such folder')


def write(place: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the folder of the exported file at `place`, whole or not at all."""
    header = exported.read(place)
    tensors.read(place)  # refuses a damaged one
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as temporary:
        draft = pathlib.Path(temporary) / 'draft'
        draft.mkdir()
        shutil.copyfile(place, draft / WEIGHTS)
        (draft / CONFIG).write_text(json.dumps(_config(header), indent=1) + '\n')
        (draft / CARD).write_text(_card(header, folder.name))
        if folder.exists():
            folder.rmdir()
        os.replace(draft, folder)
    log.info(f'{folder}: {WEIGHTS}, {CONFIG}, {CARD}.')


def _config(header):
    metadata = header.metadata
    found = {'model_type': 'boneage_jax', 'architectures': [header.config['model']['name']]}
    found |= {key: metadata[key] for key in _PLAIN if key in metadata}
    return found | {key: json.loads(metadata[key]) for key in _NESTED if key in metadata}


def _card(header, name):
    """README.md: YAML for the hub, then what a reader needs."""
    front = [
        '---',
        'library_name: boneage_jax',
        'tags:',
        '- bone-age',
        '- radiograph',
        '- jax',
        '- flax',
    ]
    if header.kind in _TASKS:
        front.append(f'pipeline_tag: {_TASKS[header.kind]}')
    front += ['license: other', 'license_name: see-terms', *_results(header, name), '---']
    config = header.config
    size = ' x '.join(map(str, config['data']['size']))
    lines = [
        f'# {name}',
        '',
        exported.text(header, 'description') or f'A network of boneage_jax: {header.kind}.',
        '',
        f'`{config["model"]["name"]}` for grey images of {size} pixels, step {header.step}, '
        f'{header.metadata.get("dtype", "float32")}. Research code, no medical device.',
        '',
        '```bash',
    ]
    if header.kind in ('age', 'age_classes'):
        lines.append(f'boneage predict --workdir=hf:{name} --input=hand.png --sex=female')
    lines += [
        f'boneage main --config=CONFIG --config.init_from=hf:{name} --workdir=runs/a',
        '```',
        '',
    ]
    for title in ('data', 'terms'):
        text = exported.text(header, title)
        if text:
            lines += [f'## {title.capitalize()}', '', text, '']
    return '\n'.join([*front, '', *lines])


def _results(header, name):
    """The YAML of the mean absolute errors in the file's figures, as hubs list them."""
    figures = json.loads(header.metadata.get('figures', '{}'))
    rows = []
    for split, found in sorted(figures.get('splits', {}).items()):
        try:
            value = float(found['overall']['mae']['value'])
        except (KeyError, TypeError, ValueError):
            continue
        rows += [
            '  - task:',
            '      type: image-classification',
            '    dataset:',
            f'      name: {json.dumps(header.config["data"]["source"])}',
            f'      type: {json.dumps(header.config["data"]["source"])}',
            f'      split: {json.dumps(split)}',
            '    metrics:',
            '    - type: mae',
            f'      value: {value:.6g}',
            '      name: mean absolute error, months',
        ]
    if not rows:
        return []
    return ['model-index:', f'- name: {json.dumps(name)}', '  results:', *rows]
