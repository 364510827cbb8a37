"""One page that shows virtual patients: the scans, the truth, and what the analysis found.

Every picture is resampled through world coordinates onto a plane of 1 mm pixels in radiological
view, so that scans of different grids show the same place. What a data set lacks is left out.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core import colours
from strokect.core.errors import OutputExistsError, ScanError, StrokeCTError
from strokect.core.geometry import resample
from strokect.core.quantities import QUANTITIES
from strokect.core.types import BoolArray, FloatArray, Grid, Volume
from strokect.io import nifti
from strokect.io.layouts import OwnLayout, find_studies
from strokect.io.outputs import atomic_file
from strokect.report import figures
from strokect.report.pages import constants, environment
from strokect.report.text import PRIVATE_KEY, number

_WIDE_MM, _HIGH_MM = 176, 212  # of an axial picture; a head fits
_CORONAL_HIGH_MM, _ABOVE_CLOT_MM = 190, 115  # from the neck to the vertex
_SLAB_MM = {"axial": 24, "coronal": 30}
_CTA_WINDOW_HU = (0.0, 450.0)
_MAPS = ("cbf", "tmax")
_VOLUMES = ("core", "penumbra", "hypoperfusion")
_FACTS = {
    "group": "Group", "site": "Occlusion", "side": "Side", "age": "Age", "sex": "Sex",
    "nihss": "NIHSS", "onset": "Onset", "collateral": "Collaterals",
}  # fmt: skip
_NOT_FACTS = ("participant_id", "core_ml", "hypoperfusion_ml", "penumbra_ml")
_MOST_FACTS = 12

Point = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """SVG path in pixels of a picture, and its CSS class."""

    style: str
    path: str


@dataclass(frozen=True)
class Shot:
    """One picture: heading, what it shows, data URI, size, outlines, colour bar or None."""

    title: str
    caption: str
    uri: str
    size: tuple[int, int]
    outlines: tuple[Outline, ...] = ()
    bar: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class _Patient:
    """What was found on disk. clot, lesion : (3,) RAS mm, where to look; middle : of the brain."""

    name: str
    scans: dict[str, Volume]
    truth: dict[str, Volume]
    found: dict[str, Volume]
    middle: Point
    clot: Point
    lesion: Point
    summary: Mapping[str, Any] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)


def write_gallery(
    root: Path, path: Path, results: Path | None = None, n: int = 10, overwrite: bool = False
) -> int:
    """Write the page of the first ``n`` patients of ``root``; returns how many are shown.

    root : own layout. results : folder of ``strokect cohort``. The same data give the same bytes.
    Raises ScanError where nothing can be shown, OutputExistsError where ``path`` is there already.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(
            "something is there already", path, "Choose another file or add --overwrite"
        )
    if results is not None and not results.is_dir():
        raise ScanError("no such folder of results", results, "Run `strokect cohort` first")
    facts = _participants(root)
    layouts = list(
        dict.fromkeys(s.layout for s in find_studies(root) if s.layout is not None)
    )  # fmt: skip
    shown = []
    for layout in layouts[:n]:
        patient = _read(layout, results)
        if patient.scans:
            shown.append(_describe(patient, facts.get(f"sub-{layout.label}", {})))
    if not shown:
        raise ScanError("no patients of the own layout", root, "Make some: `strokect phantom`")
    page = (
        environment()
        .get_template("gallery.html")
        .render(constants(), patients=shown, with_results=results is not None)
    )
    with atomic_file(path.absolute()) as temporary:
        temporary.write_text(page.lstrip() + "\n", encoding="utf-8", newline="\n")
    return len(shown)


# Reading


