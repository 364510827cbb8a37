"""Pictures for the report: oriented slices, mosaics, colour bars, outlines, line plots.

Everything is numpy and Pillow; matplotlib is asked for its colour tables only. A mosaic is an
8-bit palette PNG, and the same picture serves the page and, cut into tiles, the slice viewer.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from strokect.core.colours import levels
from strokect.core.quantities import Quantity
from strokect.core.types import BoolArray, FloatArray, Grid

#: Magenta and green, the usual colours of core and penumbra, stay apart in all common forms of
#: colour blindness: they differ in blue and in luminance as well as along red-green.
CORE_RGB = (226, 20, 140)
PENUMBRA_RGB = (98, 205, 92)
CT_WINDOW_HU = (0.0, 80.0)
MAX_TILE_PX = 256
MAX_SLICES = 36
_MAX_PIXELS = 1_100_000  # per mosaic; keeps the whole report under about 6 MB
_MARGIN_MM = 14.0  # around the brain, so that the skull shows

Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class View:
    """How a grid is shown: axial, lowest slice first, anterior up, patient's left on the right.

    axes : array axes that become (slice, row, column). flips : which of them are reversed.
    slices, rows, columns : indices taken along the turned axes (crop, downsampling).
    across : tiles in one row of a mosaic. total : slices in the grid.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    slices: Indices
    rows: Indices
    columns: Indices
    across: int
    total: int

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a tile, pixels."""
        return len(self.rows), len(self.columns)

    @property
    def down(self) -> int:
        """Rows of tiles in a mosaic."""
        return -(-len(self.slices) // self.across)

    def corner(self, number: int) -> tuple[int, int]:
        """Top left corner (x, y) of tile ``number`` in a mosaic, pixels."""
        height, width = self.tile
        return (number % self.across) * width, (number // self.across) * height

    def turn(self, data: npt.NDArray) -> npt.NDArray:
        """The whole (Z, Y, X) array turned to (slice, row, column); a view, nothing is copied."""
        turned = np.transpose(data, self.axes)
        return turned[tuple(slice(None, None, -1 if f else 1) for f in self.flips)]

    def tiles(self, data: npt.NDArray, slices: Indices | None = None) -> npt.NDArray:
        """Nearest-neighbour tiles (N, height, width) of a (Z, Y, X) array."""
        chosen = self.slices if slices is None else slices
        return self.turn(data)[np.ix_(chosen, self.rows, self.columns)]

    def smooth_tiles(self, data: FloatArray, slices: Indices | None = None) -> FloatArray:
        """Tiles averaged over what downsampling skips: for CT, not for masks or masked maps."""
        chosen = self.slices if slices is None else slices
        stack = np.asarray(self.turn(data)[chosen], dtype=np.float32)
        for axis, index in ((1, self.rows), (2, self.columns)):
            width = round(float(np.mean(np.diff(index)))) if len(index) > 1 else 1
            if width > 1:
                stack = ndimage.uniform_filter1d(stack, width, axis=axis)
        return stack[np.ix_(np.arange(len(chosen)), self.rows, self.columns)]

    def locate(self, voxel: npt.ArrayLike, shape: tuple[int, int, int]) -> tuple[int, float, float]:
        """Slice (counted from 0 below) and tile pixel (x, y) of a voxel position (z, y, x)."""
        at = np.asarray(voxel, dtype=float)
        turned = [
            shape[axis] - 1 - at[axis] if flip else at[axis]
            for axis, flip in zip(self.axes, self.flips, strict=True)
        ]
        y = np.interp(turned[1], self.rows, np.arange(len(self.rows))) + 0.5
        x = np.interp(turned[2], self.columns, np.arange(len(self.columns))) + 0.5
        return round(turned[0]), float(x), float(y)


def view_of(grid: Grid, brain: BoolArray | None = None) -> View:
    """The radiological axial view of a grid, from its affine, cropped around the brain.

    brain : (Z, Y, X) mask to crop around; the whole picture where it is None or empty.
    Pixels are square in mm, tiles at most 256 px, and at most 36 slices are shown.
    """
    steps = grid.affine[:3, :3]
    cosines = steps / np.linalg.norm(steps, axis=0)  # (world, voxel axis x y z)
    x, y, z = max(
        permutations(range(3)), key=lambda p: sum(abs(cosines[r, p[r]]) for r in range(3))
    )
    axes = (2 - z, 2 - y, 2 - x)  # array axes run (z, y, x)
    flips = (bool(cosines[2, z] < 0), bool(cosines[1, y] > 0), bool(cosines[0, x] > 0))
    shape = [grid.shape[a] for a in axes]
    spacing = [grid.spacing_mm[a] for a in axes]

    boxes = [(0, n) for n in shape]
    if brain is not None and brain.any():
        turned = np.transpose(brain, axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
        for axis in range(3):
            hit = np.flatnonzero(turned.any(axis=tuple({0, 1, 2} - {axis})))
            margin = round(_MARGIN_MM / spacing[axis]) if axis else 0
            boxes[axis] = max(0, hit[0] - margin), min(shape[axis], hit[-1] + 1 + margin)

    if shape[0] <= MAX_SLICES:
        slices = np.arange(shape[0])
    else:
        low, high = boxes[0]
        slices = np.unique(np.linspace(low, high - 1, MAX_SLICES).round().astype(int))
    sides_mm = [(boxes[a][1] - boxes[a][0]) * spacing[a] for a in (1, 2)]
    pixel_mm = max(
        min(spacing[1:]),
        max(sides_mm) / MAX_TILE_PX,
        float(np.sqrt(sides_mm[0] * sides_mm[1] * len(slices) / _MAX_PIXELS)),
    )
    rows, columns = (
        _samples(*boxes[a], max(1, int(side / pixel_mm + 1e-6)))
        for a, side in zip((1, 2), sides_mm, strict=True)
    )
    across = 4 if len(slices) <= 16 else 5 if len(slices) <= 25 else 6
    return View(axes, flips, slices, rows, columns, min(across, len(slices)), shape[0])


def _samples(start: int, stop: int, count: int) -> Indices:
    """Indices of ``count`` equal steps over [start, stop), at the middle of each step."""
    middles = start + (np.arange(count) + 0.5) * (stop - start) / count
    return np.floor(middles).astype(np.intp)


def tissue_levels(ct: FloatArray, core: BoolArray, penumbra: BoolArray) -> Bytes:
    """Palette indices of CT with core and penumbra over it, for ``tissue_palette``."""
    grey = (levels(np.nan_to_num(ct, nan=-1000.0), CT_WINDOW_HU) - 1) // 2  # 0..127
    return np.where(core, 192 + grey // 2, np.where(penumbra, 128 + grey // 2, grey)).astype(
        np.uint8
    )


def tissue_palette(opacity: float = 0.72) -> Bytes:
    """(256, 3): 128 greys, 64 greys under penumbra, 64 greys under core."""
    grey = np.repeat(np.linspace(0, 255, 128)[:, None], 3, axis=1)
    under = np.repeat(np.linspace(0, 255, 64)[:, None], 3, axis=1)
    tinted = [(1 - opacity) * under + opacity * np.array(c) for c in (PENUMBRA_RGB, CORE_RGB)]
    return np.vstack([grey, *tinted]).round().astype(np.uint8)


def mosaic(tiles: Bytes, view: View) -> Bytes:
    """Tiles (N, height, width) laid out row by row; missing ones are background."""
    height, width = view.tile
    padded = np.zeros((view.down * view.across, height, width), np.uint8)
    padded[: len(tiles)] = tiles
    grid = padded.reshape(view.down, view.across, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(view.down * height, view.across * width)


def png_uri(indices: Bytes, palette: Bytes) -> str:
    """A palette PNG as a data URI."""
    picture = Image.frombytes("P", indices.shape[::-1], np.ascontiguousarray(indices).tobytes())
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def gradient(palette: Bytes, stops: int = 17) -> str:
    """CSS colour list of a palette, for a colour bar."""
    chosen = palette[np.linspace(1, 255, stops).round().astype(int)]
    return ", ".join("#" + bytes(c).hex() for c in chosen)


def bar_ticks(quantity: Quantity) -> list[tuple[float, str]]:
    """Tick positions (percent) and labels of a colour bar: its ends and round values between."""
    low, high = quantity.display_range
    inner = [t for t in round_ticks(low, high, 4) if low < t < high]
    return [(100 * (t - low) / (high - low), f"{t:g}") for t in (low, *inner, high)]


def outline(mask: BoolArray) -> str:
    """SVG path along the pixel edges of a mask (height, width), in pixels."""
    padded = np.pad(mask, 1)
    across = (padded[1:] != padded[:-1])[:, 1:-1]
    down = (padded[:, 1:] != padded[:, :-1])[1:-1]
    parts = [f"M{x} {y}h{n}" for y, x, n in _runs(across)]
    return "".join(parts + [f"M{x} {y}v{n}" for x, y, n in _runs(down.T)])


def _runs(lines: BoolArray) -> list[tuple[int, int, int]]:
    """(line, start, length) of every run of True along the last axis."""
    edges = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    line, start = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    return list(zip(line.tolist(), start.tolist(), (stop - start).tolist(), strict=True))


def without_specks(masks: BoolArray, smallest: int) -> BoolArray:
    """(N, height, width) masks without in-plane islands under ``smallest`` pixels."""
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, _ = ndimage.label(masks, structure=in_plane)
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    return keep[labels]


@dataclass(frozen=True)
class Line:
    """One curve of a panel: SVG path in a 1000 x 1000 box, CSS class, legend label or ""."""

    path: str
    style: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One set of axes. Ticks are (percent from the left or top, label); marks are percents."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[float, ...] = ()


Curve = tuple[npt.ArrayLike, str, str]  #: values (T,), CSS class, legend label


def panel(
    title: str,
    unit: str,
    time_s: npt.ArrayLike,
    curves: list[Curve],
    *,
    marks_s: npt.ArrayLike = (),
    least_span: float = 1.0,
) -> Panel:
    """Axes around curves over time; the y axis holds 0 and spans at least ``least_span``."""
    time = np.asarray(time_s, dtype=float)
    left, right = (float(time.min()), float(time.max())) if time.size else (0.0, 1.0)
    right = right if right > left else left + 1.0
    stack = [np.asarray(values, dtype=float).ravel() for values, _, _ in curves]
    finite = np.concatenate([s[np.isfinite(s)] for s in stack] + [np.zeros(1)])
    low, high = float(finite.min()), float(finite.max())
    if high - low < least_span:
        low, high = (high - least_span, high) if -low > high else (low, low + least_span)
    ticks = round_ticks(low, high, 5)
    step = ticks[1] - ticks[0]
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    low, high = low - 0.1 * step * (low < 0), high + 0.15 * step
    lines = tuple(
        Line(_path((time - left) / (right - left), (high - values) / (high - low)), style, label)
        for values, (_, style, label) in zip(stack, curves, strict=True)
    )
    x_ticks = tuple((100 * (t - left) / (right - left), f"{t:g}") for t in round_ticks(left, right))
    y_ticks = tuple((100 * (high - t) / (high - low), f"{t:g}") for t in ticks)
    marks = tuple(round(100 * (float(m) - left) / (right - left), 2) for m in np.ravel(marks_s))
    return Panel(title, unit, lines, x_ticks, y_ticks, marks)


def round_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """At least two round numbers, about ``count``, inside or just around [low, high]."""
    raw = (high - low) / max(count, 1)
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = float(magnitude * min(f for f in (1, 2, 5, 10) if f * magnitude >= raw * 0.999))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    last = max(last, first + 1)
    return [float(f"{step * k:.10g}") + 0.0 for k in np.arange(first, last + 1)]


def _path(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> str:
    """SVG path through fractions of a 1000 x 1000 box, broken where a value is not finite."""
    good = np.isfinite(x) & np.isfinite(y)
    points = [
        f"{1000 * a:.1f} {1000 * b:.1f}" if g else "" for a, b, g in zip(x, y, good, strict=True)
    ]
    steps = [("L" if before else "M") + now for before, now in pairwise(["", *points]) if now]
    return "".join(steps)
