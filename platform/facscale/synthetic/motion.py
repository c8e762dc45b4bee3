"""The course of a clip: action units over time, speech, blinks, gaze, head pose and light, all sampled."""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from facscale.synthetic.actions import AUS, EMOTIONS
from facscale.synthetic.anatomy import Array
from facscale.synthetic.identity import Identity


@dataclass(frozen=True)
class MotionSequence:
    """The motion and the light of a clip of T frames."""

    intensities: Array  # [T, 15] 0..5, in the order of AUS
    pucker: Array  # [T] 0..1 rounding of the lips
    blink: Array  # [T] 0..1
    gaze: Array  # [T, 2] yaw and pitch of the eyes, rad
    pose: Array  # [T, 6] yaw, pitch, roll (rad), x, y (eye distances), scale (about 1)
    light: Array  # [T, 3] unit vector towards the key light
    strength: Array  # [T, 2] of the ambient light and of the key light
    tint: Array  # [3] colour of the key light


def _sample_drift(random: np.random.Generator, *, frames: int, fps: float, seconds: float) -> Array:
    """Smooth noise [frames] of standard deviation 1 with a correlation time of about `seconds`."""
    sigma = seconds * fps
    extra = int(4 * sigma) + 1
    out = gaussian_filter1d(random.normal(size=frames + 2 * extra), sigma)[extra : extra + frames]
    return out * np.sqrt(2 * np.sqrt(np.pi) * sigma)


def _make_envelope(time: Array, random: np.random.Generator, *, start: float) -> Array:
    """Onset, apex and offset of an expression: a factor 0..1 [T]."""
    onset, apex, offset = random.uniform(0.16, 0.5), random.uniform(0.15, 0.7), random.uniform(0.2, 0.6)
    knots = start + np.cumsum([0.0, onset, apex, offset])
    ramp = np.interp(time, knots, [0.0, 1.0, random.uniform(0.8, 1.0), 0.0])
    return ramp * ramp * (3 - 2 * ramp)


def sample_peak(random: np.random.Generator) -> float:
    """Sample the intensity 1..5 of an expression at its apex."""
    return float(np.clip(random.normal(3.4, 1.1), 1.0, 5.0))


def sample_expression(emotion: str, random: np.random.Generator, *, peak: float) -> Array:
    """Sample AU intensities [15] of one of EMOTIONS: some of its combinations, each AU at about `peak` (1..5)."""
    groups = EMOTIONS[emotion]
    active = [g for g in groups if random.random() < 0.6] or [groups[int(random.integers(len(groups)))]]
    out = np.zeros(len(AUS))
    for au in {au for group in active for au in group}:
        out[AUS.index(au)] = np.clip(peak + random.normal(0, 0.6), 1, 5)
    return out


def _sample_expressions(time: Array, random: np.random.Generator) -> Array:
    """Intensities [T, 15]: EMFACS expressions one after another, with occasional single AUs on top."""
    out = np.zeros((len(time), len(AUS)))
    end = time[-1] if len(time) > 1 else 1.0
    start, names = random.uniform(-0.9, 0.4), list(EMOTIONS)
    while start < end:
        strength = sample_peak(random)
        shape = _make_envelope(time, random, start=start)
        apex = sample_expression(names[int(random.integers(len(names)))], random, peak=strength)
        out = np.maximum(out, shape[:, None] * apex)
        start += random.uniform(0.9, 1.9)
    for i in range(len(AUS)):
        at = -1.0 + random.exponential(6.0)
        while at < end:
            out[:, i] = np.maximum(out[:, i], sample_peak(random) * _make_envelope(time, random, start=at))
            at += 1.0 + random.exponential(6.0)
    return out


def _sample_speech(time: Array, random: np.random.Generator, *, fps: float) -> tuple[Array, ...]:
    """Lip parting and jaw drop 0..5 and lip rounding 0..1, each [T]: syllables at 3 to 5 Hz during speech."""
    frames = len(time)
    talk = np.clip(1.5 * _sample_drift(random, frames=frames, fps=fps, seconds=0.8) + random.normal(-0.4, 0.8), 0, 1)
    speed = random.uniform(2.8, 4.5) * (1 + 0.25 * _sample_drift(random, frames=frames, fps=fps, seconds=0.4))
    phase = 2 * np.pi * np.cumsum(speed) / fps
    wobble = 0.3 * _sample_drift(random, frames=frames, fps=fps, seconds=0.15)
    open_ = np.clip(0.5 + 0.6 * np.sin(phase) + wobble, 0, 1.2)
    part, jaw = talk * 2.6 * open_, talk * 1.6 * np.clip(open_ - 0.25, 0, 1) * random.uniform(0.5, 1.3)
    rounding = talk * np.clip(0.5 * _sample_drift(random, frames=frames, fps=fps, seconds=0.12), 0, 0.8)
    return part, jaw, rounding


