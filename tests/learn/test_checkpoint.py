"""Checkpoints and weights without pickle."""

import json
import math
import os
import pickle
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from strokect.core.errors import OutputError, ScanError
from strokect.learn.checkpoint import (
    SafeCheckpointIO,
    load_weights,
    module_weights,
    write_tensors,
)

IO = SafeCheckpointIO()


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        # The order of a dict is kept, too.
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        alike = type(a) is type(b) and len(a) == len(b)
        return alike and all(_same(p, q) for p, q in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (math.isnan(a) and math.isnan(b)))


def test_every_kind_of_value_comes_back_as_it_was(tmp_path):
    shared = torch.arange(6.0)
    content = {
        "nested": {"a": [1, 2.5, None, True, "x"], "empty": [{}, [], ()]},
        3: {"int key": (1, (2, "two"), [shared[:3]])},
        "tensors": [shared, shared[2:], shared.reshape(2, 3).T, torch.tensor(4), torch.zeros(0)],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "whole": torch.tensor([2**60]),
        "floats": [1e-300, math.inf, -math.inf, math.nan, 0.1],
        "words": {"tensor": "0", "tuple": [], "dict": 1, "ü\n": '"'},
    }
    IO.save_checkpoint(content, tmp_path / "c.safetensors")
    assert _same(IO.load_checkpoint(tmp_path / "c.safetensors"), content)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


class _Tiny(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3, 2)

    def training_step(self, batch, index):
        return self.network(batch).square().mean()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 3), 2)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightning_with_its_optimiser(tmp_path):
    trainer = pl.Trainer(
        max_epochs=2, plugins=[IO], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = _Tiny()
    trainer.fit(module)
    path = tmp_path / "last.safetensors"
    trainer.save_checkpoint(path)
    found = IO.load_checkpoint(path)
    state = trainer.optimizers[0].state_dict()
    assert _same(found["optimizer_states"][0], state)
    assert list(state["state"]) == [0, 1]  # whole numbers, which JSON has no keys of
    assert _same(found["state_dict"], dict(module.state_dict()))
    assert found["epoch"] == trainer.current_epoch
    network = nn.Linear(3, 2)
    write_tensors(tmp_path / "w.safetensors", module_weights(path, "network."), {})
    load_weights(network, tmp_path / "w.safetensors")
    assert _same(network.state_dict(), module.network.state_dict())


class _Bomb:
    def __reduce__(self):
        return os.system, (f"touch {_Bomb.target}",)


def _content(kind):
    if kind == "pickle":
        return pickle.dumps({"state_dict": _Bomb()})
    return {"empty": b"", "junk": b"junk" * 50, "zip": b"PK\x03\x04" + bytes(100)}[kind]


@pytest.mark.parametrize("kind", ["pickle", "empty", "junk", "zip"])
def test_files_that_are_none_are_refused_and_never_run(tmp_path, kind):
    _Bomb.target = tmp_path / "boom"
    path = tmp_path / "weights.safetensors"
    path.write_bytes(_content(kind))
    for read in (
        IO.load_checkpoint,
        lambda p: load_weights(nn.Linear(3, 2), p),
        lambda p: module_weights(p, "network."),
    ):
        with pytest.raises(ScanError, match="not a safetensors file that strokect wrote") as error:
            read(path)
        assert "\n" not in str(error.value)
    assert not _Bomb.target.exists()


def test_a_torch_save_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "c.ckpt")
    with pytest.raises(ScanError, match="not a safetensors"):
        IO.load_checkpoint(tmp_path / "c.ckpt")


@pytest.mark.parametrize(
    "header",
    [
        None,
        {},
        {"tree": "{"},
        {"tree": "5"},
        {"tree": "[1]"},
        {"tree": '{"tensor": "9"}'},
        {"tree": '{"tensor": 0}'},
        {"tree": '{"dict": 3}'},
        {"tree": '{"dict": [["a"]]}'},
        {"tree": '{"dict": [[{"dict": []}, 1]]}'},
        {"tree": '{"tuple": 1}'},
        {"tree": '{"a": 1, "b": 2}'},
        {"tree": '{"dict": [["other", 1]]}'},
    ],
)
def test_safetensors_of_others_are_no_checkpoints(tmp_path, header):
    path = tmp_path / "c.safetensors"
    save_file({"0": torch.ones(2)}, path, header)
    with pytest.raises(ScanError, match="not a safetensors file that strokect wrote"):
        module_weights(path, "network.")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ScanError, match="no such file"):
        IO.load_checkpoint(tmp_path / "none")
    IO.remove_checkpoint(tmp_path / "none")


def test_weights_of_another_network_are_told_apart(tmp_path):
    path = tmp_path / "w.safetensors"
    small = nn.Sequential(nn.Linear(3, 2))
    for weights, words in (
        (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), r"0 parameters missing, 2 extra; 1.bias"),
        (nn.Sequential(nn.Linear(3, 2, bias=False)), r"1 parameters missing, 0 extra; 0.bias is"),
        (nn.Sequential(nn.Linear(4, 2)), r"0.weight is \(2, 4\), the settings need \(2, 3\)"),
    ):
        before = {k: v.clone() for k, v in small.state_dict().items()}
        write_tensors(path, dict(weights.state_dict()), {"format": "pt"})
        with pytest.raises(ScanError, match=words):
            load_weights(small, path)
        assert _same(before, dict(small.state_dict()))


def test_a_value_that_cannot_be_stored_is_told_and_nothing_is_left(tmp_path):
    with pytest.raises(OutputError, match="set"):
        IO.save_checkpoint({"a": {1, 2}}, tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_stood_there_is_kept_until_the_new_file_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    IO.save_checkpoint({"a": 1}, path)

    def broken(file, content):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OutputError, match="No space left"):
        IO.save_checkpoint({"a": 2}, path)
    assert IO.load_checkpoint(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_where_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_tensors(tmp_path / "file" / "w.safetensors", {}, {})


def test_the_header_is_plain_json(tmp_path):
    path = tmp_path / "c.safetensors"
    IO.save_checkpoint({"a": torch.ones(2)}, path)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tree = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["tree"])
    assert tree == {"dict": [["a", {"tensor": "0"}]]}
