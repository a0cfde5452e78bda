"""Convolution, pooling and resizing over drawn geometry: kernels against their definition, and the identities between them."""

import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minidl as md
from minidl import memory
from minidl.kernels import generic
from minidl.kernels.generic import conv as generic_conv, conv2d_loops, conv_size
from minidl.ops.pool import _adaptive_windows, _mean_windows, _windows
from minidl.registry import OPS

signal = pytest.importorskip("scipy.signal")

try:
    from minidl.kernels import cpu
    from minidl.kernels.cpu import _direct, _jit

    PACKAGES = [generic, cpu]
except ImportError:  # no Numba
    PACKAGES = [generic]

FAST = settings(max_examples=50, deadline=None, derandomize=True)
FEW = settings(max_examples=25, deadline=None, derandomize=True)
LAYOUTS = ["C", "channels_last", "strided", "reversed"]


def laid_out(a, layout):
    """The same values in another memory order."""
    if layout == "channels_last" and a.ndim == 4:
        return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "strided":
        return np.repeat(a, 2, -1)[..., ::2]
    if layout == "reversed":
        return a[..., ::-1].copy()[..., ::-1]
    return a


@contextmanager
def small_blocks(block_bytes, parallel):
    """Make the kernels cut their work as they do for large images, and share it between threads."""
    outer = generic_conv.BLOCK_BYTES
    generic_conv.BLOCK_BYTES = block_bytes
    if len(PACKAGES) == 2:
        pixels, least = _direct.PIECE_PIXELS, _jit.PARALLEL_MIN
        _direct.PIECE_PIXELS = min(block_bytes // 100 + 1, pixels)
        _jit.PARALLEL_MIN = 1 if parallel else least
    try:
        yield
    finally:
        generic_conv.BLOCK_BYTES = outer
        if len(PACKAGES) == 2:
            _direct.PIECE_PIXELS, _jit.PARALLEL_MIN = pixels, least


@st.composite
def convolutions(draw):
    """(x, w, b, geometry as the kernels take it) with small sizes."""
    size = st.integers(1, 3)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    CG, OG = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]))  # (1, 1) is depthwise when groups is more than 1
    kernel, stride, dilation = ((draw(size), draw(size)) for _ in range(3))
    if draw(st.integers(0, 4)) == 0:
        kernel = stride = (1, 1)
    side = st.integers(0, 2)
    padding = ((draw(side), draw(side)), (draw(side), draw(side))) if draw(st.booleans()) else ((0, 0), (0, 0))
    image = []
    for axis in (0, 1):
        least = max(1, dilation[axis] * (kernel[axis] - 1) + 1 - sum(padding[axis]))
        image.append(draw(st.integers(least, least + 4)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = laid_out(
        rng.standard_normal((draw(st.sampled_from([2, 1, 2, 0])), groups * CG, *image)), draw(st.sampled_from(LAYOUTS))
    )
    w = laid_out(rng.standard_normal((groups * OG, CG, *kernel)), draw(st.sampled_from(LAYOUTS)))
    return x, w, rng.standard_normal(groups * OG), (stride, padding, dilation, groups)


def loops_gradient(gy, x, w, stride, padding, dilation, groups):
    """gx and gw by the loops of the definition: each product w x of y passes gy on to both of its factors."""
    gx, gw = np.zeros(x.shape), np.zeros(w.shape)
    for n, o, oh, ow in np.ndindex(gy.shape):
        for c, kh, kw in np.ndindex(w.shape[1:]):
            ih, iw = oh * stride[0] + kh * dilation[0] - padding[0][0], ow * stride[1] + kw * dilation[1] - padding[1][0]
            channel = o // (len(w) // groups) * w.shape[1] + c
            if 0 <= ih < x.shape[2] and 0 <= iw < x.shape[3]:
                gx[n, channel, ih, iw] += gy[n, o, oh, ow] * w[o, c, kh, kw]
                gw[o, c, kh, kw] += gy[n, o, oh, ow] * x[n, channel, ih, iw]
    return gx, gw


@FAST
@given(convolutions(), st.sampled_from([1, 600, 1 << 22]), st.booleans())
def test_convolution_is_its_definition(case, block_bytes, parallel):
    """Forward and the three gradients of every package, whatever the block size, equal the loops."""
    x, w, b, geometry = case
    expected = conv2d_loops(x, w, b, *geometry)
    gy = laid_out(np.random.default_rng(1).standard_normal(expected.shape), "strided" if parallel else "C")
    gx, gw = loops_gradient(gy, x, w, *geometry)
    for kernels in PACKAGES:
        with small_blocks(block_bytes, parallel):
            y = kernels.conv2d_forward(x, w, b, *geometry)
            gradients = kernels.conv2d_backward(gy, x, w, x.shape[2:], *geometry, (True, True, True))
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous, "activations lie channels-last"
        for got, want in zip((y, *gradients), (expected, gx, gw, gy.sum((0, 2, 3)))):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-11)


@FEW
@given(
    convolutions(), st.sampled_from([(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
)
def test_only_needed_gradients(case, needs):
    """What is not needed is None; the input is read for the weights' gradient only."""
    x, w, _, geometry = case
    shape = conv2d_loops(x, w, None, *geometry).shape
    for kernels in PACKAGES:
        gradients = kernels.conv2d_backward(np.ones(shape), x if needs[1] else None, w, x.shape[2:], *geometry, needs)
        assert [g is not None for g in gradients] == list(needs)


@FAST
@given(convolutions())
def test_im2col_and_col2im_are_transposes(case):
    """<im2col(x), c> = <x, col2im(c)>."""
    x, w, _, (stride, padding, dilation, _) = case
    padding = padding[0][0], padding[1][1]
    kernel = tuple(min(k, (n + 2 * p - 1) // d + 1) for k, n, p, d in zip(w.shape[2:], x.shape[2:], padding, dilation))
    columns = md.im2col(md.tensor(x), kernel, stride, padding, dilation)
    c = np.random.default_rng(2).standard_normal(columns.shape)
    back = md.col2im(md.tensor(c), x.shape[2:], kernel, stride, padding, dilation)
    np.testing.assert_allclose((columns.numpy() * c).sum(), (x * back.numpy()).sum(), rtol=1e-10, atol=1e-10)


@FAST
@given(convolutions(), st.data())
def test_conv_transpose_is_the_transpose_of_conv(case, data):
    """<conv2d(x), y> = <x, conv_transpose2d(y)>, with the output_padding that leads back to the size of x."""
    x, w, _, (stride, _, dilation, groups) = case
    kernel = w.shape[2:]
    padding = tuple(data.draw(st.integers(0, 2)) for _ in kernel)
    sizes = [conv_size(n, k, s, (p, p), d) for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation)]
    if min(sizes) < 1:
        return
    y = md.conv2d(md.tensor(x), md.tensor(w), None, stride, padding, dilation, groups)
    assert y.shape[2:] == tuple(sizes)
    extra = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, k, s, p, d in zip(x.shape[2:], sizes, kernel, stride, padding, dilation)
    ]
    v = np.random.default_rng(3).standard_normal(y.shape)
    back = md.conv_transpose2d(md.tensor(v), md.tensor(w), None, stride, padding, extra, groups, dilation)
    assert back.shape == x.shape
    np.testing.assert_allclose((y.numpy() * v).sum(), (x * back.numpy()).sum(), rtol=1e-10, atol=1e-10)


@FEW
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5))
def test_convolution_is_cross_correlation(KH, KW, more_rows, more_columns):
    """scipy.signal.correlate2d is conv2d; scipy.signal.convolve2d is conv2d with the kernel flipped along both axes."""
    rng = np.random.default_rng(KH * 10 + KW)
    image, kernel = rng.standard_normal((KH + more_rows, KW + more_columns)), rng.standard_normal((KH, KW))
    y = md.conv2d(md.tensor(image[None, None]), md.tensor(kernel[None, None]))
    np.testing.assert_allclose(y.numpy()[0, 0], signal.correlate2d(image, kernel, "valid"), atol=1e-12)
    flipped = kernel[::-1, ::-1]
    y = md.conv2d(md.tensor(image[None, None]), md.tensor(flipped[None, None]))
    np.testing.assert_allclose(y.numpy()[0, 0], signal.convolve2d(image, kernel, "valid"), atol=1e-12)


def test_flipped_kernel_example():
    """A one in the image paints the kernel for a convolution, and the kernel upside down for a cross-correlation."""
    image = np.zeros((3, 3))
    image[1, 1] = 1
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    y = md.conv2d(md.tensor(image[None, None]), md.tensor(kernel[None, None]))
    assert y.tolist() == [[[[4.0, 3.0], [2.0, 1.0]]]]
    assert signal.convolve2d(image, kernel, "valid").tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), 1), ((2, 4), 1), ((2, 3), (3, 2)), ((1, 2), 1)])
