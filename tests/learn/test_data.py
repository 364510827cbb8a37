"""Samples drawn from prepared scans."""

import pickle
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from strokect.core.errors import GeometryError, SettingsError
from strokect.learn.augment import AugmentOptions
from strokect.learn.cache import Example
from strokect.learn.data import (
    EpochSampler,
    Needs,
    SlabDataset,
    SlabOptions,
    VolumeDataset,
    collate,
    draw,
)

PLAIN = AugmentOptions()


def _example(z=6, y=20, x=24, seed=0):
    """A scan whose every voxel says where it lies: value 10000 z + 100 y + x + 1."""
    at = np.indices((z, y, x))
    place = (10000 * at[0] + 100 * at[1] + at[2] + 1).astype(np.float32)
    image = np.stack([place, -place])[None]  # (1, T, Z, Y, X)
    labels = np.zeros((z, y, x), np.uint8)
    labels[:, 4:16, 4:20] = 1
    labels[2, 6:9, 5:8] = 2
    labels[4, 13, 17] = 3
    return Example(image, labels, labels > 0)


def _rng(n=0):
    return np.random.default_rng(n)


def _places(sample, needs):
    """z, y, x of the voxels of the centre slices; -1 where nothing is."""
    half = (needs.n_slices - 1) // 2
    n = sample.label.shape[0]
    value = sample.image[0, 0, half : half + n].numpy().astype(int) - 1
    return np.where(value < 0, -1, value // 10000), value % 10000 // 100, value % 100, value >= 0


@pytest.mark.parametrize("seed", range(20))
def test_windows_lie_in_the_scan_and_truth_lies_on_the_image(seed):
    example, needs = _example(), Needs(3, 4)
    sample = draw(example, needs, SlabOptions(slices=2, tile=(8, 12)), _rng(seed))
    assert sample.image.shape == (1, 2, 4, 8, 12)
    z, y, x, inside = _places(sample, needs)
    assert inside.all()
    assert (sample.weight == 1).all()
    assert (sample.label.numpy() == example.labels[z, y, x]).all()
    assert (sample.image[0, 1] == -sample.image[0, 0]).all()


def test_every_place_of_the_brain_can_be_drawn_and_every_edge_is_reached():
    example, needs = _example(), Needs(1, 1)
    seen = np.zeros(example.labels.shape, int)
    for seed in range(400):
        z, y, x, _ = _places(draw(example, needs, SlabOptions(1, (6, 6)), _rng(seed)), needs)
        np.add.at(seen, (z, y, x), 1)
    assert (seen[example.brain] > 0).all()


def test_neighbours_of_the_edges_are_the_edge_slices_again():
    sample = draw(_example(), Needs(5, 1), SlabOptions(), _rng())
    slices = sample.image[0, 0, :, 0, 0].numpy() // 10000
    assert slices.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5]
    assert sample.label.shape == (6, 20, 24)
    assert (sample.weight == 1).all()


def test_what_lies_beyond_the_scan_has_weight_0():
    example, needs = _example(), Needs(3, 16)
    sample = draw(example, needs, SlabOptions(slices=9, tile=(40, 24)), _rng())
    assert sample.image.shape == (1, 2, 11, 48, 32)
    assert sample.weight.sum() == example.labels.size
    counted = sample.weight.numpy() > 0
    assert (sample.label.numpy()[counted] == example.labels.ravel()).all()
    rows, columns = np.flatnonzero(counted[4].any(1)), np.flatnonzero(counted[4].any(0))
    assert (rows[0], columns[0]) == (14, 4)  # in the middle, as MONAI pads
    assert (sample.image[..., :14, :] == 0).all()
    depth = np.flatnonzero(counted.any((1, 2)))
    assert (depth[0], depth[-1]) == (1, 6)


