"""What a training leaves as it found it: loggers, signals, process groups; and plain errors."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from strokect.core.errors import StrokeCTError


@contextmanager
def process_group() -> Iterator[None]:
    """Processes that train together part afterwards, so that a next training can meet anew.

    Not after an error: while others still wait for this process, parting may wait for them.
    """
    yield
    part()


def part() -> None:
    """Leave the process group, where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning talks to programmers: hints, devices found, what it would do otherwise."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C stays KeyboardInterrupt; Lightning leaves the program, and SIGINT ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def plain_errors() -> Iterator[None]:
    """An error of a worker process comes wrapped in its traceback, whose last line is ours."""
    try:
        yield
    except StrokeCTError as error:
        if "\n" not in str(error):
            raise
        last = str(error).strip().splitlines()[-1]
        raise type(error)(last.partition(": ")[2]) from None
