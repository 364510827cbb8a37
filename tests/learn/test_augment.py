"""Augmentation keeps image and truth together, moves curves exactly, and can be repeated."""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch

from strokect.core.errors import GeometryError, SettingsError
from strokect.learn.augment import AugmentOptions, augment, bolus_matrix
from strokect.learn.sample import Sample

PARTS = ("image", "label", "weight")
OFTEN = AugmentOptions(
    **{f.name: 0.7 for f in fields(AugmentOptions) if f.name.endswith("_p")}, stretch_time=0.1
)


def _rng(seed=0):
    return np.random.default_rng(seed)


def _sample(shape=(1, 8, 5, 32, 24), margin=1, seed=0):
    rng = _rng(seed)
    image = torch.from_numpy(rng.normal(3, 1, shape).astype(np.float32))
    grid = (shape[2] - 2 * margin, *shape[3:])
    label = torch.from_numpy(rng.integers(0, 4, grid))
    return Sample(image, label, torch.ones(grid))


def _encoded(side_y=48, side_x=40):
    """A sample whose image is its label, in blobs that interpolation leaves readable."""
    z, y, x = np.meshgrid(np.arange(5), np.arange(side_y), np.arange(side_x), indexing="ij")
    label = np.select(
        [(y - 14) ** 2 + (x - 12 - z) ** 2 < 49, (y - 30) ** 2 + (x - 26) ** 2 < 64 + 9 * z],
        [2, 3],
        1,
    )
    frames = torch.from_numpy(label.astype(np.float32)).expand(2, 6, -1, -1, -1).clone()
    return Sample(frames, torch.from_numpy(label)[1:-1], torch.ones(3, side_y, side_x))


def _centre(planes):
    """Centre of each slice in y and x, pixels: (Z, 2)."""
    y, x = (torch.arange(n, dtype=torch.float32) for n in planes.shape[1:])
    moments = torch.stack([(planes * y[:, None]).sum((1, 2)), (planes * x).sum((1, 2))], 1)
    return moments / planes.sum((1, 2))[:, None]


def _same(a, b):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in PARTS)


def test_no_options_change_nothing():
    sample = _sample()
    assert _same(augment(sample, AugmentOptions(), _rng()), sample)


def test_certain_but_empty_ranges_change_nothing():
    never = {f.name: 1.0 for f in fields(AugmentOptions) if f.name.endswith("_p")}
    never |= dict.fromkeys(("flip_x_p", "flip_y_p", "rotate90_p", "drop_p"), 0.0)
    empty = dict.fromkeys(
        ("rotation_deg", "scale", "shift_px", "shift_points", "stretch_time", "offset"), 0.0
    )
    options = AugmentOptions(
        **never, **empty, contrast=(1.0, 1.0), smooth_px=(0.0, 0.0), noise_sd=(0.0, 0.0)
    )
    sample = _sample()
    assert _same(augment(sample, options, _rng()), sample)


def test_the_same_generator_gives_the_same_sample_and_another_does_not():
    sample = _sample()
    assert _same(augment(sample, OFTEN, _rng(5)), augment(sample, OFTEN, _rng(5)))
    assert not _same(augment(sample, OFTEN, _rng(5)), augment(sample, OFTEN, _rng(6)))


def test_torch_and_numpy_global_seeds_play_no_part():
    torch.manual_seed(1)
    first = augment(_sample(), OFTEN, _rng(5))
    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    assert _same(first, augment(_sample(), OFTEN, _rng(5)))


def test_input_is_kept_and_types_and_shapes_too():
    sample = _sample()
    kept = [x.clone() for x in (sample.image, sample.label, sample.weight)]
    for seed in range(10):
        out = augment(sample, OFTEN, _rng(seed))
        for name, before in zip(PARTS, kept, strict=True):
            after = getattr(out, name)
            assert torch.equal(getattr(sample, name), before)
            assert type(after) is torch.Tensor
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert torch.isfinite(after).all()


@pytest.mark.parametrize(("name", "axis"), [("flip_x_p", -1), ("flip_y_p", -2)])
def test_flips_are_exact(name, axis):
    sample = _sample()
    out = augment(sample, AugmentOptions(**{name: 1.0}), _rng())
    assert _same(out, Sample(*(getattr(sample, n).flip(axis) for n in PARTS)))


