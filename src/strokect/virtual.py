"""Virtual patients to disk: make -> write, in parallel, resumable.

A patient is whole when its CT perfusion scan stands under its final name: everything else is
written before. An interrupted run therefore goes on with the patients that are not whole.
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from strokect import __version__
from strokect.core.errors import OutputError, OutputExistsError, SettingsError
from strokect.core.types import Progress, no_progress
from strokect.io import nifti
from strokect.io.datasets import DESCRIPTION_FILE, PHANTOM, is_virtual
from strokect.io.layouts import Modality, OwnLayout
from strokect.io.outputs import (
    atomic_file,
    check_writable,
    result_folder,
    to_json,
    write_json,
    write_table,
)
from strokect.phantom import clinical, raster, scans, truth, vessels
from strokect.phantom.protocols import Size
from strokect.phantom.study import SIZES, StudyConfig, VirtualStudy, draw_study, make_study

Vendor = Literal["siemens", "ge", "philips", "canon"]
#: Vendors whose files ``--dicom`` imitates.
VENDORS: tuple[Vendor, ...] = get_args(Vendor)
#: What ``_write_index`` and ``_write_participants`` put at the top, in the order of writing.
_TOP_FILES = (DESCRIPTION_FILE, "README.md", "participants.json", "participants.tsv")
#: Memory that making one patient takes at most, GiB, by size.
_MEMORY_GIB = {"full": 3.0, "small": 0.7}

Listener = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VirtualOptions:
    """What ``strokect phantom`` makes. seed : of the cohort. groups : as clinical.parse_groups.

    noise_hu : of CT perfusion, instead of drawn ones. dicom : vendor whose DICOM files are also
    written. workers : processes; None for what cores and memory allow.
    """

    n: int = 1
    seed: int = 1
    size: Size = "full"
    groups: str | None = None
    noise_hu: float | None = None
    dicom: Vendor | None = None
    workers: int | None = None
    overwrite: bool = False


def make_patients(
    root: Path, options: VirtualOptions, listener: Listener
) -> Iterator[tuple[Path, bool]]:
    """Make patients sub-0001 ... under ``root``. Patients that are there already are kept.

    Yields (scan folder, whether it was made now) as each is done. Raises SettingsError for
    impossible options, OutputExistsError where a patient of other settings is in the way.
    """
    groups = _check(options)
    _check_root(root)
    waiting: list[tuple[OwnLayout, StudyConfig]] = []
    finished: list[tuple[OwnLayout, StudyConfig]] = []
    for number in range(1, options.n + 1):
        config = draw_study(options.seed, number, groups, options.size, options.noise_hu)
        layout = OwnLayout(root, f"{number:04d}")
        done = _is_done(layout, config, options)
        (finished if done else waiting).append((layout, config))
    _write_index(root, options, groups)
    for layout, _ in finished:
        yield layout.scan_folder, False
    for layout in _make_all(waiting, options, listener):
        yield layout.scan_folder, True
    _write_participants(root)


def _check(options: VirtualOptions) -> dict[clinical.Group, float]:
    if options.size not in SIZES:
        raise SettingsError(
            f"no size is called {options.size!r}", "--size", f"Use {', '.join(SIZES)}"
        )
    if options.noise_hu is not None and not math.isfinite(options.noise_hu):
        raise SettingsError(f"noise of {options.noise_hu} HU", "--noise", "Give a number, e.g. 5")
    if options.dicom is not None and options.dicom not in VENDORS:
        raise SettingsError(
            f"no vendor is called {options.dicom!r}", "--dicom", f"Use {', '.join(VENDORS)}"
        )
    return clinical.parse_groups(options.groups) if options.groups else clinical.DEFAULT_GROUPS


def _make_all(
    todo: list[tuple[OwnLayout, StudyConfig]], options: VirtualOptions, listener: Listener
) -> Iterator[OwnLayout]:
    """Make them, in processes where there are several; yields each layout as it is done."""
    workers = min(options.workers or _workers(options.size), len(todo))
    if workers <= 1:
        for layout, config in todo:
            stage = f"patient {layout.label}"
            _make_one(layout, config, options.dicom, _steps_of(stage, listener))
            listener(stage, 1, 1)
            yield layout
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool:
        running: dict[Future[None], OwnLayout] = {
            pool.submit(_make_one, layout, config, options.dicom): layout for layout, config in todo
        }
        done = 0
        listener("patients", 0, len(todo))
        try:
            while running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    layout = running.pop(future)
                    future.result()
                    done += 1
                    listener("patients", done, len(todo))
                    yield layout
        except BrokenProcessPool as error:
            raise OutputError(
                "a process that made patients was killed, perhaps for want of memory",
                fix="Run the same command again; add --workers 1",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads: int) -> None:
    """Leave the keyboard to the parent process, end when it ends, and share the cores."""
    import signal
    import threading

    import numba

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def _end_with_parent() -> None:
    """Stop at once where the parent is killed: a resumed run must be alone with the files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _workers(size: Size) -> int:
    """As many processes as cores and half of the available memory allow."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):  # another system: take what is usual for a core
        return os.cpu_count() or 1
    return max(1, min(os.cpu_count() or 1, int(kib / 2**20 / 2 / _MEMORY_GIB[size])))


def _make_one(
    layout: OwnLayout, config: StudyConfig, dicom: Vendor | None, progress: Progress = no_progress
) -> None:
    write_study(make_study(config, progress), layout, dicom)


def write_study(study: VirtualStudy, layout: OwnLayout, dicom: Vendor | None) -> None:
    """Write scans, truth and (on request) DICOM of one patient; the scan folder comes last."""
    layout.scan("ctp").unlink(missing_ok=True)  # from here on the old patient is not whole
    for folder in (layout.scan_folder, layout.dicom_folder, layout.truth_folder):
        if folder.exists():  # out of the way at once: half a truth would look like another's
            folder.replace(folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    with result_folder(layout.truth_folder) as folder:
        _write_truth(study, layout, folder, dicom)
    if dicom is not None:
        _write_dicom(study, layout, dicom)
    with result_folder(layout.scan_folder) as folder:
        nifti.write_ct(folder / layout.scan("ncct").name, study.ncct.image, "non-contrast CT, HU")
        nifti.write_ct(folder / layout.scan("cta").name, study.cta.image, "CT angiography, HU")
        nifti.write_ctp(folder / layout.scan("ctp").name, study.ctp.ctp)


def _write_truth(
    study: VirtualStudy, layout: OwnLayout, folder: Path, dicom: Vendor | None
) -> None:
    patient, grid = study.ctp, study.ctp.ctp.grid
    for name, image in patient.maps.items():
        nifti.write_volume(folder / layout.truth_map(name).name, image.data, image.grid, name)
    for name, mask in patient.masks.items():
        nifti.write_volume(folder / layout.truth_mask(name).name, mask.data, mask.grid, name)
    classes = truth.classes_of(patient.masks)
    nifti.write_labels(folder / layout.truth_labels("tissue").name, classes, grid, "tissue class")
    images: dict[Modality, scans.StaticScan] = {"ncct": study.ncct, "cta": study.cta}
    for space, scan in images.items():
        clot = layout.truth_mask("clot", space).name
        nifti.write_volume(folder / clot, scan.clot.data, scan.clot.grid, "clot")
        labels = layout.truth_labels("vessels", space).name
        nifti.write_labels(folder / labels, scan.vessels, scan.clot.grid, "vessel segments")
    sampled = ("time_s", "aif_hu", "vof_hu")
    write_table(folder / layout.truth_curves.name, {k: patient.curves[k] for k in sampled})
    dense = {k.removeprefix("dense_"): v for k, v in patient.curves.items() if k not in sampled}
    write_table(folder / f"{layout.stem}_densecurves.csv", dense)
    moved = patient.motion.parameters.T
    names = ("x_mm", "y_mm", "z_mm", "about_x_deg", "about_y_deg", "about_z_deg")
    motion = {"time_s": patient.motion.time_s, **dict(zip(names, moved, strict=True))}
    write_table(folder / f"{layout.stem}_motion.csv", motion)
    write_table(
        folder / f"{layout.stem}_centrelines.csv", raster.centrelines_table(study.subject.tubes)
    )
    write_json(
        folder / f"{layout.stem}_truth.json",
        {**study.info, "dicom": dicom, "strokect": __version__},
    )


def _write_dicom(study: VirtualStudy, layout: OwnLayout, vendor: Vendor) -> None:
    from strokect.io.dicom_write import write_ct_series, write_ct_volume

    config, seed = study.config, study.config.patient.seed
    plain = study.ncct
    if config.ncct.tilt_deg:  # a tilted gantry stores sheared slices, which NIfTI readers refuse
        plain = scans.ncct(study.subject, config.ncct, sheared=True)
    volumes = (("ncct", plain, config.ncct.kvp), ("cta", study.cta, config.cta.kvp))
    for number, (name, scan, kvp) in enumerate(volumes, 1):
        write_ct_volume(
            scan.image, layout.dicom_folder / name, seed=seed, vendor=vendor, kvp=kvp,
            series_description=name.upper(), series_number=number,
        )  # fmt: skip
    write_ct_series(
        study.ctp.ctp, layout.dicom_folder / "ctp", seed=seed, vendor=vendor, kvp=config.ctp.kvp,
        series_description="CTP", series_number=3,
    )  # fmt: skip


def _steps_of(stage: str, listener: Listener) -> Progress:
    """Progress of one patient; writing it is the part that remains."""
    return lambda done, total: listener(stage, done, total + max(1, total // 5))


def _check_root(root: Path) -> None:
    """Refuse a place that cannot be written to before any work."""
    if root.exists() and not root.is_dir():
        raise OutputExistsError(
            "a file stands where the output folder should be", root, "Choose another name"
        )
    there = [name for name in _TOP_FILES if (root / name).exists()]
    if there and not is_virtual(root):
        raise OutputExistsError(
            "the folder holds a file that strokect did not make",
            root / there[0],
            "Choose another folder",
        )
    check_writable(root)


def _is_done(layout: OwnLayout, config: StudyConfig, options: VirtualOptions) -> bool:
    """Whether the very patient that is asked for stands there. The scans are written last.

    Raises OutputExistsError for a patient of other settings (without ``overwrite``), and for one
    that has no truth: it is not virtual and is never replaced.
    """
    card = layout.truth_folder / f"{layout.stem}_truth.json"
    if not card.exists():
        for folder in (layout.scan_folder, layout.dicom_folder, layout.truth_folder):
            if folder.exists() and any(folder.iterdir()):
                raise OutputExistsError(
                    "the folder holds something that strokect did not make",
                    folder,
                    "Choose another folder",
                )
        return False
    if options.overwrite or not layout.scan("ctp").exists():
        return False
    made = nifti.read_json(card)
    same = made.get("study") == json.loads(to_json(config.as_json()))
    with_dicom = layout.dicom_folder.exists()
    if options.dicom is not None and with_dicom:
        same = same and made.get("dicom") == options.dicom
    if not same:
        raise OutputExistsError(
            "a patient made with other settings is there already",
            layout.scan_folder,
            "Choose another folder or add --overwrite",
        )
    return options.dicom is None or with_dicom


def _write_index(root: Path, options: VirtualOptions, groups: dict[clinical.Group, float]) -> None:
    """The files that a BIDS-like data set has at its top, with the dataset card."""
    write_json(
        root / DESCRIPTION_FILE,
        {
            "Name": "strokect virtual patients",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": PHANTOM, "Version": __version__}],
            "Description": "Simulated NCCT, CTA and CTP with known truth. No patient data.",
            "Seed": options.seed,
            "Size": options.size,
            "Groups": dict(groups),
        },
    )
    card = resources.files("strokect.phantom").joinpath("card.md").read_text(encoding="utf-8")
    labels = {name: value for value, name in enumerate(truth.CLASSES)}
    for path, text in (
        (root / "README.md", card),
        (root / "participants.json", to_json(_COLUMNS) + "\n"),
        (
            root / "derivatives" / "truth" / "labels.json",
            to_json({"tissue_dseg": labels, "vessels_dseg": vessels.SEGMENT_LABELS}) + "\n",
        ),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


_COLUMNS: dict[str, Any] = {
    "participant_id": {"Description": "sub-<number>"},
    "group": {
        "Description": "occlusion of a large vessel (ICA, M1), of a smaller one, or no stroke",
        "Levels": {g: g for g in clinical.GROUPS},
    },
    "split": {"Description": "patient-level split for learning; a growing cohort moves nobody"},
    "site": {"Description": "occluded segment"},
    "side": {"Description": "side of the stroke"},
    "age": {"Description": "age", "Units": "years"},
    "sex": {"Description": "F or M"},
    "onset_h": {"Description": "time from onset to imaging", "Units": "h"},
    "collateral": {"Description": "collateral grade, 0 (none) to 3 (good)"},
    "nihss": {"Description": "National Institutes of Health Stroke Scale"},
    "hypoperfusion_ml": {"Description": "true Tmax > 6 s in the CTP scan", "Units": "ml"},
    "core_ml": {"Description": "true core in the CTP scan", "Units": "ml"},
    "clot_mm": {"Description": "length of the clot", "Units": "mm"},
}


def _write_participants(root: Path) -> None:
    """One row per patient that is whole, in order; those of an earlier, larger run too."""
    with (
        atomic_file(root / "participants.tsv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(_COLUMNS)
        for folder in sorted(root.glob("sub-*")):
            layout = OwnLayout(root, folder.name.removeprefix("sub-"))
            card = layout.truth_folder / f"{layout.stem}_truth.json"
            if card.exists() and layout.scan("ctp").exists():
                rows.writerow([folder.name, *_row(nifti.read_json(card))])


def _row(info: dict[str, Any]) -> list[str]:
    case, volumes, clot = info["study"]["case"], info["volumes_ml"], info["clot"] or {}
    values = (
        case["group"], info["study"]["split"], case["site"], case["side"], case["age"],
        case["sex"], case["onset_h"], case["collateral"], info["nihss"],
        f"{volumes['hypoperfusion']:.2f}", f"{volumes['core']:.2f}", clot.get("length_mm"),
    )  # fmt: skip
    return ["n/a" if v is None else str(v) for v in values]
