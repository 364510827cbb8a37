"""What determines a virtual patient and its CT perfusion scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError
from strokect.perfusion.convolution import ResidueShape
from strokect.phantom import artefacts, protocols, scanner
from strokect.phantom.haemodynamics import Bolus
from strokect.phantom.vessels import Side

Float64 = npt.NDArray[np.float64]
OccludedAt = Literal["ICA", "M1", "M2", "ACA", "PCA", "none"]
#: Streams of random numbers, in the order of their numbers. Never reorder: seeds would change.
Stream = Literal[
    "head",
    "blood",
    "tissue",
    "stroke",
    "noise",
    "vessels",
    "case",
    "protocol",
    "ncct",
    "cta",
    "holder",
    "clip",
    "nihss",
]
STREAMS: tuple[Stream, ...] = (
    "head", "blood", "tissue", "stroke", "noise", "vessels", "case", "protocol", "ncct", "cta",
    "holder", "clip", "nihss",
)  # fmt: skip


def stream(seed: int, name: Stream) -> np.random.Generator:
    """The random numbers of one part of a patient, independent of those of the others."""
    return np.random.default_rng(np.random.SeedSequence([seed, STREAMS.index(name)]))


@dataclass(frozen=True)
class PatientConfig:
    """Everything that determines a virtual patient and the CT perfusion scan.

    shape : (Z, Y, X). spacing_mm : (dz, dy, dx). interval_s : between frames.
    frame_times_s : (T,) instead of n_times and interval_s, for irregular sampling.
    centre_z_mm : height of the middle of the slab above the commissural plane; at 15 mm an 80 mm
    slab reaches from the circle of Willis to the centrum semiovale.
    noise_hu : SD of a voxel. kernel : of the reconstruction, which shapes the noise; None gives
    Gaussian noise of noise_sigma_mm in plane. artefacts : beam hardening, table, and noise that
    varies over the head (mean noise_hu over the brain). clip : an aneurysm clip, with streaks.
    occlusion : where the clot lies. side : of the stroke; None draws it. age (years), collateral
    (0-3), onset_h, core_ml, hypoperfusion_ml (of the whole brain), arrival_s, peak_hu : drawn
    unless given. bolus : the whole contrast passage instead of a drawn one.
    residue : transit-time family. slice_times : see protocols.slice_offsets.
    whole_hu : round to whole HU as CT does.
    """

    seed: int = 0
    shape: tuple[int, int, int] = (16, 256, 256)
    spacing_mm: tuple[float, float, float] = (5.0, 0.9, 0.9)
    centre_z_mm: float = 15.0
    n_times: int = 45
    interval_s: float = 1.0
    frame_times_s: tuple[float, ...] | None = None
    noise_hu: float = 5.0
    noise_sigma_mm: float = 0.6
    kernel: artefacts.Kernel | None = None
    artefacts: bool = False
    clip: bool = False
    occlusion: OccludedAt = "M1"
    side: Side | None = None
    age: float | None = None
    collateral: int | None = None
    onset_h: float | None = None
    core_ml: float | None = None
    hypoperfusion_ml: float | None = None
    arrival_s: float | None = None
    peak_hu: float | None = None
    bolus: Bolus | None = None
    residue: ResidueShape = "gamma"
    slice_times: protocols.SliceTimes = "simultaneous"
    motion: scanner.MotionSpec = field(default_factory=scanner.MotionSpec)
    whole_hu: bool = True

    def __post_init__(self) -> None:
        if self.side not in ("left", "right", None):
            raise SettingsError(f"unknown side {self.side!r}", fix='Use "left", "right" or None')
        if self.occlusion not in ("ICA", "M1", "M2", "ACA", "PCA", "none"):
            raise SettingsError(
                f"unknown occlusion {self.occlusion!r}", fix="Use ICA, M1, M2, ACA, PCA or none"
            )
        if self.collateral not in (None, 0, 1, 2, 3):
            raise SettingsError(f"unknown collateral grade {self.collateral!r}", fix="Use 0 to 3")
        if self.noise_hu < 0 or self.interval_s <= 0 or self.n_times < 1:
            raise SettingsError(
                f"noise_hu {self.noise_hu}, interval_s {self.interval_s}, n_times {self.n_times}",
                fix="Use noise >= 0, an interval > 0 and at least one frame",
            )

    def frames_s(self) -> Float64:
        """Times of the frames (T,), s."""
        if self.frame_times_s is not None:
            return np.asarray(self.frame_times_s, np.float64)
        return np.arange(self.n_times, dtype=np.float64) * self.interval_s

    def times_s(self) -> Float64:
        """(T, Z) s. Per-slice offsets are within the (shortest) interval."""
        frames = self.frames_s()
        shortest = float(np.diff(frames).min()) if len(frames) > 1 else self.interval_s
        offsets = protocols.slice_offsets(shortest, self.shape[0], self.slice_times)
        return frames[:, None] + offsets


#: A small patient of the same extent, for tests: 24 frames, 2.3 mm voxels.
SMALL = PatientConfig(shape=(8, 96, 96), spacing_mm=(10.0, 2.3, 2.3), n_times=24, interval_s=2.0)
