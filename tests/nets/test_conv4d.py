"""Conv4d against a direct sum over windows in float64; its adjoint, errors, autocast, compile."""

import copy
import pickle
import sys

import pytest
import torch
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError
from strokect.nets import fold4d
from strokect.nets.conv4d import Conv4d, ConvTranspose4d, conv4d, conv_transpose4d

#: shape of the input (B, C, D1, D2, D3, D4), output channels, kernel, stride, padding, dilation,
#: groups. The folded axis, and the way of folding, differ between them.
CASES = {
    "plain": ((2, 3, 5, 6, 7, 4), 4, 3, 1, 1, 1, 1),
    "valid": ((1, 2, 4, 3, 5, 6), 3, (3, 2, 1, 3), 1, 0, 1, 1),
    "pointwise": ((2, 3, 3, 2, 4, 5), 5, 1, 1, 0, 1, 1),
    "pointwise, strides and padding": ((2, 3, 3, 4, 4, 5), 5, 1, (2, 1, 2, 3), (1, 0, 2, 1), 1, 1),
    "first layer": ((2, 1, 9, 3, 6, 6), 8, 3, (3, 1, 1, 1), 1, 1, 1),
    "whole first axis": ((1, 4, 7, 3, 5, 5), 2, (7, 3, 3, 3), 1, (0, 1, 1, 1), 1, 1),
    "strides": ((2, 4, 7, 6, 8, 9), 4, 3, (2, 1, 3, 2), (1, 0, 1, 2), 1, 1),
    "second axis strided": ((2, 4, 3, 9, 6, 6), 8, 3, (1, 3, 1, 1), 1, 1, 1),
    "dilations": ((1, 2, 7, 6, 8, 9), 3, (2, 3, 2, 3), 1, (1, 2, 0, 2), (3, 1, 2, 2), 1),
    "groups": ((2, 8, 5, 4, 5, 6), 4, (3, 1, 2, 3), (1, 1, 2, 1), 1, (1, 1, 1, 2), 2),
    "groups, every option": ((2, 6, 8, 7, 9, 8), 9, (3, 2, 3, 2), (2, 3, 1, 2), (2, 1, 0, 1),
                             (2, 1, 3, 2), 3),
    "depthwise": ((1, 4, 5, 4, 6, 5), 8, 3, 1, 1, 1, 4),
    "depthwise, wide": ((1, 8, 5, 4, 6, 5), 16, 3, 1, 1, 1, 2),
    "more padding than kernel": ((1, 2, 3, 3, 3, 3), 2, 2, (3, 2, 1, 1), (3, 2, 2, 3), 1, 1),
    "stride over the kernel": ((1, 2, 8, 7, 9, 8), 2, 2, (4, 3, 3, 4), (0, 1, 2, 0), 1, 1),
    "one frame": ((1, 4, 3, 3, 6, 6), 4, (3, 3, 3, 3), 1, (0, 0, 1, 1), 1, 1),
}  # fmt: skip
BIG, TINY = fold4d._PIECE_BYTES["cpu"], 3000


def _four(value):
    return (value,) * 4 if isinstance(value, int) else value


def direct(x, weight, bias, stride, padding, dilation, groups):
    """Windows taken out one by one, then one sum of products."""
    for axis in range(4):
        pad = [0] * 12
        pad[2 * (3 - axis)] = pad[2 * (3 - axis) + 1] = _four(padding)[axis]
        x = functional.pad(x, pad[:8])
    for axis in range(4):
        at, k = 2 + 2 * axis, weight.shape[2 + axis]
        s, d = _four(stride)[axis], _four(dilation)[axis]
        n = (x.shape[at] - d * (k - 1) - 1) // s + 1
        places = s * torch.arange(n, device=x.device)[:, None] + d * torch.arange(
            k, device=x.device
        )
        x = x.index_select(at, places.flatten()).unflatten(at, (n, k))
    windows = x.unflatten(1, (groups, -1))
    kernels = weight.unflatten(0, (groups, -1))
    out = torch.einsum("bgcminjpkql,gocijkl->bgomnpq", windows, kernels).flatten(1, 2)
    return out if bias is None else out + bias.view(-1, 1, 1, 1, 1)


