"""The training loop: Lightning's, with our checkpoints, logs and resuming."""

from __future__ import annotations

import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from strokect.core.errors import OutputExistsError, ScanError, SettingsError
from strokect.core.signals import uninterrupted
from strokect.core.types import Progress, no_progress
from strokect.learn.checkpoint import SafeCheckpointIO
from strokect.learn.data import EpochSampler, SlabDataset, VolumeDataset, collate
from strokect.learn.module import SegmentationModule
from strokect.learn.sample import Sample
from strokect.learn.surroundings import interruptible, plain_errors, process_group, quiet

Epoch = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainOptions:
    """How long and on what.

    batch_size : of one step over all devices together. accumulate : steps whose gradients are
    added up. patience : validations without a better ``val_dice`` before it stops, None for never.
    precision : as Lightning's. validate_every : epochs. workers : processes that prepare samples.
    """

    epochs: int = 100
    batch_size: int = 1
    accumulate: int = 1
    patience: int | None = 20
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    validate_every: int = 1
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        least = min(self.epochs, self.batch_size, self.accumulate, self.validate_every)
        if least < 1 or (self.patience is not None and self.patience < 1):
            raise SettingsError(
                f"a training of {self.epochs} epochs, batches of {self.batch_size}",
                "training",
                "Give epochs, batch_size, accumulate, validate_every and patience of 1 or more",
            )
        if self.workers < 0 or self.seed < 0:
            raise SettingsError(
                f"{self.workers} workers and seed {self.seed}", "training", "Give 0 or more"
            )
        if self.validate_every > self.epochs:
            raise SettingsError(
                f"a validation every {self.validate_every} epochs, of {self.epochs}",
                "training.validate_every",
                "Give at most the number of epochs",
            )


@dataclass(frozen=True)
class Machine:
    """Where it trains. devices : GPUs where there are some, else processes. nodes : machines."""

    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        return self.devices * self.nodes


@dataclass(frozen=True)
class Fitted:
    """checkpoint : of the best epoch. val_dice : its score."""

    checkpoint: Path
    val_dice: float


def best_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "best.safetensors"


def last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.safetensors"


def log_file(folder: Path) -> Path:
    """Figures of each epoch, as CSV."""
    return folder / "logs" / "metrics.csv"


def fit(
    module: SegmentationModule,
    train: SlabDataset,
    val: VolumeDataset,
    options: TrainOptions,
    folder: Path,
    *,
    machine: Machine = Machine(),
    resume: bool = False,
    on_epoch: Epoch = lambda epoch, epochs, metrics: None,
    progress: Progress = no_progress,
) -> Fitted:
    """Train and return the best epoch.

    folder : gets ``checkpoints/{best,last}.safetensors`` and ``logs/``, a table of the epochs and
    files for TensorBoard. With ``resume`` it goes on after the last whole epoch, to the same
    weights as without the break. on_epoch : called with the number of epochs done, of all, and the
    metrics of the last one. progress : called with the steps done and in all.
    Raises OutputExistsError where a training stands in ``folder`` and ``resume`` is not asked for,
    SettingsError for batches or devices that do not fit and for a loss that is no number any more.
    """
    last = last_checkpoint(folder)
    if last.exists() and not resume:
        raise OutputExistsError(
            "a training stands there", folder, "Add --resume to go on with it, or choose another"
        )
    if options.batch_size % machine.world:
        raise SettingsError(
            f"a batch of {options.batch_size} cannot be shared by {machine.world} devices",
            "training.batch_size",
            f"Give a multiple of {machine.world}",
        )
    _check_norm(module, machine)
    with quiet(), plain_errors():
        best = _Best(best_checkpoint(folder))
        callbacks = [*_callbacks(options, folder, on_epoch, best), _Steps(progress)]
        trainer = _trainer(module, options, folder, machine, callbacks)
        data = _Loaders(train, val, options, machine)
        with process_group(), interruptible():
            trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None)
    if not best_checkpoint(folder).exists():
        raise ScanError("the best checkpoint is gone", folder, "Train again in another folder")
    return Fitted(best_checkpoint(folder), best.score)


def _trainer(
    module: SegmentationModule,
    options: TrainOptions,
    folder: Path,
    machine: Machine,
    callbacks: list[Callback],
) -> pl.Trainer:
    gpus = torch.cuda.device_count()
    if 0 < gpus < machine.devices:
        raise SettingsError(f"{machine.devices} devices of {gpus} GPUs", "--devices", "Give fewer")
    return pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if machine.world > 1 else "auto",
        precision=options.precision,
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=module.clip,
        check_val_every_n_epoch=options.validate_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        sync_batchnorm=machine.world > 1 and torch.cuda.is_available(),
        plugins=[SafeCheckpointIO()],
        logger=_Board(folder, name="logs", version="tensorboard"),
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,  # ours, not one more of Lightning's
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _check_norm(module: SegmentationModule, machine: Machine) -> None:
    """Refuse batch normalisation that each process would do by itself: torch synchronises GPUs."""
    if machine.world == 1 or torch.cuda.is_available():
        return
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        raise SettingsError(
            f"batch normalisation on {machine.world} processes without GPUs",
            "network.config.norm",
            'Choose "group" or "instance", or one process',
        )


