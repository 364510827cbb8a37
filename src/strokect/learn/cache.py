"""Prepared scans on disk: plain .npy files that are mapped, not read, so that memory stays flat."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokect.core.errors import OutputError
from strokect.core.types import BoolArray

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Example:
    """A prepared scan. image : (C, T, Z, Y, X). labels : (Z, Y, X) house labels, None unknown.
    brain : (Z, Y, X). clinical : (F,), not kept on disk. Arrays may be maps of files."""

    image: npt.NDArray[Any]
    labels: npt.NDArray[np.uint8] | None
    brain: BoolArray
    clinical: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


def read_example(folder: Path) -> Example | None:
    """What ``write_example`` put there, mapped; None where it is not there whole."""
    arrays = read_arrays(folder, {"image", "brain"})
    if arrays is None:
        return None
    return Example(arrays["image"], arrays.get("labels"), arrays["brain"])


def write_example(folder: Path, example: Example) -> Example:
    """Keep a scan, its image in half precision, and return what ``read_example`` now gives."""
    parts = {"image": np.asarray(example.image, np.float16), "brain": example.brain}
    if example.labels is not None:
        parts["labels"] = example.labels
    arrays = write_arrays(folder, parts)
    return Example(arrays["image"], arrays.get("labels"), arrays["brain"])


def read_arrays(folder: Path, needed: Collection[str]) -> Arrays | None:
    """What ``write_arrays`` put there, mapped; None where it is not whole or lacks a name."""
    try:
        names = json.loads((folder / "parts.json").read_text())
        found = {n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
        return found if set(needed) <= found.keys() else None
    except (OSError, ValueError, EOFError, TypeError):
        return None  # gone, cut short or of another make: it is prepared anew


def write_arrays(folder: Path, arrays: Arrays) -> Arrays:
    """Keep arrays by name and return what ``read_arrays`` now gives.

    Written to a temporary folder and renamed: several processes may prepare the same scan.
    """
    temporary = folder.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        (temporary / "parts.json").write_text(json.dumps(list(arrays)))
        return _put(temporary, folder, arrays.keys())
    except OSError as error:
        raise OutputError(
            f"cannot write prepared scans ({error.strerror})", folder.parent, "Choose --cache"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, folder: Path, names: Collection[str]) -> Arrays:
    """Rename, unless another process was faster; what stands there broken makes way."""
    for _ in range(3):
        found = read_arrays(folder, names)
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
