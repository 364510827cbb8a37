"""From maps, computed or read, to what networks that look at maps are given."""

from __future__ import annotations

import numpy as np

from strokect import pipeline
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries, QualityFlag
from strokect.learn.map_inputs import MapInputOptions, brain_of, map_channels
from strokect.learn.scan_input import ScanInput, field_of
from strokect.perfusion.prepare import Given
from strokect.pipeline import Stages
from strokect.settings import load_settings


def computed_maps(
    series: CTSeries, options: MapInputOptions, stages: Stages | None = None
) -> MapSet:
    """All maps of a scan, as ``strokect perfusion`` computes them.

    Raises ScanError (no head), CurveError (no bolus), SettingsError (unknown estimator).
    """
    settings = load_settings(
        None,
        estimator=options.estimator,
        denoise=options.denoise,
        motion_correction=options.motion_correction,
    )
    found = pipeline.analyse(series, settings, Given(), stages)
    return MapSet(
        found.grid,
        {name: np.asarray(m.data, np.float32) for name, m in found.maps.items()},
        found.masks["brain"].data,
        found.mean_ct.data,
        found.flags,
        source_of(options.estimator, options.denoise),
    )


def source_of(estimator: str, denoise: str) -> str:
    """Where maps come from, in a few words."""
    return f"computed by {estimator}, {denoise}"


def other_maps(source: str, options: MapInputOptions) -> QualityFlag | None:
    """A finding where maps do not come from where those came from that the network learnt on."""
    wanted = source_of(options.estimator, options.denoise)
    if options.source == "files":
        # What files of a data set hold is not known; that these were computed here is.
        wanted = "read from files" if source == wanted else source
    if source == wanted:
        return None
    what = f"The network was trained on maps {wanted}; these are {source}"
    return flag("OTHER_MAPS", what)


def map_input(found: MapSet, options: MapInputOptions) -> ScanInput:
    """The images of the maps on the network's grid."""
    brain = brain_of(found)
    where = field_of(brain, found.grid, options.spacing_mm, options.pixels, options.crop_mm)
    image = map_channels(found, options)[:, :, :, *where.box]
    mean = found.mean_hu
    return ScanInput(
        np.ascontiguousarray(where.grids.to_network(image), np.float32),
        where.grids.mask_to_network(brain[:, *where.box]),
        where.grids,
        where.box,
        brain,
        # Where no CT is known, the report shows the brain's outline alone.
        np.where(brain, np.float32(40), np.float32(-1000)) if mean is None else mean,
        found.flags,
    )
