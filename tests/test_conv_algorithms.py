"""Every algorithm of convolution against the same sums in float64; with ReLU and pooling, against these done separately."""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minidl as md
from minidl.kernels import generic

pytest.importorskip("numba")

from numba import config

from minidl.kernels import cpu
from minidl.kernels.cpu import _direct, _jit, conv
from minidl.kernels.cpu._relu_pool import PLAIN, POOL, RELU

FAST = settings(max_examples=40 if config.DISABLE_JIT else 150, deadline=None, derandomize=True)
ALL = True, True, True
NAMES = "y", "gx", "gw", "gb"
LIMIT = {np.dtype("f"): 4e-6, np.dtype("d"): 1e-12}  # of the largest value
LOOPS = 3000  # products up to which the loops, too, are run


def taps(x, y_shape, w_shape, stride, padding, dilation):
    """For each tap of the kernel, (kh, kw) and the pixels of x, with its padding, that it meets; and x, to write to."""
    OH, OW = y_shape[2:]
    sides = [[max(side, 0) for side in pair] for pair in padding]
    padded = np.pad(x, ((0, 0), (0, 0), *sides))
    begin = [side - pair[0] for side, pair in zip((s[0] for s in sides), padding)]  # above 0 where padding cuts off
    slices = []
    for kh, kw in np.ndindex(*w_shape[2:]):
        h, v = begin[0] + kh * dilation[0], begin[1] + kw * dilation[1]
        slices.append(
            ((kh, kw), padded[:, :, h : h + (OH - 1) * stride[0] + 1 : stride[0], v : v + (OW - 1) * stride[1] + 1 : stride[1]])
        )
    return slices, padded[:, :, sides[0][0] :, sides[1][0] :][:, :, : x.shape[2], : x.shape[3]]


