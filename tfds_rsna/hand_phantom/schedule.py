"""When the ossification centres of the hand appear, how they grow, and when they fuse, by sex.

Appearance: medians after Garn, Rohmann and Silverman, "Radiographic standards for postnatal
ossification and tooth calcification", Medical Radiography and Photography 43 (1967) 45-66; the
pisiform after Greulich and Pyle, "Radiographic Atlas of Skeletal Development of the Hand and
Wrist", 2nd edition (1959). Fusion: begin and end after the standards of Greulich and Pyle and the
indicators of Gilsanz and Ratib, "Hand Bone Age", 2nd edition (2012): distal phalanges first, then
proximal and middle phalanges and metacarpals, the ulna and last the radius; girls about two years
before boys. The table was not proof-read against the printed pages: good enough to draw phantoms,
not to read images by. The growth curves between those ages are ours; no source prints them as
formulae.
"""

from typing import NamedTuple

import numpy as np


class Centre(NamedTuple):
    """One ossification centre's schedule in months.

    A carpal bone never fuses: its `begin` and `end` are both the age of its adult shape.
    """

    appears: float
    begin: float
    end: float


def _row(boys: tuple, girls: tuple) -> dict[bool, Centre]:
    return {True: Centre(*boys), False: Centre(*girls)}


#: SCHEDULE[name][male] -> Centre; months.
SCHEDULE = {
    'capitate': _row((3, 174, 174), (2, 150, 150)),
    'hamate': _row((4, 174, 174), (2, 150, 150)),
    'triquetrum': _row((29, 174, 174), (20, 150, 150)),
    'lunate': _row((49, 174, 174), (31, 150, 150)),
    'scaphoid': _row((68, 176, 176), (49, 152, 152)),
    'trapezium': _row((70, 176, 176), (49, 152, 152)),
    'trapezoid': _row((75, 174, 174), (50, 150, 150)),
    'pisiform': _row((132, 186, 186), (108, 162, 162)),
    'sesamoid': _row((153, 192, 192), (129, 168, 168)),
    'radius_epiphysis': _row((13, 190, 222), (10, 170, 202)),
    'ulna_epiphysis': _row((85, 188, 216), (65, 168, 198)),
    'mc1_epiphysis': _row((31, 172, 188), (19, 150, 166)),
    'mc2_epiphysis': _row((19, 178, 198), (13, 156, 176)),
    'mc3_epiphysis': _row((20, 178, 198), (13, 156, 176)),
    'mc4_epiphysis': _row((24, 178, 198), (15, 156, 176)),
    'mc5_epiphysis': _row((26, 178, 198), (16, 156, 176)),
    'pp1_epiphysis': _row((36, 176, 192), (20, 154, 170)),
    'pp2_epiphysis': _row((16, 176, 194), (11, 154, 172)),
    'pp3_epiphysis': _row((16, 176, 194), (10, 154, 172)),
    'pp4_epiphysis': _row((17, 176, 194), (11, 154, 172)),
    'pp5_epiphysis': _row((21, 174, 192), (14, 152, 170)),
    'mp2_epiphysis': _row((26, 178, 196), (16, 156, 174)),
    'mp3_epiphysis': _row((24, 178, 196), (15, 156, 174)),
    'mp4_epiphysis': _row((24, 178, 196), (15, 156, 174)),
    'mp5_epiphysis': _row((41, 178, 196), (22, 156, 174)),
    'dp1_epiphysis': _row((19, 168, 184), (12, 146, 162)),
    'dp2_epiphysis': _row((38, 168, 184), (23, 148, 164)),
    'dp3_epiphysis': _row((29, 168, 184), (18, 148, 164)),
    'dp4_epiphysis': _row((29, 168, 184), (18, 148, 164)),
    'dp5_epiphysis': _row((37, 168, 184), (23, 148, 164)),
}


class Stage(NamedTuple):
    """How far one centre has come."""

    present: bool
    growth: float  # 0 at its appearance to 1 at its full size
    fusion: float  # 0 = open growth plate to 1 = one bone


def stage(name: str, months: float, male: bool) -> Stage:
    """The `Stage` of one centre at a bone age in months.

    Raises:
        KeyError: the name is not in `SCHEDULE`.
    """
    centre = SCHEDULE[name][bool(male)]
    growth = np.clip((months - centre.appears) / (centre.begin - centre.appears), 0, 1)
    span = max(centre.end - centre.begin, 1)
    fused = np.clip((months - centre.begin) / span, 0, 1)
    fusion = fused * fused * (3 - 2 * fused)
    return Stage(bool(months >= centre.appears), float(growth), float(fusion))


def maturity(months: float, male: bool) -> float:
    """0 at birth to 1 when the last growth plate but the radius's has closed."""
    return float(np.clip(months / SCHEDULE['ulna_epiphysis'][bool(male)].end, 0, 1))


# Quantiles of the bone ages of RSNA's training set (12,000 of its 12,611 labels), months.
_SHARE = (0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1)
_MONTHS = {
    True: (1, 24, 54, 72, 108, 150, 162, 180, 192, 216, 228),
    False: (4, 24, 50, 69, 94, 120, 144, 162, 180, 192, 216),
}
_MALE_SHARE = 0.54


def draw(rng: np.random.Generator) -> tuple[float, bool]:
    """Draws (months, male) as RSNA's training set has them: whole months, 1-228, 54% male."""
    male = bool(rng.random() < _MALE_SHARE)
    return float(np.round(np.interp(rng.random(), _SHARE, _MONTHS[male]))), male
