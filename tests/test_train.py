"""The training loop, its callbacks, evaluation, prediction and metrics."""

import csv
import io as text
import re
import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl import io, nn, optim, train
from minidl.data import DataLoader, mnist_mini
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.train import Callback, Checkpoint, EarlyStopping, History, NonFiniteLoss, Progress, Schedule


def blobs(n=120, seed=0):
    """Three clouds of points in the plane and their numbers."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.array([[0, 2], [2, -1], [-2, -1]])
    return (centres[y] + 0.4 * rng.normal(size=(n, 2))).astype(np.float32), y


def loader(n=120, seed=0, **options):
    return DataLoader(blobs(n, seed), **{"batch_size": 16, **options})


def mlp(seed=0):
    return nn.Sequential(nn.Linear(2, 8, rng=seed), nn.ReLU(), nn.Linear(8, 3, rng=seed + 1))


def sgd(model, lr=0.1):
    return optim.SGD(model.parameters(), lr=lr)


def weights(model):
    return np.concatenate([value.ravel() for value in model.state_dict().values()])


class Probe(nn.Module):
    """Notes in which mode it ran."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, md.is_grad_enabled()))
        return x


class Scores(Callback):
    """Adds a column with given values, and keeps the weights of every epoch."""

    def __init__(self, *values, name="score"):
        self.values, self.name, self.weights = values, name, []

    def on_epoch_end(self, state):
        state.logs[self.name] = self.values[state.epoch - 1]
        self.weights.append(weights(state.model))


class At(Callback):
    """Calls a function at one batch of one epoch."""

    def __init__(self, epoch, batch, action):
        self.when, self.action, self.ended = (epoch, batch), action, False

    def on_batch_end(self, state):
        if (state.epoch, state.batch) == self.when:
            self.action(state)

    def on_train_end(self, state):
        self.ended = True


def interrupt(state):
    raise KeyboardInterrupt


# ---------------------------------------------------------------- fit


def test_mlp_learns():
    model = mlp()
    history = md.fit(model, loader(shuffle=True, rng=0), sgd(model), epochs=10, validation=loader(60, seed=1))
    assert history[-1]["accuracy"] > 0.97
    assert history[-1]["val_accuracy"] > 0.97
    assert history[-1]["loss"] < history[0]["loss"] / 3
    names = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"]
    assert history.columns == names
    assert history.column("epoch") == list(range(1, 11))
    assert all(isinstance(row[name], (int, float)) for row in history for name in names)
    assert not history.interrupted


def test_cnn_learns_digits():
    digits, test = mnist_mini()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, rng=0),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, rng=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, 10, rng=2),
    )
    batches = DataLoader(digits[:1000], batch_size=50, shuffle=True, rng=0)
    with md.use_kernels("generic"):
        md.fit(model, batches, optim.Adam(model.parameters(), lr=3e-3), epochs=3)
        result = md.evaluate(model, DataLoader(test[:300], batch_size=100))
        outputs = md.predict(model, test.images[:300])
    assert result["accuracy"] > 0.8
    assert outputs.shape == (300, 10)
    assert train.accuracy(outputs, test.labels[:300]) == pytest.approx(result["accuracy"])


def test_batches_go_to_the_device_of_the_model(device):
    model = mlp().to(device)
    history = md.fit(model, loader(), sgd(model), epochs=2, validation=loader(), callbacks=[EarlyStopping(patience=1)])
    result = md.evaluate(model, loader())
    assert result["loss"] == pytest.approx(min(history.column("val_loss")), rel=1e-5)
    x, y = blobs()
    outputs = md.predict(model, x)
    assert isinstance(outputs, np.ndarray)
    assert train.accuracy(outputs, y) == result["accuracy"]
    np.testing.assert_allclose(md.predict(model, md.Tensor(x, device=device)), outputs, rtol=1e-5)


def test_same_seed_same_run():
    runs = []
    for _ in range(2):
        model = nn.Sequential(nn.Linear(2, 8, rng=0), nn.Dropout(0.2, rng=1), nn.Linear(8, 3, rng=2))
        history = md.fit(model, loader(shuffle=True, rng=3), sgd(model), epochs=3)
        runs.append((weights(model).tobytes(), history.column("loss")))
    assert runs[0] == runs[1]


