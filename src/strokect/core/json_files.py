"""JSON files that people write: an error names file, line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from strokect.core.errors import SettingsError


def read_json_object(path: Path, example: str) -> dict[str, Any]:
    """The JSON object in a file of settings.

    example : what a right file holds, for the message.
    Raises SettingsError: for broken JSON with ``where`` as FILE:LINE:COLUMN, for a key that stands
    twice in one object, for NaN and Infinity, and for a file that is no object or cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows put a mark in front
    except OSError as error:
        raise SettingsError(
            f"cannot read the settings ({error.strerror})", path, "Check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError("the settings are not UTF-8 text", path, "Save them so") from error
    try:
        content = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"the settings are not JSON ({error.msg})",
            f"{path}:{error.lineno}:{error.colno}",
            _hint(text, error.pos) or f"Write e.g. {example}",
        ) from error
    except SettingsError as error:
        raise SettingsError(error.what, path, error.fix) from error
    except RecursionError as error:
        raise SettingsError("the settings are nested too deeply", path, "Flatten them") from error
    if not isinstance(content, dict):
        raise SettingsError("no JSON object", path, f"Write e.g. {example}")
    return content


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:  # JSON would take the last one without a word
            raise SettingsError(f"the key {key!r} stands twice in one object", None, "Keep one")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise SettingsError(f"{name} is no number in JSON", None, "Give a number, or null")


def _hint(text: str, at: int) -> str:
    """What is probably meant where JSON broke; "" where that is not clear."""
    before, after = text[:at].rstrip()[-1:], text[at:].lstrip()
    comma = after[1:].lstrip() if after[:1] == "," else after if before == "," else ""
    doubled = text[max(0, at - 2) : at] == '""' and after[:1] not in ("", *',]}:"')
    for found, hint in (
        (not after, "The file ends too early: close what is open, or copy it again"),
        (doubled, 'A quotation mark stands twice: write "..." where it has ""..."'),
        (comma[:1] in ("}", "]") and comma, "Remove the comma before the closing bracket"),
        (after.startswith(("//", "/*", "#")), "JSON has no comments: remove this one"),
        (after[:1] == "'", 'Write texts in "double quotation marks"'),
        (after.startswith(("True", "False", "None")), "Write true, false and null"),
        (
            after[:1] in ('"', "{", "[") and before not in ("", *"{[,:"),
            "A comma is missing before it",
        ),
    ):
        if found:
            return hint
    return ""
