"""What image reconstruction does to a head: the kernel's point spread and noise, and projections.

A kernel is one number, the full width at half maximum of its point spread in plane. Filtered back
projection of white projection noise has a noise power spectrum proportional to frequency times
the squared transfer function (Riederer 1978, Phys Med Biol 23:446; Kijewski and Judy 1987, Phys
Med Biol 32:565), so that the same number gives the texture of the noise. Kijewski and Judy also
show why the spectrum of coarse images does not vanish at frequency 0: it is folded by sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numba
import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, sparse

from strokect.core.errors import SettingsError
from strokect.core.types import FloatArray, Grid

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Kernel = Literal["smooth", "standard", "sharp"]

#: Point spread in plane, FWHM mm. Peak of the noise spectrum at 0.265 / FWHM: 0.22, 0.29 and 0.44
#: per mm, within the range measured for head kernels by filtered back projection (from memory).
KERNEL_FWHM_MM: dict[str, float] = {"smooth": 1.2, "standard": 0.9, "sharp": 0.6}
#: Slices whose noise is made together, as pairs in the real and imaginary part: bounds the memory.
NOISE_BLOCK = 16
#: Attenuation of water at the mean energy of a filtered 80-120 kVp beam, 1/mm (from memory).
WATER_PER_MM = 0.02
#: Share of a water cylinder, and its diameter in mm, that the bow-tie filter evens out.
BOWTIE_SHARE, BOWTIE_MM = 0.5, 200.0
_SIGMA_PER_FWHM = 1 / np.sqrt(8 * np.log(2))


def kernel_fwhm(kernel: Kernel) -> float:
    """FWHM, mm, of a kernel. Raises SettingsError for an unknown one."""
    if kernel not in KERNEL_FWHM_MM:
        raise SettingsError(f"unknown kernel {kernel!r}", fix=f"Use {get_args(Kernel)}")
    return KERNEL_FWHM_MM[kernel]


def blur(volume: Float32, grid: Grid, kernel: Kernel) -> Float32:
    """Blur (Z, Y, X) in plane with the kernel's point spread, in place; returns ``volume``."""
    sigma = kernel_fwhm(kernel) * _SIGMA_PER_FWHM
    _, dy, dx = grid.spacing_mm
    for plane in volume:
        for axis, step in ((0, dy), (1, dx)):
            if sigma / step > 0.15:  # below, the taps beside the centre vanish
                ndimage.gaussian_filter1d(
                    plane, sigma / step, axis, output=plane, mode="nearest", truncate=3.5
                )
    return volume


def noise_spectrum(frequency: FloatArray, kernel: Kernel) -> Float64:
    """Noise power, relative, at in-plane ``frequency`` (1/mm): f times the squared transfer."""
    f = np.asarray(frequency, float)
    return f * np.exp(-((np.pi * kernel_fwhm(kernel) * f) ** 2) / (2 * np.log(2)))


@lru_cache(maxsize=8)
def _amplitude(shape: tuple[int, int], step_mm: tuple[float, float], kernel: Kernel) -> Float32:
    """Root of the spectrum on the frequencies of an image (Y, X), folded; mean square 1."""
    reach = 1.4 / kernel_fwhm(kernel)  # 1/mm; less than 1e-5 of the power lies beyond
    rows, columns = (
        np.fft.fftfreq(n, d)[:, None] + np.arange(-f, f + 1) / d
        for n, d in zip(shape, step_mm, strict=True)
        for f in [int(np.ceil(reach * d))]
    )
    power = np.zeros(shape)
    for i in range(rows.shape[1]):
        for j in range(columns.shape[1]):
            power += noise_spectrum(np.hypot(rows[:, i, None], columns[None, :, j]), kernel)
    return np.sqrt(power / power.mean()).astype(np.float32)


def noise(
    rng: np.random.Generator,
    grid: Grid,
    sd_hu: float,
    kernel: Kernel,
    profile: Float32 | None = None,
) -> Float32:
    """One frame of noise (Z, Y, X), HU: Gaussian, in-plane texture of the kernel.

    profile : (Z, Y, X) relative SD, as from ``noise_profile``; the SD is sd_hu * profile.
    Slices and calls are independent. The noise wraps round at the borders of the image.
    """
    nz, ny, nx = grid.shape
    amplitude = _amplitude((ny, nx), grid.spacing_mm[1:], kernel)
    amplitude = amplitude * np.float32(sd_hu * np.sqrt(ny * nx))
    out = np.empty(grid.shape, np.float32)
    for start in range(0, nz, NOISE_BLOCK):
        block = out[start : start + NOISE_BLOCK]
        pairs = (len(block) + 1) // 2
        # White in frequency; a real, even amplitude leaves real and imaginary part independent.
        white = rng.standard_normal((pairs, ny, nx, 2), np.float32).view(np.complex64)[..., 0]
        white *= amplitude
        # one worker: how transforms are shared out may change their rounding
        image = fft.ifft2(white, overwrite_x=True, workers=1)
        block[:pairs] = image.real
        block[pairs:] = image.imag[: len(block) - pairs]
        if profile is not None:
            block *= profile[start : start + len(block)]
    return out