def test_averages_count_examples_not_batches():
    x, y = blobs(25)
    model = mlp()
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    result = md.evaluate(model, batches)
    logits = md.predict(model, x).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert result["loss"] == pytest.approx(-log_p[np.arange(25), y].mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((logits.argmax(axis=1) == y).mean())
    frozen = optim.SGD(model.parameters(), lr=0.0)
    row = md.fit(model, batches, frozen, validation=batches)[0]
    assert row["loss"] == pytest.approx(result["loss"])
    assert (row["val_loss"], row["val_accuracy"]) == (result["loss"], result["accuracy"])
    assert row["accuracy"] == result["accuracy"]


def test_regression_has_no_accuracy(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5]], np.float32)
    model = nn.Linear(3, 1, rng=0)
    batches = DataLoader((x, y), batch_size=16, shuffle=True, rng=0)
    history = md.fit(model, batches, sgd(model), md.mse_loss, epochs=10, validation=batches)
    assert history.columns == ["epoch", "loss", "val_loss", "seconds", "images_per_second"]
    assert history[-1]["loss"] < 0.1 * history[0]["loss"]
    assert set(md.evaluate(model, batches, md.mse_loss)) == {"loss"}
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history.column("loss")
    assert list(rows[0]) == history.columns


def test_loss_may_be_a_module():
    model = mlp()
    assert md.evaluate(model, loader(), nn.CrossEntropyLoss()) == md.evaluate(model, loader())


@pytest.mark.parametrize("kind", ["arrays", "tensors", "lists"])
def test_batches_may_be_a_plain_list(kind):
    x, y = blobs(32)
    convert = {"arrays": lambda a: a, "tensors": md.Tensor, "lists": np.ndarray.tolist}[kind]
    batches = [[convert(x[i : i + 8]), convert(y[i : i + 8])] for i in range(0, 32, 8)]
    model = mlp()
    history = md.fit(model, batches, sgd(model), epochs=3)
    assert history[2]["loss"] < history[0]["loss"]
    expected = md.evaluate(model, [(x, y)])
    assert md.evaluate(model, batches) == pytest.approx(expected, rel=1e-5)


def test_generator_is_refused_for_several_epochs():
    model = mlp()
    before = weights(model)
    with pytest.raises(
        ArgumentError, match="fit: expected batches that can be walked once per epoch, 2 times, got a generator"
    ):
        md.fit(model, (batch for batch in loader()), sgd(model), epochs=2)
    with pytest.raises(ArgumentError, match="expected validation that can be walked"):
        md.fit(model, loader(), sgd(model), epochs=2, validation=iter(loader()))
    assert np.array_equal(weights(model), before)
    assert len(md.fit(model, (batch for batch in loader()), sgd(model), epochs=1)) == 1


def test_batches_that_run_dry_are_noticed():
    class Once:
        def __init__(self):
            self.batches = iter(loader())

        def __iter__(self):
            return self.batches

    model = mlp()
    with pytest.raises(ArgumentError, match=r"at least one example, got none\. Can the batches be walked more than once"):
        md.fit(model, Once(), sgd(model), epochs=2)
    for empty in ([], DataLoader((np.zeros((0, 2)), np.zeros(0, int))), [(np.zeros((0, 2), np.float32), np.zeros(0, int))]):
        with pytest.raises(ArgumentError, match="at least one example"):
            md.fit(model, empty, sgd(model))
        with pytest.raises(ArgumentError, match="evaluate: expected at least one example"):
            md.evaluate(model, empty)


def test_empty_batches_count_for_nothing():
    x, y = blobs(8)
    batches = [(x, y), (x[:0], y[:0])]
    assert md.evaluate(mlp(), batches) == md.evaluate(mlp(), batches[:1])


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([np.zeros((4, 2), np.float32)], ArgumentError, r"batches as pairs \(x, y\)"),
        ((np.zeros((4, 2), np.float32), np.zeros(4, int)), ArgumentError, r"DataLoader\(\(x, y\), batch_size=32\)"),
        ([(np.zeros((4, 2), np.float32), np.zeros(3, int))], ShapeError, r"shapes \(4, 2\) and \(3,\)"),
        (mnist_mini()[1], ShapeError, "one row per example"),
        ([(np.array(["a"]), np.zeros(1, int))], DtypeError, "expected float32"),
    ],
)
def test_bad_batches(batches, error, message):
    model = mlp()
    with pytest.raises(error, match=message):
        md.fit(model, batches, sgd(model))


