"""A virtual patient: a CT perfusion scan whose truth is known.

::

    patient = make_patient(PatientConfig(seed=1, side="left"))
    patient.ctp                  what a scanner would store
    patient.maps["cbf"]          what an analysis should find

Every draw comes from the seed, in streams of their own (head, blood, stroke, noise), so that the
same seed with another noise level or without a stroke keeps the same head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError
from strokect.core.quantities import QUANTITIES
from strokect.core.result import Motion
from strokect.core.types import CTSeries, Grid, Map, Mask, Progress, Volume, no_progress
from strokect.perfusion.convolution import (
    ResidueShape,
    ResponseTable,
    response_table,
    tissue_curves,
)
from strokect.phantom import anatomy, haemodynamics, scanner, stroke, vessels
from strokect.phantom.vessels import Side

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Streams = Literal["head", "blood", "tissue", "stroke", "noise"]

#: HU of unenhanced arterial blood, of blood in dural sinuses, of fresh thrombus.
BLOOD_HU, SINUS_HU, CLOT_HU = 42.0, 52.0, 62.0
#: Voxels with at least this share of CSF, or of vessel, count as CSF or vessel, not as tissue.
CSF_SHARE, VESSEL_SHARE, TISSUE_VESSEL_LIMIT, CLOT_SHARE = 0.5, 0.3, 0.02, 0.15
#: Least tissue (grey + white) of a voxel of the tissue masks: the larger part of it.
TISSUE_SHARE = 0.5


@dataclass(frozen=True)
class PatientConfig:
    """Everything that determines a virtual patient.

    shape : (Z, Y, X). spacing_mm : (dz, dy, dx). interval_s : between frames.
    frame_times_s : (T,) instead of n_times and interval_s, for irregular sampling.
    centre_z_mm : height of the middle of the slab above the commissural plane; at 15 mm an 80 mm
    slab reaches from the circle of Willis to the centrum semiovale.
    noise_hu : SD of a voxel. noise_sigma_mm : in-plane correlation. side : of the stroke; None
    draws it. stroke : "mca" is an M1 occlusion. core_ml, hypoperfusion_ml, arrival_s, peak_hu :
    drawn unless given. residue : transit-time family. slice_times : see scanner.frame_times.
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
    side: Side | None = None
    stroke: Literal["mca", "none"] = "mca"
    core_ml: float | None = None
    hypoperfusion_ml: float | None = None
    arrival_s: float | None = None
    peak_hu: float | None = None
    residue: ResidueShape = "gamma"
    slice_times: scanner.SliceTimes = "simultaneous"
    motion: scanner.MotionSpec = field(default_factory=scanner.MotionSpec)
    whole_hu: bool = True

    def __post_init__(self) -> None:
        if self.side not in ("left", "right", None):
            raise SettingsError(f"unknown side {self.side!r}", fix='Use "left", "right" or None')
        if self.stroke not in ("mca", "none"):
            raise SettingsError(f"unknown stroke {self.stroke!r}", fix='Use "mca" or "none"')
        if self.noise_hu < 0 or self.interval_s <= 0 or self.n_times < 1:
            raise SettingsError(
                f"noise_hu {self.noise_hu}, interval_s {self.interval_s}, n_times {self.n_times}",
                fix="Use noise >= 0, an interval > 0 and at least one frame",
            )


#: A small patient of the same extent, for tests: 24 frames, 2.3 mm voxels.
SMALL = PatientConfig(shape=(8, 96, 96), spacing_mm=(10.0, 2.3, 2.3), n_times=24, interval_s=2.0)


