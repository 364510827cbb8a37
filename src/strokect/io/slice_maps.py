"""Maps of slice folders: a folder of images per quantity, in the colours that readers see."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.colours import Bytes, colour_coded
from strokect.core.errors import GeometryError, ScanError
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.io.cases import Case, folder_names, slices_patient
from strokect.io.nifti_maps import COMPUTE, map_label
from strokect.io.outputs import result_folder
from strokect.io.slice_images import (
    SliceFolderOptions,
    begin_case,
    check_name,
    check_sizes,
    displayed,
    images_in,
    person_key,
    read_colours,
    read_grey,
    slice_key,
    write_image,
)

#: The one map that may be grey: it is no colour map but an image in HU.
_IN_HU = "mip"


def root_of(case: Case, options: SliceFolderOptions) -> Path:
    """The data set that a case lies in."""
    inner = Path(options.images).parts
    outer = case.scan.parent
    return outer.parents[len(inner) - 1] if outer.parts[-len(inner) :] == inner else outer


def quantity_of(name: str) -> str | None:
    """The key of the quantity whose maps a folder holds by its name, in any case."""
    key = re.sub(r"[^a-z]", "", name.lower())
    return key if key in QUANTITIES else None


def patients_with_maps(root: Path, options: SliceFolderOptions) -> list[str]:
    """Names of the folders of patients in the folder of maps, in natural order."""
    top = root / options.maps
    found = folder_names(top)
    inner = [n for name in found if quantity_of(name) for n in folder_names(top / name)]
    patients = {slices_patient(n): n for n in reversed([*found, *inner]) if slices_patient(n)}
    return list(reversed(patients.values()))


def map_folder(case: Case, name: str, options: SliceFolderOptions) -> Path | None:
    """The folder with the images of a map of a case, None where there is none."""
    root = root_of(case, options)
    top = root / options.maps
    people = [case.scan, *_of_person(top, case), *_of_person(root, case)]
    found = [p / n for p in people for n in folder_names(p) if quantity_of(n) == name]
    kinds = [top / n for n in folder_names(top) if quantity_of(n) == name]
    found += [folder for kind in kinds for folder in _of_person(kind, case)]
    return found[0] if found else None


def read_map_slices(
    case: Case, names: Collection[str], sizes: SliceFolderOptions, options: SliceFolderOptions
) -> MapSet:
    """The maps ``names`` of a case, see ``io.cases.Layout``.

    sizes : the options with the sizes of this case. Colour images are given as colours; a grey
    MIP in HU by the options' window.
    Raises ScanError for missing and unreadable images, a missing slice, and grey images of
    anything but the MIP; GeometryError for images of several sizes.
    """
    folders = {n: _folder(case, n, options) for n in names}
    if not folders:
        raise ScanError("no map is asked for", case.scan, "Name one, e.g. cbf")
    images = {n: _by_slice(folder) for n, folder in folders.items()}
    slices = max((list(paths) for paths in images.values()), key=len)
    maps: dict[str, npt.NDArray[Any]] = {}
    shape: tuple[int, ...] | None = None
    for name, paths in images.items():
        for key in slices:
            if key not in paths:
                what = f"slice {key} of the {map_label(name)} map is missing"
                raise ScanError(what, folders[name], "Add it: all maps need the same slices")
        planes = [_read(paths[key], name, options) for key in slices]
        for key, plane in zip(slices, planes, strict=True):
            shape = shape or plane.shape[:2]
            if plane.shape[:2] != shape:
                what = f"an image of {plane.shape[:2]} among images of {shape} (Y, X)"
                raise GeometryError(what, paths[key], "Export the maps again")
            if plane.dtype != planes[0].dtype:
                what = "grey and colour images in one map"
                raise ScanError(what, paths[key], "Export the map again")
        maps[name] = np.stack(planes)
    grid = sizes.grid((len(slices), *(shape or ())))
    return MapSet(grid, maps, source=f"images of {options.maps}")


def map_slices(case: Case, options: SliceFolderOptions) -> list[str]:
    """Names of the slices for which a case has maps, by those of its first map."""
    folders = (map_folder(case, n, options) for n in QUANTITIES)
    return next(([p.stem for p in images_in(f)] for f in folders if f is not None), [])


def write_map_slices(
    root: Path,
    case_name: str,
    found: MapSet,
    labels: Bytes | None = None,
    options: SliceFolderOptions = SliceFolderOptions(),
) -> None:
    """Write the maps of one scan, and its truth where given, as colour images; the maps last.

    Maps are coloured as readers see them (``core.colours``), black outside the brain where that
    is known; the MIP shows the skull too. labels : (Z, Y, X) house labels on the maps' grid.
    Raises GeometryError where the options state other sizes than the maps' or the labels have
    another shape, InputError for other labels, OutputExistsError where the case is there already.
    """
    check_name(case_name)
    check_sizes(found.grid, options)
    begin_case(root, options.maps, case_name, labels, found.grid, options)
    with result_folder(root / options.maps / case_name) as folder:
        for name, values in found.maps.items():
            shown = None if name == _IN_HU else found.brain
            in_colour = values.dtype == np.uint8
            colours = values if in_colour else colour_coded(values, QUANTITIES[name], shown)
            for z, image in enumerate(displayed(colours, found.grid), 1):
                write_image(folder / name.upper() / f"{z:02d}.png", image)


def _of_person(top: Path, case: Case) -> list[Path]:
    key = person_key(case.scan.name)
    return [top / n for n in folder_names(top) if person_key(n) == key]


def _folder(case: Case, name: str, options: SliceFolderOptions) -> Path:
    folder = map_folder(case, name, options)
    if folder is None or not images_in(folder):
        place = root_of(case, options) / options.maps / case.scan.name / name.upper()
        fix = f"Add a folder with an image per slice (see `strokect slices`), or {COMPUTE}"
        raise ScanError(f"no {map_label(name)} map", folder or place, fix)
    return folder


def _by_slice(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_in(folder):
        key = slice_key(path.stem)
        if key in found:
            raise ScanError("two images of one slice", path, "Remove one of them")
        found[key] = path
    return found


def _read(path: Path, name: str, options: SliceFolderOptions) -> npt.NDArray[Any]:
    """Colours (Y, X, 3) uint8, or HU (Y, X) float32 of a grey MIP."""
    colours = read_colours(path)
    if colours is None:
        grey, depth = read_grey(path)
        if name == _IN_HU:
            return options.hu(grey, depth)
        if depth != 8:
            fix = "Export the colours that readers see, or write values as NIfTI (layout own)"
            raise ScanError(f"a grey image of {depth} bits as {map_label(name)} map", path, fix)
        colours = np.repeat(grey[..., None].astype(np.uint8), 3, axis=2)
    if options.colour_bar_px:
        colours[:, -options.colour_bar_px :] = 0
    return colours
