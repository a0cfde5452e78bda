"""capture: a recorded step gives what the step itself gives. On a GPU, or else on the stand-in for CuPy."""

import numpy as np
import pytest
from conftest import HAS_GPU

import minidl as md
from minidl import backend, nn, optim

pytestmark = pytest.mark.cuda


@pytest.fixture
def gpu_device(request):
    if not HAS_GPU:
        request.getfixturevalue("emulated")
    return "cuda"


def steps(device, captured, optimizer="Adam", dropout=0.0, clip=None, count=6):
    """Losses and weights of some training steps, and the optimizer's learning rate changing on the way."""
    md.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, bias=False, rng=0), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout, rng=5)]
    model = nn.Sequential(*layers, nn.Linear(64, 8, rng=1), nn.ReLU(), nn.Linear(8, 3, rng=2)).to(device)
    rule = getattr(optim, optimizer)(model.parameters(), lr=0.05)
    loss_of = nn.CrossEntropyLoss()

    def step(x, t):
        rule.zero_grad()
        loss = loss_of(model(x), t)
        loss.backward()
        if clip is not None:
            optim.clip_grad_norm(model.parameters(), clip)
        rule.step()
        return loss

    run = md.capture(step) if captured else step
    rng, losses = np.random.default_rng(0), []
    for i in range(count):
        x = md.Tensor(rng.standard_normal((5, 2, 6, 6)).astype(np.float32), device=device)
        t = md.Tensor(rng.integers(0, 3, 5), device=device)
        rule.param_groups[0]["lr"] = 0.05 / (i + 1)
        losses.append(run(x, t).item())
    if captured:
        assert run.recorded
    return losses, {name: np.array(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "RMSprop"])