def test_quarter_turns_are_exact_and_all_three_occur():
    sample = _sample((1, 2, 5, 24, 24))
    seen = set()
    for seed in range(20):
        out = augment(sample, AugmentOptions(rotate90_p=1.0), _rng(seed))
        turned = [
            k
            for k in (1, 2, 3)
            if _same(
                out,
                Sample(*(torch.rot90(getattr(sample, n), k, (-2, -1)) for n in PARTS)),
            )
        ]
        assert len(turned) == 1
        seen.update(turned)
    assert seen == {1, 2, 3}


def test_a_plane_that_is_not_square_turns_by_half():
    sample = _sample()
    out = augment(sample, AugmentOptions(rotate90_p=1.0), _rng())
    assert torch.equal(out.image, sample.image.flip(-1, -2))
    assert torch.equal(out.label, sample.label.flip(-1, -2))


def test_geometry_never_moves_image_and_label_apart():
    sample = _encoded()
    options = AugmentOptions(
        flip_x_p=0.5, flip_y_p=0.5, rotate90_p=0.5, affine_p=1.0, rotation_deg=20.0, shift_px=5.0
    )
    apart = []
    for seed in range(20):
        out = augment(sample, options, _rng(seed))
        assert not torch.equal(out.label, sample.label)
        truth = out.label.float().expand(2, 6, -1, -1, -1)
        error = (out.image[:, :, 1:-1] - truth).abs()[:, :, out.weight > 0]
        # Nearest and linear differ at the edges of the blobs only, steps of 1 and 2; the nearest
        # voxel counts a quarter of the linear value at least.
        assert error.max() < 0.75 * 2 + 1e-4
        assert (error > 1e-4).float().mean() < 0.25
        # Half a pixel apart would show in the centres; rounding moves them less, and evenly.
        image, label = ((v[0, 0] - 1) * out.weight for v in (out.image[:, :, 1:-1], truth))
        apart.append(_centre(image) - _centre(label))
        # Every slice and time point moved alike.
        assert torch.equal(out.image[0, 0], out.image[1, 5])
        # Had the label stayed behind, the agreement would be plainly worse.
        stayed = (out.image[:, :, 1:-1] - sample.label).abs()[:, :, out.weight > 0]
        assert stayed.mean() > 3 * error.mean()
    assert torch.stack(apart).abs().max() < 0.3
    assert torch.stack(apart).mean(0).abs().max() < 0.05


def test_affine_moves_as_far_as_asked():
    """The farthest that a blob's centre goes is the shift asked for, and it gets near it."""
    y, x = np.mgrid[:41, :41]
    blob = torch.from_numpy(((y - 20) ** 2 + (x - 20) ** 2 < 30).astype(np.float32))
    sample = Sample(blob.expand(1, 1, 1, -1, -1), blob[None].long(), torch.ones(1, 41, 41))
    options = AugmentOptions(affine_p=1.0, rotation_deg=0.0, scale=0.0, shift_px=4.0)
    moved = []
    for seed in range(40):
        image = augment(sample, options, _rng(seed)).image[0, 0, 0].numpy()
        moved.append([(image * y).sum() / image.sum() - 20, (image * x).sum() / image.sum() - 20])
    assert 3.5 < np.abs(moved).max() < 4.01
    assert np.min(moved) < -2 and np.max(moved) > 2


def test_what_comes_from_outside_has_no_weight():
    sample = _sample()
    options = AugmentOptions(affine_p=1.0, rotation_deg=0.0, scale=0.0, shift_px=10.0)
    out = augment(sample, options, _rng(1))
    assert 0.2 < (out.weight == 0).float().mean() < 0.9
    assert set(out.weight.unique().tolist()) == {0.0, 1.0}
    assert (out.label[out.weight == 0] == 0).all()
    assert out.image.min() >= sample.image.min()


def test_time_and_intensity_leave_the_truth_alone():
    geometric = dict.fromkeys(("flip_x_p", "flip_y_p", "rotate90_p", "affine_p"), 0.0)
    sample = _sample()
    out = augment(sample, replace(OFTEN, **geometric, noise_p=1.0), _rng())
    assert out.label is sample.label and out.weight is sample.weight
    assert not torch.equal(out.image, sample.image)


@pytest.mark.parametrize("shift", [-3, -1, 0, 2])
def test_whole_shifts_are_exact_and_hold_the_ends(shift):
    curve = _rng().normal(size=12)
    moved = bolus_matrix(12, shift) @ curve
    assert np.array_equal(moved, curve[np.clip(np.arange(12) - shift, 0, 11)])


def test_half_a_shift_is_the_mean_of_neighbours():
    curve = _rng().normal(size=12)
    assert np.allclose((bolus_matrix(12, 0.5) @ curve)[1:], (curve[1:] + curve[:-1]) / 2)


