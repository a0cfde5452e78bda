"""Optimizers, schedules, clipping and penalties: against formulas written here, and against PyTorch where it is."""

import json
import math

import numpy as np
import pytest

import minidl as md
from minidl import optim
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.kernels import generic
from minidl.tensor import Tensor

CONFIGS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.7, 0.8), "eps": 1e-3, "weight_decay": 0.2}),
    ("Adam", {"lr": 0.05, "betas": (0.3, 0.9), "amsgrad": True}),
    ("Adam", {"lr": 0.05, "betas": (0.0, 0.0), "maximize": True, "amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.5, "amsgrad": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.2}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "momentum": 0.7}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.9, "centered": True}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.3, "momentum": 0.7, "centered": True, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.3, "weight_decay": 0.2, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True},
    ),
]
IDS = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items()) or 'defaults'}" for name, options in CONFIGS]
EVERY = [
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {}),
]
DTYPES = [np.float32, np.float64]
STEPS = 6


@pytest.fixture(scope="module")
def torch():
    """PyTorch, where it is installed; what it loads on first use changes the warning filters, so it is used here once."""
    module = pytest.importorskip("torch")
    optimizer = module.optim.SGD([module.nn.Parameter(module.ones(1))])
    module.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    return module


def expected(name, o, p, grads):
    """The rules once more, one element at a time, in Python's floats."""
    defaults = {"SGD": {"momentum": 0, "dampening": 0, "weight_decay": 0}, "RMSprop": {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}}
    adam = {"lr": 0.001, "betas": (0.9, 0.999), "eps": 1e-8}
    defaults |= {
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 0.01, "decoupled_weight_decay": True},
        "Adagrad": {"lr": 0.01, "eps": 1e-10},
    }
    o = defaults[name] | o

    def get(key):
        return o.get(key, 0)

    out = np.empty(p.shape)
    for index in np.ndindex(p.shape):
        x, m, v, top, total, a, b = float(p[index]), 0.0, 0.0, 0.0, get("initial_accumulator_value"), 0.0, None
        for t, g in enumerate(grads, 1):
            d = -float(g[index]) if get("maximize") else float(g[index])
            if get("decoupled_weight_decay"):
                x *= 1 - o["lr"] * o["weight_decay"]
            else:
                d += get("weight_decay") * x
            if name == "SGD":
                if o["momentum"]:
                    b = d if b is None else o["momentum"] * b + (1 - o["dampening"]) * d
                    d = d + o["momentum"] * b if get("nesterov") else b
                x -= o["lr"] * d
            elif name in ("Adam", "AdamW"):
                b1, b2 = o["betas"]
                m, v = b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d * d
                top = max(top, v)
                x -= o["lr"] * (m / (1 - b1**t)) / (math.sqrt(top if get("amsgrad") else v) / math.sqrt(1 - b2**t) + o["eps"])
            elif name == "RMSprop":
                v, a = o["alpha"] * v + (1 - o["alpha"]) * d * d, o["alpha"] * a + (1 - o["alpha"]) * d
                u = d / (math.sqrt(v - a * a if get("centered") else v) + o["eps"])
                b = get("momentum") * (b or 0.0) + u
                x -= o["lr"] * (b if get("momentum") else u)
            else:
                total += d * d
                x -= o["lr"] / (1 + (t - 1) * get("lr_decay")) * d / (math.sqrt(total) + o["eps"])
        out[index] = x
    return out


def draw(shape, dtype=np.float64, steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), [rng.standard_normal(shape).astype(dtype) for _ in range(steps)]


def run(optimizer, parameters, gradients):
    """One step per entry of ``gradients``: a list of arrays, one per parameter."""
    for step in gradients:
        for p, g in zip(parameters, step):
            p.grad = None if g is None else Tensor.wrap(g)
        optimizer.step()


def close(a, b, dtype):
    rtol = 1e-12 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["generic", "fast"])
@pytest.mark.parametrize(("name", "options"), CONFIGS, ids=IDS)
def test_rule(name, options, kernels, dtype):
    p, grads = draw((3, 5), dtype)
    w = md.Parameter(p)
    address = w._array.ctypes.data
    with md.use_kernels(kernels):
        run(getattr(optim, name)([w], **options), [w], [[g] for g in grads])
    assert w._array.ctypes.data == address, "the parameter is updated in place"
    assert w.dtype == dtype
    np.testing.assert_allclose(
        w.numpy(),
        expected(name, options, p, grads),
        rtol=1e-11 if dtype == np.float64 else 2e-5,
        atol=1e-11 if dtype == np.float64 else 2e-6,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["generic", "fast"])
