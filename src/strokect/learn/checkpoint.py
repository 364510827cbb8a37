"""Checkpoints and weights as safetensors: nothing that is loaded can run code.

A checkpoint of Lightning is a tree of tensors and plain values. The tensors go into the file, the
tree, with a mark in the place of each tensor, into its header. Weights for use are one safetensors
file with a JSON file of the settings that made them beside it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from strokect.core.errors import OutputError, ScanError

WEIGHTS_FILE = "weights.safetensors"


class SafeCheckpointIO(CheckpointIO):
    """Lightning's checkpoints without pickle; a file appears when it is whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        tensors: dict[str, torch.Tensor] = {}
        tree = _pack(checkpoint, tensors)
        write_tensors(Path(path), tensors, {"tree": json.dumps(tree)})

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        with _reading(Path(path)), safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["tree"])
            found = _unpack(tree, file)
            return {key: found[key] for key in found}

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises OutputError."""
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        partial.write_bytes(save(content, header))  # ``save_file`` lets nobody else read it
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {path.name} ({error})", path.parent) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the weights of ``path`` into ``network``.

    Raises ScanError where the file is none, or holds the weights of another network.
    """
    with _reading(path):
        found = load_file(path)
    wanted = network.state_dict()
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    if missing or extra:
        first = f"{sorted(missing)[0]} is missing" if missing else f"{sorted(extra)[0]} is extra"
        raise ScanError(
            f"the weights are of another network ({len(missing)} parameters missing, "
            f"{len(extra)} extra; {first})",
            path.name,
            "Give the weights and the settings that were written together",
        )
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise ScanError(
                f"the weights are of a network of another size ({name} is "
                f"{tuple(found[name].shape)}, the settings need {tuple(tensor.shape)})",
                path.name,
                "Give the weights and the settings that were written together",
            )
    network.load_state_dict(found)


def module_weights(checkpoint: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint below ``prefix``, by their names without it."""
    with _reading(checkpoint):
        state = SafeCheckpointIO().load_checkpoint(checkpoint)["state_dict"]
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


class _reading:
    """Turn what safetensors raises for a bad file into a ScanError."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        if not self._path.is_file():
            raise ScanError("no such file", self._path, "Check the path")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (SafetensorError, LookupError, TypeError, ValueError, OSError)):
            raise ScanError(
                "not a safetensors file that strokect wrote", self._path, "Train again, or copy it"
            ) from error


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True)  # no two may share memory
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list):
        return [_pack(v, tensors) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_pack(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise OutputError(f"a checkpoint holds a {type(value).__name__}, which cannot be stored")


def _unpack(tree: Any, file: Any) -> Any:
    if isinstance(tree, list):
        return [_unpack(v, file) for v in tree]
    if not isinstance(tree, dict):
        return tree
    ((mark, inner),) = tree.items()
    if mark == "tensor":
        return file.get_tensor(inner)
    if mark == "dict":
        return {_unpack(k, file): _unpack(v, file) for k, v in inner}
    return tuple(_unpack(v, file) for v in inner)
