"""The compiled renderer of a head: what lies at one point, and the average over each voxel.

``anatomy`` packs a head into arrays; nothing here draws random numbers, and every voxel is
written by one iteration, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from strokect.phantom.skullbase import BASE_CSF_MM, vault_border

#: Order of the parameters of a head, and of the lattices' frames.
PARAMETERS = (
    *("csf_mm", "skull_mm", "skull_variation", "hyperostosis_mm", "scalp_mm", "atrophy", "sulci"),
    *("band_mm", "deep_level", "white_loss_hu", "frontal_sinus", "ventricles_mm"),
    *("grey", "white", "csf", "falx", "diploe", "table", "scalp", "skin", "muscle", "air"),
)
CSF_MM, SKULL_MM, SKULL_VAR, HYPEROSTOSIS, SCALP_MM, ATROPHY, SULCI = range(7)
BAND_MM, DEEP_LEVEL, WHITE_LOSS, SINUS, VENTRICLES_MM = range(7, 12)
GREY_HU, WHITE_HU, CSF_HU, FALX_HU, DIPLOE_HU, TABLE_HU = range(12, 18)
SCALP_HU, SKIN_HU, MUSCLE_HU, AIR_HU = range(18, 22)
DEFORM, WARP, BRAIN, DEEP, THICK, FOLDS, LEUKO, BASE, REACH = range(9)
#: Middle of the sphere on which the pattern of the sulci is laid, and its radius, mm.
FOLD_Y, FOLD_Z, FOLD_R = -20.0, 10.0, 62.0
_BASE_CSF = BASE_CSF_MM
#: Border of the vault for every mm of y from -150 mm.
_BORDER = vault_border(np.arange(-150.0, 151.0))


@numba.njit(cache=True, inline="always")
def _clip(value, low, high):
    return min(max(value, low), high)


@numba.njit(cache=True)
def _take(volume, frame, x, y, z, out):
    """Trilinear values of all channels of ``volume`` (C, Z, Y, X) into ``out``; edges hold."""
    channels, nz, ny, nx = volume.shape
    i = _clip((x - frame[0]) * frame[3], 0.0, nx - 1.001)
    j = _clip((y - frame[1]) * frame[4], 0.0, ny - 1.001)
    k = _clip((z - frame[2]) * frame[5], 0.0, nz - 1.001)
    a, b, c = int(i), int(j), int(k)
    u, v, w = np.float32(i - a), np.float32(j - b), np.float32(k - c)
    for n in range(channels):
        p = volume[n]
        low = p[c, b, a] + (p[c, b, a + 1] - p[c, b, a]) * u
        low += (p[c, b + 1, a] + (p[c, b + 1, a + 1] - p[c, b + 1, a]) * u - low) * v
        top = p[c + 1, b, a] + (p[c + 1, b, a + 1] - p[c + 1, b, a]) * u
        top += (p[c + 1, b + 1, a] + (p[c + 1, b + 1, a + 1] - p[c + 1, b + 1, a]) * u - top) * v
        out[n] = low + (top - low) * w


@numba.njit(cache=True)
def _take_base(hu, share, frame, x, y, z):
    """Share and HU of the skull base; its HU weighted by the shares of the corners."""
    nz, ny, nx = hu.shape
    i, j, k = x - frame[0], y - frame[1], z - frame[2]
    if k > nz - 1.01 or i < 0 or i > nx - 1.01 or j < 0 or j > ny - 1.01:
        return 0.0, 0.0
    k = max(k, 0.0)  # the neck goes on below the lattice
    a, b, c = int(i), int(j), int(k)
    u, v, w = i - a, j - b, k - c
    total, value = 0.0, 0.0
    for dz in range(2):
        wz = w if dz else 1 - w
        for dy in range(2):
            wy = wz * (v if dy else 1 - v)
            for dx in range(2):
                s = share[c + dz, b + dy, a + dx]
                if s:
                    part = wy * (u if dx else 1 - u) * s
                    total += part
                    value += part * hu[c + dz, b + dy, a + dx]
    return total / 255.0, value / max(total, 1e-6)


@numba.njit(cache=True, inline="always")
def _edge(depth):
    """Share of a sample inside a surface, soft over 0.8 mm."""
    return _clip(depth / 0.8 + 0.5, 0.0, 1.0)


@numba.njit(cache=True)
def _tentorium_z(x, y):
    """Height of the tentorium, mm: from the straight sinus down to the petrous ridges."""
    return 8.0 + 0.377 * min(y + 44, 0.0) - 0.28 * abs(x)


@numba.njit(cache=True)
def _parenchyma(place, brain, ventricle, smooth, above, par, lattices, frames, buffer):
    """Tissue share, and white matter's part of it, after sulci, atrophy and wide ventricles."""
    x, y, z, distance = place
    tissue = brain[0] + brain[1]
    share = brain[1] / max(tissue, 1e-3)
    if distance > -22 and above > 0:
        # The individual's own sulci: sheets at right angles to the hull, on its outer centimetres.
        rx, ry, rz = x, y - FOLD_Y, z - FOLD_Z
        r = max(np.sqrt(rx * rx + ry * ry + rz * rz), 1.0)
        s = (FOLD_R + 0.35 * (r - FOLD_R)) / r
        _take(lattices[FOLDS], frames[FOLDS], s * rx, FOLD_Y + s * ry, FOLD_Z + s * rz, buffer)
        reach = _clip((distance + 13 + 5 * buffer[1]) / 6, 0.0, 1.0) * above
        tissue -= par[SULCI] * np.exp(-((buffer[0] / 0.16) ** 2)) * reach
        share -= 0.35 * np.exp(-((buffer[0] / 0.4) ** 2)) * reach
    thinned = (1 - smooth) * (0.2 + 0.8 * above) * (1.0 - np.exp(-max(ventricle, 0.0) / 6))
    tissue = _clip((tissue - par[ATROPHY] * thinned - 0.5) * 1.7 + 0.55, 0.0, 1.0) * brain[2]
    # Wide ventricles have also eaten into their walls.
    eaten = 0.5 * max(par[VENTRICLES_MM] - 1.0, 0.0)
    tissue *= _clip((ventricle - eaten) / 1.6 + 0.7, 0.0, 1.0)
    return tissue, _clip((share - 0.5) * 1.6 + 0.5, 0.0, 1.0)


