"""Tensors as arrays: NumPy's meaning and PyTorch's gradients, over shapes, dtypes and special values."""

import copy
import gc
import math
import pickle
import threading
import weakref

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minidl as md
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.kernels.generic import scatter_add, sum_to

try:
    import torch
except ImportError:
    torch = None
else:
    torch.ones(1, requires_grad=True).exp().backward(torch.ones(1))  # adds a warnings filter: not inside a test

FEW = settings(max_examples=60, deadline=None, derandomize=True)
INF, NAN = math.inf, math.nan


def leaf(array, dtype=np.float64):
    return md.tensor(np.asarray(array, dtype), requires_grad=True)


def values(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def gradients(function, *arrays, dtype=np.float64):
    """Value and gradients of sum(v * f(arrays)) for a fixed random v."""
    leaves = [leaf(a, dtype) for a in arrays]
    y = function(*leaves)
    v = values(y.shape, seed=7)
    y.backward(v)
    return y.numpy(), [t.grad.numpy() for t in leaves]


def numeric(function, *arrays, h=1e-6):
    """The same gradients by central differences."""
    v = values(function(*map(md.tensor, arrays)).shape, seed=7)
    result = []
    for i, a in enumerate(arrays):
        g = np.zeros_like(a)
        for place in np.ndindex(a.shape):
            sides = []
            for sign in (1, -1):
                moved = [b.copy() for b in arrays]
                moved[i][place] += sign * h
                sides.append(float((function(*map(md.tensor, moved)).numpy() * v).sum()))
            g[place] = (sides[0] - sides[1]) / (2 * h)
        result.append(g)
    return result


def assert_gradients(function, *arrays):
    for got, expected in zip(gradients(function, *arrays)[1], numeric(function, *arrays)):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- broadcasting, indexing, einsum


@FEW
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0), st.integers(0, 99))
def test_broadcasting(shapes, seed):
    x, y = (values(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    z, (gx, gy) = gradients(md.multiply, x, y)
    v = values(shapes.result_shape, seed=7)
    np.testing.assert_allclose(z, x * y)
    assert gx.shape == x.shape
    assert gy.shape == y.shape
    # the adjoint identity: <v, dx * y> = <gx, dx> for any dx
    for array, other, g in ((x, y, gx), (y, x, gy)):
        d = values(array.shape, seed=9)
        np.testing.assert_allclose((v * (d * other)).sum(), (g * d).sum(), rtol=1e-9, atol=1e-12)


@FEW
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_sum_to_is_the_transpose_of_broadcasting(shapes):
    (shape, _), big = shapes.input_shapes, shapes.result_shape
    x, g = values(shape, 1), values(big, 2)
    np.testing.assert_allclose((np.broadcast_to(x, big) * g).sum(), (x * sum_to(g, shape)).sum(), rtol=1e-9, atol=1e-12)


@FEW
@given(st.data())
def test_indexing(data):
    """Values are NumPy's; the gradient adds up whatever was picked, as np.add.at does."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    x = values(shape)
    index = data.draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True),
            hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)),
            hnp.arrays(bool, shape),
            hnp.arrays(bool, shape[:1]),
            st.tuples(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=4), st.just(...)),
        )
    )
    t = leaf(x)
    y = t[index]
    picked = x[tuple(np.array(i, int) if isinstance(i, list) else i for i in index) if isinstance(index, tuple) else index]
    np.testing.assert_array_equal(y.numpy(), picked)
    v = values(y.shape, 5)
    y.backward(v)
    expected = np.zeros(shape)
    positions = np.arange(x.size).reshape(shape)[
        tuple(np.array(i, int) if isinstance(i, list) else i for i in index) if isinstance(index, tuple) else index
    ]
    for place, g in zip(np.ravel(positions), np.ravel(v)):
        expected.flat[place] += g
    np.testing.assert_allclose(t.grad.numpy(), expected)


def test_index_arrays_may_change_after_the_call():
    x, index = leaf([1.0, 2.0, 3.0]), np.array([0, 0])
    y = x[index]
    index[:] = 2
    y.sum().backward()
    assert x.grad.tolist() == [2, 0, 0]


def test_index_by_tensor():
    x = md.arange(10, dtype="float32")
    assert x[md.tensor([1, 3])].tolist() == [1, 3]
    assert x[md.tensor(2)].shape == x[np.int64(2)].shape == ()
    assert x[np.True_].shape == x[True].shape == x[None].shape == (1, 10)
    assert x[...].grad_fn is x[()].grad_fn is None
    assert x[x > 6].tolist() == [7, 8, 9]
    assert x[md.tensor(2) : md.tensor(4)].tolist() == [2, 3]
    assert [float(v) for v in x[:3]] == [0, 1, 2]


def test_ragged_index():
    for call in (lambda x: x[[[0], [0, 1]]], lambda x: x.take([[0], [0, 1]]), lambda x: x.gather(0, [[0], [0, 1]])):
        with pytest.raises(DtypeError, match=r"(getitem|take|gather): expected numbers in a rectangular nesting"):
            call(md.ones(3))


LABELS = st.text(alphabet="ijk", max_size=3)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(LABELS, min_size=1, max_size=3), st.data())
def test_einsum(terms, data):
    """Any letters, repeated or not, explicit or implicit result, sizes of 1 that broadcast."""
    size = {"i": 2, "j": 3, "k": 1}
    letters = sorted(set("".join(terms)))
    subscripts = ",".join(terms)
    if data.draw(st.booleans()):
        subscripts += "->" + "".join(data.draw(st.permutations(letters)) if letters else "")[: data.draw(st.integers(0, 3))]
    arrays = [values([size[c] for c in term], i) for i, term in enumerate(terms)]
    if data.draw(st.booleans()) and len(set(terms[0])) == len(terms[0]):
        arrays[0] = values([1] * len(terms[0]), 3)
    expected = np.einsum(subscripts, *arrays)
    np.testing.assert_allclose(md.einsum(subscripts, *arrays).numpy(), expected, rtol=1e-9, atol=1e-12)
    assert_gradients(lambda *x: md.einsum(subscripts, *x), *arrays)


@FEW
@given(st.integers(0, 3), st.integers(0, 3), st.data())
def test_matmul(extra_x, extra_y, data):
    n, k, m = (data.draw(st.integers(1, 3)) for _ in range(3))
    batch = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=2))
    x = values(k) if extra_x == 0 else values((*batch.input_shapes[0], n, k), 1)
    y = values(k) if extra_y == 0 else values((*batch.input_shapes[1], k, m), 2)
    z, grads = gradients(md.matmul, x, y)
    np.testing.assert_allclose(z, x @ y)
    for got, expected in zip(grads, numeric(md.matmul, x, y)):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


@FEW
@given(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3), st.data())
def test_reductions(shape, data):
    axes = data.draw(st.one_of(st.none(), hnp.valid_tuple_axes(len(shape))))
    keepdims = data.draw(st.booleans())
    x = values(shape)
    for name in ("sum", "mean", "prod", "max", "min", "var", "std", "all", "any"):
        expected = getattr(np, name)(x, axis=axes, keepdims=keepdims)
        y = getattr(md, name)(md.tensor(x), axis=axes, keepdims=keepdims)
        assert y.shape == np.shape(expected)
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_scatter_add_counts_repeats():
    target = np.zeros((2, 3))
    scatter_add(target, (np.array([0, 0, 1]), slice(None)), np.ones((3, 3)))
    assert target.tolist() == [[2, 2, 2], [1, 1, 1]]


# ---------------------------------------------------------------- PyTorch's answers

ROW = [NAN, INF, -INF, 0.0, 1.0, -2.0, 2.0]
TIES = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [NAN, 1.0, 2.0]]
HOLES = [[2.0, 0.0, 3.0], [0.0, 0.0, 4.0], [1.0, -2.0, 5.0]]
INDEX = np.array([[0, 2], [1, 1], [2, 0]])

TORCH = {
    "power": (lambda f, x, y: x**y, [[0.0, 0, 0, 0, -2, -2, 2, 2, 0]], [[0.0, 2, 0.5, -1, 3, 0.5, 0, -1, 1]]),
    "power 2": (lambda f, x: x**2, ROW),
    "power 0": (lambda f, x: x**0, ROW),
    "power 1": (lambda f, x: x**1, ROW),
    "power -1": (lambda f, x: x**-1, ROW),
    "power 0.5": (lambda f, x: x**0.5, [NAN, INF, *ROW[3:]]),  # of -inf PyTorch takes a square root, which is NaN
    "power 3.0": (lambda f, x: x**3.0, ROW),
    "2 ** x": (lambda f, x: 2**x, ROW),
    "0 ** x": (lambda f, x: 0.0**x, ROW),
    "1 / x": (lambda f, x: 1 / x, ROW),
    "3 - x": (lambda f, x: 3 - x, ROW),
    "x / y": (lambda f, x, y: x / y, ROW, ROW[::-1]),
    "remainder": (lambda f, x, y: x % y, [5.0, -5.0, 5.0, -5.5], [3.0, 3.0, -3.0, 2.0]),
    "abs": (lambda f, x: f.abs(x), ROW[1:]),  # of NaN PyTorch's derivative is 0, here it is NaN
    "exp": (lambda f, x: f.exp(x), ROW),
    "log": (lambda f, x: f.log(x), ROW),
    "log1p": (lambda f, x: f.log1p(x), [*ROW, -1.0]),
    "sqrt": (lambda f, x: f.sqrt(x), ROW),
    "sin": (lambda f, x: f.sin(x), ROW),
    "cos": (lambda f, x: f.cos(x), ROW),
    "square": (lambda f, x: f.square(x), ROW),
    "reciprocal": (lambda f, x: f.reciprocal(x), ROW),
    "maximum": (lambda f, x, y: f.maximum(x, y), ROW, [1.0, INF, 0.0, 0.0, NAN, -3.0, 2.0]),
    "minimum": (lambda f, x, y: f.minimum(x, y), ROW, [1.0, INF, 0.0, 0.0, NAN, -3.0, 2.0]),
    "clip": (lambda f, x: f.clip(x, -1.0, 1.0), ROW),
    "clip low": (lambda f, x: f.clip(x, min=0.0), ROW),
    "clip high": (lambda f, x: f.clip(x, max=1.0), ROW),
    "clip crossed": (lambda f, x: f.clip(x, 1.0, -1.0), ROW),
    "clip tensors": (lambda f, x, a, b: f.clip(x, a, b), [1.0, 3, 5, 4, NAN, 2], [2.0, 3, 2, 6, 0, 2], [4.0, 4, 4, 5, 1, 2]),
    "where": (lambda f, x, y: f.where(x > y, x, y), ROW, ROW[::-1]),
    "max": (lambda f, x: f.max(x, axis=1) if f is md else f.amax(x, 1), TIES),
    "min": (lambda f, x: f.min(x, axis=1) if f is md else f.amin(x, 1), TIES),
    "max of all": (lambda f, x: f.max(x) if f is md else f.amax(x), TIES[:2]),
    "prod": (lambda f, x: f.prod(x, 1), HOLES),
    "prod of all": (lambda f, x: f.prod(x), [[2.0, 0.0, 3.0]]),
    "var": (lambda f, x: f.var(x, axis=1, ddof=1) if f is md else f.var(x, 1), HOLES),
    "var of one": (lambda f, x: f.var(x, axis=1) if f is md else f.var(x, 1, correction=0), [[3.0], [4.0]]),
    "std": (lambda f, x: f.std(x, axis=1) if f is md else f.std(x, 1, correction=0), [[1.0, 2, 5], [2, 2, 2]]),
    "logsumexp": (lambda f, x: f.logsumexp(x, 1), [[1.0, 2, 3], [-INF, 0, 1], [1000, 1000, 999], [NAN, 1, 2]]),
    "logsumexp inf": (lambda f, x: f.logsumexp(x, 0), [INF, 1.0, 2.0]),
    "cumsum": (lambda f, x: f.cumsum(x, 1), HOLES),
    "gather": (lambda f, x: f.gather(x, 1, md.tensor(INDEX) if f is md else f.from_numpy(INDEX)), HOLES),
    "flip": (lambda f, x: f.flip(x, (0, 1)), HOLES),
    "stack": (lambda f, x, y: f.stack([x, y], 1), HOLES, [*TIES[:2], [0.0, 0, 0]]),
    "tril": (lambda f, x: f.tril(x, -1), HOLES),
    "matmul inf": (lambda f, x, y: x @ y, [[INF, 1.0], [0, 2]], [[0.0, 1], [1, NAN]]),
    "mean": (lambda f, x: f.mean(x, 1), TIES),
}


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", TORCH)
def test_like_torch(name, dtype):
    """Values and gradients at zeros, ties, infinities and NaN."""
    function, *arrays = TORCH[name]
    y, grads = gradients(lambda *x: function(md, *x), *arrays, dtype=dtype)
    theirs = [torch.tensor(np.asarray(a, dtype), requires_grad=True) for a in arrays]
    expected = function(torch, *theirs)
    expected.backward(torch.tensor(values(expected.shape, seed=7).astype(dtype)))
    rtol = 1e-12 if dtype == "float64" else 1e-5
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=rtol)
    for mine, other in zip(grads, theirs):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, other.grad.numpy(), rtol=rtol, atol=rtol)


def test_logsumexp_of_nothing():
    x = leaf([[-INF, -INF], [-INF, 0.0]])
    y = md.logsumexp(x, 1)
    assert y.tolist() == [-INF, 0]
    y.sum().backward()
    assert x.grad.tolist() == [[0, 0], [0, 1]]
    assert md.logsumexp(md.zeros(2, 0), 1).tolist() == [-INF, -INF]


def test_reductions_of_nothing():
    x = md.zeros(0, 3)
    assert x.sum(0).tolist() == [0, 0, 0]
    assert x.prod().item() == 1
    assert np.isnan(x.mean(0).numpy()).all()
    assert np.isnan(x.var().numpy())
    assert x.max(1).shape == (0,)
    assert bool(x.all())
    assert not bool(x.any())
    with pytest.raises(ShapeError, match=r"min: expected at least one element along the axes, got shape \(0, 3\)"):
        x.min()


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda f32, f64, i, b: f32 + 1, "float32"),
        (lambda f32, f64, i, b: f32 * 2.5, "float32"),
        (lambda f32, f64, i, b: f32 / True, "float32"),
        (lambda f32, f64, i, b: f32 * i, "float32"),
        (lambda f32, f64, i, b: b * f32, "float32"),
        (lambda f32, f64, i, b: f32 + f64, "float64"),
        (lambda f32, f64, i, b: i + f64, "float64"),
        (lambda f32, f64, i, b: i + 1, "int64"),
        (lambda f32, f64, i, b: i + 1.5, "float32"),
        (lambda f32, f64, i, b: i / 2, "float32"),
        (lambda f32, f64, i, b: i**2, "int64"),
        (lambda f32, f64, i, b: i + b, "int64"),
        (lambda f32, f64, i, b: -i, "int64"),
        (lambda f32, f64, i, b: abs(i), "int64"),
        (lambda f32, f64, i, b: i.exp(), "float32"),
        (lambda f32, f64, i, b: i.sum(), "int64"),
        (lambda f32, f64, i, b: b.sum(), "int64"),
        (lambda f32, f64, i, b: i.astype("int32").sum(), "int64"),
        (lambda f32, f64, i, b: i.mean(), "float32"),
        (lambda f32, f64, i, b: b.var(), "float32"),
        (lambda f32, f64, i, b: i.max(), "int64"),
        (lambda f32, f64, i, b: i.cumsum(0), "int64"),
        (lambda f32, f64, i, b: f32.argmax(), "int64"),
        (lambda f32, f64, i, b: i @ i, "int64"),
        (lambda f32, f64, i, b: i @ f32, "float32"),
        (lambda f32, f64, i, b: md.einsum("i,i", f32, f64), "float64"),
        (lambda f32, f64, i, b: md.concatenate([i, f32]), "float32"),
        (lambda f32, f64, i, b: md.stack([f64, f32]), "float64"),
        (lambda f32, f64, i, b: md.where(b, f32, 0), "float32"),
        (lambda f32, f64, i, b: md.where(b, i, 0.5), "float32"),
        (lambda f32, f64, i, b: md.where(b, 1, 0), "int64"),
        (lambda f32, f64, i, b: f32.clip(0, 1), "float32"),
        (lambda f32, f64, i, b: i.clip(0, 1), "int64"),
        (lambda f32, f64, i, b: f32 > i, "bool"),
        (lambda f32, f64, i, b: f32 + np.float32(1), "float32"),
        (lambda f32, f64, i, b: f32 + np.float64(1), "float64"),
        (lambda f32, f64, i, b: md.add(f32, [1, 2]), "float32"),
        (lambda f32, f64, i, b: md.add(f32, [1.0, 2.0]), "float32"),
    ],
)
def test_dtypes(function, expected):
    tensors = [md.tensor([1.0, 2.0]), md.tensor([1.0, 2.0], "float64"), md.tensor([1, 2]), md.tensor([True, False])]
    assert function(*tensors).dtype == expected
    with md.use_dtype("float64"):
        assert (md.tensor([1, 2]) / 2).dtype == np.float64


def test_gradients_keep_the_dtype_of_their_input():
    x, y = leaf([1.0, 2.0], "float32"), leaf([3.0, 4.0], "float64")
    for z in (x * y, md.concatenate([x, y]), md.einsum("i,i->i", x, y), x @ y, md.where(x > 0, x, y), md.maximum(x, y)):
        z.sum().backward()
        assert x.grad.dtype == np.float32
        assert y.grad.dtype == np.float64
        x.zero_grad()
        y.zero_grad()
    z = x.astype("float64")
    assert z.requires_grad
    assert x.astype("float32") is x
    assert not x.astype("int64").requires_grad


def test_integers():
    i = md.tensor([7, -7])
    assert (i // 2).tolist() == [3, -4]
    assert (i % 3).tolist() == [1, 2]
    assert (100 // md.tensor([7, 9])).tolist() == [14, 11]
    assert (100 % md.tensor([7, 9])).tolist() == [2, 1]
    with pytest.raises(ArgumentError, match="integer divisors other than 0"):
        i % 0
    with pytest.raises(ArgumentError, match="add: expected a number that uint8 holds, got 300"):
        md.tensor([1], "uint8") + 300
    with pytest.raises(ArgumentError, match="power: expected exponents of at least 0 for integers"):
        i**-1
    with pytest.raises(DtypeError, match="subtract: expected numbers, got booleans"):
        (i > 0) - (i > 1)
    with pytest.raises(DtypeError, match="negative: expected numbers, got booleans"):
        md.negative(i > 0)
    assert (md.tensor([6]) & 3).tolist() == [2]
    assert (md.tensor([6]) | 3).tolist() == [7]
    assert (~md.tensor([0])).tolist() == [-1]


@pytest.mark.parametrize("value", ["text", None, object(), 1j, np.array(["a"]), np.array([None]), np.float16(1)])
def test_operands_that_are_no_numbers(value):
    for call in (lambda x: x + value, lambda x: md.add(value, x), lambda x: md.maximum(x, value), lambda x: x @ value):
        with pytest.raises(TypeError, match=r"(add|maximum|matmul): expected"):
            call(md.ones(2))


# ---------------------------------------------------------------- NumPy


def test_numpy_functions_keep_the_graph():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    a = np.array([[2.0, 0.5], [1.0, 3.0]])
    for y, expected in (
        (np.exp(x), np.exp(x.numpy())),
        (np.abs(x), x.numpy()),
        (np.add(a, x), a + x.numpy()),
        (a + x, a + x.numpy()),
        (x + a, a + x.numpy()),
        (a - x, a - x.numpy()),
        (a * x, a * x.numpy()),
        (a / x, a / x.numpy()),
        (a**x, a ** x.numpy()),
        (a @ x, a @ x.numpy()),
        (np.float64(3) * x, 3 * x.numpy()),
        (np.true_divide(x, a), x.numpy() / a),
        (np.concatenate([x, x]), np.concatenate([x.numpy()] * 2)),
        (np.stack([x, x], axis=1), np.stack([x.numpy()] * 2, 1)),
        (np.sum(x, axis=0, keepdims=True), x.numpy().sum(0, keepdims=True)),
        (np.max(x, axis=1), x.numpy().max(1)),
        (np.mean(x), x.numpy().mean()),
        (np.std(x, ddof=1), x.numpy().std(ddof=1)),
        (np.where(a > 1, x, 0.0), np.where(a > 1, x.numpy(), 0)),
        (np.clip(x, 2, 3), x.numpy().clip(2, 3)),
        (np.transpose(x), x.numpy().T),
        (np.reshape(x, (4,)), x.numpy().reshape(4)),
        (np.einsum("ij,jk", a, x), a @ x.numpy()),
        (np.pad(x, 1, mode="edge"), np.pad(x.numpy(), 1, mode="edge")),
        (np.take(x, [1, 0], axis=1), x.numpy()[:, ::-1]),
        (np.tril(x), np.tril(x.numpy())),
    ):
        assert isinstance(y, md.Tensor)
        assert y.requires_grad
        np.testing.assert_allclose(y.numpy(), expected)
    assert isinstance(a > x, md.Tensor)
    assert (a == x).tolist() == [[False, False], [False, False]]
    assert [p.shape for p in np.split(x, 2)] == [(1, 2), (1, 2)]
    assert np.zeros_like(x).tolist() == [[0, 0], [0, 0]]
    assert np.isfinite(x).all()
    assert np.argmax(x).item() == 3


def test_numpy_functions_about_tensors():
    x = leaf([[1.0, 2.0]])
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((1, 2), 2, 2)
    assert np.allclose(x, [[1, 2]])
    assert np.array_equal(x, x)
    np.testing.assert_allclose(x, [[1, 2]])
    assert np.asarray(x).flags.writeable is False
    assert np.array(x).flags.writeable is True
    assert np.asarray(x, dtype="float32").dtype == np.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.tan(x),
        lambda x: np.add.reduce(x),
        lambda x: np.add(x, x, out=np.zeros(2)),
        lambda x: np.linalg.norm(x),
        lambda x: np.median(x),
        lambda x: np.sum(x, dtype="float64"),
        lambda x: np.exp(x, where=np.array([True, False])),
        lambda x: np.zeros(2).__iadd__(x),
    ],
)
def test_numpy_functions_minidl_does_not_have(call):
    with pytest.raises(TypeError, match=r"numpy\.[\w.]+: expected an operation that minidl has, .* Use x\.numpy\(\)"):
        call(md.ones(2))


# ---------------------------------------------------------------- creation


def test_creation():
    assert md.zeros(2, 3).shape == md.zeros((2, 3)).shape == md.zeros([2, 3]).shape == (2, 3)
    assert md.zeros().shape == ()
    assert md.ones(2, dtype="int32").dtype == np.int32
    assert md.full((2,), 3.0).dtype == np.float32
    assert md.full((2,), True).dtype == bool
    assert md.full(2, 7).tolist() == [7, 7]
    assert md.arange(3).tolist() == [0, 1, 2]
    assert md.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert md.arange(3.0).dtype == np.float32
    assert md.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert md.arange(3, dtype="float64").dtype == np.float64
    assert md.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
    assert md.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert md.empty(2, 2, requires_grad=True).requires_grad
    with md.use_dtype("float64"):
        for x in (md.zeros(1), md.tensor([1.0]), md.rand(1), md.randn(1), md.eye(1), md.linspace(0, 1, 2), md.arange(1.0)):
            assert x.dtype == np.float64


def test_creation_like():
    x = md.tensor(np.zeros((2, 3, 4, 5), "float32").transpose(0, 3, 1, 2))
    for y in (md.zeros_like(x), md.ones_like(x), md.full_like(x, 2)):
        assert (y.shape, y.dtype, y.numpy().strides) == (x.shape, x.dtype, x.numpy().strides)
    assert md.zeros_like(x, dtype="int64").dtype == np.int64
    assert md.ones_like([1.0, 2.0], requires_grad=True).requires_grad


def test_creation_random():
    for call in (
        lambda rng: md.randn(4, rng=rng),
        lambda rng: md.rand((4,), rng=rng),
        lambda rng: md.randint(0, 9, 4, rng=rng),
    ):
        assert call(5).tolist() == call(np.random.default_rng(5)).tolist()
        md.manual_seed(3)
        first = call(None).tolist()
        md.manual_seed(3)
        assert call(None).tolist() == first
    assert sorted(md.randperm(5).tolist()) == [0, 1, 2, 3, 4]
    assert set(md.randint(-1, 2, 100, rng=0).tolist()) == {-1, 0, 1}
    assert md.randn().shape == ()
    assert 0.9 < md.randn(10000, rng=1).std().item() < 1.1


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: md.zeros(-1), ArgumentError, "zeros: expected size of at least 0, got -1"),
        (lambda: md.zeros(1.5), DtypeError, "zeros: expected size as an integer, got 1.5"),
        (lambda: md.ones(2, dtype="float16"), DtypeError, "ones: expected float32, float64, an integer dtype or bool"),
        (lambda: md.ones(2, dtype="int64", requires_grad=True), DtypeError, "requires_grad: expected float32 or float64"),
        (lambda: md.ones(2, device="tpu"), ArgumentError, "device: expected 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        (lambda: md.full(2, [1, 2]), ArgumentError, "full: expected value as a number"),
        (lambda: md.full(2, "a"), DtypeError, "full: expected"),
        (lambda: md.arange(0, 5, 0), ArgumentError, "arange: expected step other than 0"),
        (lambda: md.arange("5"), DtypeError, "arange: expected stop as a number"),
        (lambda: md.randint(3, 3, 2), ArgumentError, "randint: expected low < high, got 3 and 3"),
        (lambda: md.randn(2, dtype="int64"), DtypeError, "randn: expected float32 or float64"),
        (lambda: md.randn(2, rng="seed"), DtypeError, "rng: expected a numpy.random.Generator, a seed or None"),
        (lambda: md.tensor([[1, 2], [3]]), DtypeError, "tensor: expected numbers in a rectangular nesting"),
        (lambda: md.tensor(object()), DtypeError, "tensor: expected float32, float64, integers or booleans, got dtype object"),
        (lambda: md.from_dlpack([1, 2]), DtypeError, "from_dlpack: expected an array with __dlpack__"),
    ],
)
def test_creation_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_dlpack():
    source = np.arange(6.0).reshape(2, 3)
    copied, shared = md.from_dlpack(source), md.from_dlpack(source, copy=False)
    source[0, 0] = 9
    assert copied[0, 0].item() == 0
    assert shared[0, 0].item() == 9
    x = md.ones(3)
    view = np.from_dlpack(x)
    assert view.tolist() == [1, 1, 1]
    assert not view.flags.writeable  # a graph may need the values
    x.__dlpack__()  # a consumer that cannot be told so gets a copy
    assert not np.shares_memory(view, np.asarray(x.copy()))


# ---------------------------------------------------------------- the Tensor itself


def test_tensor_copies_its_input():
    a = np.ones(3)
    x = md.tensor(a)
    a[0] = 5
    assert x.tolist() == [1, 1, 1]
    y = md.tensor(x)
    assert not np.shares_memory(x.numpy(), y.numpy())
    z = leaf([1.0])
    assert not md.tensor(z * 2).requires_grad


def test_tensor_values():
    x = md.tensor([[1.0, 2.0]], requires_grad=True)
    assert repr(x) == "tensor([[1., 2.]], requires_grad=True)"
    assert repr(md.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(md.tensor(1.0, "float64")) == "tensor(1., dtype=float64)"
    assert repr(x * 2) == "tensor([[2., 4.]], grad_fn=<multiply>)"
    assert (len(x), x.shape, x.ndim, x.size, x.dtype, x.nbytes, x.device) == (1, (1, 2), 2, 2, np.float32, 8, "cpu")
    assert [row.tolist() for row in x] == [[1, 2]]
    assert x.T.shape == (2, 1)
    assert md.zeros(2, 3, 4).T.shape == (4, 3, 2)
    assert (float(md.tensor(2.5)), int(md.tensor(2)), [5, 6, 7][md.tensor(1)]) == (2.5, 2, 6)
    assert bool(md.tensor([True]))
    assert x is not None
    assert (x == None) is False  # noqa: E711
    assert {x: 1}[x] == 1
    with pytest.raises(TypeError, match="len: expected at least one axis"):
        len(md.tensor(1.0))
    with pytest.raises(ShapeError, match=r"bool: expected one element, got shape .*any"):
        bool(md.tensor([1, 2]))
    with pytest.raises(ShapeError, match="item: expected one element"):
        float(x)
    with pytest.raises(DtypeError, match="index: expected an integer tensor"):
        range(md.tensor(1.5))
    with pytest.raises(TypeError, match="tensors are not written to"):
        x[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0, 0] = 1


def test_formats_and_prints():
    loss = md.tensor(3.14159)
    assert f"{loss:.2f} {md.tensor(7):>3} {loss}" == "3.14   7 tensor(3.1416)"
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{md.ones(2):.2f}"
    assert repr(md.zeros(0, 3)) == "tensor([], shape=(0, 3))"
    assert repr(md.zeros(0)) == "tensor([])"


class Foreign:
    """An array of another library, which hands out its own memory."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None):
        return self.array


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool", ">f8", ">i4"])
def test_arrays_of_other_libraries_keep_their_dtype_and_are_copied(dtype):
    source = np.array([0, 1]).astype(dtype)
    for data in (Foreign(source), source, [Foreign(source)] if dtype == "float64" else source):
        x = md.tensor(data)
        assert x.dtype == np.dtype(dtype).newbyteorder("=")
        assert x.dtype.isnative
        assert not np.shares_memory(x.numpy(), source)
    assert md.tensor([md.tensor(1.0, "float64")]).dtype == np.float64


def test_arrays_that_cannot_be_read():
    class Unreadable:
        def __array__(self, dtype=None):
            raise TypeError("lies on a GPU")

    with pytest.raises(DtypeError, match=r"tensor: expected an array that NumPy can read, got Unreadable: lies on a GPU"):
        md.tensor(Unreadable())
    Tensor = type("Tensor", (), {"__module__": "otherlib.core"})
    with pytest.raises(DtypeError, match=r"add: expected y as a tensor, an array or a number, got otherlib\.Tensor"):
        md.ones(2) + Tensor()


def test_copies_and_pickles_are_of_leaves():
    x = md.Parameter([1.0, 2.0])
    (x * x).sum().backward()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x)), copy.copy(x)):
        assert type(y) is md.Parameter
        assert (y.tolist(), y.grad.tolist(), y.requires_grad) == ([1, 2], [2, 4], True)
    for duplicate in (copy.deepcopy, copy.copy, pickle.dumps):  # a copy's gradient would never reach x
        with pytest.raises(GraphError, match=r"copy or pickle: expected a leaf tensor, got the result of multiply\."):
            duplicate(x * 2)
    assert copy.deepcopy((x * 2).detach()).tolist() == [2, 4]


