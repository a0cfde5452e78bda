"""The training loop, its callbacks, evaluation, prediction and metrics."""

import csv
import io as text
import re
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import minidl as md
from minidl import nn, optim, train
from minidl.data import DataLoader, mnist_mini
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.train import (
    EMA,
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    History,
    NonFiniteLoss,
    Progress,
    Schedule,
    TensorBoard,
)


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


def test_what_is_no_callback():
    model = mlp()
    optimizer = sgd(model)
    for wrong in (Progress, optim.StepLR(optimizer, 1), print):
        with pytest.raises(DtypeError, match=r"fit: expected callbacks, got .* a learning-rate schedule goes into Schedule"):
            md.fit(model, loader(), optimizer, callbacks=[wrong])


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
    epoch = ["epoch_begin", "step_end", "batch_end", "step_end", "batch_end", "validation_begin", "epoch_end"]
    assert [call[0] for call in calls] == ["train_begin", *epoch, *epoch, "train_end"]
    places = [[(n, 0), (n, 1), (n, 1), (n, 2), (n, 2), (n, 2), (n, 2)] for n in (1, 2)]
    assert [call[1:3] for call in calls] == [(0, 0), *places[0], *places[1], (2, 2)]
    assert calls[3][3] == {"loss", "accuracy"}
    assert calls[7][3] == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"}


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
        Checkpoint("runs", monitor="score")


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


def test_progress_bar_opens_after_the_first_batch(monkeypatch):
    """What kernels have to say while they compile, in the first batch, has a line of its own."""

    class Terminal(text.StringIO):
        def isatty(self):
            return True

    class Talks(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.said = mlp(), False

        def forward(self, x):
            if not self.said:
                self.said = True
                sys.stderr.write("compiling\n")
            return self.body(x)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    model = Talks()
    md.fit(model, loader(), sgd(model), callbacks=[Progress()])
    assert terminal.getvalue().startswith("compiling\n")
    assert "epoch 1/1" in terminal.getvalue()


@pytest.mark.parametrize("widgets", [False, True])
def test_progress_bar_in_a_notebook(monkeypatch, widgets):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(train.logs, "find_spec", lambda name: widgets or None)
    bars = []

    class Bar:
        def __init__(self, **options):
            self.options, self.moved, self.open = options, 0, True
            bars.append(self)

        def set_postfix(self, figures, refresh):
            self.figures = figures

        def update(self):
            self.moved += 1

        def close(self):
            self.open = False

    notebook = types.SimpleNamespace(tqdm=Bar)
    monkeypatch.setitem(sys.modules, "tqdm.notebook" if widgets else "tqdm", notebook)
    model = mlp()
    md.fit(model, loader(), sgd(model), epochs=2, callbacks=[Progress()])
    assert [(bar.options["total"], bar.options["initial"], bar.moved, bar.open) for bar in bars] == [(8, 0, 8, False)] * 2
    assert set(bars[0].figures) == {"loss", "accuracy"}


def test_progress_prints_metrics(capsys):
    model = mlp()
    md.fit(model, loader(), sgd(model), callbacks=[Progress()], metrics=[train.f1])
    assert re.fullmatch(r"epoch 1/1  loss \S+  accuracy \S+  f1 \d\.\d{4}  [\d,]+ images/s\n", capsys.readouterr().out)


# ---------------------------------------------------------------- steps


def gradient_run(batches, **options):
    model = mlp().double()
    md.fit(model, batches, sgd(model, lr=0.5), **options)
    return weights(model)


def test_accumulated_batches_step_as_one():
    x, y = blobs(40)
    x = x.astype(np.float64)

    def cut(*sizes):
        ends = np.cumsum(sizes)
        return [(x[e - s : e], y[e - s : e]) for e, s in zip(ends, sizes)]

    for options in ({}, {"clip_grad_norm": 0.1}):
        expected = gradient_run(cut(20, 20), epochs=2, **options)
        np.testing.assert_allclose(gradient_run(cut(10, 10, 10, 10), epochs=2, accumulate=2, **options), expected)
        np.testing.assert_allclose(gradient_run(cut(3, 12, 5, 8, 6, 6), epochs=2, accumulate=3, **options), expected)
    expected = gradient_run(cut(30, 10), epochs=2)
    sizes = (10, 10, 10, 10)  # the last group of an epoch is smaller
    np.testing.assert_allclose(gradient_run(cut(*sizes), epochs=2, accumulate=3), expected)

    class Unsized:
        def __iter__(self):
            return iter(cut(*sizes))

    np.testing.assert_allclose(gradient_run(Unsized(), epochs=2, accumulate=3), expected)


def test_schedules_and_averages_go_by_steps():
    class Counter:
        steps = 0

        def step(self):
            self.steps += 1

    model, counter = mlp(), Counter()
    ema = EMA(model)
    md.fit(model, loader(80), sgd(model), epochs=2, accumulate=3, callbacks=[Schedule(counter, every="batch"), ema])
    assert counter.steps == ema.steps == 4  # of 5 batches an epoch


def test_clipping_bounds_the_step():
    model = mlp()
    before = weights(model)
    md.fit(model, loader(120, batch_size=120), sgd(model, lr=1.0), clip_grad_norm=0.01)
    assert np.linalg.norm(weights(model) - before) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ArgumentError, match="clip_grad_norm"):
        md.fit(model, loader(), sgd(model), clip_grad_norm=-1)
    with pytest.raises(ArgumentError, match="accumulate of at least 1"):
        md.fit(model, loader(), sgd(model), accumulate=0)