@numba.njit(cache=True)
def _leukoaraiosis(place, share, ventricle, par, lattices, frames, buffer):
    """Diseased part of white matter: caps, bands and deep spots."""
    x, y, z, distance = place
    _take(lattices[LEUKO], frames[LEUKO], x, y, z, buffer)
    horns = 0.55 + 0.9 * min(((y + 8) / 42) ** 2, 1.2)
    band = _clip((par[BAND_MM] * horns + 1.6 * buffer[0] - ventricle) / 3, 0.0, 1.0)
    spots = _clip(2.5 * (buffer[1] - par[DEEP_LEVEL]), 0.0, 1.0)
    spots *= _clip((34 - ventricle) / 6, 0.0, 1.0) * _clip((-8 - distance) / 4, 0.0, 1.0)
    found = max(band if par[BAND_MM] > 0 else 0.0, spots)
    return found * _clip((share - 0.5) * 4, 0.0, 1.0)


@numba.njit(cache=True)
def _old_infarct(x, y, z, infarct, lattices, frames, buffer):
    """Share replaced by fluid, and of the gliotic rim with it."""
    a, b = (x - infarct[0]) / infarct[3], (y - infarct[1]) / infarct[4]
    if a * a + b * b > 9:
        return 0.0, 0.0
    c = (z - infarct[2]) / infarct[5]
    size = min(infarct[3], infarct[4], infarct[5])
    _take(lattices[LEUKO], frames[LEUKO], x, y, z, buffer)
    depth = (1 + 0.22 * buffer[0] - np.sqrt(a * a + b * b + c * c)) * size
    return _clip(depth / 1.5 + 0.5, 0.0, 1.0), _clip(1 + depth / 3, 0.0, 1.0)


@numba.njit(cache=True)
def _dura(place, smooth):
    """Share of falx and tentorium: sheets of about 1 mm in the midline and over the cerebellum."""
    x, y, z, distance = place
    if z > -12 and abs(x) < 1:
        hang = (22.0 if y > 0 else 34.0) - (6.0 if z < 20 else 0.0)
        return 0.8 * (1 - abs(x)) * _clip((distance + hang) / 2, 0.0, 1.0)
    if y < -44:
        return 0.5 * max(1 - abs(z - _tentorium_z(x, y)), 0.0) * (1 - smooth * smooth)
    return 0.0


@numba.njit(cache=True)
def _tissue(place, brain, par, lattices, frames, infarct, buffer, out):
    """Grey, white, CSF, brain, leukoaraiosis, HU inside the cranium, into out (6,).

    place : x, y, z, MNI mm, and the distance from the hull of the brain.
    """
    x, y, z, _ = place
    _take(lattices[DEEP], frames[DEEP], x, y, z, buffer)
    ventricle, smooth = buffer[0], buffer[1]
    above = 1.0  # the tentorium, and not in the brain stem
    if y < -26:
        above = _clip((z - _tentorium_z(x, y)) / 6 + 0.5, 0.0, 1.0)
    elif z < -10 and abs(x) < 20 and y < -8:
        above = 0.0
    tissue, share = _parenchyma(
        place, brain, ventricle, smooth, above, par, lattices, frames, buffer
    )
    late = 0.0
    if share > 0.5 and ventricle < 40 and above > 0:
        late = above * _leukoaraiosis(place, share, ventricle, par, lattices, frames, buffer)
    gone, rim = _old_infarct(x, y, z, infarct, lattices, frames, buffer)
    grey, white = tissue * (1 - share) * (1 - gone), tissue * share * (1 - gone)
    soft = grey * (par[GREY_HU] - 6 * rim)
    soft += white * (par[WHITE_HU] - max(par[WHITE_LOSS] * late, 6 * rim))
    soft += (1 - grey - white) * (par[CSF_HU] + gone * (infarct[6] - par[CSF_HU]))
    soft += _dura(place, smooth) * (par[FALX_HU] - soft)
    out[0], out[1], out[2], out[3] = grey, white, max(brain[2] - grey - white, 0.0), brain[2]
    out[4], out[5] = white * late, soft


