"""All that is not a kernel, on device arrays: networks, optimizers, errors, and that nobody waits for the GPU in between."""

import copy
import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cuda_emulator import stand_in

import minidl as md
from minidl import backend, nn

pytestmark = pytest.mark.cuda

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.standard_normal((4, 1, 8, 8)).astype(np.float32), RNG.integers(0, 3, 4)


def small_cnn():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False, rng=0), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, rng=1), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3, rng=2)),
    )


def steps(device, optimizer, count=3):
    """Losses and parameters of a few training steps."""
    model = small_cnn().to(device)
    update = optimizer(model.parameters())
    x, t = md.tensor(IMAGES, device=device), md.tensor(LABELS, device=device)
    losses = []
    for i in range(count):
        if i == count - 1:
            stand_in.counts.clear()
        update.zero_grad()
        loss = md.cross_entropy(model(x), t)
        loss.backward()
        update.step()
        losses.append(loss.detach())
    waits = stand_in.counts.downloads
    return [loss.item() for loss in losses], model.state_dict(), waits, model


OPTIMIZERS = {
    "SGD": lambda p: md.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "AdamW": lambda p: md.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: md.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: md.optim.Adagrad(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_the_cpu(on_gpu, optimizer):
    """The same losses and weights; no value is fetched in a step."""
    expected, weights, _, _ = steps("cpu", OPTIMIZERS[optimizer])
    losses, others, waits, model = steps("cuda", OPTIMIZERS[optimizer])
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for name in weights:
        np.testing.assert_allclose(others[name], weights[name], rtol=2e-3, atol=2e-4, err_msg=name)
    assert waits == 0
    assert {p.device for p in model.parameters()} == {"cuda:0"}


def test_two_runs_give_the_same_bits(on_gpu):
    (a, x, _, _), (b, y, _, _) = (steps("cuda", OPTIMIZERS["SGD"]) for _ in range(2))
    assert a == b
    assert all(np.array_equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: md.mse_loss(x, y),
        lambda x, y: md.smooth_l1_loss(x, y),
        lambda x, y: md.binary_cross_entropy_with_logits(x, y),
        lambda x, y: md.binary_cross_entropy(md.sigmoid(x), y),
        lambda x, y: md.nll_loss(md.log_softmax(x, 1), (y[:, 0] * 0).astype("int64")),
        lambda x, y: md.cross_entropy(x, md.softmax(y, 1), label_smoothing=0.1),
        lambda x, y: md.dropout(x, 0.5).sum() + md.where(x > 0, x, y).max(1).sum(),
    ],
)
def test_losses_do_not_wait(on_gpu, loss):
    x = md.tensor(RNG.standard_normal((4, 3)), device="cuda", requires_grad=True)
    y = md.tensor(RNG.uniform(size=(4, 3)), device="cuda")
    stand_in.counts.clear()
    loss(x, y).backward()
    assert (stand_in.counts.downloads, stand_in.counts.uploads) == (0, 0)
    assert x.grad.device == "cuda:0"


def test_label_out_of_range_is_nan(on_gpu):
    x = md.tensor(np.zeros((2, 3)), device="cuda", requires_grad=True)
    loss = md.cross_entropy(x, md.tensor([0, 3], device="cuda"), reduction="none")
    np.testing.assert_array_equal(np.isnan(loss.numpy()), [False, True])


def test_models_move_and_are_copied(on_gpu):
    model, x = small_cnn().eval(), md.tensor(IMAGES)
    expected = model(x).numpy()
    moved = model.to("cuda")
    for other in (moved, copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))):
        y = other(x.to("cuda"))
        assert y.device == "cuda:0"
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-5)
    state = moved.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    fresh = small_cnn().eval().to("cuda")
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(fresh(x.to("cuda")).numpy(), moved(x.to("cuda")).numpy())
    np.testing.assert_allclose(moved.to("cpu")(x).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_channels_last_stays_channels_last(on_gpu):
    y = nn.Conv2d(1, 4, 3, rng=0).to("cuda")(md.tensor(IMAGES, device="cuda"))
    assert y._array.transpose(0, 2, 3, 1).flags.c_contiguous


ORDERS = [
    np.arange(120.0),
    np.arange(120.0).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2),
    np.zeros((3, 2)).T,
    np.ones(()),
    np.zeros((2, 0, 3)).T,
]


@pytest.mark.parametrize("x", [*ORDERS, np.arange(24.0).reshape(4, 6)[::2, ::-3]], ids=lambda x: str(x.shape))
def test_memory_order_is_kept_both_ways(on_gpu, x):
    """CuPy by itself makes C order of all that comes from the host but Fortran order."""
    there = backend.to_device(x, "cuda")
    back = backend.to_numpy(there)
    np.testing.assert_array_equal(back, x)
    assert there.dtype == back.dtype == x.dtype
    if x.flags.forc or x.ndim == 4:
        assert (there.strides, back.strides) == (x.strides, x.strides)
    backend.overwrite(there, np.ascontiguousarray(x).reshape(x.shape) + 1)
    np.testing.assert_array_equal(there.get(), x + 1)


def test_what_cupy_refuses(on_gpu):
    """The stand-in does, too."""
    channels_last = backend.to_device(ORDERS[1], "cuda")
    with pytest.raises(RuntimeError, match="Cannot set to non-contiguous array"):
        channels_last.set(ORDERS[1])
    assert on_gpu.array(ORDERS[1], order="K").flags.c_contiguous
    assert (channels_last + channels_last).flags.c_contiguous
    assert on_gpu.empty_like(channels_last).strides == channels_last.strides
    stream = on_gpu.cuda.Stream(non_blocking=True)
    x = on_gpu.ones((2, 2), np.float32)
    _ = x @ x  # the handle of cuBLAS
    with stream:
        stream.begin_capture()
        with pytest.raises(NotImplementedError, match="calling cuBLAS API during stream capture"):
            _ = x @ x
        stream.end_capture()