def exact(x, w, b, gy, stride, padding, dilation, groups):
    """y, gx, gw and gb, by a sum over the taps of the kernel."""
    N, C, O = len(x), x.shape[1], len(w)
    shape = (N, O, *gy.shape[2:])
    y, gx, gw = np.zeros(shape), np.zeros(x.shape), np.zeros(w.shape)
    seen, _ = taps(x, shape, w.shape, stride, padding, dilation)
    given, gx = taps(gx, shape, w.shape, stride, padding, dilation)
    grouped = lambda a: a.reshape(len(a), groups, a.shape[1] // groups, *a.shape[2:])  # noqa: E731
    g = grouped(gy)
    for ((kh, kw), pixels), (_, target) in zip(seen, given):
        part = w[:, :, kh, kw].reshape(groups, O // groups, C // groups)
        y += np.einsum("goc,ngchw->ngohw", part, grouped(pixels), optimize=True).reshape(shape)
        target += np.einsum("goc,ngohw->ngchw", part, g, optimize=True).reshape(target.shape)
        gw[:, :, kh, kw] = np.einsum("ngohw,ngchw->goc", g, grouped(pixels), optimize=True).reshape(O, -1)
    return y if b is None else y + b[:, None, None], gx, gw, gy.sum((0, 2, 3))


def close(got, want, usual, message):
    """``want`` and ``usual`` are float64. Where sums happen to cancel, what is usual for them is the largest value."""
    for name, a, e, s in zip(NAMES, got, want, usual):
        assert a.shape == e.shape, (name, message)
        if e.size:
            error = np.abs(a - e).max() / max(np.abs(e).max(), np.sqrt(s.max()), 1e-30)
            assert error <= LIMIT[a.dtype], (name, error, message)


def run(kernels, x, w, b, gy, geometry, algorithm):
    gradients = kernels.conv2d_backward(gy, x, w, x.shape[2:], *geometry, ALL, algorithm)
    return kernels.conv2d_forward(x, w, b, *geometry, algorithm), *gradients


def gradients(function, arrays, gy):
    """y, gx, gw and gb of a function of tensors."""
    tensors = [md.tensor(a, requires_grad=True) for a in arrays]
    y = function(*tensors)
    y.backward(gy)
    return [y.numpy(), *(t.grad.numpy() for t in tensors)]


@contextmanager
def pieces(pixels, many_threads):
    """Cut the work into small pieces, and share it between threads."""
    with (
        mock.patch.object(_direct, "PIECE_PIXELS", pixels),
        mock.patch.object(_jit, "PARALLEL_MIN", 1 if many_threads else 1 << 60),
    ):
        yield


def out_size(image, kernel, geometry):
    stride, padding, dilation, _ = geometry
    return tuple(generic.conv_size(image[i], kernel[i], stride[i], padding[i], dilation[i]) for i in (0, 1))


@st.composite
def shapes(draw, least_output=1, symmetric=False, most_channels=40):
    """(shape of x, shape of w, geometry): all edges that geometry has. Evenly drawn: simple cases are no better here."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    pick = lambda low, high: int(rng.integers(low, high + 1))  # noqa: E731
    kind = rng.choice(["3x3", "dense", "groups", "depthwise"])
    groups = {"groups": pick(2, 3), "depthwise": pick(1, 40)}.get(kind, 1)
    most = {"groups": 6, "depthwise": 1}.get(kind, most_channels)
    CG, OG = pick(1, most), pick(1, most)
    kernel, stride, dilation = ((pick(1, n), pick(1, n)) for n in (4, 3, 2))
    if kind == "3x3":
        kernel, stride, dilation = (3, 3), (1, 1), (1, 1)
    padding, image = [], []
    for axis in (0, 1):
        window = dilation[axis] * (kernel[axis] - 1) + 1 + stride[axis] * (least_output - 1)
        before = pick(0, 3)
        after = before if symmetric else pick(-1, 3)
        padding.append((before, after))
        image.append(max(1, window - before - after, 1 - after) + int(rng.choice([0, 1, 2, 5, 9])))
    N = int(rng.choice([0, 1, 2, 2, 3, 3]))
    return (N, groups * CG, *image), (groups * OG, CG, *kernel), (stride, tuple(padding), dilation, groups)


def normal(x_shape, w_shape, geometry, dtype, pool=1, seed=0):
    """x, w, b and gy; x in one of three memory orders."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    size = (n // pool for n in out_size(x_shape[2:], w_shape[2:], geometry))
    x, w, b, gy = draw(*x_shape), draw(*w_shape), draw(w_shape[0]), draw(x_shape[0], w_shape[0], *size)
    x = (x, cpu.images(x), x[:, :, ::-1])[seed % 3]
    return x, w, b, gy


# ------------------------------------------------------------------------------------- the convolution itself


@FAST
@given(shapes(), st.sampled_from("fd"), st.integers(0, 99), st.sampled_from([10, 256]), st.booleans())
def test_every_algorithm(shapes, dtype, seed, pixels, many_threads):
    """All that say they can compute a convolution do, in all directions; "auto" is the first of them."""
    x_shape, w_shape, geometry = shapes
    x, w, b, gy = normal(x_shape, w_shape, geometry, dtype, seed=seed)
    doubles = [a.astype(np.float64) for a in (x, w, b, gy)]
    want, usual = exact(*doubles, *geometry), exact(*(a * a for a in doubles), *geometry)
    possible = cpu.conv2d_algorithms(x_shape, w_shape, *geometry, x.dtype)
    with pieces(pixels, many_threads):
        for algorithm in possible:
            if algorithm != "loops" or gy.size * w[0].size <= LOOPS:
                close(run(cpu, x, w, b, gy, geometry, algorithm), want, usual, algorithm)
        for got, first in zip(run(cpu, x, w, b, gy, geometry, "auto"), run(cpu, x, w, b, gy, geometry, possible[0])):
            np.testing.assert_array_equal(got, first)


@FAST
@given(shapes(most_channels=15), st.sampled_from("fd"))
def test_which_algorithms(shapes, dtype):
    """Winograd for plain 3x3 in float32, depthwise for channels by themselves, the others for everything."""
    x_shape, w_shape, geometry = shapes
    names = cpu.conv2d_algorithms(x_shape, w_shape, *geometry, np.dtype(dtype))
    (stride, padding, dilation, groups), C, O = geometry, x_shape[1], w_shape[0]
    plain = (*w_shape[2:], *stride, *dilation, groups) == (3, 3, 1, 1, 1, 1, 1) and min(map(min, padding)) >= 0
    assert ("winograd4" in names) == ("winograd2" in names) == (plain and dtype == "f")
    assert ("depthwise" in names) == (groups == C == O)
    assert {"direct", "im2col", "loops"} <= set(names)
    assert len(set(names)) == len(names)
    assert names[0] == ("depthwise" if groups == C == O else "direct"), "Winograd does not pay with fewer than 16 channels"


# N, C, size, O, kernel, stride, padding; and "depthwise" for groups of one channel
NETWORK_SHAPES = [
    (2, 1, 28, 32, 3, 1, 0),
    (2, 3, 32, 32, 3, 1, 0),
    (2, 32, 15, 64, 3, 1, 0),
    (2, 64, 6, 64, 3, 1, 0),
    (2, 64, 56, 64, 3, 1, 1),
    (2, 128, 28, 128, 3, 1, 1),
    (2, 16, 32, 16, 3, 1, 1),
    (2, 32, 16, 32, 3, 1, 1),
    (2, 256, 14, 256, 3, 1, 1),
    (2, 3, 224, 32, 3, 1, 0),
    (2, 32, 111, 64, 3, 1, 0),
    (2, 3, 224, 64, 7, 2, 3),
    (2, 64, 56, 256, 1, 1, 0),
    (2, 256, 28, 64, 1, 1, 0),
    (2, 128, 28, 128, 3, 1, 1, "depthwise"),
]


@pytest.mark.skipif(config.DISABLE_JIT, reason="too much work for plain Python")
@pytest.mark.parametrize("shape", NETWORK_SHAPES, ids=str)
def test_accuracy(shape):
    """float32 on the layers of networks, by every algorithm."""
    N, C, size, O, K, S, P = shape[:7]
    groups = C if shape[7:] else 1
    geometry = (S, S), ((P, P), (P, P)), (1, 1), groups
    x, w, b, gy = normal((N, C, size, size), (O, C // groups, K, K), geometry, np.float32)
    want = exact(*(a.astype(np.float64) for a in (x, w, b, gy)), *geometry)
    for algorithm in cpu.conv2d_algorithms(x.shape, w.shape, *geometry, x.dtype):
        if algorithm != "loops":
            close(run(cpu, x, w, b, gy, geometry, algorithm), want, [np.zeros(1)] * 4, algorithm)


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize(
    ("C", "O", "size", "stride", "groups"), [(3, 5, 4, 1, 1), (40, 7, 5, 1, 1), (6, 4, 5, 1, 2), (20, 33, 6, 2, 1)]
)
def test_one_pixel_windows(C, O, size, stride, groups, dtype):
    """As for large images and many channels: pixels are asked for ahead of time, and gw is a product of matrices."""
    geometry = (stride, stride), ((0, 0), (0, 0)), (1, 1), groups
    x, w, b, gy = normal((3, C, size, size), (O, C // groups, 1, 1), geometry, dtype)
    want = exact(*(a.astype(np.float64) for a in (x, w, b, gy)), *geometry)
    with mock.patch.object(_direct, "FAR_BYTES", 0), mock.patch.object(conv, "MANY_CHANNELS", 1):
        close(run(cpu, x, w, b, gy, geometry, "direct"), want, [np.zeros(1)] * 4, "direct")
        _, _, gb = cpu.conv2d_backward(gy, x, w, (size, size), *geometry, (False, True, False), "direct")
    assert gb is None


@pytest.mark.parametrize("O", [8, 16, 48, 64])
@pytest.mark.parametrize("dtype", "fd")
def test_weights_of_few_pixels(dtype, O):
    """They are read where they lie, to the same result as packed."""
    geometry = (1, 1), ((1, 0), (0, 1)), (1, 1), 1
    x, w, b, _ = normal((2, 5, 6, 7), (O, 5, 3, 2), geometry, dtype)
    results = []
    for few in (_direct.FEW_PIXELS, 0):
        _direct._plan.cache_clear()  # which remembers how it was for these shapes
        with mock.patch.object(_direct, "FEW_PIXELS", few):
            results.append(cpu.conv2d_forward(x, w, b, *geometry, "direct"))
    _direct._plan.cache_clear()
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", "fd")
def test_images(dtype):
    """The same values, channels last in memory; no copy when they lie so already."""
    x = np.arange(3 * 5 * 17 * 19, dtype=dtype).reshape(3, 5, 17, 19)
    for many_threads in (False, True):
        with pieces(256, many_threads):
            for source in (x, x[:, :, ::2], x[..., ::-1], x.transpose(0, 1, 3, 2), x[:0], x[:, :1]):
                y = cpu.images(source)
                np.testing.assert_array_equal(y, source)
                assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert np.shares_memory(cpu.images(y), y)


# ------------------------------------------------------------------------------------- the argument


def test_algorithm_is_forced_in_both_directions():
    """What the user asks for runs, forward and backward."""
    rng = np.random.default_rng(0)
    *arrays, gy = (rng.standard_normal(s).astype("f") for s in ((1, 2, 5, 5), (3, 2, 3, 3), (3,), (1, 3, 5, 5)))
    results = {}
    for algorithm in ("auto", "direct", "winograd4", "winograd2", "im2col", "loops"):
        results[algorithm] = gradients(lambda x, w, b: md.conv2d(x, w, b, padding=1, algorithm=algorithm), arrays, gy)  # noqa: B023
    for algorithm, got in results.items():
        for a, e in zip(got, results["loops"]):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4, err_msg=algorithm)
    assert all((a == e).all() for a, e in zip(results["auto"], results["direct"]))
    for other in ("winograd4", "winograd2", "im2col", "loops"):  # another order of sums, so other last digits
        for i in (1, 2):
            assert (results[other][i] != results["direct"][i]).any(), (other, NAMES[i])


@pytest.mark.parametrize(
    ("options", "dtype", "algorithm", "possible"),
    [
        ({}, "f", "fft", "'auto', 'direct', 'winograd4', 'winograd2', 'im2col', 'loops'"),
        ({}, "d", "winograd4", "'auto', 'direct', 'im2col', 'loops'"),
        ({"stride": 2}, "f", "winograd2", "'auto', 'direct', 'im2col', 'loops'"),
        ({"dilation": 2}, "f", "winograd4", "'auto', 'direct', 'im2col', 'loops'"),
        ({}, "f", "depthwise", "'auto', 'direct', 'winograd4', 'winograd2', 'im2col', 'loops'"),
        ({"groups": 4}, "f", "winograd4", "'auto', 'depthwise', 'direct', 'im2col', 'loops'"),
        ({}, "f", None, "'auto', 'direct'"),
        ({}, "f", "Direct", "'auto', 'direct'"),
        ({}, "f", 4, "'auto', 'direct'"),
    ],
)
def test_algorithms_that_do_not_apply(options, dtype, algorithm, possible):
    """Named in the message are those that do, the default first."""
    x, w = np.ones((1, 4, 6, 6), dtype), np.ones((4, 4 // options.get("groups", 1), 3, 3), dtype)
    message = rf"conv2d: expected algorithm, for this convolution, as one of {possible}.*, got {algorithm!r}"
    with pytest.raises(md.ArgumentError, match=message):
        md.conv2d(md.tensor(x), md.tensor(w), **options, algorithm=algorithm)


def test_algorithms_of_the_generic_package():
    """The textbook has two, and "auto" is the first."""
    rng = np.random.default_rng(0)
    *arrays, gy = (rng.standard_normal(s) for s in ((2, 4, 6, 5), (6, 2, 2, 3), (6,), (2, 6, 4, 5)))
    with md.use_kernels("generic"):
        for algorithm in ("direct", "winograd4", "depthwise"):
            with pytest.raises(md.ArgumentError, match=rf"as one of 'auto', 'im2col', 'loops', got '{algorithm}'"):
                md.conv2d(*map(md.tensor, arrays), groups=2, algorithm=algorithm)
        results = [
            gradients(lambda x, w, b: md.conv2d(x, w, b, (2, 1), 1, groups=2, algorithm=algorithm), arrays, gy)  # noqa: B023
            for algorithm in ("auto", "im2col", "loops")
        ]
    for auto, im2col, loops in zip(*results):
        np.testing.assert_array_equal(auto, im2col)
        np.testing.assert_allclose(im2col, loops, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------- ReLU and pooling


def windows(y):
    """(N, O, OH / 2, OW / 2, 4): the four values of each 2x2 window."""
    OH, OW = (n // 2 * 2 for n in y.shape[2:])
    return np.stack([y[:, :, i:OH:2, j:OW:2] for i in (0, 1) for j in (0, 1)], -1)


@FAST
@given(shapes(2), st.sampled_from("fd"), st.sampled_from([1, 2]), st.integers(0, 99), st.booleans())
def test_relu_and_pool(shapes, dtype, pool, seed, many_threads):
    """Both packages: y is the definition's, winners are largest, and gradients are those of the winners."""
    x_shape, w_shape, geometry = shapes
    x, w, b, gy = normal(x_shape, w_shape, geometry, dtype, pool, seed)
    doubles = [a.astype(np.float64) for a in (x, w, b)]
    size = out_size(x.shape[2:], w.shape[2:], geometry)
    none = np.zeros((len(x), len(w), *size))
    (z, *_), (usual, *_) = (exact(*arrays, none, *geometry) for arrays in (doubles, [a * a for a in doubles]))
    for kernels in (generic, cpu):
        with pieces(10, many_threads):
            y, kept = kernels.conv2d_relu_forward(x, w, b, *geometry, pool)
            got = kernels.conv2d_relu_backward(gy, kept, x, w, x.shape[2:], size, *geometry, pool, ALL)
        positive = np.maximum(z, 0)
        close((y,), (positive if pool == 1 else windows(positive).max(-1),), (usual,), kernels.__name__)
        g = np.zeros_like(z)
        if pool == 1:
            assert kept.size == 0 or np.shares_memory(kept, y)
            g = np.where(y > 0, gy, 0).astype(np.float64)
        else:
            assert kept.dtype == np.uint8
            np.testing.assert_array_equal(kept == generic.DEAD, y == 0)
            for k in range(4):
                g[:, :, k // 2 : size[0] // 2 * 2 : 2, k % 2 : size[1] // 2 * 2 : 2] = np.where(kept == k, gy, 0)
            if y.size:
                tolerance = LIMIT[y.dtype] * max(np.abs(z).max(), np.sqrt(usual.max()))
                won = np.take_along_axis(windows(z), kept[..., None] % 4, -1)[..., 0]
                assert (np.where(y > 0, won, 0) >= windows(positive).max(-1) - tolerance).all()
        _, *want = exact(*doubles, g, *geometry)
        _, *scale = exact(*(a * a for a in doubles), g * g, *geometry)
        close((y, *got), (y, *want), (usual, *scale), kernels.__name__)


def whole(x_shape, w_shape, geometry, pool, dtype, seed, spoil):
    """Small whole numbers, whose sums have no rounding: many equal maxima, and many windows with nothing above zero."""
    rng = np.random.default_rng(seed)
    x, w, b = rng.integers(-2, 3, x_shape), rng.integers(-1, 2, w_shape), rng.integers(-4, 2, w_shape[0])
    x = x.astype(dtype)
    if spoil:
        x[rng.random(x_shape) < 0.03] = np.nan
        x[rng.random(x_shape) < 0.03] = np.inf
        x[rng.random(x_shape) < 0.03] = -np.inf
    size = out_size(x_shape[2:], w_shape[2:], geometry)
    gy = rng.integers(-3, 4, (x_shape[0], w_shape[0], *(n // pool for n in size)))
    return x, w.astype(dtype), b.astype(dtype), gy.astype(dtype)


@FAST
@given(
    shapes(2, symmetric=True, most_channels=15),  # Winograd would round
    st.sampled_from("fd"),
    st.sampled_from([1, 2]),
    st.integers(0, 99),
    st.booleans(),
    st.booleans(),
)
def test_one_operation_is_three(shapes, dtype, pool, seed, spoil, many_threads):
    """conv2d_relu is max_pool2d of relu of conv2d to the last bit, also at ties, dead windows, NaN and infinities."""
    stride, padding, dilation, groups = shapes[2]
    *arrays, gy = whole(*shapes, pool, dtype, seed, spoil)
    geometry = stride, tuple(before for before, _ in padding), dilation, groups

    def three(x, w, b):
        y = md.relu(md.conv2d(x, w, b, *geometry))
        return y if pool == 1 else md.max_pool2d(y, 2)

    results = []
    for kernels in ("generic", "fast"):
        with md.use_kernels(kernels), pieces(10, many_threads):
            one = gradients(lambda x, w, b: md.conv2d_relu(x, w, b, *geometry, pool=pool), arrays, gy)
            for name, a, e in zip(NAMES, one, gradients(three, arrays, gy)):
                np.testing.assert_array_equal(a, e, err_msg=f"{name}, {kernels}")
            results.append(one)
    for name, a, e in zip(NAMES, *results):
        np.testing.assert_array_equal(a, e, err_msg=name)


@pytest.mark.parametrize("kernels", ["generic", "fast"])
def test_ties_and_dead_windows(kernels):
    """The first of equal maxima takes the gradient; a window with nothing above zero passes none; a NaN wins, the last one."""
    nan, inf = np.nan, np.inf
    cases = [
        ([[1, 3], [3, 3]], 3, [[0, 1], [0, 0]]),
        ([[2, 2], [2, 2]], 2, [[1, 0], [0, 0]]),
        ([[-1, -2], [-3, -4]], 0, [[0, 0], [0, 0]]),
        ([[0, -2], [0, -4]], 0, [[0, 0], [0, 0]]),
        ([[-inf, -inf], [-inf, -inf]], 0, [[0, 0], [0, 0]]),
        ([[-inf, 1], [-inf, inf]], inf, [[0, 0], [0, 1]]),
        ([[inf, inf], [1, 2]], inf, [[1, 0], [0, 0]]),
        ([[nan, 5], [inf, 7]], nan, [[1, 0], [0, 0]]),
        ([[1, nan], [nan, 7]], nan, [[0, 0], [1, 0]]),
        ([[-1, -1], [-1, nan]], nan, [[0, 0], [0, 1]]),
    ]
    x = np.array([[image] for image, *_ in cases], np.float32)
    with md.use_kernels(kernels):
        image = md.tensor(x, requires_grad=True)
        y = md.conv2d_relu(image, md.ones(1, 1, 1, 1), pool=2)
        y.sum().backward()
    np.testing.assert_array_equal(y.numpy().reshape(-1), np.array([best for _, best, _ in cases], np.float32))
    np.testing.assert_array_equal(image.grad.numpy()[:, 0], np.array([g for *_, g in cases]))


@pytest.mark.parametrize("kernels", [generic, cpu], ids=["generic", "cpu"])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_only_needed_gradients(kernels, pool, groups):
    """What is not needed is None, what is needed is the same; the input is read for the weights' gradient only."""
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), groups
    x, w, b, gy = normal((2, 4, 5, 6), (4, 4 // groups, 3, 3), geometry, np.float64, pool)
    _, kept = kernels.conv2d_relu_forward(x, w, b, *geometry, pool)
    rest = w, (5, 6), (5, 6), *geometry, pool
    want = kernels.conv2d_relu_backward(gy, kept, x, *rest, ALL)
    for needs in np.ndindex(2, 2, 2):
        needs = tuple(map(bool, needs))
        got = kernels.conv2d_relu_backward(gy, kept, x if needs[1] else None, *rest, needs)
        assert [g is not None for g in got] == list(needs)
        for a, e in zip(got, want):
            if a is not None:
                np.testing.assert_allclose(a, e, rtol=1e-13, atol=1e-13)


def test_what_is_kept_passes_between_packages():
    """Forward by one package and backward by the other: no step remembers who ran before it."""
    geometry = (1, 1), ((1, 0), (0, 1)), (1, 1), 1
    for pool in (1, 2):
        *arrays, gy = whole((2, 3, 6, 7), (5, 3, 2, 2), geometry, pool, "f", 0, False)
        x, w, _ = arrays
        results = []
        for forward, backward in ((generic, cpu), (cpu, generic)):
            y, kept = forward.conv2d_relu_forward(*arrays, *geometry, pool)
            results.append((y, kept, *backward.conv2d_relu_backward(gy, kept, x, w, (6, 7), (6, 7), *geometry, pool, ALL)))
        for a, e in zip(*results):
            np.testing.assert_array_equal(a, e)


def test_selection_knows_what_follows():
    """Outputs that no pooling window sees cost nothing, so that pooling may make another algorithm pay."""
    shape = (128, 32, 7, 7), (32, 32, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, np.dtype("f")
    assert [cpu.conv2d_algorithms(*shape, follows)[0] for follows in (PLAIN, RELU, POOL)] == ["direct", "direct", "winograd4"]
