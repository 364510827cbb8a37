"""Augmentation of a training sample in space, time, contrast and noise.

The order is that of nature: the patient lies elsewhere (flips, quarter turns, affine), enhances
more or less (contrast), the bolus comes at another time (shift, stretch), frames are lost, and the
scanner adds its blur, noise and offset.

MONAI's transforms are used where they exist, but not their random forms: these draw from a
RandomState of their own, in an order that may change between versions. Here every number is drawn
from the caller's generator, so that a sample can be made again exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Affine, Flip, GaussianSmooth, Rotate90
from torch import Tensor

from strokect.core.errors import SettingsError
from strokect.learn.sample import Sample

Pair = tuple[float, float]


@dataclass(frozen=True)
class AugmentOptions:
    """What is done how often, and how much. All probabilities 0, the default: nothing.

    A name that ends in ``_p`` is a probability per sample; the range after it is drawn from
    uniformly, "within ±" where one number is given. Lengths are in pixels, times in time points
    (of the sample), intensities in units of the normalised image.

    flip_x_p : left-right. flip_y_p : front-back.
    rotate90_p : by 90, 180 or 270 degrees in plane; where Y != X by 180, as shapes are kept.
    affine_p : rotation_deg within ±, scale within 1 ±, shift_px within ± along each axis; image
        linear, label and weight nearest. What comes from outside gets label 0 and weight 0.
    contrast_p, contrast : factor (low, high) on the enhancement, which is the difference to the
        mean of the first ``baseline_points``. With fewer time points than 2 nothing changes.
    bolus_p : shift_points within ±, not rounded, later if positive, and stretch_time, the curve
        drawn out about its middle by 1 ±; linear, the ends held.
    drop_p, drop_frames : 1 to ``drop_frames`` frames are lost and interpolated from those beside.
    smooth_p, smooth_px : SD (low, high) of an in-plane Gaussian.
    noise_p, noise_sd : SD (low, high) of white Gaussian noise.
    offset_p, offset : within ±, the same for all voxels.
    clinical_drop_p : each clinical score counts as not known, so that the network can do without.
    outside : voxels of exactly this value at all times and in all channels are not brain, and get
        no smoothing, noise or offset, as the network never sees them otherwise; None: all get them.
    Raises SettingsError where a probability or range is impossible.
    """

    flip_x_p: float = 0.0
    flip_y_p: float = 0.0
    rotate90_p: float = 0.0
    affine_p: float = 0.0
    rotation_deg: float = 10.0
    scale: float = 0.1
    shift_px: float = 4.0
    contrast_p: float = 0.0
    contrast: Pair = (0.7, 1.4)
    baseline_points: int = 2
    bolus_p: float = 0.0
    shift_points: float = 2.0
    stretch_time: float = 0.0
    drop_p: float = 0.0
    drop_frames: int = 2
    smooth_p: float = 0.0
    smooth_px: Pair = (0.3, 0.8)
    noise_p: float = 0.0
    noise_sd: Pair = (0.0, 0.2)
    offset_p: float = 0.0
    offset: float = 0.1
    clinical_drop_p: float = 0.0
    outside: float | None = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name == "outside":
                continue
            if name.endswith("_p"):
                good, fix = 0 <= value <= 1, "Give a probability, 0 to 1"
            elif isinstance(value, tuple):
                good, fix = 0 <= value[0] <= value[1] < np.inf, "Give low, high, neither negative"
            elif name in ("scale", "stretch_time"):
                good, fix = 0 <= value < 1, "Give a share, 0 or more and under 1"
            else:
                least = 1 if name in ("baseline_points", "drop_frames") else 0
                good, fix = least <= value < np.inf, f"Give a number of at least {least}"
            if not good:
                raise SettingsError(f"{name} = {value}", "augmentation", fix)


def augment(sample: Sample, options: AugmentOptions, rng: np.random.Generator) -> Sample:
    """A changed copy of the sample; the same for the same state of ``rng``.

    The input is kept. What is not changed is shared with it, so treat both as read-only.
    """
    sample = _turn(sample, options, rng)
    if _chosen(options.affine_p, rng):
        sample = _affine(sample, options, rng)
    image = _contrast(sample.image, options, rng)
    image = _time(image, options, rng)
    image = _scanner(image, options, rng)
    return replace(sample, image=image, clinical=_clinical(sample.clinical, options, rng))


def _clinical(values: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    """Scores (F,), pairs of a value and whether it is known, some of them forgotten."""
    if not values.numel() or options.clinical_drop_p == 0:
        return values
    kept = torch.from_numpy(rng.random(len(values) // 2) >= options.clinical_drop_p)
    return values * kept.repeat_interleave(2)


def _turn(sample: Sample, options: AugmentOptions, rng: np.random.Generator) -> Sample:
    """Flips and quarter turns, exact."""
    y, x = sample.image.shape[-2:]
    steps: list[Flip | Rotate90] = []
    if _chosen(options.flip_x_p, rng):
        steps.append(Flip(-1))
    if _chosen(options.flip_y_p, rng):
        steps.append(Flip(-2))
    if _chosen(options.rotate90_p, rng):
        steps.append(Rotate90(int(rng.integers(1, 4)) if y == x else 2, (-2, -1)))
    if not steps:
        return sample
    planes = [_planes(part) for part in (sample.image, sample.label, sample.weight)]
    for step in steps:
        planes = [_plain(step(part)) for part in planes]
    image, label, weight = planes
    return replace(
        sample,
        image=image.reshape(sample.image.shape),
        label=label.reshape(sample.label.shape),
        weight=weight.reshape(sample.weight.shape),
    )


def _affine(sample: Sample, options: AugmentOptions, rng: np.random.Generator) -> Sample:
    """One rotation, scale and shift for all slices, time points and parts."""
    angle = np.radians(rng.uniform(-1, 1) * options.rotation_deg)
    scale = 1 + rng.uniform(-1, 1) * options.scale
    shift = rng.uniform(-1, 1, 2) * options.shift_px
    if angle == 0 and scale == 1 and not shift.any():
        return sample
    move = Affine(
        rotate_params=[float(angle)],
        translate_params=[float(s) for s in shift],
        scale_params=[float(scale)] * 2,
        image_only=True,
    )
    image = move(_planes(sample.image), mode="bilinear", padding_mode="border")
    # Classes are small integers, exact in float32.
    truth = torch.cat([sample.label.float(), sample.weight])  # (2 Z', Y, X)
    label, weight = _plain(move(truth, mode="nearest", padding_mode="zeros")).chunk(2)
    return replace(
        sample,
        image=_plain(image).reshape(sample.image.shape),
        label=label.round().to(sample.label.dtype),
        weight=weight,
    )


def _contrast(image: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    if not _chosen(options.contrast_p, rng):
        return image
    factor = rng.uniform(*options.contrast)
    if image.shape[1] < 2:
        return image
    baseline = image[:, : options.baseline_points].mean(1, keepdim=True)
    return torch.lerp(baseline, image, factor)


def _time(image: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    """Bolus shift, stretch and lost frames, as one matrix over time."""
    points = image.shape[1]
    at = np.arange(points, dtype=float)
    matrix = np.eye(points)
    if _chosen(options.bolus_p, rng):
        shift = rng.uniform(-1, 1) * options.shift_points
        stretch = 1 + rng.uniform(-1, 1) * options.stretch_time
        matrix = bolus_matrix(points, shift, stretch)
    if _chosen(options.drop_p, rng):
        count = min(int(rng.integers(1, options.drop_frames + 1)), points - 1)
        kept = np.sort(rng.permutation(points)[count:])
        matrix = _interpolation(at, kept) @ matrix[kept]
    if np.array_equal(matrix, np.eye(points)):
        return image
    weights = torch.from_numpy(matrix.astype(np.float32))
    return (weights @ image.flatten(2)).reshape(image.shape)


def bolus_matrix(points: int, shift: float, stretch: float = 1.0) -> npt.NDArray[np.float64]:
    """Weights (T, T) that move a curve of T = ``points`` later by ``shift`` points, after drawing
    it out about its middle by ``stretch``. Linear, the ends held: rows sum to 1."""
    at = np.arange(points, dtype=float)
    middle = (points - 1) / 2
    return _interpolation((at - shift - middle) / stretch + middle, at)


def _interpolation(wanted: npt.NDArray, known: npt.NDArray) -> npt.NDArray[np.float64]:
    """Weights (len(wanted), len(known)) of linear interpolation, the ends held."""
    return np.stack([np.interp(wanted, known, unit) for unit in np.eye(len(known))], 1)


def _scanner(image: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    """Blur, noise and offset."""
    out = image
    if _chosen(options.smooth_p, rng) and (sd := rng.uniform(*options.smooth_px)) > 0:
        out = _plain(GaussianSmooth(float(sd))(_planes(out))).reshape(image.shape)
    if _chosen(options.noise_p, rng) and (sd := rng.uniform(*options.noise_sd)) > 0:
        # Not MONAI's RandGaussianNoise: it draws float64 from a RandomState, 5 times as slow.
        # Torch's own generator, started by ours, is the fastest of all.
        source = torch.Generator().manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(image.shape, generator=source)
        out = torch.add(out, noise, alpha=sd)
    if _chosen(options.offset_p, rng):
        out = out + rng.uniform(-1, 1) * options.offset
    if out is image or options.outside is None:
        return out
    outside = (image == options.outside).all(1).all(0)  # (Z, Y, X)
    return out.masked_fill(outside, options.outside)


def _chosen(probability: float, rng: np.random.Generator) -> bool:
    return bool(rng.random() < probability)


def _planes(x: Tensor) -> Tensor:
    """(..., Y, X) -> (N, Y, X): MONAI's channel-first image, all slices and times its channels."""
    return x.reshape(-1, *x.shape[-2:])


def _plain(x: object) -> Tensor:
    """What a MONAI transform returned, without its metadata."""
    return torch.as_tensor(x).as_subclass(Tensor)