def test_gradients_add_up_over_uses_and_calls(on_gpu):
    x = md.tensor(np.arange(3.0), device="cuda", requires_grad=True)
    (x * x + x).sum().backward()
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.arange(3.0) + 4)


def test_tensors_show_and_convert(on_gpu):
    x = md.ones(2, device="cuda")
    assert repr(x) == "tensor([1., 1.], device='cuda:0')"
    np.testing.assert_array_equal(np.asarray(x), [1, 1])
    assert x.tolist() == [1.0, 1.0]
    y = (x * 2).to("cpu")
    assert (y.device, y.tolist()) == ("cpu", [2.0, 2.0])


# ---------------------------------------------------------------- several GPUs


def test_second_gpu(emulated):
    model = nn.Sequential(nn.Linear(64, 8, rng=0), nn.ReLU(), nn.Linear(8, 3, rng=1)).to("cuda:1")
    update = md.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, t = md.tensor(IMAGES.reshape(4, 64), device="cuda:1"), md.tensor(LABELS, device="cuda:1")
    for _ in range(2):
        update.zero_grad()
        loss = md.cross_entropy(model(x), t)
        loss.backward()
        update.step()
    assert {loss.device, *(p.device for p in model.parameters()), *(p.grad.device for p in model.parameters())} == {"cuda:1"}
    assert emulated.cuda.runtime.getDevice() == 0


def test_images_move_between_gpus(emulated):
    x = backend.to_device(ORDERS[1], "cuda")
    there = backend.to_device(x, "cuda:1")
    assert (backend.device_of(there), there.strides) == ("cuda:1", x.strides)
    np.testing.assert_array_equal(backend.to_numpy(there), ORDERS[1])


def test_gradient_crosses_devices(emulated):
    x = md.tensor([1.0, 2.0], device="cuda:0", requires_grad=True)
    ((x * 3).to("cuda:1") * 2).to("cpu").sum().backward()
    assert (x.grad.device, x.grad.tolist()) == ("cuda:0", [6.0, 6.0])


def test_mixed_gpus(emulated):
    with pytest.raises(
        md.DeviceError, match=r"multiply: expected all tensors on one device, got argument 0 on cuda:0, argument 1 on cuda:1"
    ):
        md.multiply(md.ones(2, device="cuda"), md.ones(2, device="cuda:1"))
    with pytest.raises(
        md.DeviceError, match=r"add: expected all tensors on one device, got argument 0 on cuda:0, argument 1 on cpu"
    ):
        md.ones(2, device="cuda") + md.ones(2)
    with pytest.raises(md.DeviceError, match=r"at most 2 GPU\(s\), got 'cuda:5'"):
        md.ones(2, device="cuda:5")


# ---------------------------------------------------------------- what is missing


def test_full_memory_says_how_much_there_is(emulated):
    x = md.ones(256, 1, device="cuda")
    emulated.get_default_memory_pool().set_limit(size=1 << 17)
    with pytest.raises(MemoryError, match=r"allocating 262,144 bytes") as caught:
        md.relu(x + md.ones(1, 256, device="cuda"))
    assert "GiB free" in caught.value.__notes__[-1]
    with pytest.raises(MemoryError) as caught:
        md.ones(256, 256, device="cuda")
    assert "GiB free" in caught.value.__notes__[-1]


def _with_cupy(monkeypatch, error=None, count=1):
    class CUDARuntimeError(RuntimeError):
        pass

    def get_device_count():
        if error:
            raise CUDARuntimeError(error)
        return count

    fake = ModuleType("cupy")
    fake.cuda = SimpleNamespace(runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=get_device_count))
    monkeypatch.setitem(sys.modules, "cupy", fake)


@pytest.mark.parametrize(
    ("error", "count", "message"),
    [
        (
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient",
            1,
            "device: expected an NVIDIA GPU with its driver, got cudaErrorInsufficientDriver.*Use device='cpu'",
        ),
        (None, 0, "expected an NVIDIA GPU, got none visible. Check CUDA_VISIBLE_DEVICES"),
    ],
)
def test_no_gpu(monkeypatch, error, count, message):
    _with_cupy(monkeypatch, error, count)
    with pytest.raises(md.DeviceError, match=message):
        md.ones(2, device="cuda")


def test_two_cupys(monkeypatch):
    _with_cupy(monkeypatch)
    names = ["numpy", "cupy-cuda12x", "cupy_cuda13x", "cupy-xarray"]
    monkeypatch.setattr(backend.metadata, "distributions", lambda: [SimpleNamespace(metadata={"Name": name}) for name in names])
    with pytest.raises(
        md.DeviceError,
        match=r"expected one CuPy package, got 2: cupy-cuda12x, cupy-cuda13x.*pip uninstall cupy-cuda12x cupy-cuda13x",
    ):
        md.ones(2, device="cuda")


def test_library_that_does_not_load(monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "cupy":
                raise ImportError("a page of advice") from OSError("libcudart.so.12: cannot open")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(
        md.DeviceError, match=r"expected CuPy for device 'cuda', got OSError: libcudart.so.12: cannot open. Install minidl"
    ):
        md.ones(2, device="cuda")
