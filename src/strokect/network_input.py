"""What a network is given of a study: the scan or its maps; prepared ones are kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strokect.core.classes import to_classes
from strokect.core.errors import InputError, ScanError
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries, Grid, Progress, no_progress
from strokect.ctp_input import scan_input
from strokect.io.datasets import Case, Layout
from strokect.io.stamp import stamp
from strokect.learn.cache import Example, read_arrays, read_example, write_arrays, write_example
from strokect.learn.inputs import InputOptions
from strokect.learn.map_inputs import MapInputOptions, clinical_vector
from strokect.learn.scan_input import ScanInput
from strokect.map_input import computed_maps, map_input, source_of

#: Counts up when scans are prepared in another way, so that earlier ones are prepared anew.
PREPARED = 3
Options = InputOptions | MapInputOptions
Study = CTSeries | MapSet


def study_input(study: Study, options: Options, progress: Progress = no_progress) -> ScanInput:
    """A scan, or maps where the network looks at maps, as the network is given it.

    Raises ScanError for maps where the network needs the scan, and what ``ctp_input.scan_input``
    and ``map_input.computed_maps`` do.
    """
    if isinstance(options, MapInputOptions):
        maps = study if isinstance(study, MapSet) else computed_maps(study, options)
        lacking = [name for name in options.maps if name not in maps.maps]
        if lacking:
            raise ScanError(f"no map {lacking[0]!r}", fix="Give the scan, or all maps")
        return map_input(maps, options)
    if isinstance(study, MapSet):
        raise ScanError("maps, but this network looks at the scan itself", fix="Give the CTP scan")
    return scan_input(study, options, progress)


def case_study(layout: Layout, case: Case, options: Options, cache: Path | None = None) -> Study:
    """What the network is to be given of a case; maps that are computed are kept in ``cache``."""
    if isinstance(options, InputOptions):
        return layout.scan(case)
    if options.source == "files":
        return layout.maps(case, options.maps)
    if cache is None:
        return computed_maps(layout.scan(case), options)
    return _kept_maps(layout, case, options, cache)


@dataclass(frozen=True)
class CaseLoader:
    """Prepared scans by number; each is prepared when it is first asked for, then kept.

    classes : of the problem, 2 to 4. folder : where prepared scans are kept.
    """

    cases: Sequence[Case]
    layout: Layout
    options: Options
    classes: int
    folder: Path
    _places: dict[int, Path] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, number: int) -> Example:
        """The scan with labels of the problem's classes, and its clinical values.

        Raises what ``study_input`` does and the layout's errors, with the name of the case.
        """
        case = self.cases[number]
        if number not in self._places:  # looked up once: a scan may be thousands of files
            self._places[number] = self.folder / f"{case.name}-{self._key(case)}"
        place = self._places[number]
        try:
            kept = read_example(place) or write_example(place, self._prepare(case))
        except InputError as error:
            raise type(error)(f"{case.name}: {error.what}", error.where, error.fix) from error
        labels = None if kept.labels is None else to_classes(kept.labels, self.classes)
        if isinstance(self.options, MapInputOptions):
            clinical = clinical_vector(case.clinical, self.options.scores)
            return replace(kept, labels=labels, clinical=clinical)
        return replace(kept, labels=labels)

    def _prepare(self, case: Case) -> Example:
        study = case_study(self.layout, case, self.options, self.folder)
        grid = study.grid
        found = study_input(study, self.options)
        labels = None
        if case.labels is not None:
            labels = found.labels_for_network(self.layout.labels(case, grid))
        return Example(found.image, labels, found.image_brain)

    def _key(self, case: Case) -> str:
        """Of the files and the options: a scan that changed is prepared anew."""
        options = asdict(self.options)
        options.pop("scores", None)  # beside the images, and read anew each time
        options.pop("kind")  # earlier prepared scans had none
        return _digest(
            version=PREPARED,
            layout=repr(self.layout),
            options=options,
            scan=_stamps(self.layout, case, self.options),
            labels=stamp(case.labels),
            **_sizes(case),
        )


def _stamps(layout: Layout, case: Case, options: Options) -> list[str]:
    if isinstance(options, MapInputOptions) and options.source == "files":
        return [stamp(path) for path in layout.map_files(case, options.maps)]
    return [stamp(case.scan)]


def _sizes(case: Case) -> dict[str, str]:
    return {"sizes": case.sizes} if case.sizes else {}


def _digest(**what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _kept_maps(layout: Layout, case: Case, options: MapInputOptions, cache: Path) -> MapSet:
    """Maps computed once for all settings that look at some of them."""
    key = _digest(
        version=PREPARED,
        layout=repr(layout),
        estimator=options.estimator,
        denoise=options.denoise,
        motion=options.motion_correction,
        scan=stamp(case.scan),
        **_sizes(case),
    )
    place = cache / f"{case.name}-maps-{key}"
    kept = read_arrays(place, {"affine", "brain", "mean_hu", "flags", *options.maps})
    if kept is None:
        found = computed_maps(layout.scan(case), options)
        assert found.brain is not None and found.mean_hu is not None  # they are of the pipeline
        kept = write_arrays(
            place,
            {
                **found.maps,
                "affine": found.grid.affine,
                "brain": found.brain,
                "mean_hu": np.asarray(found.mean_hu, np.float32),
                "flags": np.array([astuple(f) for f in found.flags], np.str_).reshape(-1, 3),
            },
        )
    brain = np.asarray(kept["brain"])
    return MapSet(
        Grid(brain.shape, np.asarray(kept["affine"])),
        {name: np.asarray(kept[name]) for name in options.maps},
        brain,
        np.asarray(kept["mean_hu"]),
        tuple(flag(code, message, level) for code, level, message in kept["flags"].tolist()),
        source=source_of(options.estimator, options.denoise),
    )