def test_zero_dimensional_results_are_arrays():
    x = leaf(2.0)
    for y in (x + 1, x * x, -x, x.exp(), x.sum(), x.reshape(()), leaf([1.0, 2.0])[0], leaf([1.0, 2.0]) @ leaf([1.0, 2.0])):
        assert isinstance(y._array, np.ndarray)
        assert y.shape == ()
    y = x * x + x
    y.backward()
    assert isinstance(x.grad._array, np.ndarray)
    assert x.grad.item() == 5


def test_update_in_place():
    w = leaf([1.0, 2.0])
    same = w
    with md.no_grad():
        w -= 0.5
        w *= 2
        w += md.ones(2)
        w /= 2
    assert w is same
    assert w.tolist() == [1, 2]
    assert w.requires_grad
    before = w
    w = w - 1
    assert w is not before
    x = md.tensor([1.0])
    y = x
    x += 1  # no leaf that asks for a gradient: a new tensor
    assert y.item() == 1
    square = same = leaf([[1.0, 2.0], [3.0, 5.0]])
    with md.no_grad():
        square **= 2
        square @= md.tensor([[0.0, 1.0], [1.0, 0.0]], dtype="float64")
        square //= 2
        square %= 7
    assert square is same
    assert square.tolist() == [[2, 0], [5, 4]]
    assert (+square) is square


