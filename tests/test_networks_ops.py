"""Network operations where a sample and an oracle do not reach: extremes, precision, randomness, state, choices at kinks."""

import math

import numpy as np
import pytest

import minidl as md
from minidl.kernels import generic

KERNELS = pytest.mark.parametrize("kernels", ["generic", "fast"])
KINDS = ["relu", "leaky_relu", "elu", "gelu", "silu", "hardswish", "sigmoid", "tanh", "softplus"]


def leaf(values, dtype=np.float32):
    return md.Tensor(np.asarray(values, dtype), requires_grad=True)


def gradient(function, values, dtype=np.float64):
    """The gradient of the sum of function(values)."""
    x = leaf(values, dtype)
    y = function(x)
    y.backward(np.ones(y.shape, dtype))
    return x.grad.numpy()


def ulps(got, exact):
    """Largest error in units in the last place of float32."""
    return np.max(np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64))


erf = np.vectorize(math.erf)

# ---------------------------------------------------------------- choices at kinks and NaN


@KERNELS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_passes_the_gradient_of_nan(kernels, dtype):
    with md.use_kernels(kernels):
        x = leaf([math.nan, -1.0, 0.0, -0.0, 2.0, math.inf, -math.inf], dtype)
        md.relu(x).backward(np.arange(1.0, 8.0))
    assert x.grad.tolist() == [1, 0, 0, 0, 5, 6, 0]


# ---------------------------------------------------------------- widths of the register tile


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("groups", "CG", "OG"),
    [(1, 3, 16), (1, 17, 33), (2, 4, 4), (2, 8, 8), (2, 3, 32), (2, 17, 16), (4, 1, 2), (4, 8, 4), (8, 1, 2), (16, 1, 1)],
)
def test_convolutions_of_many_channels_agree_with_the_textbook(dtype, groups, CG, OG):
    """Channel counts at and beside the width of one vector and of several, split into groups."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, groups * CG, 7, 6)).astype(dtype)
    w, w_back = (rng.standard_normal((groups * a, b, 3, 2)).astype(dtype) for a, b in ((OG, CG), (CG, OG)))
    bound = 1e-4 if dtype == "float32" else 1e-11
    for function, weight in ((md.conv2d, w), (md.conv_transpose2d, w_back)):
        for stride in (1, 2):
            results = []
            for kernels in ("generic", "fast"):
                with md.use_kernels(kernels):
                    leaves = [leaf(a, dtype) for a in (x, weight, np.ones(groups * OG))]
                    y = function(*leaves, stride=stride, padding=1, groups=groups)
                    y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
                    results.append([y.numpy(), *(t.grad.numpy() for t in leaves)])
            for expected, got in zip(*results):
                np.testing.assert_allclose(got, expected, rtol=bound, atol=bound * np.abs(expected).max())


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("name", "exact", "low", "high", "limit"),
    [
        ("exp", np.exp, -103.0, 88.7, 1.5),
        ("expm1", np.expm1, -20.0, 20.0, 2.5),
        ("expm1", np.expm1, -1e-3, 1e-3, 2.5),
        ("tanh", np.tanh, -12.0, 12.0, 3.0),
        ("tanh", np.tanh, -1e-3, 1e-3, 3.0),
        ("erf", erf, -5.0, 5.0, 4.0),
        ("erf", erf, -1e-3, 1e-3, 4.0),
        ("log1p_unit", np.log1p, 0.0, 1.0, 3.0),
    ],
)
def test_compiled_float32_functions(name, exact, low, high, limit):
    """The float32 polynomials stay within a few units in the last place, also as plain Python."""
    pytest.importorskip("numba")
    from minidl.kernels.cpu import _math

    x = np.linspace(low, high, 3001).astype(np.float32)
    with np.errstate(all="ignore"):
        y = np.array([getattr(_math, name)(v) for v in x], np.float32)
    assert ulps(y, exact(x.astype(np.float64))) < limit


def test_compiled_functions_at_the_ends():
    pytest.importorskip("numba")
    from minidl.kernels.cpu import _math

    ends = [np.float32(v) for v in (np.nan, np.inf, -np.inf, -0.0)]
    with np.errstate(all="ignore"):
        for name in ("exp", "expm1", "tanh", "erf"):
            single = [getattr(_math, name)(v) for v in ends]
            double = [getattr(_math, name)(np.float64(v)) for v in ends]
            np.testing.assert_array_equal(single, double, err_msg=name)


def test_generic_erf():
    """Cody's approximations are exact to rounding in all three regions."""
    x = np.concatenate([np.linspace(-7, 7, 10001), [0.46875, 4.0, 1e-300, np.inf, -np.inf]])
    np.testing.assert_allclose(generic.activation.erf(x), erf(x), rtol=1e-15, atol=0)
    x = x[:-3].astype(np.float32)
    np.testing.assert_allclose(generic.activation.erf(x), erf(x), rtol=5e-7)