@pytest.mark.parametrize(("name", "options"), CONFIGS, ids=IDS)
def test_same_as_torch(torch, name, options, kernels, dtype):
    shapes = [(20, 10), (7,), (), (3, 2, 3, 3)]
    drawn = [draw(shape, dtype, seed=i) for i, shape in enumerate(shapes)]
    ours = [md.Parameter(p) for p, _ in drawn]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p, _ in drawn]
    steps = list(zip(*[grads for _, grads in drawn]))
    with md.use_kernels(kernels):
        run(getattr(optim, name)(ours, **options), ours, steps)
    other = getattr(torch.optim, name)(theirs, **options)
    for step in steps:
        for p, g in zip(theirs, step):
            p.grad = torch.tensor(g)
        other.step()
    for a, b in zip(ours, theirs):
        close(a.numpy(), b.detach().numpy(), dtype)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_arguments_are_those_of_torch(torch, name):
    import inspect

    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    skipped = {"foreach", "fused", "capturable", "differentiable"}
    assert sorted(ours) == sorted(set(theirs) - skipped)
    positional = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n not in skipped | {"maximize"}]
    assert [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    assert {n: p.default for n, p in ours.items()} == {n: theirs[n].default for n in ours}


KERNELS = {
    "sgd_update": (1, (0.1, 0.9, 0.4, 0.01, True, False)),
    "adam_update": (3, (3, 0.1, 0.9, 0.99, 1e-8, 0.1, False, True)),
    "rmsprop_update": (3, (0.1, 0.9, 1e-8, 0.1, 0.9, False)),
    "adagrad_update": (1, (0.1, 1e-10, 0.1, False)),
}
LAYOUTS = {
    "contiguous": lambda x: x.copy(),
    "fortran": lambda x: np.asfortranarray(x),
    "convolution weight": lambda x: np.ascontiguousarray(x.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1),
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
}


def kernel_arguments(name, shape, dtype):
    rng = np.random.default_rng(0)
    averages, scalars = KERNELS[name]
    arrays = [rng.standard_normal(shape), rng.standard_normal(shape)]
    arrays += [rng.uniform(1.0, 2.0, shape) if i != 1 else rng.uniform(0.1, 0.5, shape) for i in range(averages)]
    if name == "adam_update":
        arrays[2], arrays[3] = arrays[3], arrays[2]
    return [np.asarray(x, dtype) for x in arrays], scalars


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_agree_in_every_memory_order(name, layout, dtype):
    """Generic and compiled agree, whatever the order of the parameter, its gradient and its averages; only g is left alone."""
    cpu = pytest.importorskip("minidl.kernels.cpu")
    arrays, scalars = kernel_arguments(name, (4, 3, 2, 5), dtype)
    reference = [x.copy() for x in arrays]
    getattr(generic, name)(*reference, *scalars)
    g = arrays[1].copy()
    for place in range(len(arrays)):
        laid = [LAYOUTS[layout](x) if i == place else x.copy() for i, x in enumerate(arrays)]
        getattr(cpu, name)(*laid, *scalars)
        for x, y in zip(laid, reference):
            close(x, y, dtype)
        np.testing.assert_array_equal(laid[1], g)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (1 << 16,), (257, 131)])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_agree_in_every_size(name, shape):
    """Also above the size from which several threads work."""
    cpu = pytest.importorskip("minidl.kernels.cpu")
    arrays, scalars = kernel_arguments(name, shape, np.float32)
    other = [x.copy() for x in arrays]
    getattr(generic, name)(*arrays, *scalars)
    getattr(cpu, name)(*other, *scalars)
    for x, y in zip(arrays, other):
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=2e-6)
    assert cpu.square_sums(arrays[:1]) == pytest.approx(generic.square_sums(arrays[:1]), rel=1e-12)


@pytest.mark.parametrize("kernels", ["generic", "fast"])
@pytest.mark.parametrize(("name", "options"), EVERY)
def test_nan_and_infinity_stay_where_they_are(name, options, kernels):
    g = np.array([np.nan, np.inf, 1e30, 0.0, 1.0], np.float32)
    w = md.Parameter(np.ones(5, np.float32))
    with md.use_kernels(kernels):
        run(getattr(optim, name)([w], **options), [w], [[g], [g]])
    y = w.numpy()
    assert np.isnan(y[0])
    assert not np.isfinite(y[1])
    assert np.isfinite(y[3:]).all()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_convolution_weights_keep_their_memory_order(name, options):
    """A weight that lies (KH, KW, C, O), with gradients that lie otherwise, and its running averages."""
    p, grads = draw((3, 3, 4, 6))
    weight = Tensor.wrap(np.ascontiguousarray(p).transpose(3, 2, 0, 1)).requires_grad_()
    plain = md.Parameter(np.ascontiguousarray(p.transpose(3, 2, 0, 1)))
    strides = weight._array.strides
    optimizer = getattr(optim, name)([weight, plain], **options)
    orders = [lambda g: g, np.ascontiguousarray, np.asfortranarray]
    run(
        optimizer,
        [weight, plain],
        [[orders[i % 3](g.transpose(3, 2, 0, 1)), np.array(g.transpose(3, 2, 0, 1), order="C")] for i, g in enumerate(grads)],
    )
    np.testing.assert_allclose(weight.numpy(), plain.numpy(), rtol=1e-13, atol=1e-13)
    assert weight._array.strides == strides
    for value in optimizer.state[weight].values():
        assert isinstance(value, int) or value.strides == strides


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("kernels", ["generic", "fast"])
def test_a_parabola_is_minimised(name, options, kernels):
    target = np.array([1.0, -2.0, 3.0])
    w = md.Parameter(np.zeros(3))
    optimizer = getattr(optim, name)(
        [w],
        **{
            **options,
            "lr": {"SGD": 0.05, "Adagrad": 1.0, "RMSprop": 0.01}.get(name, 0.1),
            **({"weight_decay": 0.0} if name == "AdamW" else {}),
        },
    )
    with md.use_kernels(kernels):
        for _ in range(400):
            optimizer.zero_grad()
            ((w - target) * (w - target)).sum().backward()
            optimizer.step()
    np.testing.assert_allclose(w.numpy(), target, atol=0.05)


def test_maximize_climbs():
    w = md.Parameter([1.0])
    optimizer = optim.SGD([w], lr=0.1, maximize=True)
    (w * w).sum().backward()
    optimizer.step()
    assert w.item() == pytest.approx(1.2)


# ---------------------------------------------------------------- parameters and groups


def test_groups_have_their_own_options():
    a, b = md.Parameter([1.0]), md.Parameter([1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5, "name": "head"}], lr=0.1, momentum=0.9)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    run(optimizer, [a, b], [[np.ones(1, np.float32)] * 2])
    assert (a.item(), b.item()) == pytest.approx((0.9, 0.5))
    optimizer.param_groups[1]["lr"] = 0.0
    run(optimizer, [a, b], [[np.ones(1, np.float32)] * 2])
    assert b.item() == pytest.approx(0.5)
    c = md.Parameter([1.0])
    optimizer.add_param_group({"params": [c], "weight_decay": 0.5})
    run(optimizer, [a, b, c], [[np.zeros(1, np.float32)] * 3])
    assert c.item() == pytest.approx(0.95)
    assert "group 1: 1 parameters, lr=0.0" in repr(optimizer)


