"""One training step, one validation, one optimiser: what Lightning runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import lightning.pytorch as pl
import torch
from torch import nn

from strokect.core.errors import SettingsError
from strokect.learn.constraints import limit_norms, shrink
from strokect.learn.data import Batch, Needs
from strokect.learn.predict import Tiling, predict_volume, seeing


@dataclass(frozen=True)
class OptimizerOptions:
    """lr, weight_decay, momentum : as in torch. schedule : "cosine" falls to ``lr_min`` over the
    whole training; "plateau" multiplies by ``factor`` each time ``patience`` validations in a row
    were no better, down to ``lr_min``. warmup : epochs of linear rise. clip : greatest norm of the
    gradient, None for any. l1, l2 : penalty on the sum of sizes and of squares of trained weights,
    beside the loss. max_norm : greatest norm of the weights of one output channel, None for any."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: Literal["none", "cosine", "plateau"] = "cosine"
    warmup: float = 0.0
    lr_min: float = 0.0
    factor: float = 0.1
    patience: int = 10
    clip: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        for good, name, fix in (
            (0 < self.lr < math.inf, "lr", "a number above 0"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "0 or more"),
            (0 <= self.momentum < 1, "momentum", "0 to below 1"),
            (0 <= self.warmup < math.inf, "warmup", "a number of epochs, 0 or more"),
            (0 <= self.lr_min <= self.lr, "lr_min", "0 to lr"),
            (0 < self.factor < 1, "factor", "a number between 0 and 1"),
            (self.patience >= 1, "patience", "1 or more"),
            (self.clip is None or 0 < self.clip < math.inf, "clip", "a number above 0, or null"),
            (0 <= self.l1 < math.inf, "l1", "0 or more"),
            (0 <= self.l2 < math.inf, "l2", "0 or more"),
            (
                self.max_norm is None or 0 < self.max_norm < math.inf,
                "max_norm",
                "a number above 0, or null",
            ),
        ):
            if not good:
                raise SettingsError(
                    f"{name} = {getattr(self, name)}", f"optimizer.{name}", f"Give {fix}"
                )


class Loss(Protocol):
    """(logits (B, K, Z, Y, X), labels (B, Z, Y, X), weight (B, Z, Y, X)) to a scalar."""

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor: ...