@KERNELS
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_float32(kernels, approximate):
    x = np.linspace(-12, 12, 20001)
    with md.use_kernels(kernels):
        y = md.gelu(x.astype(np.float32), approximate).numpy()
        g = gradient(lambda t: md.gelu(t, approximate), x, np.float32)
        exact, slope = md.gelu(x, approximate).numpy(), gradient(lambda t: md.gelu(t, approximate), x)
    np.testing.assert_allclose(y, exact, atol=1e-6)
    np.testing.assert_allclose(g, slope, atol=2e-6)


@KERNELS
@pytest.mark.parametrize("shape", [(64, 16, 8, 9), (300, 301)])
def test_large_arrays(kernels, shape):
    """Arrays large enough for several threads give what small pieces of them give."""
    rng = np.random.default_rng(0)
    x = np.moveaxis(rng.standard_normal((shape[0], *shape[2:], shape[1])).astype(np.float32), -1, 1)  # channels last
    g = rng.standard_normal(shape).astype(np.float32)
    with md.use_kernels(kernels):
        for function in (md.gelu, lambda t: md.softmax(t, 1), lambda t: md.group_norm(t, 1 if len(shape) == 2 else 4)):
            t = leaf(x)
            y = function(t)
            y.backward(g)
            for n in (0, 1, shape[0] - 1):
                part = leaf(x[n : n + 1])
                z = function(part)
                z.backward(g[n : n + 1])
                np.testing.assert_allclose(y.numpy()[n : n + 1], z.numpy(), atol=1e-5)
                np.testing.assert_allclose(t.grad.numpy()[n : n + 1], part.grad.numpy(), atol=1e-5)


def test_large_batch_norm_and_cross_entropy():
    """The threaded kernels agree with the textbook."""
    rng = np.random.default_rng(0)
    x = np.moveaxis(3 + rng.standard_normal((16, 24, 24, 10)).astype(np.float32), -1, 1)
    g, w, b = rng.standard_normal(x.shape), rng.uniform(0.5, 2, 10), rng.standard_normal(10)
    labels = rng.integers(0, 10, (16, 24, 24))
    labels[:, ::5] = -100
    results = []
    for kernels in ("generic", "fast"):
        with md.use_kernels(kernels):
            leaves = [leaf(a) for a in (x, w, b)]
            y = md.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
            y.backward(g)
            scores = leaf(x)
            loss = md.cross_entropy(scores, labels, weight=w, label_smoothing=0.1)
            loss.backward()
            results.append([y.numpy(), *(t.grad.numpy() for t in leaves), loss.numpy(), scores.grad.numpy()])
    for a, e in zip(*results):
        np.testing.assert_allclose(e, a, rtol=2e-4, atol=2e-5)


# ---------------------------------------------------------------- extremes


@KERNELS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_large_numbers(kernels, dtype):
    with md.use_kernels(kernels):
        x = np.array([[1e4, 1e4, 0.0, -1e4]], dtype)
        np.testing.assert_array_equal(md.softmax(x).numpy(), [[0.5, 0.5, 0, 0]])
        np.testing.assert_allclose(
            md.log_softmax(x).numpy(), [[-math.log(2), -math.log(2), -1e4 - math.log(2), -2e4 - math.log(2)]], rtol=1e-6
        )
        loss = md.cross_entropy(x, np.array([1]))
        np.testing.assert_allclose(loss.numpy(), math.log(2), rtol=1e-6)
        np.testing.assert_allclose(gradient(lambda t: md.cross_entropy(t, np.array([1])), x, dtype), [[0.5, -0.5, 0, 0]])
        assert np.isfinite(md.softmax(np.array([3e38, -3e38], dtype)).numpy()).all()


