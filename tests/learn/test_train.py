"""The training loop: what it leaves behind, and that a broken one goes on to the same end."""

import csv
import logging
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from strokect.core.errors import GeometryError, OutputExistsError, ScanError, SettingsError
from strokect.learn.augment import AugmentOptions
from strokect.learn.cache import Example
from strokect.learn.checkpoint import SafeCheckpointIO, module_weights
from strokect.learn.data import Needs, SlabDataset, SlabOptions, VolumeDataset
from strokect.learn.losses import LossOptions, cross_entropy
from strokect.learn.module import OptimizerOptions, SegmentationModule
from strokect.learn.predict import Tiling
from strokect.learn.train import (
    Machine,
    TrainOptions,
    _Loaders,
    best_checkpoint,
    fit,
    last_checkpoint,
    log_file,
)

CASES = 5
NOISY = AugmentOptions(flip_x_p=0.5, flip_y_p=0.5, noise_p=0.7, contrast_p=0.5)
BUSY = {"lr": 0.02, "schedule": "cosine", "warmup": 1.5, "clip": 1.0}


class Tiny(nn.Module):
    """Time as channels, two convolutions, dropout, a norm with state."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(6),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv3d(6, 3, 1),
        )

    def forward(self, x):
        return self.body(x.flatten(1, 2))


def _cases(n=CASES, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        labels = np.zeros((2, 12, 12), np.uint8)
        y, x = rng.integers(0, 7, 2)
        labels[:, y : y + 5, x : x + 5] = 1
        labels[:, y + 1 : y + 3, x + 1 : x + 3] = 2
        image = rng.normal(size=(1, 4, 2, 12, 12)) + labels
        out.append(Example(image.astype(np.float16), labels, np.ones(labels.shape, bool)))
    return out


def _parts(optimizer=None, epochs=4, cases=None, seed=0):
    torch.manual_seed(seed)
    module = SegmentationModule(
        Tiny(),
        cross_entropy(LossOptions(), 3),
        {"penumbra": 1, "core": 2},
        Needs(),
        OptimizerOptions(**(BUSY if optimizer is None else optimizer)),
        Tiling(),
        epochs,
        seed,
    )
    torch.seed()  # what was drawn before has no say in the training
    if optimizer is STILL:
        module.network.body[1].momentum = 0.0
    cases = _cases() if cases is None else cases
    slab = SlabOptions(1, (8, 8), per_case=3, balance=(1, 1, 1))
    train = SlabDataset(cases.__getitem__, len(cases), Needs(), slab, NOISY, seed)
    return module, train, VolumeDataset(_cases(3, seed=9).__getitem__, 3)


class Killed(Exception):
    pass


def _kill_after(epoch):
    def on_epoch(done, epochs, metrics):
        if done == epoch:
            raise Killed

    return on_epoch


def _whole_and_broken(folder, options, optimizer=None, broken_after=(2,)):
    """The same training in one go, and killed after some epochs and resumed."""
    fit(*_parts(optimizer, options.epochs), options, folder / "whole")
    for epoch in broken_after:
        with pytest.raises(Killed):
            fit(
                *_parts(optimizer, options.epochs), options, folder / "broken", resume=True,
                on_epoch=_kill_after(epoch),
            )  # fmt: skip
    fit(*_parts(optimizer, options.epochs), options, folder / "broken", resume=True)
    return folder / "whole", folder / "broken"


def _rows(folder):
    with log_file(folder).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("seconds")
    return rows


def _same_state(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_state(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same_state(p, q) for p, q in zip(a, b, strict=True))
    return a == b


def _assert_same_end(whole, broken):
    for path in (best_checkpoint, last_checkpoint):
        one, other = (SafeCheckpointIO().load_checkpoint(path(f)) for f in (whole, broken))
        assert _same_state(one["state_dict"], other["state_dict"]), path
        for key in ("epoch", "global_step", "optimizer_states", "callbacks", "plateau"):
            assert _same_state(one.get(key), other.get(key)), (path, key)
    assert _rows(whole) == _rows(broken)


@pytest.mark.parametrize(
    ("options", "optimizer", "broken_after"),
    [
        (TrainOptions(epochs=4, batch_size=2, accumulate=3), BUSY, (2,)),
        (TrainOptions(epochs=4, batch_size=1), {"lr": 0.01, "name": "adamw"}, (1, 2, 3)),
        (
            TrainOptions(epochs=5, batch_size=2, patience=None),
            {"lr": 0.5, "name": "sgd", "schedule": "plateau", "patience": 1, "warmup": 1.0},
            (2, 4),
        ),
        (TrainOptions(epochs=5, batch_size=2, validate_every=2), BUSY, (1, 3)),
        (TrainOptions(epochs=3, batch_size=2, precision="bf16-mixed"), BUSY, (1,)),
    ],
)
def test_a_killed_training_goes_on_to_the_same_end(tmp_path, options, optimizer, broken_after):
    whole, broken = _whole_and_broken(tmp_path, options, optimizer, broken_after)
    _assert_same_end(whole, broken)
    assert [int(r["epoch"]) for r in _rows(broken)] == list(range(1, options.epochs + 1))


def test_a_training_killed_within_an_epoch_repeats_the_epoch(tmp_path):
    options = TrainOptions(epochs=3, batch_size=2)
    fit(*_parts(epochs=3), options, tmp_path / "whole")
    module, train, val = _parts(epochs=3)
    step, seen = module.training_step, []

    def dying(*batch):
        seen.append(batch)
        if len(seen) == 10:  # of 7 steps an epoch
            raise Killed
        return step(*batch)

    module.training_step = dying
    with pytest.raises(Killed):
        fit(module, train, val, options, tmp_path / "broken")
    fit(*_parts(epochs=3), options, tmp_path / "broken", resume=True)
    _assert_same_end(tmp_path / "whole", tmp_path / "broken")


def test_a_training_killed_in_its_first_epoch_starts_again(tmp_path):
    options = TrainOptions(epochs=2, batch_size=2)
    module, train, val = _parts(epochs=2)

    def dying(*batch):
        raise Killed

    module.training_step = dying
    with pytest.raises(Killed):
        fit(module, train, val, options, tmp_path / "broken")
    fit(*_parts(epochs=2), options, tmp_path / "broken")
    fit(*_parts(epochs=2), options, tmp_path / "whole")
    _assert_same_end(tmp_path / "whole", tmp_path / "broken")


#: So slow that val_dice does not change: the first epoch is the best, and patience runs out.
STILL = {"lr": 1e-12, "schedule": "none"}


@pytest.mark.parametrize("broken_after", [(1,), (2,), (1, 2, 3)])
def test_patience_is_kept_over_a_break(tmp_path, broken_after):
    options = TrainOptions(epochs=9, batch_size=5, patience=3)
    whole, broken = _whole_and_broken(tmp_path, options, STILL, broken_after)
    assert len(_rows(whole)) == 4
    _assert_same_end(whole, broken)


def test_a_finished_training_that_is_resumed_stays_as_it_is(tmp_path):
    for name, options in (
        ("stopped", TrainOptions(epochs=9, batch_size=5, patience=2)),
        ("done", TrainOptions(epochs=2, batch_size=5)),
    ):
        folder = tmp_path / name
        fit(*_parts(STILL, options.epochs), options, folder)
        before = {p: p(folder).read_bytes() for p in (best_checkpoint, last_checkpoint)}
        rows, said = _rows(folder), []
        found = fit(
            *_parts(STILL, options.epochs), options, folder, resume=True,
            on_epoch=lambda *a, said=said: said.append(a),
        )  # fmt: skip
        assert found.checkpoint == best_checkpoint(folder)
        assert {p: p(folder).read_bytes() for p in before} == before
        assert _rows(folder) == rows and not said


def test_more_patience_lets_a_stopped_training_go_on(tmp_path):
    fit(*_parts(STILL, 6), TrainOptions(epochs=6, batch_size=5, patience=2), tmp_path)
    assert len(_rows(tmp_path)) == 3
    longer = TrainOptions(epochs=6, batch_size=5, patience=4)
    fit(*_parts(STILL, 6), longer, tmp_path, resume=True)
    assert len(_rows(tmp_path)) == 5


def test_a_training_that_stands_there_is_not_overwritten(tmp_path):
    options = TrainOptions(epochs=1, batch_size=5)
    fit(*_parts(epochs=1), options, tmp_path)
    before = last_checkpoint(tmp_path).read_bytes()
    with pytest.raises(OutputExistsError, match="--resume"):
        fit(*_parts(epochs=1), options, tmp_path)
    assert last_checkpoint(tmp_path).read_bytes() == before


def test_it_learns_and_keeps_the_best_epoch_and_says_so(tmp_path):
    said = []
    options = TrainOptions(epochs=6, batch_size=3)
    folder = tmp_path / "new" / "run"
    fitted = fit(
        *_parts({"lr": 0.05, "schedule": "none"}, 6), options, folder,
        on_epoch=lambda *a: said.append(a),
    )  # fmt: skip
    rows = _rows(folder)
    assert [(done, epochs) for done, epochs, _ in said] == [(n, 6) for n in range(1, 7)]
    losses = [metrics["train_loss"] for *_, metrics in said]
    assert losses[-1] < 0.8 * losses[0]
    scores = [metrics["val_dice"] for *_, metrics in said]
    assert max(scores) > 0.3
    assert fitted.val_dice == max(scores)
    best = fitted.checkpoint
    checkpoint = SafeCheckpointIO().load_checkpoint(best)
    assert checkpoint["epoch"] == int(np.argmax(scores))
    assert set(module_weights(best, "network.")) == set(Tiny().state_dict())
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "val_dice", "val_dice_core", "val_dice_penumbra", "val_loss",
    ]  # fmt: skip
    for row, (*_, metrics) in zip(rows, said, strict=True):
        assert {k: float(row[k]) for k in metrics} == metrics
    events = list((folder / "logs" / "tensorboard").glob("events.out.tfevents*"))
    made = sorted(p.name for p in folder.rglob("*") if p.is_file() and p not in events)
    assert made == ["best.safetensors", "hparams.yaml", "last.safetensors", "metrics.csv"]
    assert events and all(e.stat().st_size > 100 for e in events)


def test_epochs_without_validation_show_no_earlier_score(tmp_path):
    options = TrainOptions(epochs=4, batch_size=5, validate_every=2)
    said = []
    fit(*_parts(), options, tmp_path, on_epoch=lambda *a: said.append(a))
    assert [("val_dice" in metrics) for *_, metrics in said] == [False, True, False, True]
    assert [bool(row["val_dice"]) for row in _rows(tmp_path)] == [False, True, False, True]


def test_gradients_of_several_steps_are_added_up(tmp_path):
    """Two steps of one sample are one step of two: a network without noise or batch statistics."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv3d(4, 3, 1)

        def forward(self, x):
            return self.body(x.flatten(1, 2))

    found = []
    for batch, accumulate in ((1, 2), (2, 1)):
        plain = {"name": "sgd", "lr": 0.1, "schedule": "none"}
        module, train, val = _parts(plain, 2, _cases(4))  # 12 samples: no step is left over
        torch.manual_seed(5)
        module.network = Plain()
        options = TrainOptions(epochs=2, batch_size=batch, accumulate=accumulate)
        fit(module, train, val, options, tmp_path / str(batch))
        found.append(module_weights(last_checkpoint(tmp_path / str(batch)), "network."))
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5)


