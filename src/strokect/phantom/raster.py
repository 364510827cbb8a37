"""Drawing vessels on a scan's grid: how much of each voxel they fill.

Only blocks of 16 x 16 voxels that a tube touches are worked on, so a CT angiogram of 70 million
voxels costs little more than its vessels. A tube is a chain of cones; distances are true
millimetres, so oblique and sheared (tilted gantry) grids need no special care.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from strokect.core.types import Grid

if TYPE_CHECKING:
    from strokect.phantom.vessels import Tube

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

BLOCK = 16
#: Samples within a voxel are this far apart along each axis, mm, but no more than so many.
SAMPLE_MM, MAX_SAMPLES = 0.4, 8
#: Width over which the edge of a tube fades, mm; its second moment is taken out of the radius.
EDGE_MM = 0.4
#: Length of the cones, mm.
PIECE_MM = 0.8
#: A voxel belongs to a vessel that fills at least this share of it.
LABEL_SHARE = 0.3
#: Smallest share that is kept.
MIN_SHARE = 1e-3


def occupancy(grid: Grid, group: Sequence[Tube]) -> Float32:
    """Share (Z, Y, X) float32 of each voxel that the tubes fill, 0 to 1; overlaps count once.

    The cross-section pi r^2 is kept, whatever the voxel size and direction. Ends are round, except
    where a piece was cut from a longer vessel (``Tube.cut``).
    """
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    index, share = filled(grid, group)
    out[index] = share
    return out.reshape(grid.shape)


def filled(grid: Grid, group: Sequence[Tube]) -> tuple[Index, Float32]:
    """The same, sparse: flat voxel indices (N,), rising, and their shares (N,)."""
    drawn = [t for t in group if t.radius_mm.max(initial=0.0) > 0]
    if not drawn:
        return np.zeros(0, np.intp), np.zeros(0, np.float32)
    segments, planes, flags = _cones(drawn)
    inverse = np.asarray(np.linalg.inv(grid.affine), np.float64)
    count = tuple(min(MAX_SAMPLES, int(np.ceil(s / SAMPLE_MM - 1e-6))) for s in grid.spacing_mm)
    low, high = _reach(segments, inverse, grid.shape)
    blocks = (grid.shape[0], -(-grid.shape[1] // BLOCK), -(-grid.shape[2] // BLOCK))
    start, members = _by_block(low, high, blocks)
    touched = np.flatnonzero(np.diff(start))
    shares = _draw(
        touched, start, members, segments, planes, flags, grid.affine, inverse, blocks, count
    )
    block, y, x = np.nonzero(shares > MIN_SHARE)
    by = touched[block] // blocks[2]
    row, z = by % blocks[1] * BLOCK + y, by // blocks[1]
    column = touched[block] % blocks[2] * BLOCK + x
    inside = (row < grid.shape[1]) & (column < grid.shape[2])
    index = ((z * grid.shape[1] + row) * grid.shape[2] + column)[inside]
    order = np.argsort(index, kind="stable")
    return index[order], shares[block, y, x][inside][order]


def fullest(index: Index, share: Float32, grid: Grid) -> npt.NDArray[np.bool_]:
    """Mask (Z, Y, X) of the fullest voxels, as many as hold the volume of the shares.

    A small thing so keeps its volume on any grid; at least one voxel unless there is nothing.
    """
    out = np.zeros(int(np.prod(grid.shape)), bool)
    if index.size:
        count = max(1, round(float(share.sum())))
        out[index[np.argsort(-share, kind="stable")[:count]]] = True
    return out.reshape(grid.shape)


def segment_image(grid: Grid, tubes: Sequence[Tube]) -> npt.NDArray[np.uint8]:
    """Label (Z, Y, X) of the segment that fills most of a voxel, if at least ``LABEL_SHARE``.

    Labels are ``vessels.SEGMENT_LABELS``; 0 elsewhere.
    """
    from strokect.phantom.vessels import SEGMENT_LABELS

    found, shares, labels = [], [], []
    for segment, label in SEGMENT_LABELS.items():
        index, share = filled(grid, [t for t in tubes if t.segment == segment])
        keep = share >= LABEL_SHARE
        found.append(index[keep])
        shares.append(share[keep])
        labels.append(np.full(int(keep.sum()), label, np.uint8))
    index, share = np.concatenate(found), np.concatenate(shares)
    order = np.argsort(share, kind="stable")  # the greatest share is written last
    out = np.zeros(int(np.prod(grid.shape)), np.uint8)
    _write(out, index[order], np.concatenate(labels)[order])
    return out.reshape(grid.shape)


def centrelines_table(tubes: Sequence[Tube], step_mm: float = 1.0) -> dict[str, npt.NDArray[Any]]:
    """Centre lines as columns of equal length, a row every ``step_mm``, for a CSV.

    Columns: name, segment, side, x, y, z (head mm), mni_x, mni_y, mni_z, radius_mm.
    """
    columns: dict[str, list[npt.NDArray[Any]]] = {}
    for tube in tubes:
        rows = spaced(tube.points, step_mm)
        values: dict[str, npt.NDArray[Any]] = {
            k: np.full(rows.size, getattr(tube, k)) for k in ("name", "segment", "side")
        }
        for k, axis in enumerate("xyz"):
            values[axis] = tube.points[k, rows]
        for k, axis in enumerate("xyz"):
            values[f"mni_{axis}"] = tube.mni[k, rows]
        values["radius_mm"] = tube.radius_mm[rows]
        for key, value in values.items():
            columns.setdefault(key, []).append(value)
    return {key: np.concatenate(parts) for key, parts in columns.items()}


def spaced(points: npt.NDArray[Any], step_mm: float) -> Index:
    """Indices (M,) of points (3, N) about ``step_mm`` apart along the line, both ends included."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=1), axis=0))])
    steps = max(1, round(float(along[-1]) / step_mm))
    nearest = np.searchsorted(along, np.linspace(0, along[-1], steps + 1) - 1e-9)
    return np.unique(np.minimum(nearest, points.shape[1] - 1))