def test_ways_to_give_parameters():
    a, b = md.Parameter([1.0]), md.Parameter([2.0])
    given = {"params": [a], "lr": 0.3}
    for params in (
        [a, b],
        (p for p in (a, b)),
        [("a", a), ("b", b)],
        [{"params": [a]}, {"params": (p for p in [b])}],
        [given, {"params": [b]}, {"params": []}],
    ):
        optimizer = optim.Adam(params)
        assert [p for group in optimizer.param_groups for p in group["params"]][1] is b
    assert given == {"params": [a], "lr": 0.3}, "the given dictionary is not written to"
    assert optim.Adam([("a", a), ("b", b)]).param_groups[0]["param_names"] == ["a", "b"]


def test_without_gradient_nothing_happens():
    """Frozen parameters and unused ones keep their values and have no state; zero_grad forgets."""
    a, frozen, unused = md.Parameter([1.0]), md.Parameter([1.0], requires_grad=False), md.Parameter([1.0])
    optimizer = optim.Adam([a, frozen, unused])
    (a * frozen).sum().backward()
    optimizer.step()
    assert (frozen.item(), unused.item()) == (1.0, 1.0)
    assert list(optimizer.state) == [a]
    optimizer.zero_grad()
    assert a.grad is None
    before = a.item()
    optimizer.step()
    assert a.item() == before


def test_old_values_stay_with_whoever_holds_them():
    """A graph that waits for backward, a detached tensor and a NumPy view never see the step."""
    w = md.Parameter([3.0])
    optimizer = optim.SGD([w], lr=0.1)
    detached, view = w.detach(), w.numpy()
    first, second, third = (w * w).sum(), (w * w * w).sum(), (md.tensor([1.0], requires_grad=True) * w.detach()).sum()
    first.backward()
    optimizer.step()
    assert w.item() == pytest.approx(3.0 - 0.1 * 6.0)
    assert (detached.item(), view[0]) == (3.0, 3.0)
    w.zero_grad()
    second.backward()
    assert w.grad.item() == pytest.approx(3 * 3.0**2)
    third.backward()


