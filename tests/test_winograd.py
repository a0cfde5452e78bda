"""Winograd convolution: its matrices, its results in all directions, and that it touches nothing but its own memory."""

import os
import platform
import subprocess
import sys
from contextlib import contextmanager
from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("numba")

from numba import config

from minidl.kernels import generic
from minidl.kernels.cpu import _jit, _transform, winograd
from minidl.kernels.cpu._relu_pool import PLAIN, POOL, RELU

LIMIT = 4e-6  # of the largest value
SIDES, FOLLOWS = (4, 2), (PLAIN, RELU, POOL)
ALL = True, True, True


def draw(rng, n, c, h, w):
    """Images, channels last in memory."""
    return rng.standard_normal((n, h, w, c)).astype(np.float32).transpose(0, 3, 1, 2)


def inputs(N, C, H, W, O, padding, follows=PLAIN, seed=0):
    """x, w, b and gy."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((3, 3, C, O)).astype(np.float32).transpose(3, 2, 0, 1)
    size = [n + sum(sides) - 2 for n, sides in zip((H, W), padding)]
    gy = draw(rng, N, O, *(n // 2 if follows == POOL else n for n in size))
    return draw(rng, N, C, H, W), w, rng.standard_normal(O).astype(np.float32), gy


def ours(x, w, b, gy, padding, follows=PLAIN, side=4):
    """y, gx, gw, gb, and what forward kept for backward."""
    y, kept = winograd.winograd_forward(x, w, b, padding, follows, side)
    return y, *winograd.winograd_backward(gy, x, w, x.shape[2:], padding, ALL, follows, kept, side), kept


def convolved(x, w, b, padding):
    """The results of the convolution itself, in float64."""
    x, w, b = (None if a is None else a.astype(np.float64) for a in (x, w, b))
    return generic.conv2d_forward(x, w, b, (1, 1), padding, (1, 1), 1)


def exact(x, w, b, gy, padding, follows=PLAIN, kept=None):
    """y, gx, gw and gb in float64. Where rounding decides which of two values is larger, gradients follow ``kept``."""
    y = convolved(x, w, b, padding)
    rest = x.shape[2:], y.shape[2:], (1, 1), padding, (1, 1), 1
    x, w, gy = (a.astype(np.float64) for a in (x, w, gy))
    if follows == PLAIN:
        return y, *generic.conv2d_backward(gy, x, w, rest[0], *rest[2:], ALL)
    gradients = generic.conv2d_relu_backward(gy, kept, x, w, *rest, follows, ALL)
    return followed(y, follows), *gradients


def followed(y, follows):
    """ReLU, and pooling, of the results of a convolution."""
    y = y if follows == PLAIN else np.maximum(y, 0)
    return windows(y).max(-1) if follows == POOL else y


def windows(y):
    """(N, O, OH / 2, OW / 2, 4): the four values of each 2x2 window."""
    OH, OW = (n // 2 * 2 for n in y.shape[2:])
    return np.stack([y[:, :, i:OH:2, j:OW:2] for i in (0, 1) for j in (0, 1)], -1)


def assert_close(got, expected, limit=LIMIT, squares=None):
    """Where sums happen to cancel, the root of the sums of ``squares`` is what is usual for them."""
    for i, (name, a, e) in enumerate(zip(("y", "gx", "gw", "gb"), got, expected)):
        assert a.dtype == np.float32
        assert a.shape == e.shape, name
        if e.size:
            usual = 0 if squares is None else np.sqrt(squares[i].max())
            assert np.abs(a - e).max() <= limit * max(np.abs(e).max(), usual), name


def check(x, w, b, gy, padding, follows, side):
    """All results, and the winners of the pooling windows: the largest values, or DEAD where those are not above zero."""
    *got, kept = ours(x, w, b, gy, padding, follows, side)
    squares = exact(*(a * a for a in (x, w, b, gy)), padding, follows, kept)
    assert_close(got, exact(x, w, b, gy, padding, follows, kept), squares=squares)
    if follows == POOL and kept.size:
        z = convolved(x, w, b, padding)
        tolerance = LIMIT * np.abs(z).max()
        dead = kept == 4
        assert kept.dtype == np.uint8
        assert kept.max() <= 4
        np.testing.assert_array_equal(dead, got[0] == 0)
        assert (windows(z).max(-1)[dead] <= tolerance).all()
        won = np.take_along_axis(windows(z), np.where(dead, 0, kept)[..., None].astype(int), -1)[..., 0]
        assert (won[~dead] >= windows(z).max(-1)[~dead] - tolerance).all()


@contextmanager
def cut(block, many_threads):
    """Work on a few tiles at a time, and share the work between threads."""
    with mock.patch.object(winograd, "BLOCK", block), mock.patch.object(_jit, "PARALLEL_MIN", 1 if many_threads else 1 << 60):
        yield


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


@pytest.mark.parametrize(("side", "points"), [(4, "0 3/4 -3/4 3/2 -3/2"), (2, "0 1 -1")])
def test_matrices_are_cook_toom(side, points):
    """What the functions multiply by, and what the documentation shows, is what the theory gives."""
    BT, G, AT = cook_toom([Fraction(p) for p in points.split()], side, 3)
    d, g = np.arange(3, side + 5) ** 2, np.array([2, -3, 5])
    assert list(AT @ ((G @ g) * (BT @ d))) == [d[i : i + 3] @ g for i in range(side)]  # they do compute a convolution
    size = {4: "six", 2: "four"}[side]
    for name, matrix in (("input", BT), ("weight", G), ("output", AT)):
        for function, expected in ((f"_{name}_{size}", matrix), (f"_{name}_transposed_{size}", matrix.T)):
            function = getattr(_transform, function)
            function = getattr(function, "py_func", function)
            got = np.stack(function(tuple(np.eye(expected.shape[1]))))
            np.testing.assert_allclose(got, expected.astype(float), rtol=1e-15, atol=0, err_msg=function.__name__)
    text = _transform.__doc__.split("**F(2x2, 3x3)**")[side == 2]
    rows = [line.split("|")[1::2] for line in text.splitlines() if line.count("|") >= 4]
    for column, matrix in enumerate((BT, G, AT)):
        stated = [[Fraction(number) for number in row[column].split()] for row in rows if column < len(row)]
        assert stated == matrix.tolist()


# ------------------------------------------------------------------------------------- results


@settings(max_examples=20 if config.DISABLE_JIT else 100, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.sampled_from(FOLLOWS), st.sampled_from(SIDES), st.sampled_from([8, 32]), st.booleans())
def test_geometry(seed, follows, side, block, many_threads):
    """Odd sizes, padding on one side only, channels that fill no vector, no image at all; blocks that cut images."""
    rng = np.random.default_rng(seed)
    N, (C, O) = rng.integers(0, 6), (int(rng.choice([rng.integers(1, 41), 16, 32, 48, 80], p=[0.6, *[0.1] * 4])) for _ in "CO")
    (H, W), padding = rng.integers(1, 13, 2), []
    for size in (H, W):
        before, after = (int(n) for n in rng.integers(0, (5, 3)))
        padding.append((before, max(after, 2 + (follows == POOL) + 1 - before - int(size))))
    with cut(block, many_threads):
        check(*inputs(N, C, H, W, O, padding, follows, seed), tuple(padding), follows, side)


@pytest.mark.skipif(config.DISABLE_JIT, reason="too much work for plain Python")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("N", "C", "H", "O", "P"),
    [(8, 32, 15, 64, 0), (8, 64, 6, 64, 0), (2, 64, 56, 64, 1), (2, 128, 28, 128, 1), (2, 256, 14, 256, 1)],
)
def test_accuracy(N, C, H, O, P, side):
    """As exact as float32 allows; F(2x2, 3x3) more so."""
    padding = ((P, P), (P, P))
    arrays = inputs(N, C, H, H, O, padding)
    *got, _ = ours(*arrays, padding, side=side)
    expected = exact(*arrays, padding)
    assert_close(got, expected, LIMIT if side == 4 else LIMIT / 4)
    for a, e in zip(got, expected):
        assert np.sqrt(np.mean((a - e) ** 2)) < (2e-6 if side == 4 else 7e-7) * np.sqrt(np.mean(e**2))


@pytest.mark.parametrize("side", SIDES)
def test_any_memory_order_and_no_bias(side):
    padding = ((1, 1), (1, 0))
    arrays = inputs(2, 20, 9, 10, 24, padding)
    expected = exact(*arrays, padding)
    assert_close(ours(*map(np.ascontiguousarray, arrays), padding, side=side), expected)
    x, w, b, gy = (a[::-1] for a in arrays)
    assert_close(ours(x, w, b, gy, padding, side=side), exact(x, w, b, gy, padding))
    y, kept = winograd.winograd_forward(arrays[0], arrays[1], None, padding, PLAIN, side)
    assert y is kept
    assert_close((y,), (convolved(*arrays[:2], None, padding),))


@pytest.mark.parametrize("follows", FOLLOWS)
def test_results_lie_channels_last(follows):
    padding = ((1, 1), (1, 1))
    y, gx, gw, _, kept = ours(*inputs(2, 17, 8, 9, 19, padding, follows), padding, follows)
    assert gw.transpose(2, 3, 1, 0).flags.c_contiguous
    for images in (y, gx, kept):
        assert images.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("follows", FOLLOWS)
@pytest.mark.parametrize("needs", [(i & 1 > 0, i & 2 > 0, i & 4 > 0) for i in range(8)])
def test_only_what_is_needed(needs, follows):
    padding = ((1, 1), (1, 1))
    x, w, b, gy = inputs(2, 16, 7, 7, 32, padding, follows)
    _, *expected, kept = ours(x, w, b, gy, padding, follows)
    got = winograd.winograd_backward(gy, x if needs[1] else None, w, (7, 7), padding, needs, follows, kept)
    for needed, a, e in zip(needs, got, expected):
        assert (a is not None) == needed
        if needed:
            np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("side", SIDES)
def test_runs_are_equal_bit_by_bit(side):
    padding = ((1, 1), (1, 1))
    arrays = inputs(5, 32, 19, 19, 48, padding, POOL)
    with cut(32, True):
        first = [a.copy() for a in ours(*arrays, padding, POOL, side)]
        for a, e in zip(ours(*arrays, padding, POOL, side), first):
            np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("follows", FOLLOWS)
def test_nan_stays_in_its_image(follows, side):
    """A NaN reaches all that its tile reaches, through ReLU and pooling too, and no other image."""
    padding = ((1, 1), (1, 1))
    x, w, b, gy = inputs(5, 16, 9, 9, 18, padding, follows)
    y, gx, *_ = ours(x, w, b, gy, padding, follows, side)
    x[2, 3, 4, 4] = np.nan
    dirty_y, dirty_gx, dirty_gw, *_, kept = ours(x, w, b, gy, padding, follows, side)
    other = [0, 1, 3, 4]
    near = slice(3, 6) if follows != POOL else slice(2, 3)  # a pool window is all NaN, or has one
    np.testing.assert_array_equal(dirty_y[other], y[other])
    np.testing.assert_array_equal(dirty_gx[other], gx[other])
    assert np.isnan(dirty_y[2, :, near, near]).all()
    assert np.isnan(dirty_gw[:, 3]).all()
    assert np.isfinite(dirty_gw[:, :3]).all()
    if follows == POOL:
        assert (kept[2, :, near, near] < 4).all(), "a NaN beats all numbers and is not dead"
    gy[2, 5, 0, 0], alive = np.nan, kept[2, 5, 0, 0] != 4 if follows == POOL else follows == PLAIN or y[2, 5, 0, 0] > 0
    _, dirty_gx, dirty_gw, dirty_gb, _ = ours(np.nan_to_num(x), w, b, gy, padding, follows, side)
    np.testing.assert_array_equal(dirty_gx[other], gx[other])
    assert alive, "else the rest says nothing"
    assert np.isnan(dirty_gx[2, :, 0:2, 0:2]).any()
    assert np.isnan(dirty_gw[5]).any()
    assert np.isnan(dirty_gb[5])
    assert np.isfinite(np.delete(dirty_gb, 5)).all()


def test_what_relu_stops_gets_no_gradient():
    """All results below zero: nothing passes, not even a NaN in gy; and y is exactly zero."""
    padding = ((1, 1), (1, 1))
    for follows in (RELU, POOL):
        x, w, _, gy = inputs(1, 3, 5, 5, 3, padding, follows)
        gy[...] = np.nan
        y, *gradients, kept = ours(x, w, np.full(3, -1e3, np.float32), gy, padding, follows)
        for a in (y, *gradients):
            assert (a == 0).all()
        assert (kept == (0 if follows == RELU else 4)).all()


@pytest.mark.parametrize("follows", FOLLOWS)
@pytest.mark.parametrize(("C", "O", "side"), [(16, 16, 4), (3, 5, 2), (33, 50, 4), (64, 17, 2), (3, 5, 4)])
def test_only_own_memory(C, O, side, follows):
    """Inputs lie between NaNs, which a read too far would bring in; memory for results is NaN itself, so that everything is
    written before it is read, and lies between guards, which no write may change."""
    guard, padding = 256, ((0, 2), (1, 0))
    made = []

    def fenced(a, fill):
        """A copy of a, in its memory order, with ``fill`` around."""
        order = np.argsort([-s for s in a.strides], kind="stable")
        dense = a.transpose(order)
        room = np.full(a.size + 2 * guard, fill, a.dtype)
        inside = room[guard : guard + a.size].reshape(dense.shape)
        inside[...] = dense
        return inside.transpose(np.argsort(order))

    def guarded_empty(shape, dtype):
        size, dtype = int(np.prod(shape)), np.dtype(dtype)
        room = np.full(size + 2 * guard, 123, dtype)
        inside = room[guard : guard + size].reshape(shape)
        inside[...] = np.nan if dtype == np.float32 else 99
        made.append((room, size))
        return inside

    arrays = inputs(2, C, 7, 10, O, padding, follows)
    x, w, b, gy = (fenced(a, np.nan) for a in arrays)
    with mock.patch.object(winograd, "empty", guarded_empty), cut(8, True):
        y, kept = winograd.winograd_forward(x, w, b, padding, follows, side)
        outside = fenced(kept, np.nan if kept.dtype == np.float32 else 0)
        got = y, *winograd.winograd_backward(gy, x, w, x.shape[2:], padding, ALL, follows, outside, side)
    assert_close(got, exact(*arrays, padding, follows, kept))
    assert len(made) >= 6
    for room, size in made:
        assert (room[:guard] == 123).all()
        assert (room[guard + size :] == 123).all()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or config.DISABLE_JIT, reason="emulates x86-64 processors")
@pytest.mark.parametrize(("name", "features"), [("haswell", "+avx,+avx2,+fma"), ("x86-64", "+sse2")])
def test_other_vector_widths(name, features):
    """The same kernels compiled for a processor with narrower vectors."""
    code = (
        "import test_winograd as t\n"
        "padding = (1, 0), (0, 2)\n"
        "for side in t.SIDES:\n"
        "    for follows in t.FOLLOWS:\n"
        "        t.check(*t.inputs(3, 17, 9, 7, 35, padding, follows), padding, follows, side)\n"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    command, here = [sys.executable, "-W", "error", "-c", code], os.path.dirname(__file__)
    result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]


# ------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "changes", "can", "pays"),
    [
        ((32, 64, 56, 56), (64, 64, 3, 3), {}, True, True),
        ((128, 16, 32, 32), (16, 16, 3, 3), {}, True, True),
        ((128, 64, 6, 6), (64, 64, 3, 3), {"padding": ((0, 0), (0, 0))}, True, True),
        ((1, 64, 6, 6), (64, 64, 3, 3), {"padding": ((0, 0), (0, 0))}, True, False),  # most of it would be the weights
        ((128, 64, 2, 2), (64, 64, 3, 3), {}, True, False),  # a quarter of each tile is used
        ((128, 32, 7, 7), (32, 32, 3, 3), {"padding": ((0, 0), (0, 0))}, True, False),  # four tiles for 5x5 results,
        ((128, 32, 7, 7), (32, 32, 3, 3), {"padding": ((0, 0), (0, 0)), "follows": POOL}, True, True),  # one for 4x4
        ((128, 3, 32, 32), (64, 3, 3, 3), {}, True, False),
        ((128, 64, 32, 32), (10, 64, 3, 3), {}, True, False),
        ((0, 64, 32, 32), (64, 64, 3, 3), {}, True, False),
        ((32, 64, 56, 56), (64, 64, 5, 5), {}, False, None),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"stride": (1, 2)}, False, None),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"dilation": (2, 2)}, False, None),
        ((32, 64, 56, 56), (64, 32, 3, 3), {"groups": 2}, False, None),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"padding": ((1, -1), (1, 1))}, False, None),
        ((32, 64, 56, 56), (64, 64, 3, 3), {"dtype": np.float64}, False, None),
    ],
)
def test_selection(x_shape, w_shape, changes, can, pays):
    plain = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "dtype": np.float32}
    geometry = {**plain, **changes}
    follows = geometry.pop("follows", PLAIN)
    assert winograd.winograd_can(x_shape, w_shape, **geometry) is can
    if can:
        assert winograd.winograd_pays(x_shape, w_shape, **geometry, follows=follows) is pays