def _sample_blinks(time: Array, random: np.random.Generator, *, rate: float) -> Array:
    out = np.zeros(len(time))
    at = random.exponential(2.5)
    while at < time[-1] + 0.2:
        out = np.maximum(out, np.interp(time, at + np.array([-0.09, -0.02, 0.03, 0.16]), [0, 1, 1, 0]))
        at += 0.4 + random.exponential(3.0 * np.exp(-rate))
    return out


def _sample_gaze(time: Array, random: np.random.Generator) -> Array:
    """Gaze [T, 2], yaw and pitch: fixations with saccades between them."""
    count = int(time[-1] / 0.4) + 4
    starts = np.cumsum(random.exponential(0.9, size=count)) - 0.9
    targets = random.normal(0, [0.14, 0.06], size=(count, 2)).clip(-0.32, 0.32)
    return targets[np.clip(np.searchsorted(starts, time), 0, count - 1)]


def _sample_pose(random: np.random.Generator, identity: Identity, *, frames: int, fps: float) -> Array:
    """Pose [T, 6]: slow turns and small nods of speech; yaw within about 25 degrees, pitch and roll within about 15."""

    def wander(mean: float, slow: float, fast: float, bound: float) -> Array:
        motion = slow * _sample_drift(random, frames=frames, fps=fps, seconds=0.9) + fast * _sample_drift(
            random, frames=frames, fps=fps, seconds=0.18
        )
        return bound * np.tanh((mean + motion) / bound)

    yaw = wander(identity.habit[0] + random.normal(0, 0.12), 0.06, 0.012, 0.42)
    pitch = wander(identity.habit[1] + random.normal(0, 0.05), 0.03, 0.012, 0.22)
    roll = wander(identity.habit[2] + random.normal(0, 0.04), 0.045, 0.008, 0.2)
    x, y = wander(random.normal(0, 0.08), 0.07, 0.006, 0.3), wander(random.normal(0, 0.06), 0.05, 0.008, 0.25)
    scale = random.uniform(0.9, 1.12) * np.exp(0.02 * _sample_drift(random, frames=frames, fps=fps, seconds=1.2))
    return np.stack([yaw, pitch, roll, x, y, scale], axis=-1)


def _sample_light(random: np.random.Generator, *, frames: int, fps: float) -> tuple[Array, Array]:
    turn = random.normal(0, 0.6) + 0.08 * _sample_drift(random, frames=frames, fps=fps, seconds=1.5)
    rise = np.clip(
        random.normal(0.55, 0.25) + 0.04 * _sample_drift(random, frames=frames, fps=fps, seconds=1.5), -0.1, 1.1
    )
    turn = np.clip(turn, -1.25, 1.25)
    towards = np.stack([np.sin(turn) * np.cos(rise), -np.sin(rise), np.cos(turn) * np.cos(rise)], axis=-1)
    key = random.uniform(0.35, 0.75)
    level = random.uniform(0.85, 1.12) * (1 + 0.04 * _sample_drift(random, frames=frames, fps=fps, seconds=0.7))
    return towards, np.stack([(1 - key) * level, key * level * 1.15], axis=-1)


def sample_motion(identity: Identity, *, frames: int, fps: float, seed: tuple[int, ...]) -> MotionSequence:
    """Sample the motion of a clip; `seed` identifies the clip."""
    random = np.random.default_rng([*seed, 2])
    time = np.arange(frames) / fps
    intensities = _sample_expressions(time, random)
    part, jaw, rounding = _sample_speech(time, random, fps=fps)
    a25, a26 = AUS.index(25), AUS.index(26)
    pressed = intensities[:, [AUS.index(24), AUS.index(17)]].max(1) / 5  # pressed lips do not speak
    intensities[:, a26] = np.maximum(intensities[:, a26], jaw * (1 - pressed))
    intensities[:, a25] = np.maximum(intensities[:, a25], part * (1 - pressed))
    # A dropped jaw also parts the lips.
    intensities[:, a25] = np.maximum(intensities[:, a25], 0.8 * intensities[:, a26])
    intensities[:, AUS.index(24)] *= 1 - np.clip(intensities[:, a25] / 2.5, 0, 1)
    light, strength = _sample_light(random, frames=frames, fps=fps)
    arrays = {
        "intensities": intensities.clip(0, 5),
        "pucker": rounding,
        "blink": _sample_blinks(time, random, rate=identity.habit[3]),
        "gaze": _sample_gaze(time, random),
        "tint": np.array([1.0, 1.0, 1.0]) + random.normal(0, [0.05, 0.015, 0.06]),
        "pose": _sample_pose(random, identity, frames=frames, fps=fps),
        "light": light,
        "strength": strength,
    }
    return MotionSequence(**{name: np.asarray(values, np.float32) for name, values in arrays.items()})
