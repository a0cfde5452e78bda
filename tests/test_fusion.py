"""Layers that Sequential runs as one operation: the same results, and whoever asks for what lies between gets it."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest

import minidl as md
from minidl import nn
from minidl.backend import is_array

LIMIT = {np.dtype("f"): 4e-6, np.dtype("d"): 1e-12}  # of the largest value


class OtherConv(nn.Conv2d):
    pass


class OtherReLU(nn.ReLU):
    pass


class OtherPool(nn.MaxPool2d):
    pass


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small():
    """Convolution, ReLU and pooling."""
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2))


@contextmanager
def one_by_one(model):
    """Run every module by itself: a hook asks for all results."""
    removers = [module.register_forward_hook(lambda *_: None) for module in model.modules()]
    yield
    for remove in removers:
        remove()


def nodes(y):
    """All operations that y depends on, the last one first."""
    found, pending = [], [y._node]
    while pending:
        node = pending.pop(0)
        if node is not None and not isinstance(node, md.Tensor) and node not in found:
            found.append(node)
            pending.extend(node.edges)
    return found


def names(y):
    return [node.name for node in nodes(y)]


def step(model, x):
    """y, the names of its operations, and all gradients, of a loss that weighs every element differently."""
    model.zero_grad()
    x = md.tensor(x, requires_grad=True)
    y = model(x)
    found = names(y)
    y.backward(draw(*y.shape, dtype=x.dtype, seed=1))
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}
    return found, {"y": y.numpy(), "x": x.grad.numpy(), **gradients}


def assert_close(got, want):
    assert got.keys() == want.keys()
    for name, e in want.items():
        assert got[name].dtype == e.dtype
        assert got[name].shape == e.shape
        if e.size:
            error = np.abs(got[name] - e).max()
            assert error <= LIMIT[e.dtype] * np.abs(e).max(), (name, error)


CASES = {  # layers, shape of x, names of what runs, the last one first
    "relu": ([nn.Conv2d(3, 5, 3, rng=0), nn.ReLU()], (2, 3, 7, 6), ["conv2d_relu"]),
    "pool": ([nn.Conv2d(3, 5, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 7, 6), ["conv2d_relu"]),
    "pool by name": ([nn.Conv2d(3, 5, 3, rng=0), nn.ReLU(), nn.MaxPool2d((2, 2), 2)], (2, 3, 8, 9), ["conv2d_relu"]),
    "no bias": ([nn.Conv2d(4, 6, 3, 2, 1, bias=False, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (2, 4, 9, 10), ["conv2d_relu"]),
    "same, dilated": ([nn.Conv2d(2, 3, 2, padding="same", dilation=3, rng=0), nn.ReLU()], (1, 2, 8, 8), ["conv2d_relu"]),
    "groups": ([nn.Conv2d(6, 8, 3, groups=2, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (2, 6, 6, 6), ["conv2d_relu"]),
    "depthwise": ([nn.Conv2d(20, 20, 3, groups=20, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (2, 20, 7, 7), ["conv2d_relu"]),
    "winograd": ([nn.Conv2d(32, 32, 3, rng=0), nn.ReLU()], (8, 32, 14, 14), ["conv2d_relu"]),
    "winograd, pool": ([nn.Conv2d(32, 32, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (8, 32, 15, 15), ["conv2d_relu"]),
    "one image": ([nn.Conv2d(3, 5, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (3, 6, 6), ["conv2d_relu"]),
    "no image": ([nn.Conv2d(3, 5, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)], (0, 3, 6, 6), ["conv2d_relu"]),
    "linear": ([nn.Linear(40, 21, rng=0), nn.ReLU()], (7, 40), ["linear_relu"]),
    "linear, few rows": ([nn.Linear(40, 21, bias=False, rng=0), nn.ReLU()], (2, 40), ["linear_relu"]),
    "linear, more axes": ([nn.Linear(40, 21, rng=0), nn.ReLU(), nn.ReLU()], (2, 3, 40), ["relu", "linear_relu"]),
    "network": (
        [
            *(nn.Conv2d(1, 16, 3, rng=0), nn.ReLU(), nn.Conv2d(16, 32, 3, rng=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 3, rng=2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10, rng=3), nn.ReLU()),
        ],
        (4, 1, 14, 14),
        ["linear_relu", "conv2d_relu", "conv2d_relu", "conv2d_relu"],
    ),
    "one layer twice": (
        [*[nn.Conv2d(4, 4, 3, padding=1, rng=0), nn.ReLU()] * 2, nn.MaxPool2d(2)],
        (2, 4, 6, 6),
        ["conv2d_relu", "conv2d_relu"],
    ),
    "no convolution before": ([nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 6, 6), ["max_pool2d", "relu"]),
}


@pytest.mark.parametrize("kernels", ["fast", "generic"])
@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("case", CASES)
def test_fused_is_one_by_one(case, dtype, kernels):
    """Results and all gradients, but for rounding."""
    layers, shape, expected = CASES[case]
    model = copy.deepcopy(nn.Sequential(*layers)).to(np.dtype(dtype))
    if case == "one layer twice":  # copies of one object are one object
        assert model[0] is model[2]
    x = draw(*shape, dtype=dtype)
    with md.use_kernels(kernels):
        ran, got = step(model, x)
        with one_by_one(model):
            apart, want = step(model, x)
    assert [name for name in ran if name != "reshape"] == expected
    assert "conv2d_relu" not in apart
    assert sum(name in ("conv2d", "relu", "max_pool2d") for name in apart) == sum(
        isinstance(layer, (nn.Conv2d, nn.ReLU, nn.MaxPool2d)) for layer in layers
    )
    assert_close(got, want)


@pytest.mark.parametrize(
    "layers",
    [
        [OtherConv(3, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 4, 3, rng=0), OtherReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 4, 3, rng=0), nn.LeakyReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 4, 3, rng=0), nn.MaxPool2d(2), nn.ReLU()],
        [nn.Conv2d(3, 4, 3, rng=0), nn.Sequential(nn.ReLU()), nn.MaxPool2d(2)],
        [nn.ConvTranspose2d(3, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2)],
        [nn.Conv2d(3, 4, 3, rng=0), nn.Dropout(0.0), nn.ReLU()],
    ],
    ids=repr,
)
def test_other_layers_stay_alone(layers):
    """Subclasses may mean something else, and another order does."""
    model, x = nn.Sequential(*layers), draw(2, 3, 8, 8)
    ran, got = step(model, x)
    with one_by_one(model):
        apart, want = step(model, x)
    assert "conv2d_relu" not in ran
    assert ran == apart
    assert_close(got, want)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3),
        nn.MaxPool2d(2, 1),
        nn.MaxPool2d((2, 1)),
        nn.MaxPool2d((1, 2)),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2),
        OtherPool(2),
    ],
    ids=repr,
)
def test_other_poolings_stay_alone(pool):
    """Only 2x2 windows side by side are taken along; ReLU is in any case."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), pool), draw(2, 3, 9, 9)
    ran, got = step(model, x)
    with one_by_one(model):
        _, want = step(model, x)
    assert ran[-1] == "conv2d_relu"
    assert len(ran) == 2
    assert_close(got, want)


