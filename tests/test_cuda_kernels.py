"""The CUDA kernels outside of convolution against the generic ones: on a GPU, or, without one, on the CPU by the emulator."""

import importlib
import inspect
from types import ModuleType

import numpy as np
import pytest
from conftest import HAS_GPU
from cuda_emulator import emulator

import minidl as md
from minidl import backend, kernels
from minidl.kernels import generic
from minidl.kernels.cuda import _passes
from minidl.kernels.cuda._launch import T_NAMES, TYPES, Source
from minidl.ops.pool import _mean_windows, _windows
from minidl.registry import OPS, Draw
from minidl.testing import FORMS, as_tensors

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not HAS_GPU and emulator.MISSING is not None, reason=str(emulator.MISSING)),
]
PLAIN = Source.launch

FILES = ("activation", "dropout", "elementwise", "embedding", "loss", "norm", "optim", "pool", "resize")
MODULES = {name: importlib.import_module(f"minidl.kernels.cuda.{name}") for name in FILES}
DTYPES = [np.float32, np.float64]
COMPILED: dict = {}


def launch(self, name, dtype, grid, block, args, shared=0):
    """``Source.launch`` for NumPy arrays. On a GPU they are sent there and back, but for tables of addresses."""
    dtype = np.dtype(dtype)
    if HAS_GPU and not any(p.name == "table" for p in self.kernels[name].parameters):
        return launch_there(self, name, dtype, grid, block, args, shared)
    if (self, dtype) not in COMPILED:
        COMPILED[self, dtype] = emulator.Module(self.code, T_NAMES[dtype])
    module = COMPILED[self, dtype]
    parameters = module.kernels[name].parameters
    types = [dtype.type if p.type == "T" else TYPES[p.type] for p in parameters]
    values = [
        (0 if a is None else np.asarray(a)) if p.pointer else t(a) for p, t, a in zip(parameters, types, args, strict=True)
    ]
    grid, block = ((n,) if isinstance(n, int) else n for n in (grid, block))
    if 0 not in grid:
        module.run(name, grid, block, values, shared)


def launch_there(self, name, dtype, grid, block, args, shared):
    cp, parameters, sent = backend.cupy(), self.kernels[name].parameters, {}
    values = [np.asarray(a) if p.pointer and a is not None else a for p, a in zip(parameters, args, strict=True)]
    for a in sorted((a for a in values if isinstance(a, np.ndarray)), key=lambda a: a.nbytes):
        sent[a.ctypes.data] = a, cp.array(a)  # of those that begin at one place the longest
    there = (sent[a.ctypes.data][1] if isinstance(a, np.ndarray) else a for a in values)
    PLAIN(self, name, dtype, grid, block, tuple(there), shared)
    for a, array in sent.values():
        if a.flags.writeable:
            a[...] = array.get()


@pytest.fixture
def package(monkeypatch):
    """All kernels, those of the files above in CUDA; ``kernels_for`` gives it for NumPy arrays too."""
    monkeypatch.setattr(Source, "launch", launch)
    package = ModuleType("cuda")
    package.__dict__.update({name: value for name, value in vars(generic).items() if not name.startswith("__")})
    for module in MODULES.values():
        package.__dict__.update({name: getattr(module, name) for name in module.__all__})
    monkeypatch.setattr(kernels, "_cpu", package)
    return package


