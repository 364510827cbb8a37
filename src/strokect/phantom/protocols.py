"""How the three scans of a stroke patient are acquired.

Sources, by name in the docstrings:

- Wintermark 2008 (Stroke 39:1621, acute stroke imaging research roadmap), AAPM "Adult Brain
  Perfusion CT Protocols" (2012 and later), ASNR/ASFNR/SNIS recommendations (Wintermark 2013, AJNR
  34:E117): 80 kVp, 35-50 ml at 4-7 ml/s, baseline of a few s, 1 image per 1-2 s, 45-90 s (figures
  from memory).
- Kasasbeh 2016 (Stroke 47:2966, PMC5134896): 10 s baseline and 60-70 s in all; a tenth of the
  scans need more than 53 s (checked).
- Kamalian 2011 (Stroke 42:1923, PMC3125441): biphasic 66 s cine (checked); 1 s for 40 s, then 3 s
  (from memory).
- Nakamura 2019 (Adv Comput Tomogr 8:25): SD 4.0 HU in plain head CT at 120 kVp (checked).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError
from strokect.core.types import Grid
from strokect.phantom.injection import Injection
from strokect.phantom.reconstruction import Kernel

Float64 = npt.NDArray[np.float64]
SliceTimes = Literal["simultaneous", "sequential", "shuttle"]
Sampling = Literal["uniform", "two-phase", "shuttle"]
Size = Literal["full", "small"]


def slice_offsets(interval_s: float, n_slices: int, mode: SliceTimes) -> Float64:
    """Times (Z,), s, of the slices after the start of their frame.

    "simultaneous": a wide detector, all slices at once. "sequential": slices spread evenly over
    the interval, lowest first. "shuttle": the table toggles between a lower and an upper half,
    half an interval apart.
    """
    z = np.arange(n_slices)
    if mode == "simultaneous":
        return np.zeros(n_slices)
    if mode == "sequential":
        return z / n_slices * interval_s
    if mode == "shuttle":
        return np.where(z < (n_slices + 1) // 2, 0.0, interval_s / 2)
    raise SettingsError(f"unknown slice timing {mode!r}", fix=f"Use {get_args(SliceTimes)}")


@dataclass(frozen=True)
class _Stack:
    """Slices of square images. noise_hu : SD of a voxel."""

    kvp: int
    noise_hu: float
    kernel: Kernel
    slice_mm: float
    coverage_mm: float
    pixel_mm: float
    matrix: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return max(1, round(self.coverage_mm / self.slice_mm)), self.matrix, self.matrix

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(dz, dy, dx)."""
        return self.slice_mm, self.pixel_mm, self.pixel_mm


@dataclass(frozen=True)
class Protocol(_Stack):
    """One CT perfusion acquisition.

    mode : "uniform", one interval; "two-phase", interval_s up to switch_s, then late_interval_s;
    "shuttle", the table toggles. duration_s : time of the last frame, at most. delay_s : the scan
    starts so long after the injection. cardiac_output : factor, 1 is normal. truncated : ends
    before the bolus has left the brain.
    """

    mode: Sampling
    interval_s: float
    duration_s: float
    injection: Injection
    cardiac_output: float
    delay_s: float
    late_interval_s: float = 3.0
    switch_s: float = 40.0
    truncated: bool = False

    @property
    def frames_s(self) -> Float64:
        """Start (T,) of the frames, s after the start of the scan."""
        if self.mode != "two-phase" or self.duration_s <= self.switch_s:
            return np.arange(0.0, self.duration_s + 1e-6, self.interval_s)
        early = np.arange(0.0, self.switch_s - 1e-6, self.interval_s)
        late = np.arange(self.switch_s, self.duration_s + 1e-6, self.late_interval_s)
        return np.concatenate([early, late])

    @property
    def slice_times(self) -> SliceTimes:
        """How the slices of a frame follow each other."""
        return "shuttle" if self.mode == "shuttle" else "simultaneous"


@dataclass(frozen=True)
class NcctProtocol(_Stack):
    """One unenhanced head CT. tilt_deg : see ``tilted``."""

    tilt_deg: float = 0.0


@dataclass(frozen=True)
class CtaProtocol(_Stack):
    """One CT angiography. after_peak_s : the scan is at the Circle of Willis so many s after the
    arterial peak (negative: before). bottom : where it starts, always C2, as the virtual head ends
    at the neck; told in the dataset card. delay_s is 0: the bolus is timed from the injection."""

    injection: Injection
    cardiac_output: float
    after_peak_s: float
    bottom: Literal["c2"] = "c2"
    delay_s: float = 0.0


