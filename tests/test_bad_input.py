"""What people do wrong: each mistake gets one line with operation, module path, what was expected and what came."""

import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import minidl as md
from minidl import nn, optim

FORM = re.compile(r"^[\w .\[\]]+: expected .+, got .+\.", re.DOTALL)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 4, 3)))
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x):
        return self.head(md.flatten(self.features(x), 1))


def image(*shape):
    return md.tensor(np.zeros(shape, np.float32))


MISTAKES = {
    "channels": (lambda: Net()(image(2, 1, 8, 8)), md.ShapeError, ["conv2d", "features.0", "(2, 1, 8, 8)", "3"]),
    "no batch axis": (lambda: nn.BatchNorm2d(3)(image(3, 8, 8)), md.ShapeError, ["BatchNorm2d", "(N, C, H, W)", "(3, 8, 8)"]),
    "image size": (lambda: Net()(image(2, 3, 12, 12)), md.ShapeError, ["linear", "head", "64", "256", "in_features=256"]),
    "kernel too large": (lambda: Net()(image(2, 3, 4, 4)), md.ShapeError, ["conv2d", "features.2.0", "2", "3"]),
    "negative padding": (lambda: nn.Conv2d(1, 1, 3, padding=-1), md.ArgumentError, ["padding", "-1"]),
    "negative padding, functional": (
        lambda: md.conv2d(image(1, 1, 5, 5), image(1, 1, 3, 3), padding=-1),
        md.ArgumentError,
        ["conv2d", "padding", "-1"],
    ),
    "label out of range": (
        lambda: md.cross_entropy(image(4, 3), md.tensor([0, 1, 7, 2])),
        md.ArgumentError,
        ["cross_entropy", "0 to 2", "7", "(2,)"],
    ),
    "negative label": (lambda: md.cross_entropy(image(2, 3), md.tensor([0, -1])), md.ArgumentError, ["cross_entropy", "-1"]),
    "float labels": (
        lambda: md.cross_entropy(image(2, 3), md.tensor([0.0, 1.0])),
        md.DtypeError,
        ["cross_entropy", "float32", "int64"],
    ),
    "integer logits": (
        lambda: md.cross_entropy(md.tensor([[1, 2]]), md.tensor([0])),
        md.DtypeError,
        ["cross_entropy", "int64"],
    ),
    "integer image": (
        lambda: md.conv2d(np.zeros((1, 1, 5, 5), np.uint8), image(1, 1, 3, 3)),
        md.DtypeError,
        ["conv2d", "uint8"],
    ),
    "object array": (lambda: md.tensor(np.array([1, "a"], dtype=object)), md.DtypeError, ["tensor", "object"]),
    "ragged list": (lambda: md.tensor([[1, 2], [3]]), md.DtypeError, ["tensor"]),
    "text": (lambda: md.relu("no"), md.DtypeError, ["relu", "'no'"]),
    "mixed dtypes": (
        lambda: nn.Linear(3, 2)(md.zeros(1, 3, dtype="float64")),
        md.DtypeError,
        ["linear", "Linear", "float64", "float32"],
    ),
    "backward of many": (lambda: md.ones(3, requires_grad=True).exp().backward(), md.GraphError, ["backward", "(3,)"]),
    "backward of nothing": (lambda: md.ones(1).backward(), md.GraphError, ["backward", "requires_grad"]),
    "backward shape": (
        lambda: md.ones(3, requires_grad=True).exp().backward(np.ones(2)),
        md.ShapeError,
        ["backward", "(3,)", "(2,)"],
    ),
    "integer gradient": (lambda: md.tensor([1, 2], requires_grad=True), md.DtypeError, ["requires_grad", "int64"]),
    "duplicate parameters": (lambda: (lambda p: optim.SGD([p, p], lr=0.1))(md.Parameter([1.0])), md.ArgumentError, ["SGD"]),
    "no parameters": (lambda: optim.SGD([], lr=0.1), md.ArgumentError, ["SGD"]),
    "negative rate": (lambda: optim.Adam([md.Parameter([1.0])], lr=-1), md.ArgumentError, ["Adam", "lr", "-1"]),
    "missing keys": (lambda: Net().load_state_dict({}), md.ArgumentError, ["features.0.weight", "missing"]),
    "wrong shape of a key": (
        lambda: nn.Linear(2, 2).load_state_dict({"weight": np.zeros((3, 2)), "bias": np.zeros(2)}),
        md.ShapeError,
        ["weight", "(2, 2)", "(3, 2)"],
    ),
}


