"""NIfTI images with JSON sidecars.

Times come from the caller, else from the sidecar (``FrameTimesStart``, s, with ``SliceTiming``
offsets, as in BIDS; ``AcquisitionTimes`` (T, Z) where neither fits), else from the header where
it states a unit. A missing or zero interval is refused, never guessed.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.filebasedimages import ImageFileError

from strokect.core.errors import GeometryError, InputError, ScanError, TimingError
from strokect.core.flags import flag
from strokect.core.types import BoolArray, CTSeries, FloatArray, Grid, Mask, Volume
from strokect.io.outputs import atomic_file, write_json

AIR_HU = -1000.0
_TIMES_FIX = "Give --interval SECONDS or --times FILE, or write FrameTimesStart into the sidecar"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ScanError where it is unreadable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(f"unreadable JSON ({error})", path, "Correct or remove it") from error
    if not isinstance(content, dict):
        raise ScanError("no JSON object", path, "Correct or remove it")
    return content


def is_nifti(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.endswith((".nii", ".nii.gz"))


def sidecar_path(path: Path) -> Path:
    """The JSON file that belongs to a NIfTI file."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_ctp(
    path: Path, *, interval_s: float | None = None, times_file: Path | None = None
) -> CTSeries:
    """Read a 4D CT perfusion scan.

    Values that are no number become air, with a quality flag. Raises ScanError for a file that is
    no 4D image, TimingError for missing or unusable times.
    """
    data, grid = _load(path)
    if data.ndim != 4:
        raise ScanError(
            f"a {data.ndim}D image, but perfusion needs a 4D scan (x, y, z, time)",
            path,
            "Give the dynamic CT perfusion series",
        )
    if data.shape[0] < 2:
        raise ScanError("one time point, but perfusion needs many", path, "Give the dynamic series")
    image_times, note = _times(path, data.shape[0], data.shape[1], interval_s, times_file)
    flags = []
    bad = ~np.isfinite(data)
    if bad.any():
        share = float(bad.mean())
        if share > 0.5:
            raise ScanError(f"{share:.0%} of the values are no number", path, "Export it again")
        data[bad] = AIR_HU
        flags.append(flag("NON_FINITE", f"{share:.2%} of the values were no number; set to air"))
    return CTSeries(data, image_times, grid, tuple(flags), (note,))


def read_volume(path: Path) -> Volume:
    """Read a 3D image. Raises ScanError for anything else."""
    data, grid = _load(path)
    if data.ndim != 3:
        raise ScanError(f"a {data.ndim}D image where a 3D one is needed", path)
    return Volume(data, grid)


def read_mask(path: Path, grid: Grid) -> Mask:
    """Read a mask (non-zero = inside) that must lie on ``grid``.

    Raises GeometryError where the grids differ, InputError where the mask is empty.
    """
    volume = _reoriented(read_volume(path), grid)
    if not volume.grid.same_as(grid, tolerance_mm=0.1):
        raise GeometryError(
            f"the mask's grid {volume.grid.shape} differs from the scan's {grid.shape} or lies "
            "elsewhere",
            path,
            "Resample the mask onto the scan",
        )
    inside = np.nan_to_num(volume.data) != 0
    if not inside.any():
        raise InputError("the mask is empty", path, "Draw at least one voxel")
    return Mask(inside, grid, path.name)


def _reoriented(volume: Volume, grid: Grid) -> Volume:
    """The volume with its axes in the order and direction of ``grid``, where only those differ.

    Converters flip rows, so that a mask drawn on their output fits a DICOM scan but for that.
    """
    ours, theirs = (orientations.io_orientation(g.affine) for g in (grid, volume.grid))
    turn = orientations.ornt_transform(theirs, ours)
    data_xyz = orientations.apply_orientation(volume.data.T, turn)
    affine = volume.grid.affine @ orientations.inv_ornt_aff(turn, volume.data.T.shape)
    return Volume(np.ascontiguousarray(data_xyz.T), Grid(data_xyz.T.shape, affine))


