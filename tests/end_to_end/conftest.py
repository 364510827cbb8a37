"""One small virtual patient, made and analysed once through the command line."""

import contextlib
import io
import json
import logging
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from strokect import cli
from strokect.io.layouts import OwnLayout

COMMAND = [sys.executable, "-c", "from strokect.cli import main; main()"]


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


def strokect(*args) -> Run:
    """The command line within this process, as the installed command runs it."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    before = sys.argv
    sys.argv = ["strokect", *map(str, args)]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            cli.main()
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
        logging.disable(logging.NOTSET)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Run(int(code or 0), out.getvalue(), err.getvalue())


def in_a_shell(*args, **options) -> Run:
    """The command line as a process of its own, its output in a pipe."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, check=False, timeout=120,
        **options,
    )  # fmt: skip
    return Run(done.returncode, done.stdout, done.stderr)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def image(path: Path, canonical: bool = False) -> np.ndarray:
    loaded = nib.load(path)
    return np.asarray((nib.as_closest_canonical(loaded) if canonical else loaded).dataobj)


def refused(run: Run, code: int, *words: str) -> None:
    """One clear line on standard error, nothing else."""
    assert run.code == code, run
    assert run.out == ""
    assert run.err.startswith("strokect: ")
    assert run.err.count("\n") == 1, run.err
    for word in words:
        assert word in run.err, run.err


@dataclass(frozen=True)
class Patient:
    layout: OwnLayout
    made: Run

    @property
    def scan(self) -> Path:
        return self.layout.scan("ctp")


@dataclass(frozen=True)
class Result:
    folder: Path
    run: Run


@pytest.fixture(scope="session")
def patient(tmp_path_factory) -> Patient:
    root = tmp_path_factory.mktemp("virtual") / "patients"
    made = in_a_shell("phantom", "-o", root, "--size", "small", "--seed", 3, "--dicom", "siemens")
    assert made.code == 0, made
    return Patient(OwnLayout(root, "0001"), made)


@pytest.fixture(scope="session")
def result(patient, tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("results") / "nifti"
    run = in_a_shell("perfusion", patient.layout.scan_folder, "-o", folder, "--json")
    assert run.code == 0, run
    return Result(folder, run)