def test_labels_out_of_range_name_the_operation():
    x, y = blobs(8)
    model = mlp()
    for bad in (3, -1):
        y[5] = bad
        with pytest.raises(ValueError, match=f"cross_entropy.*{bad}"):
            md.fit(model, [(x, y)], sgd(model))


def test_wrong_input_names_the_module():
    model = mlp()
    with pytest.raises(ShapeError, match=r"linear \[0\]|linear \[.*0\]"):
        md.fit(model, [(np.zeros((4, 5), np.float32), np.zeros(4, int))], sgd(model))


def test_what_is_no_model_or_no_list_of_callbacks():
    for call in (
        lambda: md.fit(len, loader(), None),
        lambda: md.evaluate(len, loader()),
        lambda: md.predict(len, np.ones((2, 2))),
    ):
        with pytest.raises(DtypeError, match=r"(fit|evaluate|predict): expected a Module, got builtin_function_or_method\."):
            call()
    model = mlp()
    for callback in (Progress(), History()):
        with pytest.raises(DtypeError, match=r"fit: expected a list of callbacks, got .* Write callbacks=\[\.\.\.\]"):
            md.fit(model, loader(), sgd(model), callbacks=callback)


def test_labels_in_another_byte_order():
    x, y = blobs()
    model = mlp()
    expected = md.evaluate(model, [(x, y)])
    assert md.evaluate(model, [(x, y.astype(">i8"))]) == expected
    assert md.evaluate(model, [(x.astype(">f4"), y)]) == expected


def test_loss_must_be_one_number():
    model = mlp()
    with pytest.raises(ShapeError, match="fit: expected the loss as a tensor of one element"):
        md.fit(model, loader(), sgd(model), lambda output, y: md.cross_entropy(output, y, reduction="none"))


@pytest.mark.parametrize(("epochs", "error"), [(-1, ArgumentError), (1.5, DtypeError)])
def test_epochs_are_checked(epochs, error):
    model = mlp()
    with pytest.raises(error, match="fit: expected epochs"):
        md.fit(model, loader(), sgd(model), epochs=epochs)


def test_no_epochs():
    model = mlp()
    assert list(md.fit(model, loader(), sgd(model), epochs=0)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_that_is_not_finite_stops_training(value):
    x, y = blobs(32)
    x[20] = value  # the third batch
    model = mlp()
    before = {}

    def keep(state):
        before["weights"] = weights(state.model)

    watcher = At(1, 2, keep)
    with np.errstate(invalid="ignore"), pytest.raises(NonFiniteLoss, match=r"got (nan|inf) in epoch 1, batch 3") as caught:
        md.fit(model, DataLoader((x, y), batch_size=8), sgd(model), epochs=2, callbacks=[watcher])
    assert np.array_equal(weights(model), before["weights"])
    assert list(caught.value.history) == []
    assert watcher.ended


def test_ctrl_c_returns_the_history():
    model = mlp()
    model.eval()
    watcher = At(3, 2, interrupt)
    history = md.fit(model, loader(), sgd(model), epochs=9, callbacks=[watcher])
    assert history.interrupted
    assert history.column("epoch") == [1, 2]
    assert watcher.ended
    assert not any(module.training for module in model.modules())


def test_stop_flag():
    model = mlp()
    batches = loader()

    def stop(state):
        state.stop = True

    history = md.fit(model, batches, sgd(model), epochs=9, validation=batches, callbacks=[At(2, 3, stop)])
    assert history.column("epoch") == [1, 2]
    assert "val_loss" in history[1]


def test_order_of_moments():
    calls = []

    class Recorder(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda state: calls.append((name[3:], state.epoch, state.batch, set(state.logs)))
            return super().__getattribute__(name)

    model = mlp()
    md.fit(model, loader(32), sgd(model), epochs=2, validation=loader(32), callbacks=[Recorder()])
    moments = ["train_begin", *["epoch_begin", "batch_end", "batch_end", "epoch_end"] * 2, "train_end"]
    assert [call[0] for call in calls] == moments
    assert [call[1:3] for call in calls] == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 2), (2, 0), (2, 1), (2, 2), (2, 2), (2, 2)]
    assert calls[2][3] == {"loss", "accuracy"}
    assert calls[4][3] == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"}


