"""The register tile and what is built on it: instructions, direct convolution, matrix products."""

import os
import platform
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("numba")

from numba import config, njit

from minidl.kernels import cpu
from minidl.kernels.cpu import _direct, _jit, _positions, _product, _relu_pool, _tile, _vector, conv, linear as cpu_linear
from minidl.kernels.cpu._tile import NARROW, WIDE, Shape, lanes, tile_add, tile_fma, tile_offsets, tile_start, tile_store
from minidl.kernels.cpu._vector import (
    vectors_add,
    vectors_add_inside,
    vectors_load,
    vectors_load_inside,
    vectors_pass,
    vectors_plus,
    vectors_pool,
    vectors_relu,
    vectors_store,
    vectors_store_inside,
    vectors_sum,
    vectors_unpool,
)
from minidl.kernels.generic import conv as generic, conv2d_loops, conv2d_relu_backward, linear as generic_linear

DTYPES = [np.float32, np.float64]
FAST = settings(max_examples=100, deadline=None, derandomize=True)
GUARD = 64  # elements before and after an array that nobody may touch


def close(got, want):
    """Within 4e-6 of the largest value in float32, rounding in float64; ``want`` is float64."""
    assert got.shape == want.shape
    if want.size:
        error = np.abs(got - want).max()
        assert error <= (4e-6 if got.dtype == np.float32 else 1e-13) * max(np.abs(want).max(), 1e-6), error


# ---------------------------------------------------------------------------------------- instructions


def _use(shape, x, table, w, start, y, out, first, rows, columns, add):
    """One tile, three steps, one store."""
    last = table.size - 1
    x_rows = tile_offsets(shape, table, first, last)
    tile = tile_start(shape, start)
    for k in range(3):
        tile = tile_fma(tile, x, x_rows, 2 * k, w, 5 * k)
    if add:
        tile_add(tile, y, tile_offsets(shape, out, first, last), rows, columns)
    else:
        tile_store(tile, y, tile_offsets(shape, out, first, last), rows, columns)


_wide = njit(lambda *a: _compiled_use(WIDE, *a))
_narrow = njit(lambda *a: _compiled_use(NARROW, *a))
_compiled_use = njit(_use)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [WIDE, NARROW], ids=["wide", "narrow"])
def test_instructions_are_their_meaning(shape, dtype, monkeypatch):
    """Compiled code does what the NumPy lines say, whole or cut at the edges, and touches nothing else."""
    rng = np.random.default_rng(0)
    columns = shape.vectors * lanes(dtype)
    x, w, start = (rng.standard_normal(n).astype(dtype) for n in (200, columns + 10, columns))
    table, out = np.arange(14) * 7 + 3, np.arange(14) * (columns + 3)
    compiled = _wide if shape is WIDE else _narrow
    cases = [(0, shape.rows, columns), (5, 9, columns - 1), (5, 2, columns), (13, 1, 1), (0, 100, lanes(dtype)), (3, 4, 100)]
    for first, rows, used in cases:
        for add in (False, True):
            before = rng.standard_normal(14 * (columns + 3) + columns).astype(dtype)
            got, want = before.copy(), before.copy()
            compiled(x, table, w, start, got, out, first, min(rows, 14 - first), used, add)
            with monkeypatch.context() as patch:
                if not config.DISABLE_JIT:
                    for name in ("tile_add", "tile_fma", "tile_offsets", "tile_start", "tile_store"):
                        patch.setitem(globals(), name, getattr(_tile, name).meaning)
                _use(shape, x, table, w, start, want, out, first, min(rows, 14 - first), used, add)
            np.testing.assert_allclose(got, want, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)
            np.testing.assert_array_equal(got == before, want == before)


@pytest.mark.skipif(config.DISABLE_JIT or _tile.VECTOR_BYTES < 32, reason="no wide vectors in compiled code")
def test_multiply_adds_are_wide():
    """A step of a wide tile is one multiply-add for each of its registers."""
    x, table = np.zeros(100, np.float32), np.arange(14)
    _wide(x, table, x, x, x.copy(), table, 0, 1, 1, False)
    text = next(text for types, text in _compiled_use.inspect_asm().items() if f"Shape({WIDE.rows}" in str(types[0]))
    register = "zmm" if _tile.VECTOR_BYTES == 64 else "ymm"
    assert sum("vfmadd" in line and register in line for line in text.splitlines()) >= WIDE.rows * WIDE.vectors


