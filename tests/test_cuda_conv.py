"""Convolution and products for NVIDIA GPUs against the textbook: on a GPU, or, without one, by the emulator.

That runs the same CUDA text, compiled as C++, on the CPU.
"""

import ctypes
import inspect
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from conftest import HAS_GPU
from cuda_emulator import stand_in
from hypothesis import HealthCheck, given, settings, strategies as st

import minidl as md
from minidl import backend
from minidl.kernels import generic
from minidl.kernels.cuda import _axes, _depthwise, _implicit, _sums

columns, conv, conv_relu, linear = (
    import_module(f"minidl.kernels.cuda.{name}") for name in ("columns", "conv", "conv_relu", "linear")
)

pytestmark = pytest.mark.cuda

xp = None  # CuPy, or what stands in for it
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
ALL = True, True, True
LIMIT = {np.dtype("f"): 4e-6, np.dtype("d"): 1e-12}  # of the largest value


@pytest.fixture(autouse=True)
def where(request, monkeypatch):
    if not HAS_GPU:
        request.getfixturevalue("emulated")
    monkeypatch.setitem(globals(), "xp", import_module("cupy"))


def on_gpu(*arrays):
    """In the same memory order."""
    return tuple(None if a is None else backend.to_device(a, "cuda") for a in arrays)


def on_cpu(*arrays):
    return tuple(None if a is None else a.get(order="A") for a in arrays)


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def out_size(x_shape, w_shape, geometry):
    stride, padding, dilation, _ = geometry
    return tuple(generic.conv_size(x_shape[2 + i], w_shape[2 + i], stride[i], padding[i], dilation[i]) for i in (0, 1))