def _read(layout: OwnLayout, results: Path | None) -> _Patient:
    scans: dict[str, Volume] = {}
    for modality in ("ncct", "cta"):
        if layout.scan(modality).exists():
            scans[modality] = nifti.read_volume(layout.scan(modality))
    if layout.scan("ctp").exists():
        series = nifti.read_ctp(layout.scan("ctp"))
        scans["ctp"] = Volume(series.data_hu.mean(axis=0), series.grid)
        scans["ctp_mip"] = Volume(series.data_hu.max(axis=0), series.grid)
    truth = _volumes({
        **{k: layout.truth_map(k) for k in _MAPS},
        **{k: layout.truth_mask(k) for k in (*_VOLUMES, "brain", "tissue", "clot", "artery")},
        "clot_cta": layout.truth_mask("clot", "cta"),
        "clot_ncct": layout.truth_mask("clot", "ncct"),
        "vessels": layout.truth_labels("vessels", "cta"),
    })  # fmt: skip
    result = _result_folder(layout, results)
    found: dict[str, Volume] = {}
    summary: dict[str, Any] = {}
    score: dict[str, Any] = {}
    if result is not None:
        found = _volumes({
            **{k: result / "maps" / f"{k}.nii.gz" for k in _MAPS},
            **{k: result / "masks" / f"{k}.nii.gz" for k in (*_VOLUMES, "brain")},
        })  # fmt: skip
        summary = nifti.read_json(result / "summary.json")
        if (result / "agreement.json").exists():
            score = nifti.read_json(result / "agreement.json").get("agreement", {})
    middle = _middle(truth.get("brain") or found.get("brain") or scans.get("ctp"))
    clot = _centre(truth, ("clot_cta", "clot_ncct", "clot"))
    lesion = _fullest(truth.get("hypoperfusion"))
    if lesion is None:
        lesion = _fullest(found.get("hypoperfusion"))
    clot = lesion if clot is None else clot
    return _Patient(
        f"sub-{layout.label}", scans, truth, found, middle,
        middle if clot is None else clot, middle if lesion is None else lesion, summary, score,
    )  # fmt: skip


def _volumes(paths: Mapping[str, Path]) -> dict[str, Volume]:
    """Those images that exist and can be read."""
    out = {}
    for name, path in paths.items():
        try:
            if path.exists():
                out[name] = nifti.read_volume(path)
        except StrokeCTError:  # a picture less is no reason to show none
            continue
    return out


def _result_folder(layout: OwnLayout, results: Path | None) -> Path | None:
    if results is None:
        return None
    for name in (layout.stem, f"sub-{layout.label}"):
        if (results / name / "summary.json").exists():
            return results / name
    return None


def _world(grid: Grid, voxel: npt.ArrayLike) -> Point:
    """RAS position of a voxel (z, y, x), mm."""
    index = np.asarray(voxel, float)[::-1]
    return grid.affine[:3, :3] @ index + grid.affine[:3, 3]


def _middle(volume: Volume | None) -> Point:
    """Middle of the extent of a mask (or of the whole image where it is none), RAS mm."""
    if volume is None:
        return np.zeros(3)
    inside = np.argwhere(volume.data == 1)
    if not len(inside):
        return _world(volume.grid, (np.array(volume.grid.shape) - 1) / 2)
    return _world(volume.grid, (inside.min(axis=0) + inside.max(axis=0)) / 2)


def _centre(volumes: Mapping[str, Volume], names: tuple[str, ...]) -> Point | None:
    """Centre of the first mask that is not empty, RAS mm."""
    for name in names:
        if name in volumes and volumes[name].data.any():
            return _world(volumes[name].grid, np.argwhere(volumes[name].data).mean(axis=0))
    return None


def _fullest(volume: Volume | None) -> Point | None:
    """Centre of a mask in the slice with most of it, RAS mm."""
    if volume is None or not volume.data.any():
        return None
    z = int(np.count_nonzero(volume.data, axis=(1, 2)).argmax())
    return _world(volume.grid, [z, *np.argwhere(volume.data[z]).mean(axis=0)])


def _participants(root: Path) -> dict[str, dict[str, str]]:
    """Facts of participants.tsv for people, by participant, but for columns that may name one."""
    path = root / "participants.tsv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        table = {r["participant_id"]: r for r in csv.DictReader(file, delimiter="\t")
                 if r.get("participant_id")}  # fmt: skip
    out = {}
    for name, row in table.items():
        columns = [k for k in row if k and not PRIVATE_KEY.search(k)]
        known = [k for p in _FACTS for k in columns if k == p or k.startswith(f"{p}_")]
        others = [k for k in columns if k not in known and k not in _NOT_FACTS]
        keys = [k for k in dict.fromkeys([*known, *others]) if row[k] not in (None, "", "n/a")]
        out[name] = {_fact_name(k): row[k] for k in keys[:_MOST_FACTS]}
    return out


def _fact_name(key: str) -> str:
    """E.g. "onset_h" to "Onset, h"."""
    start, _, rest = key.partition("_")
    name = _FACTS.get(start, start.capitalize())
    return f"{name}, {rest.replace('_', ' ')}" if len(rest) in (1, 2) else (
        f"{name} {rest.replace('_', ' ')}".strip()
    )  # fmt: skip


