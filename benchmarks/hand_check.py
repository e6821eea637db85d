"""Fits and measures the check that an image shows a hand (`boneage_jax/inference/hand_check.py`).

    python -m benchmarks.hand_check --data $BONEAGE_DATA --fit       # writes hand_check.json
    python -m benchmarks.hand_check --data $BONEAGE_DATA --holdout   # the figures, once, at the end
    python -m benchmarks.hand_check --data $BONEAGE_DATA --sheet=docs/pictures/judged.png

Hands are of the training split of `rsna100` (split_seed 0, their aspect restored, larger copies
where there are some) and phantoms; what is no hand is drawn, cut out of hands or a picture that an
installed package brings (`other_images`). Validation images choose the threshold. How many of a
kind are refused that nothing was fitted on, tell fits without each kind in turn; the holdout is
only counted.
"""

import collections
import csv
import dataclasses
import json
import pathlib
import zipfile

import numpy as np
from PIL import Image

from benchmarks import other_images, report
from boneage_jax.data import splits as splits_lib
from boneage_jax.figures.hands import contact_sheet, hand
from boneage_jax.inference import hand_check, hand_look
from boneage_jax.preprocess import resize
from boneage_jax.runtime import files
from tfds_rsna import sexes
from tfds_rsna.hand_phantom import render
from tfds_rsna.io import decoding

_FOLDER = 'boneage-training-dataset'  # in the zip
_CELL = 150  # pixels of an image on the sheet
_SIDE = 400  # longer side of the images that are judged: the networks see 144 and 112 pixels
_REFUSED = 0.002  # share of the validation images that the threshold refuses
_DRAWN = 0.01  # share of the phantoms
_MOST = 0.9  # of the threshold: other hands score less than RSNA's
_REPEATS = 4  # of each image of --extra in the fit
_COST = 3.0  # of an image of the fit on the wrong side
_GAMMA = 0.04  # of the kernel


def main(argv=None):
    parser = report.parser('hand_check', __doc__)
    parser.add_argument('--data', type=pathlib.Path, required=True, help='$BONEAGE_DATA')
    parser.add_argument('--hands', type=int, default=200, help='real images of each split')
    parser.add_argument('--others', type=int, default=30, help='images of each kind of non-hand')
    parser.add_argument('--extra', type=pathlib.Path, help='a folder of images that are hands too')
    parser.add_argument('--sheet', type=pathlib.Path, help='draw judged phantoms and drawings here')
    parser.add_argument('--fit', action='store_true', help='fit, and write hand_check.json')
    parser.add_argument('--holdout', action='store_true', help='count refused holdout images')
    arguments = parser.parse_args(argv)
    if arguments.sheet:
        _sheet(arguments.sheet)
        return
    real = _Real(arguments.data)
    figures = _fit(real, arguments) if arguments.fit else {}
    figures |= _reported(real) if arguments.holdout else _measured(real, arguments)
    for name, (count, total, what) in figures.items():
        print(f'{name}: {count} of {total} {what}')
    files.write_atomic(arguments.output, json.dumps(figures, indent=1) + '\n')


class _Real:
    """The images of `rsna100` by split, their aspect restored."""

    def __init__(self, data):
        self.data = data
        rows = _rows(data / 'rsna100/boneage-training-dataset.csv')
        meanings = sexes.meanings('male', [row['male'] for row in rows], 'labels')
        labels = {
            'ids': [row['id'] for row in rows],
            'months': np.array([float(row['boneage']) for row in rows], np.float32),
            'male': np.array([meanings[sexes.normal(row['male'])] for row in rows]),
        }
        cut = splits_lib.derive({'train': labels}, validation=1000, holdout=1000, seed=0)
        self.splits = {}
        for name, (_, places) in cut.items():
            self.splits[name] = [labels['ids'][place] for place in places]
        sizes = _rows(data / 'annotations/rsna_native_sizes.csv')
        self.sizes = {row['id']: (int(row['height']), int(row['width'])) for row in sizes}
        self.points = {}
        for row in _rows(data / 'annotations/rsna_three_keypoints.csv'):
            if row['suspect'] != 'True':
                names = ('middle_tip', 'thumb_tip', 'capitate')
                both = [[float(row[f'{name}_{axis}']) for axis in 'yx'] for name in names]
                self.points[row['id']] = np.array(both)
        self.archive = zipfile.ZipFile(data / 'rsna100/boneage-training-dataset.zip')

    def drawn(self, split, count, seed=1):
        """Ids of a split at random."""
        ids = self.splits[split]
        return np.random.default_rng(seed).permutation(ids)[:count].tolist()

    def image(self, name):
        """One image [H, W]; a larger copy where there is one."""
        copy = self.data / f'rsna_half/{name}.jpg'
        if copy.exists():
            return _small(np.asarray(Image.open(copy).convert('L')))
        image = _decoded(self.archive.read(f'{_FOLDER}/{name}.png'))
        return resize.restore_aspect({'image': image}, self.sizes[name])['image']

    def points_of(self, name, image):
        """The annotated points [3, 2] on `image`."""
        return self.points[name] * (np.array(image.shape) / self.sizes[name])