def test_pooling_that_returns_indices():
    """Both results arrive."""
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        md.tensor(draw(2, 3, 8, 8)),
    )
    y, index = model(x)
    want = md.relu(md.conv2d(x, model[0].weight, model[0].bias)).numpy()
    np.testing.assert_allclose(
        np.take_along_axis(want.reshape(2, 4, -1), index.numpy().reshape(2, 4, -1), 2), y.numpy().reshape(2, 4, -1)
    )


# ------------------------------------------------------------------------------------- who asks for what lies between


@pytest.mark.parametrize(
    ("place", "before", "expected"),
    [
        (0, False, ["max_pool2d", "relu", "conv2d"]),
        (0, True, ["conv2d_relu"]),  # sees the input only
        (1, False, ["max_pool2d", "relu", "conv2d"]),
        (1, True, ["max_pool2d", "relu", "conv2d"]),
        (2, False, ["max_pool2d", "conv2d_relu"]),
        (2, True, ["max_pool2d", "conv2d_relu"]),
    ],
)
def test_hooks_see_what_lies_between(place, before, expected):
    """A hook of any layer gets what that layer gets and gives; without it, the layers are fused again."""
    model, x, seen = small(), draw(2, 3, 8, 8), []
    results = [md.tensor(x)]
    for layer in model:
        results.append(layer(results[-1]))
    if before:
        remove = model[place].register_forward_pre_hook(lambda module, inputs: seen.append((module, *inputs)))
    else:
        remove = model[place].register_forward_hook(lambda module, inputs, y: seen.append((module, *inputs, y)))
    assert step(model, x)[0] == expected
    (module, *tensors), *others = seen
    assert not others
    assert module is model[place]
    for tensor, want in zip(tensors, results[place:]):
        np.testing.assert_allclose(tensor.numpy(), want.numpy(), rtol=1e-5, atol=1e-5)
    remove()
    assert step(model, x)[0] == ["conv2d_relu"]
    assert len(seen) == 1


