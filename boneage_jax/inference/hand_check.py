"""Whether an image shows a hand, bright bones and fingers up: judged before its age is predicted.

The shipped networks look at it (`hand_look`): one for the hand's mask, one for its three key
points, one for ages. The first two learnt hands at any angle, so the way up is the line from
capitate to fingertip, and a hand is found at the same place when the image is turned by a quarter:
what is no hand is not. They look at the image, and where that does not convince, at its negative.
What they found is compared with what they found on other images (`hand_check.json`, fitted by
`benchmarks.hand_check`); the polarity in which a hand is surer is taken. A mirrored hand is no
fault: left or right is told by no landmark in a single radiograph.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from boneage_jax.inference import hand_look
from boneage_jax.preprocess import resize
from boneage_jax.runs import shipped
from boneage_jax.runtime import log

REFUSED = 'no_hand'  # the flag of what shows none; the reason follows it
TABLE = pathlib.Path(__file__).with_name('hand_check.json')
LEAST_SIDE = 64  # pixels of the shorter side: below it no growth plate can be seen
FEWEST_GREYS = 16  # levels between the 2nd and the 98th percentile of what is exposed at all
_EMPTY = 0.005  # share of the image: a mask below it is none
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
    """A support vector machine: an image is judged by those of the fit that it is most like.

    So what is like nothing in the fit is no hand, and hands may be of several kinds.

    Attributes:
        mean: [N], of the features in the fit.
        deviation: [N], theirs.
        support: [M, N], standard features of images of the fit.
        weights: [M], of these; above zero for hands.
        gamma: of the kernel, exp(-gamma times squared distance).
        scale: (slope, intercept) of the log-odds by what the machine says.
        least: probability from which on an image is a hand.
        convincing: probability from which on its negative is not looked at.
    """

    mean: np.ndarray
    deviation: np.ndarray
    support: np.ndarray
    weights: np.ndarray
    gamma: float
    scale: tuple[float, float]
    least: float
    convincing: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probabilities `[M]` of features `[M, N]`."""
        away = standard(features, self.mean, self.deviation)[:, None] - self.support
        slope, intercept = self.scale
        said = np.exp(-self.gamma * (away**2).sum(-1)) @ self.weights
        return 1 / (1 + np.exp(-np.clip(slope * said + intercept, -30, 30)))


def standard(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Features `[M, N]` by their mean and deviation in the fit."""
    return np.clip((features - mean) / deviation, -4, 4)


@functools.cache
def fitted() -> Judge:
    """The judge that comes with the code."""
    table = json.loads(TABLE.read_text())
    rows = [table['features'][name] for name in hand_look.FEATURES]
    weights, *support = np.array(table['support'], np.float64).T
    return Judge(
        *np.array(rows, np.float64).T,
        support=np.stack(support, 1),
        weights=weights,
        gamma=table['gamma'],
        scale=tuple(table['scale']),
        least=table['least'],
        convincing=table['convincing'],
    )


def checker(accept_all: bool = False) -> Callable[[Sequence[np.ndarray]], list[Verdict]] | None:
    """`check(images, each uint8 [H, W]) -> [Verdict]`; None where the networks are not shipped.

    With `accept_all` nothing is refused: what would be is left as it is, with the flag `no_hand`.
    """
    missing = [name for name in hand_look.NAMES if shipped.find(name) is None]
    if missing:
        log.info(
            f'Images are not checked for hands: this checkout lacks the network {missing[0]} '
            f'(it has: {shipped.listed()}).'
        )
        return None

    def check(images):
        verdicts = judge(images, hand_look.networks(), fitted())
        return [_accepted(verdict) for verdict in verdicts] if accept_all else verdicts

    return check


def _accepted(verdict):
    if not verdict.reason:
        return verdict
    return dataclasses.replace(verdict, flags=verdict.told, reason='')


def judge(
    images: Sequence[np.ndarray], networks: hand_look.Networks, judge: Judge
) -> list[Verdict]:
    """A verdict for each image, uint8 [H, W]: as it is, and as its negative where need be."""
    plain = [_reason_before(image) for image in images]
    asked = [i for i, reason in enumerate(plain) if not reason]
    looks = {}
    for i, look in zip(asked, hand_look.look_at(images, asked, False, networks)):
        looks[i, False] = look
    unsure = [i for i in asked if judge.score(looks[i, False].features[None])[0] < judge.convincing]
    for i, look in zip(unsure, hand_look.look_at(images, unsure, True, networks)):
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
    turns = 0 if look.axis is None else hand_look.turns_to_upright(look.axis)
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