def test_update_of_a_recorded_leaf_is_refused():
    """``for p in parameters: p -= 0.1 * p.grad`` without no_grad would change nothing."""
    w = leaf([1.0, 2.0])
    with pytest.raises(GraphError, match=r"in-place update: expected .* got a leaf that does\. Use it under md\.no_grad\(\)"):
        w -= 0.5
    assert w.tolist() == [1, 2]
    y = w * 2
    y += 1
    assert y.tolist() == [3, 5]
    y.sum().backward()
    assert w.grad.tolist() == [2, 2]


@pytest.mark.parametrize(
    "function",
    [
        lambda w: w * w,
        lambda w: w.exp() * w,
        lambda w: w.reshape(4, 1) * w.reshape(1, 4),
        lambda w: (w.T * 2).exp() * w.T,
        lambda w: w[1:].square(),
        lambda w: w.flip() / w.expand_dims(0),
        lambda w: md.broadcast_to(w, (3, 4)).sin(),
        lambda w: md.einsum("i->i", w).square(),
        lambda w: w.swapaxes(0, 0).cos(),
    ],
)
def test_parameters_changed_between_forward_and_backward(function):
    """What a graph took from a parameter stays as it was, views included."""
    w, other = leaf([1.0, 2.0, 3.0, 4.0]), leaf([1.0, 2.0, 3.0, 4.0])
    y = function(w).sum()
    with md.no_grad():
        w -= 0.1
    y.backward()
    function(other).sum().backward()
    assert w.grad.tolist() == other.grad.tolist()
    assert w.tolist() != other.tolist()


