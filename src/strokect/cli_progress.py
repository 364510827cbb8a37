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
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<16}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def listen(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield listen