def test_same_padding_keeps_the_size_and_pads_more_at_the_end(kernel, dilation):
    """'same' equals explicit zeros: half of them before the image, the odd one after it."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 2, 5, 6)), rng.standard_normal((3, 2, *kernel))
    y = md.conv2d(md.tensor(x), md.tensor(w), padding="same", dilation=dilation)
    total = [d * (k - 1) for k, d in zip(kernel, np.broadcast_to(dilation, 2))]
    padded = np.pad(x, ((0, 0), (0, 0), *((t // 2, t - t // 2) for t in total)))
    assert y.shape == (1, 3, 5, 6)
    np.testing.assert_allclose(y.numpy(), md.conv2d(md.tensor(padded), md.tensor(w), dilation=dilation).numpy(), atol=1e-12)


def pool_windows(size, taps):
    """Per window, the positions it sees, from a table."""
    assert taps.size == size
    return [list(taps.index[o, : taps.count[o]]) for o in range(len(taps.count))]


@st.composite
def poolings(draw):
    """(x, rows, columns): an image and the window tables of both axes, regular or adaptive."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.integers(
        -3, 4, (draw(st.sampled_from([1, 2, 0])), draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    )
    x = x.astype(np.float64)  # many ties
    if draw(st.integers(0, 2)) == 0:
        x[rng.random(x.shape) < 0.2] = draw(st.sampled_from([np.nan, -np.inf, np.inf]))
    tables = []
    for size in x.shape[2:]:
        if draw(st.booleans()):
            tables.append(_adaptive_windows(size, draw(st.integers(1, 9))))
            continue
        kernel = draw(st.integers(1, 4))
        padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 2))
        if dilation * (kernel - 1) + 1 > size + 2 * padding:
            kernel, padding, dilation = 1, 0, 1
        tables.append(_windows(size, kernel, draw(st.integers(1, 3)), padding, dilation, draw(st.booleans())))
    return laid_out(x, draw(st.sampled_from(LAYOUTS))), *tables