def test_replays_are_the_steps(gpu_device, optimizer):
    """Also the running statistics, the number of batches, the learning rate of each step and the order of the steps."""
    losses, weights = steps(gpu_device, False, optimizer)
    replayed, recorded = steps(gpu_device, True, optimizer)
    assert len(set(losses)) == len(losses)
    np.testing.assert_allclose(replayed, losses, rtol=2e-5)
    for name, value in weights.items():
        np.testing.assert_allclose(recorded[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert recorded["1.num_batches_tracked"] == 6


def test_every_replay_draws_its_own_masks(gpu_device):
    losses, _ = steps(gpu_device, False, dropout=0.5)
    replayed, _ = steps(gpu_device, True, dropout=0.5)
    np.testing.assert_allclose(replayed, losses, rtol=2e-5)


def test_clipping_is_recorded(gpu_device):
    """The norm stays on the GPU; the same steps as without a recording, and as on the CPU."""
    losses, weights = steps(gpu_device, False, "SGD", clip=0.3)
    replayed, recorded = steps(gpu_device, True, "SGD", clip=0.3)
    plain, _ = steps("cpu", False, "SGD", clip=0.3)
    free, _ = steps("cpu", False, "SGD")
    np.testing.assert_allclose(replayed, losses, rtol=2e-5)
    np.testing.assert_allclose(replayed, plain, rtol=1e-4)
    assert abs(free[-1] - plain[-1]) > 5e-3
    for name, value in weights.items():
        np.testing.assert_allclose(recorded[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def small(device):
    model = nn.Linear(4, 2, rng=0).to(device)
    rule = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        rule.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        rule.step()
        return loss

    return model, rule, step


def test_inputs_must_be_as_recorded(gpu_device):
    _, _, step = small(gpu_device)
    run = md.capture(step)
    x = md.ones(3, 4, device=gpu_device)
    for _ in range(4):
        run(x)
    with pytest.raises(
        md.ArgumentError, match=r"input 0 as recorded, float32 of shape \(3, 4\), got float32 of shape \(2, 4\)"
    ):
        run(md.ones(2, 4, device=gpu_device))
    with pytest.raises(md.ArgumentError, match="capture: expected 1 inputs, as when it was recorded, got 2"):
        run(x, x)
    with pytest.raises(md.ArgumentError, match="got list"):
        run([1.0])
    run(np.ones((3, 4), np.float32))  # from the host
    run.forget()
    assert not run.recorded
    assert run(md.ones(2, 4, device=gpu_device)).shape == ()


def test_gradients_may_be_forgotten_between_replays(gpu_device):
    model, rule, step = small(gpu_device)
    twin, _, apart = small(gpu_device)
    run = md.capture(step)
    x = md.ones(3, 4, device=gpu_device)
    for _ in range(6):
        run(x)
        rule.zero_grad()
        apart(x)
    np.testing.assert_allclose(model.weight.numpy(), twin.weight.numpy(), rtol=1e-5)


def test_a_step_that_waits_is_refused_and_leaves_nothing(gpu_device):
    model, _, step = small(gpu_device)
    run = md.capture(lambda x: step(x).item())
    x = md.ones(3, 4, device=gpu_device)
    run(x), run(x)
    with pytest.raises(md.GraphError, match="capture: expected a step that never waits for the GPU"):
        run(x)
    assert not run.recorded
    assert md.context.state.recorder is None
    step(x)
    assert np.isfinite(model.weight.numpy()).all()


def test_a_product_by_cublas_is_refused(gpu_device):
    run = md.capture(lambda x: md.Tensor.wrap(x._array @ x._array))
    x = md.ones(3, 3, device=gpu_device)
    run(x), run(x)
    with pytest.raises(md.GraphError, match=r"a step of kernels that CuPy can record, got calling cuBLAS .* of tensors"):
        run(x)


PRODUCTS = {
    "attention": lambda x: md.scaled_dot_product_attention(x, x + 1, x * 2),
    "causal attention": lambda x: md.scaled_dot_product_attention(x, x + 1, x * 2, is_causal=True),
    "masked attention": lambda x: md.scaled_dot_product_attention(x, x + 1, x * 2, x[..., :3] > 0.5),
    "batch": lambda x: x @ x.swapaxes(-1, -2),
    "broadcast": lambda x: x @ x[0, 0].T,
    "vector": lambda x: (x @ x[0, 0, 0]) + (x[0, 0, :, 0] @ x).sum(-1, keepdims=True),
    "einsum": lambda x: md.einsum("abij,acij->abc", x, x),
    "none": lambda x: x[..., :0] @ x[..., :0, :],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_recorded(gpu_device, name):
    """Values and gradients as without a recording, where cuBLAS computes them."""

    def step(x):
        x = x.detach().requires_grad_()
        y = PRODUCTS[name](x)
        (y * y).sum().backward()
        return y, x.grad

    run = md.capture(step)
    for seed in range(5):
        x = md.Tensor(np.random.default_rng(seed).standard_normal((2, 2, 3, 4)).astype(np.float32), device=gpu_device)
        for recorded, expected in zip(run(x), step(x)):
            np.testing.assert_allclose(recorded.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert run.recorded


class WordModel(nn.Module):
    """A transformer of one block."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 8, rng=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, rng=1)
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 7, rng=2)

    def forward(self, words):
        x = self.embedding(words)
        return self.linear(self.norm(x + self.attention(x, x, x, is_causal=True)[0]))


def test_a_transformer_is_recorded(gpu_device):
    """Words, attention, layer norm; and words that do not exist: NaN, since nobody looks at them on a GPU."""
    model = WordModel().to(gpu_device)
    rule = optim.SGD(model.parameters(), lr=0.5)

    def step(words, next_words):
        rule.zero_grad()
        loss = md.cross_entropy(model(words).swapaxes(1, 2), next_words)
        loss.backward()
        rule.step()
        return loss

    run = md.capture(step)
    words = md.Tensor(np.random.default_rng(0).integers(0, 7, (3, 5)), device=gpu_device)
    losses = [run(words, words).item() for _ in range(8)]
    assert run.recorded
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2
    assert np.isnan(run(words + 100, words).item())


def test_images_from_the_host_keep_their_memory_order(gpu_device):
    layer = nn.Conv2d(2, 3, 3, rng=0).to(gpu_device)
    run = md.capture(lambda x: layer(x))
    rng = np.random.default_rng(0)
    for _ in range(5):
        images = rng.standard_normal((2, 5, 5, 2)).astype(np.float32).transpose(0, 3, 1, 2)
        expected = layer(md.Tensor(images, device=gpu_device)).numpy()
        np.testing.assert_allclose(run(md.Tensor(images, device=gpu_device)).numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(images).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_errors_within_the_step_stay_what_they_are(gpu_device):
    calls = []

    def step(x):
        calls.append(x)
        if len(calls) > 2:
            raise KeyError("mine")
        return x * 2

    run = md.capture(step)
    for _ in range(2):
        run(md.ones(2, device=gpu_device))
    with pytest.raises(KeyError, match="mine"):
        run(md.ones(2, device=gpu_device))


def test_on_the_cpu_there_is_nothing_to_capture(gpu_device):
    _, _, step = small("cpu")
    run = md.capture(step)
    x = md.ones(3, 4)
    run(x), run(x)
    with pytest.raises(md.DeviceError, match="capture: expected a step on an NVIDIA GPU, got a tensor on the CPU"):
        run(x)
    with pytest.raises(md.ArgumentError, match="capture: expected a function, got 3"):
        md.capture(3)


def test_nothing_waits_and_little_is_sent_in_a_replay(gpu_device):
    if hasattr(backend.cupy(), "counts"):
        counts = backend.cupy().counts
        _, _, step = small(gpu_device)
        run = md.capture(step)
        x = md.ones(3, 4, device=gpu_device)
        for _ in range(4):
            run(x)
        before = counts.downloads
        run(x)
        assert counts.downloads == before
