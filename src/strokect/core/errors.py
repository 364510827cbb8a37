"""The one error tree of strokect.

::

    StrokeCTError              exit code 1: something failed
    ├── InputError             exit code 2: the user's input or options cannot be used
    │   ├── ScanError          a file or folder holds no usable scan
    │   ├── TimingError        acquisition times missing, zero or inconsistent
    │   ├── GeometryError      positions, orientation or grids that do not fit
    │   ├── CurveError         no bolus, no usable arterial curve
    │   ├── SettingsError      unknown name, option or setting
    │   └── OutputExistsError  the output is there already
    └── OutputError            exit code 1: the output cannot be written

Every message says what was found, where, and what to do, on one line.
"""

from __future__ import annotations

from os import PathLike


class StrokeCTError(Exception):
    """Base of all errors that strokect raises on purpose.

    what : what was found. where : file, tag or value it was found in. fix : what to do.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | PathLike[str] | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        line = what if where is None else f"{what}: {where}"
        super().__init__(line if fix is None else f"{line.rstrip('.')}. {fix}")


class InputError(StrokeCTError):
    """The user's input or options cannot be used."""

    exit_code = 2


class ScanError(InputError):
    """A file or folder holds no usable scan."""


class TimingError(InputError):
    """Acquisition times are missing, zero or inconsistent."""


class GeometryError(InputError):
    """Positions, orientation or grids do not fit together."""


class CurveError(InputError):
    """No contrast bolus or no usable arterial curve in the scan."""


class SettingsError(InputError):
    """An unknown name, option or setting."""


class OutputExistsError(InputError):
    """The output is there already and may not be overwritten."""


class OutputError(StrokeCTError):
    """The output cannot be written."""