class SegmentationModule(pl.LightningModule):
    """A network, its loss and its optimiser.

    network : (B, C, T, Z, Y, X) and, where samples have them, clinical values (B, F) to logits
    (B, K, Z', Y, X). lesions : name and number of the
    classes that choose the best model. epochs : of the whole training, for the schedule.
    Logs ``train_loss``, ``val_loss``, ``val_dice`` and ``val_dice_<name>``: 2 |A and B| / (|A| +
    |B|) over the voxels of all validation patients together, so that false lesions count.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        lesions: Mapping[str, int],
        needs: Needs,
        optimizer: OptimizerOptions,
        tiling: Tiling,
        epochs: int,
        seed: int,
    ):
        super().__init__()
        self.network, self.loss = network, loss
        self._lesions, self._needs, self._optimizer = dict(lesions), needs, optimizer
        self._tiling, self._epochs, self._seed = tiling, epochs, seed
        self._sums = self._nothing()
        self._plateau = Plateau()

    @property
    def clip(self) -> float | None:
        """Greatest norm of the gradient."""
        return self._optimizer.clip

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout and learning rate of a step are the same whether or not the training was broken
        off before it."""
        torch.manual_seed(hash_of(self._seed, self.current_epoch, batch_idx, self.global_rank))
        options = self._optimizer
        steps = max(1, self.trainer.num_training_batches)
        scale = lr_scale(self.current_epoch + batch_idx / steps, self._epochs, options)
        lowered = max(options.factor**self._plateau.falls, options.lr_min / options.lr)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = options.lr * scale * lowered

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        inputs = (batch.image, batch.clinical) if batch.clinical.numel() else (batch.image,)
        loss = self.loss(self.network(*inputs), batch.label, batch.weight)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, prog_bar=True,
                 batch_size=len(batch.image))  # fmt: skip
        return torch.as_tensor(loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        options = self._optimizer
        if options.l1 or options.l2:
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            shrink(self.network, options.l1, options.l2, lr)
        if options.max_norm is not None:
            limit_norms(self.network, options.max_norm)

    def on_validation_epoch_start(self) -> None:
        self._sums = self._nothing()

    def _nothing(self) -> torch.Tensor:
        """Per lesion class 2 |A and B| and |A| + |B|; in the last row the losses, their number."""
        return torch.zeros(len(self._lesions) + 1, 2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image, label, weight = batch.image[0], batch.label[0], batch.weight[0]
        if not weight.any():  # see ``train._Uncounted``
            return
        network = seeing(self.network, batch.clinical[0])
        chance = predict_volume(network, image, self._needs, self._tiling)
        loss = self.loss(torch.log(chance[None] + 1e-7), label[None], weight[None])
        self._sums[-1] += torch.tensor([float(loss), 1.0], dtype=torch.float64)
        found = chance.argmax(dim=0)
        for row, number in enumerate(self._lesions.values()):
            # What lies outside the brain is never called a lesion, but a lesion there is missed.
            a, b = (found == number) & (weight > 0), label == number
            self._sums[row, 0] += 2 * (a & b).sum().cpu()
            self._sums[row, 1] += (a.sum() + b.sum()).cpu()

    def on_validation_epoch_end(self) -> None:
        # Sums, not means: a process may have more scans than another, or none.
        total = torch.as_tensor(self.all_gather(self._sums.to(self.device)))
        total = total.reshape(-1, *self._sums.shape).sum(dim=0)
        self.log("val_loss", total[-1, 0] / total[-1, 1])
        both, sizes = total[:-1].unbind(dim=1)
        dice = torch.where(sizes > 0, both / sizes.clamp(min=1), torch.ones_like(sizes))
        for name, value in zip(self._lesions, dice, strict=True):
            self.log(f"val_dice_{name}", value)
        self.log("val_dice", dice.mean(), prog_bar=True)
        if self._optimizer.schedule == "plateau":
            self._plateau = self._plateau.after(float(dice.mean()), self._optimizer.patience)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Not Lightning's own schedule: that one is stepped after the last checkpoint was written.
        checkpoint["plateau"] = asdict(self._plateau)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._plateau = Plateau(**checkpoint["plateau"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options = self._optimizer
        weights = [p for p in self.network.parameters() if p.requires_grad]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        more = {"momentum": options.momentum} if options.name == "sgd" else {}
        return kind[options.name](weights, lr=options.lr, weight_decay=options.weight_decay, **more)


@dataclass(frozen=True)
class Plateau:
    """How often the learning rate fell. best : score so far. waited : validations since."""

    best: float = -math.inf
    waited: int = 0
    falls: int = 0

    def after(self, score: float, patience: int) -> Plateau:
        """The state after one more validation; higher is better, by 1e-4 at least."""
        if score > self.best + 1e-4:
            return Plateau(score, 0, self.falls)
        if self.waited + 1 < patience:
            return Plateau(self.best, self.waited + 1, self.falls)
        return Plateau(self.best, 0, self.falls + 1)


def lr_scale(epoch: float, epochs: int, options: OptimizerOptions) -> float:
    """What the learning rate is multiplied by after ``epoch`` epochs, a fraction too."""
    if epoch < options.warmup:
        return max(epoch, 0.02 * options.warmup) / options.warmup
    if options.schedule != "cosine":
        return 1.0
    done = (epoch - options.warmup) / max(epochs - options.warmup, 1e-9)
    low = options.lr_min / options.lr
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def hash_of(*numbers: int) -> int:
    """One seed of several numbers, spread well."""
    out = 0
    for number in numbers:
        out = (out * 1_000_003 + number + 0x9E3779B9) % (2**63)
    return out
