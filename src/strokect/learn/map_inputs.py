"""From maps and clinical scores to the arrays that a network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokect.core.clinical import SCORES, Clinical, Score
from strokect.core.colours import colour_coded, from_colours
from strokect.core.errors import SettingsError
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES, Quantity
from strokect.core.types import BoolArray
from strokect.learn.inputs import check_size

MapName = Literal["cbf", "cbv", "mtt", "tmax", "ttp", "delay", "mip"]
#: Shares of red, green and blue in a grey of the same luminance (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
#: What a score is measured from and in: about the mean and the spread of patients.
_SCALES = {"nihss": (10.0, 8.0), "age": (70.0, 15.0)}


@dataclass(frozen=True)
class MapInputOptions:
    """What a network sees of the maps of a scan.

    kind : "maps". maps : one image each, in this order; "mip" is the maximum over time. form :
    "colour" as readers see it (3 channels), "grey" its luminance, "scalar" the value itself over
    its display range. source : "computed" from the scan, "files" that lie beside it. estimator,
    denoise : of the maps that are computed. motion_correction : align the frames first. scores :
    clinical scores beside the images. spacing_mm : voxel size (z, y, x) that maps are brought to;
    null leaves it. pixels : number of rows and columns that the longer side of a slice is brought
    to instead. crop_mm : in-plane margin around the brain that is kept; null keeps the slice.
    """

    kind: Literal["maps"] = "maps"
    maps: tuple[MapName, ...] = ("cbf", "cbv", "ttp", "tmax")
    form: Literal["colour", "grey", "scalar"] = "colour"
    source: Literal["computed", "files"] = "computed"
    estimator: str = "bayes"
    denoise: str = "nonlocal"
    motion_correction: bool = True
    scores: tuple[Score, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    pixels: int | None = None
    crop_mm: float | None = None

    def __post_init__(self) -> None:
        if not self.maps or len(set(self.maps)) < len(self.maps):
            raise SettingsError(f"maps {list(self.maps)}", "input.maps", "Give each map once")
        if len(set(self.scores)) < len(self.scores):
            raise SettingsError(f"scores {list(self.scores)}", "input.scores", "Give each once")
        check_size(self.spacing_mm, self.pixels, self.crop_mm)

    @property
    def channels(self) -> int:
        """Channels of all images together."""
        return len(self.maps) * (3 if self.form == "colour" else 1)


def map_channels(found: MapSet, options: MapInputOptions) -> npt.NDArray[np.float32]:
    """The images of ``options.maps``, (C, 1, Z, Y, X) float32; 0 where nothing is shown.

    Colours and greys are 0 to 1. Scalars are 0 to 1 over the display range of their quantity, cut
    to it as colours are.
    """
    images = [_image(found, QUANTITIES[name], options) for name in options.maps]
    return np.concatenate(images)[:, None]


def _image(found: MapSet, quantity: Quantity, options: MapInputOptions) -> npt.NDArray[np.float32]:
    """One map as (1 or 3, Z, Y, X)."""
    values = found.maps[quantity.key]
    coloured = values.dtype == np.uint8
    # As in the report: the projection is shown with the skull, maps within the brain.
    shown = None if quantity.key == "mip" else found.brain
    if options.form == "scalar":
        scalar = from_colours(values, quantity) if coloured else np.asarray(values, np.float32)
        low, high = quantity.display_range
        scaled = np.clip((scalar - low) / (high - low), 0.0, 1.0)
        inside = np.isfinite(scalar) if shown is None else np.isfinite(scalar) & shown
        return np.where(inside, scaled, 0.0).astype(np.float32)[None]
    colours = values if coloured else colour_coded(values, quantity, shown)
    image = colours.astype(np.float32) / 255
    if options.form == "grey":
        return np.asarray(image @ _LUMINANCE, np.float32)[None]
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


def brain_of(found: MapSet) -> BoolArray:
    """The brain, or all that any perfusion map shows where it is not known."""
    if found.brain is not None:
        return found.brain
    seen = np.zeros(found.grid.shape, bool)
    for name, values in found.maps.items():
        if name != "mip":
            shown = values.any(axis=-1) if values.dtype == np.uint8 else np.nan_to_num(values) != 0
            seen |= shown
    if not seen.any():
        return np.ones(found.grid.shape, bool)
    # A voxel that is 0, and black, in every map may be the very middle of a core.
    return np.stack([ndimage.binary_fill_holes(plane) for plane in seen])


def clinical_vector(clinical: Clinical, scores: tuple[Score, ...]) -> npt.NDArray[np.float32]:
    """(2 x scores,) float32: for each score its scaled value, 0 where not known, and 1 if known."""
    out = np.zeros((len(scores), 2), np.float32)
    for row, name in zip(out, scores, strict=True):
        value = getattr(clinical, name)
        if value is not None:
            middle, spread = _SCALES.get(name, (0.0, 1.0))
            number = {"F": 1.0, "M": -1.0}[value] if name == "sex" else float(value)
            row[:] = (number - middle) / spread, 1.0
    return out.ravel()


def missing_scores(clinical: Clinical, scores: tuple[Score, ...]) -> list[str]:
    """Scores that are asked for and not known."""
    return [name for name in SCORES if name in scores and getattr(clinical, name) is None]
