"""1-bit operators and layers of torch, against float64 and torch's own autograd."""

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import kernels  # noqa: E402
from kernels import reals  # noqa: E402
from kernels.torch import BinaryConv2d, BinaryLinear, clip_weights, make_binary, operators, pack, sign  # noqa: E402

ops = torch.ops.kernels
CONVOLUTIONS = [  # images, size, channels, filters, taps, padding, stride
    (2, (7, 5), 3, 5, (3, 3), 1, 1),
    (1, (8, 8), 70, 17, (3, 3), 1, 1),
    (2, (9, 6), 65, 4, (2, 3), 0, 2),
    (1, (5, 5), 1, 1, (5, 5), 2, 1),
    (3, (6, 6), 4, 3, (1, 1), 0, 1),
    (2, (4, 4), 3, 2, (3, 3), 3, 3),
]


@pytest.fixture(params=["torch", "reals"])
def way(request, monkeypatch):
    """Products of reals with ±1 by torch, and by kernels.reals: with tables, or in NumPy."""

    def by_reals(*operands):
        return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in operands)

    monkeypatch.setattr(operators, "by_tables", by_reals if request.param == "reals" else lambda *_: False)
    return request.param


def normal(*shape, seed=0, **kind):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(**kind)


def signs(*shape, seed=0):
    return normal(*shape, seed=seed).ge(0).mul(2.0).sub(1)


def plus_minus(x):
    return torch.where(x >= 0, 1.0, -1.0).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", [(3, 65), (2, 3, 4, 64), (1,), (0, 5), (4, 130)])
def test_packed_words_are_those_of_kernels(shape, dtype):
    x = normal(*shape).mul(3).to(dtype)
    if x.numel() > 1:
        x.view(-1)[:2] = torch.tensor([0.0, -0.0])
    wanted = kernels.pack(x.float().numpy(), "reference").words.view(np.int64)
    found = pack(x)
    assert found.dtype == torch.int64 and np.array_equal(found.numpy(), wanted)
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(pack(turned), found)


def test_arrays_that_cannot_be_packed_are_an_error():
    with pytest.raises(ValueError, match="NaN"):
        pack(torch.tensor([1.0, torch.nan]))
    with pytest.raises(TypeError, match="uint8"):
        pack(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="K = 200"):
        ops.xnor_linear(pack(signs(2, 100)), pack(signs(3, 100)), 200)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 256, 256), (5, 17, 65), (33, 10, 784), (0, 3, 64)])
def test_bits_by_bits_are_the_exact_product(m, n, k):
    x, w = signs(m, k), signs(n, k, seed=1)
    found = ops.xnor_linear(pack(x), pack(w), k)
    assert found.dtype == torch.int32 and torch.equal(found.double(), x.double() @ w.double().T)


@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_convolutions_of_bits_are_exact(shape):
    images, size, channels, filters, taps, padding, stride = shape
    x, w = signs(images, channels, *size), signs(filters, channels, *taps, seed=1)
    packed = pack(x.permute(0, 2, 3, 1)), pack(w.permute(0, 2, 3, 1))
    found = ops.xnor_conv2d(*packed, channels, padding, stride)
    wanted = F.conv2d(x.double(), w.double(), padding=padding, stride=stride)
    assert torch.equal(found.permute(0, 3, 1, 2).double(), wanted)


def test_weights_changed_in_place_are_seen():
    x, w = pack(signs(4, 70)), pack(signs(5, 70, seed=1))
    before = ops.xnor_linear(x, w, 70)
    w.copy_(pack(signs(5, 70, seed=2)))
    after = ops.xnor_linear(x, w, 70)
    assert torch.equal(after.double(), signs(4, 70).double() @ signs(5, 70, seed=2).double().T)
    assert not torch.equal(before, after)
    with torch.inference_mode():
        inside = pack(signs(5, 70, seed=1))
        assert torch.equal(ops.xnor_linear(x, inside, 70), before)
        inside.copy_(w)
        assert torch.equal(ops.xnor_linear(x, inside, 70), after)


def test_packed_weights_live_no_longer_than_their_tensor():
    before = len(operators.kept_weights)
    w = pack(signs(5, 70))
    ops.xnor_linear(pack(signs(4, 70)), w, 70)
    assert len(operators.kept_weights) == before + 1
    del w
    assert len(operators.kept_weights) == before


