"""Modules, layers, containers, initialisers, models and summaries."""

import copy
import gc
import math
from collections import OrderedDict

import numpy as np
import pytest

import minidl as md
from minidl import models, nn
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.registry import Draw
from minidl.testing.layers import LAYERS

CASES = [pytest.param(case, id=case.name) for case in LAYERS]


def tensors(arrays, grad=False, dtype=np.float64):
    """The inputs of a layer as tensors."""
    made = [md.Tensor(a, dtype=dtype if a.dtype.kind == "f" else None) for a in arrays]
    for t in made:
        t.requires_grad = grad and t.dtype.kind == "f"
    return made


@pytest.fixture(scope="module")
def torch():
    """PyTorch, imported (its lazy parts too) before the global state of a test is noted."""
    torch = pytest.importorskip("torch")
    torch.ones(2, requires_grad=True).tanh().backward(torch.ones(2))
    return torch


def first(output):
    return output[0] if isinstance(output, tuple) else output


class Net(nn.Module):
    """Two linear layers with an operation of its own between them."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 3, rng=0)
        self.fc2 = nn.Linear(3, 2, rng=1)

    def forward(self, x):
        return self.fc2(md.relu(self.fc1(x)))


# ---------------------------------------------------------------- every layer


def test_every_layer_has_a_case():
    skipped = {"Module", "ModuleDict", "ModuleList"}
    layers = {n for n, v in vars(nn).items() if isinstance(v, type) and issubclass(v, nn.Module)} - skipped
    assert layers == {type(case.make()).__name__ for case in LAYERS}


@pytest.mark.parametrize("case", CASES)
def test_layer_gradients(case):
    report = md.gradcheck(case.make(), case.inputs(Draw(1)), name=case.name)
    assert report, str(report)
    assert all(entry.verdict == "ok" for entry in report.inputs), str(report)


@pytest.mark.parametrize("case", CASES)
def test_layer_saved_and_loaded(case, tmp_path):
    """A second layer with the first one's state gives the same output; its repr is the same."""
    one, two = case.make(), case.make()
    for p in two.parameters():
        p.data = np.full(p.shape, 0.123)
    inputs = case.inputs(Draw(2))
    one.double()(*tensors(inputs))  # moves running statistics
    two.double()
    md.save(one, tmp_path / "layer.safetensors")
    assert md.load_weights(two, tmp_path / "layer.safetensors") == ([], [])
    ys = [first(m.eval()(*tensors(inputs))).numpy() for m in (one, two)]
    np.testing.assert_array_equal(*ys)
    assert repr(one) == repr(two)
    assert repr(one).startswith(type(one).__name__ + "(")


@pytest.mark.parametrize("case", CASES)
def test_layer_float32(case):
    """Layers are float32 unless told otherwise, and close to their float64 selves."""
    module = case.make().float()
    double = copy.deepcopy(module).double()
    inputs = case.inputs(Draw(3))
    y32 = first(module(*tensors(inputs, dtype=np.float32)))
    y64 = first(double(*tensors(inputs)))
    assert y32.dtype == np.float32
    np.testing.assert_allclose(y32.numpy(), y64.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_layer_train_and_eval(case):
    module = case.make()
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    assert module.train() is module
    assert all(m.training for m in module.modules())


# ---------------------------------------------------------------- PyTorch


def torch_layers(torch):
    """The same layers in PyTorch, by the names of LAYERS."""
    nn = torch.nn

    def weight(*values):
        return torch.tensor(values, dtype=torch.float64)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))

        def forward(self, x):
            return nn.functional.relu(self.main(x) + x)

    return {
        "Identity": nn.Identity,
        "Linear": lambda: nn.Linear(4, 3),
        "Linear, no bias": lambda: nn.Linear(4, 3, bias=False),
        "Conv2d": lambda: nn.Conv2d(4, 3, 3),
        "Conv2d, all arguments": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2),
        "Conv2d, same": lambda: nn.Conv2d(4, 2, 4, padding="same", bias=False),
        "Conv2d, depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 3, 2, stride=2),
        "ConvTranspose2d, all arguments": lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, (1, 2), 2, False, (2, 1)),
        "Unfold": lambda: nn.Unfold((2, 3), padding=1, stride=2),
        "Fold": lambda: nn.Fold((4, 5), 2),
        "Residual": Residual,
        "MaxPool2d": lambda: nn.MaxPool2d(2),
        "MaxPool2d, all arguments": lambda: nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True),
        "AvgPool2d": lambda: nn.AvgPool2d(2),
        "AvgPool2d, all arguments": lambda: nn.AvgPool2d(3, 2, 1, True, False),
        "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((3, 4)),
        "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d((3, None)),
        "GlobalAvgPool2d": lambda: nn.AdaptiveAvgPool2d(1),
        "GlobalMaxPool2d": lambda: nn.AdaptiveMaxPool2d(1),
        "ReLU": nn.ReLU,
        "LeakyReLU": lambda: nn.LeakyReLU(0.2),
        "ELU": lambda: nn.ELU(0.7),
        "GELU": nn.GELU,
        "GELU, tanh": lambda: nn.GELU("tanh"),
        "SiLU": nn.SiLU,
        "Hardswish": nn.Hardswish,
        "Sigmoid": nn.Sigmoid,
        "Tanh": nn.Tanh,
        "Softplus": lambda: nn.Softplus(2.0, 5.0),
        "Softmax": lambda: nn.Softmax(dim=1),
        "LogSoftmax": lambda: nn.LogSoftmax(dim=1),
        "BatchNorm1d": lambda: nn.BatchNorm1d(4),
        "BatchNorm1d, positions": lambda: nn.BatchNorm1d(4),
        "BatchNorm2d": lambda: nn.BatchNorm2d(4),
        "BatchNorm2d, averaging": lambda: nn.BatchNorm2d(4, momentum=None),
        "BatchNorm2d, evaluation": lambda: nn.BatchNorm2d(4).eval(),
        "BatchNorm2d, plain": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        "LayerNorm": lambda: nn.LayerNorm(4),
        "LayerNorm, images": lambda: nn.LayerNorm((4, 5, 6), bias=False),
        "GroupNorm": lambda: nn.GroupNorm(2, 4),
        "InstanceNorm2d": lambda: nn.InstanceNorm2d(4),
        "InstanceNorm2d, all arguments": lambda: nn.InstanceNorm2d(4, 1e-3, 0.2, True, True),
        "Dropout, evaluation": lambda: nn.Dropout(0.5).eval(),
        "Dropout2d, evaluation": lambda: nn.Dropout2d(0.5).eval(),
        "Embedding": lambda: nn.Embedding(7, 3),
        "MultiheadAttention": lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        "Upsample": lambda: nn.Upsample(scale_factor=2),
        "Upsample, bilinear": lambda: nn.Upsample((5, 7), mode="bilinear", align_corners=True),
        "Flatten": nn.Flatten,
        "Unflatten": lambda: nn.Unflatten(1, (2, -1)),
        "Sequential": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)),
        "CrossEntropyLoss": nn.CrossEntropyLoss,
        "CrossEntropyLoss, all arguments": lambda: nn.CrossEntropyLoss(
            weight(1.0, 2.0, 0.5, 1.5), ignore_index=1, reduction="sum", label_smoothing=0.1
        ),
        "CrossEntropyLoss, probabilities": nn.CrossEntropyLoss,
        "NLLLoss": lambda: nn.NLLLoss(weight(1.0, 2.0, 0.5, 1.5)),
        "MSELoss": nn.MSELoss,
        "L1Loss": lambda: nn.L1Loss(reduction="sum"),
        "SmoothL1Loss": lambda: nn.SmoothL1Loss(beta=0.5),
        "HuberLoss": lambda: nn.HuberLoss(reduction="none", delta=1.5),
        "BCELoss": nn.BCELoss,
        "BCEWithLogitsLoss": lambda: nn.BCEWithLogitsLoss(pos_weight=weight(1.0, 2.0, 3.0)),
    }


