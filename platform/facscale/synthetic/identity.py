"""Who is rendered: head shape, colours, hair and skin, all drawn from (seed, identity)."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facscale.synthetic.anatomy import Array, blob, pair, step, template

Colour = Array  # [3] RGB, 0..1

# From dark to pale; a person's tone lies between two neighbours.
_SKIN = (
    np.array(
        [
            [78, 50, 38],
            [112, 74, 55],
            [146, 100, 74],
            [182, 132, 102],
            [208, 160, 130],
            [226, 182, 156],
            [236, 198, 178],
        ]
    )
    / 255
)
_HAIR = (
    np.array(
        [
            [22, 18, 17],
            [44, 30, 24],
            [78, 52, 36],
            [118, 82, 52],
            [176, 138, 84],
            [128, 66, 42],
            [150, 146, 142],
            [206, 202, 196],
        ]
    )
    / 255
)
_IRIS = np.array([[58, 36, 22], [92, 60, 32], [112, 96, 52], [84, 110, 82], [90, 122, 152], [120, 140, 156]]) / 255
_CLOTH = (
    np.array(
        [
            [34, 40, 58],
            [92, 30, 34],
            [52, 74, 60],
            [120, 118, 116],
            [214, 210, 202],
            [24, 24, 26],
            [150, 112, 60],
            [70, 100, 140],
        ]
    )
    / 255
)


@dataclass(frozen=True)
class Identity:
    """One person."""

    number: int
    shape: Array  # [V, 3] displacement of the template
    skin: Colour
    lips: Colour
    hair: Colour
    brows: Colour
    iris: Colour
    cloth: Colour
    brow_thickness: float
    brow_density: float
    hairline: float  # how much higher than usual the hair begins
    parting: float  # where the hair is parted, rad around the vertical axis
    curl: float  # 0 straight .. 1 curly
    wave: float  # unevenness of the hairline
    comb: float  # how far sideways it is combed
    volume: float  # of the hair over the skull
    long_hair: float  # how far the hair falls below the ears, 0: short
    beard: float  # 0 shaved .. 1 full
    freckles: float
    age: float  # 0 young .. 1 old: lines, uneven skin
    lid_rest: float  # habitual closing of the eyes
    habit: Array  # [4] person's own pose offsets (rad) and blink rate
    gain: Array  # [15] how far this person's AUs move at a given intensity, about 1
    paint_seed: int


def _move(x: Array, dx: object = 0.0, dy: object = 0.0, dz: object = 0.0) -> Array:
    return np.stack(np.broadcast_arrays(np.asarray(dx), np.asarray(dy), np.asarray(dz), x)[:3], axis=-1)


def _head_fields(x: Array, y: Array) -> list[tuple[float, Array]]:
    """(standard deviation, field [V, 3]) of each way in which heads differ; lengths in eye distances."""
    side = np.sign(x)
    high, hollow = (pair(x, y, at=at, size=(s, s)) for at, s in (((0.85, 0.4), 0.3), ((0.65, 0.95), 0.28)))
    return [
        (0.055, _move(x, dx=x)),  # wide head
        (0.08, _move(x, dx=x * step(y, 0.5, 1.4))),  # wide jaw
        (0.09, _move(x, dy=step(y, 0.8, 1.7))),  # long chin
        (0.07, _move(x, dy=step(y, 0.0, 0.6))),  # long middle face
        (0.10, _move(x, dy=-step(-y, 0.4, 1.5))),  # high skull
        (0.06, _move(x, dz=blob(x, y, at=(0, 1.62), size=(0.35, 0.22)))),  # prominent chin
        (0.05, _move(x, dx=0.5 * side * high, dz=pair(x, y, at=(0.72, 0.4), size=(0.26, 0.22)))),  # cheekbones
        (0.06, _move(x, dx=side * pair(x, y, at=(0.75, 1.0), size=(0.35, 0.35)), dz=0.5 * hollow)),  # full cheeks
    ]


def _feature_fields(x: Array, y: Array) -> list[tuple[float, Array]]:
    """The same of eyes, brows, nose and mouth."""
    side = np.sign(x)
    nose = blob(x, y, at=(0, 0.55), size=(0.3, 0.26))
    eyes, brows = pair(x, y, at=(0.49, 0.0), size=(0.28, 0.14)), pair(x, y, at=(0.5, -0.29), size=(0.38, 0.12))
    mouth = blob(x, y, at=(0, 1.07), size=(0.5, 0.22))
    lips_up, lips_low = blob(x, y, at=(0, 0.96), size=(0.35, 0.06)), blob(x, y, at=(0, 1.15), size=(0.35, 0.08))
    return [
        (0.16, _move(x, dx=x * nose)),  # wide nose
        (0.08, _move(x, dz=blob(x, y, at=(0, 0.5), size=(0.16, 0.22)))),  # long nose bridge to tip
        (0.045, _move(x, dz=blob(x, y, at=(0, 0.22), size=(0.12, 0.14)))),  # hump
        (0.045, _move(x, dy=-nose)),  # turned-up nose
        (0.035, _move(x, dx=side * eyes)),  # wide-set eyes
        (0.09, _move(x, dx=(np.abs(x) - 0.494) * side * eyes, dy=(y - 0.012) * eyes * 1.6)),  # big eyes
        (0.10, _move(x, dy=-(np.abs(x) - 0.494) * eyes)),  # slant of the eyes
        (0.035, _move(x, dy=eyes * 0.4 + brows)),  # low brows
        (0.10, _move(x, dy=-(np.abs(x) - 0.5) * brows)),  # slant of the brows
        (0.05, _move(x, dz=brows)),  # brow ridge
        (0.11, _move(x, dx=x * mouth)),  # wide mouth
        (0.028, _move(x, dy=-lips_up, dz=0.6 * lips_up)),  # full upper lip
        (0.035, _move(x, dy=lips_low, dz=0.6 * lips_low)),  # full lower lip
        (0.04, _move(x, dy=mouth)),  # low mouth
        (0.02, _move(x, dx=blob(x, y, at=(0, 0.55), size=(0.3, 0.4)))),  # crooked nose
        (0.03, _move(x, dy=x * step(y, 0.4, 1.1) * 0.5)),  # crooked mouth
    ]


def _between(random: np.random.Generator, palette: Array) -> Colour:
    i = int(random.integers(len(palette) - 1))
    return palette[i] + random.random() * (palette[i + 1] - palette[i])


def _colours(random: np.random.Generator) -> dict[str, Colour]:
    """Skin, lips, hair, brows, iris; dark skin comes with dark hair and eyes more often than not."""
    tone = random.random()
    place = tone * (len(_SKIN) - 1.001)
    skin = _SKIN[int(place)] + (place % 1) * (_SKIN[int(place) + 1] - _SKIN[int(place)])
    skin = np.clip(skin * random.normal(1.0, [0.02, 0.02, 0.03]), 0.05, 0.97)
    hair = _HAIR[int(random.integers(0, len(_HAIR) if tone > 0.45 else 3))] * random.uniform(0.85, 1.15)
    iris = _IRIS[int(random.integers(0, len(_IRIS) if tone > 0.5 else 2))] * random.uniform(0.9, 1.15)
    red = np.array([random.uniform(0.6, 0.8), 0.22, 0.26]) * (0.5 + 0.5 * skin[0])
    lips = skin * [0.9, 0.68, 0.70] + random.uniform(0.0, 0.35) * (red - skin * [0.9, 0.68, 0.70])
    brows = 0.75 * np.minimum(hair, skin * 0.6) * random.uniform(0.8, 1.05)
    return {
        "skin": skin,
        "lips": lips,
        "hair": np.clip(hair, 0, 1),
        "brows": brows,
        "iris": np.clip(iris, 0, 1),
        "cloth": _between(random, _CLOTH),
    }


def identity(*, number: int, seed: int) -> Identity:
    """The person `number` of the population `seed`."""
    random = np.random.default_rng([seed, number, 1])
    t = template()
    x, y = t.neutral[:, 0], t.neutral[:, 1]
    fields = _head_fields(x, y) + _feature_fields(x, y)
    shape = sum(std * np.clip(random.normal(), -2.0, 2.0) * field for std, field in fields)
    bearded, curl = random.random() < 0.3, random.uniform(0.5, 1.0) if random.random() < 0.3 else 0.0
    bald = bearded and random.random() < 0.3
    return Identity(
        number=number,
        shape=np.asarray(shape, np.float32),
        **_colours(random),
        brow_thickness=random.uniform(0.75, 1.35),
        brow_density=random.uniform(0.6, 1.0),
        hairline=0.8 if bald else float(np.clip(random.normal(0.0, 0.14), -0.3, 0.3)),
        parting=random.normal(0.0, 0.4),
        comb=random.uniform(0.0, 0.9),
        curl=curl,
        wave=random.normal(0.0, 0.06),
        volume=random.uniform(0.02, 0.18) + curl * random.uniform(0.05, 0.3),
        long_hair=random.uniform(0.4, 1.0) if random.random() < 0.4 and not bearded else 0.0,
        beard=random.uniform(0.3, 0.9) if bearded else random.uniform(0.0, 0.12),
        freckles=max(0.0, random.normal(0.0, 0.5)),
        age=random.beta(1.5, 2.5),
        lid_rest=random.uniform(0.0, 0.24),
        habit=random.normal(0.0, [0.07, 0.05, 0.03, 0.3]),
        gain=random.normal(1.0, 0.08, size=15).astype(np.float32).clip(0.8, 1.2),
        paint_seed=int(random.integers(2**31)),
    )
