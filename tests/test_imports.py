"""Imports point one way (design.md), and the light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "strokect"

# Lower number = lower floor. A module imports its own room and floors strictly below it.
FLOORS = {
    "core": 0,
    **dict.fromkeys(("io", "perfusion", "anatomy", "phantom", "nets", "learn", "evaluate"), 1),
    **dict.fromkeys(("catalog", "legacy", "model_cards"), 2),
    **dict.fromkeys(("settings", "provenance"), 3),
    **dict.fromkeys(("pipeline", "virtual", "training_settings"), 4),
    **dict.fromkeys(
        ("report", "ctp_input", "map_input", "models", "settings_explained", "training_processes"),
        5,
    ),
    **dict.fromkeys(
        (
            "study",
            "network_input",
            "scoring_inputs",
            "slice_export",
            "training_data",
            "training_patients",
        ),
        6,
    ),
    **dict.fromkeys(("training", "prediction", "cohort_tasks", "scoring"), 7),
    **dict.fromkeys(("cohort_tables", "cohort_workers", "experiment"), 8),
    **dict.fromkeys(("cohort", "cli_options", "cli_progress"), 9),
    **dict.fromkeys(("cli_learn", "cli_settings", "cli_slices"), 10),
    "cli": 11,
}
EXCEPTIONS = {
    ("phantom", "perfusion.convolution"),
    ("phantom", "anatomy"),
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in _imports(path):
        if not name.startswith("strokect."):
            continue
        target = name.removeprefix("strokect.")
        other = target.split(".")[0]
        if other == room or other not in FLOORS:
            continue
        allowed = FLOORS[other] < FLOORS[room] or any(
            room == a and target.startswith(b) for a, b in EXCEPTIONS
        )
        # A parent package is named on the way to an excepted module.
        on_the_way = any(room == a and b.startswith(target + ".") for a, b in EXCEPTIONS)
        assert allowed or on_the_way, f"{room} may not import {name}"


def test_every_room_has_a_floor():
    rooms = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in MODULES}
    assert rooms <= FLOORS.keys()


def test_perfusion_never_imports_torch():
    for path in (SOURCE / "perfusion").glob("*.py"):
        assert not any(name.split(".")[0] == "torch" for name in _imports(path))


@pytest.mark.parametrize(
    "code",
    [
        "import strokect",
        "from typer.testing import CliRunner; from strokect.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
        "from typer.testing import CliRunner; from strokect.cli import app;"
        "assert CliRunner().invoke(app, ['list', 'estimators']).exit_code == 0",
        "from typer.testing import CliRunner; from strokect.cli import app;"
        "assert CliRunner().invoke(app, ['list', 'models']).exit_code == 0",
    ],
)
def test_light_commands_load_nothing_heavy(code):
    check = (
        f"{code}\nimport sys; heavy = {{'torch', 'SimpleITK', 'numba', 'matplotlib', 'nibabel',"
        " 'dask', 'distributed'}"
        "\nassert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_unhandled_rooms_fail(tmp_path):
    """The checker itself sees an import that points up."""
    bad = tmp_path / "x.py"
    bad.write_text("from strokect.pipeline import analyse\n")
    assert "strokect.pipeline" in set(_imports(bad))