@FAST
@given(poolings(), st.booleans())
def test_max_pooling_is_its_definition(case, parallel):
    """The first of the largest values of each window wins, the last NaN if there is one; the gradient goes there."""
    x, rows, columns = case
    row_windows, column_windows = pool_windows(x.shape[2], rows), pool_windows(x.shape[3], columns)
    shape = (*x.shape[:2], len(row_windows), len(column_windows))
    gy = np.random.default_rng(1).standard_normal(shape)
    expected, gx = np.full(shape, -np.inf), np.zeros(x.shape)
    for n, c, i, j in np.ndindex(shape):
        seen = [(h, w) for h in row_windows[i] for w in column_windows[j]]
        if not seen:
            continue
        values = np.array([x[n, c, h, w] for h, w in seen])
        nan = np.flatnonzero(np.isnan(values))
        best = nan[-1] if len(nan) else values.argmax()
        expected[n, c, i, j] = values[best]
        gx[n, c, *seen[best]] += gy[n, c, i, j]
    for kernels in PACKAGES:
        with small_blocks(1 << 22, parallel):
            y, winner = kernels.max_pool2d_forward(x, rows, columns)
            got = kernels.max_pool2d_backward(gy, winner, rows, columns)
        assert winner.dtype == np.uint8
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_allclose(got, gx, rtol=1e-12, atol=1e-12)


