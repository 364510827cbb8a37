"""The further processes of a training on several devices: started, watched, ended.

Each runs ``CHILD`` with the request of the training on standard input and says nothing; an error of
one of them is raised, or said, by the first process, which alone prints and writes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import torch

from strokect.core import errors
from strokect.core.errors import SettingsError, StrokeCTError
from strokect.learn.surroundings import part
from strokect.learn.train import Machine

CHILD = "from strokect.training import join; join()"
#: What tells a process which one it is; Lightning reads it.
_PLACE = ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE")
#: How long a process may take to end by itself after another one failed.
_GRACE_S = 20.0


def rank(machine: Machine) -> int:
    """Number of this process among all of a training; 0 prints and writes."""
    given = os.environ
    if "RANK" in given:  # torchrun
        return int(given["RANK"])
    node = int(given.get("NODE_RANK", "0")) if machine.nodes > 1 else 0
    local = int(given.get("LOCAL_RANK", "0")) if machine.world > 1 else 0
    return node * machine.devices + local


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def error(self) -> StrokeCTError | None:
        """What it failed of, None where it did not fail."""
        code = self.process.poll()
        if not code:
            return None
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").splitlines() or [""]
        try:
            kind, text = json.loads(lines[-1])
        except ValueError:
            why = f"signal {-code}" if code < 0 else lines[-1][:200]
            return StrokeCTError(
                f"a process of the training ended ({why})", fix="Go on with --resume"
            )
        found: StrokeCTError = getattr(errors, kind, StrokeCTError)(text)
        return found


@contextmanager
def others(machine: Machine, request: Mapping[str, Any]) -> Iterator[None]:
    """This machine's other processes, at work until the block ends.

    request : JSON values for ``CHILD``. Nothing is started for one device, nor where this process
    is itself one of several. Raises the error of a process that failed.
    """
    if machine.world == 1 or "LOCAL_RANK" in os.environ:
        yield
        return
    before, threads = dict(os.environ), torch.get_num_threads()
    os.environ.update(_meeting_place(machine), LOCAL_RANK="0")
    if "OMP_NUM_THREADS" not in os.environ:
        share = max(1, (os.cpu_count() or 1) // machine.devices)
        os.environ["OMP_NUM_THREADS"] = str(share)
        torch.set_num_threads(share)
    children: list[_Child] = []
    done = threading.Event()
    try:
        for local in range(1, machine.devices):
            children.append(_start(local, request))
        threading.Thread(target=_watch, args=(children, done), daemon=True).start()
        try:
            yield
        except StrokeCTError:
            raise
        except Exception:
            found = _first_error(children)
            if found is None:
                raise
            raise found from None
    finally:
        done.set()
        _end(children)
        part()  # only now: they can wait for this process no more
        torch.set_num_threads(threads)
        for name in (*_PLACE, "OMP_NUM_THREADS"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


@contextmanager
def same_threads() -> Iterator[None]:
    """Leave torch its number of threads: what numba runs in parallel changes it for the whole
    process, and with it the rounding of all that torch does later."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def told(error: Exception) -> int:
    """Leave an error on standard error for the first process; returns the exit code."""
    known = isinstance(error, StrokeCTError)
    kind, text = type(error).__name__, " ".join(str(error).split())
    sys.stderr.write("\n" + json.dumps([kind, text if known else f"{kind}: {text}"]) + "\n")
    return error.exit_code if isinstance(error, StrokeCTError) else 1


def _meeting_place(machine: Machine) -> dict[str, str]:
    if machine.nodes > 1:
        missing = [n for n in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if n not in os.environ]
        if missing:
            raise SettingsError(
                f"{machine.nodes} machines, and {', '.join(missing)} not set",
                "--nodes",
                "Set address and port of the first machine, and the number of this one from 0",
            )
        return {"WORLD_SIZE": str(machine.world)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(machine.world)}


def _start(local: int, request: Mapping[str, Any]) -> _Child:
    said = tempfile.TemporaryFile()  # noqa: SIM115, closed by _end
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, "LOCAL_RANK": str(local)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
    )
    if process.stdin is not None:
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
    return _Child(process, said)


def _first_error(children: Sequence[_Child]) -> StrokeCTError | None:
    """Of the processes that failed, once one had time to."""
    until = time.monotonic() + _GRACE_S
    while time.monotonic() < until:
        for child in children:
            if (found := child.error()) is not None:
                return found
        time.sleep(0.1)
    return None


def _watch(children: Sequence[_Child], done: threading.Event) -> None:
    """GPUs wait for a process that failed for ever: say its error, and end."""
    while not done.wait(1.0):
        failed = next((e for child in children if (e := child.error()) is not None), None)
        if failed is not None and not done.wait(_GRACE_S):
            sys.stderr.write(f"strokect: {failed}\n")
            sys.stderr.flush()
            _end(children)
            os._exit(failed.exit_code)


def _end(children: Sequence[_Child]) -> None:
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(5.0)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.said.close()