def same_state(module, torch_module):
    """Equal keys in the same order, equal values."""
    ours, theirs = module.state_dict(), torch_module.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name].numpy(), rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", [p for p in CASES if p.id != "FocalLoss"])
def test_layer_equals_torch(torch, case):
    """A PyTorch state dict loads by key, and gives the same output, gradients and running statistics."""
    torch.manual_seed(0)
    theirs = torch_layers(torch)[case.name]().double()
    with torch.no_grad():
        for p in theirs.parameters():
            p += torch.randn_like(p) * 0.1  # biases that start at 0 and weights that start at 1 would hide mistakes
    ours = case.make().double()
    assert ours.load_state_dict(theirs.state_dict()) == ([], [])
    same_state(ours, theirs)

    arrays = case.inputs(Draw(4))
    loss = case.name.partition(",")[0].endswith("Loss")
    xs = tensors(arrays, grad=True)
    ts = [torch.tensor(a, requires_grad=a.dtype.kind == "f" and not (loss and i)) for i, a in enumerate(arrays)]
    y, t = first(ours(*xs)), first(theirs(*ts))
    np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol=1e-9, atol=1e-11)
    same_state(ours, theirs)
    if not y.requires_grad:
        return
    v = np.random.default_rng(5).standard_normal(y.shape)
    y.backward(v)
    t.backward(torch.tensor(v))
    for x, u in zip(xs, ts):
        if u.requires_grad:
            np.testing.assert_allclose(x.grad.numpy(), u.grad.numpy(), rtol=1e-9, atol=1e-11)
    grads = {name: p.grad.numpy() for name, p in ours.named_parameters()}
    for name, p in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], p.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", ["none", "bool", "float", "per head", "padding", "causal", "all"])
def test_attention_equals_torch(torch, masks, need_weights, batch_first):
    rng = np.random.default_rng(0)
    theirs = torch.nn.MultiheadAttention(6, 2, batch_first=batch_first).double()
    ours = nn.MultiheadAttention(6, 2, batch_first=batch_first).double()
    ours.load_state_dict(theirs.state_dict())
    N, L = 3, 4
    later = np.triu(np.ones((L, L), bool), 1)
    options = {
        "none": {},
        "bool": {"attn_mask": rng.random((L, L)) < 0.3},
        "float": {"attn_mask": rng.standard_normal((L, L))},
        "per head": {"attn_mask": rng.standard_normal((N * 2, L, L))},
        "padding": {"key_padding_mask": np.arange(L) >= np.array([[4], [2], [3]])},
        "causal": {"attn_mask": later},
        "all": {"attn_mask": later, "key_padding_mask": np.arange(L) >= np.array([[4], [2], [3]])},
    }[masks]
    if masks == "bool":
        options["attn_mask"][:, 0] = False  # every query sees something
    x = rng.standard_normal((N, L, 6) if batch_first else (L, N, 6))
    t = torch.tensor(x, requires_grad=True)
    m = md.Tensor(x, requires_grad=True)
    torch_options = {name: torch.tensor(value) for name, value in options.items()}
    expected, expected_weights = theirs(t, t, t, need_weights=need_weights, **torch_options)
    y, weights = ours(m, m, m, need_weights=need_weights, **options)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-11)
    if need_weights:
        np.testing.assert_allclose(weights.numpy(), expected_weights.detach().numpy(), rtol=1e-9, atol=1e-11)
    else:
        assert weights is None
    y.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(m.grad.numpy(), t.grad.numpy(), rtol=1e-8, atol=1e-10)
    if masks == "causal":
        same, _ = ours(m, m, m, need_weights=need_weights, is_causal=True)
        np.testing.assert_allclose(same.numpy(), y.numpy(), rtol=1e-12)


def test_attention_weights_of_each_head_and_dropout():
    attention = nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True, rng=0)
    x = md.randn(2, 3, 6)
    _, weights = attention.eval()(x, x, x, average_attn_weights=False)
    assert weights.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-5)
    attention.train()
    outputs = [attention(x, x, x, need_weights=n)[0].numpy() for n in (True, False)]
    still, _ = attention.eval()(x, x, x)
    assert all(not np.allclose(y, still.numpy()) for y in outputs)


def test_attention_refuses_what_does_not_fit():
    attention = nn.MultiheadAttention(6, 2, batch_first=True, rng=0)
    x = md.ones(2, 3, 6)
    with pytest.raises(ShapeError, match=r"query of shape \(N, length, E\) with E=6, got \(2, 3, 5\)"):
        attention(md.ones(2, 3, 5), x, x)
    with pytest.raises(ShapeError, match="key and value alike"):
        attention(x, x, md.ones(2, 4, 6))
    with pytest.raises(ShapeError, match=r"attn_mask of shape \(3, 3\)"):
        attention(x, x, x, attn_mask=np.zeros((2, 2), bool))
    with pytest.raises(DtypeError, match="booleans or floats"):
        attention(x, x, x, attn_mask=np.zeros((3, 3), int))