def test_ctrl_c_waits_for_the_end_of_the_step():
    model = mlp()

    class Presses(optim.SGD):
        done = 0

        def step(self):
            if self.done == 2:
                signal.raise_signal(signal.SIGINT)
            super().step()
            self.done += 1

    optimizer = Presses(model.parameters(), lr=0.1)
    batches = list(loader())
    history = md.fit(model, batches, optimizer, epochs=2)
    assert history.interrupted
    assert optimizer.done == 3
    other = mlp()
    md.fit(other, batches[:3], sgd(other))
    assert np.array_equal(weights(model), weights(other))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ctrl_c_that_somebody_set_stays():
    calls = []
    before = signal.signal(signal.SIGINT, lambda *args: calls.append(args))
    try:
        mine = signal.getsignal(signal.SIGINT)
        model = mlp()
        md.fit(model, loader(), sgd(model), callbacks=[At(1, 2, lambda state: signal.raise_signal(signal.SIGINT))])
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 1


def test_fit_in_another_thread():
    results = []

    def work():
        model = mlp()
        results.append(md.fit(model, loader(), sgd(model), epochs=2))

    with md.use_kernels("generic"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(results[0]) == 2


# ---------------------------------------------------------------- the average of the weights


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_the_recurrence(warmup):
    model = mlp()
    ema = EMA(model, decay=0.8, warmup=warmup)
    expected, steps = weights(model).astype(np.float64), 0

    class Check(Callback):
        def on_step_end(self, state):
            nonlocal expected, steps
            steps += 1
            d = min(0.8, (1 + steps) / (10 + steps)) if warmup else 0.8
            expected = d * expected + (1 - d) * weights(model)

    md.fit(model, loader(), sgd(model), epochs=2, callbacks=[Check(), ema])
    np.testing.assert_allclose(weights(model), expected, rtol=1e-5)  # the model holds the average in the end
    assert ema.steps == steps == 16


def test_validation_sees_the_average():
    model = mlp()
    ema = EMA(model, decay=0.9)
    seen = {}

    class Look(Callback):
        def on_epoch_end(self, state):
            own = md.evaluate(model, loader(60, seed=1))["loss"]
            with ema.swapped():
                seen["average"] = md.evaluate(model, loader(60, seed=1))["loss"]
            seen["own"] = md.evaluate(model, loader(60, seed=1))["loss"]
            assert seen["own"] == own

    history = md.fit(model, loader(), sgd(model), validation=loader(60, seed=1), callbacks=[Look(), ema])
    assert history[0]["val_loss"] == seen["average"] != seen["own"]


@pytest.mark.parametrize("order", [1, -1])
def test_early_stopping_goes_back_to_the_best_average(order):
    model = mlp()
    ema, averages = EMA(model, decay=0.9), []

    class Keep(Callback):
        def on_epoch_end(self, state):
            with ema.swapped():
                averages.append(weights(model))

    stopping = EarlyStopping("score", patience=2, mode="max")
    md.fit(model, loader(), sgd(model), epochs=4, callbacks=[Scores(1, 3, 2, 2), Keep(), *[ema, stopping][::order]])
    assert np.array_equal(weights(model), averages[1])


def test_ema_errors_and_steps_on_its_own():
    model = mlp()
    with pytest.raises(ArgumentError, match="EMA: expected the model that is trained, got another one"):
        md.fit(mlp(), loader(), sgd(mlp()), callbacks=[EMA(model)])
    with pytest.raises(ArgumentError, match="EMA: expected one average, got two"):
        md.fit(model, loader(), sgd(model), callbacks=[EMA(model), EMA(model)])
    with pytest.raises(ArgumentError, match="decay"):
        EMA(model, decay=1.5)
    with pytest.raises(DtypeError, match="a Module"):
        EMA(model.parameters())
    ema = EMA(model, 0.5, warmup=False)
    before = weights(model)
    with pytest.raises(RuntimeError), ema.swapped():
        raise RuntimeError
    assert np.array_equal(weights(model), before)
    saved = ema.state_dict()
    with pytest.raises(ShapeError, match=r"0.weight of shape \(8, 2\), got \(8, 3\)"):
        ema.load_state_dict({**saved, "averages": {**saved["averages"], "0.weight": np.zeros((8, 3))}})


# ---------------------------------------------------------------- logs


def test_csv_log_is_the_history_at_any_time(tmp_path):
    path = tmp_path / "runs" / "history.csv"
    counts = []

    class Count(Callback):
        def on_epoch_begin(self, state):
            counts.append(len(path.read_text().splitlines()) if path.exists() else 0)

    model = mlp()
    history = md.fit(model, loader(), sgd(model), epochs=3, callbacks=[CSVLog(path), Count()])
    assert counts == [0, 2, 3]
    with open(path, newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == history.column("loss")
    with pytest.raises(ArgumentError, match="CSVLog: expected the path of a file, got the folder"):
        md.fit(model, loader(), sgd(model), callbacks=[CSVLog(tmp_path)])


def test_csv_log_goes_on_with_the_rows_of_before(tmp_path):
    for epochs in (2, 3):
        model = mlp()
        callbacks = [CSVLog(tmp_path / "history.csv"), Checkpoint(tmp_path / "run")]
        history = md.fit(model, loader(), sgd(model), epochs=epochs, callbacks=callbacks, resume=tmp_path / "run")
    assert history.column("epoch") == [1, 2, 3]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4


def test_tensorboard_reads_the_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = mlp()
    batches = loader(80)
    board = TensorBoard(tmp_path / "board", batches=2, histograms=True)
    optimizer = sgd(model)
    schedule = Schedule(optim.StepLR(optimizer, 1))
    running = {}

    class Keep(Callback):
        def on_batch_end(self, state):
            running[state.step] = state.logs["loss"]

    history = md.fit(model, batches, optimizer, epochs=3, validation=batches, callbacks=[board, schedule, Keep()])
    events = accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    single = np.float32
    for tag, column in {
        "loss/training": "loss",
        "loss/validation": "val_loss",
        "accuracy/training": "accuracy",
        "lr": "lr",
        "epoch": "epoch",
    }.items():
        entries = events.Scalars(tag)
        assert [entry.step for entry in entries] == [5, 10, 15]
        assert [entry.value for entry in entries] == [single(value) for value in history.column(column)]
    entries = events.Scalars("batch/loss")
    assert [(entry.step, entry.value) for entry in entries] == [(n, single(running[n])) for n in (2, 4, 7, 9, 12, 14)]
    histogram = events.Histograms("parameters/0.weight")[-1]
    assert histogram.histogram_value.num == 16
    assert histogram.histogram_value.max == model[0].weight.numpy().max()


def test_tensorboard_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ImportError, match=r"TensorBoard: expected tensorboardX. Install it: pip install 'minidl\[tensorboard\]'"
    ):
        TensorBoard(tmp_path)


# ---------------------------------------------------------------- a learning rate


def test_find_lr_suggests_a_rate_that_learns_and_leaves_everything():
    md.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(2, 8, rng=0), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1, rng=1), nn.Dropout(0.1), nn.Linear(8, 3, rng=2)
    )
    model.eval()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    md.fit(model, loader(32), optimizer)
    model[0].weight.grad = md.ones(8, 2)

    def everything():
        state = {name: value.tobytes() for name, value in model.state_dict().items()}
        momenta = [entry["momentum_buffer"].tobytes() for entry in optimizer.state_dict()["state"].values()]
        return state, momenta, optimizer.param_groups[0]["lr"], md.random.get_state(), model[3].rng.bit_generator.state

    before = everything()
    batches = [(md.Tensor(x), md.Tensor(y)) for x, y in loader()]
    found = train.find_lr(model, batches, optimizer, steps=60)
    assert everything() == before
    assert not any(module.training for module in model.modules())
    assert model[0].weight.grad.numpy().tolist() == np.ones((8, 2)).tolist()
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 60
    assert found.rates[0] == 1e-6
    assert found.rates == sorted(found.rates)
    fresh = mlp()
    history = md.fit(fresh, loader(), sgd(fresh, found.suggestion), epochs=5)
    assert history[-1]["accuracy"] > 0.9