@dataclass(frozen=True, eq=False)
class VirtualPatient:
    """A scan and its truth, all on the scan's grid.

    baseline : unenhanced head without noise, HU. fractions : grey, white, csf, brain, vessel share
    of each voxel, 0 to 1 (vessel: blood that is drawn, and clot). maps : cbf, cbv, mtt, delay,
    tmax; 0 outside tissue. Flow and volume are per 100 g of voxel: a voxel that is half CSF has
    half the flow. masks : brain, tissue, grey, white, csf, artery, vein, clot, hypoperfusion, core,
    penumbra. curves : time_s (T,), aif_hu and vof_hu at those times, undamped; dense_time_s,
    dense_aif_hu and dense_vof_hu. motion : true motion, relative to frame 0, in which the truth
    lies. side : of the stroke, None without one. info : JSON-able; config, arrival, volumes.
    """

    label: str
    config: PatientConfig
    ctp: CTSeries
    baseline: Volume
    fractions: dict[str, Volume]
    maps: dict[str, Map]
    masks: dict[str, Mask]
    curves: Mapping[str, Float64]
    motion: Motion
    side: Side | None
    info: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Blood:
    """Vessels of the scan. share, delay_s : (N,) of voxels ``index`` (N,), per kind of blood."""

    index: dict[str, npt.NDArray[np.intp]]
    share: dict[str, Float32]
    delay_s: dict[str, Float32]
    clot: Float32


@dataclass(frozen=True, eq=False)
class _Truth:
    """Maps of the brain. where : flat voxel indices (V,); the rest (V,) float32 there."""

    where: npt.NDArray[np.intp]
    cbf: Float32
    cbv: Float32
    mtt: Float32
    delay: Float32
    core_level: Float32


def make_patient(config: PatientConfig, progress: Progress = no_progress) -> VirtualPatient:
    """Make the patient. The same config gives the same bytes."""
    grid = anatomy.scan_grid(config.shape, config.spacing_mm, config.centre_z_mm)
    steps = config.shape[0] + len(_frames(config)) + 2
    head = anatomy.make_head(_rng(config, "head"))
    side = _side(config)
    all_tubes = vessels.tubes(head.map)
    tissue = anatomy.render(head, grid)
    progress(1, steps)
    times = _times(config)
    bolus = haemodynamics.draw_bolus(_rng(config, "blood"), config.arrival_s, config.peak_hu)
    curves = haemodynamics.blood_curves(bolus, max(120.0, float(times.max()) + 5.0))
    blood = _blood(all_tubes, grid, side)
    truth = _truth(config, tissue, all_tubes, grid, side, blood)
    baseline = _baseline(tissue, blood, truth)
    masks = _masks(grid, head, tissue, blood, truth, side)
    motion = scanner.motion_of(config.motion, times[:, 0].copy(), masks["brain"].data, grid)
    progress(2, steps)
    contrast = _contrast(curves, config.residue)
    data = np.empty((times.shape[0], *grid.shape), np.float32)
    for z in range(grid.shape[0]):
        data[:, z] = baseline[z]
        _enhance(data, z, times[:, z], truth, blood, contrast)
        progress(3 + z, steps)
    _scan(data, grid, config, motion, progress)
    maps = _maps(grid, truth)
    stated = _curves(times[:, 0], curves)
    info = _info(config, bolus, masks, side)
    return VirtualPatient(
        label=f"{config.seed:04d}",
        config=config,
        ctp=CTSeries(data, times, grid),
        baseline=Volume(baseline, grid),
        fractions=_fractions(grid, tissue, blood),
        maps=maps,
        masks=masks,
        curves=stated,
        motion=motion,
        side=side,
        info=info,
    )


def _rng(config: PatientConfig, stream: Streams) -> np.random.Generator:
    number = ("head", "blood", "tissue", "stroke", "noise").index(stream)
    return np.random.default_rng(np.random.SeedSequence([config.seed, number]))


def _side(config: PatientConfig) -> Side | None:
    if config.stroke == "none":
        return None
    drawn: Side = "left" if _rng(config, "stroke").random() < 0.5 else "right"
    return config.side or drawn


def _frames(config: PatientConfig) -> Float64:
    if config.frame_times_s is not None:
        return np.asarray(config.frame_times_s, np.float64)
    return np.arange(config.n_times, dtype=np.float64) * config.interval_s


