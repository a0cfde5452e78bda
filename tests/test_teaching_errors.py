"""Wrong models and wrong uses: the message of each holds the smallest fix, and errors in models the shapes before them."""

import random
import re
import threading

import numpy as np
import pytest

import minidl as md
from minidl import nn, optim


def image(*shape):
    return md.tensor(np.zeros(shape, np.float32))


def conv(*args, **options):
    return nn.Conv2d(*args, rng=0, **options)


def linear(*args):
    return nn.Linear(*args, rng=0)


class Net(nn.Module):
    def __init__(self, features, flatten=True):
        super().__init__()
        self.features = nn.Sequential(conv(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = linear(features, 10)
        self.flatten = flatten

    def forward(self, x):
        x = self.features(x)
        return self.head(md.flatten(x, 1) if self.flatten else x)


class Sum(nn.Module):
    def __init__(self, *args, **options):
        super().__init__()
        self.conv = conv(*args, **options)

    def forward(self, x):
        return self.conv(x) + x


class ForgotInit(nn.Module):
    def __init__(self):
        pass

    def forward(self, x):
        return x


class ForgotInitFirst(nn.Module):
    def __init__(self):
        self.fc = linear(2, 2)


class ForgotReturn(nn.Module):
    def forward(self, x):
        md.relu(x)


def labels(*values):
    return md.tensor(np.array(values))


def backward_twice():
    loss = linear(3, 2)(image(4, 3)).sum()
    loss.backward()
    loss.backward()


def attention(**options):
    return nn.MultiheadAttention(8, 2, rng=0, **options)


CASES = {  # what is run, the error, what its message (with notes) says
    # features
    "flattened images": (lambda: Net(256)(image(2, 3, 28, 28)), md.ShapeError,
        [r"linear \[head\]", "256 features", r"\(2, 6272\)", r"in_features=6272 = 32\*14\*14", "features.2",
         r"GlobalAvgPool2d\(\).*in_features=32"]),
    "large flattened images": (lambda: Net(256)(image(1, 3, 224, 224)), md.ShapeError, [r"401408 = 32\*112\*112"]),
    "pool forgotten": (lambda: Net(32)(image(2, 3, 28, 28)), md.ShapeError, [r"6272 = 32\*14\*14: put nn.GlobalAvgPool2d"]),
    "flatten forgotten": (lambda: Net(256, False)(image(2, 3, 28, 28)), md.ShapeError,
        [r"nn\.Flatten\(\) before", r"6272 = 32\*14\*14", "in_features=6272"]),
    "flatten forgotten alone": (lambda: nn.Sequential(conv(1, 4, 3), nn.ReLU(), linear(4 * 26 * 26, 10))(image(2, 1, 28, 28)),
        md.ShapeError, [r"linear \[2\]", r"nn\.Flatten\(\) before it, .*2704 = 4\*26\*26.* of \(2, 4, 26, 26\)\.\n"]),
    "images into linear": (lambda: linear(784, 10)(image(2, 1, 28, 28)), md.ShapeError, [r"nn\.Flatten\(\).*784 = 1\*28\*28"]),
    "grey images into linear": (lambda: linear(784, 10)(image(2, 28, 28)), md.ShapeError, [r"nn\.Flatten\(\).*784 = 28\*28"]),
    "linear after linear": (lambda: nn.Sequential(linear(9, 100), nn.ReLU(), linear(128, 10))(image(2, 9)), md.ShapeError,
        ["in_features=100, what '0'", "out_features=128 in '0'"]),
    "features of the data": (lambda: nn.Sequential(linear(3, 2))(image(4, 5)), md.ShapeError, [r"Use in_features=5\."]),
    "one image into linear": (lambda: nn.Sequential(nn.Flatten(), linear(784, 10))(image(28, 28)), md.ShapeError,
        ["batch axis is missing", r"x\[None\]"]),
    # images
    "one image": (lambda: nn.Sequential(conv(3, 16, 3), nn.Flatten(), linear(64, 8))(image(3, 4, 4)), md.ShapeError,
        ["batch axis is missing", r"x\[None\]"]),
    "one image into batch norm": (lambda: nn.Sequential(conv(3, 16, 3), nn.BatchNorm2d(16))(image(3, 6, 6)), md.ShapeError,
        ["batch axis is missing", r"x\[None\], of shape \(1, 3, 6, 6\)"]),
    "channels last": (lambda: Net(9)(image(2, 28, 28, 3)), md.ShapeError,
        ["channels come last", r"x\.transpose\(0, 3, 1, 2\)"]),
    "one image, channels last": (lambda: Net(9)(image(28, 28, 3)), md.ShapeError, [r"x\.transpose\(2, 0, 1\)\[None\]"]),
    "grey into colour": (lambda: Net(9)(image(2, 1, 28, 28)), md.ShapeError, ["in_channels=1", r"concatenate\(\[x, x, x\]"]),
    "colour into grey": (lambda: conv(1, 8, 3)(image(2, 3, 9, 9)), md.ShapeError, ["in_channels=3", r"mean\(axis=-3"]),
    "transparency": (lambda: conv(3, 8, 3)(image(2, 4, 9, 9)), md.ShapeError, ["transparency", "in_channels=4"]),
    "no channel axis": (lambda: conv(1, 8, 3)(image(2, 28, 28)), md.ShapeError, [r"x\[:, None\], of shape \(2, 1, 28, 28\)"]),
    "rows into a convolution": (lambda: conv(1, 8, 3)(image(2, 784)), md.ShapeError, [r"x\.reshape\(-1, 1, 28, 28\)"]),
    "conv after conv": (lambda: nn.Sequential(conv(3, 16, 3), nn.ReLU(), conv(32, 8, 3))(image(2, 3, 9, 9)), md.ShapeError,
        [r"conv2d \[2\]", r"C = 32 .*\(2, 16, 7, 7\)", "in_channels=16, what '0'", "out_channels=32 in '0'"]),
    "transposed conv": (lambda: nn.ConvTranspose2d(8, 4, 2, rng=0)(image(2, 16, 4, 4)), md.ShapeError, ["in_channels=16"]),
    "output_padding": (lambda: nn.ConvTranspose2d(8, 4, 2, stride=2, output_padding=2), md.ArgumentError, ["below 2"]),
    "rows into upsampling": (lambda: nn.Upsample(scale_factor=2)(image(2, 8)), md.ShapeError, ["nn.Unflatten"]),
    "one image into upsampling": (lambda: nn.Upsample(scale_factor=2)(image(3, 8, 8)), md.ShapeError, [r"x\[None\]"]),
    "skip connection": (lambda: md.concatenate([image(2, 8, 14, 14), image(2, 8, 13, 13)], axis=1), md.ShapeError,
        [r"interpolate\(x, size=\(14, 14\)\)"]),
    "groups": (lambda: nn.Conv2d(6, 16, 3, groups=4), md.ArgumentError, ["groups=4", "2 and its divisors"]),
    # sizes
    "kernel too large": (lambda: nn.Sequential(conv(1, 4, 5), conv(4, 4, 5))(image(2, 1, 8, 8)), md.ShapeError,
        [r"After '0' the image of \(8, 8\) is \(4, 4\)", "at least 9 x 9"]),
    "pooled to nothing": (lambda: nn.Sequential(*(nn.MaxPool2d(2) for _ in range(4)))(image(2, 1, 4, 4)), md.ShapeError,
        [r"max_pool2d \[2\]", r"After '0', '1' the image of \(4, 4\) is \(1, 1\)", "at least 8 x 8"]),
    "image smaller than the kernel": (lambda: conv(1, 4, 5)(image(1, 1, 3, 3)), md.ShapeError, ["at least 5 x 5"]),
    # normalisation
    "batch norm": (lambda: nn.Sequential(conv(3, 16, 3), nn.BatchNorm2d(32))(image(2, 3, 6, 6)), md.ShapeError,
        ["num_features=16, what '0'"]),
    "batch norm 1d": (lambda: nn.Sequential(linear(3, 16), nn.BatchNorm1d(8))(image(2, 3)), md.ShapeError, ["num_features=16"]),
    "1d for images": (lambda: nn.BatchNorm1d(3)(image(2, 3, 6, 6)), md.ShapeError, [r"nn\.BatchNorm2d\(3\)"]),
    "2d for rows": (lambda: nn.BatchNorm2d(16)(image(2, 16)), md.ShapeError, [r"nn\.BatchNorm1d\(16\)"]),
    "batch of one": (lambda: nn.BatchNorm1d(16)(image(1, 16)), md.ShapeError, ["drop_last=True", r"model\.eval\(\)"]),
    "layer norm": (lambda: nn.LayerNorm(16)(image(2, 8)), md.ShapeError, ["normalized_shape=8"]),
    "group norm": (lambda: nn.GroupNorm(4, 16)(image(2, 8, 3, 3)), md.ShapeError, ["num_channels=8"]),
    # residual blocks
    "residual, channels": (lambda: nn.Residual(conv(8, 16, 3, padding=1))(image(2, 8, 6, 6)), md.ShapeError,
        [r"nn\.Conv2d\(8, 16, 1\)"]),
    "residual, stride": (lambda: nn.Residual(nn.Sequential(conv(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)))(
        image(2, 8, 6, 6)), md.ShapeError, [r"nn\.Conv2d\(8, 16, 1, stride=2\)"]),
    "residual, edges": (lambda: nn.Residual(conv(8, 8, 3))(image(2, 8, 6, 6)), md.ShapeError, [r"padding=1 .*\(6, 6\)"]),
    "own sum": (lambda: Sum(8, 16, 3, padding=1)(image(2, 8, 6, 6)), md.ShapeError,
        [r"add \[Sum\]", r"nn\.Conv2d\(8, 16, 1\)"]),
    "own sum, stride": (lambda: Sum(8, 8, 3, padding=1, stride=2)(image(2, 8, 6, 6)), md.ShapeError, [r"1, stride=2\)"]),
    # kinds of things
    "uint8 images": (lambda: Net(9)(np.zeros((2, 3, 8, 8), np.uint8)), md.DtypeError, [r"x\.astype\('float32'\) / 255"]),
    "float64 rows": (lambda: linear(3, 2)(np.zeros((2, 3))), md.DtypeError, [r"float64 by itself.*x\.astype\('float32'\)"]),
    "list into batch norm": (lambda: nn.BatchNorm1d(3)([[1.0, 2.0, 3.0]]), AttributeError,
        [r"given list of list.*minidl\.tensor"]),
    "nothing": (lambda: nn.Sequential(ForgotReturn(), linear(3, 2))(image(2, 3)), md.DtypeError, ["None.*with return"]),
    "batch with labels": (lambda: nn.Sequential(linear(3, 2))((image(2, 3), labels(0, 1))), md.DtypeError, ["x, y = batch"]),
    "attention in a row": (lambda: nn.Sequential(linear(3, 8), attention())(image(2, 3)), TypeError,
        [r"attention\(x, x, x\)"]),
    "a module as input": (lambda: linear(3, 2)(nn.ReLU()), md.DtypeError, ["nn.Sequential"]),
    "embedding of floats": (lambda: nn.Embedding(10, 4)(image(2, 3)), md.DtypeError, [r"\.astype\('int64'\)"]),
    "embedding out of range": (lambda: nn.Embedding(10, 4)(labels(10)), md.ArgumentError, ["0 to 9, got 10"]),
    "attention size": (lambda: attention(batch_first=True)(*[image(2, 5, 16)] * 3), md.ShapeError, ["embed_dim=16"]),
    "attention, one sequence": (lambda: attention()(*[image(5, 8)] * 3), md.ShapeError, [r"x\[:, None\]"]),
    "matrix product": (lambda: image(2, 3) @ image(5, 3), md.ShapeError, [r"x @ y\.T"]),
    # labels
    "one-hot integers": (lambda: md.cross_entropy(image(2, 3), labels([1, 0, 0], [0, 1, 0])), md.ShapeError,
        [r"\.argmax\(1\)"]),
    "one-hot of other width": (lambda: md.cross_entropy(image(2, 3), image(2, 4)), md.ShapeError, ["4 outputs"]),
    "float labels": (lambda: md.cross_entropy(image(2, 3), labels(0.0, 1.0)), md.DtypeError, [r"\.astype\('int64'\)"]),
    "labels from 1": (lambda: md.cross_entropy(image(2, 3), labels(1, 3)), md.ArgumentError, ["4 outputs", "from 0"]),
    "label -1": (lambda: md.cross_entropy(image(2, 3), labels(1, -1)), md.ArgumentError, ["ignore_index=-1"]),
    "labels as a column": (lambda: md.cross_entropy(image(2, 3), labels([1], [2])), md.ShapeError, [r"target\.reshape\(2\)"]),
    "scores without classes": (lambda: md.cross_entropy(image(2), labels(1, 0)), md.ShapeError,
        ["binary_cross_entropy_with_logits"]),
    "one class": (lambda: md.cross_entropy(image(2, 1), labels(1, 0)), md.ArgumentError, ["binary_cross_entropy_with_logits"]),
    "other batch": (lambda: md.cross_entropy(image(4, 3), labels(1, 0)), md.ShapeError, ["4 examples.*labels of 2"]),
    "labels of images": (lambda: md.cross_entropy(image(2, 3, 4, 4), labels(1, 0)), md.ShapeError,
        [r"\(N, C\): pool and flatten"]),
    "binary target": (lambda: md.binary_cross_entropy_with_logits(image(4, 1), labels(1, 0, 1, 0)), md.ShapeError,
        [r"target\.reshape\(4, 1\)"]),
    "binary, two outputs": (lambda: md.binary_cross_entropy_with_logits(image(2, 2), labels(1, 0)), md.ShapeError,
        ["For 2 classes use cross_entropy"]),
    "logits for probabilities": (lambda: md.binary_cross_entropy(image(2) + 3, labels(1, 0)), md.ArgumentError,
        ["with_logits"]),
    "regression target": (lambda: md.mse_loss(image(4, 1), image(4)), md.ShapeError, [r"target\.reshape\(4, 1\)"]),
    # building and training
    "list of modules": (lambda: nn.Sequential([nn.ReLU(), nn.ReLU()]), md.DtypeError, [r"Sequential\(\*modules\)"]),
    "class for instance": (lambda: nn.Sequential(linear(2, 2), nn.ReLU), md.DtypeError, [r"Make one: ReLU\("]),
    "class in a block": (lambda: nn.Residual(nn.ReLU), md.DtypeError, [r"ReLU\("]),
    "function for module": (lambda: nn.Sequential(linear(2, 2), md.relu), md.DtypeError, [r"nn\.ReLU\(\)"]),
    "init forgotten": (lambda: ForgotInit()(image(2)), AttributeError, [r"super\(\)\.__init__\(\)"]),
    "init too late": (lambda: ForgotInitFirst(), AttributeError, [r"super\(\)\.__init__\(\)"]),
    "nothing to optimize": (lambda: optim.SGD(nn.ReLU().parameters(), lr=0.1), md.ArgumentError, ["have parameters"]),
    "model for parameters": (lambda: optim.SGD(linear(2, 2), lr=0.1), md.DtypeError, [r"model\.parameters\(\)"]),
    "arrays for parameters": (lambda: optim.SGD([np.zeros(2)], lr=0.1), md.DtypeError, [r"model\.parameters\(\)"]),
    "backward of many": (lambda: linear(3, 2)(image(4, 3)).backward(), md.GraphError, [r"loss\.mean\(\)"]),
    "backward twice": (backward_twice, md.GraphError, ["retain_graph=True"]),
    "backward of nothing": (lambda: image(4).sum().backward(), md.GraphError, ["no_grad or detached"]),
}  # fmt: skip


def whole(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


@pytest.mark.parametrize(("call", "error", "patterns"), CASES.values(), ids=CASES.keys())
def test_the_fix_is_in_the_message(call, error, patterns):
    with pytest.raises(error) as caught:
        call()
    for pattern in patterns:
        assert re.search(pattern, whole(caught.value), re.DOTALL), f"{pattern!r} not in\n{whole(caught.value)}"


FIXED = {  # models that follow the advice run
    "flattened images": lambda: Net(6272)(image(2, 3, 28, 28)),
    "channels last": lambda: Net(6272)(image(2, 28, 28, 3).transpose(0, 3, 1, 2)),
    "one image, channels last": lambda: Net(6272)(image(28, 28, 3).transpose(2, 0, 1)[None]),
    "grey into colour": lambda: Net(6272)((lambda x: md.concatenate([x, x, x], axis=-3))(image(2, 1, 28, 28))),
    "colour into grey": lambda: conv(1, 8, 3)(image(2, 3, 9, 9).mean(axis=-3, keepdims=True)),
    "transparency": lambda: conv(3, 8, 3)(image(2, 4, 9, 9)[..., :3, :, :]),
    "kernel too large": lambda: nn.Sequential(conv(1, 4, 5), conv(4, 4, 5))(image(2, 1, 9, 9)),
    "pooled to nothing": lambda: nn.Sequential(*(nn.MaxPool2d(2) for _ in range(3)))(image(2, 1, 8, 8)),
    "residual": lambda: nn.Residual(
        nn.Sequential(conv(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)), conv(8, 16, 1, stride=2)
    )(image(2, 8, 6, 6)),
}


@pytest.mark.parametrize("call", FIXED.values(), ids=FIXED.keys())
def test_the_fix_works(call):
    call()


def test_table_of_shapes():
    with pytest.raises(md.ShapeError) as caught:
        Net(256)(image(2, 3, 28, 28))
    (note,) = caught.value.__notes__
    rows = [re.split(r"\s{2,}", line.strip()) for line in note.splitlines()[1:]]
    assert rows[0] == ["input", "(2, 3, 28, 28)", "(N, C, H, W)"]
    assert [row[0] for row in rows] == ["input", "features.0", "features.1", "features.2", "Net", "head"]
    assert rows[3][2:] == ["(2, 32, 14, 14)", "(N, C, H, W)"]
    assert rows[4] == ["Net", "reshape", "(2, 6272)", "(N, features)"]
    assert rows[5][2] == "fails"
    assert "(2, 6272)" in rows[5][3]


def test_a_long_table_shows_what_is_next_to_the_failure():
    with pytest.raises(md.ShapeError) as caught:
        nn.Sequential(*(nn.ReLU() for _ in range(100)), linear(3, 2))(image(2, 4))
    (note,) = caught.value.__notes__
    assert len(note.splitlines()) < 40
    assert "more" in note
    assert "\n  99 " in note
    assert "\n  50 " not in note


class Meddler(nn.Module):
    """Changes all it can reach while it runs."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm1d(4), nn.Dropout(0.5, rng=1), linear(3, 2)
        self.calls, self.log, self.notes = 0, [], {}

    def forward(self, x):
        self.calls += 1
        self.log.append(x.shape)
        self.notes["last"] = len(self.log)
        print("running")
        self.noise = np.random.rand(), random.random()  # noqa: NPY002
        return self.fc(self.drop(self.norm(x)) + md.dropout(x, 0.5))


def test_the_repetition_leaves_no_trace(capsys):
    model, seen = Meddler(), []
    remove = model.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with pytest.raises(md.ShapeError, match=r"in_features=4") as caught:
        model(image(5, 4) + 1)
    remove()
    assert "norm" in caught.value.__notes__[0]
    assert (model.calls, model.log, model.notes) == (1, [(5, 4)], {"last": 1})
    assert capsys.readouterr().out == "running\n"
    assert seen == [(5, 4)]
    assert model.norm.num_batches_tracked.item() == 1
    assert all(not module._hooks and not module._pre_hooks for module in model.modules())

    after = md.random.generator().bit_generator.state, model.drop.rng.bit_generator.state
    md.manual_seed(0)
    twin = Meddler()
    md.manual_seed(0)
    x = twin.norm(image(5, 4) + 1)
    _ = twin.drop(x) + md.dropout(x, 0.5)
    assert after == (md.random.generator().bit_generator.state, twin.drop.rng.bit_generator.state)


def test_what_fails_only_once_has_no_table():
    class Moody(nn.Module):
        def forward(self, batches):
            return md.reshape(next(batches), (7,))

    with pytest.raises(md.ShapeError) as caught:
        Moody()(iter([image(2)]))
    assert not any("shapes up to" in note for note in getattr(caught.value, "__notes__", ()))


def test_a_model_in_a_model_is_told_once():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(256)

        def forward(self, x):
            return self.net(x)

    with pytest.raises(md.ShapeError, match=r"linear \[net.head\]") as caught:
        Outer()(image(2, 3, 28, 28))
    assert sum("shapes up to" in note for note in caught.value.__notes__) == 1
    with pytest.raises(md.ShapeError) as caught:
        md.summary(Net(256), (2, 3, 28, 28))
    assert [note.partition(";")[0] for note in caught.value.__notes__] == ["in summary"]


def test_on_every_device(device):
    model = nn.Sequential(linear(4, 3), nn.ReLU(), linear(5, 2)).to(device)
    with pytest.raises(md.ShapeError, match=r"in_features=3, what '0'") as caught:
        model(image(2, 4).to(device))
    assert "(2, 3)" in caught.value.__notes__[0]


def test_mixed_devices(emulated):
    with pytest.raises(md.DeviceError, match=r"linear \[Linear\]: .*argument 0 on cpu.*\.to\(device\)"):
        linear(4, 3).to("cuda")(image(2, 4))


def test_other_threads_may_run_the_model_meanwhile(capsys):
    model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.BatchNorm1d(8), nn.ReLU(), linear(8, 3)).eval()
    x, seen, wrong = image(5, 4) + 1, [], []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    expected, done, calls = model(x).numpy(), threading.Event(), [1]

    def serve():
        try:
            while not done.is_set():
                np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-5, atol=1e-6)
                calls[0] += 1
                print("served")
        except Exception as error:
            wrong.append(error)

    server = threading.Thread(target=serve)
    server.start()
    for _ in range(50):
        with pytest.raises(md.ShapeError, match="in_features=3"):
            model(image(5, 3))
    done.set()
    server.join()
    assert not wrong
    assert len(seen) == calls[0]
    assert capsys.readouterr().out == "served\n" * (calls[0] - 1)


def test_errors_in_several_threads():
    model, notes = nn.Sequential(linear(4, 8), nn.ReLU(), linear(9, 3)), []

    def fail():
        for _ in range(20):
            try:
                model(image(5, 4))
            except md.ShapeError as error:
                notes.append((str(error), *error.__notes__))

    threads = [threading.Thread(target=fail) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(notes) == 60
    assert len(set(notes)) == 1
    assert all(not module._hooks and not module._pre_hooks for module in model.modules())