# --- real by ±1 -----------------------------------------------------------------------------------------------


def close(found, wanted):
    assert found.shape == wanted.shape
    torch.testing.assert_close(
        found.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.detach().abs().max()) + 1e-12
    )


def given(kind, *shape):
    """Inputs real, ±1, or ternary."""
    x = normal(*shape)
    return {"real": x, "signs": 0.5 * x.sign(), "ternary": 2 * x.round().clamp(-1, 1)}[kind]


@pytest.mark.parametrize("kind", ["real", "signs", "ternary"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 17, 65), (33, 10, 100)])
def test_a_linear_product_and_its_gradients(way, m, n, k, kind):
    x, w = given(kind, m, k), normal(n, k, seed=1)
    w.view(-1)[0] = -0.0
    x1, w1 = x.clone().requires_grad_(), w.clone().requires_grad_()
    x2, w2 = x.double().requires_grad_(), plus_minus(w).requires_grad_()
    out = normal(m, n, seed=2)
    found, wanted = ops.real_linear(x1, w1), F.linear(x2, w2)
    close(found, wanted)
    found.backward(out)
    wanted.backward(out.double())
    close(x1.grad, x2.grad)
    close(w1.grad, w2.grad)


@pytest.mark.parametrize("kind", ["real", "signs", "ternary"])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_a_convolution_and_its_gradients(way, shape, kind):
    images, size, channels, filters, taps, padding, stride = shape
    x, w = given(kind, images, channels, *size), normal(filters, channels, *taps, seed=1)
    x1, w1 = x.clone().requires_grad_(), w.clone().requires_grad_()
    x2, w2 = x.double().requires_grad_(), plus_minus(w).requires_grad_()
    found = ops.real_conv2d(x1, w1, padding, stride)
    wanted = F.conv2d(x2, w2, padding=padding, stride=stride)
    close(found, wanted)
    out = normal(*wanted.shape, seed=2)
    found.backward(out)
    wanted.backward(out.double())
    close(x1.grad, x2.grad)
    close(w1.grad, w2.grad)


