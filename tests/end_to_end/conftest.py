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


def learn(*args) -> Run:
    """``strokect`` with one thread of torch: on their number depends the rounding of weights."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return strokect(*args)
    finally:
        torch.set_num_threads(threads)


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


#: A training of a second: a tiny network, tiles of two slices.
TINY = {
    "name": "tiny",
    "data": {"classes": 3},
    "input": {"time_points": 6, "interval_s": 4.0, "motion_correction": False},
    "network": {"name": "mjnet_3dt", "config": {"n_slices": 3, "width": 2, "depth": 2}},
    "slab": {"tile": [32, 32], "slices": 2, "per_case": 2},
    "augment": {"flip_x_p": 0.5, "noise_p": 0.5},
    "optimizer": {"lr": 0.01},
    "training": {"epochs": 3, "batch_size": 2},
}


def settings_file(folder: Path, **changes) -> Path:
    """A file of TINY with changes; a dictionary changes a block key by key."""
    content = json.loads(json.dumps(TINY))
    for key, value in changes.items():
        if isinstance(value, dict):
            content[key] = content.get(key, {}) | value
        else:
            content[key] = value
    path = folder / f"{content['name']}.json"
    path.write_text(json.dumps(content))
    return path


def set_splits(root: Path, **splits: str) -> None:
    """Write the split of patients, by label, into participants.tsv."""
    table = root / "participants.tsv"
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    column = lines[0].index("split")
    for line in lines[1:]:
        line[column] = splits[line[0].replace("-", "_")]
    table.write_text("".join("\t".join(line) + "\n" for line in lines))


@pytest.fixture(scope="session")
def four(tmp_path_factory) -> Path:
    """Four small virtual patients: two train, one validates, one tests."""
    root = tmp_path_factory.mktemp("learning") / "four"
    made = in_a_shell("phantom", "-o", root, "-n", 4, "--size", "small", "--seed", 11)
    assert made.code == 0, made
    set_splits(root, sub_0001="train", sub_0002="train", sub_0003="val", sub_0004="test")
    return root


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Where the prepared scans of all trainings are kept."""
    folder: Path = tmp_path_factory.mktemp("learning") / "prepared"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def trained(four, prepared, tmp_path_factory) -> Result:
    """The folder of an uninterrupted training of TINY, and what it printed."""
    folder = tmp_path_factory.mktemp("learning")
    out = folder / "run"
    run = learn("train", settings_file(folder), "--data", four, "-o", out, "--cache", prepared)
    assert run.code == 0, run
    return Result(out, run)
