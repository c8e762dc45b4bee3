"""People: head shape, colours, hair and skin, all sampled from (seed, number)."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facscale.synthetic.anatomy import Array, blob, blob_pair, get_template, make_field, smoothstep

Colour = Array  # [3] RGB, 0..1


def _make_palette(*colours: tuple[int, int, int]) -> Array:
    """Colours [n, 3] in 0..1 from RGB in 0..255."""
    return np.array(colours) / 255


# From dark to pale; the tone of a person lies between two neighbours.
_SKIN = _make_palette(
    (78, 50, 38), (112, 74, 55), (146, 100, 74), (182, 132, 102), (208, 160, 130), (226, 182, 156), (236, 198, 178)
)
_HAIR = _make_palette(
    (22, 18, 17),
    (44, 30, 24),
    (78, 52, 36),
    (118, 82, 52),
    (176, 138, 84),
    (128, 66, 42),
    (150, 146, 142),
    (206, 202, 196),
)
_IRIS = _make_palette((58, 36, 22), (92, 60, 32), (112, 96, 52), (84, 110, 82), (90, 122, 152), (120, 140, 156))
_CLOTH = _make_palette(
    (34, 40, 58),
    (92, 30, 34),
    (52, 74, 60),
    (120, 118, 116),
    (214, 210, 202),
    (24, 24, 26),
    (150, 112, 60),
    (70, 100, 140),
)


@dataclass(frozen=True)
class Identity:
    """The appearance of a person."""

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
    hairline: float  # height of the hairline above the average
    parting: float  # angle of the parting around the vertical axis, rad
    curl: float  # 0 straight .. 1 curly
    wave: float  # unevenness of the hairline
    comb: float  # how far sideways the hair is combed
    volume: float  # of the hair over the skull
    long_hair: float  # length of the hair below the ears; 0: short
    beard: float  # 0 shaved .. 1 full
    freckles: float
    age: float  # 0 young .. 1 old: lines, uneven skin
    lid_rest: float  # habitual closure of the eyes
    habit: Array  # [4] habitual yaw, pitch and roll (rad), and log blink rate
    gain: Array  # [15] amplitude of each AU, about 1
    paint_seed: int


def _make_head_fields(x: Array, y: Array) -> list[tuple[float, Array]]:
    """(standard deviation, field [V, 3]) of each variation of the head, in eye distances."""
    side = np.sign(x)
    high, hollow = (blob_pair(x, y, at=at, size=(s, s)) for at, s in (((0.85, 0.4), 0.3), ((0.65, 0.95), 0.28)))
    return [
        (0.055, make_field(x, dx=x)),  # wide head
        (0.08, make_field(x, dx=x * smoothstep(y, 0.5, 1.4))),  # wide jaw
        (0.09, make_field(x, dy=smoothstep(y, 0.8, 1.7))),  # long chin
        (0.07, make_field(x, dy=smoothstep(y, 0.0, 0.6))),  # long middle face
        (0.10, make_field(x, dy=-smoothstep(-y, 0.4, 1.5))),  # high skull
        (0.06, make_field(x, dz=blob(x, y, at=(0, 1.62), size=(0.35, 0.22)))),  # prominent chin
        (
            0.05,
            make_field(x, dx=0.5 * side * high, dz=blob_pair(x, y, at=(0.72, 0.4), size=(0.26, 0.22))),
        ),  # cheekbones
        (
            0.06,
            make_field(x, dx=side * blob_pair(x, y, at=(0.75, 1.0), size=(0.35, 0.35)), dz=0.5 * hollow),
        ),  # full cheeks
    ]


def _make_feature_fields(x: Array, y: Array) -> list[tuple[float, Array]]:
    """(standard deviation, field [V, 3]) of each variation of eyes, brows, nose and mouth."""
    side = np.sign(x)
    nose = blob(x, y, at=(0, 0.55), size=(0.3, 0.26))
    eyes, brows = (
        blob_pair(x, y, at=(0.49, 0.0), size=(0.28, 0.14)),
        blob_pair(x, y, at=(0.5, -0.29), size=(0.38, 0.12)),
    )
    mouth = blob(x, y, at=(0, 1.07), size=(0.5, 0.22))
    lips_up, lips_low = blob(x, y, at=(0, 0.96), size=(0.35, 0.06)), blob(x, y, at=(0, 1.15), size=(0.35, 0.08))
    return [
        (0.16, make_field(x, dx=x * nose)),  # wide nose
        (0.08, make_field(x, dz=blob(x, y, at=(0, 0.5), size=(0.16, 0.22)))),  # long nose bridge to tip
        (0.045, make_field(x, dz=blob(x, y, at=(0, 0.22), size=(0.12, 0.14)))),  # hump
        (0.045, make_field(x, dy=-nose)),  # turned-up nose
        (0.035, make_field(x, dx=side * eyes)),  # wide-set eyes
        (0.09, make_field(x, dx=(np.abs(x) - 0.494) * side * eyes, dy=(y - 0.012) * eyes * 1.6)),  # big eyes
        (0.10, make_field(x, dy=-(np.abs(x) - 0.494) * eyes)),  # slant of the eyes
        (0.035, make_field(x, dy=eyes * 0.4 + brows)),  # low brows
        (0.10, make_field(x, dy=-(np.abs(x) - 0.5) * brows)),  # slant of the brows
        (0.05, make_field(x, dz=brows)),  # brow ridge
        (0.11, make_field(x, dx=x * mouth)),  # wide mouth
        (0.028, make_field(x, dy=-lips_up, dz=0.6 * lips_up)),  # full upper lip
        (0.035, make_field(x, dy=lips_low, dz=0.6 * lips_low)),  # full lower lip
        (0.04, make_field(x, dy=mouth)),  # low mouth
        (0.02, make_field(x, dx=blob(x, y, at=(0, 0.55), size=(0.3, 0.4)))),  # crooked nose
        (0.03, make_field(x, dy=x * smoothstep(y, 0.4, 1.1) * 0.5)),  # crooked mouth
    ]


def _sample_between(random: np.random.Generator, palette: Array) -> Colour:
    i = int(random.integers(len(palette) - 1))
    return palette[i] + random.random() * (palette[i + 1] - palette[i])


def _sample_colours(random: np.random.Generator) -> dict[str, Colour]:
    """Sample the colours of a person; dark skin mostly comes with dark hair and eyes."""
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
        "cloth": _sample_between(random, _CLOTH),
    }


def sample_identity(*, number: int, seed: int) -> Identity:
    """Sample person `number` of the population `seed`."""
    random = np.random.default_rng([seed, number, 1])
    t = get_template()
    x, y = t.neutral[:, 0], t.neutral[:, 1]
    fields = _make_head_fields(x, y) + _make_feature_fields(x, y)
    shape = sum(std * np.clip(random.normal(), -2.0, 2.0) * field for std, field in fields)
    bearded, curl = random.random() < 0.3, random.uniform(0.5, 1.0) if random.random() < 0.3 else 0.0
    bald = bearded and random.random() < 0.3
    return Identity(
        number=number,
        shape=np.asarray(shape, np.float32),
        **_sample_colours(random),
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