def gaussian_noise(rng: np.random.Generator, grid: Grid, sd_hu: float, sigma_mm: float) -> Float32:
    """One frame of noise (Z, Y, X), HU: Gaussian, in-plane correlated, SD exactly ``sd_hu``.

    sigma_mm : of the Gaussian that white noise is filtered with.
    """
    _, dy, dx = grid.spacing_mm
    out = rng.standard_normal(grid.shape, dtype=np.float32)
    for axis, step in ((1, dy), (2, dx)):
        out = ndimage.correlate1d(out, correlation_kernel(sigma_mm, step), axis, mode="wrap")
    out *= np.float32(sd_hu)
    return out


def correlation_kernel(sigma_mm: float, spacing_mm: float) -> Float32:
    """Gaussian kernel with unit sum of squares, so that white noise keeps its SD."""
    reach = int(np.ceil(4 * sigma_mm / spacing_mm))
    x = np.arange(-reach, reach + 1) * spacing_mm
    kernel = np.exp(-0.5 * (x / max(sigma_mm, 1e-6)) ** 2)
    return (kernel / np.sqrt((kernel**2).sum())).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Projector:
    """Parallel projections of coarse slices. matrix : (angles * bins, Y * X), line integrals."""

    matrix: sparse.csr_array
    shape: tuple[int, int]
    angles: int
    bins: int
    width_mm: float
    pixel_mm2: float

    def forward(self, planes: Float32) -> Float32:
        """Line integrals (Z, angles, bins), mm times the unit of ``planes`` (Z, Y, X)."""
        found = self.matrix @ planes.reshape(len(planes), -1).T
        return np.ascontiguousarray(found.T).reshape(len(planes), self.angles, self.bins)

    def backward(self, lines: Float32) -> Float32:
        """Mean over the angles (Z, Y, X) of the value of the line through each pixel."""
        found = self.matrix.T @ lines.reshape(len(lines), -1).T
        scale = np.float32(self.width_mm / self.pixel_mm2 / self.angles)
        return np.ascontiguousarray(found.T).reshape(len(lines), *self.shape) * scale

    def reconstruct(self, lines: Float32) -> Float32:
        """Filtered back projection (Z, Y, X) of line integrals, Hann window."""
        size = fft.next_fast_len(2 * self.bins)
        f = np.fft.rfftfreq(size, self.width_mm)
        ramp = (f * (0.5 + 0.5 * np.cos(2 * np.pi * f * self.width_mm))).astype(np.float32)
        spectrum = fft.rfft(lines, size, axis=-1, workers=1) * ramp
        filtered = fft.irfft(spectrum, size, axis=-1, workers=1)[..., : self.bins]
        return np.float32(np.pi) * self.backward(np.ascontiguousarray(filtered, np.float32))

    @property
    def offset_mm(self) -> Float64:
        """Distance (bins,) of the lines from the middle of the image."""
        return np.asarray((np.arange(self.bins) - (self.bins - 1) / 2) * self.width_mm, np.float64)


@lru_cache(maxsize=6)
def projector(shape: tuple[int, int], step_mm: tuple[float, float], angles: int) -> Projector:
    """Projector of slices (Y, X) with pixels of ``step_mm`` over half a turn."""
    ny, nx = shape
    y = (np.arange(ny) - (ny - 1) / 2) * step_mm[0]
    x = (np.arange(nx) - (nx - 1) / 2) * step_mm[1]
    width = max(step_mm)
    bins = int(np.ceil(np.hypot(ny * step_mm[0], nx * step_mm[1]) / width)) + 3
    theta = (np.arange(angles) + 0.5) * np.pi / angles
    s = np.cos(theta)[:, None, None] * x + np.sin(theta)[:, None, None] * y[:, None]
    place = s.reshape(angles, -1) / width + (bins - 1) / 2
    low = np.floor(place).astype(np.intp)
    upper = place - low
    area = step_mm[0] * step_mm[1]
    row = low + bins * np.arange(angles)[:, None]
    column = np.broadcast_to(np.arange(ny * nx), row.shape)
    values = np.concatenate([(1 - upper).ravel(), upper.ravel()]) * area / width
    rows = np.concatenate([row.ravel(), row.ravel() + 1])
    columns = np.concatenate([column.ravel(), column.ravel()])
    matrix = sparse.csr_array(
        (values.astype(np.float32), (rows, columns)), (angles * bins, ny * nx)
    )
    return Projector(matrix, shape, angles, bins, width, area)


