"""What an image adds to the hand: its place, the display's tone, noise, and collimation.

All of it comes from one random stream that never sees the age. The exposure is set from the image's
own mean, as an automatic exposure control does.
"""

import numpy as np

from tfds_rsna.hand_phantom.raster import View

_KNEE, _WHITE = 175.0, 250.0  # grey from which the display curve flattens, and where it ends


def place(joints: np.ndarray, mirror: int, size: tuple[int, int], rng: np.random.Generator) -> View:
    """Draws the `View`: the hand's length, turn and position, all 21 points inside the image."""
    side = min(size)
    length = np.clip(rng.normal(0.69, 0.07), 0.50, 0.84)
    angle = np.radians(np.clip(rng.normal(1.5, 6.5), -16, 19))
    wild = rng.random()
    sign = rng.choice([-1, 1])
    strong = rng.uniform(15, 42)
    if wild < 0.07:
        angle = np.radians(sign * strong)
    x = 0.5 + rng.normal(0, 0.045)
    y = np.clip(rng.normal(0.80, 0.045), 0.68, 0.92)
    points = View(1, angle, mirror, (0, 0)).points(joints)
    low = points.min(0)
    high = points.max(0)
    length = min(length, *(0.90 / (high - low)))
    x -= length * (low[0] + high[0]) / 2
    shift = np.clip((x, y), 0.05 - length * low, 0.95 - length * high)
    corner = (np.array(size[::-1]) - side) / 2
    return View(length * side, angle, mirror, shift * side - 0.5 + corner)


def tone(
    attenuation: np.ndarray, inside: np.ndarray, grain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Attenuation -> grey, float32 [H, W]: scatter, quantum noise, exposure, display curve.

    Args:
        attenuation: float32 [H, W].
        inside: bool [H, W], where the hand is: its mean sets the exposure.
        grain: float32 [H, W], normal noise that `rng` has not drawn.
        rng: draws everything else.
    """
    passed = np.exp(-attenuation)  # Beer-Lambert
    scatter = rng.uniform(0.02, 0.07)
    quanta = rng.uniform(0.006, 0.03)
    signal = -np.log((passed + np.float32(scatter)) / np.float32(1 + scatter))
    signal += grain * np.float32(quanta) / np.sqrt(passed + np.float32(scatter))
    signal *= np.float32(1 / max(float(signal[inside].mean()), 1e-3))
    # All are drawn, used or not: so no choice shifts the draws behind it.
    black = rng.uniform(2, 24)
    level = np.clip(rng.lognormal(np.log(88), 0.30), 35, 160)
    kind = rng.random()
    pale = rng.uniform(45, 150)
    flat = rng.uniform(25, 70)
    dark = rng.uniform(8, 40)
    if kind < 0.12:
        black = pale
        level = flat
    elif kind < 0.22:
        level = dark
    gamma = rng.uniform(0.85, 1.35)
    grey = np.float32(black) + np.float32(level) * np.maximum(signal, 0) ** np.float32(gamma)
    # The tube's heel effect: one side of the field gets more.
    slopes = (rng.normal(0, 0.05, 2) * (black + 10)).astype(np.float32)
    down = slopes[0] * np.linspace(-1, 1, grey.shape[0], dtype=np.float32)
    across = slopes[1] * np.linspace(-1, 1, grey.shape[1], dtype=np.float32)
    grey += down[:, None] + across[None, :]
    over = np.maximum(grey - np.float32(_KNEE), 0)
    span = np.float32(_WHITE - _KNEE)
    return grey - over + span * (1 - np.exp(-over / span))


def collimate(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds a dark surround, a bright rim or a faint second field to about half of the images.

    `grey` is float32 [H, W]. The field is turned a little.
    """
    # All are drawn, used or not: so no choice shifts the draws behind it.
    kind = rng.random()
    tilt = rng.normal(0, 0.02)
    margin = rng.uniform(0, 0.075, 4)
    rim = rng.uniform(0.003, 0.012)
    light = rng.uniform(120, 250)
    surround = rng.uniform(0, 12)
    faint = rng.uniform(4, 18)
    second = rng.uniform(0.1, 0.3, 2)
    if kind > 0.48:
        return grey
    rows, columns = grey.shape
    side = min(rows, columns)
    y = (np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / side
    x = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / side
    c, s = np.cos(tilt), np.sin(tilt)
    u = c * x[None, :] + s * y[:, None]
    v = c * y[:, None] - s * x[None, :]
    half_u = columns / side / 2
    half_v = rows / side / 2

    def within(left: float, right: float, top: float, bottom: float) -> np.ndarray:
        """Pixels to the nearest edge of the field, negative outside."""
        return side * np.minimum(
            np.minimum(u + half_u - left, half_u - right - u),
            np.minimum(v + half_v - top, half_v - bottom - v),
        )

    if kind > 0.38:
        return grey + np.float32(faint) * np.clip(within(second[0], 0, second[1], -0.1) + 0.5, 0, 1)
    edge = within(*margin)
    outside = np.clip(0.5 - edge, 0, 1)
    if kind > 0.20:
        band = np.clip(edge + 0.5, 0, 1) * np.clip(rim * side - edge + 0.5, 0, 1)
        grey = grey * (1 - band) + light * band
    return grey * (1 - outside) + surround * outside