ONE, FOUR = Shape(1, 1), Shape(4, 1)


def _use_vectors(x, y, winner, step, count, begin, end):
    """Each instruction once; what it gives goes to its own row of y."""
    d, e = vectors_load(FOUR, x, 2, step, count), vectors_load_inside(FOUR, x, 5, step, count, begin, end)
    vectors_store(y[0], 1, step, count, d)
    vectors_add(y[1], 1, step, count, d)
    vectors_store_inside(y[2], 1, step, count, begin, end, d)
    vectors_add_inside(y[3], 1, step, count, begin, end, d)
    vectors_store(y[4], 1, step, count, e)
    vectors_store(y[5], 1, step, count, vectors_plus(d, vectors_load(ONE, x, 0, 0, count)))
    vectors_store(y[6], 1, step, count, vectors_relu(d))
    vectors_store(y[7], 1, step, count, vectors_pass(d, e))
    vectors_store(y[8], 1, step, count, vectors_sum(d))
    vectors_pool(y[9], winner, 1, step, count, end, d, e)
    top, bottom = vectors_unpool(FOUR, y[9], winner, 1, step, count, end)
    vectors_store(y[10], 1, step, count, top)
    vectors_store(y[11], 1, step, count, bottom)
    vectors_store(y[12], 1, step, count, (d[0] + d[1], e[0] - 0.5 * d[2], e[3] * d[3]))


