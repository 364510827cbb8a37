"""Colours of maps, as readers see them: display range, 255 steps of a colour map, black outside.

The report and the networks that look at colour-coded maps share these functions.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from strokect.core.quantities import Quantity
from strokect.core.types import BoolArray, FloatArray

Bytes = npt.NDArray[np.uint8]
#: Farthest that a colour may lie from the palette (JPEG, resampling), as a distance in RGB.
_TOLERANCE = 60.0


def levels(
    values: FloatArray, window: tuple[float, float], shown: BoolArray | None = None
) -> Bytes:
    """Values to palette indices 1..255 over the window; 0 where not shown or not finite."""
    low, high = window
    with np.errstate(invalid="ignore"):
        scaled = np.clip((values - low) * (254.0 / (high - low)), 0.0, 254.0)
    visible = np.isfinite(values) if shown is None else shown & np.isfinite(values)
    return np.where(visible, np.nan_to_num(scaled) + 1.5, 0.0).astype(np.uint8)


@cache
def colour_palette(name: str) -> Bytes:
    """(256, 3) palette of a matplotlib colour map; entry 0 is the black background."""
    if name == "gray":
        grey = np.linspace(0, 255, 255).round().astype(np.uint8)
        return np.vstack([np.zeros((1, 3), np.uint8), np.repeat(grey[:, None], 3, axis=1)])
    from matplotlib import colormaps

    table = colormaps[name](np.linspace(0.0, 1.0, 255), bytes=True)[:, :3]
    return np.vstack([np.zeros((1, 3), np.uint8), table]).astype(np.uint8)


def colour_coded(values: FloatArray, quantity: Quantity, shown: BoolArray | None = None) -> Bytes:
    """Colours (..., 3) of a map (...), as the report shows it; black where not shown."""
    palette = colour_palette(quantity.colour_map)
    return np.asarray(palette[levels(values, quantity.display_range, shown)])


def from_colours(colours: Bytes, quantity: Quantity) -> FloatArray:
    """Values (...) of colours (..., 3), the inverse of ``colour_coded`` within its display range.

    NaN where the colour is black or far from every colour of the map. Values outside the display
    range come back as its ends.
    """
    from scipy.spatial import cKDTree

    palette = colour_palette(quantity.colour_map).astype(np.float64)
    distance, index = cKDTree(palette).query(colours.astype(np.float64))
    low, high = quantity.display_range
    values = low + (index - 1) * ((high - low) / 254)
    # A grey map has a black of its own: there, black is not shown.
    return np.where((index > 0) & (distance <= _TOLERANCE), values, np.nan).astype(np.float32)
