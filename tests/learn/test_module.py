"""Learning rates, the score that chooses a model, and what a checkpoint keeps of them."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from strokect.core.errors import SettingsError
from strokect.learn.augment import AugmentOptions
from strokect.learn.cache import Example
from strokect.learn.data import Batch, Needs, SlabDataset, SlabOptions, VolumeDataset
from strokect.learn.losses import LossOptions, cross_entropy
from strokect.learn.module import (
    OptimizerOptions,
    Plateau,
    SegmentationModule,
    hash_of,
    lr_scale,
)
from strokect.learn.predict import Tiling
from strokect.learn.train import TrainOptions, fit


def test_cosine_starts_high_ends_low_and_never_rises():
    options = OptimizerOptions(lr=0.1, schedule="cosine", lr_min=0.001)
    scales = [lr_scale(e / 10, 20, options) for e in range(201)]
    assert scales[0] == 1
    assert scales[100] == pytest.approx((1 + 0.01) / 2)
    assert scales[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(scales))
    assert lr_scale(25, 20, options) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", ["none", "cosine", "plateau"])
def test_warmup_rises_in_a_line_from_above_nothing(schedule):
    options = OptimizerOptions(schedule=schedule, warmup=4.0)
    assert lr_scale(0, 20, options) == pytest.approx(0.02)
    assert [lr_scale(e, 20, options) for e in (1, 2, 3)] == pytest.approx([0.25, 0.5, 0.75])
    assert lr_scale(4, 20, options) == 1
    assert lr_scale(3.999, 20, options) == pytest.approx(1, abs=1e-3)
    late = lr_scale(12, 20, options)
    assert late == pytest.approx(0.5 if schedule == "cosine" else 1.0)


def test_warmup_as_long_as_the_training_divides_by_nothing():
    options = OptimizerOptions(schedule="cosine", warmup=5.0)
    assert lr_scale(4.5, 5, options) == pytest.approx(0.9)
    assert 0 <= lr_scale(5, 5, options) <= 1


def test_plateau_falls_after_patience_validations_that_are_no_better():
    plateau, falls = Plateau(), []
    for score in (0.1, 0.3, 0.3, 0.2, 0.30005, 0.4, 0.1, 0.1, 0.1, 0.1):
        plateau = plateau.after(score, 3)
        falls.append(plateau.falls)
    assert falls == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert plateau.best == 0.4


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"warmup": -1.0}, "warmup"),
        ({"lr_min": 1.0}, "lr_min"),
        ({"factor": 1.0}, "factor"),
        ({"patience": 0}, "patience"),
        ({"clip": 0.0}, "clip"),
        ({"l1": -1e-6}, "l1"),
        ({"l2": float("inf")}, "l2"),
        ({"max_norm": 0.0}, "max_norm"),
    ],
)
def test_impossible_options_are_refused_by_name(wrong, name):
    with pytest.raises(SettingsError, match=rf"{name} = .*optimizer\.{name}"):
        OptimizerOptions(**wrong)


class _Given(nn.Module):
    """Gives back the class that the image holds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        hot = nn.functional.one_hot(x[:, 0, 0].long(), 4).movedim(-1, 1)
        return 20.0 * hot * self.weight


def _module(**optimizer):
    return SegmentationModule(
        _Given(),
        cross_entropy(LossOptions(), 4),
        {"penumbra": 2, "core": 3},
        Needs(),
        OptimizerOptions(**optimizer),
        Tiling(),
        epochs=10,
        seed=0,
    )


def _validated(module, scans):
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module.all_gather = lambda x: x
    module.on_validation_epoch_start()
    with torch.no_grad():
        for n, (found, label, weight) in enumerate(scans):
            image = found.float()[None, None, None]  # (B, C, T, Z, Y, X)
            module.validation_step(Batch(image, label[None], weight[None], torch.zeros(1, 0)), n)
        module.on_validation_epoch_end()
    return logged


def _row(*values):
    return torch.tensor(values)[None, None]  # (Z, Y, X)


