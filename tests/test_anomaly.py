"""The first bad number is found where it begins, and explained."""

import re
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import DtypeError, nn
from minidl.anomaly import NonFiniteError, detect_anomaly
from minidl.context import state

NAN, INF = float("nan"), float("inf")


def found(function, **options):
    with pytest.raises(NonFiniteError) as caught, detect_anomaly(**options):
        function()
    return caught.value


def leaf(*values):
    return md.tensor(list(values), requires_grad=True)


@pytest.mark.parametrize(
    ("function", "op", "index", "value", "cause"),
    [
        (lambda: md.log(md.tensor([[1.0, 0.0]])), "log", (0, 1), -INF, "log of 0"),
        (lambda: md.log(md.tensor([1.0, -2.0])), "log", (1,), NAN, r"negative number \(-2\)"),
        (lambda: md.log1p(md.tensor([-1.0])), "log1p", (0,), -INF, "log1p of -1"),
        (lambda: md.ones(2, 3) / md.tensor([1.0, 0.0, 2.0]), "divide", (0, 1), INF, "division of 1 by 0"),
        (lambda: md.zeros(2) / md.zeros(2), "divide", (0,), NAN, "division of 0 by 0"),
        (lambda: md.reciprocal(md.zeros(2)), "reciprocal", (0,), INF, "division by 0"),
        (lambda: md.sqrt(md.tensor([4.0, -1.0])), "sqrt", (1,), NAN, r"square root of a negative number \(-1\)"),
        (lambda: md.tensor([2.0, -1.0]) ** 0.5, "power", (1,), NAN, "to the power 0.5, which is not an integer"),
        (lambda: md.tensor([0.0]) ** -1.0, "power", (0,), INF, "0 to the negative power"),
        (lambda: md.exp(md.tensor([1.0, 100.0])), "exp", (1,), INF, r"exp\(100\) overflows: float32 ends at 88.7"),
        (lambda: md.full((2, 2), 1e30) @ md.full((2, 2), 1e30), "matmul", (0, 0), INF, "learning rate"),
        (lambda: md.full((2,), 3e38) + md.full((2,), 3e38), "add", (0,), INF, "as large as 3e"),
    ],
)
def test_forward(function, op, index, value, cause):
    error = found(function)
    assert (error.op, error.phase, error.index, error.path) == (op, "forward", index, "")
    assert error.value == value or (np.isnan(error.value) and np.isnan(value))
    assert re.search(cause, error.cause)
    assert str(error).startswith(f"{op} (forward): expected finite numbers, got ")


@pytest.mark.parametrize(
    ("function", "op", "index", "cause"),
    [
        (lambda: md.sqrt(leaf(4.0, 0.0)).sum().backward(), "sqrt", (1,), "derivative of sqrt at 0"),
        (lambda: (leaf(0.0, 1.0) ** 0.5).sum().backward(), "power", (0,), "power of 0"),
        (lambda: (1 / leaf(1.0, 1e-30)).sum().backward(), "divide", (1,), "division by"),
    ],
)
def test_backward(function, op, index, cause):
    error = found(function)
    assert (error.op, error.phase, error.index) == (op, "backward", index)
    assert cause in error.cause
    assert error.operands["gradient of the result"] == "1"


def test_a_gradient_that_overflows():
    x = leaf(1.0, 2.0)
    error = found(lambda: (x * 1e30).backward(md.tensor([1.0, 1e30])))
    assert (error.op, error.phase, error.index) == ("multiply", "backward", (1,))
    assert "Gradients exploded" in error.cause
    assert "1e+30" in error.cause


def test_operands_at_the_place():
    error = found(lambda: md.tensor([[1.0, 2.0], [3.0, 4.0]]) / md.tensor([5.0, 0.0]))
    assert error.index == (0, 1)
    assert error.operands == {"x": "2", "y": "0 at (1,)"}
    product = found(lambda: md.full((2, 3), 1e30) @ md.full((3, 2), 1e30)).operands["x"]
    assert product == "float32 of shape (2, 3), 1e+30 to 1e+30"


def test_the_line_that_called():
    def spoil(x):
        return md.log(x - 1.0)  # this line

    error = found(lambda: spoil(md.ones(2)))
    file, line, code = error.source
    assert Path(file).samefile(__file__)
    assert code == "return md.log(x - 1.0)  # this line"
    assert f"called at {file}:{line}: {code}" in str(error)


def test_the_line_of_the_forward_is_named_in_backward():
    x = leaf(0.0)
    with detect_anomaly():
        y = md.sqrt(x)  # the root
        with pytest.raises(NonFiniteError) as caught:
            y.backward(md.ones(1))
    assert caught.value.source[2] == "y = md.sqrt(x)  # the root"
    assert "its forward was called at" in str(caught.value)