def arrays(x_shape, w_shape, geometry, dtype, pool=1, seed=0):
    """x, w, b and gy; x in one of two memory orders."""
    size = (n // pool for n in out_size(x_shape, w_shape, geometry))
    x, w, b = normal(*x_shape, dtype=dtype, seed=seed), normal(*w_shape, dtype=dtype, seed=1), normal(w_shape[0], dtype=dtype)
    if seed % 3:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return x, w, b, normal(x_shape[0], w_shape[0], *size, dtype=dtype, seed=2)


def textbook(x, w, b, gy, geometry):
    """y, gx, gw, gb, in float64."""
    x, w, b, gy = (a.astype(np.float64) for a in (x, w, b, gy))
    y = generic.conv2d_forward(x, w, b, *geometry)
    return y, *generic.conv2d_backward(gy, x, w, x.shape[2:], *geometry, ALL)


def run(x, w, b, gy, geometry, algorithm="auto"):
    """y, gx, gw, gb, of arrays on the CPU, which stay as they are."""
    given = x, w, b, gy
    x, w, b, gy = there = on_gpu(*given)
    y = conv.conv2d_forward(x, w, b, *geometry, algorithm)
    gradients = conv.conv2d_backward(gy, x, w, x.shape[2:], *geometry, ALL, algorithm)
    for a, e in zip(on_cpu(*there), given):
        np.testing.assert_array_equal(a, e)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous, "activations lie channels last"
    return on_cpu(y, *gradients)


def close(got, want, message="", limit=None):
    """Right to rounding, of the dtype of x, and without gaps."""
    for name, a, e in zip(("y", "gx", "gw", "gb"), got, want):
        assert a.shape == e.shape, (name, message)
        if e.size:
            error = np.abs(a - e).max() / max(np.abs(e).max(), 1)
            assert error <= (limit or LIMIT[a.dtype]), (name, error, message)


def small_tiles():
    """The smallest ones only: every other tile is one more text to compile."""
    return mock.patch.object(_implicit, "plan", return_value=(_implicit.TILES[-1], 1))


@st.composite
def shapes(draw, least_output=1):
    """(shape of x, shape of w, geometry), small: odd sizes, borders, strides over the edge, single pixels, groups."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    pick = lambda *values: int(rng.choice(values))  # noqa: E731
    kind = rng.choice(["dense", "dense", "groups", "depthwise", "1x1"])
    groups = {"groups": pick(2, 3), "depthwise": pick(1, 3, 4, 36)}.get(kind, 1)
    CG, OG = (1, 1) if kind == "depthwise" else (pick(1, 2, 3, 4, 8, 17), pick(1, 3, 4, 5, 8, 12))
    kernel, stride, dilation = ((pick(*range(1, n)), pick(*range(1, n))) for n in (5, 4, 3))
    if kind == "1x1":
        kernel, stride = (1, 1), (1, pick(1, 1, 2))
    padding, image = [], []
    for axis in (0, 1):
        window = dilation[axis] * (kernel[axis] - 1) + 1 + stride[axis] * (least_output - 1)
        before, after = (0, 0) if kind == "1x1" and pick(0, 1) else (pick(0, 1, 2), pick(-1, 0, 1, 2))
        padding.append((before, after))
        image.append(max(1, window - before - after, 1 - after) + pick(0, 1, 2, 4))
    return (pick(0, 1, 2, 3), groups * CG, *image), (groups * OG, CG, *kernel), (stride, tuple(padding), dilation, groups)


# ------------------------------------------------------------------------------------- convolution


@FEW
@given(shapes(), st.sampled_from("fd"), st.integers(0, 99))
def test_every_algorithm(shapes, dtype, seed):
    """All that say they can compute a convolution do, in all directions; "auto" is the first of them."""
    x_shape, w_shape, geometry = shapes
    x, w, b, gy = arrays(x_shape, w_shape, geometry, dtype, seed=seed)
    want = textbook(x, w, b, gy, geometry)
    possible = conv.conv2d_algorithms(x_shape, w_shape, *geometry, x.dtype)
    with small_tiles():
        for algorithm in possible:
            if algorithm != "loops" or gy.size * w[0].size <= 3000:
                close(run(x, w, b, gy, geometry, algorithm), want, algorithm)
        for a, first in zip(run(x, w, b, gy, geometry), run(x, w, b, gy, geometry, possible[0])):
            np.testing.assert_array_equal(a, first)


# N, C, size, O, kernel, stride, padding, dilation, groups: results that no tile divides
LISTED = [
    (2, 8, (9, 7), 140, (3, 3), (1, 1), 1, (1, 1), 1),
    (1, 18, (7, 12), 70, (2, 3), (2, 3), 1, (3, 1), 2),
]


@pytest.mark.parametrize("tile", range(6))
@pytest.mark.parametrize("case", LISTED, ids=str)
def test_every_tile(tile, case):
    """With all of a sum in one block, and shared by three; a tensor core's results are those of numbers rounded to TF32."""
    N, C, size, O, kernel, stride, P, dilation, G = case
    geometry = stride, ((P, P), (P, P)), dilation, G
    tiles, tensor_cores = _implicit.TILES + _implicit.TENSOR_CORE_TILES, tile >= len(_implicit.TILES)
    x, w, b, gy = arrays((N, C, *size), (O, C // G, *kernel), geometry, "f")
    rounded = [tf32(a) if tensor_cores else a for a in (x, w, gy)]
    want = textbook(*rounded[:2], b, rounded[2], geometry)
    want = *want[:3], gy.astype("d").sum((0, 2, 3))  # gb is no product
    for parts in (1, 3):
        with mock.patch.object(_implicit, "plan", return_value=(tiles[tile], parts)):
            limit = 1e-4 if tensor_cores and HAS_GPU else None  # tensor cores do not round sums as processors do
            close(run(x, w, b, gy, geometry, "implicit"), want, parts, limit)


def tf32(a):
    """Rounded to 10 bits of fraction."""
    return ((a.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def test_tf32_is_asked_for():
    """Less exact results only inside of the block, and only for float32."""
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    for dtype in "fd":
        x, w, b, gy = arrays((2, 8, 6, 5), (8, 8, 3, 3), geometry, dtype)
        want = textbook(x, w, b, gy, geometry)
        before = run(x, w, b, gy, geometry)
        with md.allow_tf32():
            inside = run(x, w, b, gy, geometry)
        close(before, want)
        for a, e in zip(run(x, w, b, gy, geometry), before):
            np.testing.assert_array_equal(a, e)
        close(inside, want, limit=2e-3)
        for a, e in zip(inside[:3], before):
            assert (a != e).any() == (dtype == "f")


@given(*(st.integers(1, 1 << n) for n in (6, 20, 12, 22, 26)), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_plan(units, rows, columns, depth, size, tensor_cores, share):
    """Parts are worth a block, stay within the workspace and are no more than fill a GPU; small results take small tiles."""
    tile, parts = _implicit.plan(units, rows, columns, depth, size, tensor_cores, share)
    blocks = units * -(-rows // tile.BM) * -(-columns // tile.BN)
    assert (tile in _implicit.TENSOR_CORE_TILES) == tensor_cores
    assert parts >= 1
    if parts > 1:
        assert share
        assert parts * _implicit.LEAST_DEPTH <= depth
        assert parts * size <= _implicit.WORKSPACE
        assert parts * blocks <= tile.BLOCKS * _implicit.MULTIPROCESSORS
    if columns <= 32 and not tensor_cores:
        assert tile.BN == 32


def test_large_tiles_for_large_products():
    assert _implicit.plan(1, 256 * 56 * 56, 128, 1152, 1 << 27, False)[0].BM == 128
    assert _implicit.plan(1, 256 * 56 * 56, 128, 1152, 1 << 27, False)[0].BN == 128
    assert _implicit.plan(1, 256 * 56 * 56, 64, 576, 1 << 27, False)[0].BN == 64
    assert _implicit.plan(1, 576, 64, 256 * 56 * 56, 576 * 64, False)[1] > 30, "gw is shared by many blocks"


def test_sums_are_shared_by_many_blocks():
    """A long sum for few results, as the planner shares it; the same bits in every run."""
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    x, w, b, gy = arrays((1, 132, 5, 6), (20, 132, 3, 3), geometry, "f", seed=1)
    assert _implicit.plan(1, 30, 20, 9 * 132, 600, False)[1] > 1
    got, again = (run(x, w, b, gy, geometry, "implicit") for _ in range(2))
    close(got, textbook(x, w, b, gy, geometry))
    for a, e in zip(got, again):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("dtype", "fd")
def test_addresses_that_are_no_multiple_of_16(dtype, monkeypatch):
    """Vectors are read one by one then."""
    geometry = (1, 1), ((0, 0), (1, 1)), (1, 1), 1
    x, w, b, gy = arrays((2, 4, 5, 5), (8, 4, 3, 3), geometry, dtype)
    memory = xp.empty(x.size + 2, dtype)
    first = 1 if memory.data.ptr % 16 == 0 else 2
    shifted = memory[first : first + x.size].reshape(2, 5, 5, 4).transpose(0, 3, 1, 2)
    shifted[...] = xp.array(x)
    assert _axes.lanes(4, shifted) == 1
    monkeypatch.setattr(_implicit, "plan", lambda *_: (_implicit.TILES[-1], 1))
    for weights, groups in ((w, 1), (w[:4, :1].copy(), 4)):
        all_but_x, there = (weights, b[: len(weights)], gy[:, : len(weights)].copy()), (*geometry[:3], groups)
        want = textbook(x, *all_but_x, there)
        w_, b_, gy_ = on_gpu(*all_but_x)
        for algorithm in conv.conv2d_algorithms(x.shape, weights.shape, *there, x.dtype)[:-1]:
            gradients = conv.conv2d_backward(gy_, shifted, w_, (5, 5), *there, ALL, algorithm)
            close(on_cpu(conv.conv2d_forward(shifted, w_, b_, *there, algorithm), *gradients), want, algorithm)


@pytest.mark.parametrize(("x_shape", "w_shape", "geometry"), [
    ((3, 4, 6, 5), (6, 4, 3, 2), ((1, 2), ((1, 0), (2, 1)), (2, 1), 1)),
    ((2, 6, 7, 6), (4, 3, 2, 3), ((2, 1), ((0, 1), (1, 1)), (1, 2), 2)),
])  # fmt: skip
@pytest.mark.parametrize("block_bytes", [1, 9000, 1 << 28])
def test_im2col_in_pieces(block_bytes, x_shape, w_shape, geometry):
    """However few columns are written at a time."""
    x, w, b, gy = arrays(x_shape, w_shape, geometry, "d")
    with mock.patch.object(conv, "BLOCK_BYTES", block_bytes):
        close(run(x, w, b, gy, geometry, "im2col"), textbook(x, w, b, gy, geometry))


@pytest.mark.parametrize("C", [1, 4, 35])
def test_depthwise_in_parts(C):
    """Kernels of more taps than a thread adds at a time, and results that several blocks add."""
    geometry = (2, 1), ((2, 2), (3, 1)), (1, 1), C
    x, w, b, gy = arrays((3, C, 41, 17), (C, 1, 5, 4), geometry, "f")
    with mock.patch.object(_depthwise, "LEAST_RESULTS", 64):
        close(run(x, w, b, gy, geometry, "depthwise"), textbook(x, w, b, gy, geometry))


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
def test_only_needed_gradients(needs, monkeypatch):
    """What is not needed is None; the images are read for the weights' gradient only."""
    monkeypatch.setattr(_implicit, "plan", lambda *_: (_implicit.TILES[-1], 1))
    for w_shape, groups in (((4, 4, 3, 3), 1), ((4, 4, 1, 1), 1), ((4, 1, 3, 3), 4)):
        geometry = (1, 1), ((0, 0), (0, 0)), (1, 1), groups
        x, w, _, gy = arrays((2, 4, 5, 5), w_shape, geometry, "f")
        for algorithm in conv.conv2d_algorithms(x.shape, w.shape, *geometry, x.dtype):
            there = on_gpu(gy, x if needs[1] else None, w)
            got = conv.conv2d_backward(*there, (5, 5), *geometry, needs, algorithm)
            assert [g is not None for g in got] == list(needs)


def test_which_algorithms():
    """1x1 as a product, unless something follows; depthwise for channels by themselves; else implicit."""
    size, stride, none, one, f = (2, 8, 5, 5), (1, 1), ((0, 0), (0, 0)), ((1, 1), (1, 1)), np.dtype("f")
    names = lambda *geometry: conv.conv2d_algorithms(size, *geometry)  # noqa: E731
    assert names((4, 8, 3, 3), stride, one, stride, 1, f) == ("implicit", "im2col", "loops")
    assert names((4, 8, 1, 1), stride, none, stride, 1, f) == ("product", "implicit", "im2col", "loops")
    assert names((4, 8, 1, 1), stride, none, stride, 1, f, _implicit.RELU)[:2] == ("implicit", "product")
    assert names((8, 1, 3, 3), stride, one, stride, 8, f) == ("depthwise", "implicit", "im2col", "loops")
    for geometry in ((stride, one, stride, 1), ((1, 2), none, stride, 1), (stride, none, stride, 2)):
        assert "product" not in names((4, 8 // geometry[3], 1, 1), *geometry, f)


def test_more_than_can_be_counted():
    """Said before anything runs."""
    x = xp.broadcast_to(xp.zeros((), np.float32), (3, 1, 30000, 30000))
    with pytest.raises(md.ShapeError, match=r"conv2d: expected at most \d+ elements in an image .* got 2700000000"):
        conv.conv2d_forward(x, *on_gpu(normal(1, 1, 3, 3)), None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)


def test_images():
    """The same values, channels last in memory; no copy when they lie so already."""
    x = normal(2, 5, 4, 3)
    y = conv.images(xp.array(x)[:, :, ::-1])
    np.testing.assert_array_equal(x[:, :, ::-1], y.get())
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert conv.images(y).data.ptr == y.data.ptr


# ------------------------------------------------------------------------------------- ReLU and pooling


@FEW
@given(shapes(2), st.sampled_from("fd"), st.sampled_from([1, 2]), st.integers(0, 99))
def test_relu_and_pool(shapes, dtype, pool, seed):
    """The convolution, then the textbook's ReLU and pooling: the same bits, and the same winners."""
    x_shape, w_shape, geometry = shapes
    x, w, b, gy = arrays(x_shape, w_shape, geometry, dtype, pool, seed)
    if seed % 4 == 0 and x.size:
        x[0, 0, 0, 0] = np.nan
    algorithm = conv.conv2d_algorithms(x_shape, w_shape, *geometry, x.dtype, pool)[0]
    size = out_size(x_shape, w_shape, geometry)
    x_, w_, b_, gy_ = on_gpu(x, w, b, gy)
    with small_tiles():
        (results,) = on_cpu(conv.conv2d_forward(x_, w_, b_, *geometry, algorithm))
        with mock.patch.object(generic_relu, "conv2d_forward", return_value=results):
            want = generic.conv2d_relu_forward(x, w, b, *geometry, pool)
        y, kept = conv_relu.conv2d_relu_forward(x_, w_, b_, *geometry, pool)
    for a, e in zip(on_cpu(y, kept), want):
        np.testing.assert_array_equal(a, e)
        assert a.dtype == e.dtype
        x = np.nan_to_num(x)
        got = conv_relu.conv2d_relu_backward(gy_, kept, *on_gpu(x), w_, x.shape[2:], size, *geometry, pool, ALL)
    doubles = [a.astype(np.float64) for a in (gy, x, w)]
    want = generic.conv2d_relu_backward(doubles[0], *on_cpu(kept), *doubles[1:], x.shape[2:], size, *geometry, pool, ALL)
    for name, a, e in zip(("gx", "gw", "gb"), on_cpu(*got), want):
        close((a,), (e,), name)


@pytest.mark.parametrize("tile", range(len(_implicit.TILES)))
def test_pool_in_every_tile(tile):
    """The four results of a window belong to one thread, whatever the tile."""
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    x, w, b, _ = on_gpu(*arrays((2, 8, 9, 13), (140, 8, 3, 3), geometry, "f"))
    with mock.patch.object(_implicit, "plan", return_value=(_implicit.TILES[tile], 1)):
        y, kept = on_cpu(*conv_relu.conv2d_relu_forward(x, w, b, *geometry, 2))
        (results,) = on_cpu(conv.conv2d_forward(x, w, b, *geometry))
    with mock.patch.object(generic_relu, "conv2d_forward", return_value=results):
        for a, e in zip((y, kept), generic.conv2d_relu_forward(*on_cpu(x, w, b), *geometry, 2)):
            np.testing.assert_array_equal(a, e)


generic_relu = import_module("minidl.kernels.generic.conv_relu")


def test_relu_of_a_shared_sum():
    """Where blocks share a sum, bias and ReLU come after it."""
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    x, w, b, _ = arrays((1, 132, 5, 6), (20, 132, 3, 3), geometry, "f")
    y, kept = conv_relu.conv2d_relu_forward(*on_gpu(x, w, b), *geometry, 1)
    doubles = [a.astype(np.float64) for a in (x, w, b)]
    close(on_cpu(y), (generic.conv2d_relu_forward(*doubles, *geometry, 1)[0],))
    assert kept is y


# ------------------------------------------------------------------------------------- columns, linear, sums


@FEW
@given(shapes(), st.sampled_from("fd"))
def test_columns(shapes, dtype):
    """The same as the textbook's, there and back."""
    x_shape, w_shape, (*geometry, _) = shapes
    x = normal(*x_shape, dtype=dtype)
    want = generic.im2col(x, w_shape[2:], *geometry)
    np.testing.assert_array_equal(columns.im2col(*on_gpu(x), w_shape[2:], *geometry).get(), want)
    c = normal(*want.shape, dtype=dtype, seed=1)
    back = columns.col2im(*on_gpu(c), x_shape[2:], w_shape[2:], *geometry)
    close(on_cpu(back), (generic.col2im(c.astype("d"), x_shape[2:], w_shape[2:], *geometry),))


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize(("M", "K", "N"), [(5, 3, 4), (1, 70, 33), (300, 4, 7), (0, 3, 2), (4, 1, 1)])
def test_linear(M, K, N, dtype):
    x, w, b, gy = (normal(*shape, dtype=dtype, seed=i) for i, shape in enumerate(((M, K), (N, K), (N,), (M, N))))
    doubles = [a.astype(np.float64) for a in (x, w, b, gy)]
    x, w, b, gy = on_gpu(x, w, b, gy)
    for name in ("linear_forward", "linear_relu_forward"):
        ours, theirs = (getattr(package, name) for package in (linear, generic))
        close(on_cpu(ours(x, w, b)), (theirs(*doubles[:3]),), name)
        close(on_cpu(ours(x, w, None)), (theirs(*doubles[:2], None),), name)
    want = generic.linear_backward(doubles[3], *doubles[:2], ALL)
    turned = xp.array(gy.get(), order="F")
    for a, e, f in zip(linear.linear_backward(gy, x, w, ALL), linear.linear_backward(turned, x, w, ALL), want):
        close(on_cpu(a), (f,))
        close(on_cpu(e), (f,))
    assert linear.linear_backward(gy, None, None, (False, False, False)) == (None, None, None)
    assert linear.linear_backward(gy, None, w, (True, False, False))[1:] == (None, None)


@pytest.fixture
def cublas(monkeypatch):
    """cublasGemmEx on column by column matrices in memory of the CPU, as far as it is used; gives a list of its calls."""
    if HAS_GPU:
        return None

    def matrix(pointer, turned, rows, columns, step):
        lying = (columns, rows) if turned else (rows, columns)  # rows first, column by column
        count = step * (lying[1] - 1) + lying[0]
        flat = np.frombuffer((ctypes.c_float * count).from_address(pointer), np.float32)
        a = np.lib.stride_tricks.as_strided(flat, lying, (4, 4 * step))
        return a.T if turned else a

    def gemm(handle, turn_a, turn_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algorithm):
        assert (handle, a_type, b_type, c_type, compute, algorithm) == (7, 0, 0, 0, 77, -1)
        assert ctypes.c_float.from_address(alpha).value == 1
        assert ctypes.c_float.from_address(beta).value == 0
        factors = matrix(a, turn_a, m, k, lda), matrix(b, turn_b, k, n, ldb)
        matrix(c, 0, m, n, ldc)[...] = tf32(factors[0].copy()) @ tf32(factors[1].copy())
        calls.append((m, n, k))

    calls = []
    library = ModuleType("cublas")
    library.__dict__.update(CUBLAS_COMPUTE_32F_FAST_TF32=77, CUBLAS_GEMM_DEFAULT=-1, gemmEx=gemm)
    for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["cupy_backends.cuda.libs"].cublas = library
    monkeypatch.setattr(stand_in.cuda, "device", SimpleNamespace(get_cublas_handle=lambda: 7), raising=False)
    return calls


def test_products_on_tensor_cores(cublas):
    """Matrices in all orders; as linear layers and 1x1 convolutions call it."""
    a, b = normal(5, 3), normal(3, 4, seed=1)
    want, limit = tf32(a) @ tf32(b), 1e-4 if cublas is None else None  # tensor cores do not round sums as processors do
    orders = xp.array, lambda a: xp.array(a.T.copy()).T, lambda a: xp.array(np.repeat(a, 2, 1))[:, ::2]
    with md.allow_tf32():
        for left in orders:
            for right in orders:
                close(on_cpu(linear.product(left(a), right(b))), (want,), limit=limit)
        x, w, bias, gy = (normal(*shape, seed=i) for i, shape in enumerate(((6, 4), (3, 4), (3,), (6, 3))))
        close(on_cpu(linear.linear_forward(*on_gpu(x, w, bias))), (tf32(x) @ tf32(w).T + bias,), limit=limit)
        gx, gw, gb = on_cpu(*linear.linear_backward(*on_gpu(gy, x, w), ALL))
        close((gx,), (tf32(gy) @ tf32(w),), limit=limit)
        close((gw,), (tf32(gy).T @ tf32(x),), limit=limit)
        close((gb,), (gy.sum(0),))
        close(on_cpu(linear.product(*on_gpu(a.astype("d"), b.astype("d")))), (a.astype("d") @ b.astype("d"),))
    close(on_cpu(linear.product(*on_gpu(a, b))), (a.astype("d") @ b.astype("d"),))
    assert cublas is None or len(cublas) == 12


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 200, 1000])
@pytest.mark.parametrize("width", [1, 31, 32, 100])
def test_column_sums(rows, width):
    a = normal(rows, width)
    close(on_cpu(_sums.column_sums(*on_gpu(a))), (a.astype("d").sum(0),))


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize(("parts", "rows", "width"), [(1, 2, 3), (2, 30, 20), (16, 3, 5), (70, 13, 11)])
def test_add_parts(parts, rows, width, dtype):
    shares, b = normal(parts, rows, width, dtype=dtype), normal(width, dtype=dtype, seed=1)
    for bias in (b, None):
        for relu in (False, True):
            y = xp.empty((rows, width), dtype)
            _sums.add_parts(*on_gpu(shares), y, *on_gpu(bias), relu)
            want = shares.astype("d").sum(0) + (0 if bias is None else bias)
            close(on_cpu(y), (np.maximum(want, 0) if relu else want,))


def test_signatures():
    """Names and parameters are the textbook's."""
    for module in (conv, conv_relu, columns, linear):
        for name in module.__all__:
            if hasattr(generic, name) and name != "conv2d_algorithms":
                ours, theirs = (inspect.signature(getattr(package, name)) for package in (module, generic))
                assert list(ours.parameters) == list(theirs.parameters), name
