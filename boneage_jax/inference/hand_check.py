"""Whether an image shows a hand, bright bones and fingers up: judged before its age is predicted.

Two shipped networks look at it, one for the hand's mask and one for its three key points. Both
learnt hands at any angle, so the way up is the line from capitate to fingertip, and a hand is found
at the same place when the image is turned by a quarter: what is no hand is not. They look at the
image twice (as it is, and turned), and where that does not convince, twice at its negative. A
logistic regression on what they found (`hand_check.json`, fitted by `benchmarks.hand_check`) says
how surely a hand is there; the polarity in which that is surer is taken. A mirrored hand is no
fault: left or right is told by no landmark in a single radiograph.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from boneage_jax.preprocess import hand_mask, mask_checks, register, resize
from boneage_jax.runs import shipped
from boneage_jax.runtime import log

REFUSED = 'no_hand'  # the flag of what shows none; the reason follows it
NETWORKS = ('hand_mask', 'hand_points')
TABLE = pathlib.Path(__file__).with_name('hand_check.json')
VIEWS = 4  # images at once: one program is compiled for each network, whatever the number of images
LEAST_SIDE = 64  # pixels of the shorter side: below it no growth plate can be seen
FEWEST_GREYS = 16  # levels between the 2nd and the 98th percentile of what is exposed at all
_EMPTY = 0.005  # share of the image: a mask below it is none
_UPRIGHT = 55.0  # degrees from upright up to which a hand is left as it is

# What the regression reads, in the order of `hand_check.json`.
FEATURES = (
    'area',  # root of the mask's share of the image
    'solidity',  # share of its convex hull that the mask fills
    'border',  # share of its outline on the image's border
    'whole',  # share of all pixels above the threshold that are the largest component
    'sureness',  # mean |logit| of the mask network, at most 6
    'tip_height',  # log of the peaks of the three heat maps
    'thumb_height',
    'capitate_height',
    'outside',  # distance of the worst point from the mask, by the root of its area
    'length',  # |log| of capitate to fingertip by the root of the mask's area, beside a hand's
    'reach',  # |log| of capitate to thumb tip by capitate to fingertip, beside a hand's
    'thumb_angle',  # radians by which the angle between the two is another than a hand's
    'beyond',  # how far the mask goes on behind the fingertip, by that length, beside a hand's
    'reasons',  # how many speak against the points, at most 3: `register.implausible`
    'contrast',  # grey in the mask minus that around it, in deviations of the image
    'skewness',  # of fine detail in the mask: bones are bright lines on darker flesh
    'edges',  # mean gradient in the mask, in deviations of the image
    'agreement',  # IoU with the mask of the turned image
    'moved',  # farthest way of a point when the image is turned, by the length
)
_MOVED = 2.0  # at most
# A hand's own: medians of the limits in `preprocess/register.py`.
_LENGTH = 1.30
_REACH = 0.69
_THUMB_ANGLE = 0.9
_BEYOND = 0.03
_WORDS = {
    'blank': 'blank, or nearly so',
    'no_hand': 'no hand was found',
    'doubtful': 'doubtful whether this is the radiograph of a whole hand',
}


@dataclasses.dataclass(frozen=True)
class Hand:
    """Where a hand was found on an image, as it is put right.

    Attributes:
        mask: bool [h, w], of all that the image covers, at the network's scale.
        points: fingertip, thumb tip and capitate [3, 2] (row, column) in pixels of `mask`.
    """

    mask: np.ndarray
    points: np.ndarray


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an image was judged to be.

    Attributes:
        score: probability that it is the radiograph of a hand.
        inverted: whether its bones are dark.
        turns: quarter turns against the clock that bring its fingers up, 0 to 3.
        flags: of `inverted`; `turned_90`, `turned_180`, `turned_270` (degrees by which it was
            turned against the clock) or `way_up_unsure` (then it was not); `several_hands`,
            `cut_off`, `low_resolution`, `low_contrast`, `saturated`.
        reason: why it is refused; '' where it is accepted.
        hand: where it is; None where no network has looked, or it is refused.
    """

    score: float
    inverted: bool
    turns: int
    flags: tuple[str, ...]
    reason: str
    hand: Hand | None = None

    @property
    def told(self) -> tuple[str, ...]:
        """The flags, and where it is refused the flag `no_hand` with the reason."""
        return (*self.flags, f'{REFUSED}: {self.reason}') if self.reason else self.flags


