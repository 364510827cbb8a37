"""Progress of long work on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt, which Typer swallows without a word.

    number : of the signal. advice : how to go on; a command may say more.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number, self.advice = number, "Run the same command again"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress per stage on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    columns = (
        TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    # What is printed meanwhile stands above the bar, and in the file where it goes to one.
    console, shown = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, redirect_stdout=shown) as bar:
        tasks: dict[str, Any] = {}

        def listen(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield listen