def test_find_lr_keeps_the_proportions_of_groups_and_the_place_of_a_loader():
    class Place(list):
        place = 7

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, saved):
            self.place = saved["place"]

        def __iter__(self):
            self.place = 0
            return super().__iter__()

    model = mlp()
    seen = []

    class Watched(optim.SGD):
        def step(self):
            seen.append([group["lr"] for group in self.param_groups])
            super().step()

    optimizer = Watched([{"params": [model[0].weight], "lr": 0.1}, {"params": [model[2].weight], "lr": 0.2}])
    batches = Place(loader())
    train.find_lr(model, batches, optimizer, low=1e-3, high=1e-1, steps=20)
    assert batches.place == 7
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert len(seen) == 20
    np.testing.assert_allclose([b / a for a, b in seen], 2)
    np.testing.assert_allclose([seen[0][0], seen[-1][0]], [1e-3, 1e-1])


def test_find_lr_ends_when_the_loss_explodes_and_refuses_what_cannot_be():
    model = nn.Linear(2, 1, rng=0)
    x = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    batches = [(x, x[:, :1])]
    found = train.find_lr(model, batches, sgd(model), md.mse_loss, high=1e4)
    assert found.rates[-1] < 1e4
    assert found.suggestion < found.rates[int(np.argmin(found.smoothed))]
    for options in ({"low": 0}, {"low": 1, "high": 0.1}):
        with pytest.raises(ArgumentError, match="find_lr: expected 0 < low < high"):
            train.find_lr(model, batches, sgd(model), md.mse_loss, **options)
    x[0] = np.nan
    before = weights(model)
    with pytest.raises(ArgumentError, match="a finite loss at the lowest rates, got another one after 0 steps"):
        train.find_lr(model, batches, sgd(model), md.mse_loss)
    assert np.array_equal(weights(model), before)


