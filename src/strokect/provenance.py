"""What made a result: hashes of the input, settings, versions. No names, dates or paths."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from typing import Any

import numpy as np

from strokect import __version__
from strokect.core.mapset import MapSet
from strokect.core.types import CTSeries

_LIBRARIES = ("numpy", "scipy", "numba", "nibabel", "pydicom")


def scan_sha256(series: CTSeries | MapSet) -> str:
    """Hash of voxels, times and geometry: the same scan has it whatever file it came in."""
    digest = hashlib.sha256()
    if isinstance(series, MapSet):
        for name, values in sorted(series.maps.items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    else:
        for frame in series.data_hu:
            digest.update(np.asarray(frame, np.float32).tobytes())
        digest.update(np.round(series.times_s, 3).tobytes())
    digest.update(np.round(series.grid.affine, 4).tobytes())
    return digest.hexdigest()


def provenance(series: CTSeries | MapSet) -> dict[str, Any]:
    """Versions, platform and input hash, for ``summary.json``."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name.lower()] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "strokect": __version__,
        "python": platform.python_version(),
        **versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "input_sha256": scan_sha256(series),
    }
