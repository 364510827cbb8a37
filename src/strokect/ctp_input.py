"""From a CT perfusion scan to what networks are given; prepared scans are kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokect.core.classes import BACKGROUND, BRAIN, to_classes
from strokect.core.errors import InputError
from strokect.core.types import (
    BoolArray,
    CTSeries,
    FloatArray,
    Progress,
    QualityFlag,
    no_progress,
)
from strokect.io.datasets import Case, Layout
from strokect.io.stamp import stamp
from strokect.learn.cache import Example, read_example, write_example
from strokect.learn.inputs import InputOptions, brain_box, network_input, normalised
from strokect.learn.spacing import Regrid, regrid
from strokect.perfusion import curves as enhancement
from strokect.perfusion import motion, quality
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.prepare import Given, prepare

#: Counts up when scans are prepared in another way, so that earlier ones are prepared anew.
PREPARED = 2


@dataclass(frozen=True, eq=False)
class ScanInput:
    """A scan as a network is given it.

    image : (C, T, z, y, x) float32, cut to ``box`` in the plane and at the network's voxel size.
    image_brain : (z, y, x). regrid : between the box and the image. brain, mean_hu : (Z, Y, X) of
    the whole scan. flags : quality findings.
    """

    image: npt.NDArray[np.float32]
    image_brain: BoolArray
    regrid: Regrid
    box: tuple[slice, slice]
    brain: BoolArray
    mean_hu: FloatArray
    flags: tuple[QualityFlag, ...] = ()

    def on_scan(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values (..., z, y, x) of the image on the scan (..., Z, Y, X), 0 outside the box."""
        found = self.regrid.to_scan(values)
        out = np.zeros((*found.shape[:-2], *self.brain.shape[1:]), np.float32)
        out[..., self.box[0], self.box[1]] = found
        return out

    def labels_for_network(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """House labels (Z, Y, X) of the scan on the image; brain where the truth says nothing."""
        known = np.where((labels == BACKGROUND) & self.brain, BRAIN, labels).astype(np.uint8)
        return self.regrid.labels_to_network(known[:, *self.box])


def scan_input(
    series: CTSeries, options: InputOptions, progress: Progress = no_progress
) -> ScanInput:
    """Align, find the brain and the bolus, and resample to the network's times.

    Raises ScanError (no head, too few frames), CurveError (no bolus).
    """
    quality.check_values(series)
    flags = list(series.flags)
    if options.motion_correction and series.data_hu.shape[0] > 1:
        aligned, moved = motion.correct_motion(series, MotionOptions(), progress)
        series = replace(series, data_hu=aligned)
        flags += quality.motion_flags(moved)
    prepared, raw = prepare(series, Given())
    brain = prepared.masks.brain
    curve = enhancement.subtract_baseline(raw, prepared.last_baseline)
    mean = curve[:, brain[prepared.masks.inside]].mean(axis=1)
    start = float(prepared.axis.time_s[0])
    arrival = start + enhancement.arrival_s(mean, prepared.axis.interval_s)
    dy, dx = series.grid.spacing_mm[1:]
    box: tuple[slice, slice] = (slice(0, brain.shape[1]), slice(0, brain.shape[2]))
    if options.crop_mm is not None:
        box = brain_box(brain, (round(options.crop_mm / dy), round(options.crop_mm / dx)))
    cut = series.data_hu[:, :, box[0], box[1]]
    seen = network_input(cut, series.times_s, arrival, options)
    grids = regrid(cut.shape[1:], series.grid.spacing_mm, options.spacing_mm)
    seen, image_brain = grids.to_network(seen), grids.mask_to_network(brain[:, *box])
    brain_ml = float(np.count_nonzero(brain) * series.grid.voxel_ml)
    flags += quality.scan_flags(
        series.times_s, series.grid, brain_ml, prepared.noise_hu, prepared.axis.exact
    )
    return ScanInput(
        normalised(seen, image_brain, options),
        image_brain,
        grids,
        box,
        brain,
        prepared.mean_hu,
        tuple(flags),
    )


@dataclass(frozen=True)
class CaseLoader:
    """Prepared scans by number; each is prepared when it is first asked for, then kept.

    classes : of the problem, 2 to 4. folder : where prepared scans are kept.
    """

    cases: Sequence[Case]
    layout: Layout
    options: InputOptions
    classes: int
    folder: Path
    _places: dict[int, Path] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, number: int) -> Example:
        """The scan with labels of the problem's classes.

        Raises what ``scan_input`` does and the layout's errors, with the name of the case.
        """
        case = self.cases[number]
        if number not in self._places:  # looked up once: a scan may be thousands of files
            self._places[number] = self.folder / self._key(case)
        place = self._places[number]
        try:
            kept = read_example(place) or write_example(place, self._prepare(case))
        except InputError as error:
            raise type(error)(f"{case.name}: {error.what}", error.where, error.fix) from error
        labels = None if kept.labels is None else to_classes(kept.labels, self.classes)
        return Example(kept.image, labels, kept.brain)

    def _prepare(self, case: Case) -> Example:
        series = self.layout.scan(case)
        found = scan_input(series, self.options)
        labels = None
        if case.labels is not None:
            labels = found.labels_for_network(self.layout.labels(case, series.grid))
        return Example(found.image, labels, found.image_brain)

    def _key(self, case: Case) -> str:
        """Of the files and the options: a scan that changed is prepared anew."""
        what = {
            "version": PREPARED,
            "layout": repr(self.layout),
            "options": asdict(self.options),
            "scan": stamp(case.scan),
            "labels": stamp(case.labels),
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return f"{case.name}-{digest[:16]}"
