"""The way from maps to a segmentation by the network ``multi_input``, on one patient's own images.

python scripts/pipeline_figure.py MAPS SEGMENTATION --truth TRUTH --nihss 17 -o FIGURE.png

MAPS is a result folder of `strokect perfusion`, SEGMENTATION one of `strokect predict` for the
same scan; both hold masks/ and the first maps/. TRUTH is a folder of masks/ too, or the truth of a
virtual patient (derivatives/truth/sub-*/ses-*). The slice shown is that of the largest true lesion.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import strokect
from strokect.core.colours import Bytes, colour_coded
from strokect.core.errors import GeometryError, InputError, ScanError, StrokeCTError
from strokect.core.quantities import QUANTITIES
from strokect.core.types import BoolArray, Grid
from strokect.io import nifti
from strokect.io.outputs import atomic_file
from strokect.report.figures import CORE_RGB, PENUMBRA_RGB, View, view_of

MAPS = ("cbf", "cbv", "ttp", "tmax", "mip")
_SEVERITY = (("penumbra", PENUMBRA_RGB), ("core", CORE_RGB))
_OPACITY = 0.72
_SAME_GRID_MM = 0.1
LEVELS = 5  # of VGG-16

# One unit is a pixel of a picture 900 wide; it is drawn twice as fine.
WIDE, LEAST_HIGH = 900, 640
_DPI = 200
_TILE, _STEP, _TOP = 90, 96, 82
_ENCODER_X, _FUSION_X, _DECODER_X, _OUT_X = 198, 346, 420, 650
_INK, _SOFT, _LINE = "#222222", "#555555", "#8A8A8A"
_BLUE, _ORANGE, _GREEN, _GREY = "#4C78A8", "#E6A23C", "#5B9A68", "#DDDDDD"


@dataclass(frozen=True, eq=False)
class Patient:
    """One slice of a patient, as it is shown: anterior up, the patient's left on the right.

    inputs : map -> colours (H, W, 3). found, true : the MIP with the lesion over it, true None
    where it is not known. found_ml, true_ml : class -> volume in the whole scan, ml.
    """

    inputs: dict[str, Bytes]
    found: Bytes
    found_ml: dict[str, float]
    true: Bytes | None
    true_ml: dict[str, float]


# Reading


def read_patient(
    maps: Path,
    segmentation: Path,
    truth: Path | None,
    names: Sequence[str] = MAPS,
    number: int | None = None,
) -> Patient:
    """Read the maps, the masks and the truth, and choose the slice.

    number : slice from 0 below; None: that of the largest true (else found) lesion.
    Raises ScanError for a missing file, GeometryError for grids that differ, InputError for a
    slice that is not there.
    """
    files = {name: maps / "maps" / f"{name}.nii.gz" for name in dict.fromkeys((*names, "mip"))}
    volumes = {name: nifti.read_volume(_there(path)) for name, path in files.items()}
    grid = volumes["mip"].grid
    for name, volume in volumes.items():
        _check(volume.grid, grid, files[name])
    brain = read_masks(maps, ("brain",), grid).get("brain")
    found = read_masks(segmentation, ("penumbra", "core"), grid)
    true = read_masks(truth, ("penumbra", "core"), grid) if truth is not None else {}
    for masks, folder in ((found, segmentation), (true, truth)):
        if folder is not None and not masks:
            raise ScanError("no masks of core or penumbra", folder, "Give a folder that has masks/")
    view = view_of(grid, brain)
    lesion = np.any(list((true or found).values()), axis=0)
    if number is None:
        number = int(view.turn(lesion).sum(axis=(1, 2)).argmax())
    if not 0 <= number < view.total:
        raise InputError(f"slice {number}", "--slice", f"Give 0 to {view.total - 1}")
    inputs = {
        name: colour_coded(
            _cut(view, volumes[name].data, number), QUANTITIES[name],
            None if brain is None or name == "mip" else _cut(view, brain, number),
        )
        for name in names
    }  # fmt: skip
    under = colour_coded(_cut(view, volumes["mip"].data, number), QUANTITIES["mip"])

    def seen(masks: Mapping[str, BoolArray]) -> Bytes:
        return overlay(under, {k: _cut(view, m, number) for k, m in masks.items()})

    return Patient(
        inputs, seen(found), _volumes(found, grid), seen(true) if true else None,
        _volumes(true, grid),
    )  # fmt: skip


def read_masks(folder: Path, names: Sequence[str], grid: Grid) -> dict[str, BoolArray]:
    """Masks (Z, Y, X) of a result folder, or of the truth of a virtual patient; those there are."""
    out = {}
    for name in names:
        paths = [folder / "masks" / f"{name}.nii.gz", *sorted(folder.glob(f"*_{name}_mask.nii.gz"))]
        for path in [p for p in paths if p.is_file()][:1]:
            volume = nifti.read_volume(path)
            _check(volume.grid, grid, path)
            out[name] = np.nan_to_num(volume.data) != 0
    return out


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ScanError("no such map", path, "Give a result folder of `strokect perfusion`")
    return path


def _check(found: Grid, grid: Grid, path: Path) -> None:
    if not found.same_as(grid, _SAME_GRID_MM):
        raise GeometryError(
            f"a grid {found.shape} that differs from the maps' {grid.shape} or lies elsewhere",
            path, "Give results of one scan",
        )  # fmt: skip


def _cut(view: View, data: npt.NDArray[Any], number: int) -> npt.NDArray[Any]:
    """The slice (H, W) of an array (Z, Y, X)."""
    return np.asarray(view.tiles(data, np.array([number]))[0])


def _volumes(masks: Mapping[str, BoolArray], grid: Grid) -> dict[str, float]:
    return {name: float(mask.sum()) * grid.voxel_ml for name, mask in masks.items()}


def overlay(under: Bytes, masks: Mapping[str, BoolArray]) -> Bytes:
    """Penumbra and, over it, core in their colours on a picture (H, W, 3)."""
    out = under.astype(float)
    for name, colour in _SEVERITY:
        if name in masks:
            tinted = (1 - _OPACITY) * under + _OPACITY * np.array(colour)
            out = np.where(masks[name][..., None], tinted, out)
    return out.round().astype(np.uint8)


# Drawing


def draw(patient: Patient, path: Path, nihss: float | None = None, caption: str = "") -> None:
    """Draw the figure as PNG, 1800 px wide: the same patient, the same bytes.

    nihss : None leaves its branch out. caption : who is shown, for the lowest line.
    Raises OutputError where it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high = max(LEAST_HIGH, _TOP + _STEP * len(patient.inputs) + 78)
    figure = Figure((WIDE / 100, high / 100), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDE), ylim=(high, 0))
    ax.set_axis_off()
    rows = [_TOP + _STEP * k + _TILE / 2 for k in range(len(patient.inputs))]
    middle = max((rows[0] + rows[-1]) / 2, 216)  # few inputs: the decoder stays under its skips
    for (name, picture), y in zip(patient.inputs.items(), rows, strict=True):
        _input(ax, name, picture, y)
    _network(ax, rows, middle, nihss)
    _results(ax, patient, middle)
    last = " ".join(x for x in (caption, strokect.RESEARCH_USE_ONLY) if x)
    _words(ax, 10, high - 12, last, size=7.5, colour=_SOFT, ha="left")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _input(ax: Any, name: str, picture: Bytes, y: float) -> None:
    quantity = QUANTITIES[name]
    low, high = quantity.display_range
    _words(ax, 84, y - 15, quantity.label, size=10, weight="bold", ha="right")
    _words(ax, 84, y + 3, f"{low:g}–{high:g}", size=7.5, colour=_SOFT, ha="right")
    _words(ax, 84, y + 18, quantity.unit, size=7.5, colour=_SOFT, ha="right")
    _picture(ax, picture, (90, y - _TILE / 2, _TILE, _TILE))
    _arrow(ax, (90 + _TILE + 3, y), (_ENCODER_X - 3, y))