@numba.njit(cache=True)
def _write(out, index, labels):
    for i in range(index.size):
        out[index[i]] = labels[i]


def _cones(group: Sequence[Tube]) -> tuple[Float64, Float64, Index]:
    """Cones (S, 8): both ends, mm, and radii; cutting planes (P, 6): point, inward normal, mm.

    flags : (S, 2) the planes that cut a cone (start and end of its vessel), -1 for none.
    """
    segments, flags, planes = [], [], []
    for tube in group:
        rows = spaced(tube.points, PIECE_MM)
        p = np.asarray(tube.points, float)[:, rows].T
        r = np.asarray(tube.radius_mm, float)[rows]
        # A linear edge of width w adds w^2 / 12 to the mean square radius.
        edge = np.minimum(EDGE_MM, np.sqrt(3.0) * r)
        r_drawn = np.sqrt(np.maximum(r**2 - edge**2 / 12, 1e-4))
        flag = np.full((len(p) - 1, 2), -1)
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
        reach = 2 * r.max() + EDGE_MM
        for end, (cut, tip) in enumerate(((tube.cut[0], 0), (tube.cut[1], -1))):
            if not cut:
                continue
            depth = along if tip == 0 else along[-1] - along
            inner = int(np.argmin(np.abs(depth - max(r[tip], PIECE_MM))))
            normal = p[inner] - p[tip]
            planes.append([*p[tip], *(normal / np.linalg.norm(normal))])
            near = np.minimum(depth[:-1], depth[1:]) <= reach
            flag[near, end] = len(planes) - 1
        segments.append(np.column_stack([p[:-1], p[1:], r_drawn[:-1], r_drawn[1:]]))
        flags.append(flag)
    table = np.array(planes, float) if planes else np.zeros((1, 6))
    return np.concatenate(segments), table, np.concatenate(flags)


def _reach(segments: Float64, inverse: Float64, shape: tuple[int, int, int]) -> tuple[Index, Index]:
    """First and last block (S, 3) along (z, y, x) that each cone may touch; first > last: none."""
    ends = [segments[:, k : k + 3] @ inverse[:3, :3].T + inverse[:3, 3] for k in (0, 3)]
    radius = segments[:, 6:].max(axis=1) + EDGE_MM
    pad = radius[:, None] * np.linalg.norm(inverse[:3, :3], axis=1) + 0.5
    low = np.ceil(np.minimum(*ends) - pad)[:, ::-1]
    high = np.floor(np.maximum(*ends) + pad)[:, ::-1]
    outside = (low > np.array(shape) - 1).any(axis=1) | (high < 0).any(axis=1)
    size = np.array([1, BLOCK, BLOCK])
    low = np.maximum(low, 0) // size
    high = np.minimum(high, np.array(shape) - 1) // size
    high[outside] = low[outside] - 1
    return low.astype(np.intp), high.astype(np.intp)


