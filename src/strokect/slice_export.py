"""A data set of any layout written as slice folders: scans, colour maps, truth, clinical table.

Each part of a patient appears whole, by renaming, and is kept where it stands, so that a run that
was broken off goes on with the same command.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strokect import __version__, catalog
from strokect.core.classes import BACKGROUND, BRAIN
from strokect.core.clinical import SCORES
from strokect.core.colours import Bytes
from strokect.core.errors import (
    GeometryError,
    InputError,
    OutputExistsError,
    ScanError,
    SettingsError,
)
from strokect.core.mapset import MapSet
from strokect.core.types import BoolArray, CTSeries
from strokect.io.datasets import (
    DESCRIPTION_FILE,
    PHANTOM,
    Case,
    Layout,
    SliceFolderOptions,
    guess_layout,
    is_virtual,
    write_map_slices,
    write_slices,
)
from strokect.io.nifti import read_json
from strokect.io.outputs import check_writable, write_json, write_tsv
from strokect.io.people import read_people
from strokect.io.slice_images import write_truth_slices
from strokect.io.stamp import stamp
from strokect.learn.map_inputs import MapInputOptions
from strokect.map_input import computed_maps
from strokect.pipeline import Stages

TABLE = "clinical.tsv"
EXPORTER = "strokect slices"
#: The maps that are written.
MAPS = ("cbf", "cbv", "ttp", "tmax", "mtt", "mip")
_PREFIXES = {"LVO": "01", "non-LVO": "02", "WIS": "03", "": "00"}
_COLUMNS = (
    "participant_id", "nihss", "age", "sex", "group", "split", "source", "slice_mm", "pixel_mm",
    "interval_s", "stamp",
)  # fmt: skip

Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportOptions:
    """What is written. scans : the CTP images. maps : colour maps, computed unless they lie beside
    the scan. layout : of the source, None to guess it. computed : how maps are computed. slices :
    names of folders, bits and grey levels; sizes are those of each scan.
    """

    scans: bool = True
    maps: bool = True
    layout: str | None = None
    computed: MapInputOptions = field(default_factory=MapInputOptions)
    slices: SliceFolderOptions = field(default_factory=lambda: SliceFolderOptions(bits=16))

    def __post_init__(self) -> None:
        if not (self.scans or self.maps):
            raise SettingsError("neither scans nor maps", "what to write", "Ask for one of them")


@dataclass(frozen=True)
class Export:
    """What became of one patient. name : in the slice folders. source : the case it is from.
    new : whether anything was written now. failure : why it is not whole, None where it is.
    """

    name: str
    source: str
    new: bool = False
    failure: InputError | None = None


def export_slices(
    source: Path,
    out: Path,
    options: ExportOptions = ExportOptions(),
    progress: Listener = lambda stage, done, total: None,
) -> Iterator[Export]:
    """Write the patients of a data set as slice folders that ``SliceDataset`` reads.

    Patients are called 01_001 ... (LVO), 02_... (non-LVO), 03_... (WIS) and 00_... (not known),
    numbered in the order of the source; ``clinical.tsv`` says which is which, with clinical
    scores, split and sizes. Of a patient with several scans the first is written. A patient that
    cannot be used fails alone, and so does one that stands there, made from other files.
    Yields each patient as it is done. Raises ScanError for a source that is no data set,
    OutputExistsError where ``out`` holds something else.
    """
    name = options.layout or guess_layout(source) or "own"
    layout: Layout = catalog.load("layouts", name)()
    rows = _rows(_firsts(layout.cases(source)), out)
    check_writable(out)
    _describe(out, source)
    job = _Job(layout, out, options, [row for row, _ in rows], progress)
    write_tsv(out / TABLE, _COLUMNS, job.rows)
    for number, (row, case) in enumerate(rows):
        if case is None:  # of a part of the data set that is not there now
            continue
        progress("patients", number, len(rows))
        yield _export(row, case, job)
        progress("patients", number + 1, len(rows))


@dataclass(frozen=True)
class _Job:
    """What all patients share. rows : of the table, which fill as scans are read."""

    layout: Layout
    out: Path
    options: ExportOptions
    rows: list[dict[str, str]]
    progress: Listener


def _export(row: dict[str, str], case: Case, job: _Job) -> Export:
    name, out = row["participant_id"], job.out
    parts, made_from = _parts(case, job), _stamp(case)
    missing = {part for part, folder in parts.items() if not (out / folder / name).is_dir()}
    if row["stamp"] != made_from and len(missing) < len(parts):
        fix = "Choose another folder, or remove the folders of this patient there"
        what = f"{case.name}: {name} was written from other files"
        return Export(name, case.name, failure=OutputExistsError(what, out, fix))
    row["stamp"] = made_from
    if not missing:
        return Export(name, case.name)
    try:
        series, maps = _images(case, missing, job)
        grid = series.grid if series is not None else maps.grid  # type: ignore[union-attr]
        if maps is not None and not maps.grid.same_as(grid, tolerance_mm=0.1):
            fix = "Write one of them: --no-scans or --no-maps"
            raise GeometryError("maps on another grid than the scan", case.scan, fix)
        sizes = job.options.slices.of_grid(grid)
        if series is not None:
            sizes = sizes.fitting(series)
            row["interval_s"] = f"{sizes.interval_s:.6g}"
        row["slice_mm"], row["pixel_mm"] = f"{sizes.slice_mm:.6g}", f"{sizes.pixel_mm:.6g}"
        # Before the images, which cannot be read rightly without it.
        write_tsv(out / TABLE, _COLUMNS, job.rows)
        if "truth" in missing:
            brain = None if maps is None else maps.brain
            labels = _with_brain(job.layout.labels(case, grid), brain)
            write_truth_slices(out, name, labels, grid, sizes)
        if "maps" in missing and maps is not None:
            write_map_slices(out, name, maps, None, sizes)
        if "scans" in missing and series is not None:
            write_slices(out, name, series, None, sizes)
    except InputError as error:
        failure = type(error)(f"{case.name}: {error.what}", error.where, error.fix)
        return Export(name, case.name, failure=failure)
    return Export(name, case.name, new=True)


def _parts(case: Case, job: _Job) -> dict[str, str]:
    """The parts of a patient that are wanted, with the names of their folders."""
    options, names = job.options, job.options.slices
    parts = {"truth": names.truth} if case.labels is not None else {}
    parts |= {"scans": names.images} if options.scans else {}
    return parts | ({"maps": names.maps} if options.maps else {})


def _stamp(case: Case) -> str:
    """Which files a patient is from: two virtual cohorts have patients of the same names."""
    both = f"{stamp(case.scan)} {stamp(case.labels)}"
    return hashlib.sha256(both.encode()).hexdigest()[:16]


def _images(case: Case, missing: set[str], job: _Job) -> tuple[CTSeries | None, MapSet | None]:
    """The scan and the maps, as far as the missing parts need them; one of them at least."""
    beside = _maps_beside(case, job.layout) if "maps" in missing else None
    if beside is not None and "scans" not in missing:
        return None, beside
    series = job.layout.scan(case)
    if "maps" not in missing or beside is not None:
        return series, beside
    made = computed_maps(series, job.options.computed, Stages(job.progress))
    return series, replace(made, maps={k: made.maps[k] for k in MAPS})


def _maps_beside(case: Case, layout: Layout) -> MapSet | None:
    """The maps that lie beside a scan where all do, else None."""
    try:
        return layout.maps(case, MAPS)
    except ScanError:
        return None


def _with_brain(labels: Bytes, brain: BoolArray | None) -> Bytes:
    """Truth that knows no brain, with the brain that was found."""
    if brain is None or (labels == BRAIN).any():
        return labels
    return np.where((labels == BACKGROUND) & brain, BRAIN, labels).astype(np.uint8)


def _firsts(cases: list[Case]) -> list[Case]:
    """The first case of each patient: the layout knows one scan of each."""
    found: dict[str, Case] = {}
    for case in cases:
        found.setdefault(case.patient, case)
    return list(found.values())


def _rows(cases: list[Case], out: Path) -> list[tuple[dict[str, str], Case | None]]:
    """Lines of the table with their cases; those that stand keep their names.

    Raises OutputExistsError for a folder that holds something else.
    """
    path = out / TABLE
    if out.exists() and not (out / DESCRIPTION_FILE).exists() and any(out.iterdir()):
        raise OutputExistsError(
            "the folder holds something that strokect did not make", out, "Choose another folder"
        )
    stands = {p.cells.get("source", ""): p.cells for p in read_people(path).values()}
    sources = {case.name: case for case in cases}
    rows: list[tuple[dict[str, str], Case | None]] = [
        ({c: cells.get(c, "n/a") for c in _COLUMNS}, sources.get(source))
        for source, cells in stands.items()
    ]
    taken = [row["participant_id"] for row, _ in rows]
    for case in cases:
        if case.name not in stands:
            prefix = _PREFIXES[case.group]
            numbers = [int(n[3:]) for n in taken if n.startswith(prefix)]
            taken.append(f"{prefix}_{1 + max(numbers, default=0):03d}")
            rows.append((_row(taken[-1], case), case))
    return sorted(rows, key=lambda found: found[0]["participant_id"])


def _row(name: str, case: Case) -> dict[str, str]:
    known: dict[str, Any] = {
        "participant_id": name, "group": case.group, "split": case.split, "source": case.name,
        **{score: getattr(case.clinical, score) for score in SCORES},
    }  # fmt: skip
    cells = {k: f"{v:g}" if isinstance(v, float) else v for k, v in known.items()}
    return {column: cells.get(column) or "n/a" for column in _COLUMNS}


def _describe(out: Path, source: Path) -> None:
    """Say what the folder is, and that its patients are virtual where they are.

    Raises OutputExistsError for a data set that was not exported.
    """
    path = out / DESCRIPTION_FILE
    if path.exists():
        makers = read_json(path).get("GeneratedBy")
        names = [m.get("Name") for m in makers if isinstance(m, dict)] if makers else []
        if EXPORTER not in names:
            raise OutputExistsError("another data set is there", path, "Choose another folder")
        return
    makers = [{"Name": EXPORTER, "Version": __version__}]
    if is_virtual(source):
        makers.append({"Name": PHANTOM})
    write_json(path, {"Name": "strokect slice folders", "GeneratedBy": makers})
