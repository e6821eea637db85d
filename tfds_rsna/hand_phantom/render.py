"""From a drawn hand to a film: placement, attenuation (Beer-Lambert), exposure, noise, frame and marker.

Nothing here looks at the age: size, place, turn, tone, noise, frame and marker are drawn from their own
random stream, and the exposure is set from the film's own mean, as an automatic exposure control does.
"""
import numpy as np

from tfds_rsna.hand_phantom import raster, schedule
from tfds_rsna.hand_phantom.anatomy import BONE_NAMES, hand
from tfds_rsna.hand_phantom.marker import INITIALS, coverage, layout

_FLESH, _BONE = 4.8, 15.0  # attenuation per hand unit (an adult's is about 190 mm)


def _place(joints, mirror, rng, size):
    """Draws the `View`: hand length, turn and position, all 21 points kept inside the film."""
    side = min(size)
    length = np.clip(rng.normal(.645, .075), .46, .80)
    angle = np.radians(np.clip(rng.normal(1.5, 6.5), -16, 19))
    wild, sign, strong = rng.random(), rng.choice([-1, 1]), rng.uniform(15, 42)
    if wild < .07:
        angle = np.radians(sign * strong)
    x, y = .5 + rng.normal(0, .045), np.clip(rng.normal(.775, .045), .66, .90)
    points = raster.View(1, angle, mirror, (0, 0)).points(joints)
    low, high = points.min(0), points.max(0)
    length = min(length, *(.90 / (high - low)))
    x -= length * (low[0] + high[0]) / 2
    shift = np.clip((x, y), .05 - length * low, .95 - length * high)
    corner = (np.array(size[::-1]) - side) / 2
    return raster.View(length * side, angle, mirror, shift * side - .5 + corner)


def _boxes(hand_, view):
    """[N, 4] (row0, column0, row1, column1) pixels in the order of BONE_NAMES; NaN where nothing is ossified."""
    found = dict(hand_.regions)
    for strip in hand_.strips:
        points = raster.corners(strip)
        for name in {strip.bone, strip.bone.removesuffix('_epiphysis')}:
            found[name] = np.concatenate([found[name], points]) if name in found else points
    for blob in hand_.blobs:
        found[blob.bone] = raster.outline(blob)
    boxes = np.full((len(BONE_NAMES), 4), np.nan, np.float32)
    for row, name in enumerate(BONE_NAMES):
        if name in found:
            points = view.points(found[name])
            boxes[row] = *points.min(0)[::-1], *points.max(0)[::-1]
    return boxes


def _tone(attenuation, inside, grain, rng):
    """Attenuation [H, W] -> grey float [H, W]: scatter, quantum noise, automatic exposure, display curve."""
    passed = np.exp(-attenuation)
    scatter = rng.uniform(.02, .07)
    signal = -np.log((passed + scatter) / (1 + scatter))
    signal += grain * (rng.uniform(.006, .03) / np.sqrt(passed + scatter))
    signal *= 1 / max(float(signal[inside].mean()), 1e-3)
    kind, pale, dark = rng.random(), rng.uniform(45, 150), rng.uniform(8, 40)
    black, level = rng.uniform(2, 24), np.clip(rng.lognormal(np.log(88), .30), 35, 160)
    gamma = rng.uniform(.85, 1.35)
    if kind < .12:
        black, level = pale, rng.uniform(25, 70)
    elif kind < .22:
        level = dark
    grey = np.maximum(signal, 0) ** gamma
    grey = black + level * grey
    knee = 175.
    return np.where(grey > knee, knee + (250 - knee) * (1 - np.exp((knee - grey) / (250 - knee))), grey)


def _frame(grey, angle, rng):
    """Collimation: a dark surround, bright blades or a faint second field, turned a little."""
    kind, tilt = rng.random(), rng.normal(0, .02)
    margin, rim, light = rng.uniform(.0, .075, 4), rng.uniform(.003, .012), rng.uniform(120, 250)
    surround, faint = rng.uniform(0, 12), rng.uniform(4, 18)
    wide = rng.uniform(.1, .3, 2)
    if kind > .48:
        return grey
    height, width = grey.shape
    side = min(height, width)
    c, s = np.cos(tilt), np.sin(tilt)
    y = (np.arange(height, dtype=np.float32)[:, None] + .5 - height / 2) / side
    x = (np.arange(width, dtype=np.float32)[None, :] + .5 - width / 2) / side
    u, v = c * x + s * y, c * y - s * x
    half_x, half_y = width / side / 2, height / side / 2

    def inside(left, right, top, bottom):
        edge = np.minimum(np.minimum(u + half_x - left, half_x - right - u), np.minimum(v + half_y - top, half_y - bottom - v))
        return edge * side

    edge = inside(*margin)
    if kind < .20:  # blades: dark outside the field
        return np.where(edge < 0, surround, grey)
    if kind < .38:  # the plate's bright rim
        band = np.clip(edge + .5, 0, 1) * np.clip(rim * side - edge + .5, 0, 1)
        outside = np.clip(.5 - edge, 0, 1)
        return (grey * (1 - band) + light * band) * (1 - outside) + surround * outside
    return grey + faint * np.clip(inside(wide[0], .0, wide[1], -.1) + .5, 0, 1)