def test_dice_pools_the_voxels_of_all_patients():
    everywhere = torch.ones(1, 1, 6)
    logged = _validated(
        _module(),
        [
            # penumbra: found 2, true 3, both 2; core: found 1, true 1, both 0
            (_row(2, 2, 0, 3, 1, 1), _row(2, 2, 2, 1, 3, 1), everywhere),
            # a patient without a lesion: false penumbra counts
            (_row(1, 2, 2, 1, 1, 1), _row(1, 1, 1, 1, 1, 1), everywhere),
        ],
    )
    assert logged["val_dice_penumbra"] == pytest.approx(2 * 2 / (4 + 3))
    assert logged["val_dice_core"] == 0
    assert logged["val_dice"] == pytest.approx((4 / 7 + 0) / 2)


def test_lesions_outside_the_brain_are_not_found_but_missed():
    logged = _validated(
        _module(),
        [(_row(2, 2, 3, 3, 1, 1), _row(2, 2, 2, 1, 1, 1), torch.tensor([[[1.0, 0, 0, 0, 1, 1]]]))],
    )
    assert logged["val_dice_penumbra"] == pytest.approx(2 * 1 / (1 + 3))
    assert logged["val_dice_core"] == 1  # neither there nor kept


def test_a_stand_in_without_weight_has_no_say():
    scan = (_row(2, 2, 0, 3, 1, 1), _row(2, 2, 2, 1, 3, 1), torch.ones(1, 1, 6))
    stand_in = (*scan[:2], torch.zeros(1, 1, 6))
    assert _validated(_module(), [scan, stand_in]) == _validated(_module(), [scan])


def test_validation_loss_is_that_of_the_network():
    module = _module()
    found, label = _row(2, 2, 0, 3, 1, 1), _row(2, 2, 2, 1, 3, 1)
    weight = torch.tensor([[[1.0, 1, 1, 0, 1, 1]]])
    logged = _validated(module, [(found, label, weight), (label, label, weight)])
    losses = []
    for shown in (found, label):
        logits = module.network(shown.float()[None, None, None])
        # Chances below 1e-7 count as 1e-7.
        logits = torch.log(logits.softmax(1) + 1e-7)
        losses.append(module.loss(logits, label[None], weight[None]).item())
    assert logged["val_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def _lr(module, epoch, batch, batches=4):
    optimizer = module.configure_optimizers()
    module._trainer = SimpleNamespace(
        num_training_batches=batches, optimizers=[optimizer], current_epoch=epoch, global_rank=0
    )
    module.on_train_batch_start(None, batch)
    return optimizer.param_groups[0]["lr"]


def test_the_rate_of_a_step_follows_from_how_far_the_training_is():
    module = _module(lr=0.1, schedule="cosine", warmup=2.0)
    assert _lr(module, 1, 2) == pytest.approx(0.1 * 0.75)
    assert _lr(module, 6, 0) == pytest.approx(0.1 * 0.5)


def test_a_plateau_lowers_the_rate_to_its_least_and_is_kept_in_the_checkpoint():
    def module():
        return _module(lr=0.1, schedule="plateau", factor=0.1, patience=2, lr_min=0.0005, warmup=2)

    one, scan = module(), [(_row(1, 1), _row(2, 3), torch.ones(1, 1, 2))]
    rates = []
    for epoch in range(8):
        rates.append(_lr(one, epoch, 3))
        _validated(one, scan)
    expected = [0.0375, 0.0875, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0005]
    assert rates == pytest.approx(expected)
    checkpoint = {}
    one.on_save_checkpoint(checkpoint)
    other = module()
    other.on_load_checkpoint(checkpoint)
    assert _lr(other, 8, 0) == _lr(one, 8, 0) == pytest.approx(0.0005)


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimisers(name, kind):
    module = _module(name=name, lr=0.3, weight_decay=0.1, momentum=0.7)
    group = module.configure_optimizers().param_groups[0]
    assert type(module.configure_optimizers()).__name__ == kind
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.1)
    assert group.get("momentum", 0.7) == 0.7


def test_seeds_of_steps_differ():
    seeds = {
        hash_of(s, e, b, r)
        for s in range(3) for e in range(20) for b in range(20) for r in range(2)
    }  # fmt: skip
    assert len(seeds) == 3 * 20 * 20 * 2
    assert all(0 <= s < 2**63 for s in seeds)


