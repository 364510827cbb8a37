"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OutFolder = Annotated[Path, typer.Option("-o", "--out", help="Folder for the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
Interval = Annotated[float | None, typer.Option(metavar="S", help="Seconds between frames.")]
Times = Annotated[Path | None, typer.Option(metavar="F", help="File of acquisition times, s.")]