@dataclasses.dataclass(frozen=True)
class Judge:
    """The regression.

    Attributes:
        mean: [N], of the features in the fit.
        deviation: [N], theirs.
        coefficients: [N].
        intercept: log-odds at the mean.
        least: probability from which on an image is a hand.
        convincing: probability from which on its negative is not looked at.
    """

    mean: np.ndarray
    deviation: np.ndarray
    coefficients: np.ndarray
    intercept: float
    least: float
    convincing: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probabilities `[M]` of features `[M, N]`."""
        standard = np.clip((features - self.mean) / self.deviation, -4, 4)
        odds = standard @ self.coefficients + self.intercept
        return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))


@functools.cache
def fitted() -> Judge:
    """The regression that comes with the code."""
    table = json.loads(TABLE.read_text())
    rows = [table['features'][name] for name in FEATURES]
    mean, deviation, coefficients = np.array(rows, np.float64).T
    return Judge(
        mean, deviation, coefficients, table['intercept'], table['least'], table['convincing']
    )


@functools.cache
def networks() -> tuple[Callable, Callable]:
    """The networks of masks and of points, each as a function of `VIEWS` images at once."""
    # Imported here: workers that only need a verdict's class do without JAX.
    from boneage_jax.runs import predictor as predictor_lib

    return tuple(predictor_lib.Predictor(name, batch_size=VIEWS) for name in NETWORKS)


def checker(accept_all: bool = False) -> Callable[[Sequence[np.ndarray]], list[Verdict]] | None:
    """`check(images, each uint8 [H, W]) -> [Verdict]`; None where the networks are not shipped.

    With `accept_all` nothing is refused: what would be is left as it is, with the flag `no_hand`.
    """
    missing = [name for name in NETWORKS if shipped.find(name) is None]
    if missing:
        log.info(
            f'Images are not checked for hands: this checkout lacks the network {missing[0]} '
            f'(it has: {shipped.listed()}).'
        )
        return None

    def check(images):
        verdicts = judge(images, networks(), fitted())
        return [_accepted(verdict) for verdict in verdicts] if accept_all else verdicts

    return check


def _accepted(verdict):
    if not verdict.reason:
        return verdict
    return dataclasses.replace(verdict, flags=verdict.told, reason='')


def judge(
    images: Sequence[np.ndarray], networks: tuple[Callable, Callable], judge: Judge
) -> list[Verdict]:
    """A verdict for each image, uint8 [H, W]: as it is, and as its negative where need be."""
    plain = [_reason_before(image) for image in images]
    asked = [i for i, reason in enumerate(plain) if not reason]
    looks = {(i, False): look for i, look in zip(asked, look_at(images, asked, False, networks))}
    unsure = [i for i in asked if judge.score(looks[i, False].features[None])[0] < judge.convincing]
    for i, look in zip(unsure, look_at(images, unsure, True, networks)):
        looks[i, True] = look

    verdicts = []
    for i, (image, reason) in enumerate(zip(images, plain)):
        if reason:
            verdicts.append(Verdict(0.0, False, 0, (), reason))
            continue
        polarities = [polarity for polarity in (False, True) if (i, polarity) in looks]
        scores = [float(judge.score(looks[i, each].features[None])[0]) for each in polarities]
        best = int(np.argmax(scores))
        look = looks[i, polarities[best]]
        verdicts.append(_verdict(image, look, scores[best], polarities[best], judge.least))
    return verdicts


def righted(image: np.ndarray, verdict: Verdict) -> np.ndarray:
    """An image [H, W] with bright bones and fingers up, as its verdict says."""
    if verdict.inverted:
        image = 255 - image
    return np.ascontiguousarray(np.rot90(image, verdict.turns))


def _verdict(image, look, score, inverted, least):
    """The verdict on an image by its surer look."""
    if score < least:
        word = 'no_hand' if look.mask.mean() < _EMPTY else 'doubtful'
        return Verdict(score, False, 0, (), _WORDS[word])
    turns = 0 if look.axis is None else turns_to_upright(look.axis)
    flags = ['inverted'] if inverted else []
    if look.axis is None:
        flags.append('way_up_unsure')
    if turns:
        flags.append(f'turned_{90 * turns}')
    flags += _flags(image, look)
    hand = Hand(np.rot90(look.mask, turns), _turned(look.points, look.mask.shape, turns))
    return Verdict(score, inverted, turns, tuple(flags), '', hand)


def _turned(points, shape, turns):
    """Points [K, 2] (row, column) on an image of `shape` after quarter turns against the clock."""
    rows, columns = shape
    for _ in range(turns):
        points = np.stack([columns - 1 - points[:, 1], points[:, 0]], -1)
        rows, columns = columns, rows
    return points


def turns_to_upright(axis: np.ndarray) -> int:
    """Quarter turns against the clock that bring the fingers up.

    Args:
        axis: fingertip and capitate [2, 2] (row, column).

    Returns:
        0 to 3; 0 for a hand within `_UPRIGHT` degrees of upright, which no reader would turn.
    """
    tip, capitate = axis
    angle = np.degrees(np.arctan2(tip[1] - capitate[1], capitate[0] - tip[0]))  # with the clock
    if abs(angle) <= _UPRIGHT:
        return 0
    return max(1, round((angle % 360) / 90)) % 4


def _reason_before(image):
    """Why an image is refused before any network looks at it, or ''."""
    if min(image.shape) < 2:
        return _WORDS['blank']
    low, high = np.percentile(_thinned(image), (0.5, 99.5))
    return _WORDS['blank'] if high - low < 4 else ''


def _thinned(image, side=512):
    step = max(1, max(image.shape) // side)
    return image[::step, ::step]


def _flags(image, look):
    """What is unusual about a hand, or about the image of it."""
    flags = []
    if look.second > 0.3:
        flags.append('several_hands')
    if look.fingers_cut:
        flags.append('cut_off')
    if min(image.shape) < LEAST_SIDE:
        flags.append('low_resolution')
    hand = image[resize.resize_mask(look.mask, image.shape) > 0]
    if hand.size:
        low, high = np.percentile(hand[:: max(1, hand.size // 50_000)], (2, 98))
        if high - low < FEWEST_GREYS:
            flags.append('low_contrast')
        if np.mean(hand >= 254) > 0.2 or np.mean(hand <= 1) > 0.2:
            flags.append('saturated')
    return flags


# What the networks see of an image, as numbers


@dataclasses.dataclass(frozen=True)
class Look:
    """An image in one polarity, through both networks.

    Attributes:
        features: float64 [N] of `FEATURES`.
        mask: the largest component, bool [h, w], of what the image covers.
        points: fingertip, thumb tip and capitate [3, 2] (row, column) in pixels of `mask`.
        axis: fingertip and capitate [2, 2] (row, column) in pixels of `mask`, as they were found on
            the image or else on the turned one; None where neither can be right.
        second: the second largest component, by the largest.
        fingers_cut: whether the mask meets a border on the fingers' side of the capitate.
    """

    features: np.ndarray
    mask: np.ndarray
    points: np.ndarray
    axis: np.ndarray | None
    second: float
    fingers_cut: bool


def look_at(
    images: Sequence[np.ndarray],
    chosen: Sequence[int],
    inverted: bool,
    networks: tuple[Callable, Callable],
) -> list[Look]:
    """The looks of `images[i]`, i in `chosen`, [H, W] uint8, or of their negatives."""
    if not chosen:
        return []
    sizes = [network.config.data.size for network in networks]
    canvases = [[], []]
    for i in chosen:
        image = 255 - images[i] if inverted else images[i]
        for views, size in zip(canvases, sizes):
            canvas = resize.resize({'image': image}, size, 'pad')['image']
            views += [canvas, np.rot90(canvas)]
    logits, points, heights = _through(canvases, networks)
    looks = []
    for at, i in enumerate(chosen):
        both = slice(2 * at, 2 * at + 2)
        canvas = canvases[0][2 * at][..., 0]
        shape = images[i].shape
        looks.append(_look(canvas, shape, logits[both], points[both], heights[both]))
    return looks


def _through(canvases, networks):
    """Logits [N, h, w], points [N, 3, 2] in 0 to 1, heights [N, 3]: always `VIEWS` at once."""
    count = len(canvases[0])
    gap = -count % VIEWS
    filled = [np.pad(np.stack(views), ((0, gap), (0, 0), (0, 0), (0, 0))) for views in canvases]
    logits, _ = networks[0](filled[0])
    points, aux = networks[1](filled[1])
    return logits[:count], np.asarray(points)[:count], np.asarray(aux['heights'])[:count]


def _look(canvas, shape, logits, points, heights):
    side = canvas.shape[0]
    plain = np.asarray(logits[0], np.float64)
    found = resize.uncovered(plain > 0, shape, 'pad')
    mask = hand_mask.largest_component(found)
    back = np.rot90(np.asarray(logits[1]) > 0, -1)
    turned = hand_mask.largest_component(resize.uncovered(back, shape, 'pad'))
    _, offset = resize.inner(shape, canvas.shape, 'pad')
    own = points[0] * side - 0.5 - np.array(offset)
    # A quarter turn against the clock takes (row, column) to (1 - column, row).
    again = np.stack([points[1][:, 1], 1 - points[1][:, 0]], -1) * side - 0.5 - np.array(offset)
    grey = resize.uncovered(canvas, shape, 'pad').astype(np.float64)
    sureness = float(np.minimum(np.abs(resize.uncovered(plain, shape, 'pad')), 6).mean())

    area = max(1.0, float(mask.sum()))
    length = max(1.0, float(np.hypot(*(own[0] - own[2]))))
    second = float(hand_mask.largest_component(found & ~mask).sum()) / area
    measured = mask_checks.measures(mask)
    thumb = own[1] - own[2]
    axis = own[0] - own[2]
    cosine = (thumb @ axis) / max(1e-6, np.hypot(*thumb) * length)
    values = {
        'area': np.sqrt(mask.mean()),
        'solidity': measured.get('solidity', 1.0),
        'border': measured.get('border', 1.0),
        'whole': float(mask.sum()) / max(1.0, float(found.sum())),
        'sureness': sureness,
        'outside': min(2.0, _outside(mask, own) / np.sqrt(area)),
        'length': min(2.0, abs(np.log(length / np.sqrt(area) / _LENGTH))),
        'reach': min(2.0, abs(np.log(max(1.0, np.hypot(*thumb)) / length / _REACH))),
        'thumb_angle': abs(np.arccos(np.clip(cosine, -1, 1)) - _THUMB_ANGLE),
        'beyond': abs(_beyond(mask, own, length) - _BEYOND),
        'reasons': min(3, len(register.implausible(own, mask, mask.shape))),
        **_appearance(grey, mask),
        'agreement': mask_checks.iou(mask, turned) if mask.any() else 0.0,
        'moved': min(_MOVED, float(np.hypot(*(again - own).T).max()) / length),
    }
    for name, height in zip(('tip', 'thumb', 'capitate'), heights.min(0)):
        values[f'{name}_height'] = float(np.log(max(1e-4, height)))
    features = np.array([values[name] for name in FEATURES], np.float64)
    axis = _axis(mask, own, again)
    return Look(features, mask, own, axis, second, _fingers_cut(mask, axis))


def _axis(mask, *candidates):
    """Fingertip and capitate of the first points [3, 2] that can be right, or None."""
    for points in candidates:
        reasons = register.implausible(points, mask, mask.shape)
        if all(reason.startswith('thumb') for reason in reasons):
            return points[[0, 2]]
    return None


def _outside(mask, points):
    """Pixels between the mask and the point that is farthest from it."""
    places = np.argwhere(mask)
    if not len(places):
        return float(max(mask.shape))
    away = [np.hypot(*(places - point).T).min() for point in points]
    return float(max(away))


def _beyond(mask, points, length):
    places = np.argwhere(mask)
    if not len(places):
        return 0.0
    along = (places - points[0]) @ (points[0] - points[2]) / length**2
    return float(np.clip(along.max(), -1, 1))


def _appearance(grey, mask):
    """Contrast, skewness and edges of an image [h, w], see `FEATURES`."""
    deviation = max(1.0, grey.std())
    ring = ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask)
    if mask.sum() < 20 or not ring.any():
        return {'contrast': 0.0, 'skewness': 0.0, 'edges': 0.0}
    contrast = (grey[mask].mean() - grey[ring].mean()) / deviation
    inner = ndimage.binary_erosion(mask, iterations=2)
    inner = inner if inner.sum() > 20 else mask
    detail = (grey - ndimage.gaussian_filter(grey, 4.0))[inner]
    spread = max(0.5, detail.std())
    skewness = np.clip((((detail - detail.mean()) / spread) ** 3).mean(), -3, 3)
    edges = np.hypot(*np.gradient(ndimage.gaussian_filter(grey, 0.7)))[inner].mean() / deviation
    return {'contrast': float(contrast), 'skewness': float(skewness), 'edges': float(edges)}


def _fingers_cut(mask, axis):
    """Whether a tenth of the hand's length lies on a border, on the fingers' side."""
    if axis is None:
        return False
    rows, columns = mask.shape
    tip, capitate = axis
    length = np.hypot(*(tip - capitate))
    places = np.argwhere(mask)
    on_border = ((places == 0) | (places == np.array([rows - 1, columns - 1]))).any(1)
    along = (places - capitate) @ (tip - capitate) / length**2
    return bool((on_border & (along > 0.15)).sum() > 0.1 * length)
