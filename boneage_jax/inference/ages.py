"""Trained networks, made ready to turn images into the rows that `predict` writes.

`predict` opens them once for a folder, a server once for its life. Both get their rows here, so an
image has the same age in a table and on the page.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import ml_collections
import numpy as np
from scipy import ndimage

from boneage_jax.data import id_spaces
from boneage_jax.inference import calibration as calibration_lib
from boneage_jax.inference import hand_check, members, neighbours, pictures, scale
from boneage_jax.inference.images import Seen
from boneage_jax.runs import exported, shipped, training_ids
from boneage_jax.runs import predictions as predictions_lib
from boneage_jax.runtime import log, setup
from boneage_jax.training import evaluate
from tfds_rsna.errors import UserError
from tfds_rsna.image_folder import listing
from tfds_rsna.io import decoding
from tfds_rsna.io.archive import printable

_CELLS = 8  # along a side of what the network sees, in `Ages.hidden`
_PATCH = 2  # cells along a side of what is hidden at once
_BLUR = 0.06  # of the side: what is hidden keeps its greys and loses its bones
_FLAT = 1.0  # greys that hiding must change somewhere, or it is not tried


class Networks:
    """The networks of one `--workdir`, their configuration known and their arrays not loaded.

    Args:
        workdir: the run, or an exported file, or the name of a shipped network; of several the mean
            of their ages; None is the shipped one that predicts ages.

    Attributes:
        places: of the networks.
        config: that of the first.

    Raises:
        UserError: there is no such network, or it predicts no ages.
    """

    def __init__(self, workdir: pathlib.Path | str | Sequence[pathlib.Path] | None):
        self.places = _places(workdir)
        self.config = members.read_configs(self.places)[str(self.places[0])]
        for place in self.places:
            _tell_of_shipped(place)
        setup.set_up_jax(self.config)

    def load(
        self,
        *,
        batch_size: int = 0,
        calibration: pathlib.Path | None = None,
        accept_all: bool = False,
    ) -> 'Ages':
        """The networks ready to predict; arguments as those of `predict.predict`."""
        return Ages(self, batch_size, calibration, accept_all)

    def reference(self) -> neighbours.Reference:
        """The training images; UserError where there are several networks, or none in the file."""
        if len(self.places) > 1:
            raise UserError('--distance is of one network; give --workdir one, or leave it out')
        return neighbours.read(self.places[0])


class Ages:
    """Loaded networks, see `Networks.load`.

    Attributes:
        networks: the `Networks`.
        batch_size: images at once.
        reads_sex: whether the age, or its calibration, depends on the sex.
        intervals: `Intervals`, or None.
        check: see `hand_check.checker`.
    """

    def __init__(self, networks, batch_size, calibration, accept_all):
        self.networks = networks
        self._predictor = members.MeanPredictor(networks.places, batch_size=batch_size)
        self.batch_size = self._predictor.first.batch_size
        self._site = _site(calibration, self._predictor)
        self.reads_sex = self._predictor.needs_sex or self._site is not None
        if self._site:
            self.intervals = self._site.intervals()
        else:
            self.intervals = members.fit_intervals(networks.places)
        if self._site:
            log.info(f'Ages and 90% intervals are calibrated by {calibration}.')
        self.check = hand_check.checker(accept_all)

    def warm_up(self) -> None:
        """Compiles what any batch of images will need."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        if self.check:
            self.check([noise])
        size = self.networks.config.data.size
        for count in (1, self.batch_size):
            self._predictor.ages(np.zeros((count, *size, 1), np.uint8), [False] * count)

    def rows(
        self, batch: Sequence[Seen], male: Sequence[bool | None], place: pathlib.Path | None = None
    ) -> tuple[list[dict], dict]:
        """The rows of OUTPUT, one for each image of a batch, and the networks' auxiliary outputs.

        Args:
            batch: the images; one that was refused has a row without an age.
            male: their sexes.
            place: where they were found, for the column `file`.

        Returns:
            The rows, and the auxiliary outputs of those images alone that were not refused.
        """
        rows = []
        for seen, sex in zip(batch, male, strict=True):
            rows.append({'id': seen.listed.id, 'file': _path(seen.listed, place), 'male': sex})
        accepted = [i for i, seen in enumerate(batch) if not seen.refusal]
        aux = {}
        if accepted:
            images = np.stack([batch[i].image for i in accepted])
            aux = self._predict([rows[i] for i in accepted], images)
        for row, seen in zip(rows, batch):
            columns = row.pop('columns', {})
            if seen.refusal:
                row |= dict.fromkeys(('prediction', 'years', 'lower', 'upper'))
            row['status'] = predictions_lib.REFUSED if seen.refusal else predictions_lib.OK
            row['flags'] = _flags(seen, row['male'])
            row |= columns | {'age': seen.listed.months}
        return rows, aux

    def hidden(self, image: np.ndarray, male: bool | None) -> np.ndarray:
        """By how many months the age changes where a place is hidden, by cells `[8, 8]`.

        What is hidden is blurred until no bone can be seen. A cell has the mean of the absolute
        changes by all squares of 2 x 2 cells that hide it.

        Args:
            image: as the network sees it, uint8 [rows, columns, 1].
            male: the sex.
        """
        side = max(image.shape)
        blurred = ndimage.gaussian_filter(image.astype(np.float32), (*2 * (_BLUR * side,), 0))
        blurred = np.rint(blurred).astype(np.uint8)
        edges = [np.linspace(0, length, _CELLS + 1).astype(int) for length in image.shape[:2]]
        images = [image]
        places = []
        for row, column in np.ndindex(*2 * (_CELLS - _PATCH + 1,)):
            rows = slice(edges[0][row], edges[0][row + _PATCH])
            columns = slice(edges[1][column], edges[1][column + _PATCH])
            changed = image.copy()
            changed[rows, columns] = blurred[rows, columns]
            if np.abs(changed.astype(int) - image).mean() > _FLAT / image.size:
                images.append(changed)
                places.append((row, column))
        months, *_ = self._predictor.ages(np.stack(images), [male] * len(images))
        total = np.zeros((_CELLS, _CELLS))
        count = np.zeros((_CELLS, _CELLS))
        for row, column in np.ndindex(*2 * (_CELLS - _PATCH + 1,)):
            count[row : row + _PATCH, column : column + _PATCH] += 1
        for (row, column), changed in zip(places, months[1:], strict=True):
            change = abs(float(changed - months[0]))
            total[row : row + _PATCH, column : column + _PATCH] += change
        return total / count

    def _predict(self, rows, images):
        """Adds to `rows` what is predicted for their images; gives the auxiliary outputs."""
        male = [row['male'] for row in rows]
        months, columns, aux = self._predictor.ages(images, male)
        if self._site:
            months = self._site.apply(months, male)
        signals = {name: columns[name] for name in scale.SIGNALS if name in columns}
        for i, row in enumerate(rows):
            own = {name: values[i] for name, values in signals.items()}
            lower, upper = _interval(self.intervals, months[i], male[i], own)
            row['prediction'] = float(months[i])
            row['years'] = pictures.in_years(float(months[i]))
            row['lower'] = lower
            row['upper'] = upper
            row['columns'] = {name: values[i] for name, values in columns.items()}
        return aux