# ---------------------------------------------------------------- modes


def test_modes_while_training_and_validating():
    probe = Probe()
    model = nn.Sequential(probe, mlp())
    model.eval()
    md.fit(model, loader(32), sgd(model), epochs=2, validation=loader(16))
    assert probe.seen == [(True, True), (True, True), (False, False)] * 2
    assert not model.training
    assert not probe.training


def test_frozen_modules_stay_frozen():
    class Freeze(Callback):
        def on_train_begin(self, state):
            state.model[1].eval()

    model = nn.Sequential(nn.Linear(2, 4, rng=0), nn.BatchNorm1d(4), Probe(), nn.Linear(4, 3, rng=1))
    model[2].eval()
    statistics = model[1].running_mean.numpy().copy()
    md.fit(model, loader(32), sgd(model), epochs=2, validation=loader(16), callbacks=[Freeze()])
    assert np.array_equal(model[1].running_mean.numpy(), statistics)
    assert [module.training for module in model] == [True, True, False, True]  # as before fit
    assert model[2].seen == [(True, True), (True, True), (False, False)] * 2


def test_batch_norm_and_dropout_follow_the_mode():
    model = nn.Sequential(nn.Linear(2, 4, rng=0), nn.BatchNorm1d(4), nn.Dropout(0.5, rng=1), nn.Linear(4, 3, rng=2))
    before = model.state_dict()
    results = [md.evaluate(model, loader(40, batch_size=size)) for size in (40, 7)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)  # neither drops nor uses the batch's statistics
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())
    md.fit(model, loader(), sgd(model))
    assert not np.array_equal(model[1].running_mean.numpy(), before["1.running_mean"])


def test_evaluate_builds_no_graph_and_restores_after_an_error():
    model = nn.Sequential(Probe(), mlp())
    with pytest.raises(ValueError):
        md.evaluate(model, [(np.zeros((2, 2), np.float32), np.array([7, 0]))])
    assert model[0].seen == [(False, False)]
    assert model[0].training
    assert md.is_grad_enabled()


# ---------------------------------------------------------------- evaluate, predict


def test_accuracy_in_the_loop_is_that_of_the_metrics():
    rng = np.random.default_rng(0)
    outputs, y = rng.normal(size=(20, 4, 3, 5)), rng.integers(0, 4, (20, 3, 5))
    y[rng.random(y.shape) < 0.2] = -100
    result = md.evaluate(nn.Identity(), [(outputs[:5], y[:5]), (outputs[5:], y[5:])])
    assert result["accuracy"] == train.accuracy(outputs, y)


def test_accuracy_only_where_it_has_a_meaning():
    for output, y in (
        (np.zeros((4, 1)), np.zeros((4, 1))),
        (np.zeros(4), np.zeros(4)),
        (np.zeros((4, 3)), np.zeros((4, 3))),
        (np.zeros((4, 1)), np.zeros(4, int)),
    ):
        assert set(md.evaluate(nn.Identity(), [(output, y)], lambda output, y: output.sum())) == {"loss"}


def test_predict_gives_the_same_for_every_form_of_input():
    digits = mnist_mini()[1][:50]
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5, rng=0), nn.Linear(784, 10, rng=0))
    floats = digits.images.astype(np.float32) / np.float32(255)
    expected = model.eval()(md.Tensor(floats)).numpy()
    model.train()
    inputs = [
        digits.images,
        floats,
        floats.astype(np.float64),
        md.Tensor(floats),
        DataLoader(digits, batch_size=20),
        DataLoader(digits.images, batch_size=50),
        [floats[:30], md.Tensor(floats[30:])],
        ((x, None) for x in (floats[:1], floats[1:])),
    ]
    for given in inputs:
        outputs = md.predict(model, given, batch_size=17)
        assert isinstance(outputs, np.ndarray)
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    outputs[:] = 0  # its own memory
    assert model.training