def test_stretch_draws_out_about_the_middle():
    at = np.arange(21.0)
    wide = bolus_matrix(21, 0.0, 1.5) @ np.exp(-0.5 * ((at - 10) / 2) ** 2)
    expected = np.exp(-0.5 * ((at - 10) / 3) ** 2)
    assert np.abs(wide - expected).max() < 0.03
    assert np.allclose(bolus_matrix(21, 1.3, 0.8).sum(1), 1)


def test_bolus_shift_of_a_sample_is_one_shift_for_all_voxels():
    times = torch.arange(10.0)[None, :, None, None, None]
    sample = Sample(times.expand(2, 10, 3, 8, 8), torch.zeros(1, 8, 8).long(), torch.ones(1, 8, 8))
    shifts = []
    for seed in range(30):
        image = augment(sample, AugmentOptions(bolus_p=1.0, shift_points=2.0), _rng(seed)).image
        assert torch.equal(image, image[:1, :, :1, :1, :1].expand_as(image))
        inner = image[0, 3:7, 0, 0, 0] - torch.arange(3.0, 7.0)
        assert inner.max() - inner.min() < 1e-5
        shifts.append(-inner.mean().item())
    assert -2 <= min(shifts) < -1 and 1 < max(shifts) <= 2


def test_dropped_frames_are_interpolated_from_those_beside():
    sample = _sample((1, 10, 3, 8, 8))
    for seed in range(20):
        out = augment(sample, AugmentOptions(drop_p=1.0, drop_frames=3), _rng(seed)).image[0]
        source = sample.image[0]
        kept = [t for t in range(10) if torch.equal(out[t], source[t])]
        assert 7 <= len(kept) <= 9
        for t in set(range(10)) - set(kept):
            before = max((k for k in kept if k < t), default=None)
            after = min((k for k in kept if k > t), default=None)
            if before is None or after is None:
                expected = source[after if before is None else before]
            else:
                expected = torch.lerp(
                    source[before], source[after], (t - before) / (after - before)
                )
            assert torch.allclose(out[t], expected, atol=1e-5)


def test_dropping_never_takes_the_last_frame():
    sample = _sample((1, 2, 3, 8, 8))
    out = augment(sample, AugmentOptions(drop_p=1.0, drop_frames=9), _rng()).image[0]
    assert torch.equal(out[0], out[1])
    assert any(torch.equal(out[0], frame) for frame in sample.image[0])


def test_contrast_scales_enhancement_and_keeps_the_baseline():
    sample = _sample()
    options = AugmentOptions(contrast_p=1.0, contrast=(1.5, 1.5), baseline_points=3)
    out = augment(sample, options, _rng()).image
    base = sample.image[:, :3].mean(1, keepdim=True)
    assert torch.allclose(out - base, 1.5 * (sample.image - base), atol=1e-5)
    assert torch.allclose(out[:, :3].mean(1), base[:, 0], atol=1e-5)


def test_contrast_of_one_time_point_changes_nothing():
    sample = _sample((2, 1, 3, 8, 8))
    assert _same(augment(sample, AugmentOptions(contrast_p=1.0), _rng()), sample)