def test_backward_errors():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GraphError, match=r"backward: expected a live graph, .* freed"):
        y.backward()
    with pytest.raises(GraphError, match=r"backward: expected a tensor of one element, or grad="):
        (x * x).backward()
    with pytest.raises(GraphError, match="backward: expected a tensor that depends on one with requires_grad=True"):
        md.ones(1).backward()
    with pytest.raises(GraphError, match="backward: expected a tensor that depends"):
        x.detach().sum().backward()
    with pytest.raises(ShapeError, match=r"backward: expected grad of shape \(2,\), got \(3,\)"):
        (x * x).backward(np.ones(3))
    with pytest.raises(DtypeError, match="requires_grad: expected float32 or float64"):
        md.tensor([1, 2], requires_grad=True)


def test_backward_twice_with_retained_graph():
    x = leaf([3.0])
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12


def test_gradients_accumulate_and_do_not_share_memory():
    x, y = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    z = x + y
    z.backward(np.ones(2))
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy())
    (x.mean() + x.mean() + x.sum()).backward()  # broadcast views arrive several times
    assert x.grad.tolist() == [3, 3]


def test_unused_inputs_get_no_gradient():
    x, y = leaf([1.0]), leaf([1.0])
    (x * y.detach()).backward()
    assert y.grad is None
    with md.no_grad():
        assert not (x * y).requires_grad
    for z in (x > y, x.argmax(), md.isnan(x), x // y, md.one_hot([0], 2)):
        assert not z.requires_grad


def test_chain_of_100000_nodes():
    x = leaf([1.0], "float32")
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    for _ in range(100_000):
        y = y + x
    del y  # and letting it go needs no recursion either


def test_memory_falls_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        x = leaf(np.ones(100))
        h = (x * 2).exp()
        y = (h * h).sum()
        arrays = [weakref.ref(a) for a in h.grad_fn.saved]
        nodes = [weakref.ref(h.grad_fn), weakref.ref(y.grad_fn)]
        y.backward()
        assert x.grad is not None
        del h, y
        assert [r() for r in arrays + nodes] == [None] * 3
        y = x[:5].reshape(5, 1).sum(0) @ md.ones(1)  # never walked
        nodes = [weakref.ref(y.grad_fn)]
        del y
        assert nodes[0]() is None
    finally:
        gc.enable()


def test_saved_arrays_fall_during_backward():
    x = leaf(np.ones(4))
    h = x.exp()
    y = h.sin().sum()
    y.backward()
    assert h.grad_fn.saved is None
    assert h.grad_fn.edges == ()


def test_hooks():
    x = leaf([1.0, 2.0])
    seen = []
    h = x * 2
    h.register_hook(lambda g: seen.append(g.tolist()))
    remove = x.register_hook(lambda g: g * 10)
    (h.sum() + h.sum()).backward()
    assert seen == [[2, 2]]
    assert x.grad.tolist() == [40, 40]
    remove()
    x.zero_grad()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [1, 1]
    with pytest.raises(GraphError, match="register_hook: expected a tensor that requires a gradient"):
        md.ones(1).register_hook(print)
    y = x * 1
    y.register_hook(lambda g: md.ones(3))
    with pytest.raises(ShapeError, match="gradient hook"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda g: g.numpy(), r"gradient hook: expected a Tensor or None, got ndarray"),
        (lambda g: 2.0, "gradient hook: expected a Tensor or None, got float"),
        (lambda g: g.astype("float32"), "gradient hook: expected float64, got float32"),
    ],
)
def test_hooks_return_what_fits(returned, message):
    for of in (lambda x: x, lambda x: x * 1):
        x = leaf([1.0, 2.0])
        y = of(x)
        y.register_hook(returned)
        with pytest.raises(DtypeError, match=message):
            (y * 1).sum().backward()