def test_only_the_brain_counts_where_that_is_asked_for():
    example = _example()
    sample = draw(example, Needs(), SlabOptions(brain_only=True), _rng())
    assert (sample.weight.numpy() == example.brain).all()


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_a_balanced_sample_holds_the_class(wanted):
    options = SlabOptions(1, (4, 4), balance=tuple(float(k == wanted) for k in range(4)))
    for seed in range(25):
        assert (draw(_example(), Needs(3, 1), options, _rng(seed)).label == wanted).any()


def test_balance_is_the_chance_of_each_class():
    options = SlabOptions(1, (1, 1), balance=(0, 1, 1, 2))
    found = [int(draw(_example(), Needs(), options, _rng(n)).label) for n in range(400)]
    assert np.bincount(found, minlength=4) / 400 == pytest.approx([0, 0.25, 0.25, 0.5], abs=0.07)


def test_a_scan_without_the_class_gives_another_place_of_the_brain():
    example = _example()
    healthy = Example(example.image, np.minimum(example.labels, 1), example.brain)
    sample = draw(healthy, Needs(), SlabOptions(1, (1, 1), balance=(0, 0, 0, 1)), _rng())
    assert (sample.label == 1).all()
    nothing = Example(example.image, example.labels * 0, example.brain & False)
    assert draw(nothing, Needs(), SlabOptions(1, (4, 4)), _rng()).label.shape == (1, 4, 4)


def test_too_few_slices_and_no_labels_are_told():
    with pytest.raises(GeometryError, match="5 slices; the network looks at 7"):
        draw(_example(z=5), Needs(7, 1), SlabOptions(), _rng())
    with pytest.raises(SettingsError, match="without labels"):
        draw(Example(_example().image, None, _example().brain), Needs(), SlabOptions(), _rng())


@pytest.mark.parametrize(
    "wrong",
    [{"slices": 0}, {"tile": (0, 4)}, {"per_case": 0}, {"balance": (0.0, 0.0)},
     {"balance": (-1.0, 2.0)}],
)  # fmt: skip
def test_impossible_samples_are_refused(wrong):
    with pytest.raises(SettingsError, match="slab"):
        SlabOptions(**wrong)


def test_batches_of_one_size_only():
    one = draw(_example(), Needs(), SlabOptions(), _rng())
    other = draw(_example(y=22), Needs(), SlabOptions(), _rng())
    batch = collate([one, one])
    assert batch.image.shape == (2, *one.image.shape)
    assert batch.label.dtype == torch.int64
    with pytest.raises(GeometryError, match="batch_size") as error:
        collate([one, other])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("n", "batch", "world"), [(24, 2, 2), (23, 4, 2), (30, 6, 3), (7, 4, 4)])