def test_embedding_padding_equals_torch(torch):
    theirs = torch.nn.Embedding(7, 3, padding_idx=-2)
    ours = nn.Embedding(7, 3, padding_idx=-2)
    ours.load_state_dict(theirs.state_dict())
    index = np.array([[5, 1, 1], [0, 5, 6]])
    y, t = ours(md.tensor(index)), theirs(torch.tensor(index))
    np.testing.assert_array_equal(y.numpy(), t.detach().numpy())
    y.sum().backward()
    t.sum().backward()
    np.testing.assert_array_equal(ours.weight.grad.numpy(), theirs.weight.grad.numpy())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_several_batches_equals_torch(torch, momentum):
    theirs = torch.nn.BatchNorm2d(3, momentum=momentum).double()
    ours = nn.BatchNorm2d(3, momentum=momentum).double()
    rng = np.random.default_rng(0)
    for _ in range(4):
        x = rng.standard_normal((2, 3, 4, 4)) * 2 + 1
        np.testing.assert_allclose(ours(md.Tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-10)
    same_state(ours, theirs)
    assert ours.num_batches_tracked.item() == 4
    x = rng.standard_normal((2, 3, 4, 4))
    expected = theirs.eval()(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours.eval()(md.Tensor(x)).numpy(), expected, rtol=1e-10)
    same_state(ours, theirs)


def test_model_equals_torch(torch):
    """A whole network: PyTorch's state dict, float32 and float64, logits and gradients."""
    tnn = torch.nn
    theirs = tnn.Sequential(
        OrderedDict(
            features=tnn.Sequential(
                tnn.Conv2d(1, 32, 3), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(32, 64, 3), tnn.ReLU(), tnn.MaxPool2d(2)
            ),
            classifier=tnn.Sequential(tnn.Flatten(), tnn.Linear(1600, 10)),
        )
    )
    ours = models.SmallCNN()
    x = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)
    labels = np.array([1, 7, 3])
    for dtype, tolerance in (("float32", 2e-4), ("float64", 1e-9)):
        ours.to(dtype)
        theirs.to(getattr(torch, dtype))
        ours.load_state_dict(theirs.state_dict())
        loss = md.cross_entropy(ours(md.Tensor(x.astype(dtype))), labels)
        loss.backward()
        theirs.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(torch.tensor(x.astype(dtype))), torch.tensor(labels))
        expected.backward()
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=tolerance)
        for (name, p), (other, t) in zip(ours.named_parameters(), theirs.named_parameters()):
            assert name == other
            np.testing.assert_allclose(p.grad.numpy(), t.grad.numpy(), rtol=50 * tolerance, atol=tolerance, err_msg=name)


# ---------------------------------------------------------------- first values


@pytest.mark.parametrize(
    ("module", "fan_in"),
    [
        (lambda: nn.Linear(200, 150, rng=0), 200),
        (lambda: nn.Conv2d(16, 48, (3, 5), groups=2, rng=0), 8 * 15),
        (lambda: nn.ConvTranspose2d(48, 16, 3, groups=2, rng=0), 8 * 9),
    ],
    ids=["Linear", "Conv2d", "ConvTranspose2d"],
)
def test_default_first_values(module, fan_in):
    """Even within +-1/sqrt(fan_in), as in PyTorch."""
    module, bound = module(), 1 / math.sqrt(fan_in)
    w, b = module.weight.numpy(), module.bias.numpy()
    assert np.abs(w).max() <= bound
    assert np.abs(b).max() <= bound
    assert np.abs(w).max() > 0.95 * bound
    np.testing.assert_allclose(w.std(), bound / math.sqrt(3), rtol=0.05)
    assert abs(w.mean()) < 0.05 * bound


def test_default_first_values_of_other_layers():
    table = nn.Embedding(300, 200, padding_idx=-1, rng=0)
    np.testing.assert_allclose(table.weight.numpy()[:-1].std(), 1, rtol=0.02)
    assert table.padding_idx == 299
    assert not table.weight.numpy()[-1].any()
    attention = nn.MultiheadAttention(64, 4, rng=0)
    bound = math.sqrt(6 / (64 + 3 * 64))
    assert 0.95 * bound < np.abs(attention.in_proj_weight.numpy()).max() <= bound
    assert not attention.in_proj_bias.numpy().any()
    assert not attention.out_proj.bias.numpy().any()
    for norm in (nn.BatchNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, affine=True)):
        np.testing.assert_array_equal(norm.weight.numpy(), [1, 1, 1])
        np.testing.assert_array_equal(norm.bias.numpy(), [0, 0, 0])


def test_rng_decides_the_first_values():
    def same(a, b):
        return np.array_equal(a.weight.numpy(), b.weight.numpy()) and np.array_equal(a.bias.numpy(), b.bias.numpy())

    assert same(nn.Linear(5, 4, rng=3), nn.Linear(5, 4, rng=3))
    assert not same(nn.Linear(5, 4, rng=3), nn.Linear(5, 4, rng=4))
    md.manual_seed(7)
    one = nn.Conv2d(2, 3, 3)
    md.manual_seed(7)
    assert same(one, nn.Conv2d(2, 3, 3))
    assert not same(one, nn.Conv2d(2, 3, 3))
    model = models.SmallCNN(rng=0)
    again = models.SmallCNN(rng=np.random.default_rng(0))
    assert all(np.array_equal(p.numpy(), q.numpy()) for p, q in zip(model.parameters(), again.parameters()))


def test_convolution_weights_lie_channels_last():
    """(O, C, KH, KW) is a view of (KH, KW, C, O), and stays so through casts, loading and initialisers."""
    conv = nn.Conv2d(3, 8, 5, rng=0)

    def check(shape=(8, 3, 5, 5)):
        assert conv.weight.shape == shape
        assert conv.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous

    check()
    conv.double()
    check()
    conv.load_state_dict(nn.Conv2d(3, 8, 5).state_dict())
    check()
    nn.init.xavier_normal_(conv.weight, rng=1)
    check()
    conv = copy.deepcopy(conv)
    check()
    conv = nn.ConvTranspose2d(8, 6, 3, groups=2)
    check((8, 3, 3, 3))