@KERNELS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_softmax_of_nan(kernels, bad):
    """One NaN (or infinity) makes its row NaN and leaves the others alone."""
    for place in range(7):
        x = np.ones((2, 7))
        x[0, place] = bad
        with md.use_kernels(kernels):
            for y in (md.softmax(x).numpy(), md.log_softmax(x).numpy()):
                assert np.isnan(y[0]).any()
                assert np.isfinite(y[1]).all()
            assert np.isnan(md.cross_entropy(x, np.array([3, 3]), reduction="none").numpy()).tolist() == [True, False]


@KERNELS
@pytest.mark.parametrize("name", KINDS)
def test_activations_keep_nan_and_survive_extremes(kernels, name):
    with md.use_kernels(kernels):
        for dtype in (np.float32, np.float64):
            y = getattr(md, name)(np.array([np.nan, 1e30, -1e30, 1000, -1000], dtype)).numpy()
            assert np.isnan(y[0])
            assert np.isfinite(y[1:]).all()
            assert np.isfinite(gradient(getattr(md, name), [1000.0, -1000.0, 0.0], dtype)).all()


@KERNELS
def test_sigmoid_and_logits_at_a_thousand(kernels):
    with md.use_kernels(kernels):
        x = np.array([1000.0, -1000.0, 1000.0, -1000.0])
        t = np.array([0.0, 1.0, 1.0, 0.0])
        np.testing.assert_array_equal(md.sigmoid(x).numpy(), [1, 0, 1, 0])
        loss = md.binary_cross_entropy_with_logits(x, t, reduction="none")
        np.testing.assert_array_equal(loss.numpy(), [1000, 1000, 0, 0])
        g = gradient(lambda s: md.binary_cross_entropy_with_logits(s, t, reduction="sum"), x)
        np.testing.assert_array_equal(g, [1, -1, 0, 0])
        p = md.binary_cross_entropy(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0]), reduction="none")
        np.testing.assert_array_equal(p.numpy(), [0, 0, 100, 100])


@KERNELS
def test_softplus_threshold(kernels):
    """Above the threshold x itself, just below the logarithm; beta scales both."""
    with md.use_kernels(kernels):
        x = np.array([0.9, 1.1, 21.0, 1e4, -1e4])
        y = md.softplus(x, beta=2.0, threshold=2.0).numpy()
        np.testing.assert_allclose(y, [math.log1p(math.exp(1.8)) / 2, 1.1, 21, 1e4, 0], rtol=1e-15)
        np.testing.assert_allclose(md.softplus(x).numpy()[2:], [21, 1e4, 0])


@KERNELS
def test_empty_batches(kernels):
    """The mean of nothing is NaN and its sum 0, without a warning; the gradients are empty."""
    with md.use_kernels(kernels):
        for loss in (
            lambda x, r: md.cross_entropy(x, np.zeros(0, int), reduction=r),
            lambda x, r: md.mse_loss(x, np.zeros((0, 3)), r),
            lambda x, r: md.focal_loss(x, np.zeros((0, 3)), reduction=r),
        ):
            assert np.isnan(loss(md.zeros(0, 3, dtype="float64"), "mean").item())
            assert loss(md.zeros(0, 3, dtype="float64"), "sum").item() == 0
            assert gradient(lambda x, loss=loss: loss(x, "mean"), np.zeros((0, 3))).shape == (0, 3)


# ---------------------------------------------------------------- choices at kinks


