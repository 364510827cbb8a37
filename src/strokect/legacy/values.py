"""Values of older setting files, read with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from strokect.core.errors import SettingsError
from strokect.legacy.keys import Note

_FLAGS = {"0": False, "1": True, "true": True, "false": False, "none": False, "": False}


@dataclass(frozen=True)
class Room:
    """One object of the file. key : its dotted key. notes : gets what became of what is read."""

    content: Mapping[str, Any]
    key: str = ""
    notes: list[Note] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.content

    def room(self, name: str) -> Room:
        """The object below ``name``; an empty one where there is none or it is switched off."""
        value = self.content.get(name)
        return Room(value if isinstance(value, Mapping) else {}, self.path(name), self.notes)

    def path(self, name: str) -> str:
        """The dotted key of ``name``."""
        return f"{self.key}.{name}" if self.key else name

    def flag(self, name: str, default: bool = False) -> bool:
        """0 or 1, true or false, also as text. Raises SettingsError for anything else."""
        value = self.content.get(name, default)
        found = _FLAGS.get(str(int(value) if value in (0, 1) else value).strip().lower())
        if found is None:
            raise self.error(name, "Give 0 or 1")
        return found

    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite number; None and "None" give ``default``. Raises SettingsError else."""
        value = self.content.get(name)
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return default
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self.error(name, "Give a number")
        return value

    def whole(self, name: str, default: int | None = None, least: int = 0) -> int | None:
        """A whole number of at least ``least``. Raises SettingsError for anything else."""
        value = self.number(name, default)
        if value is not None and (value != int(value) or value < least):
            raise self.error(name, f"Give a whole number, {least} or more")
        return None if value is None else int(value)

    def text(self, name: str) -> str:
        """A text without blanks about it; "" where there is none or it stands for one: "..."."""
        value = self.content.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, "Give a text")
        value = (value or "").strip()
        return "" if set(value) <= {"."} else value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; those that only stand for one ("...") are left out."""
        value = self.content.get(name)
        value = [value] if isinstance(value, str) else value or []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.error(name, 'Give a list of patients, or ["ALL"]')
        return tuple(v.strip() for v in value if not set(v.strip()) <= {"."})

    def moved(self, name: str, text: str) -> None:
        """Note where ``name`` went, if it is in the file."""
        self._note(name, Note(self.path(name), "moved", text))

    def dropped(self, name: str, text: str) -> None:
        """Note why ``name`` was dropped, if it is in the file."""
        self._note(name, Note(self.path(name), "dropped", text))

    def error(self, name: str, fix: str, what: str = "") -> SettingsError:
        """The refusal of a value, with its key. what : the reason, where the value says none."""
        value = self.content.get(name)
        found = f"{self.path(name)} is {value!r}"
        return SettingsError(f"{found}: {what}" if what else found, None, fix)

    def _note(self, name: str, note: Note) -> None:
        if name in self.content:
            self.notes.append(note)