# ---------------------------------------------------------------- where NaN comes from


class Breaks(nn.Module):
    """Passes on its input, or NaN and infinities."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x * self.value


def deep():
    return nn.Sequential(
        nn.Linear(2, 8, rng=0),
        nn.BatchNorm1d(8),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.2, rng=1), Breaks(1.0), nn.Dropout(0.2)),
        nn.Linear(8, 3, rng=1),
    )


def nan_in(what):
    model, (x, y), loss = deep(), blobs(16), md.cross_entropy
    if what == "input":
        x[3] = np.nan
    elif what == "parameter":
        model[3].weight.data = model[3].weight.detach() * np.inf
    elif what == "buffer":
        model[1].register_buffer("extra", md.Tensor(np.array([np.nan])))
        model[2][2].value = np.nan
    elif what == "output":
        model[2][2].value = np.inf
    elif what == "targets":
        y, loss = np.full((16, 3), np.nan, np.float32), md.mse_loss
    else:
        loss = lambda output, y: md.log(output.sum() * 0)  # noqa: E731
    return model, x, y, loss


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("input", "the input. Look for NaN and infinities in the data"),
        ("targets", "the targets. Look"),
        ("parameter", r"parameter '3.weight'. A step before made it so: try a smaller learning rate, or clip_grad_norm=1.0"),
        ("buffer", "buffer '1.extra'"),
        ("output", r"the output of '2.2' \(Breaks\)"),
        ("loss", r"the loss itself. All outputs are finite: look for log\(0\)"),
    ],
)
def test_a_loss_that_is_not_finite_names_its_origin(what, message):
    model, x, y, loss = nan_in(what)
    with pytest.raises(NonFiniteLoss, match=r"in epoch 1, batch 1; the first that is not finite is " + message):
        md.fit(model, [(x, y)], sgd(model), loss)
    assert not any(module._hooks for module in model.modules())


def test_looking_for_the_origin_changes_nothing():
    from minidl.train.diagnosis import first_not_finite

    model, x, y, _ = nan_in("loss")
    model.train()

    def everything():
        state = {name: value.tobytes() for name, value in model.state_dict().items()}
        return state, md.random.get_state(), model[2][1].rng.bit_generator.state

    before = everything()
    assert first_not_finite(model, md.Tensor(x), md.Tensor(y))[0] == "the loss itself"
    assert everything() == before


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
