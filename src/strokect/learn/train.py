"""The training loop: Lightning's, with our checkpoints, logs and resuming."""

from __future__ import annotations

import csv
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Subset

from strokect.core.errors import OutputExistsError, ScanError, SettingsError
from strokect.learn.checkpoint import SafeCheckpointIO
from strokect.learn.data import EpochSampler, SlabDataset, VolumeDataset, collate
from strokect.learn.module import SegmentationModule

Epoch = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainOptions:
    """How long and on what.

    batch_size : of one step over all devices together. accumulate : steps whose gradients are
    added up. patience : validations without a better ``val_dice`` before it stops, None for never.
    precision : as Lightning's, e.g. "32-true", "bf16-mixed", "16-mixed". validate_every : epochs.
    workers : processes that prepare samples. threads : of torch, None leaves its choice.
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
        if least < 1 or self.workers < 0:
            raise SettingsError(
                f"a training of {self.epochs} epochs, batches of {self.batch_size}",
                "training",
                "Give epochs, batch_size, accumulate and validate_every of 1 or more",
            )


@dataclass(frozen=True)
class Machine:
    """Where it trains. devices : GPUs where there are some, else processes. nodes : machines."""

    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        return self.devices * self.nodes


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
) -> Path:
    """Train and return the checkpoint of the best epoch.

    folder : gets ``checkpoints/{best,last}.safetensors`` and ``logs/``. With ``resume`` it goes on
    after the last whole epoch, to the same weights as without the break. on_epoch : called with
    the number of epochs done, of all, and the metrics.
    Raises OutputExistsError where a training stands in ``folder`` and ``resume`` is not asked for.
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
    pl.seed_everything(options.seed, verbose=False)
    progress: list[Callback] = [RichProgressBar(leave=True)] if sys.stderr.isatty() else []
    trainer = pl.Trainer(
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
        log_every_n_steps=10,
        use_distributed_sampler=False,
        sync_batchnorm=machine.world > 1 and torch.cuda.is_available(),
        plugins=[SafeCheckpointIO()],
        logger=TensorBoardLogger(folder, name="logs", version="tensorboard"),
        callbacks=[*_callbacks(options, folder, on_epoch), *progress],
        enable_progress_bar=bool(progress),
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = _Loaders(train, val, options, machine)
    with _process_group():
        trainer.fit(module, datamodule=data, ckpt_path=last if resume and last.exists() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not best_checkpoint(folder).exists():
        raise ScanError("no epoch was validated", folder, "Train for more epochs")
    return best_checkpoint(folder)


def _check_norm(module: SegmentationModule, machine: Machine) -> None:
    """Refuse batch normalisation that each process would do by itself: torch synchronises GPUs."""
    kind = nn.modules.batchnorm._BatchNorm
    if machine.world > 1 and not torch.cuda.is_available():
        if any(isinstance(layer, kind) for layer in module.modules()):
            raise SettingsError(
                f"batch normalisation on {machine.world} processes without GPUs",
                "network.config.norm",
                'Choose "group" or "instance", or one process',
            )


@contextmanager
def _process_group() -> Iterator[None]:
    """Processes that train together part afterwards, so that a next training can meet anew."""
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _Loaders(pl.LightningDataModule):
    def __init__(
        self, train: SlabDataset, val: VolumeDataset, options: TrainOptions, machine: Machine
    ):
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer scans than devices
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
        return DataLoader(Subset(self._val, mine), collate_fn=collate)


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
        self._path, self._best = path, -1.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = float(trainer.callback_metrics["val_dice"])
        if found > self._best:
            self._best = found
            trainer.save_checkpoint(self._path, weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]


class _Patience(EarlyStopping):
    """Early stopping that a resumed training, which had stopped, remembers."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _EpochEnd(Callback):
    """A row of figures, and the state from which a broken training goes on."""

    def __init__(self, folder: Path, on_epoch: Epoch):
        self._folder, self._on_epoch = folder, on_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        metrics = {k: float(v) for k, v in sorted(trainer.callback_metrics.items())}
        if trainer.is_global_zero:
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            _write_row(log_file(self._folder), done, {"lr": lr, **metrics})
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


def _callbacks(options: TrainOptions, folder: Path, on_epoch: Epoch) -> list[Callback]:
    out: list[Callback] = [_Signals(), _Best(best_checkpoint(folder))]
    if options.patience is not None:
        out.append(_Patience("val_dice", min_delta=1e-4, mode="max", patience=options.patience))
    return [*out, _EpochEnd(folder, on_epoch)]