@KERNELS
def test_choices_where_no_derivative_exists(kernels):
    with md.use_kernels(kernels):
        assert gradient(md.relu, [0.0, -0.0]).tolist() == [0, 0]
        assert gradient(lambda x: md.leaky_relu(x, 0.25), [0.0]).tolist() == [0.25]
        assert gradient(lambda x: md.elu(x, 0.5), [0.0]).tolist() == [0.5]
        assert gradient(md.hardswish, [-3.0, 3.0]).tolist() == [0, 1]
        assert gradient(lambda x: md.l1_loss(x, np.zeros(1)), [0.0]).tolist() == [0]
        assert gradient(lambda x: md.huber_loss(x, np.zeros(2), "sum", 0.5), [0.5, -0.5]).tolist() == [0.5, -0.5]
        assert gradient(lambda x: md.smooth_l1_loss(x, np.zeros(2), "sum", 0.5), [0.5, -0.5]).tolist() == [1, -1]


# ---------------------------------------------------------------- cross-entropy


@KERNELS
def test_worked_example(kernels):
    """y = [1, 0], p = [0.8, 0.2]: the loss is -log 0.8 = 0.2231 and its gradient (p - y) / n."""
    p, y = np.array([[0.8, 0.2]]), np.array([[1.0, 0.0]])
    with md.use_kernels(kernels):
        for target in (np.array([0]), y):
            assert round(md.cross_entropy(np.log(p), target).item(), 4) == 0.2231
            np.testing.assert_allclose(gradient(lambda x, t=target: md.cross_entropy(x, t), np.log(p)), p - y)


@KERNELS
def test_gradient_is_p_minus_y_over_n(kernels):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    with md.use_kernels(kernels):
        expected = (md.softmax(x).numpy() - np.eye(4)[labels]) / 6
        np.testing.assert_allclose(gradient(lambda t: md.cross_entropy(t, labels), x), expected, atol=1e-15)


@KERNELS
def test_ignored_rows(kernels):
    """They count in nothing, even when their scores are NaN; without any other row the mean is NaN."""
    x = np.array([[1.0, 2.0], [np.nan, np.nan], [0.5, 0.0]])
    kept = [0, 2]
    with md.use_kernels(kernels):
        labels = np.array([1, -100, 0])
        assert md.cross_entropy(x, labels).item() == pytest.approx(md.cross_entropy(x[kept], labels[kept]).item())
        g = gradient(lambda t: md.cross_entropy(t, labels), x)
        assert g[1].tolist() == [0, 0]
        assert np.isfinite(g).all()
        assert np.isnan(md.cross_entropy(x, np.full(3, -100)).item())
        assert gradient(lambda t: md.cross_entropy(t, np.full(3, -100)), x).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_label_dtypes(dtype):
    labels = md.tensor(np.array([2, 0, 1], dtype))
    x = np.random.default_rng(0).standard_normal((3, 3))
    assert md.cross_entropy(x, labels).item() == md.cross_entropy(x, labels.astype("int64")).item()


def test_cross_entropy_is_nll_of_log_softmax():
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
    labels = np.random.default_rng(1).integers(0, 5, (2, 3, 4))
    a = md.cross_entropy(x, labels, reduction="none").numpy()
    np.testing.assert_allclose(md.nll_loss(md.log_softmax(x, 1), labels, reduction="none").numpy(), a)


def test_class_weights_take_the_dtype_of_the_scores():
    x = md.randn(4, 3)
    loss = md.cross_entropy(x, np.array([0, 1, 2, 0]), weight=[1.0, 2.0, 3.0])
    assert loss.dtype == np.float32


def test_smoothing_in_two_ways():
    """Smoothed labels are smoothed one-hot probabilities."""
    x, labels = np.random.default_rng(0).standard_normal((4, 3)), np.array([0, 2, 1, 1])
    a = md.cross_entropy(x, labels, label_smoothing=0.3).item()
    b = md.cross_entropy(x, np.eye(3)[labels], label_smoothing=0.3).item()
    c = md.cross_entropy(x, 0.7 * np.eye(3)[labels] + 0.1).item()
    assert a == pytest.approx(b)
    assert a == pytest.approx(c)


# ---------------------------------------------------------------- dropout


