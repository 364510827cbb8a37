"""Prepared scans on disk: plain .npy files that are mapped, not read, so that memory stays flat."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.errors import OutputError
from strokect.core.types import BoolArray


@dataclass(frozen=True, eq=False)
class Example:
    """A prepared scan. image : (C, T, Z, Y, X). labels : (Z, Y, X) house labels, None unknown.
    brain : (Z, Y, X). Arrays may be maps of files."""

    image: npt.NDArray[Any]
    labels: npt.NDArray[np.uint8] | None
    brain: BoolArray


_PARTS = ("image", "labels", "brain")


def read_example(folder: Path) -> Example | None:
    """What ``write_example`` put there, mapped; None where it is not there whole."""
    try:
        names = json.loads((folder / "parts.json").read_text())
        arrays = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
        return Example(arrays["image"], arrays.get("labels"), arrays["brain"])
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None  # gone, cut short or of another make: it is prepared anew


def write_example(folder: Path, example: Example) -> Example:
    """Keep a scan, its image in half precision, and return what ``read_example`` now gives.

    Written to a temporary folder and renamed: several processes may prepare the same scan.
    """
    temporary = folder.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        parts = {n: a for n in _PARTS if (a := getattr(example, n)) is not None}
        for name, array in parts.items():
            kind = np.float16 if name == "image" else array.dtype
            np.save(temporary / f"{name}.npy", np.asarray(array, kind), allow_pickle=False)
        (temporary / "parts.json").write_text(json.dumps(list(parts)))
        return _put(temporary, folder)
    except OSError as error:
        raise OutputError(
            f"cannot write prepared scans ({error.strerror})", folder.parent, "Choose --cache"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, folder: Path) -> Example:
    """Rename, unless another process was faster; what stands there broken makes way."""
    for _ in range(3):
        found = read_example(folder)
        if found is not None:
            return found
        if folder.exists():
            aside = folder.with_name(f".broken-{uuid.uuid4().hex}")
            with contextlib.suppress(OSError):  # another process may have moved it
                folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process may stand there now
            temporary.rename(folder)
    raise OSError(errno.EIO, "what is written cannot be read back")