def _fit(real, arguments):
    """Fits on training images, chooses the thresholds on validation images, writes the table.

    Returns the figures of kinds that were left out of the fit in turn.
    """
    hands = [real.image(name) for name in real.drawn('train', arguments.hands)]
    hands += _phantoms(0, arguments.hands // 2)
    if arguments.extra:
        extra = [_decoded(path.read_bytes()) for path in sorted(arguments.extra.iterdir())]
        hands += _REPEATS * extra  # few, and unlike the others
    bright, dark = _features(hands)
    others = {'negatives': dark}
    for kind, images in _others(real, 'train', arguments, seed=2).items():
        others[kind] = np.concatenate(_features(images))

    held = [real.image(name) for name in real.splits['validation']]
    chosen = [_looks(held, False), _looks(held[:: len(held) // arguments.hands], True)]
    chosen.append(_looks(_phantoms(2, arguments.hands // 2), False))
    figures = {}
    for kind in sorted(others):
        judge = _judge(bright, [other for name, other in others.items() if name != kind], chosen)
        scores = judge.score(others[kind])
        if kind != 'negatives':
            scores = scores.reshape(2, -1).max(0)
        refused = int((scores < judge.least).sum())
        figures[f'{kind}, not fitted on'] = (refused, len(scores), 'refused')

    _write(_judge(bright, list(others.values()), chosen))
    return figures


def _write(judge):
    """The judge as `hand_check.fitted` reads it."""
    rows = {}
    for name, *row in zip(hand_look.FEATURES, judge.mean, judge.deviation):
        rows[name] = [round(float(value), 4) for value in row]
    support = np.column_stack([judge.weights, judge.support])
    table = {
        'about': 'by benchmarks.hand_check; features: mean, deviation; support: weight, features',
        'least': round(judge.least, 4),
        'convincing': round(judge.convincing, 4),
        'gamma': judge.gamma,
        'scale': judge.scale,
        'features': rows,
        'support': [[round(float(value), 3) for value in row] for row in support],
    }
    lines = json.dumps(table).replace('], [', '],\n[').replace(', "', ',\n"')
    files.write_atomic(hand_check.TABLE, lines + '\n')
    hand_check.fitted.cache_clear()


def _judge(bright, wrong, chosen):
    """The judge of hands [N, F] against what is none, its thresholds by validation images.

    `chosen`: their features as they are, those of negatives, those of phantoms.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.svm import SVC

    features = np.concatenate([bright, *wrong])
    truth = np.arange(len(features)) < len(bright)
    mean = features.mean(0)
    deviation = np.maximum(features.std(0), 1e-3)
    standard = hand_check.standard(features, mean, deviation)
    machine = SVC(C=_COST, gamma=_GAMMA, class_weight='balanced')
    # How sure it may be is told by images that it was not fitted on.
    said = cross_val_predict(machine, standard, truth, method='decision_function')
    odds = LogisticRegression(class_weight='balanced').fit(said[:, None], truth)
    machine.fit(standard, truth)
    slope = float(odds.coef_[0, 0])
    intercept = float(odds.intercept_[0] + slope * machine.intercept_[0])
    judge = hand_check.Judge(
        mean,
        deviation,
        machine.support_vectors_,
        machine.dual_coef_[0],
        _GAMMA,
        (round(slope, 4), round(intercept, 4)),
        least=0.5,
        convincing=0.5,
    )
    real, dark, drawn = map(judge.score, chosen)
    least = min(_MOST, float(np.quantile(real, _REFUSED)), float(np.quantile(drawn, _DRAWN)))
    convincing = max(least, 0.5, float(np.quantile(dark, 0.99)))
    return dataclasses.replace(judge, least=least, convincing=convincing)


def _measured(real, arguments):
    """{what: (count, of, words)} on validation images, phantoms, and what is no hand."""
    figures = {}
    names = real.drawn('validation', arguments.hands)
    images = [real.image(name) for name in names]
    upright = []
    for name, image in zip(names, images):
        if name in real.points:
            turns = hand_look.turns_to_upright(real.points_of(name, image)[[0, 2]])
            upright.append((image, turns))
    figures['validation'] = _refused(images)
    if arguments.extra:
        figures['extra'] = _refused([_decoded(p.read_bytes()) for p in arguments.extra.iterdir()])
    figures['phantoms'] = _refused(_phantoms(1, arguments.hands // 2))
    figures['annotated'] = _unrighted(upright, lambda image: image, 0, False)
    figures['annotated, inverted'] = _unrighted(upright, lambda image: 255 - image, 0, True)
    for turns in (1, 2, 3):
        turned = _unrighted(upright, lambda image, k=turns: np.rot90(image, -k), turns, False)
        figures[f'annotated, turned by {90 * turns}'] = turned
    for kind, others in _others(real, 'validation', arguments, seed=3).items():
        figures[kind] = _refused(others)
    return figures


def _reported(real):
    """{what: (refused, of, words)} of the holdout and of the Digital Hand Atlas."""
    figures = {}
    names = real.splits['holdout']
    figures['holdout'] = _refused([real.image(name) for name in names])
    copies = [name for name in names if (real.data / f'rsna_half/{name}.jpg').exists()]
    figures['holdout, larger copies'] = _refused([real.image(name) for name in copies])
    atlas = [path for path in sorted((real.data / 'dha').iterdir()) if path.suffix == '.jpg']
    figures['Digital Hand Atlas'] = _refused([_decoded(path.read_bytes()) for path in atlas])
    return figures


def _refused(images):
    verdicts = _verdicts(images)
    flags = collections.Counter(flag for verdict in verdicts for flag in verdict.flags)
    scores = np.sort([verdict.score for verdict in verdicts]).round(3)
    print(f'  scores {scores[:4]} to {scores[-4:]}, flags {dict(flags)}', flush=True)
    return sum(bool(verdict.reason) for verdict in verdicts), len(images), 'refused'


def _unrighted(upright, change, turns, inverted):
    """How many of the changed images are refused, or not put right."""
    changed = [np.ascontiguousarray(change(image)) for image, _ in upright]
    missed = 0
    for verdict, (_, own) in zip(_verdicts(changed), upright):
        right = verdict.turns == (own + turns) % 4 and verdict.inverted == inverted
        missed += bool(verdict.reason) or not right
    return missed, len(upright), 'not put right'


def _sheet(path):
    """Phantoms, turned and inverted ones among them, and drawings, each with its verdict."""
    hands = _phantoms(3, 4)
    shown = {'phantom': hands[0], 'negative': 255 - hands[1], 'turned': np.rot90(hands[2])}
    shown['upside down'] = np.rot90(hands[3], 2)
    shown['no fingers'] = hands[0][160:]
    generator = np.random.default_rng(5)
    for kind, make in other_images.KINDS.items():
        if kind not in other_images.PHOTOGRAPHED:
            shown[kind] = make(generator, 3)[-1]
    pictures = []
    captions = []
    verdicts = _verdicts([np.ascontiguousarray(image) for image in shown.values()])
    for (kind, image), verdict in zip(shown.items(), verdicts):
        pictures.append(hand(image, side=_CELL))
        said = 'refused' if verdict.reason else ' '.join(['a hand', *verdict.flags])
        captions.append([f'{kind}: {verdict.score:.2f}', said])
    contact_sheet(pictures, captions, path, side=_CELL, columns=7)


def _verdicts(images):
    return hand_check.judge(images, hand_look.networks(), hand_check.fitted())


def _features(images):
    """Features [N, F] of images as they are, and of their negatives."""
    return [_looks(images, inverted) for inverted in (False, True)]


def _looks(images, inverted):
    """Features [N, F] in one polarity."""
    chosen = range(len(images))
    looks = hand_look.look_at(images, chosen, inverted, hand_look.networks())
    return np.stack([look.features for look in looks])


def _others(real, split, arguments, *, seed):
    """{kind: images} that show no whole hand."""
    generator = np.random.default_rng(seed)
    others = {kind: make(generator, arguments.others) for kind, make in other_images.KINDS.items()}
    names = [name for name in real.drawn(split, 2000, seed) if name in real.points]
    images = [real.image(name) for name in names[: 2 * arguments.others]]
    points = [real.points_of(name, image) for name, image in zip(names, images)]
    for keep in ('carpus', 'fingers'):
        halves = other_images.half_hands(images, points, keep=keep)
        others[f'half hands: {keep}'] = list(halves)[: arguments.others]
    others['patches of hands'] = list(other_images.patches(images, generator))
    return others


def _phantoms(seed, count):
    """Phantoms with bright bones: some are drawn as negatives."""
    images = []
    for i in range(count):
        drawn = render.phantom(90 + seed, i, (320, 256))
        inside = drawn['hand_mask'] > 0
        negative = drawn['image'][inside].mean() < drawn['image'][~inside].mean()
        images.append(255 - drawn['image'] if negative else drawn['image'])
    return images


def _decoded(data):
    return _small(decoding.decode(data))


def _small(image):
    factor = _SIDE / max(image.shape)
    if factor >= 1:
        return image
    size = [max(1, round(side * factor)) for side in image.shape[::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _rows(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


if __name__ == '__main__':
    main()
