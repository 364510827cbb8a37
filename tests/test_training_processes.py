"""Which process of a training this is, and how one's error reaches the first."""

import os
import subprocess
import sys
import tempfile

import pytest

torch = pytest.importorskip("torch")

from strokect.core.errors import GeometryError, SettingsError, StrokeCTError  # noqa: E402
from strokect.learn.train import Machine  # noqa: E402
from strokect.training_processes import _Child, others, rank, same_threads  # noqa: E402

PLACE = ("RANK", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("machine", "given", "expected"),
    [
        (Machine(), {}, 0),
        (Machine(), {"LOCAL_RANK": "1"}, 0),
        (Machine(2), {}, 0),
        (Machine(2), {"LOCAL_RANK": "1"}, 1),
        (Machine(4, 3), {"LOCAL_RANK": "1", "NODE_RANK": "2"}, 9),
        (Machine(4, 3), {"NODE_RANK": "2"}, 8),
        (Machine(4, 3), {"RANK": "5", "LOCAL_RANK": "1"}, 5),
    ],
)
def test_rank(monkeypatch, machine, given, expected):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert rank(machine) == expected


def ended(code: str) -> _Child:
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen([sys.executable, "-c", code], stderr=said)
    process.wait()
    return _Child(process, said)


@pytest.mark.slow
def test_an_error_keeps_its_kind_and_text():
    child = ended(
        "from strokect.training_processes import told\n"
        "from strokect.core.errors import GeometryError\n"
        "print('some library complains', file=__import__('sys').stderr)\n"
        "raise SystemExit(told(GeometryError('two grids', 'a.nii.gz', 'Resample')))"
    )
    found = child.error()
    assert type(found) is GeometryError
    assert str(found) == str(GeometryError("two grids", "a.nii.gz", "Resample"))
    assert child.process.returncode == 2


def test_other_ends():
    assert ended("pass").error() is None
    killed = ended("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").error()
    assert "signal 9" in str(killed)
    assert "--resume" in str(killed)
    crashed = ended("raise RuntimeError('no such device')").error()
    assert type(crashed) is StrokeCTError
    assert "no such device" in str(crashed)
    assert "\n" not in str(crashed)


def test_one_device_starts_nothing():
    before = dict(os.environ)
    with others(Machine(), {}):
        assert dict(os.environ) == before


def test_several_machines_must_know_where_they_meet(monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    with (
        pytest.raises(SettingsError, match="MASTER_ADDR, MASTER_PORT not set"),
        others(Machine(1, 2), {}),
    ):
        pass
    assert "LOCAL_RANK" not in os.environ


def test_same_threads():
    before = torch.get_num_threads()
    with same_threads():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before