def test_the_module_is_named_and_layers_stay_fused():
    model = nn.Sequential(nn.Linear(2, 2, rng=0), nn.ReLU(), nn.Sequential(nn.Linear(2, 2, rng=1), nn.ReLU()))
    model[2][0].weight.data = np.full((2, 2), 3e38, np.float32)
    model[0].weight.data = np.ones((2, 2), np.float32)
    error = found(lambda: model(md.full((1, 2), 10.0)))
    assert (error.op, error.path, error.index) == ("linear_relu", "2.0", (0, 0))
    assert "linear_relu [2.0] (forward)" in str(error)


def test_bad_data_is_told_from_a_bad_operation():
    x = np.ones((4, 3), np.float32)
    x[2, 1] = NAN
    error = found(lambda: nn.Linear(3, 2, rng=0)(md.tensor(x)))
    assert error.index == (2, 1)
    assert np.isnan(error.value)
    assert "its input x already holds nan at index (2, 1) (1 of 12 is not finite)" in str(error)
    assert "bad data" in error.cause


def test_a_spoiled_parameter():
    layer = nn.Linear(3, 2, rng=0)
    layer.weight.data = np.full((2, 3), NAN, np.float32)
    error = found(lambda: layer(md.ones(1, 3)))
    assert "its parameter w already holds nan" in str(error)
    assert "learning rate" in error.cause


def test_what_was_computed_before_the_block():
    y = md.log(leaf(0.0))
    error = found(lambda: y * 2.0)
    assert "a result of <log>, already holds -inf" in str(error)
    assert "before the block" in error.cause


def test_a_bad_gradient_from_outside():
    x = leaf(1.0, 2.0)
    error = found(lambda: (x * 2.0).backward(md.tensor([1.0, NAN])))
    assert (error.op, error.phase, error.index) == ("multiply", "backward", (1,))
    assert "the gradient of its result already holds nan" in str(error)


def test_training_that_diverges_is_stopped():
    model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.Linear(8, 1, rng=1))
    optimizer = md.optim.SGD(model.parameters(), lr=1e6)
    x, target = md.randn(16, 4, rng=0), md.randn(16, 1, rng=1)

    def train():
        for _ in range(100):
            optimizer.zero_grad()
            md.mse_loss(model(x), target).backward()
            optimizer.step()

    error = found(train)
    assert "learning rate" in error.cause


@pytest.mark.parametrize(
    "function",
    [
        lambda: md.isnan(md.tensor([NAN, 1.0])),
        lambda: md.where(md.tensor([True, False]), md.ones(2), md.tensor([NAN, 1.0])),
        lambda: md.full((4,), 3e38) * 1.0,  # the sum of these overflows, they do not
        lambda: md.tensor([1, 2]) + 1,
        lambda: md.zeros(0, 3) * 2.0,
        lambda: md.sqrt(leaf(4.0, 1.0)).sum().backward(),
    ],
)
def test_what_is_well_passes(function):
    with detect_anomaly():
        function()


def test_infinities_may_pass():
    def masked():
        scores = md.where(md.tensor([True, False]), md.ones(2), -INF)
        return md.softmax(scores, axis=0)

    assert found(masked).value == -INF
    with detect_anomaly(infinite=False):
        assert masked().tolist() == [1.0, 0.0]
    error = found(lambda: md.tensor([INF]) - md.tensor([INF]), infinite=False)
    assert error.op == "subtract"
    assert np.isnan(error.value)


def test_gradients_that_nobody_needs_are_not_judged():
    x = md.zeros(2)  # its gradient would be infinite
    w = leaf(1.0, 1.0)
    with detect_anomaly():
        (md.sqrt(x) * w).sum().backward()
    assert w.grad.tolist() == [0.0, 0.0]


def test_it_is_off_outside_of_the_block():
    found(lambda: md.log(md.zeros(1)))
    assert state.observer is None
    assert md.log(md.zeros(1)).tolist() == [-INF]


def test_on_a_gpu(emulated):
    error = found(lambda: md.log(md.tensor([1.0, 0.0], device="cuda")))
    assert (error.index, error.operands) == ((1,), {"x": "0"})


def test_it_is_a_floating_point_error_and_refuses_other_arguments():
    assert issubclass(NonFiniteError, FloatingPointError)
    with pytest.raises(DtypeError, match="expected infinite as True or False, got 1"), detect_anomaly(infinite=1):
        pass


def test_inputs_without_a_name_of_their_own_are_counted():
    norm = nn.BatchNorm1d(2)
    norm.weight.data = np.array([1.0, NAN], np.float32)
    error = found(lambda: nn.Sequential(norm)(md.randn(4, 2, rng=0)))
    assert (error.op, error.path, error.index) == ("batch_norm", "0", (1,))
    assert re.search(r"its parameter (\w+|argument \d) already holds nan", str(error))
