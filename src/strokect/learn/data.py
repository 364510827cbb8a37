"""Training samples: slabs and tiles drawn from prepared scans, one scan in hand at a time.

Every sample is a pure function of (seed, epoch, number): any number of worker processes, GPUs or
resumed runs draws the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from strokect.core.errors import GeometryError, SettingsError
from strokect.learn.augment import AugmentOptions, augment
from strokect.learn.cache import Example
from strokect.learn.sample import Sample


@dataclass(frozen=True)
class SlabOptions:
    """How samples are cut from a scan.

    slices : output slices of a sample, None for all. tile : (rows, columns), None for the whole
    slice. per_case : samples of each scan in an epoch. balance : chance of each class to be what a
    sample is centred on, () for anywhere in the brain; a scan without that class gives another
    place. brain_only : voxels outside the brain have no say in the training loss.
    """

    slices: int | None = None
    tile: tuple[int, int] | None = None
    per_case: int = 1
    balance: tuple[float, ...] = ()
    brain_only: bool = False

    def __post_init__(self) -> None:
        sizes = [n for n in (self.slices, *(self.tile or ())) if n is not None]
        if min([*sizes, self.per_case]) < 1:
            raise SettingsError("a sample of no size", "slab", "Give sizes of 1 or more, or null")
        if self.balance and (min(self.balance) < 0 or not sum(self.balance) > 0):
            raise SettingsError(
                f"chances of {self.balance}", "slab.balance", "Give shares, not all of them 0"
            )


@dataclass(frozen=True)
class Needs:
    """What the network asks of a sample: neighbour slices in all, and sizes that it can halve."""

    n_slices: int = 1
    multiple: int = 1


class SlabDataset(Dataset[Sample]):
    """Samples of ``n_cases`` scans; a key is (epoch, number).

    load : case number to its prepared scan with labels.
    """

    def __init__(
        self,
        load: Callable[[int], Example],
        n_cases: int,
        needs: Needs,
        options: SlabOptions,
        augmentation: AugmentOptions,
        seed: int,
    ):
        self._load, self._n_cases, self._needs = load, n_cases, needs
        self._options, self._augmentation, self._seed = options, augmentation, seed

    def __len__(self) -> int:
        return self._n_cases * self._options.per_case

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, number = key
        rng = np.random.default_rng([self._seed, epoch, number])
        example = self._load(number // self._options.per_case)
        sample = draw(example, self._needs, self._options, rng)
        return augment(sample, self._augmentation, rng)


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, number) in an order of their own each epoch, shared out over processes.

    Lightning calls ``set_epoch``. rank takes every world-th key, so that the processes of a step
    see together what one process would.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world: int = 1):
        self._n, self._seed, self._rank, self._world, self._epoch = n, seed, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n // self._world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self._seed, self._epoch]).permutation(self._n)
        mine = order[self._rank :: self._world][: len(self)]
        return iter([(self._epoch, int(i)) for i in mine])


class VolumeDataset(Dataset[Sample]):
    """Whole scans, as they are validated; a key is the number of the case.

    Voxels outside the brain have weight 0, as nothing that is predicted there is kept.
    """

    def __init__(self, load: Callable[[int], Example], n_cases: int):
        self._load, self._n_cases = load, n_cases

    def __len__(self) -> int:
        return self._n_cases

    def __getitem__(self, number: int) -> Sample:
        options = SlabOptions(brain_only=True)
        return draw(self._load(number), Needs(), options, np.random.default_rng(0))


class Batch(NamedTuple):
    """Samples of one size, stacked along a new first axis."""

    image: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    clinical: torch.Tensor


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch. Raises GeometryError where samples differ in size."""
    shapes = {tuple(s.image.shape) for s in samples}
    if len(shapes) > 1:
        raise GeometryError(
            f"scans of different sizes in one batch, {' and '.join(map(str, sorted(shapes)))}",
            fix='Give slab.slices and slab.tile in the settings, or "batch_size": 1',
        )
    return Batch(*(torch.stack([getattr(s, name) for s in samples]) for name in Batch._fields))