SHAPES = [(300, 200), (64, 16, 3, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("fill", "spread"),
    [
        (lambda w: nn.init.kaiming_uniform_(w, a=0.5, rng=0), lambda i, o: math.sqrt(2 / (1 + 0.25) / i)),
        (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu", rng=0), lambda i, o: math.sqrt(2 / i)),
        (lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="tanh", rng=0), lambda i, o: 5 / 3 / math.sqrt(o)),
        (lambda w: nn.init.xavier_uniform_(w, gain=2, rng=0), lambda i, o: 2 * math.sqrt(2 / (i + o))),
        (lambda w: nn.init.xavier_normal_(w, rng=0), lambda i, o: math.sqrt(2 / (i + o))),
        (lambda w: nn.init.normal_(w, 0, 0.3, rng=0), lambda i, o: 0.3),
        (lambda w: nn.init.uniform_(w, -3, 3, rng=0), lambda i, o: math.sqrt(3)),
    ],
    ids=["kaiming_uniform", "kaiming_normal", "kaiming fan_out", "xavier_uniform", "xavier_normal", "normal", "uniform"],
)
def test_initialiser_spread(fill, spread, shape):
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    w = md.Parameter(np.zeros(shape, np.float32))
    assert fill(w) is w
    assert w.dtype == np.float32
    np.testing.assert_allclose(w.numpy().std(), spread(fan_in, fan_out), rtol=0.02)


def test_initialisers_agree_with_torch_on_fans_and_gains(torch):
    for shape in SHAPES:
        expected = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
        assert nn.init.fans("test", md.zeros(*shape)) == expected
    for name in ("linear", "conv2d", "conv_transpose2d", "sigmoid", "tanh", "relu", "selu"):
        assert nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    for slope in (None, 0.3):
        assert nn.init.calculate_gain("leaky_relu", slope) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", slope))


def test_initialisers_refuse():
    with pytest.raises(ShapeError, match="at least two axes"):
        nn.init.kaiming_normal_(md.zeros(3))
    with pytest.raises(ArgumentError, match="mode as one of 'fan_in', 'fan_out'"):
        nn.init.kaiming_normal_(md.zeros(3, 3), mode="fan")
    with pytest.raises(ArgumentError, match="nonlinearity"):
        nn.init.calculate_gain("swish")
    with pytest.raises(ArgumentError, match="std within 0"):
        nn.init.normal_(md.zeros(3), std=-1)
    with pytest.raises(ArgumentError, match="a of at most b"):
        nn.init.uniform_(md.zeros(3), 1, 0)
    with pytest.raises(DtypeError, match="float32 or float64"):
        nn.init.zeros_(md.tensor([1, 2]))
    with pytest.raises(DtypeError, match="a Tensor or Parameter"):
        nn.init.zeros_(np.zeros(3))
    with pytest.raises(GraphError, match="another leaf"):
        nn.init.ones_(md.ones(3, requires_grad=True) * 2)


def test_initialising_does_not_disturb_a_recorded_graph():
    w = md.Parameter([2.0])
    y = w * w
    nn.init.constant_(w, 5.0)
    y.backward()
    assert w.grad.item() == 4.0
    assert w.item() == 5.0


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Linear(0, 2), ArgumentError, "Linear: expected in_features of at least 1, got 0"),
        (lambda: nn.Linear(2, 2.5), DtypeError, "out_features as an integer, got 2.5"),
        (lambda: nn.Conv2d(3, 8, 0), ArgumentError, "kernel_size of at least 1"),
        (lambda: nn.Conv2d(3, 8, (1, 2, 3)), ArgumentError, "kernel_size as an integer or a pair"),
        (lambda: nn.Conv2d(3, 8, 3, stride=0), ArgumentError, "stride of at least 1"),
        (lambda: nn.Conv2d(3, 8, 3, padding=-1), ArgumentError, "padding of at least 0"),
        (lambda: nn.Conv2d(3, 8, 3, padding="full"), ArgumentError, "'same', 'valid'"),
        (lambda: nn.Conv2d(3, 8, 3, 2, padding="same"), ArgumentError, "stride 1 with padding='same'"),
        (lambda: nn.Conv2d(3, 8, 3, groups=2), ArgumentError, "in_channels divisible by groups=2, got in_channels=3"),
        (lambda: nn.Conv2d(4, 9, 3, groups=2), ArgumentError, "out_channels divisible by groups=2"),
        (lambda: nn.Conv2d(3, 8, 3, padding_mode="reflect"), ArgumentError, "padding_mode 'zeros'"),
        (lambda: nn.ConvTranspose2d(3, 8, 3, padding="same"), DtypeError, "padding as an integer"),
        (lambda: nn.ConvTranspose2d(3, 8, 3, 2, output_padding=2), ArgumentError, "output_padding below 2"),
        (lambda: nn.MaxPool2d(2, padding=2), ArgumentError, "at most half the kernel"),
        (lambda: nn.AvgPool2d(2, divisor_override=0), ArgumentError, "divisor_override other than 0"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), ArgumentError, "output_size as an integer or a pair"),
        (lambda: nn.BatchNorm2d(0), ArgumentError, "num_features of at least 1"),
        (lambda: nn.GroupNorm(3, 4), ArgumentError, "divisible by num_groups=3"),
        (lambda: nn.LayerNorm(()), ArgumentError, "at least one axis"),
        (lambda: nn.Dropout(1.5), ArgumentError, "p within 0 to 1, got 1.5"),
        (lambda: nn.Embedding(4, 2, padding_idx=4), ArgumentError, "padding_idx from -4 to 3"),
        (lambda: nn.MultiheadAttention(6, 4), ArgumentError, "divisible by num_heads=4"),
        (lambda: nn.Upsample(), ArgumentError, "either size or scale_factor"),
        (lambda: nn.Upsample(2, mode="cubic"), ArgumentError, "'nearest', 'bilinear'"),
        (lambda: nn.Upsample(2, align_corners=True), ArgumentError, "align_corners=False with mode='nearest'"),
        (lambda: nn.GELU("erf"), ArgumentError, "approximate as one of"),
        (lambda: nn.Softplus(0), ArgumentError, "beta other than 0"),
        (lambda: nn.CrossEntropyLoss(reduction="avg"), ArgumentError, "reduction as one of"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=2), ArgumentError, "label_smoothing within"),
        (lambda: nn.HuberLoss(delta=0), ArgumentError, "delta above 0"),
        (lambda: nn.Unflatten(1, (-1, -1)), ArgumentError, "at most one -1"),
        (lambda: nn.Sequential(nn.ReLU), DtypeError, r"Sequential: expected a Module, got type. Make one: ReLU\(...\)"),
        (lambda: nn.Sequential([nn.ReLU()]), DtypeError, r"a Module, got list of ReLU. Unpack it: Sequential\(\*modules\)"),
        (lambda: nn.Linear(2, 2, rng="seed"), DtypeError, "a numpy.random.Generator, a seed or None"),
    ],
)
def test_constructors_refuse(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_layers_refuse_inputs_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"BatchNorm2d \[BatchNorm2d\]: expected x of shape \(N, C, H, W\)"):
        nn.BatchNorm2d(3)(md.ones(2, 3))
    with pytest.raises(ShapeError, match="3 channels on axis 1, got shape"):
        nn.BatchNorm1d(3)(md.ones(2, 4))
    with pytest.raises(ArgumentError, match=r"unflatten .*axis from -1 to 0"):
        nn.Unflatten(1, (2, 2))(md.ones(4))
    with pytest.raises(ArgumentError, match=r"output_size\[0\] from 5 to 6, got 7"):
        nn.ConvTranspose2d(1, 1, 3, stride=2)(md.ones(1, 1, 2, 2), output_size=(7, 5))