def test_gradients_are_set_in_the_dtype_of_their_tensor():
    x = leaf([1.0, 2.0], "float32")
    x.grad = np.ones(2)
    assert x.grad.dtype == np.float32
    with pytest.raises(DtypeError, match=r"Tensor\.grad: expected float32, got float64\. Convert it with \.astype"):
        x.grad = md.ones(2, dtype="float64")


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (lambda g: (g, None), r"own \[0\]: expected backward to return an array as the gradient of input 1, got NoneType\."),
        (
            lambda g: (md.tensor(g), g),
            r"own \[0\]: expected backward to return an array as the gradient of input 0, got Tensor\.",
        ),
        (lambda g: g, r"own \[0\]: expected backward to return 2 gradients, one per input of forward, got 1\."),
        (lambda g: (g, g.sum(0)), r"own \[0\]: expected backward to return a gradient of shape \(2,\) for input 1, got \(\)\."),
    ],
)
def test_backward_of_an_own_function_keeps_the_rules(gradients, message):
    class Own(md.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, gz):
            return gradients(gz)

    class Layer(md.nn.Module):
        def forward(self, x, y):
            return Own.apply(x, y)

    class Model(md.nn.ModuleList):
        def forward(self, x, y):
            return self[0](x * 1, y)

    loss = Model([Layer()])(leaf([1.0, 2.0]), leaf([1.0, 2.0])).sum()
    with pytest.raises(GraphError, match=message):
        loss.backward()