@dataclass(frozen=True, eq=False)
class Coarse:
    """A volume averaged over blocks. data : (z, y, x); factor : fine voxels per block."""

    data: Float32
    factor: tuple[int, int, int]
    step_mm: tuple[float, float, float]
    fine_shape: tuple[int, int, int]

    def fine(self, values: Float32) -> Float32:
        """Values (z, y, x) on the blocks, interpolated to the voxels (Z, Y, X), linear."""
        places = [
            np.clip((np.arange(n) + 0.5) / f - 0.5, 0, m - 1).astype(np.float32)
            for n, f, m in zip(self.fine_shape, self.factor, values.shape, strict=True)
        ]
        out = np.empty(self.fine_shape, np.float32)
        _interpolate(np.ascontiguousarray(values, np.float32), *places, out)
        return out


def coarse(hu: Float32, grid: Grid, target_mm: float = 3.6) -> Coarse:
    """Average over blocks of about ``target_mm``; the last block of an axis may be smaller."""
    factor = tuple(max(1, round(target_mm / s)) for s in grid.spacing_mm)
    out = hu
    for axis in (2, 1, 0):
        n, f = out.shape[axis], factor[axis]
        if f > 1:
            starts = np.arange(0, n, f)
            size = np.diff(np.append(starts, n)).astype(np.float32)
            size = size.reshape([-1 if a == axis else 1 for a in range(3)])
            out = np.asarray(np.add.reduceat(out, starts, axis) / size, np.float32)
    step = tuple(f * s for f, s in zip(factor, grid.spacing_mm, strict=True))
    return Coarse(np.asarray(out, np.float32), factor, step, grid.shape)  # type: ignore[arg-type]


@numba.njit(cache=True, parallel=True)
def _interpolate(values, at_z, at_y, at_x, out):
    mz, my, mx = values.shape
    for z in numba.prange(out.shape[0]):
        a = int(at_z[z])
        a1 = min(a + 1, mz - 1)
        w = at_z[z] - a
        for y in range(out.shape[1]):
            b = int(at_y[y])
            b1 = min(b + 1, my - 1)
            v = at_y[y] - b
            line = np.empty(mx, np.float32)
            for c in range(mx):
                low = values[a, b, c] + v * (values[a, b1, c] - values[a, b, c])
                high = values[a1, b, c] + v * (values[a1, b1, c] - values[a1, b, c])
                line[c] = low + w * (high - low)
            for x in range(out.shape[2]):
                c = int(at_x[x])
                c1 = min(c + 1, mx - 1)
                out[z, y, x] = line[c] + (at_x[x] - c) * (line[c1] - line[c])


def noise_profile(hu: Float32, grid: Grid, angles: int = 20) -> Float32:
    """Relative SD (Z, Y, X) of the noise in a head, mean 1 over the brain.

    The variance of a line integral grows as the exponential of the attenuation along it; the
    variance of a voxel is its mean over the angles, with the squared filter as weight (Barrett
    and Swindell, Radiological Imaging, 1981). Hence more noise in the middle and between thick
    bones. A bow-tie filter evens out part of it. Once per head; smooth, on blocks of 4 mm.
    """
    head = coarse(hu, grid, 4.0)
    lines = projector(head.data.shape[1:], head.step_mm[1:], angles)
    attenuation = lines.forward(np.maximum(head.data / 1000 + 1, 0)) * np.float32(WATER_PER_MM)
    chord = np.sqrt(np.maximum(BOWTIE_MM**2 - 4 * lines.offset_mm**2, 0))
    bowtie = BOWTIE_SHARE * WATER_PER_MM * (BOWTIE_MM - chord)
    variance = np.exp(attenuation + np.asarray(bowtie, np.float32))
    variance = ndimage.gaussian_filter1d(variance, 1.0, axis=-1)
    sd = np.sqrt(np.maximum(lines.backward(variance), 1e-3))
    sd = ndimage.gaussian_filter(sd, (0, 0.7, 0.7))
    return head.fine(sd / sd[_brain(head.data)].mean())


def _brain(hu: Float32) -> npt.NDArray[np.bool_]:
    """Soft tissue inside the skull, slice by slice; without any, all but air, else all."""
    soft = (hu > -20) & (hu < 120)
    inside = np.stack([ndimage.binary_fill_holes(plane) for plane in hu > 250]) & soft
    return next(m for m in (inside, soft, hu > -500, np.ones(hu.shape, bool)) if m.any())