def _tensors(case, dtype=torch.float64, device="cpu"):
    """Input, weight and bias of a case with gradients, and its options."""
    shape, out, kernel, *options, groups = case
    draw = torch.Generator().manual_seed(sum(shape))
    shapes = (shape, (out, shape[1] // groups, *_four(kernel)), (out,))
    made = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    return [t.to(device, dtype).requires_grad_() for t in made], (*options, groups)


def _value_and_gradients(function, tensors, options):
    value = function(*tensors, *options)
    towards = torch.cos(torch.arange(value.numel(), dtype=torch.float64)).view(value.shape)
    given = torch.autograd.grad(value, tensors, towards.to(value.device, value.dtype))
    return [value, *given]


def _check_against_direct(case, dtype=torch.float64, device="cpu", tolerance=1e-11):
    tensors, options = _tensors(case, dtype, device)
    exact = [t.detach().cpu().double().requires_grad_() for t in tensors]
    expected = _value_and_gradients(direct, exact, options)
    for got, want in zip(_value_and_gradients(conv4d, tensors, options), expected, strict=True):
        assert got.shape == want.shape
        scale = max(float(want.detach().abs().max()), 1.0)
        apart = (got.detach().cpu().double() - want.detach()).abs().max()
        assert float(apart) <= tolerance * scale


@pytest.mark.parametrize("bytes_", [BIG, TINY], ids=["whole", "in pieces"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_value_and_gradients_are_those_of_the_direct_sum(case, bytes_, monkeypatch):
    monkeypatch.setitem(fold4d._PIECE_BYTES, "cpu", bytes_)
    _check_against_direct(case)


@pytest.mark.parametrize("bytes_", [BIG, TINY], ids=["whole", "in pieces"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_in_single_precision(case, bytes_, monkeypatch):
    monkeypatch.setitem(fold4d._PIECE_BYTES, "cpu", bytes_)
    _check_against_direct(case, torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("case", ["strides", "groups, every option", "depthwise, wide"])
def test_whichever_axis_is_folded(case, axis, monkeypatch):
    monkeypatch.setattr(fold4d, "_axis", lambda *_: axis)
    monkeypatch.setitem(fold4d._PIECE_BYTES, "cpu", TINY)
    _check_against_direct(CASES[case])
    _check_against_direct(CASES[case], torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("scatters", [True, False])
@pytest.mark.parametrize("case", ["plain", "dilations", "depthwise, wide"])
def test_both_ways_of_folding(case, scatters, monkeypatch):
    monkeypatch.setattr(fold4d, "_scatters", lambda *_: scatters)
    monkeypatch.setitem(fold4d._PIECE_BYTES, "cpu", TINY)
    _check_against_direct(CASES[case])


@pytest.mark.parametrize("case", ["plain", "first layer", "groups, every option"])
def test_channels_first_as_on_a_gpu(case, monkeypatch):
    monkeypatch.setattr(fold4d, "_layout", lambda _: torch.contiguous_format)
    monkeypatch.setattr(fold4d, "_scatters", lambda *_: False)
    _check_against_direct(CASES[case])
    (x, weight, bias), options = _tensors(CASES[case])
    assert conv4d(x, weight, bias, *options).is_contiguous()


def test_any_layout_of_the_input_gives_the_same():
    (x, weight, bias), options = _tensors(CASES["plain"], torch.float32)
    last = x.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    mirrored = x.detach().permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0)
    expected = conv4d(x, weight, bias, *options)
    for same in (last, mirrored):
        assert torch.allclose(conv4d(same, weight, bias, *options), expected, atol=1e-5)
    towards = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [x, weight], towards, retain_graph=True)
    got = torch.autograd.grad(expected, [x, weight], towards.contiguous())
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel", [(3, 3, 3, 3), (2, 4, 1, 3)])
def test_same_keeps_the_size_and_centre(kernel):
    """As torch: of an odd total the end gets one more."""
    x = torch.randn(2, 3, 5, 6, 4, 7, dtype=torch.float64)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64)
    total = [2 * (k - 1) for k in kernel]
    sides = [v for t in reversed(total) for v in (t // 2, t - t // 2)]
    expected = direct(functional.pad(x, sides), weight, None, 1, 0, 2, 1)
    got = conv4d(x, weight, padding="same", dilation=2)
    assert got.shape == (2, 4, 5, 6, 4, 7)
    assert torch.allclose(got, expected)
    flat = conv4d(x[:, :, :1], weight[:, :, :1], padding="same")[:, :, 0]
    assert torch.allclose(flat, functional.conv3d(x[:, :, 0], weight[:, :, 0], padding="same"))


def test_valid_is_no_padding():
    x, layer = torch.randn(1, 2, 4, 4, 5, 5), Conv4d(2, 3, 3, padding="valid")
    assert torch.equal(layer(x), conv4d(x, layer.weight, layer.bias))


def test_bias_is_added_once():
    layer = Conv4d(2, 3, 3, padding="same")
    torch.nn.init.zeros_(layer.weight)
    x = torch.randn(1, 2, 3, 4, 5, 6)
    assert torch.equal(layer(x), layer.bias.view(1, 3, 1, 1, 1, 1).expand(1, 3, 3, 4, 5, 6))
    back = ConvTranspose4d(2, 3, 3, stride=2)
    torch.nn.init.zeros_(back.weight)
    assert torch.equal(back(x).amax((0, 2, 3, 4, 5)), back.bias)
    assert torch.equal(back(x).amin((0, 2, 3, 4, 5)), back.bias)


@pytest.mark.parametrize("bytes_", [BIG, TINY], ids=["whole", "in pieces"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_transposed_is_the_adjoint(case, bytes_, monkeypatch):
    """<conv4d x, y> = <x, its transpose y>, at the size that output_padding restores."""
    monkeypatch.setitem(fold4d._PIECE_BYTES, "cpu", bytes_)
    (x, weight, _), (stride, padding, dilation, groups) = _tensors(case)
    y = conv4d(x, weight, None, stride, padding, dilation, groups)
    other = torch.randn_like(y)
    rows = zip(x.shape[2:], y.shape[2:], weight.shape[2:], _four(stride), _four(padding),
               _four(dilation), strict=True)  # fmt: skip
    extra = [d - ((n - 1) * s - 2 * p + r * (k - 1) + 1) for d, n, k, s, p, r in rows]
    back = conv_transpose4d(other, weight, None, stride, padding, extra, groups, dilation)
    assert back.shape == x.shape
    assert torch.allclose((y * other).sum(), (x * back).sum())


@pytest.mark.parametrize("axis", range(4))
def test_transposed_as_torch_where_an_axis_is_one(axis):
    x = torch.randn(2, 4, 3, 5, 4, dtype=torch.float64)
    layer = torch.nn.ConvTranspose3d(4, 6, (3, 2, 3), (2, 1, 3), (1, 0, 1), (1, 0, 2), groups=2,
                                     dilation=(1, 2, 1)).double()  # fmt: skip

    def among(values, one):
        return (*values[:axis], one, *values[axis:])

    own = ConvTranspose4d(
        4, 6, among(layer.kernel_size, 1), among(layer.stride, 1), among(layer.padding, 0),
        among(layer.output_padding, 0), groups=2, dilation=among(layer.dilation, 1),
    ).double()  # fmt: skip
    own.load_state_dict({"weight": layer.weight.unsqueeze(axis + 2), "bias": layer.bias})
    assert torch.allclose(own(x.unsqueeze(axis + 2)).squeeze(axis + 2), layer(x))


def test_gradcheck_first_and_second():
    tensors, options = _tensors(((1, 2, 3, 2, 3, 2), 2, (2, 1, 2, 2), (1, 2, 1, 1), 1, 1, 1))
    assert torch.autograd.gradcheck(lambda *t: conv4d(*t, *options), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: conv4d(*t, *options), tensors)
    x, weight, bias = tensors

    def back(*t):
        return conv_transpose4d(*t, stride=2, padding=1, output_padding=1)

    assert torch.autograd.gradcheck(back, (x, weight, bias))
    assert torch.autograd.gradgradcheck(back, (x, weight, bias))


def test_only_input_and_weight_are_kept_for_the_backward_pass():
    kept = []
    layer, x = Conv4d(4, 4, 3, padding="same"), torch.randn(2, 4, 6, 5, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        layer(x)
    assert sum(kept) <= x.numel() + layer.weight.numel()


def test_bfloat16_by_autocast_used_twice():
    """Computed in bfloat16 (1/256 a rounding), gradients of the parameters in their own type."""
    first, second = Conv4d(3, 8, 3, padding="same"), Conv4d(8, 8, 3, (2, 1, 1, 1), 1)
    x = torch.randn(2, 3, 6, 4, 8, 8)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            out = second(first(x)) + second(first(x))
        assert out.dtype == torch.bfloat16
        exact = 2 * second(first(x))
        assert (out - exact).abs().max() < 0.03 * exact.abs().max()
        out.float().square().mean().backward()
        got, first.weight.grad = first.weight.grad, None
        exact.square().mean().backward()
        want, first.weight.grad = first.weight.grad, None
        assert got.dtype == torch.float32
        assert (got - want).abs().max() < 0.05 * want.abs().max()


def test_autocast_leaves_double_alone():
    tensors, options = _tensors(CASES["plain"])
    with torch.autocast("cpu", torch.bfloat16):
        assert conv4d(*tensors, *options).dtype == torch.float64


@pytest.mark.skipif(sys.platform == "win32", reason="torch.compile is not for this platform")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_break(backend):
    layers = torch.nn.Sequential(
        Conv4d(2, 4, (3, 3, 2, 3), padding="same"), torch.nn.ReLU(), ConvTranspose4d(4, 2, 2, 2)
    )
    compiled = torch.compile(layers, fullgraph=True, backend=backend)
    x = torch.randn(1, 2, 3, 4, 5, 4)
    out, expected = compiled(x), layers(x)
    assert out.stride() == expected.stride()
    assert torch.allclose(out, expected)
    weight = layers[0].weight
    (want,) = torch.autograd.grad(expected.square().sum(), weight)
    (got,) = torch.autograd.grad(out.square().sum(), weight)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_operators_keep_what_torch_asks_of_operators():
    """Shapes and strides without data, no alias, gradients registered."""
    (x, weight, bias), options = _tensors(CASES["plain"], torch.float32)
    taps = [list(_four(v)) for v in options[:3]] + [options[3]]
    torch.library.opcheck(fold4d.convolve, (x, weight, bias, *taps))
    y = conv4d(x, weight, bias, *options).detach().requires_grad_()
    torch.library.opcheck(fold4d.spread, (y, weight, None, list(x.shape[2:]), *taps))
    torch.library.opcheck(fold4d.correlate, (x, y, list(weight.shape[2:]), *taps))


def test_starts_as_torch_does():
    torch.manual_seed(3)
    ours = Conv4d(4, 6, (3, 2, 3, 3), groups=2)
    torch.manual_seed(3)
    theirs = torch.nn.Conv3d(4, 6, (6, 3, 3), groups=2)
    assert torch.equal(ours.weight.flatten(), theirs.weight.flatten())
    assert torch.equal(ours.bias, theirs.bias)
    torch.manual_seed(3)
    ours = ConvTranspose4d(4, 6, (3, 2, 3, 3), groups=2)
    torch.manual_seed(3)
    theirs = torch.nn.ConvTranspose3d(4, 6, (6, 3, 3), groups=2)
    assert torch.equal(ours.weight.flatten(), theirs.weight.flatten())
    assert torch.equal(ours.bias, theirs.bias)


def test_layers_copy_pickle_and_describe_themselves():
    layer = Conv4d(2, 4, 3, padding="same", bias=False)
    x = torch.randn(1, 2, 3, 3, 4, 4)
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x), layer(x))
    assert "padding=same" in repr(layer)
    assert "bias=False" in repr(layer)
    assert "output_padding=(1, 1, 1, 1)" in repr(ConvTranspose4d(1, 1, 2, 2, 0, 1))


def test_an_empty_batch_stays_empty():
    layer = Conv4d(2, 4, 3, padding="same")
    out = layer(torch.randn(0, 2, 3, 3, 4, 4))
    assert out.shape == (0, 4, 3, 3, 4, 4)
    out.sum().backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv4d(3, 4, 3, groups=2), "do not divide"),
        (lambda: Conv4d(4, 3, 3, groups=2), "do not divide"),
        (lambda: ConvTranspose4d(4, 3, 3, groups=2), "do not divide"),
        (lambda: Conv4d(4, 4, 3, groups=0), "counted from 1"),
        (lambda: Conv4d(0, 4, 3), "counted from 1"),
        (lambda: Conv4d(4, 4, 3, stride=2, padding="same"), "same"),
        (lambda: Conv4d(4, 4, 3, padding="full"), "full"),
        (lambda: Conv4d(4, 4, (3, 3, 3)), "kernel_size"),
        (lambda: Conv4d(4, 4, 0), "kernel_size"),
        (lambda: Conv4d(4, 4, 2.5), "kernel_size"),
        (lambda: Conv4d(4, 4, 3, stride=0), "stride"),
        (lambda: Conv4d(4, 4, 3, dilation=(1, 1, 1, 0)), "dilation"),
        (lambda: Conv4d(4, 4, 3, padding=-1), "padding"),
        (lambda: ConvTranspose4d(4, 4, 3, output_padding=(1, 1, 1, -1)), "output_padding"),
        (lambda: ConvTranspose4d(4, 4, 3, 2, 0, 2)(torch.zeros(1, 4, 3, 3, 3, 3)), "as large as"),
        (lambda: conv4d(torch.zeros(1, 3, 3, 3, 3, 3), torch.zeros(4, 1, 1, 1, 1, 1), groups=3),
         "do not divide"),
    ],
)  # fmt: skip
def test_options_no_convolution_has_are_refused(make, words):
    with pytest.raises(SettingsError, match=words) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv4d(4, 4, 3)(torch.zeros(4, 3, 3, 3, 3)), "six axes"),
        (lambda: Conv4d(4, 4, 3)(torch.zeros(1, 2, 3, 3, 3, 3)), "input of 4 channels"),
        (lambda: Conv4d(4, 4, 3, groups=2)(torch.zeros(1, 2, 3, 3, 3, 3)), "input of 4 channels"),
        (lambda: Conv4d(1, 1, 3)(torch.zeros(1, 1, 3, 3, 2, 3)), "larger than the padded input"),
        (lambda: Conv4d(1, 1, 3, dilation=2)(torch.zeros(1, 1, 5, 5, 5, 4)), "larger than"),
        (lambda: ConvTranspose4d(2, 1, 3)(torch.zeros(1, 3, 3, 3, 3, 3)), "input of 2 channels"),
        (lambda: ConvTranspose4d(2, 1, 1, 1, 2)(torch.zeros(1, 2, 3, 3, 3, 3)), "leaves nothing"),
        (lambda: conv4d(torch.zeros(1, 1, 3, 3, 3, 3), torch.zeros(1, 1, 3, 3, 3)), "weight"),
        (lambda: conv4d(torch.zeros(1, 1, 3, 3, 3, 3), torch.zeros(2, 1, 3, 3, 3, 3),
                        torch.zeros(1)), "bias"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(make, words):
    with pytest.raises(GeometryError, match=words) as found:
        make()
    assert "\n" not in str(found.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_on_a_gpu(case):
    _check_against_direct(case, torch.float64, "cuda")
    _check_against_direct(case, torch.float32, "cuda", tolerance=5e-3)  # TF32 has 10 bits
    _check_against_direct(case, torch.bfloat16, "cuda", tolerance=5e-2)