_compiled_vectors = njit(_use_vectors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_their_meaning(dtype, monkeypatch):
    """Transforms, ReLU and pooling: equal maxima, NaN and infinities too, in all lanes, some, or none of them."""
    rng, size, step = np.random.default_rng(0), lanes(dtype), lanes(dtype) + 3
    for count in (size, 1, size - 1, 0, size + 9):
        for begin, end in ((0, 4), (0, 1), (-3, 2), (1, 3), (2, 9), (0, 0), (3, -2), (1, 1)):
            x = rng.integers(-2, 3, 5 * step + 9).astype(dtype)
            if begin:
                x[rng.random(x.size) < 0.1] = np.nan
                x[rng.random(x.size) < 0.1] = -np.inf
                x[rng.random(x.size) < 0.1] = np.inf
            got = (
                rng.integers(-9, 10, (13, 4 * step + size)).astype(dtype),
                rng.integers(0, 6, 4 * step + size).astype(np.uint8),
            )
            want = [a.copy() for a in got]
            with np.errstate(invalid="ignore"):
                _compiled_vectors(x, *got, step, count, begin, end)
            with monkeypatch.context() as patch, np.errstate(invalid="ignore"):
                if not config.DISABLE_JIT:
                    for name in _vector.__all__:
                        patch.setitem(globals(), name, getattr(getattr(_vector, name), "meaning", None))
                _use_vectors(x, *want, step, count, begin, end)
            for a, e in zip(got, want):
                np.testing.assert_array_equal(a, e)


# ---------------------------------------------------------------------------------------- convolution


@contextmanager
def pieces(pixels, many_threads):
    """Cut the work into small pieces, and share it between threads."""
    outer = _direct.PIECE_PIXELS, _jit.PARALLEL_MIN
    _direct.PIECE_PIXELS = pixels
    _jit.PARALLEL_MIN = 1 if many_threads else 1 << 60
    try:
        yield
    finally:
        _direct.PIECE_PIXELS, _jit.PARALLEL_MIN = outer


@st.composite
def convolutions(draw, most_channels=3):
    """(x, w, b, geometry) in float64, with every kind of edge."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    CG, OG = draw(st.integers(1, most_channels)), draw(st.integers(1, most_channels))
    kernel, stride, dilation = (tuple(draw(st.integers(1, n)) for _ in "hw") for n in (4, 3, 2))
    padding, image = [], []
    for axis in (0, 1):
        window = dilation[axis] * (kernel[axis] - 1) + 1
        before, after = draw(st.integers(0, 4)), draw(st.integers(-2, 4))
        least = max(1, window - before - after, 1 - after)
        padding.append((before, after))
        image.append(least + draw(st.sampled_from([4, 1, 0, 7])))
    N = draw(st.sampled_from([2, 7, 1, 2, 0]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x, w = rng.standard_normal((N, groups * CG, *image)), rng.standard_normal((groups * OG, CG, *kernel))
    return x, w, rng.standard_normal(groups * OG), (stride, tuple(padding), dilation, groups)


def compare(case, dtype):
    """All directions of a case, gx in both forms, with the textbook in float64."""
    x, w, b, geometry = case
    groups = geometry[3]
    want = generic.conv2d_forward(x, w, b, *geometry)
    gy = np.random.default_rng(1).standard_normal(want.shape)
    gradients = generic.conv2d_backward(gy, x, w, x.shape[2:], *geometry, (True, True, True))
    x, w, b, gy = (a.astype(dtype) for a in (x, w, b, gy))
    close(cpu.conv2d_forward(x, w, b, *geometry), want)
    for got, expected in zip(cpu.conv2d_backward(gy, x, w, x.shape[2:], *geometry, (True, True, True)), gradients):
        close(got, expected)
    # Both forms of gx, whichever conv2d_backward took; and depthwise shapes as groups of one channel.
    images, gradient = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, gy))
    weights = np.ascontiguousarray(w.transpose(2, 3, 1, 0))
    axes = [along(_positions.forward_axis, x, w, geometry, i) for i in (0, 1)]
    gx = np.full_like(images, np.nan)
    _direct.scatter(gradient, weights, gx, *axes, groups)
    close(gx.transpose(0, 3, 1, 2), gradients[0])
    gx = np.full_like(images, np.nan)
    for h in along(_positions.gradient_axes, x, w, geometry, 0):
        for v in along(_positions.gradient_axes, x, w, geometry, 1):
            _direct.correlate(gradient, weights, None, gx, h, v, groups, transposed=True)
    close(gx.transpose(0, 3, 1, 2), gradients[0])
    gw, gb = np.full_like(weights, np.nan), np.full_like(b, np.nan)
    _direct.weight_gradient(gradient, images, gw, gb, images.shape[1:], *axes, groups)
    close(gw.transpose(3, 2, 0, 1), gradients[1])
    close(gb, gradients[2])


def along(make, x, w, geometry, axis):
    stride, padding, dilation, _ = geometry
    return make(x.shape[2 + axis], w.shape[2 + axis], stride[axis], padding[axis], dilation[axis])


@FAST
@given(convolutions(), st.sampled_from(DTYPES), st.sampled_from([1, 10, 256]), st.booleans())
def test_convolution(case, dtype, pixels, many_threads):
    """Any geometry, any piece size, one thread or several."""
    with pieces(pixels, many_threads):
        compare(case, dtype)


@FAST
@given(convolutions(most_channels=70), st.sampled_from(DTYPES))
def test_convolution_of_many_channels(case, dtype):
    """Channels that fill panels exactly, by halves, or leave a few."""
    compare(case, dtype)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(convolutions())
def test_convolution_is_its_definition(case):
    """The textbook that the other tests compare with agrees with the loops, and so do the tiles."""
    x, w, b, geometry = case
    want = conv2d_loops(x, w, b, *geometry)
    close(generic.conv2d_forward(x, w, b, *geometry), want)
    close(cpu.conv2d_forward(x, w, b, *geometry), want)


SHAPES = [  # N, C, size, O, kernel, stride, padding: of networks, with more than one panel and piece
    (3, 1, 28, 32, 3, 1, 0),
    (2, 3, 32, 32, 3, 1, 1),
    (2, 32, 15, 64, 3, 1, 0),
    (5, 64, 6, 64, 3, 1, 0),
    (1, 16, 33, 40, 5, 1, 2),
    (1, 3, 64, 64, 7, 2, 3),
    (2, 48, 14, 20, 3, 2, 1),
    (2, 40, 9, 72, 1, 1, 0),
    (2, 24, 9, 17, 1, 2, 0),
    (1, 20, 40, 8, 16, 16, 0),
    (1, 6, 60, 300, 2, 5, 0),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_network_shapes(shape, dtype):
    N, C, size, O, K, S, P = shape
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((N, C, size, size)), rng.standard_normal((O, C, K, K)), rng.standard_normal(O)
    compare((x, w, b, ((S, S), ((P, P), (P, P)), (1, 1), 1)), dtype)


def test_long_sums_keep_their_digits():
    """Hundreds of thousands of terms of one sign: the gradients of weights and bias are summed in pieces."""
    rng = np.random.default_rng(0)
    gy, x = rng.random((40, 1, 100, 100)), rng.random((40, 1, 101, 101))
    geometry = (1, 1), ((0, 0), (0, 0)), (1, 1), 1
    want = generic.conv2d_backward(gy, x, np.zeros((1, 1, 2, 2)), (101, 101), *geometry, (False, True, True))
    w = np.zeros((1, 1, 2, 2), np.float32)
    got = cpu.conv2d_backward(gy.astype(np.float32), x.astype(np.float32), w, (101, 101), *geometry, (False, True, True))
    close(got[1], want[1])
    close(got[2], want[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_in_its_image(dtype):
    """NaN and infinity in one image reach no other image, though pieces hold several and tiles several pixels."""
    rng = np.random.default_rng(0)
    for C, O, stride in ((3, 5, 1), (20, 20, 2), (20, 33, 1)):
        x, w = rng.standard_normal((7, C, 4, 5)).astype(dtype), rng.standard_normal((O, C, 3, 3)).astype(dtype)
        geometry = (stride, stride), ((1, 1), (1, 1)), (1, 1), 1
        y = cpu.conv2d_forward(x, w, None, *geometry)
        gy = rng.standard_normal(y.shape).astype(dtype)
        gx = cpu.conv2d_backward(gy, None, w, (4, 5), *geometry, (True, False, False))[0]
        x[3, 0, 1, 1], gy[3, 0, 1, 1] = np.nan, np.inf
        bad = (
            cpu.conv2d_forward(x, w, None, *geometry),
            cpu.conv2d_backward(gy, None, w, (4, 5), *geometry, (True, False, False))[0],
        )
        for good, spoilt in zip((y, gx), bad):
            others = np.arange(7) != 3
            np.testing.assert_array_equal(good[others], spoilt[others])
            assert not np.isfinite(spoilt[3]).all()


def guarded(shape, dtype, fill):
    """An array of ``shape`` in the middle of a buffer full of ``fill``, and the buffer."""
    size = int(np.prod(shape))
    buffer = np.full(size + 2 * GUARD, fill, dtype)
    return buffer[GUARD : GUARD + size].reshape(shape), buffer


@FAST
@given(convolutions(most_channels=20), st.sampled_from(DTYPES), st.booleans(), st.sampled_from([0, 1, 2]))
def test_nothing_outside_the_buffers(case, dtype, many_threads, pool):
    """Inputs lie among NaN, so reading beyond them shows; buffers lie in guard zones, so writing beyond them does.

    The convolution alone, with ReLU (``pool`` 1) and with pooling (2).
    """
    x, w, b, geometry = case
    z = generic.conv2d_forward(x, w, b, *geometry)
    size = z.shape[2:]
    pool = min(pool, *size)
    want = z if pool == 0 else np.maximum(z, 0)
    if pool == 2:
        want = np.max([want[:, :, i : size[0] // 2 * 2 : 2, j : size[1] // 2 * 2 : 2] for i in (0, 1) for j in (0, 1)], 0)
    gy = np.random.default_rng(1).standard_normal(want.shape)
    (gy_, x_, w_), rest = (gy, x, w), (x.shape[2:], *geometry)

    def inside(a, order, dtype=dtype, fill=np.nan):
        flat, _ = guarded(tuple(np.array(a.shape)[list(order)]), dtype, fill)
        flat[...] = a.transpose(order)
        return flat.transpose(np.argsort(order))

    x, gy, w = inside(x, (0, 2, 3, 1)), inside(gy, (0, 2, 3, 1)), inside(w, (2, 3, 1, 0))
    buffers, every = [], (True, True, True)

    def empty(shape, dtype):
        array, buffer = guarded(shape, dtype, 123)
        buffers.append(buffer)
        return array

    outer = _direct.empty, conv.empty, _relu_pool.empty
    _direct.empty = conv.empty = _relu_pool.empty = empty
    try:
        with pieces(10, many_threads):
            if pool == 0:
                y = cpu.conv2d_forward(x, w, b.astype(dtype), *geometry)
                got = cpu.conv2d_backward(gy, x, w, *rest, every)
                gradients = generic.conv2d_backward(gy_, x_, w_, *rest, every)
            else:
                y, kept = cpu.conv2d_relu_forward(x, w, b.astype(dtype), *geometry, pool)
                kept = inside(kept, (0, 2, 3, 1), kept.dtype, np.nan if pool == 1 else 0)
                got = cpu.conv2d_relu_backward(gy, kept, x, w, x.shape[2:], size, *geometry, pool, every)
                gradients = conv2d_relu_backward(gy_, kept, x_, w_, x.shape[2:], size, *geometry, pool, every)
    finally:
        _direct.empty, conv.empty, _relu_pool.empty = outer
    close(y, want)
    for a, expected in zip(got, gradients):
        close(a, expected)
    assert buffers
    for buffer in buffers:
        assert (buffer[:GUARD] == 123).all()
        assert (buffer[-GUARD:] == 123).all()


@pytest.mark.skipif(sys.platform != "linux" or config.DISABLE_JIT, reason="protects pages by mprotect")
def test_nothing_is_read_behind_the_buffers():
    """All inputs end where memory ends: the next page may not be touched, and a process that does is killed."""
    code = (
        "import ctypes, mmap\n"
        "import numpy as np\n"
        "from minidl.kernels import cpu\n"
        "from minidl.kernels.cpu import _direct, _jit, _product, conv\n"
        "keep = []\n"
        "def empty(shape, dtype):\n"
        "    size = int(np.prod(shape)) * np.dtype(dtype).itemsize\n"
        "    room = -(-max(size, 1) // 4096) * 4096\n"
        "    memory = mmap.mmap(-1, room + 4096)\n"
        "    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + room), 4096, 0) == 0\n"
        "    keep.append(memory)\n"
        "    return np.frombuffer(memory, np.uint8, size, room - size).view(dtype).reshape(shape)\n"
        "def fill(shape):\n"
        "    a = empty(shape, np.float32)\n"
        "    a[...] = np.random.default_rng(0).standard_normal(shape)\n"
        "    return a\n"
        "_direct.empty = conv.empty = _product.empty = empty\n"
        "_direct.aligned = _product.aligned = lambda count, dtype: empty((count,), dtype)\n"
        "for C, O, K, S, P in ((1, 1, 3, 1, 1), (3, 5, 3, 2, 0), (20, 17, 2, 1, 1), (33, 40, 1, 1, 0), (16, 64, 3, 2, 1)):\n"
        "    x, w, b = fill((3, 7, 6, C)).transpose(0, 3, 1, 2), fill((K, K, C, O)).transpose(3, 2, 0, 1), fill((O,))\n"
        "    geometry = (S, S), ((P, P), (P, P)), (1, 1), 1\n"
        "    for _jit.PARALLEL_MIN in (1, 1 << 60):\n"
        "        y = cpu.conv2d_forward(x, w, b, *geometry)\n"
        "        gy = fill((3, *y.shape[2:], O)).transpose(0, 3, 1, 2)\n"
        "        cpu.conv2d_backward(gy, x, w, (7, 6), *geometry, (True, True, True))\n"
        "        a, c = fill((C + 30, 70)), fill((70, O))\n"
        "        for f, g in ((a, c), (fill((70, C)).T, c), (a, fill((O, 70)).T)):\n"
        "            _product.product(f, g)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, (result.returncode, result.stderr[-3000:])


# ---------------------------------------------------------------------------------------- products


@FAST
@given(
    *(st.sampled_from([1, 2, 9, 33, 130, 300]) for _ in "MKN"),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_product(M, K, N, a_turned, b_turned, with_start, dtype, many_threads):
    """Any sizes, both memory orders of both factors, with and without a row to begin with."""
    rng = np.random.default_rng(M + K + N)
    a, b, start = rng.standard_normal((M, K)), rng.standard_normal((K, N)), rng.standard_normal(N)
    want = a @ b + (start if with_start else 0)
    a, b, start = a.astype(dtype), b.astype(dtype), start.astype(dtype)
    a, b = (np.asfortranarray(m) if turned else m for m, turned in ((a, a_turned), (b, b_turned)))
    with pieces(256, many_threads):
        y = _product.product(a, b, start if with_start else None)
        close(y, want)
        np.testing.assert_array_equal(_product.product(a, b, start if with_start else None, relu=True), np.maximum(y, 0))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_product(shape):
    M, K, N = shape
    a, b, start = np.ones((M, K)), np.ones((K, N)), np.arange(N, dtype=float) - 1
    np.testing.assert_array_equal(_product.product(a, b, start), np.tile(start, (M, 1)))
    np.testing.assert_array_equal(_product.product(a, b, start, relu=True), np.tile(np.maximum(start, 0), (M, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [5, 64])
def test_linear(rows, dtype):
    """By tiles and by BLAS, the layer is the textbook's, and gradients nobody needs are None."""
    rng = np.random.default_rng(0)
    x, w, b, gy = (rng.standard_normal(s) for s in ((rows, 70), (40, 70), (40,), (rows, 40)))
    want = generic_linear.linear_forward(x, w, b)
    gradients = generic_linear.linear_backward(gy, x, w, (True, True, True))
    x, w, b, gy = (a.astype(dtype) for a in (x, w, b, gy))
    with pieces(256, True):
        close(cpu_linear.linear_forward(x, w, b), want)
        for i in range(3):
            needs = tuple(j == i for j in range(3))
            got = cpu_linear.linear_backward(gy, x if needs[1] else None, w if needs[0] else None, needs)
            assert [g is not None for g in got] == list(needs)
            close(got[i], gradients[i])
            assert got[i].flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 64])