def test_instance_norm_of_one_image():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    for layer in (nn.InstanceNorm2d(3), nn.InstanceNorm2d(3, affine=True, track_running_stats=True)):
        single, batch = copy.deepcopy(layer), copy.deepcopy(layer)
        np.testing.assert_array_equal(single(md.tensor(x)).numpy(), batch(md.tensor(x[None])).numpy()[0])
        for name, value in batch.state_dict().items():
            np.testing.assert_array_equal(single.state_dict()[name], value)


def test_batch_norm_of_one_value_leaves_running_statistics_alone_in_evaluation():
    layer = nn.BatchNorm1d(1).eval()
    layer.running_mean.data, layer.running_var.data = [1.0], [4.0]
    y = layer(md.tensor([[2.0]]))
    assert y.item() == pytest.approx(0.5, 1e-4)
    assert (layer.running_mean.item(), layer.running_var.item()) == (1, 4)


def test_conv_transpose_output_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, rng=0)
    assert layer(md.ones(1, 2, 4, 4), output_size=(7, 8)).shape == (1, 3, 7, 8)


def test_pool_indices():
    y, where = nn.MaxPool2d(2, return_indices=True)(md.tensor([[[[1.0, 3.0], [2.0, 0.0]]]]))
    assert (y.item(), where.item()) == (3.0, 1)
    y, where = nn.AdaptiveMaxPool2d(1, return_indices=True)(md.tensor([[[[1.0, 3.0], [2.0, 0.0]]]]))
    assert (y.item(), where.item()) == (3.0, 1)


def test_dropout_keeps_the_mean_and_follows_its_generator():
    x = md.ones(100, 100)
    y = nn.Dropout(0.3, rng=0)(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 0.02
    one, two = nn.Dropout(0.3, rng=5), nn.Dropout(0.3, rng=5)
    np.testing.assert_array_equal(one(x).numpy(), two(x).numpy())
    assert not np.array_equal(one(x).numpy(), y)
    assert not np.array_equal(one(x).numpy(), one(x).numpy())
    np.testing.assert_array_equal(one.eval()(x).numpy(), x.numpy())
    md.manual_seed(3)
    a = nn.Dropout()(x).numpy()
    md.manual_seed(3)
    np.testing.assert_array_equal(nn.Dropout()(x).numpy(), a)


def test_dropout2d_drops_whole_channels():
    x = md.Tensor(np.ones((8, 50, 3, 3)), requires_grad=True)
    y = nn.Dropout2d(0.4, rng=0)(x)
    channels = y.numpy().reshape(8, 50, 9)
    assert (channels == channels[..., :1]).all()
    assert abs((channels[..., 0] == 0).mean() - 0.4) < 0.08
    y.backward(np.ones(y.shape))
    np.testing.assert_allclose(x.grad.numpy(), y.numpy())


# ---------------------------------------------------------------- containers


def test_sequential():
    a, b, c = nn.Linear(2, 3, rng=0), nn.ReLU(), nn.Linear(3, 1, rng=1)
    model = nn.Sequential(a, b, c)
    assert len(model) == 3
    assert list(model) == [a, b, c]
    assert model[0] is a
    assert model[-1] is c
    assert list(model[1:]) == [b, c]
    assert [name for name, _ in model[1:].named_children()] == ["1", "2"]
    x = md.ones(4, 2)
    np.testing.assert_array_equal(model(x).numpy(), c(b(a(x))).numpy())
    with pytest.raises(IndexError, match="from -3 to 2, got 3"):
        model[3]
    with pytest.raises(DtypeError, match="a Module, got int"):
        model[0] = 3
    assert model.append(nn.Tanh()) is model
    assert repr(model[3]) == "Tanh()"
    model[1] = nn.Tanh()
    assert isinstance(model[1], nn.Tanh)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    del model[1]
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model.insert(1, nn.ReLU())
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Linear", "Tanh"]
    del model[2:]
    assert len(model) == 2
    assert nn.Sequential()(x) is x


def test_sequential_by_name_and_slices_that_grow():
    model = nn.Sequential(OrderedDict(first=nn.Linear(2, 3, rng=0), act=nn.ReLU()))
    assert model.first.out_features == 3
    assert list(model.state_dict()) == ["first.weight", "first.bias"]
    with pytest.raises(ArgumentError, match="numbered children, got the names first, act"):
        model.insert(0, nn.ReLU())
    part = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU())[1:].append(nn.Tanh())
    assert [name for name, _ in part.named_children()] == ["1", "2", "3"]


def test_module_list_and_dict():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3, rng=i) for i in range(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(3, 1, rng=2), "b": nn.Linear(3, 2, rng=3)})

        def forward(self, x, head):
            for layer in self.layers:
                x = layer(x)
            return self.heads[head](x)

    model = Model()
    assert model(md.ones(1, 3), "b").shape == (1, 2)
    assert [n for n, _ in model.named_modules()] == ["", "layers", "layers.0", "layers.1", "heads", "heads.a", "heads.b"]
    assert len(list(model.parameters())) == 8
    assert "a" in model.heads
    assert list(model.heads.keys()) == ["a", "b"]
    assert list(model.heads.values()) == [model.heads.a, model.heads.b]
    assert [name for name, _ in model.heads.items()] == ["a", "b"]
    with pytest.raises(KeyError, match="one of a, b, got 'c'"):
        model.heads["c"]
    with pytest.raises(KeyError):
        del model.heads["c"]
    del model.heads["a"]
    model.heads["b"] = nn.ReLU()
    assert len(model.heads) == 1
    model.layers.insert(0, nn.ReLU())
    model.layers.extend([nn.Tanh()])
    assert [type(m).__name__ for m in model.layers[:2]] == ["ReLU", "Linear"]
    with pytest.raises(NotImplementedError, match="ModuleList"):
        model.layers(md.ones(1))
    with pytest.raises(ArgumentError, match="new name"):
        nn.ModuleDict({"keys": nn.ReLU()})