def test_steps_write_in_place_when_nobody_else_looks():
    w = md.Parameter(np.zeros((100, 100), np.float32))
    optimizer = optim.SGD([w], lr=0.1)
    (w * w + w).sum().backward()
    address = w._array.ctypes.data
    optimizer.step()
    assert w._array.ctypes.data == address


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ArgumentError, r"SGD: expected at least one parameter, got none\..*generator", lambda: optim.SGD([])),
        (ArgumentError, "expected at least one parameter", lambda: optim.SGD([{"params": []}])),
        (
            DtypeError,
            r"parameter 1 as a Tensor, got float64 of shape \(2,\)\. Call model.parameters\(\)",
            lambda: optim.SGD([md.Parameter([1.0]), np.ones(2)]),
        ),
        (DtypeError, r"parameter 0 as a Tensor, got 'weight'", lambda: optim.SGD(["weight"])),
        (
            DtypeError,
            r"iterable of parameters or of groups, got Parameter\. Call model.parameters",
            lambda: optim.SGD(md.Parameter([1.0])),
        ),
        (
            DtypeError,
            r"iterable of parameters or of groups, got Module\. Call model.parameters",
            lambda: optim.SGD(md.nn.Module()),
        ),
        (DtypeError, "iterable of parameters or of groups, got dict", lambda: optim.SGD({"params": [md.Parameter([1.0])]})),
        (DtypeError, "got a set, whose order changes", lambda: optim.SGD({md.Parameter([1.0])})),
        (DtypeError, "parameter 1 as a Tensor, got dict", lambda: optim.SGD([md.Parameter([1.0]), {"params": []}])),
        (DtypeError, "a group as a dictionary with 'params'", lambda: optim.SGD([{"lr": 0.1}])),
        (
            ArgumentError,
            "expected options among lr, momentum, .*, got 'learning_rate'",
            lambda: optim.SGD([{"params": [md.Parameter([1.0])], "learning_rate": 1}]),
        ),
        (
            ArgumentError,
            "names for all parameters of a group or for none, got 1 of 2",
            lambda: optim.SGD([("a", md.Parameter([1.0])), md.Parameter([1.0])]),
        ),
        (GraphError, "parameter 0 as a leaf tensor, got the result of multiply", lambda: optim.SGD([md.Parameter([1.0]) * 2])),
        (ArgumentError, "lr within 0.0 to inf, got -1", lambda: optim.SGD([md.Parameter([1.0])], lr=-1)),
        (ArgumentError, "lr within 0.0 to inf, got nan", lambda: optim.Adam([md.Parameter([1.0])], lr=math.nan)),
        (DtypeError, "lr as a number, got '0.1'", lambda: optim.SGD([md.Parameter([1.0])], lr="0.1")),
        (ArgumentError, "lr within", lambda: optim.SGD([{"params": [md.Parameter([1.0])], "lr": -0.1}])),
        (ArgumentError, "momentum within", lambda: optim.SGD([md.Parameter([1.0])], momentum=-0.1)),
        (ArgumentError, "weight_decay within", lambda: optim.SGD([md.Parameter([1.0])], weight_decay=-0.1)),
        (
            ArgumentError,
            "momentum > 0 and dampening 0 for nesterov, got momentum 0.0",
            lambda: optim.SGD([md.Parameter([1.0])], nesterov=True),
        ),
        (
            ArgumentError,
            "for nesterov, got momentum 0.9 and dampening 0.1",
            lambda: optim.SGD([md.Parameter([1.0])], momentum=0.9, dampening=0.1, nesterov=True),
        ),
        (DtypeError, "nesterov as True or False, got 1", lambda: optim.SGD([md.Parameter([1.0])], momentum=0.9, nesterov=1)),
        (
            ArgumentError,
            r"Adam: expected betas from 0 to below 1, got \(0.9, 1.0\)",
            lambda: optim.Adam([md.Parameter([1.0])], betas=(0.9, 1.0)),
        ),
        (
            ArgumentError,
            r"AdamW: expected betas from 0 to below 1, got \(-0.1, 0.9\)",
            lambda: optim.AdamW([md.Parameter([1.0])], betas=(-0.1, 0.9)),
        ),
        (ArgumentError, "betas as a pair", lambda: optim.Adam([md.Parameter([1.0])], betas=0.9)),
        (ArgumentError, "eps within", lambda: optim.Adam([md.Parameter([1.0])], eps=-1e-8)),
        (ArgumentError, "alpha within", lambda: optim.RMSprop([md.Parameter([1.0])], alpha=-0.1)),
        (ArgumentError, "momentum within", lambda: optim.RMSprop([md.Parameter([1.0])], momentum=-0.1)),
        (ArgumentError, "lr_decay within", lambda: optim.Adagrad([md.Parameter([1.0])], lr_decay=-0.1)),
        (
            ArgumentError,
            "initial_accumulator_value within",
            lambda: optim.Adagrad([md.Parameter([1.0])], initial_accumulator_value=-0.1),
        ),
    ],
)
def test_bad_arguments(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_every_parameter_once():
    a, b = md.Parameter([1.0]), md.Parameter([2.0])
    with pytest.raises(ArgumentError, match="every parameter once, got parameter 2 a second time"):
        optim.SGD([a, b, a])
    with pytest.raises(ArgumentError, match=r"every parameter once, got parameter 0 \('x'\) a second time"):
        optim.SGD([{"params": [a, b]}, {"params": [("x", a)]}])
    optimizer = optim.SGD([a])
    with pytest.raises(ArgumentError, match="every parameter once"):
        optimizer.add_param_group({"params": [b, a]})
    assert len(optimizer.param_groups) == 1


def test_gradients_that_do_not_fit():
    a, b = md.Parameter([1.0, 2.0]), md.Parameter([1.0])
    optimizer = optim.SGD([("a", a), ("b", b)], lr=0.1)
    a.grad = Tensor.wrap(np.ones(2, np.float32))
    b._grad = Tensor.wrap(np.ones(1))
    with pytest.raises(
        DtypeError, match=r"SGD: expected a gradient of float32 for parameter 1 \('b'\) of group 0, got float64"
    ):
        optimizer.step()
    b._grad = Tensor.wrap(np.ones(2, np.float32))
    with pytest.raises(ShapeError, match=r"a gradient of shape \(1,\) for parameter 1 \('b'\) of group 0, got \(2,\)"):
        optimizer.step()
    assert a.tolist() == [1.0, 2.0], "nothing is updated when one gradient does not fit"


def test_optimizer_of_ones_own():
    with pytest.raises(NotImplementedError, match="Optimizer: write an update method"):
        run(optim.Optimizer([w := md.Parameter([1.0])], {}), [w], [[np.ones(1, np.float32)]])


# ---------------------------------------------------------------- state


def through_json(state):
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


@pytest.mark.parametrize("way", [lambda state: state, through_json], ids=["direct", "json"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), EVERY)
def test_going_on_from_a_saved_state(name, options, dtype, way):
    """Stop in the middle, load into a new optimizer with other options: the same bits come out."""
    p, grads = draw((4, 3), dtype)
    q, others = draw((5,), dtype, seed=1)
    steps = [[g, None if i < 2 else h] for i, (g, h) in enumerate(zip(grads, others))]
    whole = [md.Parameter(p), md.Parameter(q)]
    run(getattr(optim, name)([{"params": whole[0], "lr": 0.05}, {"params": whole[1]}], **options), whole, steps)
    for stop in (1, 3):
        first = [md.Parameter(p), md.Parameter(q)]
        optimizer = getattr(optim, name)([{"params": first[0], "lr": 0.05}, {"params": first[1]}], **options)
        run(optimizer, first, steps[:stop])
        state = way(optimizer.state_dict())
        second = [md.Parameter(x) for x in first]
        run(optimizer, first, steps[stop:])  # what was saved is a copy
        fresh = getattr(optim, name)([{"params": second[0]}, {"params": second[1]}])
        fresh.load_state_dict(state)
        run(fresh, second, steps[stop:])
        for a, b, c in zip(whole, first, second):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
            np.testing.assert_array_equal(a.numpy(), c.numpy())


def test_state_dict_is_plain():
    w = md.Parameter(np.ones((2, 2), np.float32))
    optimizer = optim.Adam([("w", w)])
    assert optimizer.state_dict()["state"] == {}
    run(optimizer, [w], [[np.ones((2, 2), np.float32)]])
    state = optimizer.state_dict()
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert type(state["state"][0]["step"]) is int
    assert type(state["state"][0]["exp_avg"]) is np.ndarray
    assert state["param_groups"][0] == {
        "params": [0],
        "param_names": ["w"],
        "lr": 0.001,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    }


@pytest.mark.parametrize(("name", "options"), [*EVERY, ("SGD", {"lr": 0.1})])
def test_state_of_torch_can_be_loaded(torch, name, options):
    p, grads = draw((4, 3))
    theirs = torch.nn.Parameter(torch.tensor(p))
    other = getattr(torch.optim, name)([theirs], **options)
    for g in grads[:3]:
        theirs.grad = torch.tensor(g)
        other.step()
    ours = md.Parameter(theirs.detach().numpy())
    optimizer = getattr(optim, name)([ours])
    optimizer.load_state_dict(other.state_dict())
    run(optimizer, [ours], [[g] for g in grads[3:]])
    for g in grads[3:]:
        theirs.grad = torch.tensor(g)
        other.step()
    close(ours.numpy(), theirs.detach().numpy(), np.float64)


def test_state_that_does_not_fit_is_refused():
    w = md.Parameter([1.0, 2.0])
    optimizer = optim.Adam([w], lr=0.5)
    run(optimizer, [w], [[np.ones(2, np.float32)]])
    good = optimizer.state_dict()

    def refused(error, match, change, name="Adam"):
        state = json.loads(json.dumps(good, default=lambda array: array.tolist()))
        change(state)
        fresh = getattr(optim, name)([md.Parameter([1.0, 2.0])], lr=0.25)
        with pytest.raises(error, match=match):
            fresh.load_state_dict(state)
        assert fresh.param_groups[0]["lr"] == 0.25
        assert fresh.state == {}

    refused(ArgumentError, "a dictionary with 'state' and 'param_groups'", lambda s: s.pop("state"))
    refused(ArgumentError, "'param_groups' as a list of dictionaries", lambda s: s.update(param_groups={}))
    refused(ArgumentError, "'param_groups' as a list of dictionaries", lambda s: s["param_groups"][0].pop("params"))
    refused(
        ArgumentError, r"groups of \[1\] parameters, got \[1, 1\]", lambda s: s["param_groups"].append(s["param_groups"][0])
    )
    refused(ArgumentError, r"groups of \[1\] parameters, got \[2\]", lambda s: s["param_groups"][0]["params"].append(1))
    refused(
        ArgumentError,
        "the options of Adam, got betas missing and beta unknown",
        lambda s: s["param_groups"][0].update(beta=s["param_groups"][0].pop("betas")),
    )
    refused(ArgumentError, "the options of SGD, got .* missing and .*betas", lambda s: None, "SGD")
    refused(ArgumentError, "lr within", lambda s: s["param_groups"][0].update(lr=-1))
    refused(ArgumentError, "'state' as a dictionary", lambda s: s.update(state=[]))
    refused(
        ArgumentError, "'state' with a dictionary per parameter of the groups, got '7'", lambda s: s["state"].update({"7": {}})
    )
    refused(ArgumentError, "'state' with a dictionary per parameter of the groups", lambda s: s["state"].update({"0": 3}))
    refused(
        ArgumentError,
        r"\[parameter 0\]: expected the entries step, exp_avg, .*, got exp_avg_sq, step",
        lambda s: s["state"]["0"].pop("exp_avg"),
    )
    refused(ArgumentError, "expected the entries", lambda s: s["state"]["0"].update(momentum_buffer=[0.0, 0.0]))
    refused(ArgumentError, "step as a count, got 1.5", lambda s: s["state"]["0"].update(step=1.5))
    refused(ArgumentError, "step as a count, got inf", lambda s: s["state"]["0"].update(step=math.inf))
    refused(DtypeError, "exp_avg as numbers", lambda s: s["state"]["0"].update(exp_avg=[[0.0], [0.0, 1.0]]))
    refused(ArgumentError, "step as a count, got nan", lambda s: s["state"]["0"].update(step=math.nan))
    refused(ArgumentError, "step as a count", lambda s: s["state"]["0"].update(step=[1, 2]))
    refused(ShapeError, r"exp_avg of shape \(2,\), got \(3,\)", lambda s: s["state"]["0"].update(exp_avg=[0.0] * 3))
    refused(DtypeError, "exp_avg as numbers", lambda s: s["state"]["0"].update(exp_avg=["a", "b"]))


def test_state_of_an_option_switched_off_is_kept():
    """Momentum set to 0 in the middle of a run, saved, loaded, and switched on again."""
    whole, parted = md.Parameter([1.0]), md.Parameter([1.0])
    g = [[np.ones(1, np.float32)]]
    optimizer, other = optim.SGD([whole], lr=0.1, momentum=0.9), optim.SGD([parted], lr=0.1, momentum=0.9)
    for momentum in (0.9, 0.0, 0.5):
        fresh = optim.SGD([parted])
        fresh.load_state_dict(other.state_dict())
        other = fresh
        optimizer.param_groups[0]["momentum"] = other.param_groups[0]["momentum"] = momentum
        run(optimizer, [whole], g)
        run(other, [parted], g)
        assert whole.item() == parted.item()


def test_state_follows_a_cast():
    """After Module.to the state has the old dtype: step refuses, loading the own state casts it."""
    model = md.nn.Module()
    model.w = md.Parameter([1.0, 2.0])
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    run(optimizer, [model.w], [[np.ones(2, np.float32)]])
    model.double()
    model.w.grad = Tensor.wrap(np.ones(2))
    with pytest.raises(
        DtypeError, match=r"momentum_buffer of float64 on cpu, as the parameter, got float32 on cpu\. After Module.to"
    ):
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    np.testing.assert_allclose(model.w.numpy(), [0.75, 1.75])


# ---------------------------------------------------------------- schedules


def pair(torch, name="SGD", lrs=(0.5, 0.02), **options):
    """Our optimizer and torch's, with one group per learning rate."""
    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {}), **options}
    ours = getattr(optim, name)([{"params": [md.Parameter([1.0])], "lr": lr} for lr in lrs], **options)
    theirs = getattr(torch.optim, name)([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs], **options)
    return ours, theirs