class _Loaders(pl.LightningDataModule):
    def __init__(
        self, train: SlabDataset, val: VolumeDataset, options: TrainOptions, machine: Machine
    ):
        super().__init__()
        self._train, self._val, self._options, self._machine = train, val, options, machine

    def train_dataloader(self) -> DataLoader[Any]:
        rank = 0 if self.trainer is None else self.trainer.global_rank
        options = self._options
        if len(self._train) < options.batch_size:
            raise SettingsError(
                f"{len(self._train)} samples do not fill a batch of {options.batch_size}",
                "training.batch_size",
                "Give a smaller one, or more patients",
            )
        return DataLoader(
            self._train,
            batch_size=options.batch_size // self._machine.world,
            sampler=EpochSampler(len(self._train), options.seed, rank, self._machine.world),
            collate_fn=collate,
            drop_last=True,
            num_workers=options.workers,
            multiprocessing_context="spawn" if options.workers else None,
            persistent_workers=options.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        rank = 0 if self.trainer is None else self.trainer.global_rank
        mine = range(rank, len(self._val), self._machine.world)
        chosen = Subset(self._val, mine) if mine else _Uncounted(self._val)
        return DataLoader(chosen, collate_fn=collate)


class _Uncounted(Dataset[Sample]):
    """A scan without weight: Lightning would leave a process without scans out of the validation,
    and the others would wait for it for ever."""

    def __init__(self, scans: VolumeDataset):
        self._scans = scans

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Sample:
        scan = self._scans[number]
        return Sample(scan.image, scan.label, torch.zeros_like(scan.weight))


class _Board(TensorBoardLogger):
    """TensorBoard's files. Its writer is a thread behind a queue, which an exception raised by a
    signal in the midst of it breaks: to close it then takes for ever."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with uninterrupted():
            super().log_metrics(metrics, step)

    def save(self) -> None:
        with uninterrupted():
            super().save()

    def finalize(self, status: str) -> None:
        with uninterrupted():
            super().finalize(status)


class _Signals(Callback):
    """Lightning's handler of SIGTERM talks to the other processes, which may not listen: ours."""

    def __init__(self) -> None:
        self._ours = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ours)


class _Best(Callback):
    """The weights of the epoch of the best ``val_dice``, the first of equals."""

    def __init__(self, path: Path):
        self._path, self.score = path, -1.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = float(trainer.callback_metrics["val_dice"])
        if found > self.score:
            self.score = found
            with uninterrupted():
                trainer.save_checkpoint(self._path, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score = state_dict["best"]


class _Patience(EarlyStopping):
    """Early stopping that a resumed training, which had stopped, remembers; patience may grow."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _Steps(Callback):
    """Says how far the training is."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            steps = int(trainer.num_training_batches)
            done = trainer.current_epoch * steps + batch_idx + 1
            self._progress(done, (trainer.max_epochs or 0) * steps)


class _EpochEnd(Callback):
    """A row of figures, and the state from which a broken training goes on."""

    def __init__(self, folder: Path, on_epoch: Epoch):
        self._folder, self._on_epoch = folder, on_epoch
        self._began, self._validated = 0.0, False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began, self._validated = time.monotonic(), False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        metrics = {
            k: float(v)
            for k, v in sorted(trainer.callback_metrics.items())
            if self._validated or not k.startswith("val_")  # those are of an epoch before
        }
        if not math.isfinite(metrics["train_loss"]):
            raise SettingsError(
                f"the loss is {metrics['train_loss']} in epoch {done}",
                "optimizer",
                "Give a lower lr, a clip, or precision 32-true",
            )
        if trainer.is_global_zero:
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            seconds = round(time.monotonic() - self._began, 2)
            with uninterrupted():
                _write_row(log_file(self._folder), done, {"lr": lr, "seconds": seconds, **metrics})
        with uninterrupted():
            trainer.save_checkpoint(last_checkpoint(self._folder))
        if trainer.is_global_zero:
            self._on_epoch(done, trainer.max_epochs or 0, metrics)


def _write_row(path: Path, epoch: int, values: dict[str, float]) -> None:
    """Add the row of an epoch; rows of this and later ones are of a run that was broken off."""
    rows: list[dict[str, Any]] = []
    if path.exists() and epoch > 1:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]
    rows.append({"epoch": epoch, **values})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    partial.replace(path)


def _callbacks(options: TrainOptions, folder: Path, on_epoch: Epoch, best: _Best) -> list[Callback]:
    out: list[Callback] = [_Signals(), best]
    if options.patience is not None:
        out.append(
            _Patience(
                "val_dice",
                min_delta=1e-4,
                mode="max",
                patience=options.patience,
                check_on_train_epoch_end=False,  # that would be after the epoch was saved
            )
        )
    return [*out, _EpochEnd(folder, on_epoch)]