# ---------------------------------------------------------------- Module


def test_registration_order_replacement_and_deletion():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Linear(1, 1, rng=0)
            self.scale = md.Parameter([1.0])
            self.a = nn.Linear(1, 1, bias=False, rng=0)
            self.register_buffer("seen", md.zeros(()))
            self.register_buffer("cache", md.zeros(2), persistent=False)
            self.register_parameter("absent", None)

    model = Model()
    assert [n for n, _ in model.named_parameters()] == ["scale", "b.weight", "b.bias", "a.weight"]
    assert list(model.state_dict()) == ["scale", "seen", "b.weight", "b.bias", "a.weight"]
    assert [n for n, _ in model.named_buffers()] == ["seen", "cache"]
    model.b = nn.Linear(1, 2, rng=0)
    assert [n for n, _ in model.named_children()] == ["b", "a"]
    model.scale = md.Parameter([2.0])
    model.absent = md.Parameter([3.0])
    assert [n for n, _ in model.named_parameters()] == ["scale", "absent", "b.weight", "b.bias", "a.weight"]
    del model.b
    assert not hasattr(model, "b")
    model.a = None
    assert [n for n, _ in model.named_parameters()] == ["scale", "absent"]
    model.scale = None
    model.plain = 3
    model.plain = md.Parameter([1.0])
    assert [n for n, _ in model.named_parameters()] == ["absent", "plain"]
    with pytest.raises(DtypeError, match="a Parameter or None"):
        model.plain = 3
    with pytest.raises(DtypeError, match="a Tensor or None"):
        model.seen = 3
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        model.nothing  # noqa: B018
    with pytest.raises(ArgumentError, match="a new name"):
        model.register_buffer("plain", None)
    with pytest.raises(ArgumentError, match="without dots"):
        model.add_module("a.b", nn.ReLU())


def test_attributes_before_init_are_refused():
    class Model(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="call super"):
        Model()


def test_shared_modules_and_parameters_are_listed_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3, rng=0)
            self.two = nn.Linear(3, 3, rng=1)
            self.same = self.one
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.same(self.two(self.one(x)))

    model = Model()
    assert [n for n, _ in model.named_parameters()] == ["one.weight", "one.bias", "two.bias"]
    assert [n for n, _ in model.named_modules()] == ["", "one", "two"]
    assert list(model.state_dict()) == ["one.weight", "one.bias", "two.weight", "two.bias", "same.weight", "same.bias"]
    copied = copy.deepcopy(model)
    assert copied.same is copied.one
    assert copied.two.weight is copied.one.weight
    copied.load_state_dict(model.state_dict())
    report = md.gradcheck(model, np.random.default_rng(0).standard_normal((2, 3)))
    assert report, str(report)
    count = []
    model.apply(count.append)
    assert count == [model.one, model.two, model]


def test_state_dict_is_a_copy_and_loads_back():
    model = Net()
    state = model.state_dict()
    assert all(type(v) is np.ndarray and v.flags.c_contiguous for v in state.values())
    state["fc1.weight"][...] = 7
    assert not (model.fc1.weight.numpy() == 7).any()
    weight = model.fc1.weight
    assert model.load_state_dict(state) == ([], [])
    assert model.fc1.weight is weight
    assert (weight.numpy() == 7).all()
    assert weight.dtype == np.float32


def test_load_state_dict_refuses_and_changes_nothing():
    model = Net()
    good, before = model.state_dict(), model.state_dict()
    good["fc1.weight"] = good["fc1.weight"] + 1

    def refused(error, match, **changes):
        state = {k: v for k, v in {**good, **changes}.items() if v is not None}
        with pytest.raises(error, match=match):
            model.load_state_dict(state)
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value, before[name])

    refused(ArgumentError, r"1 missing \(fc2.bias\) and 0 unexpected \(none\).*strict=False", **{"fc2.bias": None})
    refused(ArgumentError, r"0 missing \(none\) and 1 unexpected \(fc3.bias\)", **{"fc3.bias": np.ones(1)})
    refused(
        ShapeError, r"load_state_dict \[fc2.weight\]: expected shape \(2, 3\), got \(3, 2\)", **{"fc2.weight": np.ones((3, 2))}
    )
    refused(DtypeError, r"load_state_dict \[fc2.bias\]", **{"fc2.bias": np.array(["a", "b"])})
    refused(DtypeError, r"load_state_dict \[fc2.bias\]", **{"fc2.bias": np.array([1j, 2])})
    refused(ArgumentError, r"values within float32, got larger ones", **{"fc2.bias": np.array([1e300, 0])})
    with pytest.raises(DtypeError, match="a dictionary of arrays"):
        model.load_state_dict(model)
    state = {**good, "extra": np.ones(1)}
    del state["fc2.bias"]
    assert model.load_state_dict(state, strict=False) == (["fc2.bias"], ["extra"])
    np.testing.assert_array_equal(model.fc1.weight.numpy(), good["fc1.weight"])


def test_integer_buffers_refuse_floats_and_nan_loads():
    norm = nn.BatchNorm2d(2)
    state = norm.state_dict()
    assert state["num_batches_tracked"].dtype == np.int64
    assert state["num_batches_tracked"].shape == ()
    with pytest.raises(DtypeError, match="num_batches_tracked"):
        norm.load_state_dict({**state, "num_batches_tracked": np.array(1.5)})
    norm.load_state_dict({**state, "weight": np.array([np.nan, np.inf])})
    np.testing.assert_array_equal(norm.weight.numpy(), [np.nan, np.inf])


def test_torch_state_dicts_of_every_kind(torch):
    norm = nn.BatchNorm2d(2)
    state = torch.nn.BatchNorm2d(2).state_dict()
    state["weight"] = torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0]  # a view with a stride
    state["bias"] = torch.tensor([1.5, 2.5], dtype=torch.float16)
    state["num_batches_tracked"] += 5
    norm.load_state_dict(state)
    np.testing.assert_array_equal(norm.weight.numpy(), [1, 2])
    np.testing.assert_array_equal(norm.bias.numpy(), [1.5, 2.5])
    assert norm.num_batches_tracked.item() == 5
    state["bias"] = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(DtypeError, match="load_state_dict"):
        norm.load_state_dict(state)