SCHEDULES = [
    ("StepLR", {"step_size": 3}),
    ("StepLR", {"step_size": 1, "gamma": 0.7}),
    ("MultiStepLR", {"milestones": [2, 5, 5, 11], "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [4, 0]}),
    ("ExponentialLR", {"gamma": 0.8}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.01, "total_iters": 7}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 10}),
    ("CosineAnnealingLR", {"T_max": 10}),
    ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 1}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 30}),
    ("OneCycleLR", {"max_lr": [1.0, 0.2], "total_steps": 25, "anneal_strategy": "linear", "pct_start": 0.25}),
    (
        "OneCycleLR",
        {"max_lr": 1.0, "epochs": 6, "steps_per_epoch": 5, "three_phase": True, "div_factor": 10.0, "final_div_factor": 100.0},
    ),
    (
        "OneCycleLR",
        {
            "max_lr": 1.0,
            "total_steps": 40,
            "three_phase": True,
            "anneal_strategy": "linear",
            "base_momentum": [0.1, 0.2],
            "max_momentum": 0.9,
        },
    ),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 30, "cycle_momentum": False, "pct_start": 0.0}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 30, "pct_start": 0.95}),
]


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_schedule_is_that_of_torch(torch, name, options, optimizer):
    ours, theirs = pair(torch, optimizer)
    schedule = getattr(optim, name)(ours, **options)
    other = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(getattr(schedule, "total_steps", 24) + 1):
        np.testing.assert_allclose(schedule.get_last_lr(), other.get_last_lr(), rtol=1e-12, atol=1e-15)
        assert schedule.last_epoch == other.last_epoch
        for a, b in zip(ours.param_groups, theirs.param_groups):
            assert a["lr"] == pytest.approx(b["lr"], rel=1e-12, abs=1e-15)
            for key in ("momentum", "betas"):
                assert key not in a or np.allclose(a[key], b[key], rtol=1e-12)
        if schedule.last_epoch < getattr(schedule, "total_steps", 100):
            schedule.step()
            other.step()