def test_errors_in_backward_name_the_operation():
    class Broken(md.Function):
        @staticmethod
        def forward(ctx, x):
            return x + 0.0

        @staticmethod
        def backward(ctx, gy):
            raise ZeroDivisionError("no way")

    x = leaf([1.0])
    with pytest.raises(ZeroDivisionError) as caught:
        (Broken.apply(x) * 2).backward()
    assert caught.value.__notes__ == ["in the backward of broken"]
    assert x.grad is None
    (x * 2).backward()
    assert x.grad.item() == 2


def test_retain_grad():
    x = leaf([1.0, 2.0])
    h = x * 3
    h.retain_grad()
    h.square().sum().backward()
    assert h.grad.tolist() == [6, 12]
    assert x.grad.tolist() == [18, 36]
    with pytest.raises(GraphError, match="retain_grad"):
        md.ones(1).retain_grad()


def test_threads_have_their_own_grad_mode():
    x, inside, done = leaf([1.0]), threading.Event(), threading.Event()
    result = {}

    def quiet():
        with md.no_grad():
            inside.set()
            done.wait(5)
            result["quiet"] = (x * 2).requires_grad

    def loud():
        inside.wait(5)
        result["loud"] = (x * 2).requires_grad
        done.set()

    threads = [threading.Thread(target=f) for f in (quiet, loud)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert result == {"quiet": False, "loud": True}


def test_grad_mode_as_decorator():
    @md.no_grad
    def plain(depth):
        """Says something."""
        return plain(depth - 1) if depth else md.is_grad_enabled()

    @md.no_grad()
    def steps():
        received = yield md.is_grad_enabled()
        received = yield md.is_grad_enabled(), received
        return md.is_grad_enabled(), received

    assert (plain(2), plain.__doc__, md.is_grad_enabled()) == (False, "Says something.", True)
    walk = steps()
    assert (next(walk), md.is_grad_enabled()) == (False, True)  # the caller's mode is its own between two steps
    assert (walk.send("a"), md.is_grad_enabled()) == ((False, "a"), True)
    with pytest.raises(StopIteration) as end:
        walk.send("b")
    assert (end.value.value, md.is_grad_enabled()) == ((False, "b"), True)
    abandoned = steps()
    next(abandoned)
    abandoned.close()
    assert md.is_grad_enabled()


def test_decorated_function_in_two_threads():
    first_inside, second_inside, results = threading.Event(), threading.Event(), {}

    @md.no_grad()
    def wait(name, entered, other):
        entered.set()
        other.wait(5)

    def recording():
        wait("recording", first_inside, second_inside)
        results["recording"] = md.is_grad_enabled()

    def quiet():
        with md.no_grad():
            first_inside.wait(5)
            wait("quiet", second_inside, first_inside)
            results["quiet"] = md.is_grad_enabled()

    threads = [threading.Thread(target=f) for f in (recording, quiet)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {"recording": True, "quiet": False}


def test_functions_as_methods():
    x = md.tensor([[3.0, 1.0], [2.0, 4.0]])
    assert x.sum().item() == 10
    assert x.reshape(4).shape == x.reshape((4,)).shape == x.flatten().shape == (4,)
    assert x.transpose(1, 0).tolist() == x.transpose((1, 0)).tolist() == x.T.tolist()
    assert x.copy().tolist() == x.clone().tolist() == x.tolist()
    assert not np.shares_memory(x.copy().numpy(), x.numpy())
    assert x.to("float64").dtype == np.float64
    assert x.take_along_axis(x.argmin(1, keepdims=True), 1).tolist() == [[1], [2]]
    assert (2 - x).tolist() == [[-1, 1], [0, -2]]
    assert (2 / x)[0, 1].item() == 2
    assert (2**x)[1].tolist() == [4, 16]
    assert ([1.0, 1.0] @ x).tolist() == [5, 5]
    assert ((x > 1) & (x < 4)).tolist() == [[True, False], [True, False]]
    assert (x != 1).sum().item() == 3