def _network(ax: Any, rows: Sequence[float], middle: float, nihss: float | None) -> None:
    for x, title in (
        (90 + _TILE / 2, "Input"), (_ENCODER_X + 54, "VGG-16 encoders"),
        (_FUSION_X + 18, "Fusion"), (_DECODER_X + 85, "Decoder"),
    ):  # fmt: skip
        _words(ax, x, 18, title, size=10, weight="bold")
    encoder = _bars(_ENCODER_X, (9, 11, 14, 18, 24), (74, 58, 44, 32, 22))
    decoder = _bars(_DECODER_X, (34, 28, 24, 20, 16), (60, 100, 150, 210, 280))
    ends = encoder[-1][0] + encoder[-1][1]
    # Skips: level by level over the top, the outermost that of the full resolution.
    for level in range(LEVELS - 1):
        start = encoder[level][0] + encoder[level][1] / 2
        bar = decoder[LEVELS - 1 - level]
        stop, over = bar[0] + bar[1] / 2, 44 + 8 * level
        path = [(start, rows[-1]), (start, over), (stop, over), (stop, middle - bar[2] / 2 - 1)]
        ax.plot(*zip(*path[:3], strict=True), color=_LINE, linewidth=0.9, zorder=1)
        _arrow(ax, path[2], path[3], colour=_LINE, width=0.9)
    _words(ax, _FUSION_X + 18, 37, "skips of every level", size=7.5, colour=_SOFT)
    for y in rows:
        for x, wide, high in encoder:
            _box(ax, (x, y - high / 2, wide, high), _BLUE)
        ax.plot([ends + 2, _FUSION_X - 14, _FUSION_X - 14], [y, y, middle], color=_INK, lw=1.1)
    _arrow(ax, (_FUSION_X - 14, middle), (_FUSION_X, middle))
    _box(ax, (_FUSION_X, middle - 75, 36, 150), _ORANGE)
    _words(ax, _FUSION_X + 18, middle, "bottleneck, 1/16", size=8.5, rotation=90)
    _arrow(ax, (_FUSION_X + 38, middle), (_DECODER_X - 3, middle))
    for x, wide, high in decoder:
        _box(ax, (x, middle - high / 2, wide, high), _GREEN)
    right = decoder[-1][0] + decoder[-1][1]
    _arrow(ax, (right + 3, middle), (_OUT_X - 8, middle))
    _words(ax, (right + _OUT_X - 5) / 2, middle - 14, "softmax", size=8, colour=_SOFT)
    if nihss is not None:
        _clinical(ax, max(rows[-1] + _TILE / 2 + 32, middle + 120), middle + 76, nihss)