@numba.njit(cache=True)
def _by_block(low, high, blocks):
    """Cones of each block: start (B + 1,) into members (M,)."""
    nz, ny, nx = blocks
    start = np.zeros(nz * ny * nx + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            for b in range(nz * ny * nx, 0, -1):
                start[b] = start[b - 1]
            start[0] = 0
            for b in range(1, nz * ny * nx + 1):
                start[b] += start[b - 1]
            members = np.empty(start[-1], np.int64)
            place = start[:-1].copy()
        for s in range(low.shape[0]):
            for z in range(low[s, 0], high[s, 0] + 1):
                for y in range(low[s, 1], high[s, 1] + 1):
                    for x in range(low[s, 2], high[s, 2] + 1):
                        b = (z * ny + y) * nx + x
                        if turn == 0:
                            start[b] += 1
                        else:
                            members[place[b]] = s
                            place[b] += 1
    return start, members


@numba.njit(cache=True, parallel=True)
def _draw(touched, start, members, segments, planes, flags, affine, inverse, blocks, count):
    """Shares (K, BLOCK, BLOCK) float32 of the touched blocks, one slice thick each."""
    out = np.zeros((touched.size, BLOCK, BLOCK), np.float32)
    nz, ny, nx = count
    for k in numba.prange(touched.size):
        block = touched[k]
        x0 = (block % blocks[2]) * BLOCK
        y0 = (block // blocks[2] % blocks[1]) * BLOCK
        z0 = block // (blocks[2] * blocks[1])
        fine = np.zeros((nz, BLOCK * ny, BLOCK * nx), np.float32)
        for m in range(start[block], start[block + 1]):
            s = members[m]
            _cone(fine, segments[s], planes, flags[s], affine, inverse, (z0, y0, x0), count)
        weight = np.float32(1.0 / (nz * ny * nx))
        for a in range(nz):
            for j in range(BLOCK * ny):
                for i in range(BLOCK * nx):
                    out[k, j // ny, i // nx] += fine[a, j, i] * weight
    return out


@numba.njit(cache=True)
def _span(p, q, pad, first, count, size):
    """Fine samples along one axis within ``pad`` voxels of the coordinates p and q."""
    low = int(np.ceil((min(p, q) - pad - first + 0.5) * count - 0.5))
    high = int(np.floor((max(p, q) + pad - first + 0.5) * count - 0.5))
    return max(low, 0), min(high, size - 1) + 1


@numba.njit(cache=True)
def _cone(fine, segment, planes, flag, affine, inverse, origin, count):
    """Draw one cone with round ends into the samples of a block, keeping the greater value."""
    px, py, pz, qx, qy, qz, r0, r1 = segment
    ux, uy, uz = qx - px, qy - py, qz - pz
    square = max(ux * ux + uy * uy + uz * uz, 1e-12)
    edge = min(EDGE_MM, np.sqrt(3.0) * max(r0, r1))
    pad = max(r0, r1) + edge / 2
    spans = np.empty((3, 2), np.int64)
    for axis in range(3):  # z, y, x
        row = inverse[2 - axis]
        p = row[0] * px + row[1] * py + row[2] * pz + row[3]
        q = row[0] * qx + row[1] * qy + row[2] * qz + row[3]
        grow = pad * np.sqrt(row[0] ** 2 + row[1] ** 2 + row[2] ** 2)
        spans[axis] = _span(p, q, grow, origin[axis], count[axis], fine.shape[axis])
    for a in range(spans[0, 0], spans[0, 1]):
        iz = origin[0] - 0.5 + (a + 0.5) / count[0]
        for b in range(spans[1, 0], spans[1, 1]):
            iy = origin[1] - 0.5 + (b + 0.5) / count[1]
            for c in range(spans[2, 0], spans[2, 1]):
                ix = origin[2] - 0.5 + (c + 0.5) / count[2]
                x = affine[0, 0] * ix + affine[0, 1] * iy + affine[0, 2] * iz + affine[0, 3]
                y = affine[1, 0] * ix + affine[1, 1] * iy + affine[1, 2] * iz + affine[1, 3]
                z = affine[2, 0] * ix + affine[2, 1] * iy + affine[2, 2] * iz + affine[2, 3]
                t = ((x - px) * ux + (y - py) * uy + (z - pz) * uz) / square
                t = min(1.0, max(0.0, t))
                dx, dy, dz = x - px - t * ux, y - py - t * uy, z - pz - t * uz
                gap = r0 + t * (r1 - r0) - np.sqrt(dx * dx + dy * dy + dz * dz)
                value = min(1.0, max(0.0, gap / edge + 0.5))
                for end in range(2):
                    if value > 0 and flag[end] >= 0:
                        plane = planes[flag[end]]
                        deep = (
                            (x - plane[0]) * plane[3]
                            + (y - plane[1]) * plane[4]
                            + (z - plane[2]) * plane[5]
                        )
                        value *= min(1.0, max(0.0, deep / edge + 0.5))
                fine[a, b, c] = max(fine[a, b, c], value)
