"""How CT images of different vendors are laid out, as far as it matters to a reader.

Patterns seen in clinical CT perfusion files (from memory; each vendor changes them between
generations): how time is told, whether every time point is a series of its own, the order of the
instance numbers, stored values and padding. Names of models are real, patients are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from strokect.core.errors import SettingsError

Vendor = Literal["strokect", "siemens", "ge", "philips", "canon"]
#: Attributes that may tell the time of an image. "acquisition datetime" comes with date and time.
TimeKey = Literal["acquisition datetime", "acquisition time", "content time", "trigger time"]


@dataclass(frozen=True)
class VendorStyle:
    """Layout of a scan.

    times : attributes that hold the time of each image; those absent here hold the start of the
    scan. temporal_index : Temporal Position Index counts time points. acquisition_number : counts
    "frame", or is "constant". slice_major : instance numbers count time points within a slice.
    split : one series per time point. unsigned12 : 12-bit unsigned values, at most 3071 HU.
    intercept : HU of stored 0. padding : stored value outside the circle of reconstruction.
    kernel : Convolution Kernel. tilt : write Gantry/Detector Tilt.
    """

    manufacturer: str
    model: str
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    kernel: str | None = None
    times: tuple[TimeKey, ...] = ("acquisition datetime", "acquisition time", "content time")
    temporal_index: bool = False
    acquisition_number: Literal["frame", "constant"] = "frame"
    slice_major: bool = False
    split: bool = False
    unsigned12: bool = False
    intercept: int = -1024
    padding: int | None = None
    tilt: bool = True


STYLES: dict[str, VendorStyle] = {
    "strokect": VendorStyle("strokect", "virtual scanner", tilt=False),
    # one series, time-major, full time stamps
    "siemens": VendorStyle(
        "SIEMENS",
        "SOMATOM Definition Flash",
        ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI DYN"),
        kernel="H31s",
        unsigned12=True,
    ),
    # cine: all times of a slice follow each other; padding of -2000 in the corners
    "ge": VendorStyle(
        "GE MEDICAL SYSTEMS",
        "Revolution CT",
        kernel="STANDARD",
        times=("acquisition time", "content time"),
        acquisition_number="constant",
        slice_major=True,
        padding=-2000,
    ),
    # acquisition time is that of the whole scan; images tell time after its start
    "philips": VendorStyle(
        "Philips",
        "iCT 256",
        kernel="UB",
        times=("trigger time",),
        temporal_index=True,
        unsigned12=True,
    ),
    # every volume of the wide detector is a series; values stored as HU
    "canon": VendorStyle(
        "TOSHIBA",
        "Aquilion ONE",
        ("ORIGINAL", "PRIMARY", "AXIAL", "VOLUME"),
        kernel="FC41",
        times=("acquisition time", "content time"),
        split=True,
        intercept=0,
    ),
}


def style_of(vendor: Vendor | VendorStyle) -> VendorStyle:
    """The style of a vendor, or the style given. Raises SettingsError for an unknown vendor."""
    if isinstance(vendor, VendorStyle):
        return vendor
    if vendor not in STYLES:
        raise SettingsError(f"unknown vendor {vendor!r}", "vendor", f"Use {get_args(Vendor)}")
    return STYLES[vendor]


def outside_circle(rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Pixels (Y, X) outside the circle of reconstruction, which touches the edges."""
    y, x = (2 * np.arange(n) / (n - 1) - 1 if n > 1 else np.zeros(1) for n in (rows, columns))
    return np.asarray(y[:, None] ** 2 + x**2 > 1.02)