def test_predict_in_float64_and_for_no_examples():
    model = mlp().double()
    assert md.predict(model, blobs(5)[0]).dtype == np.float64
    assert md.predict(mlp(), np.zeros((0, 2))).shape == (0, 3)
    assert md.predict(mlp(), md.Tensor(np.zeros((0, 2), np.float32))).shape == (0, 3)


def test_predict_errors():
    with pytest.raises(ArgumentError, match="predict: expected at least one batch"):
        md.predict(mlp(), [])
    with pytest.raises(ArgumentError, match="batch_size of at least 1"):
        md.predict(mlp(), blobs()[0], batch_size=0)

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ShapeError, match="one output row for each of 3 examples"):
        md.predict(Sum(), np.zeros((3, 2)))
    with pytest.raises(DtypeError, match="one tensor from the model"):
        md.predict(Pair(), np.zeros((3, 2)))


# ---------------------------------------------------------------- callbacks


def test_history_is_a_sequence_of_rows(tmp_path):
    history = History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "lr": 0.1}])
    assert len(history) == 2
    assert history[-1]["lr"] == 0.1
    assert [row["epoch"] for row in history] == [1, 2]
    assert np.array_equal(history.column("lr"), [np.nan, 0.1], equal_nan=True)
    with pytest.raises(ArgumentError, match="one of epoch, loss, lr, got 'val_loss'"):
        history.column("val_loss")
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().splitlines() == ["epoch,loss,lr", "1,2.0,", "2,1.0,0.1"]


def test_early_stopping_restores_the_best_weights():
    model = mlp()
    scores, stopping = Scores(1.0, 3.0, 2.0, 2.5, 9.0), EarlyStopping("score", patience=2, mode="max")
    history = md.fit(model, loader(), sgd(model), epochs=5, callbacks=[scores, stopping])
    assert history.column("epoch") == [1, 2, 3, 4]
    assert stopping.best_epoch == 2
    assert np.array_equal(weights(model), scores.weights[1])
    assert not np.array_equal(weights(model), scores.weights[3])


def test_early_stopping_restores_buffers_too():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3, rng=0))
    scores = Scores(1.0, 2.0, 3.0, name="val_loss")
    md.fit(model, loader(), sgd(model), epochs=3, callbacks=[scores, EarlyStopping()])
    assert np.array_equal(weights(model), scores.weights[0])


@pytest.mark.parametrize(
    ("options", "values", "epochs", "kept"),
    [
        ({"patience": 1, "mode": "min"}, (3, 2, 2, 1), 3, 1),
        ({"patience": 2, "mode": "min"}, (3, 2, 2, 1), 4, 3),
        ({"patience": 1, "mode": "min", "min_delta": 0.5}, (3, 2.6, 2, 1), 2, 0),
        ({"patience": 2, "mode": "max", "restore_best": False}, (3, 2, 2, 1), 3, 2),
        ({"patience": 2, "mode": "max"}, (np.nan, 1, np.nan, np.nan), 4, 1),
        ({"patience": 2, "mode": "min"}, (np.nan, np.nan, 1, 1), 2, 1),
    ],
)
def test_early_stopping_options(options, values, epochs, kept):
    model = mlp()
    scores = Scores(*values)
    callbacks = [scores, EarlyStopping("score", **options)]
    assert len(md.fit(model, loader(), sgd(model), epochs=4, callbacks=callbacks)) == epochs
    assert np.array_equal(weights(model), scores.weights[kept])


def test_early_stopping_restores_after_an_interruption_and_serves_again():
    model = mlp()
    scores, stopping = Scores(2, 1, 0), EarlyStopping("score", mode="max")
    history = md.fit(model, loader(), sgd(model), epochs=3, callbacks=[scores, stopping, At(3, 1, interrupt)])
    assert history.interrupted
    assert np.array_equal(weights(model), scores.weights[0])
    again = Scores(-1, -2)
    md.fit(model, loader(), sgd(model), epochs=2, callbacks=[again, stopping])
    assert np.array_equal(weights(model), again.weights[0])


