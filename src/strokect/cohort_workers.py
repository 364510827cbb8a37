"""Tasks on dask.distributed: processes of this machine, or a scheduler somewhere.

Nothing is open to the network: on this machine scheduler and workers listen on 127.0.0.1 with
certificates made for this run, without dashboards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import psutil
from dask.system import CPU_COUNT
from distributed import Client, KilledWorker, LocalCluster, as_completed
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from strokect import __version__
from strokect.cohort_tasks import Failure, Outcome, Task
from strokect.core.errors import OutputError, SettingsError

#: Peak memory of an analysis, bytes: base + share x the scan as float32 (docs/results.md).
_BASE_BYTES, _SHARE = 500e6, 4.0
#: Memory left to everything else.
_SPARE = 0.1
#: A task whose worker is killed is given to one more.
_LIVES = 2
_QUIET = {
    "distributed.scheduler.allowed-failures": _LIVES - 1,
    "distributed.worker.memory.target": False,  # a worker holds one scan and nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.http.routes": [],  # its web server answers nothing
    "distributed.worker.http.routes": [],
    "distributed.logging.distributed": "critical",
}
_WAIT_FOR_WORKERS_S = 60


def run_all(
    work: Callable[[Task], Outcome], tasks: Sequence[Task], scheduler: str | None,
    workers: int | None,
) -> Iterator[Outcome]:  # fmt: skip
    """Outcomes as they come. A task that loses its worker twice becomes a failure.

    Raises SettingsError where the scheduler has no usable worker, OutputError where it is lost.
    """
    with dask.config.set(_QUIET):
        there = _local(tasks, workers) if scheduler is None else _remote(scheduler, tasks)
        with there as client:
            yield from _feed(client, work, tasks)


def _feed(
    client: Client, work: Callable[[Task], Outcome], tasks: Sequence[Task]
) -> Iterator[Outcome]:
    """Keep every worker busy with one study, no more: a killed worker takes none with it."""
    waiting = iter(tasks)
    names = {}
    slots = max(1, sum(client.nthreads().values()))

    def submit(task: Task) -> Any:
        future = client.submit(_quietly, work, task, pure=False)
        names[future.key] = task.study.name
        return future

    running = as_completed([submit(t) for t in islice(waiting, slots)], loop=client.loop)
    for future in running:
        name = names[future.key]
        if future.status == "finished":
            yield future.result()
        elif future.status == "error":
            yield Outcome(name, _lost(name, future.exception()))
        else:
            raise OutputError(
                "the connection to the scheduler is lost",
                fix="Run the same command again: it goes on where it was",
            )
        future.release()
        for task in islice(waiting, 1):
            running.add(submit(task))


def _quietly(work: Callable[[Task], Outcome], task: Task) -> Outcome:
    """The outcome of a task on a worker, whose process says nothing from now on."""
    logging.disable()
    warnings.simplefilter("ignore")
    return work(task)


def _lost(name: str, error: BaseException) -> Failure:
    if isinstance(error, KilledWorker):
        return Failure(
            name,
            "KilledWorker",
            f"its worker was killed {_LIVES} times, most often for want of memory",
            "Run again with fewer --workers or on a machine with more memory",
        )
    fix = "Check that all workers have this version of strokect"
    return Failure(name, type(error).__name__, "the worker could not run the study", fix)


@contextlib.contextmanager
def _local(tasks: Sequence[Task], workers: int | None) -> Iterator[Client]:
    """A cluster of processes on this machine."""
    free = min(psutil.virtual_memory().available, MEMORY_LIMIT) * (1 - _SPARE)
    count = worker_count(len(tasks), max(map(need_bytes, tasks)), free, workers)
    # One thread in BLAS, so that sums do not depend on how many workers there are.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    threads["NUMBA_NUM_THREADS"] = str(max(1, CPU_COUNT // count))
    with dask.config.set({"distributed.nanny.pre-spawn-environ": threads}):
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            worker_dashboard_address=None,
            memory_limit=int(free / count),
            security=Security.temporary(),
            silence_logs=60,  # above critical
        )
        client = Client(cluster, set_as_default=False)
        try:
            yield client
        except BaseException:
            _kill(cluster)  # what they were writing has no final name yet
            raise
        finally:
            client.close(timeout=5)
            cluster.close(timeout=5)


def _kill(cluster: LocalCluster) -> None:
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def _remote(address: str, tasks: Sequence[Task]) -> Iterator[Client]:
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            "no dask scheduler answers", address, "Start one with `dask scheduler`"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_WAIT_FOR_WORKERS_S)
        except TimeoutError as error:
            raise SettingsError(
                "the scheduler has no workers", address, "Start some with `dask worker`"
            ) from error
        _check_workers(client, address, tasks[0])
        yield client


def _check_workers(client: Client, address: str, task: Task) -> None:
    try:
        client.run_on_scheduler(_version)  # it unpacks the tasks, and would hang without strokect
        found = client.run(_what_a_worker_has, str(task.study.source), str(task.folder.parent))
    except Exception as error:  # whatever a worker without strokect raises
        raise SettingsError(
            f"the scheduler or its workers cannot run strokect ({type(error).__name__})",
            address,
            f"Install strokect {__version__} where both run",
        ) from error
    for version, sees in found.values():
        if version != __version__:
            raise SettingsError(
                f"a worker has strokect {version}, this is {__version__}",
                address,
                "Install the same version everywhere",
            )
        if not sees:
            raise SettingsError(
                "a worker does not see the scans or the output folder",
                address,
                "Use a file system that all machines share, under the same path",
            )


def _version() -> str:
    return __version__


def _what_a_worker_has(source: str, out: str) -> tuple[str, bool]:
    return __version__, Path(source).exists() and os.access(out, os.W_OK)


def worker_count(n_tasks: int, need: float, free: float, wanted: int | None) -> int:
    """How many processes: no more than tasks, cores (or ``wanted``), and what memory allows.

    need : bytes of the largest study. free : bytes there are. One at the least.
    """
    return max(1, min(n_tasks, wanted or CPU_COUNT, int(free // need)))


def need_bytes(task: Task) -> float:
    """What the analysis of a study is expected to take, from the size of its scan, bytes."""
    source = task.study.source
    try:
        if source.is_file():
            scan = 4.0 * float(_voxels(source))
        else:  # DICOM: two bytes a pixel; where compressed, half a byte
            scan = 2.0 * sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
    except Exception:  # an unreadable scan fails by name when its turn comes
        scan = 0.0
    return _BASE_BYTES + _SHARE * scan


def _voxels(path: Path) -> int:
    shape = nib.load(path).shape
    total = 1
    for n in shape:
        total *= int(n)
    return total