@numba.njit(cache=True)
def _shell(x, y, z, inner, vault, par, thick, texture, hu):
    """Skull and scalp of the vault over the HU inside, at depth ``inner``, mm, in the cranium."""
    inside = _edge(inner)
    if inside >= 1:
        return hu
    side = np.exp(-(((abs(x) - 66) / 20) ** 2) - ((y + 10) / 42) ** 2 - ((z + 20) / 28) ** 2)
    knob = np.exp(-((x / 14) ** 2) - ((y + 105) / 16) ** 2 - ((z + 16) / 14) ** 2)
    front = np.exp(-(((y - 62) / 26) ** 2) - ((z - 22) / 26) ** 2) * _clip(abs(x) / 8, 0.0, 1.0)
    skull = par[SKULL_MM] * np.exp(par[SKULL_VAR] * thick) * (1 - 0.5 * side + 0.6 * knob)
    skull = (skull + par[HYPEROSTOSIS] * front * (1 + 0.4 * _clip(thick, -2.0, 2.0))) * (
        0.4 + 0.6 * vault
    )
    scalp = par[SCALP_MM] + 9 * np.exp(
        -(((abs(x) - 72) / 18) ** 2) - ((y - 12) / 26) ** 2 - ((z + 22) / 26) ** 2
    )
    fade = min(3 * vault, 1.0)  # overlaps with the base, which is drawn over it
    in_skull = max(_edge(inner + skull) * fade - inside, 0.0)
    in_scalp = max(_edge(inner + skull + scalp) * fade - inside - in_skull, 0.0)
    total = inside * hu + max(1 - inside - in_skull - in_scalp, 0.0) * par[AIR_HU]
    if in_skull > 0:
        across = _clip(-inner, 0.0, skull)  # mm from the inner table
        wall = min(1.5, 0.35 * skull)
        porous = _clip((min(across, skull - across) - wall) / 0.8 + 0.5, 0.0, 1.0)
        bone = par[TABLE_HU] + porous * (par[DIPLOE_HU] + 130 * texture - par[TABLE_HU])
        if y > 40:
            middle = across / skull
            cells = ((abs(x) - 10) / 10) ** 2 + ((z + 14) / 18) ** 2 + ((middle - 0.5) / 0.42) ** 2
            bone += _clip(4 * (par[SINUS] - cells), 0.0, 1.0) * (par[AIR_HU] - bone)
        total += in_skull * bone
    if in_scalp > 0:
        under = _clip(-inner - skull, 0.0, scalp)  # mm from the bone
        left = scalp - under
        # From within: galea and muscle over the temple, fat, then 1.5 mm of skin.
        muscle = _clip(scalp - par[SCALP_MM] + 1.2 - under + 0.5, 0.0, 1.0)
        value = par[SCALP_HU] + 8 * texture
        value += muscle * (par[MUSCLE_HU] - value)
        value += _clip(1.5 - left + 0.5, 0.0, 1.0) * (par[SKIN_HU] - value)
        total += in_scalp * value
    return total


@numba.njit(cache=True)
def _to_mni(hx, hy, hz, ventricles_mm, place, lattices, frames, reach, buffer):
    """Whether the head may be there, and the MNI point of a head point; as ``HeadMap.to_mni``."""
    px, py, pz = hx - place[0, 3], hy - place[1, 3], hz - place[2, 3]
    x = place[0, 0] * px + place[0, 1] * py + place[0, 2] * pz
    y = place[1, 0] * px + place[1, 1] * py + place[1, 2] * pz
    z = place[2, 0] * px + place[2, 1] * py + place[2, 2] * pz
    frame = frames[REACH]
    i, j = int((x - frame[0]) * frame[3]), int((y - frame[1]) * frame[4])
    k = max(int((z - frame[2]) * frame[5]), 0)
    if i < 0 or j < 0 or i >= reach.shape[2] or j >= reach.shape[1] or k >= reach.shape[0]:
        return False, x, y, z
    if reach[k, j, i] == 0:
        return False, x, y, z
    _take(lattices[DEFORM], frames[DEFORM], hx, hy, hz, buffer)
    x, y, z = x + buffer[0], y + buffer[1], z + buffer[2]
    _take(lattices[WARP], frames[WARP], x, y, z, buffer)
    x -= ventricles_mm * buffer[0]
    y -= ventricles_mm * buffer[1]
    z -= ventricles_mm * buffer[2]
    return True, x, y, z