def test_dropout_statistics():
    """A share p of the elements becomes 0; the rest is scaled so that the mean stays."""
    x = md.ones(200_000)
    for p in (0.1, 0.5, 0.9):
        y = md.dropout(x, p, rng=0).numpy()
        assert abs((y == 0).mean() - p) < 5 * math.sqrt(p * (1 - p) / y.size)
        np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)
        assert y.mean() == pytest.approx(1, abs=0.02)


def test_dropout_randomness():
    """A seed gives the same mask, a generator moves on, minidl's own follows manual_seed."""
    x = md.ones(4, 50)
    a = md.dropout(x, rng=7).numpy()
    np.testing.assert_array_equal(a, md.dropout(x, rng=7).numpy())
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(a, md.dropout(x, rng=rng).numpy())
    assert (a != md.dropout(x, rng=rng).numpy()).any()
    md.manual_seed(7)
    np.testing.assert_array_equal(a, md.dropout(x).numpy())


def test_dropout_gradient_uses_the_same_mask():
    x = leaf(np.ones((5, 40)))
    y = md.dropout(x, 0.3, rng=1)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_switched_off():
    x = leaf(np.ones((3, 4, 2)))
    for dropout in (md.dropout, md.dropout2d):
        assert dropout(x, 0.5, training=False) is x
        assert dropout(x, 0) is x
        assert not dropout(x, 1.0, rng=0).numpy().any()


def test_dropout2d_drops_whole_channels():
    y = md.dropout2d(md.ones(40, 30, 3, 4), 0.25, rng=0).numpy()
    assert set(np.unique(y).tolist()) == {0.0, np.float32(1 / 0.75).item()}
    assert (y == y[:, :, :1, :1]).all()
    assert abs((y[:, :, 0, 0] == 0).mean() - 0.25) < 0.07


# ---------------------------------------------------------------- batch norm and its state


@KERNELS
@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_running_statistics_step_by_step(kernels, momentum):
    """running = (1 - momentum) * running + momentum * batch, with the unbiased variance."""
    rng = np.random.default_rng(0)
    mean, var = md.zeros(3, dtype="float64"), md.ones(3, dtype="float64")
    m, v = np.zeros(3), np.ones(3)
    with md.use_kernels(kernels):
        for _ in range(3):
            x = rng.standard_normal((4, 3, 5)) * 2 + 1
            md.batch_norm(x, mean, var, training=True, momentum=momentum)
            m = (1 - momentum) * m + momentum * x.mean((0, 2))
            v = (1 - momentum) * v + momentum * x.var((0, 2), ddof=1)
            np.testing.assert_allclose(mean.numpy(), m)
            np.testing.assert_allclose(var.numpy(), v)
        y = md.batch_norm(x, mean, var).numpy()
        np.testing.assert_allclose(y, (x - m[:, None]) / np.sqrt(v[:, None] + 1e-5))
        np.testing.assert_allclose(mean.numpy(), m, err_msg="evaluation must not write")


@KERNELS
def test_running_statistics_of_instance_norm(kernels):
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 2))
    mean, var = md.zeros(3, dtype="float64"), md.ones(3, dtype="float64")
    with md.use_kernels(kernels):
        md.instance_norm(x, mean, var, momentum=0.2)
    np.testing.assert_allclose(mean.numpy(), 0.2 * x.mean((2, 3)).mean(0))
    np.testing.assert_allclose(var.numpy(), 0.8 + 0.2 * x.var((2, 3), ddof=1).mean(0))


@KERNELS
def test_evaluation_keeps_its_statistics_for_backward(kernels):
    """A training step between forward and backward overwrites the running statistics, not the gradient."""
    mean, var = md.zeros(2, dtype="float64"), md.full((2,), 4.0, dtype="float64")
    with md.use_kernels(kernels):
        x = leaf(np.random.default_rng(0).standard_normal((5, 2)), np.float64)
        y = md.batch_norm(x, mean, var)
        md.batch_norm(np.random.default_rng(1).standard_normal((5, 2)), mean, var, training=True, momentum=1.0)
        y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 1 / math.sqrt(4 + 1e-5))