def _times(config: PatientConfig) -> Float64:
    """(T, Z) s. Per-slice offsets are within the (shortest) interval."""
    frames = _frames(config)
    shortest = float(np.diff(frames).min()) if len(frames) > 1 else config.interval_s
    offsets = scanner.frame_times(1, shortest, config.shape[0], config.slice_times)
    return frames[:, None] + offsets


def _blood(all_tubes: list[vessels.Tube], grid: Grid, side: Side | None) -> _Blood:
    """Shares of artery, collateral-fed artery, vein and sinus, and their delays.

    The clot is the middle of M1. Before it, M1 enhances as the carotid does; beyond it, M1 and
    the branches fill late and slowly through collaterals, with the same area under the curve.
    """
    groups: dict[str, list[vessels.Tube]] = {"artery": [], "collateral": [], "vein": [], "clot": []}
    for tube in all_tubes:
        drawn = tube.radius_mm.max() > 0
        occluded = tube.territory == "mca" and side is not None and tube.side == side
        if tube.territory == "vein":
            groups["vein"].append(tube)
        elif drawn and occluded and tube.name == "m1":
            for kind, low, high in (
                ("artery", 0, 0.25),
                ("clot", 0.25, 0.7),
                ("collateral", 0.7, 1),
            ):
                groups[kind].append(_part(tube, low, high))
        elif drawn:
            groups["collateral" if occluded else "artery"].append(tube)
    shares: dict[str, Float32] = {k: vessels.occupancy(grid, g).ravel() for k, g in groups.items()}
    total = np.maximum(sum(shares.values()), np.float32(1.0))
    root = [t for t in all_tubes if t.name in ("ica", "basilar")]
    index, share, delay = {}, {}, {}
    for kind in ("artery", "collateral", "vein"):
        index[kind] = np.flatnonzero(shares[kind] > 1e-3)
        share[kind] = np.asarray((shares[kind] / total)[index[kind]], np.float32)
        points = _points(grid, index[kind])
        away = vessels.distance_to(root, points) if kind != "vein" else np.zeros(points.shape[1])
        delay[kind] = (0.008 * away).astype(np.float32)
    clot = np.asarray(shares["clot"] / total, np.float32).reshape(grid.shape)
    return _Blood(index, share, delay, clot)


def _part(tube: vessels.Tube, low: float, high: float) -> vessels.Tube:
    n = tube.points.shape[1]
    cut = slice(round(low * n), round(high * n))
    return dataclasses.replace(tube, points=tube.points[:, cut], radius_mm=tube.radius_mm[cut])


def _points(grid: Grid, where: npt.NDArray[np.intp]) -> Float64:
    """Head points (3, N) of flat voxel indices."""
    z, y, x = np.unravel_index(where, grid.shape)
    return grid.affine[:3, :3] @ np.stack([x, y, z]) + grid.affine[:3, 3:]


def _vessel_share(blood: _Blood, size: int) -> Float32:
    """Share (size,) of each voxel that is vessel or clot."""
    total = blood.clot.ravel().copy()
    for kind, where in blood.index.items():
        total[where] += blood.share[kind]
    return np.minimum(total, 1.0).reshape(size)