def test_processes_together_see_the_batches_of_one(n, batch, world):
    def batches(rank, ranks):
        sampler = EpochSampler(n, 3, rank, ranks)
        sampler.set_epoch(5)
        keys, size = list(sampler), batch // ranks
        assert len(keys) == len(sampler)
        return [keys[i * size : (i + 1) * size] for i in range(len(keys) // size)]

    alone = batches(0, 1)
    shared = list(zip(*(batches(rank, world) for rank in range(world)), strict=True))
    assert len(shared) == len(alone) == n // batch
    for whole, parts in zip(alone, shared, strict=True):
        assert sorted(whole) == sorted(key for part in parts for key in part)


def test_each_epoch_has_every_sample_once_in_another_order():
    sampler, orders = EpochSampler(20, 0), []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == [(epoch, i) for i in range(20)]
        assert list(sampler) == list(sampler)
        orders.append([i for _, i in sampler])
    assert len({tuple(order) for order in orders}) == 4
    other = EpochSampler(20, 1)
    assert [i for _, i in other] != orders[0]


def _dataset(seed=0):
    examples = [_example(seed=n) for n in range(2)]
    noisy = AugmentOptions(flip_x_p=0.5, noise_p=1.0, noise_sd=(0.1, 0.2), outside=None)
    options = SlabOptions(2, (8, 8), per_case=3, balance=(1, 1, 1, 1))
    # A bound method of a list, which a worker process can be sent.
    return SlabDataset(examples.__getitem__, 2, Needs(3, 4), options, noisy, seed)


def _same(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("image", "label", "weight"))


def test_a_sample_is_a_function_of_seed_epoch_and_number():
    data = _dataset()
    assert len(data) == 6
    first = data[2, 4]
    data[0, 0], torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    assert _same(first, data[2, 4])
    assert _same(first, pickle.loads(pickle.dumps(data))[2, 4])
    assert not _same(first, data[3, 4])
    assert not _same(first, data[2, 5])
    assert not _same(first, _dataset(1)[2, 4])


def test_worker_processes_draw_the_same_samples():
    def loaded(workers):
        sampler = EpochSampler(6, 0)
        sampler.set_epoch(1)
        loader = DataLoader(
            _dataset(), 2, sampler=sampler, collate_fn=collate, num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        return list(loader)

    for one, other in zip(loaded(0), loaded(1), strict=True):
        assert _same(one, other)


def test_whole_scans_are_validated_in_the_brain():
    example = _example()
    data = VolumeDataset([example].__getitem__, 1)
    sample = data[0]
    assert len(data) == 1
    assert (sample.image.numpy() == example.image).all()
    assert (sample.label.numpy() == example.labels).all()
    assert (sample.weight.numpy() == example.brain).all()


def test_an_index_of_many_scans_costs_nothing_until_one_is_asked_for():
    asked = []

    def load(number):
        asked.append(number)
        return _example()

    tracemalloc.start()
    began = time.perf_counter()
    data = SlabDataset(load, 100_000, Needs(), SlabOptions(1, (4, 4)), PLAIN, 0)
    assert len(data) == 100_000
    assert time.perf_counter() - began < 0.05
    assert tracemalloc.get_traced_memory()[0] < 1e5
    tracemalloc.stop()
    data[0, 99_999]
    assert asked == [99_999]


def test_a_tile_reads_no_more_of_a_file_than_it_needs(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 4, 8, 400, 400), np.float16))
    image = np.load(tmp_path / "a.npy", mmap_mode="r")
    brain = np.ones((8, 400, 400), bool)
    example = Example(image, brain.astype(np.uint8), brain)
    options = SlabOptions(1, (16, 16), balance=(0, 1))
    tracemalloc.start()
    draw(example, Needs(3, 1), options, _rng())
    found = np.flatnonzero(brain).nbytes  # the places to choose among
    assert tracemalloc.get_traced_memory()[1] < found + 3e6  # one slab is 3.8 MB
    tracemalloc.stop()


def _known(*values):
    return replace(_example(), clinical=np.array(values, np.float32))


def test_scores_go_with_the_scan_into_samples_and_batches():
    cases = [_known(0.5, 1.0), _known(0.0, 0.0), _known(-2.0, 1.0)]
    data = SlabDataset(cases.__getitem__, 3, Needs(), SlabOptions(1, (4, 4), per_case=2), PLAIN, 0)
    samples = [data[0, n] for n in range(6)]
    batch = collate(samples)
    assert batch.clinical.dtype == torch.float32
    assert batch.clinical.tolist() == [[0.5, 1], [0.5, 1], [0, 0], [0, 0], [-2, 1], [-2, 1]]
    whole = VolumeDataset(cases.__getitem__, 3)
    assert [whole[n].clinical.tolist() for n in range(3)] == [[0.5, 1], [0, 0], [-2, 1]]


def test_scores_are_forgotten_as_the_augmentation_says():
    forgetful = AugmentOptions(clinical_drop_p=1.0)
    data = SlabDataset([_known(0.5, 1.0)].__getitem__, 1, Needs(), SlabOptions(), forgetful, 0)
    assert data[0, 0].clinical.tolist() == [0, 0]
    # Validation sees what is known.
    assert VolumeDataset([_known(0.5, 1.0)].__getitem__, 1)[0].clinical.tolist() == [0.5, 1]


def test_a_batch_without_scores_has_none_for_each_sample():
    one = draw(_example(), Needs(), SlabOptions(), _rng())
    assert collate([one, one]).clinical.shape == (2, 0)