def draw_cardiac_output(rng: np.random.Generator, size: Size = "full") -> float:
    """Factor of the cardiac output: log-normal, SD 18 %, 0.55 to 1.4; lower in 15 % (failure).

    "small": at least 0.8, so that the 46 s of its perfusion scan hold the bolus.
    """
    low = rng.random() < 0.15
    factor = np.exp(rng.normal(-0.35 if low else 0.0, 0.18))
    return float(np.clip(factor, 0.8 if size == "small" else 0.55, 1.4))


def draw_protocol(
    rng: np.random.Generator, size: Size = "full", cardiac_output: float | None = None
) -> Protocol:
    """Draw a perfusion scan.

    kVp: 80 in 80 %, 70 (newer scanners) or 100 in the rest. Noise 4-8 HU for 5 mm at 80 kVp
    (from memory), as 1 / sqrt(slice); thin slices with a smooth kernel. Slices 5 mm mostly, 3-10.
    Coverage by detector: 40 mm (64 rows), 80 and 160 mm (256 and 320 rows), 80-150 mm by shuttle.
    Sampling: half uniform, 1-2 s for 45-60 s; 30 % two-phase, 1 s for 40 s then 3 s up to 70-90 s;
    20 % shuttle, 1.5-3 s for 50-65 s (AAPM; Kamalian 2011; Kasasbeh 2016). 35-50 ml at 4-7 ml/s.
    4 % are truncated at 25-38 s. Matrix 256 (scanners store 512 and analyses bin it).
    "small": the same but for 96 x 96 x 8 voxels of 2.3 x 2.3 x 10 mm and 24 frames of 2 s.
    cardiac_output : instead of a drawn one.
    """
    _check_size(size)
    kvp = int(rng.choice([70, 80, 100], p=[0.12, 0.8, 0.08]))
    kernel = _kernel(rng, (0.55, 0.4, 0.05))
    slice_mm = float(rng.choice([3.0, 4.0, 5.0, 8.0, 10.0], p=[0.07, 0.08, 0.55, 0.1, 0.2]))
    mode = _sampling(rng)
    coverage = {
        "uniform": ([40.0, 80.0, 160.0], [0.25, 0.35, 0.4]),
        "two-phase": ([40.0, 80.0, 160.0], [0.3, 0.5, 0.2]),
        "shuttle": ([80.0, 100.0, 120.0, 150.0], [0.4, 0.25, 0.2, 0.15]),
    }[mode]
    coverage_mm = float(rng.choice(coverage[0], p=coverage[1]))
    if coverage_mm / slice_mm > 32:  # wide scans are stored in thick slices
        slice_mm = 5.0
    noise = rng.uniform(4, 8) * np.sqrt(5 / slice_mm) * {70: 1.1, 80: 1.0, 100: 0.85}[kvp]
    if slice_mm < 5:
        kernel = "smooth"
    interval, duration = _timing(rng, mode)
    output = draw_cardiac_output(rng, size)
    injection = _injection(rng, (35, 40, 45, 50), (4.0, 7.0))
    field_of_view = rng.uniform(215, 240)
    delay, cut, end = rng.uniform(3, 6), rng.random() < 0.04, rng.uniform(25, 38)
    drawn = Protocol(
        kvp=kvp,
        noise_hu=float(np.clip(noise, 2.5, 9.5)),
        kernel=kernel,
        slice_mm=slice_mm,
        coverage_mm=coverage_mm,
        pixel_mm=float(round(field_of_view / 256, 3)),
        matrix=256,
        mode=mode,
        interval_s=interval,
        duration_s=float(end) if cut else duration,
        injection=injection,
        cardiac_output=output if cardiac_output is None else cardiac_output,
        delay_s=float(delay),
        truncated=bool(cut),
    )
    if size == "full":
        return drawn
    return dataclasses.replace(
        drawn,
        slice_mm=10.0,
        coverage_mm=80.0,
        pixel_mm=2.3,
        matrix=96,
        mode="uniform",
        interval_s=2.0,
        duration_s=46.0,
        truncated=False,
    )


def draw_ncct_protocol(rng: np.random.Generator, size: Size = "full") -> NcctProtocol:
    """Draw an unenhanced head CT: 120 kVp, 3-5 mm, SD 2.5-4 HU at 5 mm (Nakamura 2019: 4.0).

    30 % are tilted by 3-20 degrees, four fifths of them with the front up (along the orbitomeatal
    line, which spares the eyes). Field of view 220-250 mm, 512 x 512.
    "small": 128 x 128 x 28 voxels of 1.8 x 1.8 x 5.5 mm.
    """
    _check_size(size)
    slice_mm = float(rng.choice([3.0, 4.0, 4.8, 5.0], p=[0.15, 0.1, 0.1, 0.65]))
    noise, field_of_view = rng.uniform(2.5, 4.0), rng.uniform(220, 250)
    kernel = _kernel(rng, (0.5, 0.45, 0.05))
    tilted = rng.random() < 0.3
    tilt = rng.uniform(3, 20) * (1 if rng.random() < 0.8 else -1)
    drawn = NcctProtocol(
        kvp=120,
        noise_hu=float(noise * np.sqrt(5 / slice_mm)),
        kernel=kernel,
        slice_mm=slice_mm,
        coverage_mm=155.0,
        pixel_mm=float(round(field_of_view / 512, 4)),
        matrix=512,
        tilt_deg=float(round(tilt, 1)) if tilted else 0.0,
    )
    if size == "full":
        return drawn
    return dataclasses.replace(drawn, slice_mm=5.5, coverage_mm=154.0, pixel_mm=1.8, matrix=128)