CLOSED = [
    (lambda o: optim.StepLR(o, 3, 0.5), lambda t: 0.5 ** (t // 3)),
    (lambda o: optim.MultiStepLR(o, [2, 5], 0.1), lambda t: 0.1 ** ((t >= 2) + (t >= 5))),
    (lambda o: optim.ExponentialLR(o, 0.9), lambda t: 0.9**t),
    (lambda o: optim.LinearLR(o, 0.2, 0.8, 5), lambda t: 0.2 + 0.6 * min(t, 5) / 5),
    (lambda o: optim.CosineAnnealingLR(o, 8, 0.2), lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t / 8)) / 2),
    (
        lambda o: optim.OneCycleLR(o, 4.0, 11, pct_start=4 / 11, anneal_strategy="linear", div_factor=4, final_div_factor=2),
        lambda t: 0.5 + 1.5 * t / 3 if t < 3 else 2 - 1.75 * (t - 3) / 7,
    ),
]


@pytest.mark.parametrize("case", range(len(CLOSED)))
def test_schedule_follows_its_formula(case):
    make, factor = CLOSED[case]
    optimizer = optim.SGD([md.Parameter([1.0])], lr=2.0, momentum=0.9)
    schedule = make(optimizer)
    for t in range(11):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * factor(t), rel=1e-12), t
        if t < 10:
            schedule.step()


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_schedules_multiply_and_follow_each_other_as_in_torch(torch):
    theirs = torch.optim.lr_scheduler
    chains = [
        lambda s, o: [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 12)],
        lambda s, o: [s.LinearLR(o, 0.1, total_iters=4), s.StepLR(o, 3, 0.5), s.ExponentialLR(o, 0.9)],
        lambda s, o: [s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 8, 0.001)], [4])],
        lambda s, o: [
            s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=6), s.StepLR(o, 2, 0.5), s.ExponentialLR(o, 0.9)], [3, 8])
        ],
        lambda s, o: [s.SequentialLR(o, [s.MultiStepLR(o, [1, 2], 0.5), s.MultiStepLR(o, [0, 3], 0.5)], [5])],
    ]
    for make in chains:
        a, b = pair(torch)
        ours, others = make(optim, a), make(theirs, b)
        for _ in range(14):
            np.testing.assert_allclose([g["lr"] for g in a.param_groups], [g["lr"] for g in b.param_groups], rtol=1e-12)
            assert ours[0].last_epoch == others[0].last_epoch
            for schedule in (*ours, *others):
                schedule.step()


PLATEAUS = [
    {"patience": 2},
    {"patience": 0, "factor": 0.5, "threshold": 0.05},
    {"patience": 1, "factor": 0.5, "threshold": 0.02, "threshold_mode": "abs", "cooldown": 2},
    {"patience": 1, "mode": "max", "factor": 0.3},
    {"patience": 0, "mode": "max", "threshold_mode": "abs", "threshold": 0.1, "min_lr": [0.1, 0.001]},
    {"patience": 0, "factor": 0.9, "min_lr": 0.3},
    {"patience": 0, "factor": 0.9, "eps": 0.01},
]


@pytest.mark.parametrize("options", PLATEAUS)
def test_plateau_is_that_of_torch(torch, options):
    ours, theirs = pair(torch)
    schedule = optim.ReduceLROnPlateau(ours, **options)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    metrics = np.cumsum(np.random.default_rng(3).normal(-0.02, 0.1, 40)) + 2
    metrics[7] = np.nan
    for i, value in enumerate(metrics):
        schedule.step(md.tensor(value) if i % 2 else float(value))
        other.step(float(value))
        np.testing.assert_allclose(schedule.get_last_lr(), other.get_last_lr(), rtol=1e-12)
        assert [g["lr"] for g in ours.param_groups] == schedule.get_last_lr()
        if i == 20:  # the state goes through JSON in the middle
            fresh = optim.ReduceLROnPlateau(ours, **options)
            fresh.load_state_dict(through_json(schedule.state_dict()))
            schedule = fresh


def test_plateau_waits_and_cools_down():
    optimizer = optim.SGD([md.Parameter([1.0])], lr=1.0)
    schedule = optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=2)
    rates = []
    for value in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5):
        schedule.step(value)
        rates += schedule.get_last_lr()
    assert rates == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_schedule_goes_on_from_a_saved_state(name, options):
    def make():
        optimizer = optim.SGD([{"params": [md.Parameter([1.0])], "lr": lr} for lr in (0.5, 0.02)], momentum=0.9)
        return optimizer, getattr(optim, name)(optimizer, **options)

    optimizer, schedule = make()
    for _ in range(6):
        schedule.step()
    fresh, other = make()
    other.load_state_dict(through_json(schedule.state_dict()))
    fresh.load_state_dict(through_json(optimizer.state_dict()))
    for _ in range(12):
        schedule.step()
        other.step()
        assert other.get_last_lr() == schedule.get_last_lr()
        assert fresh.state_dict() == optimizer.state_dict()


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_last_epoch_goes_on_as_in_torch(torch, name, options):
    ours, theirs = pair(torch)
    schedule, other = getattr(optim, name)(ours, **options), getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(4):
        schedule.step()
        other.step()
    schedule = getattr(optim, name)(ours, **options, last_epoch=schedule.last_epoch)
    other = getattr(torch.optim.lr_scheduler, name)(theirs, **options, last_epoch=other.last_epoch)
    for _ in range(6):
        np.testing.assert_allclose(schedule.get_last_lr(), other.get_last_lr(), rtol=1e-12)
        assert schedule.last_epoch == other.last_epoch
        schedule.step()
        other.step()


def test_sequence_goes_on_from_a_saved_state():
    def make():
        optimizer = optim.SGD([md.Parameter([1.0])], lr=1.0)
        warmup = optim.LinearLR(optimizer, 0.25, total_iters=3)
        return optimizer, optim.SequentialLR(optimizer, [warmup, optim.CosineAnnealingLR(optimizer, 6)], [3])

    for stop in (2, 3, 5):
        optimizer, schedule = make()
        for _ in range(stop):
            schedule.step()
        fresh, other = make()
        other.load_state_dict(through_json(schedule.state_dict()))
        fresh.load_state_dict(optimizer.state_dict())
        for _ in range(5):
            schedule.step()
            other.step()
            assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == other.get_last_lr()[0]


