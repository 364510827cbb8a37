"""Every key of a setting file in words, made from the settings themselves so that it cannot drift.

The type, default and choices of a key are those of the schema; what it means is the text that the
docstring of its class gives it, in the form "name : text. name2, name3 : text.".
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from strokect import catalog
from strokect.training_settings import TrainingSettings

_ABOUT = (
    "What each key of a setting file means; made by `strokect settings explain`. A key is written "
    "as section.key; [n] is one of a list. null is nothing, or the default. What is left out has "
    "its default. Older setting files: `strokect settings upgrade OLD.json`."
)
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false",
          type(None): "null", dict: "object", Any: "anything"}  # fmt: skip
#: What goes before " : " in a docstring: one name or several.
_NAMES = re.compile(r"(?<![\w.`])((?:\w+, )*\w+) : ")
#: Texts for keys whose class says too little by itself.
_PLAIN = {
    "training.epochs": "how often the training goes through all scans; of each stage",
    "training.seed": "of the random choices",
    "optimizer.name": "of the optimiser",
    "augment.scale": "see affine_p",
    "data.layout_options.classes": "numbers of classes for which the truth suffices",
    "data.layout_options.options": "what the images do not say",
    "network.config.depth": "levels",
    "network.config.norm": 'normalisation: "batch", "instance" or, where offered, "group"',
}
#: Fields of a network's config that follow from the data and the input.
_DERIVED = {"classes", "channels", "time_points", "images", "clinical"}


def explained() -> dict[str, Any]:
    """The content of ``Setting_explained.json``.

    ``keys`` has every key of TrainingSettings; ``networks`` and ``layouts`` have those of
    ``network.config`` and of ``data.layout_options`` for each name of the catalog.
    """
    keys = dict(_keys(TrainingSettings, ""))
    keys["network.name"]["choices"] = list(catalog.NETWORKS)
    keys["loss.name"]["choices"] = list(catalog.LOSSES)
    keys["data.layout"]["choices"] = list(catalog.LAYOUTS)
    return {
        "about": _ABOUT,
        "keys": keys,
        "networks": {
            name: {
                key: said
                for key, said in _keys(catalog.load("networks", name).Config, "network.config.")
                if key.rpartition(".")[2] not in _DERIVED
            }
            for name in catalog.NETWORKS
        },
        "layouts": {
            name: dict(_keys(catalog.load("layouts", name), "data.layout_options."))
            for name in catalog.LAYOUTS
        },
    }


def as_text(content: Mapping[str, Any]) -> str:
    """The text of the file, one line for each key."""
    rooms = []
    for room, rows in content.items():
        if isinstance(rows, str):
            rooms.append(f"  {json.dumps(room)}: {json.dumps(rows, ensure_ascii=False)}")
        else:
            rooms.append(f"  {json.dumps(room)}: {_lines(rows, 2)}")
    return "{\n" + ",\n".join(rooms) + "\n}\n"


def _lines(rows: Mapping[str, Any], indent: int) -> str:
    inside = []
    for key, said in rows.items():
        shown = json.dumps(said, ensure_ascii=False) if "text" in said else _lines(said, indent + 2)
        inside.append(f"{' ' * (indent + 2)}{json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(inside) + "\n" + " " * indent + "}"


def texts_of(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of those it inherits from say of each field."""
    found: dict[str, str] = {}
    names = _field_names(kind)
    for base in reversed(kind.__mro__):
        text = " ".join(inspect.cleandoc(base.__dict__.get("__doc__") or "").split())
        text = re.split(r" Raises | \.\. \[", text)[0]
        starts = [m for m in _NAMES.finditer(text) if set(m[1].split(", ")) <= names]
        ends = [m.start() for m in starts[1:]] + [len(text)]
        for match, end in zip(starts, ends, strict=False):
            said = re.sub(r"\s*\[\d+\]_", "", text[match.end() : end]).strip()
            said = said if said.endswith("...") else said.rstrip(".;")
            entry = f"{match[1]}: {said}" if "," in match[1] else said
            found |= dict.fromkeys(match[1].split(", "), entry)
    # Ranges and the like are told in the text of what they belong to.
    for name in names - found.keys():
        told = rf"\b{name}\b" if "_" in name else f"``{name}``"
        inside = [(k, t) for k, t in found.items() if re.search(told, t)]
        if inside:
            found[name] = f"see {inside[0][0]}: {inside[0][1]}"
    return {name: text.replace("``", "") for name, text in found.items()}


def _keys(kind: type, room: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys of a settings class and of those in it, with what there is to say."""
    texts = texts_of(kind)
    hints = typing.get_type_hints(kind)
    for name, default in _fields(kind):
        key, hint = f"{room}{name}", hints[name]
        inner = [k for k in _parts(hint) if _is_settings(k)]
        said: dict[str, Any] = {"text": texts.get(name) or _PLAIN.get(key, "")}
        if not inner or len(inner) > 1 or _is_list(hint) or type(None) in _parts(hint):
            said |= {"type": _in_words(hint), "default": _plain(default)}
        choices = _choices(hint)
        if choices:
            said["choices"] = choices
        yield key, said
        for part in inner:
            below = f"{key}[n]." if _is_list(hint) else f"{key}."
            shown = f"{key} ({_kind_of(part)})." if len(inner) > 1 else below
            yield from _keys(part, shown)


def _fields(kind: type) -> Iterator[tuple[str, Any]]:
    """Names and defaults; a field that must be given has the default "(must be given)"."""
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield name, "(must be given)" if field.is_required() else field.get_default()
        return
    for item in dataclasses.fields(typing.cast(Any, kind)):
        default = item.default
        if default is dataclasses.MISSING:
            made = item.default_factory
            default = "(must be given)" if made is dataclasses.MISSING else made()
        if item.init:
            yield item.name, default


def _field_names(kind: type) -> set[str]:
    return {name for name, _ in _fields(kind)}


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)
    )


def _parts(hint: Any) -> list[Any]:
    """The types that a hint allows, those in lists too, without its annotations."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _parts(inside[0])
    if origin in (typing.Union, types.UnionType):
        return [p for i in inside for p in _parts(i)]
    if origin in (tuple, list):
        return [p for i in inside if i is not Ellipsis for p in _parts(i)]
    return [hint]


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) in (tuple, list)


def _choices(hint: Any) -> list[Any]:
    """What a Literal in a hint allows."""
    return [c for p in _parts(hint) if typing.get_origin(p) is typing.Literal
            for c in typing.get_args(p)]  # fmt: skip


def _kind_of(part: type) -> str:
    """What the field ``kind`` of one of several classes says."""
    return next(str(default) for name, default in _fields(part) if name == "kind")


def _in_words(hint: Any) -> str:
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _in_words(inside[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_in_words(i) for i in inside))
    if origin in (tuple, list) and inside[-1] is not Ellipsis:
        return f"list of {len(inside)}: {', '.join(_in_words(i) for i in inside)}"
    if origin in (tuple, list):
        return f"list of {_in_words(inside[0])}"
    if _is_settings(hint):
        return f"object of kind {_kind_of(hint)!r}" if "kind" in _field_names(hint) else "object"
    return "one of choices" if origin is typing.Literal else _WORDS.get(origin or hint, str(hint))


def _plain(value: Any) -> Any:
    """A default as JSON holds it."""
    if _is_settings(type(value)):
        return _plain({n: getattr(value, n) for n in _field_names(type(value)) if n == "kind"})
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
