"""Maps that lie beside a scan as NIfTI files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from strokect.core.errors import GeometryError, ScanError
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.core.types import BoolArray, FloatArray, Grid
from strokect.io import nifti

#: What to do where maps are missing.
COMPUTE = "set input.source to computed"
_OTHER = "of an unknown method"


def read_maps(
    files: Mapping[str, Path | None],
    source: str,
    missing: Callable[[str], tuple[Path, str]],
    brain: Path | None = None,
) -> MapSet:
    """Maps of NIfTI files on the grid of the first.

    files : by key of ``core.quantities``, None where there is none. source : where they came from.
    missing : for the key of a missing map, where it should lie and what to do. brain : a mask,
    None or no such file where there is none; maps are NaN outside of it.
    Raises ScanError for a missing or unreadable map, GeometryError for one on another grid.
    """
    maps: dict[str, FloatArray] = {}
    grid: Grid | None = None
    for name, path in files.items():
        if path is None or not path.exists():
            place, fix = missing(name)
            raise ScanError(f"no {map_label(name)} map", place, fix)
        volume = nifti.read_volume(path)
        if grid is None:
            grid = volume.grid
        if not volume.grid.same_as(grid, tolerance_mm=0.1):
            what = f"a map of shape {volume.grid.shape} beside others of {grid.shape}"
            if volume.grid.shape == grid.shape:
                what = "a map that lies elsewhere than the others"
            raise GeometryError(what, path, "Resample it onto the others")
        maps[name] = volume.data.astype(np.float32)
    if grid is None:
        raise ScanError("no map is asked for", source, "Name one, e.g. cbf")
    inside = None
    if brain is not None and brain.exists():
        inside = nifti.read_mask(brain, grid).data
    found = MapSet(grid, maps, inside, source=source)
    return found if inside is None else known_within(found, inside)


def known_within(found: MapSet, inside: BoolArray) -> MapSet:
    """The maps, NaN outside of ``inside`` but for the MIP, which shows the skull too."""
    maps = {
        k: v if k == "mip" else np.where(inside, v, np.nan).astype(np.float32)
        for k, v in found.maps.items()
    }
    return replace(found, maps=maps)


def map_label(name: str) -> str:
    """What people call a map."""
    known = QUANTITIES.get(name)
    return name if known is None else known.label


def read_result_maps(folder: Path, names: Collection[str]) -> MapSet:
    """Maps in a result folder of ``strokect perfusion``, with its quality findings.

    Raises as ``read_maps``.
    """
    files = {name: folder / "maps" / f"{name}.nii.gz" for name in names}
    fix = "Give the result folder of `strokect perfusion`, or the scan"
    inside = folder / "masks" / "brain.nii.gz"
    found = read_maps(files, _OTHER, lambda n: (files[n], fix), inside)
    path = folder / "summary.json"
    if not path.exists():
        return found
    summary = nifti.read_json(path)
    try:
        method = summary["method"]
        source = f"computed by {method['estimator']}, {method['denoise']}"
        flags = [flag(f["code"], f["message"], f["level"]) for f in summary["quality"]]
    except (KeyError, TypeError) as error:
        raise ScanError("no summary of `strokect perfusion`", path, fix) from error
    return replace(found, source=source, flags=tuple(flags))