def draw_cta_protocol(
    rng: np.random.Generator, size: Size = "full", cardiac_output: float | None = None
) -> CtaProtocol:
    """Draw a CT angiography: 100-120 kVp, slices 0.5-1 mm, SD 12-20 HU at 0.75 mm.

    60-80 ml at 4-5 ml/s; triggered by bolus tracking, 4 s before to 8 s after the arterial peak
    (figures from memory). From C2 to above the vertex: the virtual head ends at the neck, while
    the ASNR recommendations start at the arch.
    "small": 160 x 160 x 100 voxels of 1.45 x 1.45 x 1.8 mm.
    """
    _check_size(size)
    kvp = int(rng.choice([100, 120], p=[0.6, 0.4]))
    slice_mm = float(rng.choice([0.5, 0.625, 0.75, 1.0], p=[0.1, 0.25, 0.3, 0.35]))
    noise = rng.uniform(12, 20) * np.clip(np.sqrt(0.75 / slice_mm), 0.9, 1.15)
    kernel = _kernel(rng, (0.3, 0.6, 0.1))
    field_of_view, after = rng.uniform(220, 250), np.clip(rng.normal(1.0, 2.5), -4, 8)
    output = draw_cardiac_output(rng)
    injection = _injection(rng, (60, 70, 80), (4.0, 5.0))
    drawn = CtaProtocol(
        kvp=kvp,
        noise_hu=float(noise),
        kernel=kernel,
        slice_mm=slice_mm,
        coverage_mm=190.0,
        pixel_mm=float(round(field_of_view / 512, 4)),
        matrix=512,
        injection=injection,
        cardiac_output=output if cardiac_output is None else cardiac_output,
        after_peak_s=float(after),
    )
    if size == "full":
        return drawn
    return dataclasses.replace(drawn, slice_mm=1.8, coverage_mm=180.0, pixel_mm=1.45, matrix=160)


def tilted(grid: Grid, tilt_deg: float) -> Grid:
    """The grid scanned with a tilted gantry: slices turned about x, stepped along the table.

    Slices turn about their middle; their distance along the table stays. Positive takes the front
    of a supine head up and its back down. The affine is sheared, as DICOM tells it.
    """
    affine = grid.affine.copy()
    angle = np.radians(tilt_deg)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    middle = [(grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2, 0.0]
    centre = affine[:3, :3] @ middle
    affine[:3, :2] = turn @ affine[:3, :2]
    affine[:3, 3] += centre - affine[:3, :3] @ middle
    return Grid(grid.shape, affine)


def _check_size(size: Size) -> None:
    if size not in get_args(Size):
        raise SettingsError(f"unknown size {size!r}", fix=f"Use {get_args(Size)}")


def _kernel(rng: np.random.Generator, shares: tuple[float, float, float]) -> Kernel:
    names: tuple[Kernel, ...] = get_args(Kernel)
    return names[int(rng.choice(3, p=shares))]


def _sampling(rng: np.random.Generator) -> Sampling:
    names: tuple[Sampling, ...] = get_args(Sampling)
    return names[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]


def _timing(rng: np.random.Generator, mode: Sampling) -> tuple[float, float]:
    """Interval and duration, s."""
    if mode == "uniform":
        return float(rng.choice([1.0, 1.5, 2.0], p=[0.45, 0.25, 0.3])), float(rng.uniform(45, 60))
    if mode == "two-phase":
        return 1.0, float(rng.uniform(70, 90))
    return float(rng.choice([1.5, 2.0, 2.8, 3.0])), float(rng.uniform(50, 65))


def _injection(
    rng: np.random.Generator, volumes_ml: tuple[int, ...], rates_ml_s: tuple[float, float]
) -> Injection:
    rate = round(2 * rng.uniform(*rates_ml_s)) / 2
    iodine = rng.choice([300.0, 350.0, 370.0, 400.0], p=[0.2, 0.4, 0.3, 0.1])
    return Injection(float(rng.choice(volumes_ml)), float(rate), float(iodine))