def adam():
    return optim.Adam([md.Parameter([1.0])])


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (DtypeError, "StepLR: expected an optimizer, got float32 of shape", lambda: optim.StepLR(md.Parameter([1.0]), 3)),
        (DtypeError, "OneCycleLR: expected an optimizer", lambda: optim.OneCycleLR(None, 1.0, 10)),
        (DtypeError, "ReduceLROnPlateau: expected an optimizer", lambda: optim.ReduceLROnPlateau([])),
        (
            ArgumentError,
            "'initial_lr' in group 0 to go on from epoch 3",
            lambda: optim.ExponentialLR(adam(), 0.9, last_epoch=3),
        ),
        (ArgumentError, "step_size of at least 1, got 0", lambda: optim.StepLR(adam(), 0)),
        (DtypeError, "step_size as an integer", lambda: optim.StepLR(adam(), 1.5)),
        (ArgumentError, "gamma within", lambda: optim.ExponentialLR(adam(), -0.5)),
        (ArgumentError, "milestones of at least 0", lambda: optim.MultiStepLR(adam(), [-1])),
        (ArgumentError, "start_factor within", lambda: optim.LinearLR(adam(), 1.5)),
        (ArgumentError, "start_factor above 0", lambda: optim.LinearLR(adam(), 0)),
        (ArgumentError, "end_factor within", lambda: optim.LinearLR(adam(), 0.5, 2.0)),
        (ArgumentError, "T_max of at least 1", lambda: optim.CosineAnnealingLR(adam(), 0)),
        (
            ArgumentError,
            "total_steps, or epochs and steps_per_epoch, got neither",
            lambda: optim.OneCycleLR(adam(), 1.0, epochs=3),
        ),
        (ArgumentError, "total_steps of at least 1", lambda: optim.OneCycleLR(adam(), 1.0, 0)),
        (ArgumentError, "pct_start within", lambda: optim.OneCycleLR(adam(), 1.0, 10, pct_start=1.5)),
        (
            ArgumentError,
            "anneal_strategy as one of 'cos', 'linear'",
            lambda: optim.OneCycleLR(adam(), 1.0, 10, anneal_strategy="cosine"),
        ),
        (ArgumentError, "max_lr as one number or 1, one per group, got 2", lambda: optim.OneCycleLR(adam(), [1.0, 2.0], 10)),
        (ArgumentError, "div_factor and final_div_factor above 0", lambda: optim.OneCycleLR(adam(), 1.0, 10, div_factor=0)),
        (
            ArgumentError,
            "an optimizer with momentum or betas, got Adagrad",
            lambda: optim.OneCycleLR(optim.Adagrad([md.Parameter([1.0])]), 1.0, 10),
        ),
        (ArgumentError, "factor below 1", lambda: optim.ReduceLROnPlateau(adam(), factor=1.0)),
        (ArgumentError, "mode as one of 'min', 'max'", lambda: optim.ReduceLROnPlateau(adam(), "lowest")),
        (ArgumentError, "threshold_mode as one of 'rel', 'abs'", lambda: optim.ReduceLROnPlateau(adam(), threshold_mode="x")),
        (ArgumentError, "min_lr as one number or 1", lambda: optim.ReduceLROnPlateau(adam(), min_lr=[0.1, 0.2])),
        (ArgumentError, "schedules of this optimizer", lambda: optim.SequentialLR(adam(), [], [])),
        (ArgumentError, "schedules of this optimizer", lambda: optim.SequentialLR(adam(), [optim.StepLR(adam(), 3)], [])),
        (
            ArgumentError,
            "schedules of this optimizer",
            lambda: optim.SequentialLR(o := adam(), [optim.ReduceLROnPlateau(o)], []),
        ),
        (
            ArgumentError,
            "0 rising milestones for 1 schedules",
            lambda: optim.SequentialLR(o := adam(), [optim.StepLR(o, 3)], [2]),
        ),
        (
            ArgumentError,
            "last_epoch -1, got 3",
            lambda: optim.SequentialLR(o := adam(), [optim.StepLR(o, 3)], [], last_epoch=3),
        ),
        (
            ArgumentError,
            "StepLR.load_state_dict: expected the entries",
            lambda: optim.StepLR(adam(), 3).load_state_dict(optim.ExponentialLR(adam(), 0.5).state_dict()),
        ),
        (
            ArgumentError,
            "the states of 1 schedules",
            lambda: optim.SequentialLR(o := adam(), [optim.StepLR(o, 3)], []).load_state_dict({}),
        ),
    ],
)
def test_bad_schedules(error, match, call):
    with pytest.raises(error, match=match):
        call()


def test_one_cycle_ends():
    optimizer = adam()
    schedule = optim.OneCycleLR(optimizer, 1.0, 3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ArgumentError, match="at most 3 steps, got step 4"):
        schedule.step()


def test_one_cycle_without_a_rise_starts_at_the_peak():
    """A rise of a single step leaves nothing to interpolate (PyTorch divides by zero)."""
    schedule = optim.OneCycleLR(adam(), 1.0, 2, pct_start=0.5)
    assert schedule.get_last_lr() == [1.0]
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([1 / 25 / 1e4])


def test_groups_added_later():
    """Rules that go from one learning rate to the next take them along; a new start needs the groups it was made with."""
    optimizer = adam()
    schedule = optim.ExponentialLR(optimizer, 0.5)
    optimizer.add_param_group({"params": [md.Parameter([1.0])], "lr": 1.0})
    schedule.step()
    assert schedule.get_last_lr() == [0.0005, 0.5]
    with pytest.raises(ArgumentError, match="1 groups as when it was made, got 2"):
        schedule.restart()


def test_schedule_of_ones_own():
    with pytest.raises(NotImplementedError, match="LRScheduler: write a next_lr method"):
        optim.LRScheduler(adam())


# ---------------------------------------------------------------- clipping and penalties


