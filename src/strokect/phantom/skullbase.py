"""Skull base, face and neck: simple solids in MNI space, drawn once on a 1 mm lattice.

The template is skull-stripped, so everything below the vault is placed here by hand: ellipsoids
(E), chains of capsules (C) and rounded boxes (B) of stated materials, painted in order. Places
follow the template's own brain (temporal poles, pons, the gap that the petrous bone fills) and
the fiducials of the MNI head (nasion 0, 84, -40; inion 0, -119, -23; ear canals 83, -20, -46).
Nothing is painted where the brain or its cisterns lie. HU are usual values of CT.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.types import FloatArray
from strokect.phantom.template import Float32, Float64, load_template

#: First lattice point and size (x, y, z), mm; the step is 1 mm.
LOW_MM = np.array([-98.0, -132.0, -186.0])
SIZE_MM = (197, 254, 180)
#: The inner table of the base lies at this distance from the hull of the brain, mm.
BASE_CSF_MM = 2.0
#: Thickness of the floor of the skull, mm.
FLOOR_MM = 5.0

#: name: HU of the rim, its width in mm, HU of the core, SD of the core's texture.
MATERIALS = {
    "bone": (1250.0, 1.6, 380.0, 90.0),
    "plate": (850.0, 1.2, 600.0, 60.0),
    "dense": (1700.0, 1.0, 2000.0, 60.0),
    "enamel": (2200.0, 1.2, 1500.0, 50.0),
    "sinus": (650.0, 1.1, -1000.0, 0.0),
    "cells": (700.0, 1.2, -480.0, 420.0),
    "air": (45.0, 1.0, -1000.0, 0.0),
    "hole": (-1000.0, 0.0, -1000.0, 0.0),
    "fat": (-95.0, 0.0, -95.0, 6.0),
    "orbit": (800.0, 1.2, -95.0, 4.0),
    "muscle": (-30.0, 1.0, 57.0, 5.0),
    "soft": (45.0, 0.0, 45.0, 6.0),
    "gland": (-20.0, 1.0, 5.0, 18.0),
    "globe": (48.0, 1.3, 12.0, 0.0),
    "lens": (80.0, 0.0, 80.0, 0.0),
    "disc": (85.0, 0.0, 85.0, 8.0),
    "csf": (8.0, 0.0, 8.0, 0.0),
    "canal": (-40.0, 1.5, 8.0, 0.0),
    "cord": (34.0, 0.0, 34.0, 1.0),
    "skin": (35.0, 1.5, 15.0, 8.0),
}

# kind, material, "pair" for both sides, clearance from the brain in mm ("-": outside the hull),
# then points x,y,z with radius (C: r at each point; E: three radii; B: half sizes and rounding).
_SOLIDS = """
C skin   one  -   0,84,-42,8 0,91,-72,14
E skin   one  -   0,101,-78 11,10,10
E skin   pair -   9,94,-82 9,10,7
E skin   pair -   79,-30,-44 5,15,28
E muscle pair -   62,14,-38 7,22,24
E muscle pair -   55,8,-90 7,16,24
E muscle pair -   35,16,-66 12,13,8
E muscle pair -   36,12,-92 7,10,19
E gland  pair -   55,-12,-84 8,12,21
E gland  pair -   32,8,-124 10,14,10
E muscle one  -   0,46,-108 22,30,17
E muscle one  -   0,46,-128 26,28,8
C muscle pair -   58,-44,-76,9 46,-12,-186,9
C muscle pair -   9,-19,-76,5 10,-19,-186,6
C muscle pair -   33,-72,-68,14 32,-72,-186,15
C muscle pair -   13,-82,-66,12 13,-84,-186,14
C muscle pair -   43,-48,-90,10 40,-45,-186,10
E muscle pair -   14,-68,-80 11,13,8
E fat    pair -   27,4,-86 6,12,21
E fat    pair -   45,40,-88 10,13,15
E bone   pair -   50,50,-60 11,10,10
C plate  pair -   56,42,-58,4 67,14,-55,3 63,-8,-51,3.5
C bone   pair -   50,60,-30,4.5 51,57,-56,5
C bone   pair -   12,77,-28,5.5 33,75,-26,5.5 50,60,-29,5
E bone   one  -   0,76,-34 14,8,10
C plate  pair -   3,86,-42,2.5 4,98,-60,2
C bone   pair -   18,16,-45,6 42,33,-42,6 60,26,-32,4
C plate  pair -   45,38,-37,3 50,56,-36,3
C plate  pair -   44,38,-48,3 50,56,-50,3
E bone   one  -   0,12,-47 20,17,13
E sinus  pair -   26,52,-69 15,18,18
C orbit  pair -   32,60,-42,18 15,26,-39,4
E fat    pair -   33,76,-42 17,8,15
E globe  pair -   33,61,-42 12.3,12.3,12.3
E lens   pair -   33,70.5,-42 4.6,2.2,4.6
C soft   pair -   31,50,-41,2.4 15,25,-37,2.2
C soft   pair -   21,62,-42,2.3 15,28,-40,2
C soft   pair -   45,60,-42,2.3 18,28,-40,2
C soft   pair -   33,60,-30,2.2 17,28,-36,2
C soft   pair -   33,60,-54,2.2 17,28,-43,2
E cells  pair -   7.5,46,-44 7,25,14
E sinus  pair -   8.5,14,-46 8.5,13,9
B air    pair -   5,54,-64 4,25,12,3.5
E air    pair -   9,54,-77 9,30,12
E soft   pair -   10,52,-80 4.5,23,6.5
E soft   pair -   7,50,-67 2.6,20,6
B plate  one  -   0,54,-67 1,24,19,0.5
C air    pair -   6,84,-84,3.5 7,100,-89,3.5
E plate  one  -   0,54,-90 24,29,3
C bone   pair -   14,20,-56,4 17,22,-86,3
C air    one  -   0,22,-74,8 0,-3,-84,7.5 0,-7,-104,7 0,-3,-126,7 0,4,-150,6 0,8,-186,8
C soft   one  -   0,32,-90,3.5 0,6,-102,4
C bone   pair -   0,28,-138,3 16,12,-136,2.5
C bone   pair -   29,42,-94,6 27,55,-94,6 21,69,-94,6 11,79,-94,6 0,83,-94,6
C bone   pair -   46,0,-110,6 40,25,-120,7 30,50,-125,7.5 16,70,-129,7.5 0,77,-131,7.5
C bone   pair -   29,42,-118,5 27,54,-118,5 20,67,-118,5 10,76,-118,5 0,79,-118,5
B bone   pair -   48,4,-93 4,13,20,3.5
C bone   pair -   49,-8,-56,4.5 48,-6,-82,5.5 46,0,-110,6
C bone   pair -   47,17,-66,2.5 47,12,-84,4
E bone   pair -   51,-9,-53 9,5,4.5
C bone   pair 1.5 13,-14,-43,5 38,-27,-42,9 56,-34,-47,11
C bone   pair 1.5 56,-34,-47,11 59,-37,-60,13 56,-31,-78,7
C bone   pair 1.5 6,-2,-42,8 8,-18,-58,7 8,-26,-67,4.5
B bone   one  1.5 0,-5,-37 8,2,6,1.5
C plate  pair 1.5 17,14,-25,2.5 16,6,-25,1.8
E soft   pair 1.0 14,0,-32.5 4.5,10,5
E csf    one  0.5 0,1,-23 13,10,6
E soft   one  1.0 0,3,-33 7,6,4.5
E dense  pair 1.5 33,-24,-42 7,5.5,5
C csf    pair 0.5 18,-28,-42,2.5 29,-26,-42,2.3
E csf    pair 1.5 34,-21,-44 2.2,2.2,2.2
C soft   pair 1.5 25.5,-23,-60,3 24,-21,-48.5,3 16,-13,-43.5,3 14.5,-9.5,-36,3
E cells  pair 1.5 58,-40,-58 9,11,14
E cells  pair 1.5 50,-33,-42 7,7,4
E air    pair 1.5 47,-22,-47 3.5,6,7
C air    pair -   50,-23,-49,3.5 79,-22,-47,4
C plate  pair -   45,-16,-66,2 38,-6,-92,1.5
E soft   pair 1.0 30,-28,-60 5,6,9
E bone   pair 1.5 17,-37,-70 7,11,6
"""
_NECK = """
C bone   pair -   0,-23,-83,4.5 12,-26,-83,4.5 22,-38,-83,4.5
E bone   pair -   20,-38,-81 9,10,7.5
C bone   pair -   24,-48,-83,4 16,-62,-84,4 0,-68,-84,4
C bone   pair -   26,-42,-83,4.5 41,-42,-84,4
C bone   one  -   0,-30,-78,4.5 0,-31,-100,6
E bone   one  -   0,-31,-103 11,9,10
E bone   pair -   17,-37,-97 9,9,7
C bone   pair -   18,-46,-103,4 10,-62,-108,4 0,-70,-111,4.5
C bone   pair -   2,-70,-111,4.5 4,-86,-117,4
"""
_LEVEL = """
B bone   one  -   0,-31,{0} 11,8,7,3
B disc   one  -   0,-31,{1} 10,8,1.4,0.7
E bone   pair -   20,-42,{0} 7,8,8
C bone   pair -   19,-48,{0},3.5 9,-62,{2},3.5 0,-66,{2},3.5
C bone   one  -   0,-66,{2},3.5 0,-80,{3},4
C bone   pair -   16,-34,{0},3 26,-34,{0},3.5
E soft   pair -   17,-34,{0} 3,3,9
"""
_CANAL = """
C csf    one  0   0,-44,-60,14 0,-45,-76,13
C canal  one  -   0,-45,-76,13 0,-46,-92,11 0,-50,-186,9.5
C cord   one  0   0,-43,-68,6 0,-46,-92,5.5 0,-50,-186,5
"""
#: Skin outline: z, half width, front y, back y, mm.
_OUTLINE = np.array(
    [
        [-186, 66, 24, -108],
        [-160, 62, 26, -104],
        [-150, 60, 40, -102],
        [-142, 60, 74, -101],
        [-134, 62, 85, -100],
        [-118, 67, 90, -99],
        [-100, 70, 92, -100],
        [-80, 74, 92, -103],
        [-60, 77, 88, -106],
        [-40, 79, 87, -112],
        [-20, 82, 87, -118],
        [0, 84, 88, -120],
    ],
    float,
)
#: Border of the vault, y to z, mm: above it the skull is a shell round the hull.
VAULT_Y = np.array([-125.0, -95.0, -60.0, -20.0, 30.0, 60.0, 85.0])
VAULT_Z = np.array([-46.0, -50.0, -56.0, -48.0, -36.0, -24.0, -20.0])


@dataclass(frozen=True, eq=False)
class SkullBase:
    """hu : (Z, Y, X) int16. share : (Z, Y, X) uint8, 255 where the base is all there is.

    The lattice starts at LOW_MM and has a step of 1 mm.
    """

    hu: npt.NDArray[np.int16]
    share: npt.NDArray[np.uint8]


def _rows() -> Float64:
    """All solids (N, 14): kind, clearance (-1: outside), rim HU, mm, core HU, SD, 8 sizes."""
    levels = "".join(_LEVEL.format(z, z + 8.5, z - 4, z - 9) for z in (-121, -138, -155, -172))
    teeth = []
    arch = ((28, 44), (28, 52), (26, 60), (22, 67), (17, 73), (11, 78), (4, 81))
    for x, y in arch:
        teeth.append(f"C enamel pair - {x},{y},-91,2.4 {x},{y},-104,3.4")
        teeth.append(f"C enamel pair - {x - 1},{y - 3},-121,2.4 {x - 1},{y - 3},-109,3.2")
    rows = []
    text = "\n".join([_SOLIDS, *teeth, _NECK, levels, _CANAL])
    for line in filter(None, text.splitlines()):
        kind, material, count, clearance, *nodes = line.split()
        head = [float("ECB".index(kind)), -1.0 if clearance == "-" else float(clearance)]
        head += MATERIALS[material]
        at = [np.array(n.split(","), float) for n in nodes]
        for sign in (1.0, -1.0) if count == "pair" else (1.0,):
            if kind == "C":
                for a, b in itertools.pairwise(at):
                    rows.append([*head, sign * a[0], *a[1:3], sign * b[0], *b[1:3], a[3], b[3]])
            else:
                sizes = [*at[1], 0.0, 0.0][:5]
                rows.append([*head, sign * at[0][0], *at[0][1:], *sizes])
    return np.array(rows)


@numba.njit(cache=True)
def _depth(kind, p, x, y, z):
    """Depth, mm, of a point in a solid; negative outside."""
    if kind == 1:
        dx, dy, dz = p[3] - p[0], p[4] - p[1], p[5] - p[2]
        t = ((x - p[0]) * dx + (y - p[1]) * dy + (z - p[2]) * dz) / (dx * dx + dy * dy + dz * dz)
        t = min(max(t, 0.0), 1.0)
        a, b, c = x - p[0] - t * dx, y - p[1] - t * dy, z - p[2] - t * dz
        return p[6] + t * (p[7] - p[6]) - np.sqrt(a * a + b * b + c * c)
    if kind == 0:
        a, b, c = (x - p[0]) / p[3], (y - p[1]) / p[4], (z - p[2]) / p[5]
        f = np.sqrt(a * a + b * b + c * c)
        a, b, c = a / p[3], b / p[4], c / p[5]
        g = np.sqrt(a * a + b * b + c * c)
        return f * (1 - f) / max(g, 1e-6) if f > 1e-3 else min(p[3], p[4], p[5])
    a = abs(x - p[0]) - p[3] + p[6]
    b = abs(y - p[1]) - p[4] + p[6]
    c = abs(z - p[2]) - p[5] + p[6]
    out = np.sqrt(max(a, 0.0) ** 2 + max(b, 0.0) ** 2 + max(c, 0.0) ** 2)
    return p[6] - out - min(max(a, b, c), 0.0)


@numba.njit(cache=True, parallel=True)
def _paint(hu, share, rows, outside, clear, texture, low):
    nz, ny, nx = hu.shape
    for k in numba.prange(nz):
        z = low[2] + k
        for n in range(rows.shape[0]):
            row = rows[n]
            p = row[6:]
            kind = int(row[0])
            if kind == 1:
                r = max(p[6], p[7])
                xa, xb = min(p[0], p[3]) - r, max(p[0], p[3]) + r
                ya, yb = min(p[1], p[4]) - r, max(p[1], p[4]) + r
                za, zb = min(p[2], p[5]) - r, max(p[2], p[5]) + r
            else:
                xa, xb, ya, yb = p[0] - p[3], p[0] + p[3], p[1] - p[4], p[1] + p[4]
                za, zb = p[2] - p[5], p[2] + p[5]
            if z < za - 1 or z > zb + 1:
                continue
            for j in range(max(0, int(ya - low[1]) - 1), min(ny, int(yb - low[1]) + 3)):
                for i in range(max(0, int(xa - low[0]) - 1), min(nx, int(xb - low[0]) + 3)):
                    depth = _depth(kind, p, low[0] + i, low[1] + j, z)
                    part = min(max(depth + 0.5, 0.0), 1.0)
                    if row[1] < 0:
                        part *= outside[k, j, i]
                    else:
                        part *= min(max(clear[k, j, i] - row[1], 0.0), 1.0)
                    if part <= 0:
                        continue
                    core = 1.0 if row[3] <= 0 else min(max(depth - row[3] + 0.5, 0.0), 1.0)
                    value = row[4] + row[5] * texture[k % 64, j % 64, i % 64]
                    value = row[2] + core * (max(value, -1000.0) - row[2])
                    old = hu[k, j, i] if share[k, j, i] > 0 else value
                    hu[k, j, i] = old + part * (value - old)
                    share[k, j, i] += part * (1 - share[k, j, i])


def noise_tile(rng: np.random.Generator, sigma: float) -> Float32:
    """Periodic noise (64, 64, 64), mean 0, SD 1, smoothed over ``sigma`` steps."""
    tile = ndimage.gaussian_filter(rng.standard_normal((64, 64, 64)), sigma, mode="wrap")
    return (tile / tile.std()).astype(np.float32)


def vault_border(y: FloatArray) -> FloatArray:
    """Height, mm, of the border between vault and base at ``y``, mm."""
    return np.interp(y, VAULT_Y, VAULT_Z)


def vault_share(y: FloatArray, z: FloatArray) -> FloatArray:
    """1 above the border of the vault, 0 below it, over 8 mm."""
    return np.clip((z - vault_border(y)) / 8 + 0.5, 0, 1)


@lru_cache(maxsize=1)
def load_skullbase() -> SkullBase:
    """Draw the base; the same for every head, which bends it with the rest of the template."""
    nx, ny, nz = SIZE_MM
    x, y, z = (LOW_MM[k] + np.arange(n) for k, n in enumerate(SIZE_MM))
    outside, clear = _rooms(z, y, x)
    vault = vault_share(y[None, :], z[:, None])[:, :, None]
    texture = noise_tile(np.random.default_rng(20), 1.2)
    tiled = _tiled(texture, (nz, ny, nx))
    depth = _skin_depth(z, y, x)
    fat_mm = 4.0 + 4.0 * np.exp(-(((z + 95) / 35) ** 2))[:, None, None]
    # Muscle with fat between its bundles: thin sheets, where a smooth field crosses zero.
    sheets = _tiled(noise_tile(np.random.default_rng(21), 3.5), (nz, ny, nx))
    muscle = 54 + 5 * tiled - 110 * np.exp(-((sheets / 0.13) ** 2))
    hu = np.where(depth > fat_mm + 1.5, muscle, -98 + 8 * tiled)
    hu[depth < 1.5] = 30.0
    floor = np.clip((FLOOR_MM - np.abs(2 * outside - FLOOR_MM)) / 2 + 0.5, 0, 1)
    hu += floor * (1050 - 250 * np.clip(tiled, -1, 1) - hu)
    share = np.clip(depth + 0.5, 0, 1) * np.clip(3 * (1 - vault), 0, 1)
    share *= np.clip(outside / 0.8 + 0.5, 0, 1)
    hu, share = hu.astype(np.float32), share.astype(np.float32)
    room = np.clip((outside - 6.5 * vault) + 0.5, 0, 1).astype(np.float32)
    _paint(hu, share, _rows(), room, clear, texture, LOW_MM)
    return SkullBase(np.rint(hu).astype(np.int16), np.rint(255 * share).astype(np.uint8))


def _tiled(tile: Float32, shape: tuple[int, int, int]) -> Float32:
    repeated = np.tile(tile, [n // 64 + 1 for n in shape])
    return repeated[tuple(slice(n) for n in shape)]


def _rooms(z: Float64, y: Float64, x: Float64) -> tuple[Float32, Float32]:
    """Distances, mm, on the lattice: outside the inner table of the base; from the brain."""
    template = load_template()
    origin = template.affine[:3, 3]
    mask = template.channels[2][: int(z[-1] - origin[2]) + 1] > 0
    near = ndimage.distance_transform_edt(~mask).astype(np.float32)
    # Both lattices have 1 mm steps, so that sampling is indexing; beyond the template holds the
    # edge value with the way from the edge.
    at, away = [], []
    for axis, values in ((2, z), (1, y), (0, x)):
        index = np.rint(values - origin[axis]).astype(int)
        kept = np.clip(index, 0, mask.shape[2 - axis] - 1)
        at.append(kept)
        away.append((index - kept).astype(np.float32) ** 2)
    beyond = away[0][:, None, None] + away[1][None, :, None] + away[2][None, None, :]
    hull, clear = template.channels[3][np.ix_(*at)], near[np.ix_(*at)]
    return _beyond(hull, beyond) - np.float32(BASE_CSF_MM), _beyond(clear, beyond)


def _beyond(distance: Float32, squared: Float32) -> Float32:
    return np.sqrt(np.maximum(distance, 0) ** 2 + squared) + np.minimum(distance, 0)


def _skin_depth(z: Float64, y: Float64, x: Float64) -> Float32:
    """Approximate depth, mm, below the skin (Z, Y, X), from egg-shaped cross-sections."""
    width, front, back = (np.interp(z, _OUTLINE[:, 0], _OUTLINE[:, k]) for k in (1, 2, 3))
    centre, half = (front + back) / 2, (front - back) / 2
    v = (y[None, :] - centre[:, None]) / half[:, None]  # (Z, Y)
    narrow = width[:, None] * (1 - 0.12 * np.clip(v, 0, 1) ** 2)
    u = (np.abs(x)[None, None, :] / narrow[:, :, None]).astype(np.float32)
    u **= 2.4
    u += (np.abs(v) ** 2.4).astype(np.float32)[:, :, None]
    u **= 1 / 2.4
    return (1 - u) * np.minimum(width, half).astype(np.float32)[:, None, None]