def close(actual, expected, dtype, message=""):
    """Equal but for rounding; arrays, None, or tuples of them."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for i, (a, e) in enumerate(zip(actual, expected)):
            close(a, e, dtype, f"{message} result {i}")
    elif expected is None:
        assert actual is None
    else:
        assert actual.dtype == expected.dtype
        rtol, atol = (2e-4, 2e-5) if dtype == np.float32 else (1e-10, 1e-11)
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=message)


@np.errstate(all="ignore")
def compare(package, name, *args, **options):
    """The kernel and the generic one of that name on the same arguments, which they leave untouched; returns the result."""
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    result = getattr(package, name)(*args, **options)
    for a, b in zip(args, before):
        np.testing.assert_array_equal(a, b, err_msg=f"{name} wrote to an input") if isinstance(a, np.ndarray) else None
    expected = getattr(generic, name)(*args, **options)
    dtype = next(a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f")
    close(result, expected, dtype, name)
    return result


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_signatures():
    """Names and parameters are those of the generic kernels."""
    for module in MODULES.values():
        for name in module.__all__:
            ours, theirs = inspect.signature(getattr(module, name)), inspect.signature(getattr(generic, name))
            assert list(ours.parameters) == list(theirs.parameters), name


# ---------------------------------------------------------------- whole operations, on their samples

FAMILIES = ("activation", "cross_entropy", "elementwise", "embedding", "index", "loss", "norm", "pool", "resize")
SAMPLES = [
    pytest.param(spec, sample, id=f"{spec.name}-{sample.name or i}")
    for spec in OPS.values()
    if spec.family in FAMILIES
    for i, sample in enumerate(spec.samples(Draw(seed=1)))
]


def run(spec, sample, **form):
    """All results and gradients of an operation on a sample, as arrays."""
    args = as_tensors(sample.args, sample.differentiable if spec.differentiable else (), **form)
    result = spec.function(*args, **sample.kwargs)
    ys = list(result) if isinstance(result, (list, tuple)) else [result]
    rng = np.random.default_rng(3)
    for y in ys:
        v = rng.standard_normal(y.shape)
        if y.requires_grad:
            y.backward(v, retain_graph=True)
    leaves = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, md.Tensor) and t.requires_grad]
    return tuple(y.numpy() for y in ys), tuple(None if t.grad is None else t.grad.numpy() for t in leaves)


@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_operation(spec, sample, package):
    """Values and gradients are those of the generic kernels, whatever the dtype and the memory order."""
    for dtype, form in (
        (np.float64, "contiguous"),
        (np.float32, "channels_last"),
        (np.float64, "strided"),
        (np.float32, "reversed"),
    ):
        results = run(spec, sample, dtype=dtype, form=np.array if form == "contiguous" else FORMS[form])
        with md.use_kernels("generic"):
            expected = run(spec, sample, dtype=dtype, form=np.array if form == "contiguous" else FORMS[form])
        close(results, expected, dtype, form)


# ---------------------------------------------------------------- activations

ACTIVATIONS = {
    "elu": (1.3,),
    "gelu": (False,),
    "hardswish": (),
    "leaky_relu": (0.1,),
    "relu": (),
    "sigmoid": (),
    "silu": (),
    "softplus": (2.0, 1.0),
    "tanh": (),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype, package):
    """Odd sizes, arrays that begin anywhere, infinities, NaN and borders of the pieces."""
    for size in (0, 1, 2000, 4099):
        x, gy = 3 * normal(size + 1, dtype=dtype), normal(size + 1, dtype=dtype, seed=1)
        x[:: max(1, size // 5)] = 3
        x[1:5] = (np.nan, np.inf, -np.inf, 0)[:size]
        for first in (0, 1):
            compare(package, f"{name}_forward", x[first:], *ACTIVATIONS[name])
            compare(package, f"{name}_backward", gy[first:], x[first:], *ACTIVATIONS[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 32, 33, 100, 2049])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, columns, dtype, package):
    """Rows for a thread, a warp and a block each."""
    x, gy = normal(9, columns, dtype=dtype), normal(9, columns, dtype=dtype, seed=1)
    x[3, 0], x[4, -1], x[5, columns // 2] = np.nan, np.inf, 1000
    y = compare(package, f"{name}_forward", x, 1)
    compare(package, f"{name}_backward", gy, y, -1)


# ---------------------------------------------------------------- sums, and what an index names several times


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums(dtype, package):
    for size in (0, 3, 4100):
        a, b = normal(size, dtype=dtype), normal(size, dtype=dtype, seed=1)
        compare(package, "add", a, b)
        compare(package, "multiply", a, b)
        package.add_to(c := a.copy(), b)
        np.testing.assert_array_equal(c, a + b)
    a, b = normal(2, 3, 4, dtype=dtype), normal(3, 1, dtype=dtype)
    compare(package, "add", a, b)
    compare(package, "multiply", a, FORMS["channels_last"](a))
    package.add_to(c := a.copy(), b)
    np.testing.assert_array_equal(c, a + b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 40, 300])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_embedding(is_sorted, columns, dtype, package, monkeypatch):
    """Repeated, missing and padded rows; twice the same bits."""
    if is_sorted:
        monkeypatch.setattr(MODULES["elementwise"], "FEW", 0)
    index = np.random.default_rng(0).integers(0, 9, (5, 40))
    gy = normal(5, 40, columns, dtype=dtype)
    gw = compare(package, "embedding_backward", gy, index, 12, None)
    np.testing.assert_array_equal(package.embedding_backward(gy, index, 12, None), gw)
    compare(package, "embedding_backward", gy, index.astype(np.int32), 12, 3)
    compare(package, "embedding_backward", gy[:0], index[:0], 12, None)
    w = normal(12, columns, dtype=dtype)
    for words in (index, index.astype(np.int32).T, index[:0], np.array(3)):
        compare(package, "embedding_forward", words, w)


@pytest.mark.parametrize("few", [0, 100])
def test_embedding_of_what_there_is_not(few, package, monkeypatch):
    """NaN, and no gradient; no memory beside the table is touched, where the emulator would stop."""
    monkeypatch.setattr(MODULES["elementwise"], "FEW", few)
    index, w = np.array([2, -1, 3, 1 << 40]), np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(np.isnan(package.embedding_forward(index, w)).all(1), [False, True, True, True])
    gw = package.embedding_backward(np.ones((4, 4), np.float32), index, 3, None)
    np.testing.assert_array_equal(gw[:, 0], [0, 0, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_moments(dtype, package):
    """Beside the old values, and in their place."""
    arrays = [normal(300, dtype=dtype, seed=seed) for seed in range(4)]
    expected = [np.empty(300, dtype) for _ in range(2)]
    generic.update_moments(*arrays, 0.1, 1.25, *expected)
    rooms = [np.empty(300, dtype) for _ in range(2)]
    package.update_moments(*arrays, 0.1, 1.25, *rooms)
    np.testing.assert_allclose(rooms, expected, rtol=1e-6)
    package.update_moments(*arrays, 0.1, 1.25, *arrays[:2])
    np.testing.assert_array_equal(arrays[:2], rooms)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_scatter_add(dtype, package):
    target = np.arange(12).reshape(3, 4).astype(dtype)
    for index in (np.array([0, 2, 0, 0]), (np.array([1, 1, 0]), np.array([3, 3, 2])), slice(1, 3)):
        values = (10 * normal(*target[index].shape)).astype(dtype)
        expected = target.copy()
        np.add.at(expected, index, values)
        package.scatter_add(result := target.copy(), index, values)
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype, package):
    """The mask follows the seed, keeps the right share, and lies like its array."""
    x = FORMS["channels_last"](normal(4, 5, 30, 31, dtype=dtype))
    mask = package.dropout_mask(x, x.shape, 0.3, np.random.default_rng(1))
    assert mask.dtype == bool
    assert mask.shape == x.shape
    assert mask.strides == tuple(n // x.itemsize for n in x.strides)
    assert abs(mask.mean() - 0.7) < 0.01
    assert abs(np.corrcoef(mask.ravel("K")[1:], mask.ravel("K")[:-1])[0, 1]) < 0.02
    np.testing.assert_array_equal(package.dropout_mask(x, x.shape, 0.3, np.random.default_rng(1)), mask)
    assert (package.dropout_mask(x, x.shape, 0.3, np.random.default_rng(2)) != mask).any()
    assert not package.dropout_mask(x, (4, 5, 1, 1), 1.0, np.random.default_rng(1)).any()
    assert package.dropout_mask(x, (4, 5, 1, 1), 0.0, np.random.default_rng(1)).all()
    channels = package.dropout_mask(x, (4, 5, 1, 1), 0.5, np.random.default_rng(1))
    for form in FORMS.values():
        compare(package, "dropout_apply", form(x), mask, 1.25)
        compare(package, "dropout_apply", form(x), channels, 1.25)


def test_philox_numbers(package):
    """The known answers of Philox4x32-10 for counter 0 and key 0 decide about the first four elements."""
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint64)
    numbers = (words >> 8) / 2**24

    class Zero:
        def integers(self, high):
            return 0

    for p in (0.39, 0.41, 0.6, 0.61, 0.73, 0.74, 0.88, 0.89):
        mask = package.dropout_mask(np.zeros(4, np.float32), (4,), p, Zero())
        np.testing.assert_array_equal(mask, numbers >= p)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 10, 50, 2100])
def test_cross_entropy(columns, dtype, package):
    rng = np.random.default_rng(0)
    x, target, g = normal(7, columns, dtype=dtype), rng.integers(0, columns, 7), normal(7, dtype=dtype, seed=2)
    x[5, 0] = np.nan
    target[3] = -100
    weight = rng.uniform(0.5, 2, columns).astype(dtype)
    for smoothing in (0.0, 0.2):
        _, peak, log_sum = compare(package, "cross_entropy_forward", x, target, weight, -100, smoothing)
        compare(package, "cross_entropy_backward", g, x, peak, log_sum, target, weight, -100, smoothing)
        probabilities = np.abs(normal(7, columns, dtype=dtype, seed=3))
        _, log_p, q = compare(package, "cross_entropy_probabilities_forward", x, probabilities, weight, smoothing)
        compare(package, "cross_entropy_probabilities_backward", g, log_p, q)
    compare(package, "nll_loss_forward", x, target, weight, -100)
    compare(package, "nll_loss_backward", g, target, weight, -100)
    target[:2] = columns, -1  # not labels: no memory is touched outside of the arrays
    loss, peak, log_sum = package.cross_entropy_forward(x, target, weight, -100, 0.0)
    gx = package.cross_entropy_backward(g, x, peak, log_sum, target, weight, -100, 0.0)
    assert np.isnan(np.stack([loss, package.nll_loss_forward(x, target, weight, -100), gx[:, 0]])[:, :2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_of_elements(dtype, package):
    """One g for all and one for each, broadcasts, kinks and NaN."""
    d = 2 * normal(3, 401, dtype=dtype)
    d[0, :4] = np.nan, 0, 1, -1
    one, row, many = (normal(*shape, dtype=dtype, seed=1) for shape in ((), (401,), (3, 401)))
    for g in (np.asarray(one), row, many):
        compare(package, "mse_loss_backward", g, d)
        compare(package, "l1_loss_backward", g, d)
        for beta in (0.0, 1.0):
            compare(package, "smooth_l1_loss_forward", d, beta)
            compare(package, "smooth_l1_loss_backward", g, d, beta)
        compare(package, "huber_loss_forward", d, 1.0)
        compare(package, "huber_loss_backward", g, d, 1.0)
        x, t = 1 / (1 + np.exp(-d)), np.abs(np.sin(many))
        x[1, :2] = 0, 1
        compare(package, "binary_cross_entropy_forward", x, t)
        compare(package, "binary_cross_entropy_backward", g, x, t, (True, True))
        for weight in (1.0, 3.0, row**2):
            compare(package, "binary_cross_entropy_with_logits_forward", d, t, weight)
            compare(package, "binary_cross_entropy_with_logits_backward", g, d, t, weight, (True, False))
        for alpha, gamma in ((0.25, 2.0), (-1.0, 0.0)):
            compare(package, "focal_loss_forward", d, t, alpha, gamma)
            compare(package, "focal_loss_backward", g, d, t, alpha, gamma, (True, True))


# ---------------------------------------------------------------- pooling and resampling


WINDOWS = {  # kernel, stride, padding, dilation, ceil_mode
    "2x2": (2, 2, 0, 1, False),
    "overlapping": (3, 2, 1, 1, True),
    "dilated": (2, 1, 1, 3, False),
    "many taps": (17, 1, 8, 1, False),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("name", WINDOWS)
def test_max_pool(name, channels, dtype, package):
    """Ties, NaN, -infinity, rows left over; the winner too."""
    x = normal(2, channels, 7, 6, dtype=dtype).round(1)
    x[0, 0, 2:4, 1:4] = np.nan
    x[1] = -np.inf
    taps = [_windows(n, *WINDOWS[name]) for n in x.shape[2:]]
    for form in ("contiguous", "channels_last"):
        y, winner = compare(package, "max_pool2d_forward", FORMS[form](x), *taps)
        compare(package, "max_pool2d_backward", normal(*y.shape, dtype=dtype), winner, *taps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 8, 136])
def test_resample(channels, dtype, package):
    """Few taps and many, which several threads share; and the gradient."""
    x = normal(2, channels, 9, 11, dtype=dtype)
    x[0, 0, 4, 4] = np.nan
    for kernel in (2, 3, 9):
        taps = [_mean_windows(n, kernel, 2, kernel // 3, True, "inside") for n in x.shape[2:]]
        y = compare(package, "resample", FORMS["channels_last"](x), *taps)
        compare(package, "resample", y, *(axis.transposed for axis in taps))


# ---------------------------------------------------------------- normalisation

NORM_SHAPES = [(40, 8), (3, 5, 9, 7), (2, 64, 6, 5), (1, 3, 700), (2, 1030, 2, 1), (70, 4, 9, 9)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
def test_batch_norm(shape, dtype, package):
    """Given and own statistics, ReLU, residuals, a mean far from 0; NaN stays in its channel."""
    C = shape[1]
    x, gy, residual = (FORMS["channels_last"](normal(*shape, dtype=dtype, seed=i)) for i in range(3))
    x += 30
    if shape[1] == 5:
        x[0, 2, 0, 0] = np.nan
    w, b, m, v = (
        1 + normal(C, dtype=dtype) / 4,
        normal(C, dtype=dtype, seed=1) / 9,
        normal(C, dtype=dtype) / 9,
        np.ones(C, dtype),
    )
    for given in ((), (30 + m, v)):
        for weight, bias in ((w, b), (None, None))[: 1 if C > 1000 else 2]:
            compare(package, "batch_norm_forward", x, weight, bias, 1e-3, *given)
            for relu, extra in ((False, None), (True, None), (False, residual), (True, residual)):
                y, mean, var = generic.batch_norm_forward(x, weight, bias, 1e-3, *given, relu=relu, residual=extra)
                result = package.batch_norm_forward(x, weight, bias, 1e-3, *given, relu=relu, residual=extra)
                close(result, (y, mean, var), dtype)
                kept = None if extra is None else y
                args = gy, x, mean, var, weight, 1e-3, bool(given), (True, True, True)
                compare_gradients(package, "batch_norm_backward", args, relu=relu, bias=bias, y=kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_of_many_pixels(dtype, package, monkeypatch):
    """Threads that sum more numbers than they add up in the precision of x; constants have no variance."""
    monkeypatch.setattr(_passes, "BLOCKS", 1)
    x, gy = (normal(2, 24, 40, 41, dtype=dtype, seed=i) for i in range(2))
    x[:, 3] = 1e4
    x[:, 4] += 1e4
    _, mean, var = compare(package, "batch_norm_forward", x, None, None, 1.0)
    assert (var >= 0).all()
    compare_gradients(package, "batch_norm_backward", (gy, x, mean, var, None, 1.0, False, (True, True, True)))


def compare_gradients(package, name, args, **options):
    """Sums of many values agree to the rounding of their largest parts."""
    results, expected = getattr(package, name)(*args, **options), getattr(generic, name)(*args, **options)
    rtol = 1e-3 if args[0].dtype == np.float32 else 1e-10
    assert len(results) == len(expected)
    for i, (a, e) in enumerate(zip(results, expected)):
        assert (a is None) == (e is None)
        if e is not None:
            scale = np.nanmax(np.abs(e), initial=1) if e.ndim == 1 else 1
            np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * scale / 10, err_msg=f"{name}, result {i}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((6, 8), 2), ((9, 40), 1), ((3, 2100), 1), ((3, 8, 5, 7), 2), ((2, 6, 40), 6), ((5, 3, 4, 4), 1)],
    ids=str,
)
def test_group_norm(shape, groups, dtype, package):
    C = shape[1]
    x, gy = normal(*shape, dtype=dtype) + 5, normal(*shape, dtype=dtype, seed=1)
    w, b = 1 + normal(C, dtype=dtype) / 4, normal(C, dtype=dtype, seed=1)
    for weight, bias in ((w, b), (None, None)):
        _, mean, var = compare(package, "group_norm_forward", x, groups, weight, bias, 1e-4)
        for needs in ((True, True, True), (True, False, False), (False, True, False)):
            compare_gradients(package, "group_norm_backward", (gy, x, mean, var, weight, 1e-4, needs))


# ---------------------------------------------------------------- optimizers


def compare_updates(package, name, tensors, *numbers):
    """The update of several (p, g, ...) alone and together; each array that is written agrees."""
    expected = [tuple(None if a is None else a.copy(order="K") for a in arrays) for arrays in tensors]
    for arrays in expected:
        getattr(generic, name)(*arrays, *numbers)
    memory = {}
    for once in (False, True):
        ours = [tuple(None if a is None else a.copy(order="K") for a in arrays) for arrays in tensors]
        if once:
            with package.together(memory):
                for arrays in ours:
                    getattr(package, name)(*arrays, *numbers)
        else:
            for arrays in ours:
                getattr(package, name)(*arrays, *numbers)
        for i, (a, e) in enumerate(zip(ours, expected)):
            close(a, e, a[0].dtype, f"{name}, tensor {i}")


def parameters(dtype, averages):
    """Several (p, g, average, ...) of odd sizes and memory orders; ``averages`` tells which are there."""
    shapes = [(3,), (0,), (5, 7), (33, 257), (2, 3, 3, 4), (1,)]
    tensors = []
    for i, shape in enumerate(shapes):
        arrays = [normal(*shape, dtype=dtype, seed=10 * i + k) for k in range(2)]
        arrays += [
            np.abs(normal(*shape, dtype=dtype, seed=10 * i + k)) if there else None for k, there in enumerate(averages, 2)
        ]
        if i == 3:
            arrays = [None if a is None else np.asfortranarray(a) if k else a.T.copy().T for k, a in enumerate(arrays)]
        if i == 4:
            arrays[1] = np.asfortranarray(arrays[1])
        tensors.append(tuple(arrays))
    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates(dtype, package):
    """All optimizers and options."""
    for maximize, decay in ((False, 0.0), (True, 0.1)):
        compare_updates(package, "sgd_update", parameters(dtype, [False]), 0.1, 0.0, 0.0, decay, False, maximize)
        for nesterov in (False, True):
            compare_updates(package, "sgd_update", parameters(dtype, [True]), 0.1, 0.9, 0.2, decay, nesterov, maximize)
        for largest in (False, True):
            for beta1, decoupled in ((0.9, False), (0.3, True)):
                numbers = 3, 0.01, beta1, 0.99, 1e-3, decay, decoupled, maximize
                compare_updates(package, "adam_update", parameters(dtype, [True, True, largest]), *numbers)
        for centered, momentum in ((False, False), (False, True), (True, True)):
            numbers = 0.01, 0.9, 1e-3, decay, 0.5, maximize
            tensors = parameters(dtype, [True, centered, momentum])
            if centered:  # an average of squares is at least the square of the average
                tensors = [(p, g, s + a * a, a, b) for p, g, s, a, b in tensors]
            compare_updates(package, "rmsprop_update", tensors, *numbers)
        compare_updates(package, "adagrad_update", parameters(dtype, [True]), 0.1, 1e-5, decay, maximize)


def test_square_sums(package):
    """Any shapes and memory orders, both dtypes, gaps; what float32 cannot hold."""
    shapes = (0,), (1,), (300, 40), (5, 4, 3)
    arrays = [FORMS["channels_last"](1e20 * normal(*shape, dtype=dtype)) for shape in shapes for dtype in DTYPES]
    arrays.append(arrays[-1][::2])
    np.testing.assert_allclose(package.square_sums(arrays), generic.square_sums(arrays), rtol=1e-12)


def test_scaled(package):
    shapes = (0,), (1,), (300, 40), (5, 4, 3)
    arrays = [FORMS["channels_last"](normal(*shape, dtype=dtype)) for shape in shapes for dtype in DTYPES]
    arrays.append(arrays[-1][::2])
    before = [x.copy() for x in arrays]
    for y, x, old in zip(package.scaled(arrays, np.array(0.3)), arrays, before):
        np.testing.assert_allclose(y, old * x.dtype.type(0.3), rtol=1e-6)
        np.testing.assert_array_equal(x, old)
        assert y.dtype == x.dtype


OPTIMIZERS = [
    lambda groups: md.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    lambda groups: md.optim.Adam(groups, lr=0.01, amsgrad=True),
    lambda groups: md.optim.AdamW(groups, lr=0.01),
    lambda groups: md.optim.RMSprop(groups, lr=0.01, momentum=0.5, centered=True),
    lambda groups: md.optim.Adagrad(groups, lr=0.1, lr_decay=0.1),
]


def model(device, make):
    """Parameters in two groups, and their optimizer."""
    shapes = (3, 5), (7,), (4, 4)
    ws = [md.tensor(normal(*shape, dtype=np.float32, seed=i)).to(device).requires_grad_() for i, shape in enumerate(shapes)]
    return ws, make([{"params": ws[:2]}, {"params": ws[2:], "lr": 0.05}])


def gradients(ws, step):
    for i, w in enumerate(ws):
        w.grad = md.tensor(normal(*w.shape, dtype=np.float32, seed=10 * step + i)).to(w.device)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_optimizer_steps(make, emulated):
    """A step is one launch for each group and waits for nothing; parameters agree with those on the CPU."""
    (ours, optimizer), (theirs, other) = model("cuda", make), model("cpu", make)
    for step in range(3):
        gradients(ours, step)
        gradients(theirs, step)
        emulated.counts.clear()
        optimizer.step()
        other.step()
        assert len(emulated.counts.launches) == 2
        assert emulated.counts.downloads == 0
        optimizer.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.02
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_own_update_is_not_delayed(emulated):
    """An update that goes on after the kernel sees what the kernel did."""

    class Halved(md.optim.SGD):
        def update(self, p, g, state, group):
            super().update(p, g, state, group)
            p *= 0.5

    w = md.Parameter([1.0, 2.0]).to("cuda").detach().requires_grad_()
    w.grad = md.tensor([1.0, 1.0]).to("cuda")
    optimizer = Halved([w], lr=0.5)
    optimizer.step()
    np.testing.assert_array_equal(w.numpy(), [0.25, 0.75])
    with pytest.raises(md.ArgumentError, match="update of minidl's own"):
        optimizer.advance()


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_replayed_steps(make, emulated, monkeypatch):
    """The launches of a captured step, run again after ``advance``, are the next steps, also with another learning rate."""
    (ours, optimizer), (theirs, other) = model("cuda", make), model("cpu", make)
    for ws, stepper in ((ours, optimizer), (theirs, other)):
        gradients(ws, 0)
        stepper.step()
    captured = []
    plain = Source.launch
    monkeypatch.setattr(emulated.cuda.Stream, "is_capturing", lambda self: True)
    monkeypatch.setattr(Source, "launch", lambda self, *args: captured.append((self, args)))
    optimizer.step()
    monkeypatch.undo()
    for replay in range(3):
        for stepper in (optimizer, other):
            stepper.param_groups[0]["lr"] = 0.03 / (1 + replay) if replay else stepper.param_groups[0]["lr"]
        if replay:
            optimizer.advance()
        for source, args in captured:
            plain(source, *args)
        other.step()
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(md.ArgumentError, match="parameters on a GPU"):
        other.advance()