def test_noise_has_the_sd_asked_for_and_is_white():
    sample = _sample((1, 20, 5, 40, 40))
    out = augment(sample, AugmentOptions(noise_p=1.0, noise_sd=(0.3, 0.3)), _rng())
    noise = (out.image - sample.image).numpy()
    assert abs(noise.std() - 0.3) < 0.003
    assert abs(noise.mean()) < 0.003
    for axis in range(1, 5):
        a, b = np.take(noise, [0], axis), np.take(noise, [1], axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_offset_is_one_number_within_its_range():
    sample = _sample()
    found = []
    for seed in range(20):
        change = augment(sample, AugmentOptions(offset_p=1.0, offset=0.5), _rng(seed)).image
        change = change - sample.image
        assert change.max() - change.min() < 1e-5
        found.append(change.mean().item())
    assert -0.5 <= min(found) < -0.2 and 0.2 < max(found) <= 0.5


def test_smoothing_is_in_plane_keeps_the_mean_and_has_the_width_asked_for():
    image = torch.zeros(1, 3, 3, 31, 31)
    image[0, 1, 1, 15, 15] = 1
    sample = Sample(image, torch.zeros(1, 31, 31).long(), torch.ones(1, 31, 31))
    options = AugmentOptions(smooth_p=1.0, smooth_px=(2.0, 2.0), outside=None)
    out = augment(sample, options, _rng()).image[0]
    plane = out[1, 1].double().numpy()
    y = np.arange(31) - 15
    assert abs(plane.sum() - 1) < 1e-3
    assert abs(np.sqrt((plane.sum(1) * y**2).sum()) - 2) < 0.1
    assert torch.count_nonzero(out[0]) == 0 and torch.count_nonzero(out[1, 0]) == 0


def test_what_is_not_brain_stays_as_it_is():
    sample = _sample()
    image = sample.image.clone()
    image[..., :6] = 0
    sample = replace(sample, image=image)
    options = AugmentOptions(noise_p=1.0, offset_p=1.0, smooth_p=1.0, noise_sd=(0.1, 0.2))
    assert (augment(sample, options, _rng()).image[..., :6] == 0).all()
    assert (augment(sample, options, _rng()).image[..., 6:] != 0).all()
    everywhere = augment(sample, replace(options, outside=None), _rng()).image
    assert (everywhere[..., :6] != 0).all()


def test_probabilities_are_kept():
    sample = _sample((1, 2, 1, 8, 8), margin=0)
    options = AugmentOptions(flip_x_p=0.3)
    rng = _rng()
    flipped = sum(augment(sample, options, rng).label is not sample.label for _ in range(500))
    assert 110 < flipped < 190


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip_x_p", 1.5),
        ("noise_p", -0.1),
        ("clinical_drop_p", 1.1),
        ("noise_p", float("nan")),
        ("noise_sd", (0.5, 0.1)),
        ("noise_sd", (-0.5, 0.1)),
        ("scale", 1.0),
        ("stretch_time", 1.2),
        ("shift_px", -1.0),
        ("drop_frames", 0),
        ("baseline_points", 0),
    ],
)
def test_impossible_options_are_refused(name, value):
    with pytest.raises(SettingsError, match=name):
        AugmentOptions(**{**asdict(AugmentOptions()), name: value})


@pytest.mark.parametrize(
    ("image", "label", "weight"),
    [
        ((8, 5, 16, 16), (3, 16, 16), (3, 16, 16)),
        ((1, 8, 5, 16, 16), (6, 16, 16), (6, 16, 16)),
        ((1, 8, 5, 16, 16), (3, 16, 12), (3, 16, 12)),
        ((1, 8, 5, 16, 16), (3, 16, 16), (5, 16, 16)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(image, label, weight):
    with pytest.raises(GeometryError):
        Sample(torch.zeros(image), torch.zeros(label).long(), torch.zeros(weight))


def _patient():
    """Three scores, the second of which is not known."""
    return replace(_sample(), clinical=torch.tensor([0.5, 1.0, 0.0, 0.0, -1.0, 1.0]))


def test_clinical_scores_are_kept_or_forgotten_whole():
    """A forgotten score looks as one that was never known, and each is forgotten by itself."""
    sample, rng, options = _patient(), _rng(), AugmentOptions(clinical_drop_p=0.25)
    kept = np.zeros(2)
    for _ in range(800):
        score, unknown, other = augment(sample, options, rng).clinical.reshape(3, 2).tolist()
        assert score in ([0.5, 1.0], [0.0, 0.0]) and other in ([-1.0, 1.0], [0.0, 0.0])
        assert unknown == [0.0, 0.0]
        kept += score[1], other[1]
    assert kept / 800 == pytest.approx([0.75, 0.75], abs=0.05)
    assert sample.clinical[0] == 0.5  # the input is kept


@pytest.mark.parametrize(("chance", "left"), [(0.0, [0.5, 1, 0, 0, -1, 1]), (1.0, [0.0] * 6)])
def test_scores_are_always_or_never_forgotten(chance, left):
    options = AugmentOptions(clinical_drop_p=chance)
    for seed in range(20):
        assert augment(_patient(), options, _rng(seed)).clinical.tolist() == left


def test_forgetting_scores_changes_nothing_of_the_image():
    always = replace(OFTEN, clinical_drop_p=1.0)
    plain = augment(_sample(), replace(OFTEN, clinical_drop_p=0.0), _rng(3))
    assert _same(augment(_patient(), always, _rng(3)), plain)
    assert augment(_sample(), always, _rng(3)).clinical.shape == (0,)


def test_turns_and_shifts_leave_the_scores():
    sample = _patient()
    options = replace(OFTEN, clinical_drop_p=0.0)
    assert torch.equal(augment(sample, options, _rng(5)).clinical, sample.clinical)