@numba.njit(cache=True)
def _calcified(x, y, z, spots, hu):
    """HU with the calcifications ``spots`` (N, 7)."""
    for n in range(spots.shape[0]):
        a = (x - spots[n, 0]) / spots[n, 3]
        if abs(a) < 1.6:
            b, c = (y - spots[n, 1]) / spots[n, 4], (z - spots[n, 2]) / spots[n, 5]
            part = _clip(1.3 - np.sqrt(a * a + b * b + c * c), 0.0, 0.6) / 0.6
            hu += part * (spots[n, 6] - hu)
    return hu


@numba.njit(cache=True)
def _point(hx, hy, hz, par, place, lattices, frames, base, tile, spots, infarct, buffer, out):
    """Mixture and HU, into out (6,), of one point in head coordinates, mm."""
    for n in range(5):
        out[n] = 0.0
    out[5] = par[AIR_HU]
    near, x, y, z = _to_mni(
        hx, hy, hz, par[VENTRICLES_MM], place, lattices, frames, base[2], buffer
    )
    if not near:
        return
    brain, frame = lattices[BRAIN], frames[BRAIN]
    mix = buffer[4:]
    _take(brain[3:], frame, x, y, z, mix[3:])
    # Beyond the template: the way from its edge counts as distance.
    ax = max(frame[0] - x, x - frame[0] - brain.shape[3] + 1, 0.0)
    ay = max(frame[1] - y, y - frame[1] - brain.shape[2] + 1, 0.0)
    az = max(frame[2] - z, z - frame[2] - brain.shape[1] + 1, 0.0)
    away = ax * ax + ay * ay + az * az
    distance = np.float64(mix[3])
    if away > 0:
        distance = np.sqrt(max(distance, 0.0) ** 2 + away) + min(distance, 0.0)
    vault = _clip((z - _BORDER[int(_clip(y + 150.5, 0.0, 300.0))]) / 8 + 0.5, 0.0, 1.0)
    csf_mm, thick = par[CSF_MM], 0.0
    if distance > -3:
        _take(lattices[THICK], frames[THICK], hx, hy, hz, buffer)
        csf_mm, thick = csf_mm * np.exp(0.2 * buffer[0]), buffer[1]
    inner = _BASE_CSF + vault * (csf_mm - _BASE_CSF) - distance
    hu = par[AIR_HU]
    if inner > -0.5:
        _take(brain[:3], frame, x, y, z, mix)
        if away > 0:
            fade = max(1 - np.sqrt(away), 0.0)
            for n in range(3):
                mix[n] *= fade
        _tissue((x, y, z, distance), mix, par, lattices, frames, infarct, buffer, out)
        hu = out[5]
    if inner < 0.5:
        t = tile[int(hz * 0.9) % 64, int(hy * 0.9) % 64, int(hx * 0.9) % 64]
        hu = _shell(x, y, z, inner, vault, par, thick, t, hu)
    if z < -7 and z > -250:
        share, level = _take_base(base[0], base[1], frames[BASE], x, y, z)
        hu += share * (level - hu)
    out[5] = _calcified(x, y, z, spots, hu)


@numba.njit(cache=True, parallel=True)
def render_voxels(affine, offsets, par, place, lattices, frames, base, tile, spots, infarct, out):
    """Average over the sample ``offsets`` (N, 3), voxels (x, y, z), of every voxel.

    affine : (4, 4), voxel index to head mm. out : tuple of six (Z, Y, X) arrays, grey, white, csf,
    brain, leukoaraiosis, HU.
    """
    nz, ny, nx = out[5].shape
    weight = 1.0 / offsets.shape[0]
    for row in numba.prange(nz * ny):
        k, j = row // ny, row % ny
        found, total = np.empty(6), np.empty(6)
        buffer = np.empty(8, np.float32)
        for i in range(nx):
            total[:] = 0.0
            for n in range(offsets.shape[0]):
                a, b, c = i + offsets[n, 0], j + offsets[n, 1], k + offsets[n, 2]
                _point(
                    affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + affine[0, 3],
                    affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + affine[1, 3],
                    affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + affine[2, 3],
                    par, place, lattices, frames, base, tile, spots, infarct, buffer, found,
                )  # fmt: skip
                for m in range(6):
                    total[m] += found[m]
            for m in range(6):
                out[m][k, j, i] = weight * total[m]
