"""A trained network on a whole scan: overlapping tiles, blended, and how sure it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from strokect.core.errors import SettingsError
from strokect.core.types import Progress, no_progress
from strokect.learn.data import Needs, check_slices


@dataclass(frozen=True)
class Tiling:
    """tile : (rows, columns) of a window, None for whole slices. overlap : share of a window that
    its neighbour covers too. slices : output slices in one go, None for all. batch : windows in
    one go."""

    tile: tuple[int, int] | None = None
    overlap: float = 0.5
    slices: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise SettingsError(
                f"an overlap of {self.overlap:g}", "tiling.overlap", "Give 0 to below 1"
            )
        if min(n for n in (self.batch, self.slices, *(self.tile or ())) if n is not None) < 1:
            raise SettingsError("a window of no size", "tiling", "Give sizes of 1 or more, or null")


@dataclass(frozen=True)
class UncertaintyOptions:
    """method : "dropout" draws ``draws`` networks by Monte-Carlo dropout [1]_; "flip" turns the
    scan over (test-time augmentation [2]_): as it is, and mirrored along ``axes`` and all of them,
    of (Y, X) as -2 and -1. Mirror what training mirrored too.

    .. [1] Gal Y, Ghahramani Z, ICML 2016.
    .. [2] Wang G et al., Neurocomputing 2019;338:34-45.
    """

    method: Literal["none", "dropout", "flip"] = "flip"
    draws: int = 8
    seed: int = 0
    axes: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise SettingsError(f"{self.draws} draws", "uncertainty.draws", "Give 1 or more")


Seeing = Callable[[Tensor], Tensor]
NOTHING = torch.zeros(0)


def seeing(network: nn.Module, clinical: Tensor) -> Seeing:
    """The network with the clinical values (F,) of one scan filled in, as a function of images."""
    if not clinical.numel():
        return network
    return lambda image: torch.as_tensor(network(image, clinical.expand(len(image), -1)))


def predict_volume(
    network: Seeing, image: torch.Tensor, needs: Needs, tiling: Tiling
) -> torch.Tensor:
    """Probabilities (K, Z, Y, X) of a scan (C, T, Z, Y, X).

    Slabs see their true neighbour slices; the edge slices stand in for those beyond the scan. In
    plane, Gaussian-weighted windows are averaged.
    """
    depth = image.shape[2]
    check_slices(depth, needs.n_slices)
    half = (needs.n_slices - 1) // 2
    step = tiling.slices or depth
    slabs = []
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        index = torch.arange(start - half, stop + half, device=image.device).clamp(0, depth - 1)
        slabs.append(_predict_slab(network, image.index_select(2, index), needs, tiling))
    return torch.cat(slabs, dim=1)


def _predict_slab(
    network: Seeing, image: torch.Tensor, needs: Needs, tiling: Tiling
) -> torch.Tensor:
    """Probabilities (K, Z', Y, X) of a slab (C, T, Z, Y, X); windows by MONAI in the plane."""
    c, t, z, *plane = image.shape
    window = [-(-n // needs.multiple) * needs.multiple for n in (tiling.tile or plane)]

    def of_windows(flat: torch.Tensor) -> torch.Tensor:
        chance = network(flat.reshape(-1, c, t, z, *flat.shape[-2:])).float().softmax(dim=1)
        kept.append(chance.shape[1:3])
        return chance.flatten(1, 2)

    kept: list[torch.Size] = []
    blended = sliding_window_inference(
        image.reshape(1, c * t * z, *plane),
        window,
        tiling.batch,
        of_windows,
        tiling.overlap,
        mode="gaussian",
    )
    chance = torch.as_tensor(blended).reshape(*kept[0], *plane)
    return chance / chance.sum(dim=0, keepdim=True)


@dataclass(frozen=True, eq=False)
class Prediction:
    """mean, sd : probability (K, Z, Y, X) and its SD over the draws. counts : (draws, ...), what
    was counted in each draw."""

    mean: torch.Tensor
    sd: torch.Tensor
    counts: torch.Tensor


def predict_with_uncertainty(
    network: nn.Module,
    image: torch.Tensor,
    count: Callable[[torch.Tensor], torch.Tensor],
    needs: Needs,
    tiling: Tiling,
    options: UncertaintyOptions,
    progress: Progress = no_progress,
    clinical: Tensor = NOTHING,
) -> Prediction:
    """Probabilities of a scan (C, T, Z, Y, X), averaged over the draws.

    count : of the probabilities (K, Z, Y, X) of a draw, e.g. voxels of each class. clinical :
    (F,), empty where the network asks for nothing beside the image. The network is put in
    evaluation mode. Raises SettingsError for Monte-Carlo dropout of a network without dropout.
    """
    network.eval()
    draws = list(_draws(options))
    mean = spread = torch.zeros(())
    counts = []
    with torch.inference_mode(), torch.random.fork_rng(devices=[]), _dropout_on(network, options):
        for n, flips in enumerate(draws):
            progress(n, len(draws))
            if options.method == "dropout":
                torch.manual_seed(options.seed + n)
            seen = image.flip(flips) if flips else image
            chance = predict_volume(seeing(network, clinical), seen, needs, tiling)
            chance = chance.flip(flips) if flips else chance
            counts.append(count(chance))
            # Welford's update: one draw at a time is held in memory.
            far = chance - mean
            mean = mean + far / (n + 1)
            spread = spread + far * (chance - mean)
    sd = (spread / max(len(draws) - 1, 1)).clamp(min=0).sqrt()
    return Prediction(mean, sd, torch.stack(counts))


def _draws(options: UncertaintyOptions) -> Iterator[list[int]]:
    """The axes that are turned over in each draw."""
    if options.method == "flip":
        for n in range(len(options.axes) + 1):
            yield from (list(axes) for axes in itertools.combinations(options.axes, n))
        return
    for _ in range(options.draws if options.method == "dropout" else 1):
        yield []


@contextmanager
def _dropout_on(network: nn.Module, options: UncertaintyOptions) -> Iterator[None]:
    """Dropout layers, and nothing else, behave as in training."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    active = [layer for layer in layers if layer.p > 0]
    if options.method != "dropout":
        yield
        return
    if not active:
        raise SettingsError(
            "the network has no dropout to draw from", "--uncertainty", "Use flip, or none"
        )
    try:
        for layer in active:
            layer.train()
        yield
    finally:
        network.eval()