def with_gradients(*grads):
    parameters = [md.Parameter(np.zeros_like(g)) for g in grads]
    for p, g in zip(parameters, grads):
        p.grad = Tensor.wrap(g.copy())
    return parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernels", ["generic", "fast"])
@pytest.mark.parametrize("norm_type", [1, 2, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clip_grad_norm(max_norm, norm_type, kernels, dtype):
    rng = np.random.default_rng(0)
    grads = [np.asarray(rng.standard_normal(shape), dtype) for shape in ((3, 4), (), (0, 2), (5, 2, 3, 3), (50, 7))]
    grads[3] = np.ascontiguousarray(grads[3].transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    parameters = [*with_gradients(*grads), md.Parameter([1.0])]
    with md.use_kernels(kernels):
        norm = optim.clip_grad_norm((p for p in parameters), max_norm, norm_type)
    flat = np.concatenate([g.ravel() for g in grads]).astype(np.float64)
    wanted = np.abs(flat).max() if norm_type == math.inf else (np.abs(flat) ** norm_type).sum() ** (1 / norm_type)
    assert (norm.shape, norm.dtype) == ((), np.float64)
    assert norm.item() == pytest.approx(wanted, rel=1e-12)
    factor = min(max_norm / (wanted + 1e-6), 1.0)
    for p, g in zip(parameters, grads):
        np.testing.assert_allclose(p.grad.numpy(), g * factor, rtol=1e-12 if dtype == np.float64 else 1e-6)
        assert p.grad.dtype == dtype
    assert parameters[-1].grad is None


@pytest.mark.parametrize("norm_type", [1, 2.0, 3.0, math.inf])
def test_clipping_is_that_of_torch(torch, norm_type):
    rng = np.random.default_rng(0)
    for values in ([3.0, -4.0], [np.nan, 1.0], [np.inf, 1.0], [1e30, 1e30], [0.0, 0.0], list(rng.standard_normal(20))):
        for max_norm in (0.1, 1.0, 100.0):
            g = np.array(values, np.float32)
            (ours,) = with_gradients(g)
            theirs = torch.nn.Parameter(torch.zeros(len(g)))
            theirs.grad = torch.tensor(g)
            norm = optim.clip_grad_norm(ours, max_norm, norm_type).item()
            other = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
            if np.isfinite(other.item()):
                np.testing.assert_allclose(norm, other.item(), rtol=1e-6)
                np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)
            elif not np.isfinite(g).all():
                np.testing.assert_array_equal(norm, other.item())
                np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())
            (ours,) = with_gradients(g)
            theirs.grad = torch.tensor(g)
            optim.clip_grad_value([ours], max_norm)
            torch.nn.utils.clip_grad_value_([theirs], max_norm)
            np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


def test_clipping_leaves_other_holders_of_a_gradient_alone():
    g = np.array([3.0, 4.0])
    p, q = with_gradients(g, g)
    q.grad = kept = p.grad
    optim.clip_grad_norm([p], 1.0)
    optim.clip_grad_value([q], 3.5)
    assert kept.tolist() == [3.0, 4.0]
    np.testing.assert_allclose(p.grad.numpy(), [0.6, 0.8], rtol=1e-6)
    assert q.grad.tolist() == [3.0, 3.5]


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ArgumentError, "max_norm within", lambda p: optim.clip_grad_norm(p, -1.0)),
        (ArgumentError, "norm_type above 0", lambda p: optim.clip_grad_norm(p, 1.0, 0)),
        (DtypeError, "norm_type as a number, got 'inf'", lambda p: optim.clip_grad_norm(p, 1.0, "inf")),
        (DtypeError, r"clip_grad_norm: expected tensors, .*model.parameters\(\)", lambda p: optim.clip_grad_norm([1.0], 1.0)),
        (
            ArgumentError,
            "clip_grad_norm: expected a finite norm, got nan",
            lambda p: optim.clip_grad_norm(p, 1.0, error_if_nonfinite=True),
        ),
        (ArgumentError, "clip_value within", lambda p: optim.clip_grad_value(p, -1.0)),
        (DtypeError, "clip_grad_value: expected tensors", lambda p: optim.clip_grad_value(["w"], 1.0)),
        (DtypeError, "l1_penalty: expected tensors", lambda p: optim.l1_penalty([np.ones(3)])),
        (ArgumentError, "l2_penalty: expected at least one parameter", lambda p: optim.l2_penalty([])),
    ],
)
def test_bad_clipping_and_penalties(error, match, call):
    parameters = with_gradients(np.array([np.nan, 1.0]))
    with pytest.raises(error, match=match):
        call(parameters)
    np.testing.assert_array_equal(parameters[0].grad.numpy(), [np.nan, 1.0])


def test_nothing_to_clip():
    assert optim.clip_grad_norm([], 1.0).item() == 0.0
    assert optim.clip_grad_norm([md.Parameter([1.0])], 1.0).item() == 0.0


def test_penalties():
    a, b = md.Parameter([[1.0, -2.0], [0.0, 3.0]]), md.Parameter([-0.5])
    y = optim.l1_penalty([a, b])
    assert y.item() == 6.5
    y.backward()
    assert a.grad.tolist() == [[1.0, -1.0], [0.0, 1.0]]
    assert b.grad.tolist() == [-1.0]
    a.grad = b.grad = None
    y = optim.l2_penalty(p for p in (a, b))
    assert y.item() == pytest.approx((1 + 4 + 9 + 0.25) / 2)
    y.backward()
    assert a.grad.tolist() == a.tolist()
    assert optim.l2_penalty(b).item() == pytest.approx(0.125)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_weight_decay_is_the_l2_penalty(name):
    x = np.random.default_rng(0).standard_normal((4, 3))
    a, b = md.Parameter(np.full(3, 0.5)), md.Parameter(np.full(3, 0.5))
    decayed, plain = getattr(optim, name)([a], weight_decay=0.3), getattr(optim, name)([b])
    for _ in range(5):
        decayed.zero_grad()
        plain.zero_grad()
        (a * x).sum().backward()
        ((b * x).sum() + 0.3 * optim.l2_penalty([b])).backward()
        decayed.step()
        plain.step()
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