def _truth(
    config: PatientConfig,
    tissue: anatomy.Anatomy,
    all_tubes: list[vessels.Tube],
    grid: Grid,
    side: Side | None,
    blood: _Blood,
) -> _Truth:
    """Maps at every voxel with some tissue. A voxel's flow is that of its grey and white share."""
    parenchyma = (tissue.grey + tissue.white).ravel()
    where = np.flatnonzero(parenchyma > 0.02)
    points = _points(grid, where)
    rng = _rng(config, "tissue")
    normal = haemodynamics.draw_normal(rng)
    fields = haemodynamics.normal_fields(rng, normal, all_tubes, points)
    room = 1 - _vessel_share(blood, parenchyma.size)[where]
    grey, white = tissue.grey.ravel()[where] * room, tissue.white.ravel()[where] * room
    core_level = np.zeros(where.size, np.float32)
    if side is not None:
        rng = _rng(config, "stroke")
        rng.random()  # the side
        model = stroke.draw_stroke(rng, config.core_ml, config.hypoperfusion_ml)
        weight = (grey + white) * grid.voxel_ml
        placed = stroke.lesion(rng, model, all_tubes, side, points, weight)
        fields = stroke.apply(model, placed, fields)
        core_level = placed.core * placed.hypoperfused
    cbf = grey * fields.grey_cbf + white * fields.white_cbf
    cbv = grey * fields.grey_cbv + white * fields.white_cbv
    mtt = 60 * cbv / np.maximum(cbf, 1e-6)
    return _Truth(where, cbf, cbv, mtt.astype(np.float32), fields.delay_s, core_level)


def _baseline(tissue: anatomy.Anatomy, blood: _Blood, truth: _Truth) -> Float32:
    """Unenhanced HU (Z, Y, X), with blood, clot and the early hypodensity (2 HU) of the core."""
    hu = tissue.static_hu.copy()
    flat = hu.reshape(-1)
    flat[truth.where] -= 2.0 * truth.core_level
    for kind, where in blood.index.items():
        level = SINUS_HU if kind == "vein" else BLOOD_HU
        flat[where] += blood.share[kind] * (level - flat[where])
    clot = blood.clot.reshape(-1)
    flat += clot * (CLOT_HU - flat)
    return hu


@dataclass(frozen=True, eq=False)
class _Contrast:
    """Dense blood curves and the tissue response tabulated from the arterial one."""

    curves: haemodynamics.BloodCurves
    table: ResponseTable


def _contrast(curves: haemodynamics.BloodCurves, shape: ResidueShape) -> _Contrast:
    table = response_table(curves.artery, 0.0, haemodynamics.DENSE_STEP_S, shape)
    return _Contrast(curves, table)


def _enhance(
    data: Float32, z: int, times_s: Float64, truth: _Truth, blood: _Blood, contrast: _Contrast
) -> None:
    """Add tissue and vessel enhancement to slice ``z`` of ``data`` (T, Z, Y, X), in place."""
    size = data.shape[2] * data.shape[3]
    frame = data[:, z].reshape(len(data), size)
    low, high = np.searchsorted(truth.where, [z * size, (z + 1) * size])
    frame[:, truth.where[low:high] - z * size] += tissue_curves(
        contrast.table, times_s, truth.cbf[low:high], truth.mtt[low:high], truth.delay[low:high]
    )
    curves = contrast.curves
    dense = {"artery": curves.artery, "collateral": curves.collateral, "vein": curves.vein}
    for kind, where in blood.index.items():
        low, high = np.searchsorted(where, [z * size, (z + 1) * size])
        at = times_s[:, None] - blood.delay_s[kind][low:high]
        enhancement = blood.share[kind][low:high] * curves.at(dense[kind], at)
        frame[:, where[low:high] - z * size] += enhancement.astype(np.float32)
    data[:, z] = frame.reshape(data.shape[0], *data.shape[2:])


def _scan(
    data: Float32, grid: Grid, config: PatientConfig, motion: Motion, progress: Progress
) -> None:
    """Move, add noise and round, frame by frame, in place."""
    rng = _rng(config, "noise")
    steps = grid.shape[0] + len(data) + 2
    for t in range(len(data)):
        frame = data[t]
        frame[...] = scanner.move(frame, grid, motion.parameters[t])
        if config.noise_hu > 0:
            frame += scanner.noise(rng, grid, config.noise_hu, config.noise_sigma_mm)
        if config.whole_hu:
            np.rint(frame, out=frame)
        np.maximum(frame, -1024.0, out=frame)
        progress(3 + grid.shape[0] + t, steps)