def test_empty_batch_leaves_running_statistics():
    mean, var = md.zeros(2), md.ones(2)
    assert md.batch_norm(md.zeros(0, 2, 3), mean, var, training=True).shape == (0, 2, 3)
    assert md.instance_norm(md.zeros(0, 2, 3), mean, var).shape == (0, 2, 3)
    assert mean.numpy().tolist() == [0, 0]
    assert var.numpy().tolist() == [1, 1]


@KERNELS
def test_large_mean(kernels):
    """Normalisation does not suffer from a mean of a million standard deviations."""
    x = 1e6 + np.random.default_rng(0).standard_normal((50, 4, 3))
    with md.use_kernels(kernels):
        for norm in (lambda t: md.batch_norm(t, training=True), lambda t: md.layer_norm(t, 3), lambda t: md.group_norm(t, 2)):
            np.testing.assert_allclose(norm(x).numpy(), norm(x - 1e6).numpy(), atol=1e-8)
            np.testing.assert_allclose(
                gradient(lambda t, f=norm: f(t) ** 2, x), gradient(lambda t, f=norm: f(t) ** 2, x - 1e6), atol=1e-6
            )


def test_memory_order_is_kept():
    """Channels-last images stay channels-last, also on the way back."""
    rng = np.random.default_rng(0)
    x = np.moveaxis(rng.standard_normal((2, 4, 5, 6)), -1, 1)
    for layout in (x, np.ascontiguousarray(x)):
        for function in (
            lambda t: md.batch_norm(t, training=True),
            lambda t: md.group_norm(t, 2),
            md.instance_norm,
            md.gelu,
            md.relu,
        ):
            t = md.Tensor.wrap(layout)
            t.requires_grad = True
            y = function(t)
            y.backward(layout)
            assert y.numpy().strides == layout.strides
            assert t.grad.numpy().strides == layout.strides


# ---------------------------------------------------------------- embedding, linear, attention


def test_embedding_gradient_adds_up_and_skips_padding():
    index = np.array([[1, 3, 1], [4, 1, 3]])
    g = np.arange(12.0).reshape(2, 3, 2)
    expected = np.zeros((5, 2))
    for place in np.ndindex(index.shape):
        expected[index[place]] += g[place]
    for padding_idx in (None, 3, -2):
        w = leaf(np.ones((5, 2)), np.float64)
        md.embedding(index, w, padding_idx).backward(g)
        if padding_idx is not None:
            expected[3] = 0
        np.testing.assert_array_equal(w.grad.numpy(), expected)


def test_linear_says_which_size_fits():
    with pytest.raises(md.ShapeError) as error:
        md.linear(md.zeros(32, 5), md.zeros(7, 3))
    assert str(error.value) == "linear: expected x with 3 features (last axis), got shape (32, 5). Use in_features=5."


def test_causal_attention_is_a_triangular_mask():
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4, 3))
    mask = np.tril(np.ones((4, 4), bool))
    causal = md.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()
    np.testing.assert_allclose(causal, md.scaled_dot_product_attention(q, k, v, mask).numpy())
    np.testing.assert_allclose(causal, md.scaled_dot_product_attention(q, k, v, np.where(mask, 0.0, -np.inf)).numpy())


def test_query_that_sees_nothing():
    """It gives 0 and its gradient is 0; nothing becomes NaN."""
    q, k, v = (leaf(a, np.float64) for a in np.random.default_rng(0).standard_normal((3, 3, 2)))
    y = md.scaled_dot_product_attention(q, k, v, np.array([[True] * 3, [False] * 3, [True] * 3]))
    assert y.numpy()[1].tolist() == [0, 0]
    y.sum().backward()
    assert q.grad.numpy()[1].tolist() == [0, 0]
    for t in (q, k, v):
        assert np.isfinite(t.grad.numpy()).all()


def test_attention_mask_gets_a_gradient():
    rng = np.random.default_rng(0)
    q, k, v, mask = (rng.standard_normal(s) for s in ((2, 3, 4), (2, 5, 4), (2, 5, 4), (3, 5)))
    assert md.gradcheck(lambda *a: md.scaled_dot_product_attention(*a), (q, k, v, mask))