def test_hooks_change_what_lies_between():
    """What a hook returns takes the place of the result."""
    model, x = small(), md.tensor(draw(2, 3, 8, 8))
    model[0].register_forward_hook(lambda module, inputs, y: y * 0 + 2)
    assert (model(x).numpy() == 2).all()
    model = small()
    model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    want = md.max_pool2d(md.relu(md.conv2d(x * 0, model[0].weight, model[0].bias, padding=1)), 2)
    np.testing.assert_array_equal(model(x).numpy(), want.numpy())


def test_hooks_around_are_no_hindrance():
    """A hook of the Sequential itself sees what comes out of the fused layers."""
    model, seen = small(), []
    model.register_forward_hook(lambda module, inputs, y: seen.append(y))
    y = model(md.tensor(draw(2, 3, 8, 8), requires_grad=True))
    assert names(y) == ["conv2d_relu"]
    assert seen == [y]


def test_watchers_and_summaries_see_all_layers():
    """Operations one by one with the layers they belong to; afterwards they are fused again."""
    model, seen = small(), []
    with md.watch(lambda node, inputs, params, output: seen.append((node.name, node.path, output.shape))):
        model(md.tensor(draw(2, 3, 8, 8)))
    assert seen == [
        ("conv2d", "0", (2, 5, 8, 8)),
        ("relu", "1", (2, 5, 8, 8)),
        ("max_pool2d", "2", (2, 5, 4, 4)),
    ]
    table = md.summary(model, (2, 3, 8, 8))
    assert [(layer.path, layer.type, layer.output_shape) for layer in table.layers] == [
        ("0", "Conv2d", (2, 5, 8, 8)),
        ("1", "ReLU", (2, 5, 8, 8)),
        ("2", "MaxPool2d", (2, 5, 4, 4)),
    ]
    assert all(layer.flops > 0 for layer in table.layers)
    assert step(model, draw(2, 3, 8, 8))[0] == ["conv2d_relu"]