def _mark(grey, inside, mirror, rng):
    """The marker, on the little finger's side where it covers the least of the hand."""
    side = min(grey.shape)
    initials = ''.join(rng.choice(INITIALS, rng.integers(1, 4)))
    height, angle = rng.uniform(.045, .085) * side, rng.normal(0, .22) + rng.choice([0, 0, 0, 0, .6])
    segments, extent = layout('L' if mirror > 0 else 'R', initials, rng.random() < .3)
    plate, lead, stroke = rng.random() < .6, rng.uniform(185, 255), rng.uniform(.10, .15)
    extent = np.array(extent) * height
    reach = np.hypot(*extent) / 2 + .25 * height
    frame = np.array(grey.shape[::-1])
    seats = rng.uniform((.01, .05), (.24, .95), (24, 2)) * (side, side) + (frame - side) / 2
    if mirror < 0:
        seats[:, 0] = frame[0] - seats[:, 0]
    seats = np.clip(seats, reach, frame - 1 - reach)
    r = int(reach) + 1

    def around(seat):
        x, y = seat.astype(int)
        return slice(max(y - r, 0), y + r + 1), slice(max(x - r, 0), x + r + 1)

    box = around(seats[int(np.argmin([inside[around(s)].mean() for s in seats]))])
    seat = seats[int(np.argmin([inside[around(s)].mean() for s in seats]))]
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    lines = (segments * height - extent / 2) @ turn.T + seat
    area = grey[box]
    origin = (box[1].start, box[0].start)
    if plate:
        y, x = np.mgrid[:area.shape[0], :area.shape[1]] + np.array(origin[::-1])[:, None, None] - seat[::-1, None, None]
        u, v = np.abs(c * x + s * y), np.abs(c * y - s * x)
        gap = np.minimum(extent[0] / 2 + .14 * height - u, extent[1] / 2 + .14 * height - v)
        area += np.clip(gap + .5, 0, 1) * (6 + .08 * lead)
    cover = coverage(lines, stroke * height, area.shape, origin)
    grey[box] = area * (1 - cover) + lead * cover
    return grey


def phantom(seed, index, size=(512, 512)):
    """Renders film `index` of the series `seed`.

    Args:
      seed, index: whole numbers >= 0; they alone decide the film.
      size: (rows, columns). The same film at any size; only the grain is drawn per pixel (its strength falls as
        pixels grow, as averaging would make it).

    Returns:
      A dict: `image` uint8 [H, W]; `hand_mask` uint8 [H, W], 1 = hand and forearm; `keypoints` float32 [3, 2]
      (row, column; pixel centres at whole numbers): middle fingertip, thumb tip, capitate centre;
      `coco_keypoints` float32 [21, 2], COCO-hand order; `bone_boxes` float32 [N, 4] (row0, column0, row1,
      column1) in the order of `BONE_NAMES`, NaN where a centre has not ossified; `months` float, whole, 1-228;
      `male` bool.
    """
    size = (int(size[0]), int(size[1]))
    if min(size) < 16:
        raise ValueError(f'hand_phantom: size {size} is too small to draw; give (rows, columns) of at least 16.')
    streams = np.random.SeedSequence([int(seed), int(index)]).spawn(4)
    label, body, film, noise = (np.random.Generator(np.random.Philox(s)) for s in streams)
    months, male = schedule.draw(label)
    return film_of(months, male, body, film, noise, size)


def film_of(months, male, body, film, noise, size):
    """`phantom` with the age, the sex and the random streams given: one hand at many ages, for pictures and tests."""
    drawn = hand(months, male, body)
    mirror = -1 if film.random() < .03 else 1
    view = _place(drawn.joints, mirror, film, size)
    flesh, inside = raster.flesh(drawn, view, size)
    attenuation = _FLESH * flesh + _BONE * raster.bone(drawn, view, size) * inside
    grain = noise.standard_normal(size, np.float32) * np.float32(min(size) / 512)
    grey = _tone(attenuation, inside, grain, film)
    inverted = film.random() < .02
    grey = _frame(_mark(grey, inside, mirror, film), 0, film)
    grey = np.clip(grey + .5, 0, 255).astype(np.uint8)
    coco = view.points(drawn.joints)[:, ::-1].astype(np.float32)
    capitate = view.points(drawn.capitate)[::-1].astype(np.float32)
    return {'image': 255 - grey if inverted else grey, 'hand_mask': inside.astype(np.uint8),
            'keypoints': np.stack([coco[12], coco[4], capitate]), 'coco_keypoints': coco,
            'bone_boxes': _boxes(drawn, view), 'months': float(months), 'male': bool(male)}
