"""A virtual patient's CT perfusion scan, with its truth.

::

    patient = make_patient(PatientConfig(seed=1, side="left"))
    patient.ctp                  what a scanner would store
    patient.maps["cbf"]          what an analysis should find

Every draw comes from the seed, in streams of their own (head, vessels, blood, tissue, stroke,
noise), so that the same seed with another noise level or without a stroke keeps the same head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.result import Motion
from strokect.core.types import CTSeries, Grid, Map, Mask, Progress, Volume, no_progress
from strokect.perfusion.convolution import (
    ResidueShape,
    ResponseTable,
    response_table,
    tissue_curves,
)
from strokect.phantom import anatomy, artefacts, haemodynamics, scanner, truth
from strokect.phantom.config import SMALL, PatientConfig, stream
from strokect.phantom.subject import Blood, Subject, baseline_hu, blood_on, make_subject
from strokect.phantom.truth import Truth, fill
from strokect.phantom.vessels import Side

__all__ = ["SMALL", "PatientConfig", "VirtualPatient", "make_patient", "scan_patient"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VirtualPatient:
    """A scan and its truth, all on the scan's grid.

    baseline : unenhanced head without noise, HU. fractions : grey, white, csf, brain, vessel share
    of each voxel, 0 to 1 (vessel: blood that is drawn, and clot). maps : cbf, cbv, mtt, delay,
    tmax; 0 outside tissue. Flow and volume are per 100 g of voxel: a voxel that is half CSF has
    half the flow. masks : brain, tissue, grey, white, csf, artery, vein, clot, hypoperfusion, core,
    penumbra. curves : time_s (T,), aif_hu and vof_hu at those times, undamped; dense_time_s,
    dense_aif_hu and dense_vof_hu. motion : true motion, relative to frame 0, in which the truth
    lies. side : of the stroke, None without one. info : JSON-able; config, person, volumes.
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


def make_patient(config: PatientConfig, progress: Progress = no_progress) -> VirtualPatient:
    """Make the patient. The same config gives the same bytes."""
    return scan_patient(make_subject(config), config, progress)