def write_volume(
    path: Path, data: FloatArray | BoolArray, grid: Grid, description: str = ""
) -> None:
    """Write a 3D image atomically; masks as uint8, everything else as float32."""
    kind = np.uint8 if data.dtype == np.bool_ else np.float32
    _save(path, np.ascontiguousarray(data.astype(kind).T), grid, description)


def write_ct(path: Path, volume: Volume, description: str) -> None:
    """Write a CT volume as whole HU (int16), atomically, with a sidecar that says it is CT."""
    data = np.clip(np.rint(volume.data), -32768, 32767).astype(np.int16)
    _save(path, data.T, volume.grid, description)
    write_json(sidecar_path(path), {"Modality": "CT"})


def write_labels(path: Path, labels: FloatArray, grid: Grid, description: str = "") -> None:
    """Write a label image (Z, Y, X) as uint8, atomically."""
    _save(path, np.ascontiguousarray(labels.astype(np.uint8).T), grid, description)


def write_ctp(path: Path, series: CTSeries) -> None:
    """Write a 4D scan as whole HU (int16) with its sidecar, both atomically."""
    data = np.clip(np.rint(series.data_hu), -32768, 32767).astype(np.int16)
    _save(path, data.T, series.grid, "CT perfusion, HU", series.interval_s)
    write_json(sidecar_path(path), {"Modality": "CT", **times_to_sidecar(series.times_s)})


def times_to_sidecar(times_s: FloatArray) -> dict[str, Any]:
    """Sidecar fields for times (T, Z): frame starts and slice offsets where that is exact."""
    frames = times_s.min(axis=1)
    offsets = times_s[0] - frames[0]
    if np.allclose(times_s, frames[:, None] + offsets[None], atol=1e-4):
        fields: dict[str, Any] = {"FrameTimesStart": np.round(frames, 4).tolist()}
        if offsets.any():
            fields["SliceTiming"] = np.round(offsets, 4).tolist()
        return fields
    return {"AcquisitionTimes": np.round(times_s, 4).tolist()}