def test_to_float_and_double():
    norm = nn.BatchNorm2d(2)
    norm(md.ones(2, 2, 2, 2)).sum().backward()
    weight = norm.weight
    assert norm.double() is norm
    assert norm.weight is weight
    assert {t.dtype for t in norm.parameters()} == {np.dtype("float64")}
    assert norm.running_mean.dtype == np.float64
    assert norm.num_batches_tracked.dtype == np.int64
    assert weight.grad is None
    assert norm.float().weight.dtype == np.float32
    assert norm.to("cpu").to("float64").weight.dtype == np.float64
    for wrong in ("float16", "int32", None, "gpu"):
        with pytest.raises(DtypeError, match="a device, float32 or float64"):
            norm.to(wrong)
    with pytest.raises(ArgumentError, match="'cpu', 'cuda' or 'cuda:N'"):
        norm.to("cuda:x")


def test_default_dtype_of_layers():
    with md.use_dtype("float64"):
        layers = [nn.Linear(2, 2), nn.Conv2d(1, 1, 1), nn.BatchNorm1d(2), nn.Embedding(2, 2), nn.LayerNorm(2)]
    for layer in layers:
        assert {t.dtype for t in layer.parameters()} == {np.dtype("float64")}


def test_freezing_and_gradients():
    model = Net()
    model.fc1.requires_grad_(False)
    model(md.ones(1, 4)).sum().backward()
    assert model.fc1.weight.grad is None
    assert model.fc2.weight.grad is not None
    model.zero_grad()
    assert model.fc2.weight.grad is None


def test_hooks():
    model = Net()
    seen = []
    remove_pre = model.fc1.register_forward_pre_hook(lambda m, inputs: seen.append(("pre", inputs[0].shape)))
    remove = model.fc1.register_forward_hook(lambda m, inputs, y: seen.append(("post", y.shape)))
    model(md.ones(2, 4))
    assert seen == [("pre", (2, 4)), ("post", (2, 3))]
    remove_pre()
    remove()
    remove()
    model(md.ones(2, 4))
    assert len(seen) == 2
    plain = model(md.ones(2, 4)).numpy()
    model.fc1.register_forward_pre_hook(lambda m, inputs: inputs[0] * 2)
    np.testing.assert_allclose(model(md.ones(2, 4)).numpy(), Net()(md.full((2, 4), 2.0)).numpy())
    model.register_forward_hook(lambda m, inputs, y: y * 0)
    assert not model(md.ones(2, 4)).numpy().any()
    assert plain.any()


def test_repr():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Net())
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (1): Net(\n"
        "    (fc1): Linear(in_features=4, out_features=3, bias=True)\n"
        "    (fc2): Linear(in_features=3, out_features=2, bias=True)\n"
        "  )\n"
        ")"
    )


def test_get_submodule():
    model = models.SmallCNN()
    assert model.get_submodule("features.3") is model.features[3]
    assert model.get_submodule("") is model
    with pytest.raises(ArgumentError, match="features, classifier"):
        model.get_submodule("feature")


# ---------------------------------------------------------------- who ran what


def paths(call):
    """(operation, path) of every operation of a call."""
    ran = []
    with md.watch(lambda node, inputs, params, out: ran.append((node.name, node.path))):
        call()
    return ran


def test_errors_name_the_module():
    model = models.SmallCNN()
    with pytest.raises(ShapeError, match=r"conv2d \[features\.0\]: expected .*1 channels|conv2d \[features\.0\]"):
        model(md.ones(1, 3, 28, 28))
    with pytest.raises(ShapeError, match=r"linear \[classifier\.1\]"):
        model(md.ones(1, 1, 32, 32))
    with pytest.raises(ShapeError, match=r"linear \[Linear\]"):
        nn.Linear(3, 2)(md.ones(1, 4))
    assert md.context.state.path == ""


def test_paths_of_nodes():
    model = Net()
    y = model(md.ones(2, 4))
    assert y.grad_fn.path == "fc2"
    assert [p for _, p in paths(lambda: model(md.ones(2, 4)))][1] == "Net"
    outer = nn.Sequential(nn.Sequential(model))
    assert outer(md.ones(2, 4)).grad_fn.path == "0.0.fc2"
    assert (md.ones(2, requires_grad=True) * 2).grad_fn.path == ""


def test_paths_follow_changes_and_copies():
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    assert paths(lambda: model(md.ones(1))) == [("relu", "0"), ("tanh", "1")]
    model.insert(0, nn.Sigmoid())
    assert paths(lambda: model(md.ones(1))) == [("sigmoid", "0"), ("relu", "1"), ("tanh", "2")]
    copied = copy.deepcopy(model)
    assert paths(lambda: copied(md.ones(1))) == [("sigmoid", "0"), ("relu", "1"), ("tanh", "2")]
    wrapper = nn.Sequential(OrderedDict(body=model))
    assert paths(lambda: wrapper(md.ones(1)))[2] == ("tanh", "body.2")
    assert paths(lambda: model(md.ones(1)))[2] == ("tanh", "2")


def test_paths_of_shared_modules_slices_and_strangers():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
            self.again = self.features[1]
            self.hidden = [nn.SiLU()]

        def forward(self, x):
            x = self.features[:2](x)
            x = self.again(x)
            return self.hidden[0](x)

    ran = paths(lambda: Model()(md.ones(1)))
    assert ran == [("relu", "features.0"), ("tanh", "features.1"), ("tanh", "features.1"), ("silu", "Model.SiLU")]


def test_path_is_restored_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model = nn.Sequential(nn.ReLU(), Broken())
    with pytest.raises(RuntimeError, match="broken"):
        model(md.ones(1))
    assert md.context.state.path == ""
    assert md.context.state.names is None


# ---------------------------------------------------------------- models and summaries


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet5", 61_706),
        ("small_cnn", 34_826),
        ("mnist_cnn", 93_322),
        ("cifar_cnn", 122_570),
        ("image_cnn", 11_170_250),
        ("resnet20", 272_474),
    ],
)
def test_models(name, parameters):
    model = models.create(name, rng=0)
    assert sum(p.size for p in model.parameters()) == parameters
    shape = models.MODELS[name].input_shape
    with md.no_grad():
        assert model(md.zeros(1, *shape)).shape == (1, 10)