def _masks(
    grid: Grid,
    head: anatomy.Head,
    tissue: anatomy.Anatomy,
    blood: _Blood,
    truth: _Truth,
    side: Side | None,
) -> dict[str, Mask]:
    """All truth masks, by rule from fractions and true maps."""
    vessel = _vessel_share(blood, int(np.prod(grid.shape))).reshape(grid.shape)
    brain = tissue.brain > 0.5
    parenchyma = tissue.grey + tissue.white
    solid = brain & (parenchyma > TISSUE_SHARE) & (vessel < TISSUE_VESSEL_LIMIT)
    arteries = _scatter(grid, blood, ("artery", "collateral"))
    cbf, tmax = (_fill(grid, truth.where, v) for v in (truth.cbf, _tmax(truth)))
    reference = solid & (tmax < 4)
    if side is not None:
        mni_x = head.map.to_mni(_points(grid, np.arange(solid.size)))[0].reshape(grid.shape)
        reference = solid & ((mni_x > 0) if side == "left" else (mni_x < 0))
    found = {
        "brain": brain,
        "tissue": solid,
        "grey": solid & (tissue.grey > 0.5),
        "white": solid & (tissue.white > 0.5),
        "csf": brain & (tissue.csf >= CSF_SHARE) & (vessel < VESSEL_SHARE),
        "artery": arteries >= VESSEL_SHARE,
        "vein": _scatter(grid, blood, ("vein",)) >= VESSEL_SHARE,
        "clot": blood.clot >= CLOT_SHARE,
        **stroke.tissue_masks(cbf, tmax, solid, reference),
    }
    return {name: Mask(data, grid, name) for name, data in found.items()}


def _fractions(grid: Grid, tissue: anatomy.Anatomy, blood: _Blood) -> dict[str, Volume]:
    vessel = _vessel_share(blood, int(np.prod(grid.shape))).reshape(grid.shape)
    found = {
        "grey": tissue.grey,
        "white": tissue.white,
        "csf": tissue.csf,
        "brain": tissue.brain,
        "vessel": vessel,
    }
    return {name: Volume(data, grid) for name, data in found.items()}


def _scatter(grid: Grid, blood: _Blood, kinds: tuple[str, ...]) -> Float32:
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    for kind in kinds:
        out[blood.index[kind]] += blood.share[kind]
    return out.reshape(grid.shape)


def _fill(grid: Grid, where: npt.NDArray[np.intp], values: Float32) -> Float32:
    out = np.zeros(int(np.prod(grid.shape)), np.float32)
    out[where] = values
    return out.reshape(grid.shape)


def _tmax(truth: _Truth) -> Float32:
    return np.asarray(stroke.true_tmax(truth.delay, truth.mtt), np.float32)


def _maps(grid: Grid, truth: _Truth) -> dict[str, Map]:
    values = {
        "cbf": truth.cbf,
        "cbv": truth.cbv,
        "mtt": truth.mtt,
        "delay": truth.delay,
        "tmax": _tmax(truth),
    }
    return {
        key: Map(_fill(grid, truth.where, v), grid, quantity=QUANTITIES[key])
        for key, v in values.items()
    }


def _curves(time_s: Float64, curves: haemodynamics.BloodCurves) -> dict[str, Float64]:
    return {
        "time_s": time_s.copy(),
        "aif_hu": curves.at(curves.artery, time_s),
        "vof_hu": curves.at(curves.vein, time_s),
        "dense_time_s": curves.time_s,
        "dense_aif_hu": curves.artery,
        "dense_vof_hu": curves.vein,
    }


def _info(
    config: PatientConfig, bolus: haemodynamics.Bolus, masks: dict[str, Mask], side: Side | None
) -> dict[str, Any]:
    return {
        "schema": "strokect.phantom/1",
        "config": dataclasses.asdict(config),
        "side": side,
        "arrival_s": bolus.arrival_s,
        "bolus": dataclasses.asdict(bolus),
        "tmax_definition": "delay + MTT / 2",
        "volumes_ml": {name: round(mask.volume_ml, 3) for name, mask in masks.items()},
    }