def test_monitor_errors():
    model = mlp()
    with pytest.raises(
        ArgumentError, match=r"EarlyStopping: expected monitor as one of .*loss.*, got 'val_loss'. Pass validation="
    ):
        md.fit(model, loader(), sgd(model), callbacks=[EarlyStopping()])
    with pytest.raises(ArgumentError, match="mode as one of 'min', 'max', got None"):
        EarlyStopping("score")
    with pytest.raises(ArgumentError, match="patience of at least 1"):
        EarlyStopping(patience=0)
    with pytest.raises(ArgumentError, match="min_delta"):
        EarlyStopping(min_delta=-1)
    with pytest.raises(ArgumentError, match="Checkpoint: expected mode"):
        Checkpoint("x.safetensors", "score", save_best_only=True)


def test_checkpoint_reloads_to_the_same_predictions(tmp_path):
    path = tmp_path / "runs" / "first" / "model.safetensors"
    model = mlp()
    md.fit(model, loader(), sgd(model), epochs=2, callbacks=[Checkpoint(path)])
    other = mlp(seed=5)
    other.load_state_dict(io.load(path))
    x = blobs()[0]
    assert np.array_equal(md.predict(other, x), md.predict(model, x))


def test_checkpoint_of_the_best_epoch(tmp_path):
    path = tmp_path / "best.safetensors"
    model = mlp()
    scores = Scores(1.0, 5.0, 2.0)
    md.fit(
        model, loader(), sgd(model), epochs=3, callbacks=[scores, Checkpoint(path, "score", save_best_only=True, mode="max")]
    )
    model.load_state_dict(io.load(path))
    assert np.array_equal(weights(model), scores.weights[1])
    metadata = io.load_metadata(path)
    assert metadata["epoch"] == "2"
    assert float(metadata["score"]) == 5.0


def test_schedules_step_per_epoch_or_batch():
    class Counter:
        def __init__(self):
            self.steps = []

        def step(self, *values):
            self.steps.append(values)

    model = mlp()
    epochs, batches, plateau = Counter(), Counter(), Counter()
    callbacks = [Schedule(epochs), Schedule(batches, every="batch"), Schedule(plateau, monitor="val_loss")]
    history = md.fit(model, loader(32), sgd(model), epochs=2, validation=loader(16), callbacks=callbacks)
    assert epochs.steps == [()] * 2
    assert batches.steps == [()] * 4
    assert plateau.steps == [(value,) for value in history.column("val_loss")]
    with pytest.raises(ArgumentError, match="every as one of 'epoch', 'batch'"):
        Schedule(epochs, every="week")
    with pytest.raises(ArgumentError, match="every='epoch' with a monitor"):
        Schedule(epochs, every="batch", monitor="loss")
    with pytest.raises(ArgumentError, match="Schedule: expected monitor as one of"):
        md.fit(model, loader(32), sgd(model), callbacks=[Schedule(plateau, monitor="val_loss")])


def test_schedule_logs_the_rate_of_the_epoch():
    model = mlp()
    optimizer = sgd(model, lr=0.8)
    schedule = Schedule(optim.StepLR(optimizer, step_size=1, gamma=0.5))
    assert md.fit(model, loader(), optimizer, epochs=3, callbacks=[schedule]).column("lr") == pytest.approx([0.8, 0.4, 0.2])


LINE = r"epoch 2/2  loss \d\.\d{4}  accuracy \d\.\d{4}  val_loss \d\.\d{4}  val_accuracy \d\.\d{4}  [\d,]+ images/s"