def test_the_operation_names_the_convolution():
    """The path of the fused operation is that of the first layer."""
    model = nn.Sequential(nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (8, 8)), *small()))
    y = model(md.tensor(draw(2, 3, 8, 8), requires_grad=True))
    assert [(node.name, node.path) for node in nodes(y)][:1] == [("conv2d_relu", "0.2")]


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        ((2, 4, 8, 8), r"conv2d \[features\.0\]"),  # channels that do not match
        ((2, 3, 1, 8), r"conv2d \[features\.0\]"),  # a kernel larger than the image
        ((3, 8), r"conv2d \[features\.0\]"),
        ((2, 3, 6, 6), r"max_pool2d \[features\.5\]"),  # one row and column are left
        ((2, 3, 6, 30), r"max_pool2d \[features\.5\]"),
        ((2, 3, 5, 5), r"conv2d \[features\.3\]"),
        ((2, 3, 10, 10), r"linear \[head\]"),
    ],
)
def test_errors_are_those_of_the_layer(shape, place):
    """Message, path and notes as if the layers ran one by one."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2, rng=0), nn.ReLU(), nn.MaxPool2d(2))
    )
    model = nn.Sequential({"features": features, "head": nn.Linear(7, 2, rng=0)})
    with pytest.raises(md.ShapeError, match=f"^{place}: expected") as fused:
        model(md.tensor(draw(*shape)))
    with one_by_one(model), pytest.raises(md.ShapeError) as apart:
        model(md.tensor(draw(*shape)))
    assert str(fused.value) == str(apart.value)
    assert getattr(fused.value, "__notes__", []) == getattr(apart.value, "__notes__", [])
    assert model(md.tensor(draw(2, 3, 18, 34))).shape == (2, 4, 3, 2)


def test_errors_of_dtype_name_the_layer():
    with pytest.raises(md.DtypeError, match=r"conv2d\w* \[0\]: expected one dtype"):
        small()(md.tensor(draw(2, 3, 8, 8, dtype=np.float64)))


# ------------------------------------------------------------------------------------- the model itself


def test_containers_are_what_they_were():
    """Slices, nested containers, changes, copies and state: fusion leaves no trace in the model."""
    model, x = small(), draw(2, 3, 8, 8)
    state = {name: value.copy() for name, value in model.state_dict().items()}
    ran, want = step(model, x)
    assert list(state) == list(model.state_dict()) == ["0.weight", "0.bias"]
    assert step(model[:2], x)[0] == ["conv2d_relu"]
    assert step(model[:1], x)[0] == ["conv2d"]
    assert step(model[1:], x)[0] == ["max_pool2d", "relu"]
    assert step(nn.Sequential(model[:2], model[2]), x)[0] == ["max_pool2d", "conv2d_relu"]
    assert step(nn.Sequential(model), x)[0] == ["conv2d_relu"]
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    np.testing.assert_array_equal(step(other, x)[1]["y"], want["y"])
    del other[1]
    assert step(other, x)[0] == ["max_pool2d", "conv2d"]
    other.insert(1, nn.ReLU())
    assert step(other, x)[0] == ran
    other.append(nn.ReLU())
    assert step(other, x)[0] == ["relu", "conv2d_relu"]


def test_frozen_parameters():
    """No gradient where none is asked for, and the images are not kept when the weights are frozen."""
    model, x = small(), draw(2, 3, 8, 8)
    _, want = step(model, x)
    model.requires_grad_(False)
    ran, got = step(model, x)
    assert ran == ["conv2d_relu"]
    assert list(got) == ["y", "x"]
    np.testing.assert_array_equal(got["x"], want["x"])
    model[0].bias.requires_grad = True
    y = model(md.tensor(x))
    assert [None if a is None else a.shape for a in y._node.saved] == [None, (5, 3, 3, 3), (2, 5, 4, 4)]
    y.backward(draw(*y.shape, seed=1))
    np.testing.assert_allclose(model[0].bias.grad.numpy(), want["0.bias"], rtol=1e-6)


def test_without_gradients():
    """Under no_grad the same values, and nothing is kept."""
    model, x = small(), md.tensor(draw(2, 3, 8, 8))
    want = model(x)
    with md.no_grad():
        y = model(x)
    assert not y.requires_grad
    assert y._node is None
    np.testing.assert_array_equal(y.numpy(), want.numpy())


def saved_bytes(y):
    """What is kept for backward, each array once, without the leaves."""
    arrays = {a.__array_interface__["data"][0]: a for node in nodes(y) for a in node.saved if is_array(a) and a.ndim == 4}
    return sum(a.nbytes for a in arrays.values())


@pytest.mark.parametrize("kernels", ["fast", "generic"])
def test_what_is_kept(kernels):
    """With pooling one byte for each result, without it the result; and in neither case that of the convolution."""
    x = md.tensor(draw(2, 3, 8, 8))
    with md.use_kernels(kernels):
        model = small()
        weights = model[0].weight.nbytes + x.nbytes
        pooled, plain = model(x), model[:2](x)
        assert saved_bytes(pooled) - weights == pooled.size
        assert saved_bytes(plain) - weights == plain.nbytes
        with one_by_one(model):
            assert saved_bytes(model(x)) - weights >= plain.nbytes


def test_gradients_of_a_fused_network_are_derivatives():
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 2, 2, rng=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1, rng=2)),
    )
    ran = []

    def watched(x):
        y = model(x)
        ran.extend(names(y))
        return y

    model.double()
    x = draw(2, 2, 6, 6, dtype=np.float64)
    assert md.gradcheck(watched, x)
    assert ran.count("conv2d_relu") == 2 * ran.count("linear")
    report = md.gradcheck(model, x)
    assert report, str(report)
    assert len(report.inputs) == 7
    assert all(entry.verdict == "ok" for entry in report.inputs), str(report)


# ------------------------------------------------------------------------------------- batch normalisation


def with_norm(features=5, seed=0, **options):
    """Convolution, batch normalisation whose numbers are no longer the first ones, ReLU and pooling."""
    norm = nn.BatchNorm2d(features, **options)
    rng = np.random.default_rng(seed)
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.ndim:
            tensor.data = rng.uniform(0.5, 2, tensor.shape).astype(np.float32)
    return nn.Sequential(nn.Conv2d(3, 5, 3, bias=seed == 0, rng=0), norm, nn.ReLU(), nn.MaxPool2d(2))


def quietly(model, x):
    """y and the names of the operations that made it, under no_grad."""
    calls = []
    outer = {name: getattr(md.functional, name) for name in ("conv2d", "conv2d_relu", "batch_norm", "batch_norm_relu", "relu")}
    try:
        for name, function in outer.items():
            setattr(md.functional, name, lambda *a, _f=function, _n=name, **o: (calls.append(_n), _f(*a, **o))[1])
        with md.no_grad():
            return model(md.tensor(x)).numpy(), calls
    finally:
        for name, function in outer.items():
            setattr(md.functional, name, function)


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("length", [2, 3, 4])
def test_norm_folds_into_the_convolution(length, seed, options, dtype):
    """In evaluation and under no_grad it is part of the weights; the modules stay as they are."""
    model = with_norm(seed=seed, **options).to(np.dtype(dtype)).eval()[:length]
    before = model.state_dict()
    x = draw(2, 3, 9, 9, dtype=dtype)
    y, calls = quietly(model, x)
    assert calls == ["conv2d" if length == 2 else "conv2d_relu"]
    with one_by_one(model):
        want, calls = quietly(model, x)
    assert calls[:2] == ["conv2d", "batch_norm"]
    assert_close({"y": y}, {"y": want})
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_norm_folds_only_where_it_is_fixed():
    """Not in training, not with the statistics of the batch, not when gradients may be asked for, not with a hook."""
    x = draw(2, 3, 9, 9)
    apart = ["conv2d", "batch_norm_relu"]
    assert quietly(with_norm(), x)[1] == apart
    assert quietly(with_norm(track_running_stats=False).eval(), x)[1] == apart
    model = with_norm().eval()
    assert names(model(md.tensor(x))) == ["max_pool2d", "batch_norm_relu", "conv2d"]
    with md.no_grad(), md.enable_grad():
        assert names(model(md.tensor(x)))[-1] == "conv2d"
    model[1].register_forward_hook(lambda *_: None)
    assert quietly(model, x)[1] == ["conv2d", "batch_norm", "relu"]
    with pytest.raises(md.ShapeError, match=r"BatchNorm2d \[1\]: expected 6 channels on axis 1"):
        quietly(with_norm(features=6).eval(), x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm2d, (4, 5, 3, 2)), (nn.BatchNorm1d, (6, 5)), (nn.BatchNorm1d, (4, 5, 3))]
)
def test_norm_takes_relu_along(kind, shape, options, training):
    """Results, gradients and statistics are the same, and the statistics are taken once."""
    models = [nn.Sequential(kind(5, **options), nn.ReLU()).train(training) for _ in range(2)]
    x = draw(*shape)
    for _ in range(2):
        ran, got = step(models[0], x)
        with one_by_one(models[1]):
            apart, want = step(models[1], x)
        assert_close(got, want)
    assert (ran, apart) == (["batch_norm_relu"], ["relu", "batch_norm"])
    state = models[1].state_dict()
    for name, value in models[0].state_dict().items():
        np.testing.assert_allclose(value, state[name], rtol=1e-6)
    if "track_running_stats" not in options:
        assert state["0.num_batches_tracked"] == 2 * training


def with_shortcut(kind=nn.BatchNorm2d, change=True, **options):
    """A block with one convolution on the way and one on the shortcut, or none."""
    main = nn.Sequential(nn.Conv2d(3, 5 if change else 3, 3, padding=1, rng=0), kind(5 if change else 3, **options))
    return nn.Residual(main, nn.Conv2d(3, 5, 1, rng=1) if change else None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"change": False}])
@pytest.mark.parametrize("dtype", "fd")
def test_norm_adds_the_residual(options, training, dtype):
    """Results, gradients and statistics are those of the sum and ReLU behind the block's two ways."""
    blocks = [with_shortcut(**options).to(np.dtype(dtype)).train(training) for _ in range(2)]
    x = draw(4, 3, 6, 7, dtype=dtype)
    for _ in range(2):
        ran, got = step(blocks[0], x)
        with one_by_one(blocks[1].main):
            apart, want = step(blocks[1], x)
        assert_close(got, want)
    assert "batch_norm_relu" in ran
    assert apart[:2] == ["relu", "add"]
    assert "batch_norm_relu" not in apart
    state = blocks[1].state_dict()
    for name, value in blocks[0].state_dict().items():
        np.testing.assert_allclose(value, state[name], rtol=1e-6)