def test_models_take_options_and_refuse_unknown_ones():
    small = {"lenet5", "small_cnn", "mnist_cnn", "cifar_cnn", "image_cnn"}
    assert set(models.MODELS) == small | {"resnet18", "resnet20", "resnet34", "resnet50"}
    model = models.create("mnist_cnn", num_classes=3, in_channels=2, rng=0)
    assert model(md.zeros(2, 2, 28, 28)).shape == (2, 3)
    with pytest.raises(ArgumentError, match=r"one of lenet5, small_cnn, .*, got 'resnet'"):
        models.create("resnet")
    with pytest.raises(ArgumentError, match="num_classes, in_channels, rng, got 'classes'"):
        models.create("lenet5", classes=3)


def test_resnet_names_are_those_of_torchvision():
    names = list(models.resnet50(rng=0).state_dict())
    assert len(names) == 320
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"} <= set(names)
    assert "layer2.3.conv2.weight" in names
    assert "layer1.1.downsample.0.weight" not in names


def test_resnet_blocks_join_what_they_can():
    """Sum and ReLU run inside the last normalisation; with a hook inside they do not, and the result is the same."""
    block = models.resnet.BasicBlock(8, 16, 2, rng=0)
    x = md.randn(2, 8, 6, 6, rng=0)
    y = block(x)
    assert y._node.name == "batch_norm_relu"
    block.bn2.register_forward_hook(lambda *_: None)
    apart = block(x)
    assert apart._node.name == "relu"
    np.testing.assert_allclose(y.numpy(), apart.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match="one width for each stage, got 2 stages and 1 widths"):
        models.ResNet(models.resnet.BasicBlock, [1, 1], [8])


def test_summary_numbers():
    report = md.summary(models.SmallCNN(), (2, 1, 28, 28))
    rows = {row.path: row for row in report.layers}
    assert list(rows) == [*(f"features.{i}" for i in range(6)), "classifier.0", "classifier.1"]
    assert rows["features.3"].type == "Conv2d"
    assert rows["features.3"].output_shape == (2, 64, 11, 11)
    assert rows["features.3"].parameters == 64 * 32 * 9 + 64
    assert rows["features.3"].flops == 2 * (2 * 64 * 121) * 32 * 9 + 2 * 64 * 121
    assert rows["classifier.1"].flops == 2 * 2 * 1600 * 10 + 2 * 10
    assert rows["features.0"].saved_bytes == 2 * 28 * 28 * 4  # the images
    assert rows["features.1"].saved_bytes == 2 * 32 * 26 * 26 * 4  # ReLU keeps its result
    assert report.parameters == report.trainable == 34_826
    assert report.parameter_bytes == 4 * 34_826
    assert report.flops == sum(row.flops for row in report.layers)
    assert report.saved_bytes == sum(row.saved_bytes for row in report.layers)
    text = str(report)
    assert "SmallCNN, input (2, 1, 28, 28)" in text
    assert "34,826" in text
    assert "features.3" in text


def test_summary_counts_memory_and_shared_parameters_once():
    layer = nn.Linear(4, 4, rng=0)
    report = md.summary(nn.Sequential(layer, nn.ReLU(), layer), (3, 4))
    assert report.parameters == 20
    assert [row.path for row in report.layers] == ["0", "1"]
    assert report.layers[0].flops == 2 * (2 * 3 * 16 + 12)
    assert report.saved_bytes == 2 * 3 * 4 * 4  # the input; the result of ReLU, which the second call keeps too


def test_summary_of_own_operations_frozen_and_unused_layers():
    model = Net()
    model.unused = nn.Linear(2, 2, rng=0)
    model.fc1.requires_grad_(False)
    report = nn.summary(model, [2, 4])
    assert [(row.path, row.type, row.output_shape) for row in report.layers] == [
        ("fc1", "Linear", (2, 3)),
        ("", "Net", (2, 2)),
        ("fc2", "Linear", (2, 2)),
        ("unused", "Linear", None),
    ]
    assert report.trainable == report.parameters - 15
    assert report.layers[0].saved_bytes == 0
    assert "(model)" in str(report)
    assert "not called" in str(report)


def test_summary_leaves_everything_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3, rng=0), nn.BatchNorm1d(3), nn.Dropout(0.5, rng=1), nn.Dropout(0.5))
    model[0].weight.grad = np.ones((3, 4))
    before = model.state_dict()
    state, own = md.random.get_state(), model[2].rng.bit_generator.state
    report = md.summary(model, (5, 4))
    assert [row.output_shape for row in report.layers] == [(5, 3)] * 4
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert md.random.get_state() == state
    assert model[2].rng.bit_generator.state == own
    assert (model[0].weight.grad.numpy() == 1).all()
    assert not model[0]._hooks
    assert model.training
    with md.no_grad():
        assert md.summary(model, (5, 4)).saved_bytes == report.saved_bytes


def test_summary_of_several_inputs_and_integers():
    attention = nn.MultiheadAttention(6, 2, batch_first=True, rng=0)
    report = md.summary(attention, [(2, 3, 6), (2, 4, 6), (2, 4, 6)])
    assert report.layers[-1].output_shape == [(2, 3, 6), (2, 3, 4)] or report.layers[0].output_shape == [(2, 3, 6), (2, 3, 4)]
    assert md.summary(nn.Embedding(5, 3), (2, 7), dtype="int64").layers[0].output_shape == (2, 7, 3)
    assert md.summary(nn.ReLU(), (0, 3)).layers[0].path == ""


def test_summary_takes_shapes_in_a_tuple_and_lets_its_arrays_go():
    class Sum(nn.Module):
        def forward(self, x, y):
            return x.exp() + y

    assert md.summary(Sum(), ((2, 3), (2, 3))).layers[0].output_shape == (2, 3)
    gc.collect()
    gc.disable()
    try:
        md.summary(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (2, 3))
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_summary_refuses_and_explains():
    with pytest.raises(ArgumentError, match="a Module, got function"):
        md.summary(md.relu, (1, 2))
    with pytest.raises(ArgumentError, match="a tuple with the batch axis"):
        md.summary(Net(), 4)
    with pytest.raises(ShapeError) as caught:
        md.summary(models.SmallCNN(), (1, 1, 40, 40))
    assert any("features.5" in note for note in caught.value.__notes__)
