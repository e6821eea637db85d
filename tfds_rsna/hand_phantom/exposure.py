"""What an image adds to the hand: its place, the display's tone, noise, and collimation.

All of it comes from one random stream that never sees the age; the exposure is set from the image's
own mean, as an automatic exposure control does.
"""

import numpy as np

from tfds_rsna.hand_phantom.raster import View

_KNEE, _WHITE = 175.0, 250.0  # grey from which the display curve flattens, and where it ends


def place(joints, mirror, size, rng):
    """Draws the `View`: the hand's length, turn and position, all 21 points kept inside the image."""
    side = min(size)
    length = np.clip(rng.normal(0.69, 0.07), 0.50, 0.84)
    angle = np.radians(np.clip(rng.normal(1.5, 6.5), -16, 19))
    wild, sign, strong = rng.random(), rng.choice([-1, 1]), rng.uniform(15, 42)
    if wild < 0.07:
        angle = np.radians(sign * strong)
    x, y = 0.5 + rng.normal(0, 0.045), np.clip(rng.normal(0.80, 0.045), 0.68, 0.92)
    points = View(1, angle, mirror, (0, 0)).points(joints)
    low, high = points.min(0), points.max(0)
    length = min(length, *(0.90 / (high - low)))
    x -= length * (low[0] + high[0]) / 2
    shift = np.clip((x, y), 0.05 - length * low, 0.95 - length * high)
    corner = (np.array(size[::-1]) - side) / 2
    return View(length * side, angle, mirror, shift * side - 0.5 + corner)


def tone(attenuation, inside, grain, rng):
    """Attenuation [H, W] -> grey float32 [H, W]: scatter, quantum noise, exposure, display curve."""
    passed = np.exp(-attenuation)  # Beer-Lambert
    scatter, quanta = rng.uniform(0.02, 0.07), rng.uniform(0.006, 0.03)
    signal = -np.log((passed + np.float32(scatter)) / np.float32(1 + scatter))
    signal += grain * np.float32(quanta) / np.sqrt(passed + np.float32(scatter))
    signal *= np.float32(1 / max(float(signal[inside].mean()), 1e-3))
    black, level = rng.uniform(2, 24), np.clip(rng.lognormal(np.log(88), 0.30), 35, 160)
    kind, pale, flat, dark = (
        rng.random(),
        rng.uniform(45, 150),
        rng.uniform(25, 70),
        rng.uniform(8, 40),
    )
    if kind < 0.12:
        black, level = pale, flat
    elif kind < 0.22:
        level = dark
    gamma = rng.uniform(0.85, 1.35)
    grey = np.float32(black) + np.float32(level) * np.maximum(signal, 0) ** np.float32(gamma)
    # the tube's heel effect: one side of the field gets more
    down, across = (
        np.float32(slope) * np.linspace(-1, 1, n, dtype=np.float32)
        for slope, n in zip(rng.normal(0, 0.05, 2) * (black + 10), grey.shape)
    )
    grey += down[:, None] + across[None, :]
    over, span = np.maximum(grey - np.float32(_KNEE), 0), np.float32(_WHITE - _KNEE)
    return grey - over + span * (1 - np.exp(-over / span))


def collimate(grey, rng):
    """A dark surround, a bright rim or a faint second field on about half of the images, turned a
    little.
    """
    kind, tilt = rng.random(), rng.normal(0, 0.02)
    margin, rim, light = rng.uniform(0, 0.075, 4), rng.uniform(0.003, 0.012), rng.uniform(120, 250)
    surround, faint, second = rng.uniform(0, 12), rng.uniform(4, 18), rng.uniform(0.1, 0.3, 2)
    if kind > 0.48:
        return grey
    side = min(grey.shape)
    y, x = ((np.arange(n, dtype=np.float32) + 0.5 - n / 2) / side for n in grey.shape)
    c, s = np.cos(tilt), np.sin(tilt)
    u, v = c * x[None, :] + s * y[:, None], c * y[:, None] - s * x[None, :]
    half_v, half_u = (n / side / 2 for n in grey.shape)

    def within(left, right, top, bottom):
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