# Pictures


def _describe(patient: _Patient, facts: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows of one patient."""
    groups = [("The scans", _scan_shots(patient)), ("The truth", _truth_shots(patient)),
              ("Found by the analysis", _found_shots(patient))]  # fmt: skip
    return {
        "name": patient.name,
        "facts": dict(facts),
        "groups": [(name, shots) for name, shots in groups if shots],
        "volumes": _volume_rows(patient),
    }


def _scan_shots(p: _Patient) -> list[Shot]:
    out = []
    if "ncct" in p.scans:
        plane = _axial(p, p.clot[2])
        out.append(_ct(p.scans["ncct"], plane, "NCCT", "level of the clot"))
        if abs(p.clot[2] - p.lesion[2]) > 10:
            plane = _axial(p, p.lesion[2])
            out.append(_ct(p.scans["ncct"], plane, "NCCT", "level of the lesion"))
    if "cta" in p.scans:
        out.append(_mip(p.scans["cta"], _axial(p, p.clot[2], _SLAB_MM["axial"]),
                        "CTA, axial MIP", f"{_SLAB_MM['axial']} mm around the clot"))  # fmt: skip
        out.append(_mip(p.scans["cta"], _coronal(p), "CTA, coronal MIP",
                        f"{_SLAB_MM['coronal']} mm around the clot"))  # fmt: skip
    if "ctp" in p.scans:
        plane = _axial(p, p.lesion[2])
        out.append(_ct(p.scans["ctp"], plane, "CTP, mean", "over time, 0 to 80 HU"))
        low, high = QUANTITIES["mip"].display_range
        out.append(_ct(p.scans["ctp_mip"], plane, "CTP, maximum",
                       f"over time, {low:g} to {high:g} HU", (low, high)))  # fmt: skip
    return out


def _truth_shots(p: _Patient) -> list[Shot]:
    out = []
    if "ncct" in p.scans and "clot_ncct" in p.truth and p.truth["clot_ncct"].data.any():
        plane = _axial(p, p.clot[2])
        marks = _outlines(plane, ("clot", p.truth["clot_ncct"]))
        out.append(_ct(p.scans["ncct"], plane, "NCCT", "with the clot", marks=marks))
    if "cta" in p.scans and ("vessels" in p.truth or "clot_cta" in p.truth):
        plane = _axial(p, p.clot[2], _SLAB_MM["axial"])
        marks = _outlines(
            plane, ("artery", p.truth.get("vessels")), ("clot", p.truth.get("clot_cta"))
        )
        out.append(_mip(p.scans["cta"], plane, "CTA, axial MIP", "with vessels and clot", marks))
    plane = _axial(p, p.lesion[2])
    if "ctp" in p.scans and "core" in p.truth:
        marks = _outlines(
            plane, ("penumbra", p.truth.get("penumbra")), ("core", p.truth["core"])
        )  # fmt: skip
        out.append(_ct(p.scans["ctp"], plane, "Core and penumbra", "on the mean CTP", marks=marks))
        if "clot_ncct" not in p.truth and "clot_cta" not in p.truth:
            low, high = QUANTITIES["mip"].display_range
            there = _axial(p, p.clot[2])
            marks = _outlines(
                there, ("artery", p.truth.get("artery")), ("clot", p.truth.get("clot"))
            )
            out.append(_ct(p.scans["ctp_mip"], there, "Clot and arteries", "on the CTP maximum",
                           (low, high), marks))  # fmt: skip
    shown = p.truth.get("tissue") or p.truth.get("brain")
    out += [
        _map(p.truth[k], plane, k, shown, "true") for k in _MAPS if k in p.truth
    ]  # fmt: skip
    return out


def _found_shots(p: _Patient) -> list[Shot]:
    plane, out = _axial(p, p.lesion[2]), []
    if "ctp" in p.scans and "core" in p.found:
        marks = _outlines(
            plane, ("penumbra", p.found.get("penumbra")), ("core", p.found["core"])
        )  # fmt: skip
        out.append(_ct(p.scans["ctp"], plane, "Core and penumbra", "found", marks=marks))
    out += [
        _map(p.found[k], plane, k, p.found.get("brain"), "found") for k in _MAPS if k in p.found
    ]  # fmt: skip
    return out


def _axial(p: _Patient, level_mm: float, thick_mm: int = 1) -> Grid:
    """Plane or slab of 1 mm voxels: patient's left on the right, anterior up."""
    x, y = p.middle[0] + _WIDE_MM / 2, p.middle[1] + _HIGH_MM / 2
    affine = np.array([[-1, 0, 0, x], [0, -1, 0, y],
                       [0, 0, 1, level_mm - (thick_mm - 1) / 2], [0, 0, 0, 1.0]])  # fmt: skip
    return Grid((thick_mm, _HIGH_MM, _WIDE_MM), affine)


def _coronal(p: _Patient) -> Grid:
    """Slab seen from the front: patient's left on the right, head up; 1 mm voxels."""
    thick = _SLAB_MM["coronal"]
    x, y, z = p.middle[0] + _WIDE_MM / 2, p.clot[1] - thick / 2, p.clot[2] + _ABOVE_CLOT_MM
    affine = np.array([[-1, 0, 0, x], [0, 0, 1, y], [0, -1, 0, z], [0, 0, 0, 1.0]])
    return Grid((thick, _CORONAL_HIGH_MM, _WIDE_MM), affine)


def _ct(
    image: Volume, plane: Grid, title: str, caption: str,
    window: tuple[float, float] = figures.CT_WINDOW_HU, marks: tuple[Outline, ...] = (),
) -> Shot:  # fmt: skip
    flat = resample(image.data, image.grid, plane, 1, -1000.0).max(axis=0)
    index = colours.levels(flat, window)
    uri = figures.png_uri(index, colours.colour_palette("gray"))
    return Shot(title, caption, uri, flat.shape[::-1], marks)


def _mip(
    image: Volume, slab: Grid, title: str, caption: str, marks: tuple[Outline, ...] = ()
) -> Shot:
    return _ct(image, slab, title, caption, _CTA_WINDOW_HU, marks)


def _map(image: Volume, plane: Grid, key: str, shown: Volume | None, which: str) -> Shot:
    quantity = QUANTITIES[key]
    flat = resample(image.data, image.grid, plane, 0, float("nan"))[0]
    inside = np.isfinite(flat) if shown is None else _flat_mask(shown, plane, smooth=False)
    palette = colours.colour_palette(quantity.colour_map)
    index = colours.levels(flat, quantity.display_range, inside)
    bar = {"gradient": figures.gradient(palette), "ticks": figures.bar_ticks(quantity),
           "unit": quantity.unit}  # fmt: skip
    marks: tuple[Outline, ...] = ()
    if key == "tmax":
        late = figures.without_specks((np.nan_to_num(flat) > 6.0)[None] & inside, 50)[0]
        marks = (Outline("late", figures.outline(late)),)
    size = flat.shape[::-1]
    return Shot(
        quantity.label,
        f"{which}, {quantity.unit}",
        figures.png_uri(index, palette),
        size,
        marks,
        bar,
    )


def _outlines(plane: Grid, *masks: tuple[str, Volume | None]) -> tuple[Outline, ...]:
    thin = ("clot", "artery")  # no wider than a voxel: interpolated they would be gone
    found = [(k, _flat_mask(m, plane, k not in thin)) for k, m in masks if m is not None]
    return tuple(Outline(style, figures.outline(flat)) for style, flat in found if flat.any())


def _flat_mask(mask: Volume, plane: Grid, smooth: bool = True) -> BoolArray:
    """A mask (or labels) in the plane, or anywhere in the slab."""
    inside: FloatArray = (mask.data != 0).astype(np.float32)
    shown: BoolArray = resample(inside, mask.grid, plane, 1 if smooth else 0) > 0.5
    return np.asarray(shown.any(axis=0))


def _volume_rows(p: _Patient) -> list[dict[str, str]]:
    """True and found volumes, ml."""
    found_ml = p.summary.get("volumes_ml", {})
    out = []
    for name in _VOLUMES:
        true = None
        if name in p.truth:
            image = p.truth[name]
            true = float(np.count_nonzero(image.data) * image.grid.voxel_ml)
        found = found_ml.get(name)
        if true is None and found is None:
            continue
        overlap = p.agreement.get(name, {}).get("dice")
        out.append({"name": name.capitalize(), "true": number(true), "found": number(found),
                    "dice": number(overlap, 2)})  # fmt: skip
    return out