def test_residual_stays_apart_where_it_must():
    """With a hook on the main way, a subclass of the normalisation, or where the convolution takes the normalisation along."""
    x = md.tensor(draw(2, 3, 6, 7))

    class Own(nn.BatchNorm2d):
        pass

    assert names(with_shortcut()(x))[0] == "batch_norm_relu"
    assert names(with_shortcut(Own)(x))[0] == "relu"
    for module in (lambda block: block.main, lambda block: block.main[1]):
        block = with_shortcut()
        seen = []
        module(block).register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.numpy()))
        assert names(block(x))[0] == "relu"
        assert (seen[0] < 0).any()  # before the sum and ReLU
    assert names(nn.Residual(nn.Conv2d(3, 3, 3, padding=1, rng=0))(x))[0] == "relu"
    block = with_shortcut().eval()
    with_graph = block(x).numpy()
    assert quietly(block, x.numpy())[1] == ["conv2d", "conv2d", "relu"]
    np.testing.assert_allclose(quietly(block, x.numpy())[0], with_graph, rtol=1e-5, atol=1e-6)


def test_residual_of_another_shape():
    joined = r"batch_norm_relu \[main.1\]: expected residual of shape \(2, 5, 6, 7\), that of x, got shape \(2, 3, 6, 7\)"
    apart = r"Residual \[Residual\]: expected shortcut\(x\) of main\(x\)'s shape \(2, 5, 6, 7\), got shape \(2, 3, 6, 7\)"
    for layers, message in ((2, joined), (1, apart)):
        block = nn.Residual(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, rng=0), nn.BatchNorm2d(5))[:layers])
        with pytest.raises(md.ShapeError, match=message):
            block(md.tensor(draw(2, 3, 6, 7)))
    with pytest.raises(md.DtypeError, match="main as a Module, got int"):
        nn.Residual(3)


def test_training_is_the_same():
    """Ten steps of a small network, fused and one by one: the weights agree."""
    x, labels = draw(16, 3, 10, 10), np.arange(16) % 4
    results = []
    for fused in (True, False):
        model = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, rng=0), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, rng=1), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 4, rng=2)),
        ).double()
        if not fused:
            for module in model:
                module.register_forward_hook(lambda *_: None)
        optimizer = md.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(10):
            optimizer.zero_grad()
            loss = md.cross_entropy(model(md.tensor(x.astype(np.float64))), md.tensor(labels))
            loss.backward()
            optimizer.step()
        results.append({**model.state_dict(), "loss": loss.numpy()})
    for name, value in results[1].items():
        np.testing.assert_allclose(results[0][name], value, rtol=1e-8, atol=1e-10, err_msg=name)