@FAST
@given(poolings(), st.booleans(), st.data())
def test_resampling_is_its_definition(case, parallel, data):
    """Weighted sums along both axes, and the transposed tables give the transposed map: <Ax, y> = <x, A'y>."""
    x, rows, columns = case
    x = np.where(np.isfinite(x), x, 1.0)
    if data.draw(st.booleans()):
        rows = _mean_windows(x.shape[2], 1, data.draw(st.integers(1, 3)), 0, data.draw(st.booleans()), "padded")
    A, B = np.zeros((len(rows.count), x.shape[2])), np.zeros((len(columns.count), x.shape[3]))
    for matrix, taps in ((A, rows), (B, columns)):
        for o, k in np.ndindex(taps.index.shape):
            if k < taps.count[o]:
                matrix[o, taps.index[o, k]] += taps.value[o, k]
    expected = np.einsum("ih,nchw,jw->ncij", A, x, B)
    v = np.random.default_rng(1).standard_normal(expected.shape)
    for kernels in PACKAGES:
        with small_blocks(1 << 22, parallel):
            y = kernels.resample(laid_out(x, "strided"), rows, columns)
            back = kernels.resample(v, rows.transposed, columns.transposed)
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-11)
        assert back.shape == x.shape
        np.testing.assert_allclose((y * v).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("channels", [1, 8, 17, 64, 83])
def test_resampling_of_many_channels(channels, dtype):
    """Whole blocks of vectors and what is left of them; a NaN stays in its channel."""
    x = np.random.default_rng(0).standard_normal((2, channels, 6, 7)).astype(dtype)
    x[1, channels // 2, 4, 4] = np.nan
    tables = _mean_windows(6, 3, 2, 1, False, "inside"), _adaptive_windows(7, 3)
    expected = generic.resample(x, *tables)
    assert np.isnan(expected).any(axis=(0, 2, 3)).sum() == 1
    for kernels in PACKAGES:
        for layout in LAYOUTS:
            y = kernels.resample(laid_out(x, layout), *tables)
            assert y.dtype == x.dtype
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernels", ["generic", "fast"])
def test_indices_point_at_the_maxima(kernels):
    """return_indices: x.ravel()[index] is y, with padding, dilation, and more taps than a byte can number."""
    rng = np.random.default_rng(0)
    with md.use_kernels(kernels):
        for size, kernel, options in [
            (9, 3, {"padding": 1, "dilation": 2}),
            (20, 18, {"stride": 1}),
            (7, (1, 3), {"ceil_mode": True}),
        ]:
            x = rng.permutation(2 * size * size).reshape(1, 2, size, size).astype(np.float64)
            y, index = md.max_pool2d(md.tensor(x), kernel, return_indices=True, **options)
            picked = np.take_along_axis(x.reshape(2, -1), index.numpy().reshape(2, -1), 1)
            np.testing.assert_array_equal(picked, y.numpy().reshape(2, -1))
        y, index = md.adaptive_max_pool2d(md.tensor(x[0]), (3, 2), return_indices=True)
        np.testing.assert_array_equal(
            np.take_along_axis(x[0].reshape(2, -1), index.numpy().reshape(2, -1), 1), y.numpy().reshape(2, -1)
        )


@pytest.mark.parametrize("kernels", ["generic", "fast"])
def test_ties_and_nan_in_max_pooling(kernels):
    """A choice, and named as one: the first maximum takes the whole gradient; a NaN is never dropped."""
    with md.use_kernels(kernels):
        x = md.tensor([[[[2.0, 2.0], [1.0, 2.0]]]], requires_grad=True)
        md.max_pool2d(x, 2).sum().backward()
        assert x.grad.tolist() == [[[[1.0, 0.0], [0.0, 0.0]]]]
        assert np.isnan(md.max_pool2d(md.tensor([[[[1.0, np.nan], [3.0, 4.0]]]]), 2).item())
        assert md.max_pool2d(md.tensor([[[[-5.0]]]]), 3, 1, 1).item() == -5.0  # padding never wins


@pytest.mark.parametrize("kernels", ["generic", "fast"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_values_pass(value, kernels):
    """NaN and infinities reach the outputs that see them, and no warning escapes."""
    x = np.ones((1, 2, 6, 6))
    x[0, 0, 0, 0], x[0, 0, 0, 1] = value, -value
    weight = np.ones((4, 2, 3, 3))
    with md.use_kernels(kernels):
        for y in (
            md.conv2d(md.tensor(x), md.tensor(weight)),
            md.conv_transpose2d(md.tensor(x), md.tensor(weight.transpose(1, 0, 2, 3))),
            md.avg_pool2d(md.tensor(x), 3),
            md.interpolate(md.tensor(x), 3, mode="bilinear"),
        ):
            finite = np.isfinite(y.numpy())
            assert not finite[0, 0, 0, 0]
            assert finite[0, 0, -1, -1]


@pytest.mark.parametrize("kernels", PACKAGES)
def test_columns_are_made_in_blocks(kernels):
    """Neither direction of a convolution ever holds the columns of the whole batch."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 16, 32, 32)).astype(np.float32)
    w = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    y = kernels.conv2d_forward(x, w, None, *geometry)  # compiles
    kernels.conv2d_backward(y, x, w, (32, 32), *geometry, (True, True, True))
    all_columns = x.nbytes * 9
    with memory.no_pool():
        tracemalloc.start()
        try:
            kernels.conv2d_forward(x, w, None, *geometry)
            forward = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            kernels.conv2d_backward(y, x, w, (32, 32), *geometry, (True, True, True))
            backward = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    results = y.nbytes + x.nbytes  # y, or gx, and one copy of an input in channels-last order
    assert forward - results < all_columns / 3
    assert backward - results < all_columns / 3


def test_large_images_are_cut_into_bands():
    """One image whose columns exceed a block is worked on a band of rows at a time."""
    pieces = list(generic_conv.blocks(2, 100, 1000, limit=30_000))
    assert {images.stop - images.start for images, _ in pieces} == {1}
    assert max(rows.stop - rows.start for _, rows in pieces) == 30
    assert sum((i.stop - i.start) * (r.stop - r.start) for i, r in pieces) == 200
    pieces = list(generic_conv.blocks(7, 10, 1000, limit=30_000))
    assert [(images.start, images.stop) for images, _ in pieces] == [(0, 3), (3, 6), (6, 7)]


def test_flops_of_a_convolution():
    """2 N OH OW O (C/groups) KH KW, and one addition of the bias per output."""
    seen = []
    x, w, b = md.ones((2, 4, 5, 6)), md.ones((6, 2, 3, 3)), md.ones(6)
    with md.watch(lambda node, inputs, params, out: seen.append(OPS[node.name].flops(out, *inputs, **params))):
        md.conv2d(x, w, b, groups=2)
        md.conv2d(x, w, groups=2)
    assert seen == [2 * 2 * 3 * 4 * 6 * 2 * 9 + 2 * 6 * 3 * 4, 2 * 2 * 3 * 4 * 6 * 2 * 9]