def test_the_sign_passes_gradients_up_to_one():
    x = torch.tensor([-1.5, -1.0, -0.0, 0.0, 0.3, 1.0, 1.0001], requires_grad=True)
    y = sign(x)
    assert y.tolist() == [-1, -1, 1, 1, 1, 1, 1]
    y.backward(torch.arange(1.0, 8.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


# --- opcheck --------------------------------------------------------------------------------------------------


def checked(name, *arguments):
    torch.library.opcheck(getattr(ops, name).default, arguments)


def learned(x):
    return x.requires_grad_()


def test_opcheck_of_bits():
    checked("pack", normal(3, 4, 70))
    checked("pack", normal(5, 64, dtype=torch.bfloat16))
    checked("xnor_linear", pack(normal(3, 70)), pack(normal(5, 70)), 70)
    checked("xnor_conv2d", pack(normal(2, 6, 5, 70)), pack(normal(4, 3, 3, 70)), 70, 1, 1)
    checked("xnor_conv2d", pack(normal(2, 6, 5, 3)), pack(normal(4, 2, 3, 3)), 3, 0, 2)


@pytest.mark.parametrize("grad", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_opcheck_of_real_products(way, grad):
    with_grad = learned if grad else lambda x: x
    checked("real_linear", with_grad(normal(3, 70)), with_grad(normal(5, 70)))
    checked("real_linear", normal(3, 70), with_grad(normal(5, 70)))
    for shape in ((2, 3, 6, 5), (1, 1, 3, 3)):
        x, w = normal(*shape), normal(4, shape[1], 3, 3)
        checked("real_conv2d", with_grad(x), with_grad(w), 1, 1)
        checked("real_conv2d", with_grad(x.clone().detach()), with_grad(w.clone().detach()), 0, 2)


def test_opcheck_of_gradients(way):
    checked("real_linear_weight", normal(3, 5), given("ternary", 3, 70))
    checked("real_linear_weight", normal(3, 5), normal(3, 70))
    for padding, stride in ((1, 1), (0, 2)):
        x, w = given("signs", 2, 3, 7, 5), normal(4, 3, 3, 3)
        grad = F.conv2d(x, w, padding=padding, stride=stride)
        checked("real_conv2d_input", grad, w, 7, 5, padding, stride)
        checked("real_conv2d_weight", grad, x, 3, 3, padding, stride)


# --- layers ---------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (lambda: BinaryLinear(70, 33), (5, 70)),
    "linear, more axes": (lambda: BinaryLinear(65, 4, bias=False), (2, 3, 65)),
    "linear, one axis": (lambda: BinaryLinear(64, 7), (64,)),
    "first linear": (lambda: BinaryLinear(20, 9, real_inputs=True), (5, 20)),
    "convolution": (lambda: BinaryConv2d(70, 9, 3, padding=1), (2, 70, 6, 5)),
    "convolution in steps": (lambda: BinaryConv2d(5, 66, (2, 3), stride=2, bias=False), (2, 5, 9, 8)),
    "first convolution": (lambda: BinaryConv2d(3, 8, 3, padding=1, real_inputs=True), (2, 3, 6, 6)),
}


def by_definition(layer, x):
    """In float64."""
    h, w = x.double() if layer.real_inputs else plus_minus(x), plus_minus(layer.weight)
    bias = None if layer.bias is None else layer.bias.double()
    if isinstance(layer, nn.Linear):
        return F.linear(h, w, bias)
    return F.conv2d(h, w, bias, layer.stride, layer.padding)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_the_same_in_training_and_on_bits(name, way):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), normal(*shape)
    wanted = by_definition(layer, x)
    close(layer(x), wanted)
    layer.eval()
    close(layer(x), wanted)
    assert layer(x).requires_grad
    with torch.no_grad():
        close(layer(x), wanted)
    with torch.inference_mode():
        close(layer(x), wanted)
    assert (layer.packed is None) == layer.real_inputs
    assert layer.train().packed is None
    assert set(layer.state_dict()) <= {"weight", "bias"}


def test_only_bits_are_used_in_eval(monkeypatch):
    """The float product is not called, and a NaN is an error because it has no bit."""
    layer, x = BinaryLinear(70, 33).eval(), normal(5, 70)
    with torch.no_grad():
        layer.packed.zero_()  # every weight -1
        plus = (x >= 0).sum(1, keepdim=True)
        assert torch.equal(layer(x), (70.0 - 2 * plus) + layer.bias)
        with pytest.raises(ValueError, match="NaN"):
            layer(x * torch.nan)


@pytest.mark.parametrize("make", [LAYERS["linear"][0], LAYERS["convolution"][0]])
def test_bits_follow_the_weights(make):
    torch.manual_seed(0)
    layer, other = make().eval(), make().eval()
    x = normal(*(LAYERS["linear" if isinstance(layer, nn.Linear) else "convolution"][1]))

    @torch.no_grad()
    def right(one):
        close(one(x), by_definition(one, x))

    right(layer)
    with torch.no_grad():
        layer.weight.neg_()
    right(layer)
    layer.load_state_dict(other.state_dict())
    right(layer)
    before = layer.weight
    layer.weight = nn.Parameter(-layer.weight.detach())
    right(layer)
    layer.weight = nn.Parameter(before.detach().clone())  # as new as the one before
    right(layer)
    for state in (other.state_dict(), {**other.state_dict(), "weight": -before.detach()}):
        with torch.no_grad():
            found = torch.func.functional_call(layer, state, (x,))
        other.load_state_dict(state)
        with torch.no_grad():
            close(found, by_definition(other, x))
    layer.weight.data.neg_()  # not counted by PyTorch
    layer.eval()
    right(layer)
    right(copy.deepcopy(layer))
    torch.save(layer, content := io.BytesIO())
    content.seek(0)
    right(torch.load(content, weights_only=False))
    layer.double()
    with torch.no_grad():
        assert torch.equal(layer(x.double()), by_definition(layer, x))


@torch.inference_mode()
def test_bits_follow_weights_whose_changes_are_not_counted():
    torch.manual_seed(0)
    layer, x = BinaryLinear(70, 33).eval(), normal(5, 70)
    close(layer(x), by_definition(layer, x))
    layer.weight.neg_()
    close(layer(x), by_definition(layer, x))


def test_layers_under_autocast():
    layer, x = BinaryLinear(70, 33), normal(5, 70)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(F.linear(x, torch.eye(70)))
        y.sum().backward()
        assert layer.weight.grad.dtype == torch.float32
        with torch.no_grad():
            close(layer.eval()(x).float(), by_definition(layer, x))


def small_model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


def test_a_model_is_made_binary_over_its_own_parameters():
    model = small_model().eval()
    before = dict(model.named_parameters())
    assert make_binary(model, {"0"}) is model
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in before.items()}
    first, second, last = model[0], model[2], model[5]
    assert (first.real_inputs, second.real_inputs, last.real_inputs) == (True, False, False)
    assert isinstance(last, BinaryLinear) and second.bias is None and second.packed is not None
    x = normal(2, 3, 8, 8)
    with torch.no_grad():
        close(second(model[1](first(x))), by_definition(second, model[1](first(x))))
        model[5].weight.mul_(100)
        clip_weights(model)
        assert model[5].weight.abs().max() == 1 and model[1].weight.eq(1).all()


