"""The command that writes a data set as slice folders; imports wait until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strokect import RESEARCH_USE_ONLY
from strokect.cli_options import OutFolder
from strokect.cli_progress import progress


def slices(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set of any layout.")],
    out: OutFolder,
    scans: Annotated[bool, typer.Option(help="The images of the CTP scans.")] = True,
    maps: Annotated[bool, typer.Option(help="Colour maps; computed unless they lie there.")] = True,
    layout: Annotated[
        str | None, typer.Option(help="See `strokect list layouts`; found by itself else.")
    ] = None,
) -> None:
    """A data set as folders of TIFF and PNG slices; run again to go on after an interrupt."""
    from strokect.slice_export import ExportOptions, export_slices

    options = ExportOptions(scans, maps, layout)
    whole, failures = 0, []
    with progress() as listener:
        for done in export_slices(data, out, options, listener):
            if done.failure is not None:
                failures.append(done)
                continue
            whole += 1
            typer.echo(f"{done.name} ({done.source}{'' if done.new else ', was there already'})")
    typer.echo(f"{whole} patients in {out}; who is who: {out / 'clinical.tsv'}")
    typer.echo(RESEARCH_USE_ONLY)
    for failed in failures:
        typer.echo(f"{failed.name}: {failed.failure}", err=True)
    if failures:
        typer.echo(f"error: {len(failures)} patients are not whole", err=True)
        raise typer.Exit(1)
