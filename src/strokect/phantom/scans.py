"""Non-contrast CT and CT angiography of a virtual person, with the clot and vessels of truth.

Large volumes are made slab by slab, so that memory stays at about the image itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokect.core.types import Grid, Mask, Progress, Volume, no_progress
from strokect.perfusion.convolution import tissue_curves
from strokect.phantom import anatomy, artefacts, haemodynamics
from strokect.phantom.config import Stream, stream
from strokect.phantom.patient import Contrast
from strokect.phantom.protocols import CtaProtocol, NcctProtocol, tilted
from strokect.phantom.raster import filled, fullest, segment_image
from strokect.phantom.subject import Blood, Subject, baseline_hu, blood_on
from strokect.phantom.truth import Truth, fill, truth_on

Float32 = npt.NDArray[np.float32]

#: Where NCCT and CTA end, mm: above the skull; the scalp of a tall head may be cut.
TOP_MM = 92.0
#: Sampling of a voxel: coarser than in CT perfusion, as the kernel blurs the image afterwards.
FINE_MM = 1.8
#: Voxels of a slab: small enough for the cache of intermediate arrays, large enough for numpy.
_SLAB_VOXELS = 6_000_000


@dataclass(frozen=True, eq=False)
class StaticScan:
    """An image, HU, and where the clot is. vessels : (Z, Y, X) uint8, vessels.SEGMENT_LABELS."""

    image: Volume
    clot: Mask
    vessels: npt.NDArray[np.uint8]


def ncct(
    subject: Subject,
    protocol: NcctProtocol,
    sheared: bool = False,
    progress: Progress = no_progress,
) -> StaticScan:
    """Non-contrast CT: early hypodensity, hyperdense clot.

    sheared : a tilted gantry as DICOM stores it, slices stepped along the table; else the same
    slices stacked along their own normal, as files without shear hold them.
    """
    grid = _grid(protocol)
    if protocol.tilt_deg:
        grid = (tilted if sheared else _turned)(grid, protocol.tilt_deg)
    return _scan(subject, protocol, grid, "ncct", None, progress)


def cta(
    subject: Subject,
    protocol: CtaProtocol,
    bolus: haemodynamics.Bolus,
    progress: Progress = no_progress,
) -> StaticScan:
    """CT angiography: one moment of the passage of its own ``bolus``, taken for all slices."""
    curves = haemodynamics.blood_curves(bolus, 120.0)
    peak_s = float(curves.time_s[np.argmax(curves.artery)])
    moment = Moment(Contrast(curves, subject), peak_s + protocol.after_peak_s)
    return _scan(subject, protocol, _grid(protocol), "cta", moment, progress)


@dataclass(frozen=True, eq=False)
class Moment:
    """A contrast passage at one time, s."""

    contrast: Contrast
    time_s: float


def _grid(protocol: NcctProtocol | CtaProtocol) -> Grid:
    centre = TOP_MM - protocol.shape[0] * protocol.slice_mm / 2
    return anatomy.scan_grid(protocol.shape, protocol.spacing_mm, centre)


def _turned(grid: Grid, tilt_deg: float) -> Grid:
    """The slices of ``tilted``, stacked along their normal about the middle of the grid."""
    affine = tilted(grid, tilt_deg).affine.copy()
    centre_index = [(n - 1) / 2 for n in grid.shape[::-1]]
    centre = (grid.affine @ [*centre_index, 1.0])[:3]
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal *= np.sign(normal @ affine[:3, 2]) / np.linalg.norm(normal)
    affine[:3, 2] = normal * grid.spacing_mm[0]
    affine[:3, 3] = centre - affine[:3, :3] @ centre_index
    return Grid(grid.shape, affine)


def _scan(
    subject: Subject,
    protocol: NcctProtocol | CtaProtocol,
    grid: Grid,
    name: Stream,
    moment: Moment | None,
    progress: Progress,
) -> StaticScan:
    image = np.empty(grid.shape, np.float32)
    slabs = list(_slabs(grid))
    for done, (rows, part) in enumerate(slabs):
        tissue = anatomy.render(subject.head, part, fine_mm=FINE_MM)
        blood = blood_on(subject, part)
        found = truth_on(subject, part, tissue, blood)
        loss = fill(part, found.where, found.hypodensity_hu)
        hu = baseline_hu(subject, tissue.static_hu, blood, loss)
        if moment is not None:
            _enhance(hu, subject, found, blood, moment)
        image[rows] = hu
        progress(done + 1, len(slabs) + 2)
    _acquire(image, grid, subject, protocol, name)
    progress(len(slabs) + 1, len(slabs) + 2)
    vessels = segment_image(grid, subject.tubes)
    clot = fullest(*filled(grid, subject.groups["clot"]), grid)
    return StaticScan(Volume(image, grid), Mask(clot, grid, "clot"), vessels)


def _slabs(grid: Grid) -> Iterator[tuple[slice, Grid]]:
    """The grid in parts of some slices each."""
    nz, ny, nx = grid.shape
    depth = max(1, min(nz, _SLAB_VOXELS // (ny * nx)))
    for low in range(0, nz, depth):
        high = min(nz, low + depth)
        affine = grid.affine.copy()
        affine[:3, 3] = (grid.affine @ [0, 0, low, 1])[:3]
        yield slice(low, high), Grid((high - low, ny, nx), affine)


def _enhance(hu: Float32, subject: Subject, found: Truth, blood: Blood, moment: Moment) -> None:
    """Add the enhancement at one time, in place; a permeable clot lets a share of contrast in."""
    flat, contrast, time_s = hu.reshape(-1), moment.contrast, moment.time_s
    flat[found.where] += tissue_curves(
        contrast.table, np.array([time_s]), found.cbf, found.mtt, found.delay
    )[0]
    for kind, where in blood.index.items():
        level = contrast.curves.at(contrast.dense[kind], time_s - blood.delay_s[kind])
        flat[where] += (blood.share[kind] * level).astype(np.float32)


def _acquire(
    image: Float32,
    grid: Grid,
    subject: Subject,
    protocol: NcctProtocol | CtaProtocol,
    name: Stream,
) -> None:
    """What the scanner stores: blurred, with artefacts and noise, in whole HU; in place."""
    rng = stream(subject.seed, name)
    artefacts.blur(image, grid, protocol.kernel)
    image += artefacts.beam_hardening(image, grid)
    if subject.clip_mm is not None:
        image += artefacts.metal_streaks(rng, image, grid, subject.clip_mm)
    profile = artefacts.noise_profile(image, grid)
    for rows, part in _slabs(grid):
        hu = image[rows]
        artefacts.add_holder(hu, artefacts.table(part, subject.holder))
        hu += artefacts.noise(rng, part, protocol.noise_hu, protocol.kernel, profile[rows])
        np.maximum(np.rint(hu, out=hu), np.float32(-1024.0), out=hu)
