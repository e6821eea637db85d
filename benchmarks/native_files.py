"""Ages of an exported file beside those of `predict`, on the images of a folder; and their speed.

    python -m benchmarks.native_files --images=/data/images --count=200

The network is exported as ONNX and as StableHLO. `predict` reads the first images of the folder;
the files get what `examples/bone_age.py` decodes, as its negative or turned where `predict` found
that it must be. Times are of one image at a time: from grey to the age, without the check for a
hand. A StableHLO file compiles anew for each shape of image: it takes fewer images, and its time is
of a second call.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
from jax import export as jax_export

from boneage_jax.inference import export, members, predict
from boneage_jax.preprocess import resize
from boneage_jax.runs import predictions
from boneage_jax.runs.predictor import Predictor

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST = 0.002  # months


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', required=True, type=pathlib.Path, help='folder of image files')
    parser.add_argument('--workdir', default='bone_age', help='a run, a file or a shipped name')
    parser.add_argument('--count', default=200, type=int, help='images')
    parser.add_argument('--stablehlo_count', default=10, type=int, help='images of StableHLO')
    parser.add_argument('--sex', default='female', choices=['male', 'female'])
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = _measured(given, pathlib.Path(folder))
    print('| format | images | mean difference | largest | beyond 0.002 | ms an image | ours, ms |')
    print('| --- | --- | --- | --- | --- | --- | --- |')
    for row in rows:
        print('| ' + ' | '.join(str(value) for value in row.values()) + ' |')
    return rows


def _measured(given, folder):
    images = folder / 'images'
    images.mkdir()
    paths = [path for path in sorted(given.images.iterdir()) if path.suffix in ('.png', '.jpg')]
    for path in paths[: given.count]:
        (images / path.name).symlink_to(path.absolute())
    table = predict.predict(given.workdir, images, None, sex=given.sex)
    rows = [row for row in table if row['status'] == predictions.OK]
    greys = [_as_predicted(images, row) for row in rows]
    male = given.sex == 'male'
    ages = np.array([row['prediction'] for row in rows])
    predictor = Predictor(given.workdir)
    formats = {'onnx': len(rows), 'stablehlo': min(given.stablehlo_count, len(rows))}
    return [
        _row(given.workdir, name, folder, predictor, greys[:count], ages[:count], male)
        for name, count in formats.items()
    ]


def _as_predicted(images, row):
    """The grey image of a row, put right as its flags say."""
    bone_age = _reader()
    flags = row['flags'].split(';')
    turns = [int(flag.removeprefix('turned_')) // 90 for flag in flags if flag.startswith('turned')]
    path = images / pathlib.Path(row['file']).name
    image = bone_age.decode(path.read_bytes())
    return bone_age.righted(image, inverted='inverted' in flags, turns=sum(turns))


def _reader():
    sys.path.insert(0, str(ROOT / 'examples'))
    import bone_age

    return bone_age


def _row(workdir, name, folder, predictor, greys, ages, male):
    file = _opened(workdir, name, folder)
    data = predictor.config.data
    found = []
    times = {'file': [], 'ours': []}
    for grey in greys:
        months = file(grey, male)
        found.append(months)
        started = time.perf_counter()
        file(grey, male)
        times['file'].append(time.perf_counter() - started)
        started = time.perf_counter()
        seen = resize.resize({'image': grey}, tuple(data.size), data.resize)['image']
        members.ages(predictor, seen[None], [male])
        times['ours'].append(time.perf_counter() - started)
    differences = np.abs(np.array(found) - ages)
    medians = {key: f'{1000 * statistics.median(values):.0f}' for key, values in times.items()}
    return {
        'format': name,
        'images': len(greys),
        'mean': f'{differences.mean():.6f}',
        'largest': f'{differences.max():.6f}',
        'beyond': int((differences > MOST).sum()),
        'milliseconds': medians['file'],
        'ours': medians['ours'],
    }


def _opened(workdir, name, folder):
    """`(grey image, male) -> months` of the exported file."""
    path = folder / f'network.{name}'
    export.export(workdir, path, format_name=name)
    if name == 'onnx':
        model = _reader().BoneAge(path)
        return lambda image, male: float(model(image, male)['months'])
    call = jax.jit(jax_export.deserialize(path.read_bytes()).call)
    return lambda image, male: float(call(image, np.array(male))['months'])


if __name__ == '__main__':
    main()
