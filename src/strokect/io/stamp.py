"""Which files stand somewhere, without reading them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from strokect.io.nifti import sidecar_path


def stamp(path: Path | None) -> str:
    """Which files these are: names, sizes and times of change, as one hash; "" for none.

    path : a folder, or a NIfTI file with its sidecar. Contents are not read, so that thousands of
    studies are checked in seconds; a file that is copied or touched counts as another one.
    """
    if path is None or not path.exists():
        return ""
    if path.is_dir():
        base, files = path, sorted(p for p in path.rglob("*") if p.is_file())
    else:
        base, files = path.parent, [p for p in (path, sidecar_path(path)) if p.exists()]
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        line = f"{file.relative_to(base)}\t{found.st_size}\t{found.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