def read_times_file(path: Path) -> FloatArray:
    """Times in s: a sidecar, or text with one number per frame or one row of slices per frame."""
    try:
        if path.suffix == ".json":
            times = _times_from_sidecar(path)
            if times is None:
                raise TimingError("no FrameTimesStart or AcquisitionTimes", path, _TIMES_FIX)
            return times
        rows = [
            line.replace(",", " ").replace(";", " ").split()
            for line in path.read_text().splitlines()
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if len(rows) == 1:  # all frames on one line
            rows = [[value] for value in rows[0]]
        if not rows or len({len(row) for row in rows}) > 1:
            raise TimingError(
                "rows of different lengths" if rows else "no times",
                path,
                "Give one time per frame, or one row of slices per frame",
            )
        times = np.array([[float(v) for v in row] for row in rows])
    except OSError as error:
        raise TimingError(f"cannot read the times ({error.strerror})", path) from error
    except ValueError as error:
        raise TimingError(f"not a list of times ({error})", path, "One number per line") from error
    return times[:, 0] if times.ndim == 2 and times.shape[1] == 1 else times


def _load(path: Path) -> tuple[FloatArray, Grid]:
    if not path.exists():
        raise ScanError("no such file", path, "Check the path")
    try:
        image = nib.load(path)
        if image.get_data_dtype().kind not in "biuf":
            raise ScanError("colour or complex values, not HU", path, "Give the CT images")
        # The file runs x fastest, so the transpose is C-contiguous without a copy.
        data = np.asarray(image.dataobj, dtype=np.float32).T
    except (ImageFileError, EOFError, OSError, zlib.error, ValueError) as error:
        reason = str(error).splitlines()[0][:160].replace(str(path), "the file")
        raise ScanError(
            f"not a readable NIfTI image, perhaps truncated ({reason})", path, "Copy it again"
        ) from error
    while data.ndim > 4 and data.shape[0] == 1:
        data = data[0]
    if data.ndim not in (3, 4):
        raise ScanError(f"a {data.ndim}D image", path, "Give a 3D or 4D CT")
    header: Any = image.header
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        raise GeometryError(
            "no orientation in the header (sform and qform codes are 0)",
            path,
            "Convert the scan again with a tool that keeps its geometry, e.g. dcm2niix",
        )
    try:
        grid = Grid(data.shape[-3:], image.affine)
    except GeometryError as error:
        raise GeometryError(error.what, path, "Convert the scan again") from error
    return np.ascontiguousarray(data), grid


def _times(
    path: Path, n_frames: int, n_slices: int, interval_s: float | None, times_file: Path | None
) -> tuple[FloatArray, str]:
    """Times (T,) or (T, Z) and a note that says where they came from."""
    if interval_s is not None:
        if not np.isfinite(interval_s) or interval_s <= 0:
            raise TimingError(f"an interval of {interval_s} s", "--interval", "Give a positive one")
        return np.arange(n_frames) * interval_s, f"interval {interval_s:g} s given by the user"
    if times_file is not None:
        times, note, where = read_times_file(times_file), "times from --times", times_file
    else:
        times, note, where = _own_times(path, n_frames), "times of the scan's own files", path
    if times.shape not in ((n_frames,), (n_frames, n_slices)):
        raise TimingError(
            f"times of shape {times.shape} for {n_frames} frames of {n_slices} slices",
            where,
            "Give one time per frame, or one per frame and slice",
        )
    if not np.isfinite(times).all() or (np.diff(times, axis=0) <= 0).any():
        raise TimingError("acquisition times that do not increase", where, _TIMES_FIX)
    return times, note


def _own_times(path: Path, n_frames: int) -> FloatArray:
    sidecar = sidecar_path(path)
    if sidecar.exists():
        times = _times_from_sidecar(sidecar)
        if times is not None:
            return times
    header: Any = nib.load(path).header
    unit = header.get_xyzt_units()[1]
    step = float(header["pixdim"][4])
    scale = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(unit)
    if scale is None or not step > 0:
        found = f"{step:g} without a unit" if scale is None else f"{step:g} {unit}"
        raise TimingError(
            f"no acquisition times (no sidecar times, header interval {found})", path, _TIMES_FIX
        )
    return np.arange(n_frames) * step * scale


def _times_from_sidecar(path: Path) -> FloatArray | None:
    fields, found = read_json(path), {}
    for name, ndim in (("AcquisitionTimes", 2), ("FrameTimesStart", 1), ("SliceTiming", 1)):
        if name not in fields:
            continue
        try:
            found[name] = np.array(fields[name], float)
        except (TypeError, ValueError):
            found[name] = np.empty(0)
        if found[name].ndim != ndim or not found[name].size:
            raise TimingError(f"{name} is no list of times", path, _TIMES_FIX)
    if "AcquisitionTimes" in found:
        return found["AcquisitionTimes"]
    frames = found.get("FrameTimesStart")
    if frames is not None and "SliceTiming" in found:
        return frames[:, None] + found["SliceTiming"]
    return frames


def _save(
    path: Path, data_xyz: np.ndarray, grid: Grid, description: str, interval_s: float | None = None
) -> None:
    image = nib.Nifti1Image(data_xyz, grid.affine)
    header: Any = image.header
    header.set_xyzt_units("mm", "sec")
    if interval_s is not None:
        header["pixdim"][4] = interval_s
    header["descrip"] = f"strokect {description}".encode("ascii", "replace")[:79]
    # A qform cannot hold the shear of a tilted gantry: only the sform is declared valid then.
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1 if _is_rigid(grid) else 0, strip_shears=True)
    with atomic_file(path) as temporary:
        nib.save(image, temporary)


def _is_rigid(grid: Grid) -> bool:
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-5))