def test_progress_prints_one_line_per_epoch(capsys):
    model = mlp()
    md.fit(model, loader(), sgd(model), epochs=2, validation=loader(), callbacks=[Progress()])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(LINE, lines[1])
    assert printed.err == ""


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
    class Terminal(text.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    model = mlp()
    md.fit(model, loader(), sgd(model), epochs=2, callbacks=[Progress(), At(2, 3, interrupt)])
    assert "epoch 1/2" in terminal.getvalue()
    assert "epoch 2/2" in terminal.getvalue()
    assert "8 [" in terminal.getvalue()  # of 8 batches
    assert len(capsys.readouterr().out.splitlines()) == 1


# ---------------------------------------------------------------- metrics


def test_accuracy_and_top_k_against_loops():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, (200, 6)).astype(float), rng.integers(0, 6, 200)
    for k in range(1, 7):
        right = 0
        for row, label in zip(scores, labels):
            ranking = sorted(range(6), key=lambda c: (-row[c], c))
            right += label in ranking[:k]
        assert train.top_k_accuracy(scores, labels, k) == pytest.approx(right / 200)
    assert train.accuracy(scores, labels) == pytest.approx((scores.argmax(axis=1) == labels).mean())
    assert train.accuracy(md.Tensor(scores), md.Tensor(labels)) == train.top_k_accuracy(scores, labels, k=1)


def test_accuracy_of_maps_ignored_labels_and_nan():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    right = scores.argmax(axis=1) == labels
    assert train.accuracy(scores, labels) == pytest.approx(right.mean())
    labels[0] = -100
    assert train.accuracy(scores, labels) == pytest.approx(right[1].mean())
    labels[0] = 255
    assert train.accuracy(scores, labels, ignore_index=255) == pytest.approx(right[1].mean())
    for function in (train.accuracy, lambda s, y: md.evaluate(nn.Identity(), [(s, y)], lambda s, y: md.sum(s))["accuracy"]):
        assert function(np.array([[np.nan, 1.0], [0.0, 1.0]]), np.array([0, 1])) == 0.5
    assert np.isnan(train.accuracy(scores[:0], labels[:0]))
    assert np.isnan(train.accuracy(np.zeros((1, 2)), [-100]))


def test_confusion_matrix():
    labels, guesses = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    expected = [[1, 1, 0], [0, 0, 0], [1, 0, 2]]
    for classes in (3, ["a", "b", "c"]):
        matrix = train.confusion_matrix(labels, guesses, classes)
        assert matrix.dtype == np.int64
        assert matrix.tolist() == expected
    assert train.confusion_matrix(labels.astype(np.uint8), md.Tensor(guesses), 3).tolist() == expected
    assert train.confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: train.accuracy(np.zeros((3, 2)), [0, 1]), ShapeError, r"accuracy: .* got \(3, 2\) and \(2,\)"),
        (lambda: train.accuracy(np.zeros(3), [0, 1, 1]), ShapeError, "outputs"),
        (lambda: train.accuracy(np.zeros((2, 2), int), [0, 1]), DtypeError, "float scores"),
        (lambda: train.accuracy(np.zeros((2, 2)), [0.0, 1.0]), DtypeError, "labels as integers"),
        (lambda: train.accuracy(np.zeros((2, 2)), [0, 2]), ArgumentError, "labels from 0 to 1, got 0 to 2"),
        (lambda: train.top_k_accuracy(np.zeros((2, 2)), [0, 1], k=3), ArgumentError, "k from 1 to the 2 classes, got 3"),
        (lambda: train.top_k_accuracy(np.zeros((2, 2)), [0, 1], k=0), ArgumentError, "k from 1"),
        (lambda: train.confusion_matrix([0, 1], [0], 2), ShapeError, "one shape"),
        (lambda: train.confusion_matrix([0, 2], [0, 1], 2), ArgumentError, "labels from 0 to 1"),
        (lambda: train.confusion_matrix([0, 1], [0, -1], 2), ArgumentError, "predictions from 0 to 1"),
        (lambda: train.confusion_matrix([0, 1], [0.2, 0.8], 2), DtypeError, r"argmax\(axis=1\)"),
        (lambda: train.confusion_matrix([0, 1], [0, 1], 0), ArgumentError, "classes"),
    ],
)
def test_metric_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------- import


def test_import_is_light():
    heavy = ["numba", "cupy", "matplotlib", "tqdm", "safetensors", "PIL"]
    code = f"import sys, minidl; minidl.data.mnist_mini(), minidl.fit; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