def test_nothing_is_said_but_by_us_and_loggers_are_put_back(tmp_path, capfd, recwarn):
    levels = {n: logging.getLogger(n).level for n in ("lightning.pytorch", "lightning.fabric")}
    handler = signal.getsignal(signal.SIGINT)
    fit(*_parts(epochs=1), TrainOptions(epochs=1, batch_size=5), tmp_path)
    fit(*_parts(epochs=1), TrainOptions(epochs=1, batch_size=5), tmp_path, resume=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not list(recwarn)
    assert {n: logging.getLogger(n).level for n in levels} == levels
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_is_one_and_the_next_can_come(tmp_path):
    def interrupt(done, epochs, metrics):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(*_parts(), TrainOptions(epochs=4, batch_size=5), tmp_path, on_epoch=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_exit_of_the_caller_is_one(tmp_path):
    with pytest.raises(SystemExit) as left:
        fit(
            *_parts(), TrainOptions(epochs=4, batch_size=5), tmp_path,
            on_epoch=lambda *a: sys.exit(7),
        )  # fmt: skip
    assert left.value.code == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_is_one_line(tmp_path, workers):
    cases = [Example(c.image, None, c.brain) for c in _cases()]
    options = TrainOptions(epochs=1, batch_size=5, workers=workers)
    with pytest.raises(SettingsError) as error:
        fit(*_parts(cases=cases), options, tmp_path)
    assert str(error.value) == "a scan without labels cannot train. Give its truth"
    assert not last_checkpoint(tmp_path).exists()


def test_samples_of_several_sizes_are_told(tmp_path):
    module, _, val = _parts()
    cases = _cases()
    small = [Example(c.image[..., :8], c.labels[..., :8], c.brain[..., :8]) for c in cases[:2]]
    mixed = small + cases[2:]
    train = SlabDataset(mixed.__getitem__, 5, Needs(), SlabOptions(), NOISY, 0)
    with pytest.raises(GeometryError, match="different sizes"):
        fit(module, train, val, TrainOptions(batch_size=5), tmp_path)


def test_a_loss_that_is_no_number_stops_before_it_is_kept(tmp_path):
    options, wild = TrainOptions(epochs=3, batch_size=5), {"name": "sgd", "lr": 1e30}
    with pytest.raises(SettingsError, match=r"the loss is nan in epoch 1: optimizer.*lower lr"):
        fit(*_parts(wild), options, tmp_path)
    assert not last_checkpoint(tmp_path).exists()


def test_batches_that_cannot_be_made_are_told(tmp_path):
    with pytest.raises(SettingsError, match="15 samples do not fill a batch of 16"):
        fit(*_parts(), TrainOptions(batch_size=16), tmp_path)
    with pytest.raises(SettingsError, match="batch of 3 cannot be shared by 2 devices"):
        fit(*_parts(), TrainOptions(batch_size=3), tmp_path, machine=Machine(2))


def test_a_checkpoint_that_is_none_is_told(tmp_path):
    last_checkpoint(tmp_path).parent.mkdir()
    last_checkpoint(tmp_path).write_bytes(b"junk")
    with pytest.raises(ScanError, match="not a safetensors file"):
        fit(*_parts(), TrainOptions(batch_size=5), tmp_path, resume=True)


@pytest.mark.parametrize("scans", [1, 2, 3, 5])
def test_every_process_validates_and_every_scan_counts_once(scans):
    _, train, _ = _parts()
    val = VolumeDataset(_cases(scans).__getitem__, scans)
    counted = []
    for rank in range(3):
        data = _Loaders(train, val, TrainOptions(batch_size=3), Machine(3))
        data.trainer = SimpleNamespace(global_rank=rank)
        batches = list(data.val_dataloader())
        assert batches  # one without a scan would be waited for for ever
        counted += [b.image.sum().item() for b in batches if b.weight.any()]
    assert sorted(counted) == sorted(val[n].image.sum().item() for n in range(scans))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"validate_every": 0},
        {"patience": 0},
        {"workers": -1},
        {"seed": -1},
        {"epochs": 3, "validate_every": 4},
    ],
)
def test_impossible_trainings_are_refused(wrong):
    with pytest.raises(SettingsError, match="training"):
        TrainOptions(**wrong)