def _clinical(ax: Any, y: float, fusion_y: float, nihss: float) -> None:
    """The branch of the score: dense layers, then a plane that joins the bottleneck."""
    _words(ax, 84, y, "NIHSS", size=10, weight="bold", ha="right")
    _box(ax, (90, y - 16, _TILE, 32), "#F4F4F4")
    _words(ax, 90 + _TILE / 2, y, f"{nihss:g}", size=12, weight="bold")
    _arrow(ax, (90 + _TILE + 3, y), (_ENCODER_X - 3, y))
    _box(ax, (_ENCODER_X, y - 14, 104, 28), _GREY)
    _words(ax, _ENCODER_X + 52, y, "dense layers", size=8.5)
    _arrow(ax, (_ENCODER_X + 106, y), (_FUSION_X - 1, y))
    _box(ax, (_FUSION_X, y - 18, 36, 36), _GREY)
    _words(ax, _FUSION_X + 18, y, "plane", size=8)
    _arrow(ax, (_FUSION_X + 18, y - 20), (_FUSION_X + 18, fusion_y))


def _results(ax: Any, patient: Patient, middle: float) -> None:
    shown = [("Segmentation", patient.found, patient.found_ml)]
    if patient.true is not None:
        shown.append(("Truth", patient.true, patient.true_ml))
    size = 226
    step = size + 58
    top = max(middle - step * len(shown) / 2 + 20, 32)  # few inputs have their middle high up
    for k, (title, picture, volumes) in enumerate(shown):
        y = top + k * step
        _words(ax, _OUT_X + size / 2, y - 11, title, size=10, weight="bold")
        _picture(ax, picture, (_OUT_X, y, size, size))
        for place, (name, colour) in enumerate(_SEVERITY):
            if name in volumes:
                x = _OUT_X + (4, 136)[place]
                _box(ax, (x, y + size + 6, 11, 11), "#" + bytes(colour).hex())
                words = f"{name} {volumes[name]:.0f} ml"
                _words(ax, x + 17, y + size + 12, words, size=8.5, ha="left")