def training_images(
    places: Sequence[pathlib.Path], config: ml_collections.ConfigDict
) -> list[id_spaces.IdSet]:
    """The images that each of the networks was trained on, for `trained_on`.

    Phantoms' ids are numbers without meaning, and left out.
    """
    found = []
    for place in places:
        known = exported.is_file(place) or (place / 'splits.json').exists()
        if known and config.data.source != 'hand_phantom':
            found.append(training_ids.of(place))
    return found


def trained_on(known: Sequence[id_spaces.IdSet], ids: Sequence[str]) -> list[str]:
    """Those of a user's ids that are among training images, sorted."""
    found = set()
    for images in known:
        # A user's files declare no id space: any image of that id may be theirs.
        found.update(images.among(ids, id_spaces.UNDECLARED))
    return sorted(found)


def known_sex(file: listing.Image, given: bool | None) -> bool | None:
    """Whether an image is a boy's: as the table says, else as `given`, else as its header says."""
    for male in (file.male, given, file.header_male):
        if male is not None:
            return male
    return None


def table(rows: Sequence[Mapping]) -> tuple[list[str], list[list]]:
    """The columns and lines of OUTPUT, with the digits of a run's own predictions.csv.

    `age` is among them where at least one is known.
    """
    names = list(max(rows, key=len))  # a refused image has none of the network's
    if all(row['age'] is None for row in rows):
        names.remove('age')
    lines = []
    for row in rows:
        lines.append([_cell(row.get(name)) for name in names])
    return names, lines


def cells(row: Mapping) -> dict[str, str]:
    """A row as the texts that a table has of it."""
    return {name: '' if value is None else str(_cell(value)) for name, value in row.items()}


def _cell(value):
    return evaluate.show(value) if isinstance(value, float) else value


def _places(workdir):
    """Where the networks are: of one place, of several, or the shipped one of ages."""
    if workdir is None:
        return [shipped.ages()]
    several: Iterable = [workdir] if isinstance(workdir, str | os.PathLike) else workdir
    return list(map(exported.find, several))


def _tell_of_shipped(workdir):
    """Says in a line that the network is one that comes with the code, and on which terms.

    A line more, where the networks that prepare images for it are others by now.
    """
    if not exported.is_file(workdir):
        return
    header = exported.read(workdir)
    name = shipped.name_of(workdir)
    if name:
        terms = ' '.join(exported.text(header, 'terms').split())
        log.info(
            f'Predicted with {name}, the network that comes with the code: for research, no '
            f'medical device. {terms}'.rstrip()
        )
    changed = exported.changed_networks(header)
    if changed:
        log.info(
            f'{workdir}: its images were prepared by another {", ".join(changed)} than the one '
            'that comes with this version of the code: ages may differ from those it was judged by.'
        )


def _site(path, predictor):
    """The site's calibration in a file, None where none is given."""
    if path is None:
        return None
    if len(predictor.places) > 1:
        raise UserError(
            f'--calibration={path} is of one network; give --workdir one, or leave it out'
        )
    identity = calibration_lib.identify(predictor.places[0], predictor.first.step)
    return calibration_lib.read(path, identity)


def _flags(seen, male):
    """The flags of an image and of its preparation, each once, joined by ';'."""
    flags = [flag for flag in seen.flags.split(';') if flag]
    if None not in (male, seen.listed.header_male) and male != seen.listed.header_male:
        flags.append(decoding.OTHER_SEX)
    return ';'.join(dict.fromkeys(flags))


def _interval(intervals, months, male, signals):
    """(lower, upper) in months; of an unknown sex the wider one, None without intervals."""
    if intervals is None:
        return None, None
    sexes = [True, False] if male is None else [male]
    of_sexes = {name: [value] * len(sexes) for name, value in signals.items()}
    lower, upper = intervals.bounds([float(months)] * len(sexes), sexes, of_sexes)
    return float(lower.min()), float(upper.max())


def _path(file, place):
    if place is None:
        return file.entry.path
    if place.is_file() and file.entry.file == place and file.entry.packed is None:
        return printable(str(place))
    return printable(str(place / file.entry.path))
