"""Commands on setting files; imports wait until one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strokect.cli_options import Overwrite

if TYPE_CHECKING:
    from strokect.legacy import Upgraded

app = typer.Typer(name="settings", help="Setting files: upgrade older ones, explain the keys.",
                  no_args_is_help=True)  # fmt: skip


@app.command()
def upgrade(
    old: Annotated[Path, typer.Argument(metavar="OLD.json", help="As the source's systems read.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="NEW.json", help="Else NAME.new.json beside it."),
    ] = None,
    classes: Annotated[int, typer.Option("-c", "--classes", help="2, 3 or 4.")] = 4,
    tile: Annotated[int | None, typer.Option("-t", "--tile", help="Pixels of a tile.")] = None,
    dimension: Annotated[
        int | None, typer.Option("-dim", "--dimension", help="Pixels of a slice.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="To list groups of patients.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write an older setting file in the form of today, and say what became of every key."""
    from strokect.core.json_files import read_json_object
    from strokect.io.outputs import to_json, write_text
    from strokect.legacy import LegacyOptions, is_legacy
    from strokect.legacy import upgrade as run
    from strokect.training_settings import parse_training_settings

    content = read_json_object(old, '{"EXPERIMENT": 1, "models": [{"name": "PMs_segmentation"}]}')
    if not is_legacy(content):
        parse_training_settings(content, old)
        typer.echo(f"{old}: is in the form of today")
        return
    patients = patients_in(data) if data is not None else ()
    name = (out or old).stem
    options = LegacyOptions(name, classes, tile, dimension, patients=patients)
    done = run(content, options=options, path=old)
    files = _files(done, out or old.with_suffix(".new.json"))
    for path, new in files.items():
        parse_training_settings(new, path)
        _check_free(path, overwrite)
    for note in done.notes:
        typer.echo(f"{note.action:<7} {note.key}: {note.text}")
    for path, new in files.items():
        write_text(path, to_json(new) + "\n")
        typer.echo(f"settings: {path}")


@app.command()
def explain(
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Else standard output.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Every key of a setting file: type, default, choices and what it means, as JSON."""
    from strokect.io.outputs import write_text
    from strokect.settings_explained import as_text, explained

    text = as_text(explained())
    if out is None:
        typer.echo(text, nl=False)
        return
    _check_free(out, overwrite)
    write_text(out, text)
    typer.echo(f"keys: {out}")


def patients_in(folder: Path) -> tuple[str, ...]:
    """Ids of the patients in a data set of slice folders or of another layout, by names alone."""
    from strokect import catalog
    from strokect.io.cases import guess_layout

    layout = catalog.load("layouts", guess_layout(folder) or "slices")()
    return tuple(dict.fromkeys(case.patient for case in layout.cases(folder)))


def _files(done: Upgraded, path: Path) -> dict[Path, dict[str, Any]]:
    """Where each of the new settings goes: one file, or one for each model."""
    if len(done.settings) == 1:
        return {path: done.settings[0]}
    return {path.with_name(f"{new['name']}.json"): new for new in done.settings}


def _check_free(path: Path, overwrite: bool) -> None:
    from strokect.core.errors import OutputExistsError

    if path.exists() and not overwrite:
        raise OutputExistsError("the file is there already", path, "Give -o or --overwrite")