def test_a_layer_in_several_places_stays_one():
    shared = nn.Linear(8, 8)
    model = make_binary(nn.ModuleDict({"a": shared, "b": nn.Linear(8, 8), "c": shared}), {"c"})
    assert model["a"] is model["c"] and isinstance(model["a"], BinaryLinear) and model["a"].real_inputs
    assert isinstance(model["b"], BinaryLinear) and not model["b"].real_inputs


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"groups": 2}, "groups"),
        ({"dilation": 2}, "dilation"),
        ({"dilation": (1, 2)}, "dilation"),
        ({"padding": 1, "padding_mode": "reflect"}, "padding_mode 'reflect'"),
        ({"padding": "same"}, "padding 'same'"),
        ({"stride": (1, 2)}, "stride that differs"),
        ({"padding": (0, 1)}, "padding that differs"),
    ],
)
def test_a_convolution_without_a_binary_layer_is_refused_by_the_name_of_the_setting(setting, words):
    with pytest.raises(ValueError, match=f"^0: BinaryConv2d has no {words}"):
        make_binary(nn.Sequential(nn.Conv2d(4, 4, 3, **setting)), ())
    with pytest.raises(ValueError, match=f"^BinaryConv2d has no {words}"):
        BinaryConv2d(4, 4, 3, **setting)


def test_pairs_that_are_equal_are_one_stride_and_one_padding():
    layer, x = BinaryConv2d(3, 5, (3, 2), stride=(2, 2), padding=(1, 1)), normal(2, 3, 8, 7)
    close(layer(x), by_definition(layer, x))


def test_a_name_that_no_layer_has_is_refused():
    with pytest.raises(ValueError, match="no Linear or Conv2d of the name 'first': there are 0, 2, 5"):
        make_binary(small_model(), {"first"})


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_model_is_compiled_without_a_graph_break(backend):
    """No graph break, in training and on bits; the same numbers."""
    torch.manual_seed(0)
    model = make_binary(small_model(), {"0"})
    for module in model.modules():  # keeps the inputs of signs away from 0
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend=backend, fullgraph=True)
    x = normal(4, 3, 8, 8)
    for one in (model, compiled):
        one(x).square().sum().backward()
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-4)
    model.eval(), other.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        for one in (model, other):
            one.load_state_dict({name: -p for name, p in one.named_parameters()}, strict=False)
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.gpu
def test_layers_and_opcheck_on_a_gpu():
    pytest.importorskip("cupy")
    for make, shape in LAYERS.values():
        layer, x = make().cuda(), normal(*shape).cuda()
        wanted = by_definition(layer, x)
        torch.testing.assert_close(layer(x).double(), wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))
        with torch.no_grad():
            found = layer.eval()(x)
            if not layer.real_inputs:
                close(found, wanted)
    checked("pack", normal(3, 70).cuda())
    checked("xnor_linear", pack(normal(3, 70).cuda()), pack(normal(5, 70).cuda()), 70)
    checked("xnor_conv2d", pack(normal(2, 6, 5, 70).cuda()), pack(normal(4, 3, 3, 70).cuda()), 70, 1, 1)


def test_tables_are_used_if_available():
    assert operators.by_tables(normal(2, 2)) == reals.available()
    assert not operators.by_tables(normal(2, 2), normal(2, 2).double())