def draw(example: Example, needs: Needs, options: SlabOptions, rng: np.random.Generator) -> Sample:
    """One sample: image (C, T, Z + n_slices - 1, Y, X), label and weight (Z, Y, X).

    Neighbours of the first and last slice are the edge slices again. What lies beyond the scan has
    weight 0. Raises GeometryError for a scan of fewer slices than the network needs.
    """
    if example.labels is None:
        raise SettingsError("a scan without labels cannot train", fix="Give its truth")
    shape = example.labels.shape
    check_slices(shape[0], needs.n_slices)
    centre = _centre(example, options, rng)
    size = [options.slices or shape[0], *(options.tile or shape[1:])]
    size[1:] = [-(-n // needs.multiple) * needs.multiple for n in size[1:]]
    first = [_first(c, n, whole, rng) for c, n, whole in zip(centre, size, shape, strict=True)]
    half = (needs.n_slices - 1) // 2
    z = np.arange(first[0], first[0] + size[0])
    wide = np.arange(first[0] - half, first[0] + size[0] + half)
    inside = (z >= 0) & (z < shape[0])
    image = _window(example.image, wide, first[1:], size[1:])
    labels = _window(example.labels, z, first[1:], size[1:])
    counted = example.brain if options.brain_only else np.ones((1, *shape[1:]), bool)
    weight = _window(counted, z, first[1:], size[1:]) & inside[:, None, None]
    return Sample(
        torch.from_numpy(image.astype(np.float32)),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(weight.astype(np.float32)),
        torch.from_numpy(example.clinical.astype(np.float32)),
    )


def check_slices(found: int, needed: int) -> None:
    """Raises GeometryError for a scan of fewer slices than the network looks at."""
    if found < needed:
        raise GeometryError(
            f"a scan of {found} slices; the network looks at {needed} together",
            fix="Use a network with a smaller n_slices",
        )


def _centre(example: Example, options: SlabOptions, rng: np.random.Generator) -> tuple[int, ...]:
    shape = example.brain.shape
    if options.slices is None and options.tile is None:  # the whole scan: nothing to choose
        return tuple(n // 2 for n in shape)
    where = np.zeros(0, int)
    if options.balance:
        chances = np.array(options.balance) / sum(options.balance)
        wanted = int(rng.choice(len(chances), p=chances))
        where = np.flatnonzero(example.labels == wanted)
    if not where.size:
        where = np.flatnonzero(example.brain)
    if not where.size:
        return tuple(n // 2 for n in shape)
    chosen = int(where[rng.integers(where.size)])
    return tuple(int(i) for i in np.unravel_index(chosen, shape))


def _first(centre: int, size: int, whole: int, rng: np.random.Generator) -> int:
    """Where a window of ``size`` starts that holds ``centre`` and, where it can, lies inside."""
    if size >= whole:
        return -((size - whole) // 2)
    low = max(0, centre - size + 1)
    return int(rng.integers(low, min(centre, whole - size) + 1))


def _window(
    array: npt.NDArray[Any], z: npt.NDArray[np.intp], first: Sequence[int], size: Sequence[int]
) -> npt.NDArray[Any]:
    """Slices ``z`` of (..., Z, Y, X), the edge ones again beyond; rows and columns from ``first``,
    0 beyond. Only what is asked for is read from a mapped file."""
    cut, pad = [], []
    for start, n, whole in zip(first, size, array.shape[-2:], strict=True):
        low, high = max(start, 0), min(start + n, whole)
        cut.append(slice(low, high))
        pad.append((low - start, start + n - high))
    part = array[..., cut[0], cut[1]][..., np.clip(z, 0, array.shape[-3] - 1), :, :]
    return np.pad(part, [(0, 0)] * (array.ndim - 2) + pad)