def test_linear_relu(rows, dtype):
    """What is below 0 becomes 0 in the same pass, and NaN stays."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((rows, 70), (40, 70), (40,)))
    w[3] = np.nan
    for bias in (b, None):
        for many_threads in (False, True):
            with pieces(256, many_threads):
                y = cpu_linear.linear_forward(x, w, bias)
                got = cpu_linear.linear_relu_forward(x, w, bias)
            assert np.isnan(got[:, 3]).all()
            np.testing.assert_array_equal(got, np.maximum(y, 0))
            assert not rows or 0 < (got == 0).mean() < 1


# ---------------------------------------------------------------------------------------- other processors


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or config.DISABLE_JIT, reason="emulates x86-64 processors")
@pytest.mark.parametrize(("name", "features", "width"), [("haswell", "+avx,+avx2,+fma", 32), ("x86-64", "+sse2", 16)])
def test_other_vector_widths(name, features, width):
    """The same kernels compiled for a processor with narrower vectors."""
    code = (
        "import numpy as np\n"
        "from minidl.kernels import cpu, generic\n"
        "from minidl.kernels.cpu import _tile\n"
        f"assert _tile.VECTOR_BYTES == {width}\n"
        "rng = np.random.default_rng(0)\n"
        "for C, O in ((3, 5), (20, 33)):\n"
        "    x, w = rng.standard_normal((2, C, 9, 8)), rng.standard_normal((O, C, 3, 3))\n"
        "    geometry = (2, 1), ((1, 1), (0, 2)), (1, 1), 1\n"
        "    y = generic.conv2d_forward(x, w, None, *geometry)\n"
        "    want = y, *generic.conv2d_backward(y, x, w, (9, 8), *geometry, (True, True, True))\n"
        "    f = [a.astype(np.float32) for a in (x, w, y)]\n"
        "    got = cpu.conv2d_forward(f[0], f[1], None, *geometry),\n"
        "    got += cpu.conv2d_backward(f[2], f[0], f[1], (9, 8), *geometry, (True, True, True))\n"
        "    for a, b in zip(got, want):\n"
        "        assert abs(a - b).max() < 4e-6 * abs(b).max()\n"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