class _Dense(nn.Module):
    """Two layers on each voxel, the first of them frozen where that is asked for."""

    def __init__(self, frozen=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 4, 1).requires_grad_(not frozen)
        self.last = nn.Conv3d(4, 3, 1)

    def forward(self, x, clinical=None):
        if clinical is not None:
            x = x + clinical[:, :1, None, None, None, None]
        return self.last(self.first(x[:, :, 0]).relu())


def _fitted(folder, network=None, epochs=2, cases=2, clinical=(), **optimizer):
    """The network after a training of few steps, by plain steepest descent; one a case."""
    network = _Dense() if network is None else network
    labels = np.random.default_rng(0).integers(0, 3, (2, 4, 4)).astype(np.uint8)
    image = np.random.default_rng(1).normal(size=(1, 1, 2, 4, 4)).astype(np.float32)
    scores = np.array(clinical, np.float32)
    scans = [Example(image, labels, np.ones(labels.shape, bool), scores)] * cases
    options = {"name": "sgd", "momentum": 0.0, "schedule": "none", "lr": 0.1, **optimizer}
    module = SegmentationModule(
        network, cross_entropy(LossOptions(), 3), {"core": 2}, Needs(),
        OptimizerOptions(**options), Tiling(), epochs, 0,
    )  # fmt: skip
    train = SlabDataset(scans.__getitem__, cases, Needs(), SlabOptions(), AugmentOptions(), 0)
    val = VolumeDataset(scans.__getitem__, cases)
    fit(module, train, val, TrainOptions(epochs=epochs), folder)
    return network


def test_only_what_is_trained_is_given_to_the_optimiser():
    module = _module()
    module.network = _Dense(frozen=True)
    (group,) = module.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in module.network.last.parameters()}


def test_frozen_layers_stay_through_penalty_limit_and_decay(tmp_path):
    before, network = _Dense().state_dict(), _Dense(frozen=True)
    _fitted(tmp_path, network, l1=0.1, l2=0.1, max_norm=0.2, weight_decay=0.1)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("first"), name


def test_penalties_pull_as_by_hand(tmp_path):
    """A step of the loss, and then one of the penalties, at the weights alone."""
    plain = _fitted(tmp_path / "plain", epochs=1, cases=1).state_dict()
    pulled = _fitted(tmp_path / "pulled", epochs=1, cases=1, l1=0.2, l2=0.3).state_dict()
    for name, value in plain.items():
        smaller = value * (1 - 2 * 0.1 * 0.3)
        smaller = smaller.sign() * (smaller.abs() - 0.1 * 0.2).clamp(min=0)
        expected = smaller if name.endswith("weight") else value
        torch.testing.assert_close(pulled[name], expected)


def test_a_penalty_leaves_what_the_data_ask_little_of(tmp_path):
    """In the loss, Adam would take the smallest penalty for a full step and end it."""
    free = _fitted(tmp_path / "free", epochs=3, name="adam").state_dict()
    pulled = _fitted(tmp_path / "pulled", epochs=3, name="adam", l1=1e-6, l2=1e-5).state_dict()
    for name, value in free.items():
        torch.testing.assert_close(pulled[name], value, atol=1e-4, rtol=1e-3)


def test_norms_are_limited_after_every_step(tmp_path):
    free = _fitted(tmp_path / "free", epochs=1)
    limited = _fitted(tmp_path / "limited", epochs=1, max_norm=0.3)
    for layer in ("first", "last"):
        norms = [n.get_submodule(layer).weight.flatten(1).norm(dim=1) for n in (free, limited)]
        assert norms[0].max() > 0.31
        assert norms[1].max() <= 0.3 + 1e-6


def test_scores_reach_the_network_in_training_and_validation(tmp_path):
    asked = {True: [], False: []}

    class Asking(_Dense):
        def forward(self, x, clinical=None):
            asked[self.training].append(clinical.tolist())
            return super().forward(x, clinical)

    _fitted(tmp_path, Asking(), epochs=1, clinical=(0.5, 1.0))
    assert asked == {True: [[[0.5, 1.0]]] * 2, False: [[[0.5, 1.0]]] * 2}