@pytest.mark.parametrize(("call", "error", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert FORM.match(message), message
    for word in words:
        assert word in message, message


def test_errors_are_the_builtin_kinds():
    assert issubclass(md.ShapeError, ValueError)
    assert issubclass(md.ArgumentError, ValueError)
    assert issubclass(md.DtypeError, TypeError)
    assert issubclass(md.DeviceError, RuntimeError)
    assert issubclass(md.GraphError, RuntimeError)


def test_mixed_devices_name_the_arguments():
    class OnGpu:  # what a CuPy array shows before any kernel runs
        shape, ndim, size, dtype, device = (2,), 1, 2, np.dtype(np.float32), SimpleNamespace(id=0)

    x, y = md.ones(2), md.Tensor.wrap(OnGpu())
    with pytest.raises(
        md.DeviceError, match=r"multiply: expected all tensors on one device, got argument 0 on cpu, argument 1 on cuda:0"
    ):
        md.multiply(x, y)


def test_no_gpu_is_one_clear_message():
    pytest.importorskip("numpy")
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(md.DeviceError, match=r"expected CuPy for device 'cuda'.*minidl\[cuda12\]"):
            md.ones(2).to("cuda")


def test_unknown_device():
    with pytest.raises(md.ArgumentError, match="'cpu', 'cuda' or 'cuda:N', got 'tpu'"):
        md.tensor([1.0], device="tpu")


def test_second_backward():
    x = md.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(md.GraphError, match="earlier backward"):
        y.backward()
    z = (x * x).sum()
    z.backward(retain_graph=True)
    z.backward()
    np.testing.assert_allclose(x.grad.numpy(), [6.0, 12.0])


def test_optimizer_step_between_forward_and_backward():
    """The graph keeps the values it was computed with, so the gradient is still that of the loss that was computed."""
    layer = nn.Linear(3, 2, rng=0)
    sgd = optim.SGD(layer.parameters(), lr=0.1)
    x = md.ones(4, 3, requires_grad=True)
    layer(x).sum().backward()
    weights = layer.weight.numpy().copy()
    loss = layer(x).sum()
    sgd.step()
    assert not np.array_equal(layer.weight.numpy(), weights)
    x.zero_grad()
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.tile(weights.sum(0), (4, 1)), rtol=1e-6)


def test_the_source_array_cannot_reach_the_graph():
    a = np.ones(3)
    x = md.tensor(a, requires_grad=True)
    y = (x * x).sum()
    a[:] = 100
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2, 2])
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 1
    with pytest.raises(TypeError, match="where"):
        x[0] = 1


def test_empty_batch_goes_through_a_network():
    net = Net()
    x = md.tensor(np.zeros((0, 3, 8, 8), np.float32), requires_grad=True)
    y = net(x)
    assert y.shape == (0, 10)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not net.head.weight.grad.numpy().any()
    assert np.isnan(md.cross_entropy(y, md.tensor(np.zeros(0, np.int64))).item())


def test_nan_propagates():
    x = np.ones((1, 3, 8, 8), np.float32)
    x[0, 1, 2, 3] = np.nan
    net = Net()
    y = net(md.tensor(x))
    assert np.isnan(y.numpy()).all()
    loss = md.cross_entropy(y, md.tensor([3]))
    assert np.isnan(loss.item())
    loss.backward()


def test_two_threads_train_without_meeting():
    """Grad mode and module paths belong to the thread; kernels survive two callers."""
    failures = []

    def work(seed):
        try:
            net = Net()
            for i in range(5):
                x = md.tensor(np.random.default_rng(seed).standard_normal((4, 3, 8, 8)).astype(np.float32))
                if i % 2:
                    with md.no_grad():
                        assert not net(x).requires_grad
                else:
                    y = net(x)
                    assert y.grad_fn.path == "head"
                    md.cross_entropy(y, md.tensor([0, 1, 2, 3])).backward()
        except BaseException as error:  # reported below, in the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
