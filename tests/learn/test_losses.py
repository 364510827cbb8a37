"""Each loss against its formula, written out in float64; masks, absent classes, batches."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
import torch

from strokect import catalog
from strokect.core.errors import GeometryError, SettingsError
from strokect.learn.losses import LossOptions

NAMES = tuple(catalog.LOSSES)  # a new loss is tested unasked, and asks for its formula here
REGION = ("dice", "squared_dice", "tversky", "focal_tversky", "tanimoto")
WEIGHTED = LossOptions(
    class_weights=(0.5, 1.0, 2.0), alpha=0.6, beta=0.3, gamma=1.5, focal_gamma=1.5, smooth=0.7
)
OPTIONS = (
    LossOptions(),
    WEIGHTED,
    LossOptions(include_background=False, class_weights=(9.0, 1.0, 3.0)),
)


def _case(batch=1, classes=3, seed=0, size=(2, 5, 4)):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 1.5, (batch, classes, *size)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, classes, (batch, *size)))
    weight = torch.from_numpy((rng.random((batch, *size)) < 0.7).astype(np.float32))
    return logits, labels, weight


def _build(name, options=LossOptions(), classes=3):
    return catalog.load("losses", name)(options, classes)


def _formula(name, logits, labels, weight, options):
    """The loss of one sample, voxel lists in float64. logits (K, ...)."""
    if name.startswith("ce_"):
        return _formula("cross_entropy", logits, labels, weight, options) + _formula(
            name.removeprefix("ce_"), logits, labels, weight, options
        )
    inside = weight.numpy().ravel() > 0
    z = logits.double().numpy().reshape(len(logits), -1)[:, inside]
    y = labels.numpy().ravel()[inside]
    p = np.exp(z) / np.exp(z).sum(0)
    w = np.array(options.class_weights or [1.0] * len(p))
    if name in ("cross_entropy", "focal"):
        true = p[y, np.arange(len(y))]
        gamma = options.focal_gamma if name == "focal" else 0
        return (w[y] * -((1 - true) ** gamma) * np.log(true)).sum() / w[y].sum()
    g = np.eye(len(p))[:, y]
    each = np.array([_region(name, a, b, options) for a, b in zip(p, g, strict=True)])
    first = 0 if options.include_background else 1
    return (w * each)[first:].sum() / w[first:].sum()


def _region(name, p, g, o):
    s, tp = o.smooth, (p * g).sum()
    if name == "dice":
        return 1 - (2 * tp + s) / (p.sum() + g.sum() + s)
    if name == "squared_dice":
        return 1 - (2 * tp + s) / ((p**2).sum() + (g**2).sum() + s)
    if name == "tanimoto":

        def t(a, b):
            return ((a * b).sum() + s) / ((a**2).sum() + (b**2).sum() - (a * b).sum() + s)

        return 1 - (t(p, g) + t(1 - p, 1 - g)) / 2
    beta = 1 - o.alpha if o.beta is None else o.beta
    missed, false = ((1 - p) * g).sum(), (p * (1 - g)).sum()
    index = (tp + s) / (tp + o.alpha * missed + beta * false + s)
    return (1 - index) ** (1 / o.gamma if name == "focal_tversky" else 1)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "weighted", "foreground"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula_masked_and_averaged_over_samples(name, options):
    logits, labels, weight = _case(batch=3)
    expected = np.mean(
        [_formula(name, *x, options) for x in zip(logits, labels, weight, strict=True)]
    )
    found = _build(name, options)(logits, labels, weight)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=2e-6)


def test_by_hand():
    """Two voxels, two classes, p = (0.8, 0.4) for the true class 1 and 0."""
    p = torch.tensor([[0.2, 0.4], [0.8, 0.6]])
    logits, labels = p.log().reshape(1, 2, 1, 1, 2), torch.tensor([1, 0]).reshape(1, 1, 1, 2)
    o = LossOptions(smooth=1e-9)

    def value(name):
        return _build(name, o, 2)(logits, labels).item()

    # Class 0: TP 0.4, FP 0.2, FN 0.6. Class 1: TP 0.8, FP 0.6, FN 0.2.
    assert value("dice") == pytest.approx(1 - (0.8 / 1.6 + 1.6 / 2.4) / 2, rel=1e-5)
    assert value("squared_dice") == pytest.approx(1 - (0.8 / 1.2 + 1.6 / 2.0) / 2, rel=1e-5)
    index = 0.4 / (0.4 + 0.7 * 0.6 + 0.3 * 0.2), 0.8 / (0.8 + 0.7 * 0.2 + 0.3 * 0.6)
    assert value("tversky") == pytest.approx(1 - sum(index) / 2, rel=1e-5)
    focal = sum((1 - i) ** 0.75 for i in index) / 2
    assert value("focal_tversky") == pytest.approx(focal, rel=1e-5)
    # Of two classes each is the complement of the other.
    assert value("tanimoto") == pytest.approx(1 - (0.4 / 0.8 + 0.8 / 1.2) / 2, rel=1e-5)
    ce = -(np.log(0.8) + np.log(0.4)) / 2
    assert value("cross_entropy") == pytest.approx(ce, rel=1e-5)
    focal_loss = -(0.04 * np.log(0.8) + 0.36 * np.log(0.4)) / 2
    assert value("focal") == pytest.approx(focal_loss, rel=1e-5)
    assert value("ce_dice") == pytest.approx(ce + value("dice"), rel=1e-5)
    assert value("ce_focal_tversky") == pytest.approx(ce + focal, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_perfect_costs_nothing_and_worse_costs_more(name):
    _, labels, weight = _case(batch=2)
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    loss = _build(name)
    values = [loss(strength * one_hot, labels, weight).item() for strength in (40, 4, 1, 0, -2)]
    assert 0 <= values[0] < 2e-5
    assert all(a < b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("strength", [0.0, 1.0, 40.0, 1000.0, -1000.0])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_finite_at_every_certainty(name, strength):
    _, labels, weight = _case()
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    logits = (strength * one_hot).requires_grad_()
    value = _build(name)(logits, labels, weight)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences(name):
    logits, labels, weight = _case(size=(1, 2, 3))
    leaf = logits.clone().requires_grad_()
    _build(name, WEIGHTED)(leaf, labels, weight).backward()
    step, flat = 1e-6, logits.double().flatten()
    for i in range(0, flat.numel(), 5):
        up, down = flat.clone(), flat.clone()
        up[i] += step
        down[i] -= step
        ends = [
            _formula(name, v.view(3, 1, 2, 3), labels[0], weight[0], WEIGHTED) for v in (up, down)
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert leaf.grad.flatten()[i].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "weighted", "foreground"])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_of_one_sample_average_to_one_of_two(name, options):
    logits, labels, weight = _case(batch=2)
    weight[1, :, :, 1:] = 0  # samples of unlike size
    labels[0] = 0  # and unlike classes
    loss = _build(name, options)
    both = logits.clone().requires_grad_()
    together = loss(both, labels, weight)
    together.backward()
    apart = logits.clone().requires_grad_()
    halves = [loss(apart[i : i + 1], labels[i : i + 1], weight[i : i + 1]) for i in range(2)]
    ((halves[0] + halves[1]) / 2).backward()
    assert together.item() == pytest.approx((halves[0].item() + halves[1].item()) / 2, rel=3e-7)
    assert torch.allclose(both.grad, apart.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_pooled_batch_is_one_large_sample(name):
    logits, labels, weight = _case(batch=2)
    pooled = _build(name, LossOptions(**{**asdict(WEIGHTED), "batch": True}))
    as_one = [torch.cat(list(x), dim=-1)[None] for x in (logits, labels, weight)]
    expected = _build(name, WEIGHTED)(*as_one)
    assert torch.allclose(pooled(logits, labels, weight), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_masked_voxels_play_no_part_whatever_their_label(name):
    logits, labels, weight = _case(batch=2)
    loss = _build(name, WEIGHTED)
    first = logits.clone().requires_grad_()
    value = loss(first, labels, weight)
    value.backward()
    assert (first.grad.movedim(1, -1)[weight == 0] == 0).all()
    other, odd = logits.clone(), labels.clone()
    other.movedim(1, -1)[weight == 0] = 7.0
    odd[weight == 0] = 255
    assert torch.equal(loss(other, odd, weight), value)


@pytest.mark.parametrize("name", NAMES)
def test_no_mask_is_a_mask_of_ones_and_all_masked_costs_nothing(name):
    logits, labels, weight = _case()
    loss = _build(name, WEIGHTED)
    assert torch.equal(loss(logits, labels), loss(logits, labels, torch.ones_like(weight)))
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels, torch.zeros_like(weight))
    value.backward()
    assert value.item() == pytest.approx(0, abs=5e-5)
    assert (leaf.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_class_still_pays_for_false_positives(name):
    """Class 2 is nowhere; the more voxels are called so, the dearer, and the slope says so."""
    labels = torch.zeros(1, 2, 5, 4).long()
    labels[:, 0] = 1
    base = 8 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    values = []
    for count in (0, 1, 5, 10):
        logits = base.clone()
        logits[0, 2].view(-1)[:count] = 10.0
        logits.requires_grad_()
        value = _build(name)(logits, labels)
        value.backward()
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[0, 2].view(-1)[:count] > 0).all()
        values.append(value.item())
    assert all(a < b for a, b in itertools.pairwise(values))


def test_smooth_sets_where_an_absent_class_costs_one_half():
    labels = torch.zeros(1, 1, 10, 10).long()
    logits = torch.full((1, 2, 1, 10, 10), -50.0)
    logits[0, 0] = 0
    logits[0, :, 0, 0] = torch.tensor([-50.0, 0.0])[:, None]  # ten false positives
    only = {"class_weights": (0.0, 1.0)}
    assert _build("dice", LossOptions(smooth=10.0, **only), 2)(
        logits, labels
    ).item() == pytest.approx(0.5)
    tversky = _build("tversky", LossOptions(smooth=3.0, **only), 2)(logits, labels)
    assert tversky.item() == pytest.approx(0.5)


def test_special_cases_join_the_losses():
    case = _case(batch=2)
    half = LossOptions(alpha=0.5, smooth=0.5)
    assert torch.allclose(
        _build("tversky", half)(*case), _build("dice", LossOptions(smooth=1.0))(*case)
    )
    assert torch.allclose(
        _build("focal", LossOptions(focal_gamma=0.0))(*case), _build("cross_entropy")(*case)
    )
    assert torch.allclose(
        _build("focal_tversky", LossOptions(gamma=1.0))(*case), _build("tversky")(*case)
    )


@pytest.mark.parametrize("name", ["tversky", "focal_tversky"])
def test_a_missed_voxel_costs_more_than_a_false_one(name):
    truth = torch.zeros(1, 1, 10, 10).long()
    truth[..., :5, :4] = 1

    def cost(found):
        logits = 30.0 * torch.nn.functional.one_hot(found, 2).movedim(-1, 1).float()
        return _build(name, LossOptions(class_weights=(0.0, 1.0)), 2)(logits, truth).item()

    missing, extra = truth.clone(), truth.clone()
    missing[..., :5, 3] = 0
    extra[..., :5, 4] = 1
    assert cost(missing) > 1.3 * cost(extra)


@pytest.mark.parametrize("name", NAMES)
def test_scaled_class_weights_change_nothing(name):
    case = _case(batch=2)
    one, ten = ((0.5, 1.0, 2.0), (5.0, 10.0, 20.0))
    a, b = (_build(name, LossOptions(class_weights=w))(*case) for w in (one, ten))
    assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_full(name):
    logits, labels, weight = _case(batch=2, size=(4, 64, 64))
    loss = _build(name)
    rough = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(rough, labels, weight)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(rough.float(), labels, weight))


@pytest.mark.parametrize("name", REGION)
def test_a_small_lesion_in_a_large_field_is_exact_in_float32(name):
    """Half a million voxels of background must not wash out a lesion of thirty."""
    rng = np.random.default_rng(1)
    labels = torch.zeros(1, 8, 256, 256).long()
    labels[0, 0, :5, :6] = 1
    logits = torch.from_numpy(rng.normal(0, 1, (1, 2, 8, 256, 256)).astype(np.float32))
    logits[:, 0] += 12 * (labels == 0) - 2.0
    options = LossOptions(class_weights=(0.0, 1.0))
    expected = _formula(name, logits[0], labels[0], torch.ones_like(labels[0]), options)
    assert _build(name, options, 2)(logits, labels).item() == pytest.approx(
        expected, rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_in_checkpoints(name):
    assert not _build(name, WEIGHTED).state_dict()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": 1.2}, "alpha"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha"),
        ({"gamma": 0.0}, "gamma"),
        ({"focal_gamma": 0.5}, "focal_gamma"),
        ({"smooth": 0.0}, "smooth"),
        ({"class_weights": (1.0, -1.0, 1.0)}, "class_weights"),
        ({"class_weights": (0.0, 0.0, 0.0)}, "class_weights"),
        ({"class_weights": (1.0, float("nan"), 1.0)}, "class_weights"),
    ],
)
def test_impossible_options_are_refused(change, word):
    with pytest.raises(SettingsError, match=word):
        LossOptions(**change)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_shapes_that_do_not_fit_are_refused(name):
    with pytest.raises(SettingsError, match="class_weights"):
        _build(name, LossOptions(class_weights=(1.0, 2.0)))
    logits, labels, weight = _case()
    loss = _build(name)
    with pytest.raises(GeometryError, match="logits"):
        loss(logits[:, :2], labels, weight)
    with pytest.raises(GeometryError, match="labels"):
        loss(logits, labels[..., :1], weight)
    with pytest.raises(GeometryError, match="weight"):
        loss(logits, labels, weight[:, :1])


def test_foreground_without_weight_is_refused():
    options = LossOptions(class_weights=(1.0, 0.0, 0.0), include_background=False)
    with pytest.raises(SettingsError, match="class_weights"):
        _build("dice", options)