def scan_patient(
    subject: Subject, config: PatientConfig, progress: Progress = no_progress
) -> VirtualPatient:
    """CT perfusion scan of a person."""
    grid = anatomy.scan_grid(config.shape, config.spacing_mm, config.centre_z_mm)
    times = config.times_s()
    still = _seen(subject, grid)
    masks = truth.masks_of(subject, grid, still.tissue, still.blood, still.truth)
    motion = scanner.motion_of(config.motion, times[:, 0].copy(), masks["brain"].data, grid)
    poses, pose_of = np.unique(motion.parameters, axis=0, return_inverse=True)
    steps = len(poses) * grid.shape[0] + 1
    curves = haemodynamics.blood_curves(subject.bolus, max(120.0, float(times.max()) + 5.0))
    contrast = Contrast(curves, subject, config.residue)
    data = np.empty((times.shape[0], *grid.shape), np.float32)
    for k, pose in enumerate(poses):
        frames = np.flatnonzero(pose_of.ravel() == k)
        # A moved head is rendered anew, so that thick slices mix other tissue, as in a scanner.
        there = scanner.moved_grid(grid, pose)
        seen = _seen(subject, there) if pose.any() else still
        static = seen.baseline + _hardened(subject, config, seen.baseline, there)
        for z in range(grid.shape[0]):
            part = np.repeat(static[None, z : z + 1], len(frames), axis=0)
            enhance(part, z, times[frames, z], seen.truth, seen.blood, contrast)
            data[frames, z] = part[:, 0]
            progress(k * grid.shape[0] + z + 1, steps)
    _scan(data, grid, subject, config, still.baseline)
    progress(steps, steps)
    return VirtualPatient(
        label=f"{config.seed:04d}",
        config=config,
        ctp=CTSeries(data, times, grid),
        baseline=Volume(still.baseline, grid),
        fractions=truth.fractions_of(grid, still.tissue, still.blood),
        maps=truth.maps_of(grid, still.truth),
        masks=masks,
        curves=truth.curves_of(times[:, 0], curves),
        motion=motion,
        side=subject.side,
        info=_info(subject, config, masks),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What lies in the voxels of a grid: tissue, blood, perfusion, unenhanced HU."""

    tissue: anatomy.Anatomy
    blood: Blood
    truth: Truth
    baseline: Float32


def _seen(subject: Subject, grid: Grid) -> _Seen:
    tissue = anatomy.render(subject.head, grid, fine_mm=max(1.25, grid.spacing_mm[0] / 6))
    blood = blood_on(subject, grid)
    found = truth.truth_on(subject, grid, tissue, blood)
    loss = fill(grid, found.where, found.hypodensity_hu)
    return _Seen(tissue, blood, found, baseline_hu(subject, tissue.static_hu, blood, loss))


class Contrast:
    """Dense blood curves and the tissue response tabulated from the arterial one."""

    def __init__(
        self, curves: haemodynamics.BloodCurves, subject: Subject, shape: ResidueShape = "gamma"
    ) -> None:
        self.curves = curves
        self.table: ResponseTable = response_table(
            curves.artery, 0.0, haemodynamics.DENSE_STEP_S, shape
        )
        through = subject.occluded.permeability if subject.occluded else 0.0
        self.dense = {
            "artery": curves.artery, "collateral": curves.collateral, "vein": curves.vein,
            "clot": through * curves.artery,
        }  # fmt: skip


def enhance(
    data: Float32, z: int, times_s: Float64, found: Truth, blood: Blood, contrast: Contrast
) -> None:
    """Add tissue and vessel enhancement of slice ``z`` to ``data`` (T, 1, Y, X), in place."""
    size = data.shape[2] * data.shape[3]
    frame = data.reshape(len(data), size)
    low, high = np.searchsorted(found.where, [z * size, (z + 1) * size])
    frame[:, found.where[low:high] - z * size] += tissue_curves(
        contrast.table, times_s, found.cbf[low:high], found.mtt[low:high], found.delay[low:high]
    )
    for kind, where in blood.index.items():
        low, high = np.searchsorted(where, [z * size, (z + 1) * size])
        at = times_s[:, None] - blood.delay_s[kind][low:high]
        enhancement = blood.share[kind][low:high] * contrast.curves.at(contrast.dense[kind], at)
        frame[:, where[low:high] - z * size] += enhancement.astype(np.float32)


def _hardened(
    subject: Subject, config: PatientConfig, baseline: Float32, grid: Grid
) -> Float32 | float:
    """What beam hardening and a metal clip add to a head seen on this grid, HU."""
    if not config.artefacts:
        return 0.0
    added = artefacts.beam_hardening(baseline, grid)
    if subject.clip_mm is not None:
        rng = stream(config.seed, "clip")
        added += artefacts.metal_streaks(rng, baseline, grid, subject.clip_mm)
    return added


def _scan(
    data: Float32, grid: Grid, subject: Subject, config: PatientConfig, baseline: Float32
) -> None:
    """Add head holder and noise and round, frame by frame, in place."""
    rng = stream(config.seed, "noise")
    profile, holder = None, None
    if config.artefacts:
        profile = artefacts.noise_profile(baseline, grid)
        holder = artefacts.table(grid, subject.holder)
    for t in range(len(data)):
        frame = data[t]
        if holder is not None:
            artefacts.add_holder(frame, holder)
        if config.noise_hu > 0:
            frame += _noise(rng, grid, config, profile)
        if config.whole_hu:
            np.rint(frame, out=frame)
        np.maximum(frame, -1024.0, out=frame)


def _noise(
    rng: np.random.Generator, grid: Grid, config: PatientConfig, profile: Float32 | None
) -> Float32:
    if config.kernel is not None:
        return artefacts.noise(rng, grid, config.noise_hu, config.kernel, profile)
    out = artefacts.gaussian_noise(rng, grid, config.noise_hu, config.noise_sigma_mm)
    return out if profile is None else out * profile


def _info(subject: Subject, config: PatientConfig, masks: dict[str, Mask]) -> dict[str, Any]:
    return {
        "schema": "strokect.phantom/2",
        "config": dataclasses.asdict(config),
        **subject.info,
        "arrival_s": subject.bolus.arrival_s,
        "tmax_definition": "delay + MTT / 2",
        "volumes_ml": {name: round(mask.volume_ml, 3) for name, mask in masks.items()},
    }