def _bars(
    x: float, wide: Sequence[float], high: Sequence[float]
) -> list[tuple[float, float, float]]:
    """(left, width, height) of bars in a row."""
    lefts = x + np.concatenate([[0], np.cumsum(np.array(wide) + 4)])[:-1]
    return list(zip(lefts.tolist(), wide, high, strict=True))


def _picture(ax: Any, picture: Bytes, box: tuple[float, float, float, float]) -> None:
    """A picture (H, W, 3) in the middle of a black box (left, top, width, height)."""
    left, top, wide, high = box
    side = max(picture.shape[:2])
    square = np.zeros((side, side, 3), np.uint8)
    y, x = ((side - n) // 2 for n in picture.shape[:2])
    square[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    ax.imshow(
        square, extent=(left, left + wide, top + high, top), interpolation="nearest", zorder=2,
        aspect="auto",
    )  # fmt: skip


def _box(ax: Any, box: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    left, top, wide, high = box
    ax.add_patch(
        Rectangle((left, top), wide, high, facecolor=colour, edgecolor=_INK, lw=0.6, zorder=3)
    )


def _arrow(
    ax: Any, start: tuple[float, float], stop: tuple[float, float], colour: str = _INK,
    width: float = 1.1,
) -> None:  # fmt: skip
    ax.annotate(
        "", stop, start, zorder=4,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0,
                    "mutation_scale": 8},
    )  # fmt: skip


def _words(
    ax: Any, x: float, y: float, words: str, *, size: float, colour: str = _INK, ha: str = "center",
    weight: str = "normal", rotation: float = 0,
) -> None:  # fmt: skip
    ax.text(
        x, y, words.replace("$", r"\$"), fontsize=size, color=colour, ha=ha, va="center",
        weight=weight, rotation=rotation, zorder=5,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figure; 1 where that is not possible, with the reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("maps", type=Path, help="result folder of `strokect perfusion`")
    parser.add_argument("segmentation", type=Path, help="result folder of `strokect predict`")
    parser.add_argument("--truth", type=Path, help="folder of the true masks")
    parser.add_argument("--nihss", type=float, help="score of the patient; none: no branch for it")
    parser.add_argument("--inputs", default=",".join(MAPS), help="e.g. cbf,cbv,ttp,tmax")
    parser.add_argument("--slice", type=int, help="slice from 0 below; else that of most lesion")
    parser.add_argument("--caption", default="", help="who is shown")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images/multi_input.png"))
    given = parser.parse_args(arguments)
    names = given.inputs.split(",")
    if unknown := [n for n in names if n not in QUANTITIES]:
        parser.error(f"no map {', '.join(unknown)}; there are {', '.join(QUANTITIES)}")
    try:
        patient = read_patient(given.maps, given.segmentation, given.truth, names, given.slice)
        draw(patient, given.out, given.nihss, given.caption)
    except StrokeCTError as error:
        print(error, file=sys.stderr)
        return 1
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
