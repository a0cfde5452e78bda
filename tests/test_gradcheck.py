"""The checker itself: it must find wrong gradients, and must not cry wolf."""

import numpy as np
import pytest

import minidl as md
from minidl import nn


class WrongSquare(md.Function):
    """x^2 with the derivative of x^2 everywhere but at element (1, 2)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return x * x

    @staticmethod
    def backward(ctx, gy):
        (x,) = ctx.saved
        g = 2 * x * gy
        g[1, 2] *= 1.001
        return g


class Scale(nn.Module):
    def __init__(self, right):
        super().__init__()
        self.right = right
        self.w = md.Parameter(np.array([1.0, -2.0, 3.0]))

    def forward(self, x):
        return x * self.w if self.right else x * self.w.detach() + 0 * self.w


def test_names_operation_index_and_values():
    x = np.arange(1.0, 7.0).reshape(2, 3)
    report = md.gradcheck(WrongSquare.apply, x, name="wrong_square")
    assert not report
    worst = report.worst
    assert (worst.verdict, worst.where) == ("FAIL", "(1, 2)")
    assert worst.analytic == pytest.approx(worst.numeric * 1.001, rel=1e-6)
    for word in ("wrong_square", "FAILED", "x0", "(1, 2)", "numeric", "analytic"):
        assert word in str(report)


def test_directional_finds_it_too():
    x = np.random.default_rng(0).standard_normal((5, 7))
    assert not md.gradcheck(WrongSquare.apply, x, mode="directional")
    assert md.gradcheck(lambda t: t * t, x, mode="directional")


def test_large_inputs_are_checked_along_directions():
    report = md.gradcheck(lambda t: t * t, np.random.default_rng(0).standard_normal((100, 100)))
    assert report
    assert report.inputs[0].checked == 4


@pytest.mark.parametrize("mode", ["full", "directional"])
def test_small_relative_mistakes_are_found(mode):
    """A gradient wrong by one part in a thousand fails; the right one passes with error far below the tolerance."""

    class Nearly(md.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return np.sin(x)

        @staticmethod
        def backward(ctx, gy):
            return gy * np.cos(ctx.saved[0]) * 1.001

    x = np.random.default_rng(0).standard_normal((4, 5))
    assert not md.gradcheck(Nearly.apply, x, mode=mode)
    assert md.gradcheck(lambda t: (t * t).exp(), x, mode=mode).worst.error < 1e-7


def test_kink_is_named_not_failed():
    report = md.gradcheck(md.relu, [[0.0, 1.0, -1.0]])
    assert report
    assert report.inputs[0].verdict == "kink"
    assert report.inputs[0].kinks == 1
    assert "kink or tie" in str(report)


def test_tie_is_named_not_failed():
    report = md.gradcheck(lambda x: md.maximum(x, md.tensor([1.0, 5.0], dtype="float64")), [1.0, 2.0])
    assert report
    for function, x in ((lambda x: x.max(), [3.0, 3.0, 1.0]), (md.abs, [0.0, 1.0])):  # the central difference agrees there
        report = md.gradcheck(function, x)
        assert report
        assert report.inputs[0].verdict == "kink"
    assert md.gradcheck(lambda x: x * x * x, [0.0, 1.0]).inputs[0].verdict == "ok"  # curved is not bent
    assert md.gradcheck(lambda x: x * x, [0.0, 0.0]).inputs[0].verdict == "ok"


def test_kink_nearby_is_left_behind():
    assert md.gradcheck(md.relu, [3e-7, -3e-7]).inputs[0].verdict == "ok"


def test_wrong_gradient_at_a_kink_fails():
    class WrongRelu(md.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return np.maximum(x, 0)

        @staticmethod
        def backward(ctx, gy):
            return gy * np.where(ctx.saved[0] > 0, 1.0, np.where(ctx.saved[0] == 0, -3.0, 0.0))

    assert not md.gradcheck(WrongRelu.apply, [0.0, 1.0])


def test_missing_gradient_of_a_parameter_is_found():
    x = np.random.default_rng(0).standard_normal((2, 3))
    assert md.gradcheck(Scale(True), x)
    report = md.gradcheck(Scale(False), x)
    assert not report
    assert [entry.name for entry in report.inputs if entry.verdict == "FAIL"] == ["w"]


def test_module_is_left_as_it_was():
    module = Scale(True)
    before = module.w.numpy().copy()
    md.gradcheck(module, np.ones((2, 3)))
    np.testing.assert_array_equal(module.w.numpy(), before)
    assert module.w.grad is None


def test_same_seed_same_report():
    x = np.random.default_rng(0).standard_normal((100, 100))
    assert str(md.gradcheck(lambda t: t.exp(), x, seed=5)) == str(md.gradcheck(lambda t: t.exp(), x, seed=5))


def test_random_function_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(md.GraphError, match="same result twice"):
        md.gradcheck(lambda x: x * rng.standard_normal(), [1.0, 2.0])


def test_constant_function_is_refused():
    with pytest.raises(md.GraphError, match="depends on its inputs"):
        md.gradcheck(lambda x: md.tensor([1.0]), [1.0, 2.0])


def test_no_floating_input_is_refused():
    with pytest.raises(md.DtypeError, match="at least one floating input"):
        md.gradcheck(md.relu, np.array([1, 2]))


def test_nan_gradient_fails():
    class Nan(md.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1.0

        @staticmethod
        def backward(ctx, gy):
            return gy * np.nan

    assert not md.gradcheck(Nan.apply, [1.0, 2.0])


def test_infinite_values_fail_without_warnings():
    for x in ([np.inf, 1.0], [np.nan, 1.0]):
        report = md.gradcheck(lambda t: t * 2, x)
        assert not report
        assert "numeric nan" in str(report)


@pytest.mark.parametrize("result", [lambda x: {"y": x * 2}, lambda x: (x * 2, None), lambda x: 3.0])
def test_results_that_are_no_tensors_are_refused(result):
    with pytest.raises(md.DtypeError, match="gradcheck: expected a function that returns a tensor, or a list or tuple of them"):
        md.gradcheck(result, [1.0, 2.0])


def test_several_inputs_and_outputs():
    report = md.gradcheck(lambda a, b: [a * b, a.exp()], ([1.0, 2.0], [3.0, 4.0]))
    assert report
    assert [entry.name for entry in report.inputs] == ["x0", "x1"]
