"""Winograd convolution: its matrices, its results in all directions, and that it touches nothing but its own memory."""

import os
import subprocess
import sys
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minidl.kernels import generic

winograd = pytest.importorskip("minidl.kernels.cpu.winograd")

LIMIT = 4e-6  # of the largest value


def draw(rng, n, c, h, w, dtype=np.float32):
    """Images, channels last in memory."""
    return rng.standard_normal((n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)


def inputs(N, C, H, W, O, padding, seed=0):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((3, 3, C, O)).astype(np.float32).transpose(3, 2, 0, 1)
    gy = draw(rng, N, O, H + sum(padding[0]) - 2, W + sum(padding[1]) - 2)
    return draw(rng, N, C, H, W), w, rng.standard_normal(O).astype(np.float32), gy


def exact(x, w, b, gy, padding):
    """y, gx, gw, gb in float64."""
    x, w, b, gy = (a.astype(np.float64) for a in (x, w, b, gy))
    rest = ((1, 1), padding, (1, 1), 1)
    gradients = generic.conv2d_backward(gy, x, w, x.shape[2:], *rest, (True, True, True))
    return generic.conv2d_forward(x, w, b, *rest), *gradients


def ours(x, w, b, gy, padding):
    gradients = winograd.winograd_backward(gy, x, w, x.shape[2:], padding, (True, True, True))
    return winograd.winograd_forward(x, w, b, padding), *gradients


def assert_close(got, expected, limit=LIMIT):
    for name, a, e in zip(("y", "gx", "gw", "gb"), got, expected):
        assert a.dtype == np.float32
        assert a.shape == e.shape, name
        if e.size:
            assert np.abs(a - e).max() <= limit * np.abs(e).max(), name


# ------------------------------------------------------------------------------------- matrices


def cook_toom(points, outputs, taps):
    """B^T, G and A^T for these points and infinity: values of polynomials there, and interpolation back from values."""
    n = outputs + taps - 1
    BT, G, AT = (np.zeros(shape, object) for shape in ((n, n), (n, taps), (outputs, n)))
    for i, point in enumerate([*points, None]):
        others = [p for p in points if p != point]
        polynomial = [Fraction(1)]  # the product of (t - other), lowest power first
        for other in others:
            polynomial = [a - other * b for a, b in zip([Fraction(0), *polynomial], [*polynomial, Fraction(0)])]
        BT[i, : len(polynomial)] = polynomial
        if point is None:
            G[i, -1] = AT[-1, i] = Fraction(1)
        else:
            G[i] = [point**k / np.prod([point - other for other in others]) for k in range(taps)]
            AT[:, i] = [point**k for k in range(outputs)]
    return BT, G, AT


def test_matrices_are_cook_toom():
    points = [Fraction(p) for p in ("0", "3/4", "-3/4", "3/2", "-3/2")]
    BT, G, AT = cook_toom(points, 4, 3)
    d, g = np.arange(3, 9) ** 2, np.array([2, -3, 5])
    assert list(AT @ ((G @ g) * (BT @ d))) == [d[i : i + 3] @ g for i in range(4)]  # they do compute a convolution
    for name, matrix in (("input", BT), ("weight", G), ("output", AT)):
        for function, expected in ((f"_{name}_matrix", matrix), (f"_{name}_transposed", matrix.T)):
            function = getattr(winograd, function)
            function = getattr(function, "py_func", function)
            got = np.stack(function(tuple(np.eye(expected.shape[1]))))
            np.testing.assert_allclose(got, expected.astype(float), rtol=1e-15, atol=0, err_msg=function.__name__)
    rows = [line.split("|")[1::2] for line in winograd.__doc__.splitlines() if line.count("|") >= 4]
    for column, matrix in enumerate((BT, G, AT)):
        stated = [[Fraction(number) for number in row[column].split()] for row in rows if column < len(row)]
        assert stated == matrix.tolist()


# ------------------------------------------------------------------------------------- results


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_geometry(data):
    """Odd sizes, padding on one side only, channels that fill no vector, no image at all."""
    channels = st.integers(1, 40) | st.sampled_from([16, 32, 48, 64, 80])
    N, C, O = data.draw(st.integers(0, 3)), data.draw(channels), data.draw(channels)
    H, W = data.draw(st.integers(3, 12)), data.draw(st.integers(3, 12))
    top, bottom, left, right = (data.draw(st.integers(0, 2)) for _ in range(4))
    padding = ((top, bottom), (left, right))
    arrays = inputs(N, C, H, W, O, padding, data.draw(st.integers(0, 99)))
    assert_close(ours(*arrays, padding), exact(*arrays, padding))


@pytest.mark.parametrize(
    ("N", "C", "H", "O", "P"),
    [(8, 32, 15, 64, 0), (8, 64, 6, 64, 0), (2, 64, 56, 64, 1), (2, 128, 28, 128, 1), (2, 256, 14, 256, 1)],
)
def test_accuracy(N, C, H, O, P):
    padding = ((P, P), (P, P))
    arrays = inputs(N, C, H, H, O, padding)
    got, expected = ours(*arrays, padding), exact(*arrays, padding)
    assert_close(got, expected)
    for a, e in zip(got, expected):
        assert np.sqrt(np.mean((a - e) ** 2)) < 2e-6 * np.sqrt(np.mean(e**2))


def test_any_memory_order_and_no_bias():
    padding = ((1, 1), (1, 0))
    arrays = inputs(2, 20, 9, 10, 24, padding)
    expected = exact(*arrays, padding)
    assert_close(ours(*map(np.ascontiguousarray, arrays), padding), expected)
    x, w, _, gy = (a[::-1] for a in arrays)
    reverse = lambda a: np.ascontiguousarray(a[::-1])[::-1]  # noqa: E731
    assert_close(ours(reverse(x), reverse(w), arrays[2], reverse(gy), padding), ours(x, w, arrays[2], gy, padding))
    y = winograd.winograd_forward(arrays[0], arrays[1], None, padding)
    assert_close((y,), (expected[0] - arrays[2][:, None, None],))


def test_results_lie_channels_last():
    x, w, b, gy = inputs(2, 17, 8, 9, 19, ((1, 1), (1, 1)))
    y, gx, gw, _ = ours(x, w, b, gy, ((1, 1), (1, 1)))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert gx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert gw.transpose(2, 3, 1, 0).flags.c_contiguous


@pytest.mark.parametrize("needs", [(i & 1 > 0, i & 2 > 0, i & 4 > 0) for i in range(8)])
def test_only_what_is_needed(needs):
    padding = ((1, 1), (1, 1))
    x, w, b, gy = inputs(2, 16, 7, 7, 32, padding)
    _, *expected = ours(x, w, b, gy, padding)
    got = winograd.winograd_backward(gy, x if needs[1] else None, w, (7, 7), padding, needs)
    for needed, a, e in zip(needs, got, expected):
        assert (a is not None) == needed
        if needed:
            np.testing.assert_array_equal(a, e)


def test_runs_are_equal_bit_by_bit():
    padding = ((1, 1), (1, 1))
    arrays = inputs(5, 32, 19, 19, 48, padding)
    first = [a.copy() for a in ours(*arrays, padding)]
    for a, e in zip(ours(*arrays, padding), first):
        np.testing.assert_array_equal(a, e)


def test_nan_stays_in_its_image():
    padding = ((1, 1), (1, 1))
    x, w, b, gy = inputs(5, 16, 9, 9, 18, padding)
    y, gx, _, _ = ours(x, w, b, gy, padding)
    x[2, 3, 4, 4] = gy[2, 5, 0, 0] = np.nan
    other = [0, 1, 3, 4]
    dirty_y, dirty_gx, dirty_gw, dirty_gb = ours(x, w, b, gy, padding)
    np.testing.assert_array_equal(dirty_y[other], y[other])
    np.testing.assert_array_equal(dirty_gx[other], gx[other])
    assert np.isnan(dirty_y[2, :, 3:6, 3:6]).all()
    assert np.isnan(dirty_gx[2, :, 0:2, 0:2]).all()
    assert np.isnan(dirty_gw[5]).all()
    assert np.isnan(dirty_gb[5])
    assert np.isfinite(np.delete(dirty_gb, 5)).all()


@pytest.mark.parametrize(("C", "O"), [(16, 16), (3, 5), (33, 50), (64, 17)])
def test_only_own_memory(C, O):
    """Inputs lie between NaNs, which a read too far would bring in, and outputs between guards, which no write may change."""
    guard, padding = 256, ((0, 2), (1, 0))
    made = []

    def fenced(a):
        """A copy of a, in its memory order, with NaN around."""
        order = np.argsort([-s for s in a.strides], kind="stable")
        dense = a.transpose(order)
        room = np.full(a.size + 2 * guard, np.nan, np.float32)
        inside = room[guard : guard + a.size].reshape(dense.shape)
        inside[...] = dense
        return inside.transpose(np.argsort(order))

    def guarded_empty(shape, dtype):
        size = int(np.prod(shape))
        room = np.full(size + 2 * guard, 123.5, dtype)
        made.append((room, size))
        return room[guard : guard + size].reshape(shape)

    arrays = inputs(2, C, 7, 10, O, padding)
    with mock.patch.object(winograd, "empty", guarded_empty):
        got = ours(*map(fenced, arrays), padding)
    assert_close(got, exact(*arrays, padding))
    assert len(made) >= 6
    for room, size in made:
        assert (room[:guard] == 123.5).all()
        assert (room[guard + size :] == 123.5).all()


def test_plain_python():
    """NUMBA_DISABLE_JIT=1: the kernels as the Python they are written in, with bounds checked."""
    code = (
        "import numpy as np, test_winograd as t\n"
        "for C, O, H, P in ((3, 18, 5, 1), (17, 2, 4, 0)):\n"
        "    padding = ((P, 1), (0, P))\n"
        "    arrays = t.inputs(2, C, H, H + 1, O, padding)\n"
        "    t.assert_close(t.ours(*arrays, padding), t.exact(*arrays, padding))\n"
        "t.test_matrices_are_cook_toom()\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command, here = [sys.executable, "-W", "error", "-c", code], os.path.dirname(__file__)
    result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


# ------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "changes", "pays"),
    [
        ((32, 64, 56, 56), (64, 64, 3, 3), {}, True),
        ((128, 16, 32, 32), (16, 16, 3, 3), {}, True),
        ((128, 64, 6, 6), (64, 64, 3, 3), {"padding": ((0, 0), (0, 0))}, True),
        ((1, 64, 6, 6), (64, 64, 3, 3), {"padding": ((0, 0), (0, 0))}, False),  # the weights' transform would be most of it
        ((128, 64, 2, 2), (64, 64, 3, 3), {}, False),  # a quarter of each tile is used
        ((128, 3, 32, 32), (64, 3, 3, 3), {}, False),
        ((128, 64, 32, 32), (10, 64, 3, 3), {}, False),
        ((0, 64, 32, 32), (64, 64, 3, 3), {}, False),
        ((32, 64, 56, 56), (64, 64, 5, 5), {}, False),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"stride": (1, 2)}, False),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"dilation": (2, 2)}, False),
        ((32, 64, 56, 56), (64, 32, 3, 3), {"groups": 2}, False),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"padding": ((1, -1), (1, 1))}, False),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"dtype": np.float64}, False),
    ],
)
def test_selection(x_shape, w_shape, changes, pays):
    plain = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "dtype": np.float32}
    assert winograd.winograd_pays(x_shape, w_shape, **{**plain, **changes}) is pays
