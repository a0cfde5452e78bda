"""Checkpoints: going on bit for bit, whatever ended the run; files that are whole; clear errors."""

import errno
import itertools
import json
import math
import os
import re
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

import minidl as md
from minidl import io, nn, optim, train
from minidl.errors import ArgumentError, DtypeError
from minidl.train import EMA, Callback, Checkpoint, EarlyStopping, Schedule, newest_checkpoint


def examples(n=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] > x[:, 1]).astype(np.int64) + (x[:, 2] > 1)


class Loader:
    """A shuffling loader that can tell its place: epoch, batches given out, the generator's state at the epoch's start."""

    def __init__(self, batch_size=8, seed=3):
        self.x, self.y = examples()
        self.size, self.rng, self.position = batch_size, np.random.default_rng(seed), 0
        self.began = dict(self.rng.bit_generator.state)

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __iter__(self):
        if self.position == 0:
            self.began = dict(self.rng.bit_generator.state)
        self.rng.bit_generator.state = self.began
        order = self.rng.permutation(len(self.x))
        while self.position < len(self):
            rows = order[self.position * self.size : (self.position + 1) * self.size]
            self.position += 1
            yield self.x[rows], self.y[rows]
        self.position = 0

    def state_dict(self):
        return {"position": self.position % len(self), "began": self.began, "now": dict(self.rng.bit_generator.state)}

    def load_state_dict(self, saved):
        self.position, self.began = saved["position"], saved["began"]
        self.rng.bit_generator.state = saved["now"]


class Losses(Callback):
    """The running loss after every batch, and an action at one of them."""

    def __init__(self, at=None, action=None):
        self.seen, self.at, self.action = {}, at, action

    def on_batch_end(self, state):
        self.seen[state.epoch, state.batch] = state.logs["loss"]
        if (state.epoch, state.batch) == self.at:
            self.action(state)


class Net(nn.Module):
    """Batch norm, a dropout with a generator of its own and one with minidl's."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(5)
        self.body = nn.Sequential(
            nn.Linear(4, 8, rng=rng),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3, rng=7),
            nn.Dropout(0.1),
            nn.Linear(8, 3, rng=rng),
        )

    def forward(self, x):
        return self.body(x)


class Run:
    """All parts of a training run, made from scratch."""

    def __init__(self, folder, make=optim.Adam, every=None, at=None, action=None, schedule=None, **options):
        md.manual_seed(11)
        self.model, self.loader, self.losses = Net(), options.pop("make_loader", Loader)(), Losses(at, action)
        self.optimizer = make(self.model.parameters(), lr=0.02)
        self.ema = EMA(self.model, decay=0.9)
        schedule = schedule or (lambda o: Schedule(optim.OneCycleLR(o, max_lr=0.05, total_steps=40), every="batch"))
        self.stopping = EarlyStopping("val_loss", patience=3)
        self.callbacks = [self.losses, schedule(self.optimizer), self.ema, self.stopping]
        if folder is not None:
            self.callbacks.append(Checkpoint(folder, batches=every, keep=3, monitor="val_loss"))
        self.options = {"epochs": 4, "metrics": [train.f1, train.ROCAUC()], **options}

    def fit(self, resume=None):
        x, y = examples()
        validation = [(x[:20], y[:20])]
        self.history = md.fit(
            self.model,
            self.loader,
            self.optimizer,
            validation=validation,
            callbacks=self.callbacks,
            resume=resume,
            **self.options,
        )
        return self

    def result(self):
        """Everything that has to agree bit for bit."""
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in self.history]
        weights = {name: value.tobytes() for name, value in self.model.state_dict().items()}
        return json.dumps(rows), weights, self.stopping.best_epoch, md.random.get_state()


def stop(state):
    raise RuntimeError("killed")


PLACES = [(1, 1), (1, 6), (2, 2), (3, 1), (4, 6)]


@pytest.fixture(autouse=True)
def textbook_kernels():
    with md.use_kernels("generic"):
        yield


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A process that is killed loses nothing that it gave to the system; only a power cut would need the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_broken_run_goes_on_bit_for_bit(tmp_path, place):
    whole = Run(None).fit()
    broken = Run(tmp_path, every=2, at=place, action=stop)
    with pytest.raises(RuntimeError, match="killed"):
        broken.fit()
    again = Run(tmp_path, every=2).fit(resume=tmp_path)
    assert again.result() == whole.result()
    assert {**broken.losses.seen, **again.losses.seen} == whole.losses.seen
    assert all(whole.losses.seen[key] == value for key, value in again.losses.seen.items())
    assert (place == (1, 1)) == ((1, 1) in again.losses.seen)  # all but the first had a checkpoint to go on from


@pytest.mark.parametrize("epoch", [1, 3])
def test_going_on_after_whole_epochs(tmp_path, epoch):
    whole = Run(None).fit()
    Run(tmp_path, epochs=epoch).fit()
    assert Run(tmp_path).fit(resume=newest_checkpoint(tmp_path)).result() == whole.result()


@pytest.mark.parametrize("make", [optim.SGD, optim.Adagrad, optim.RMSprop, optim.AdamW], ids=lambda make: make.__name__)
def test_every_optimizer_goes_on(tmp_path, make):
    build = (lambda p, lr: make(p, lr=lr, momentum=0.9)) if make is optim.SGD else make
    options = {"make": build, "schedule": SCHEDULES["cosine"]}
    whole = Run(None, **options).fit()
    with pytest.raises(RuntimeError):
        Run(tmp_path, every=1, at=(2, 4), action=stop, **options).fit()
    assert Run(tmp_path, every=1, **options).fit(resume=tmp_path).result() == whole.result()


SCHEDULES = {
    "step": lambda o: Schedule(optim.StepLR(o, 2, gamma=0.5)),
    "milestones": lambda o: Schedule(optim.MultiStepLR(o, [2, 9], gamma=0.5), every="batch"),
    "cosine": lambda o: Schedule(optim.CosineAnnealingLR(o, 20), every="batch"),
    "plateau": lambda o: Schedule(optim.ReduceLROnPlateau(o, patience=0, threshold=0.5), monitor="val_loss"),
    "sequence": lambda o: Schedule(
        optim.SequentialLR(o, [optim.LinearLR(o, 0.1, total_iters=5), optim.ExponentialLR(o, 0.9)], [5]), every="batch"
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_every_schedule_goes_on(tmp_path, schedule):
    whole = Run(None, schedule=schedule).fit()
    with pytest.raises(RuntimeError):
        Run(tmp_path, schedule=schedule, every=1, at=(3, 2), action=stop).fit()
    again = Run(tmp_path, schedule=schedule, every=1).fit(resume=tmp_path)
    assert again.result() == whole.result()
    assert len(set(again.history.column("lr"))) > 1


@pytest.mark.parametrize("every", [1, 2, 3])
def test_going_on_between_the_batches_of_one_step(tmp_path, every):
    options = {"accumulate": 4, "clip_grad_norm": 0.05}
    whole = Run(None, **options).fit()
    with pytest.raises(RuntimeError):
        Run(tmp_path, every=every, at=(2, 4), action=stop, **options).fit()
    again = Run(tmp_path, every=every, **options).fit(resume=tmp_path)
    assert again.result() == whole.result()


LOADERS = {
    "own generator": lambda: md.data.DataLoader(examples(), 8, shuffle=True, rng=4),
    "minidl's generator": lambda: md.data.DataLoader(examples(), 8, shuffle=True),
    "in order": lambda: md.data.DataLoader(examples(), 9),
}


@pytest.mark.parametrize("make_loader", LOADERS.values(), ids=LOADERS.keys())
@pytest.mark.parametrize("place", [(2, 3), (2, 6), (3, 1)], ids=str)
def test_a_data_loader_goes_on_at_its_place(tmp_path, make_loader, place):
    options = {"make_loader": make_loader, "every": 1}
    whole = Run(None, **options).fit()
    broken = Run(tmp_path, at=place, action=stop, **options)
    with pytest.raises(RuntimeError, match="killed"):
        broken.fit()
    again = Run(tmp_path, **options).fit(resume=tmp_path)
    assert again.result() == whole.result()
    pressed = Run(tmp_path / "pressed", at=place, action=lambda state: signal.raise_signal(signal.SIGINT), **options).fit()
    assert pressed.history.interrupted
    again = Run(tmp_path / "pressed", **options).fit(resume=tmp_path / "pressed")
    assert again.result() == whole.result()
    assert {**pressed.losses.seen, **again.losses.seen} == whole.losses.seen
    assert not pressed.losses.seen.keys() & again.losses.seen.keys()


def test_ctrl_c_saves_the_last_batch(tmp_path):
    whole = Run(None).fit()
    broken = Run(tmp_path, at=(2, 3), action=lambda state: os.kill(os.getpid(), signal.SIGINT)).fit()
    assert broken.history.interrupted
    assert newest_checkpoint(tmp_path).name == "epoch-0002-batch-000003.safetensors"
    again = Run(tmp_path).fit(resume=tmp_path)
    assert min(again.losses.seen) == (2, 4)
    assert again.result() == whole.result()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_validation_and_between_batches(tmp_path):
    class Validation(list):
        def __iter__(self):
            yield self[0]
            if broken.losses.seen.keys() >= {(2, 6)}:
                raise KeyboardInterrupt

    whole = Run(None).fit()
    broken = Run(tmp_path)
    validation = Validation([(examples()[0][:20], examples()[1][:20])])
    history = md.fit(
        broken.model, broken.loader, broken.optimizer, validation=validation, callbacks=broken.callbacks, **broken.options
    )
    assert history.interrupted
    assert history.column("epoch") == [1]
    again = Run(tmp_path).fit(resume=tmp_path)
    assert min(again.losses.seen) == (3, 1)  # only the validation of epoch 2 was left
    assert again.result() == whole.result()


@pytest.mark.parametrize("after", [0, 3])
def test_ctrl_c_while_the_next_batch_is_made(tmp_path, after):
    """The loader has drawn its order and is ahead of the training; what is saved is the last batch that was used."""

    class Presses(md.data.DataLoader):
        pressed = False

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if (self.epoch, number) == (1, after) and self.pressed:
                    raise KeyboardInterrupt
                yield batch

    def make_loader():
        return Presses(examples(), 8, shuffle=True)

    whole = Run(None, make_loader=make_loader).fit()
    broken = Run(tmp_path, make_loader=make_loader)
    broken.loader.pressed = True
    assert broken.fit().history.interrupted
    assert newest_checkpoint(tmp_path).name == f"epoch-0002-batch-00000{after}.safetensors"
    again = Run(tmp_path, make_loader=make_loader).fit(resume=tmp_path)
    assert min(again.losses.seen) == (2, after + 1)
    assert again.result() == whole.result()


@pytest.mark.parametrize("place", [(2, 3), (2, 6)], ids=str)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, place):
    """As with a limit on time: the row of an epoch that was cut short is not part of the checkpoint."""
    whole = Run(None).fit()

    def end(state):
        state.stop = True

    stopped = Run(tmp_path, at=place, action=end).fit()
    assert stopped.history.column("epoch") == [1, 2]
    again = Run(tmp_path).fit(resume=tmp_path)
    assert min(again.losses.seen) == ((2, 4) if place == (2, 3) else (3, 1))
    assert again.result() == whole.result()


def test_a_list_of_batches_goes_on_at_its_place(tmp_path):
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(4, 4)).astype(np.float32), rng.integers(0, 3, 4)) for _ in range(5)]

    def run(folder, at=None, resume=None):
        model, losses = nn.Linear(4, 3, rng=0), Losses(at, stop)
        callbacks = [losses, Checkpoint(folder, batches=1)]
        md.fit(model, batches, optim.Adam(model.parameters()), epochs=2, callbacks=callbacks, resume=resume)
        return model.weight.numpy().tobytes(), losses.seen

    whole = run(tmp_path / "a")
    with pytest.raises(RuntimeError):
        run(tmp_path / "b", at=(2, 3))
    weights, seen = run(tmp_path / "b", resume=tmp_path / "b")
    assert weights == whole[0]
    assert seen == {key: value for key, value in whole[1].items() if key >= (2, 3)}


def test_early_stopping_has_stopped_unless_patience_grows(tmp_path):
    def run(patience, resume=None):
        model = nn.Linear(4, 3, rng=0)
        loader = Loader()
        callbacks = [EarlyStopping("loss", patience, mode="max"), Checkpoint(tmp_path)]
        return md.fit(model, loader, optim.SGD(model.parameters(), lr=0.1), epochs=9, callbacks=callbacks, resume=resume)

    first = run(2)
    assert len(first) == 3
    assert run(2, tmp_path).column("loss") == first.column("loss")
    assert len(run(4, tmp_path)) == 5


def test_a_finished_run_trains_no_more(tmp_path):
    first = Run(tmp_path).fit()
    again = Run(tmp_path).fit(resume=tmp_path)
    assert again.losses.seen == {}
    assert again.result()[:3] == first.result()[:3]


@pytest.mark.skipif(os.name != "posix", reason="fork and SIGKILL")
def test_sigkill_at_any_moment(tmp_path):
    """A run is killed 20 times at random moments, and started again with the same command until it ends by itself."""
    script = tmp_path / "run.py"
    script.write_text(PROGRAM)
    result = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    losses = {}  # run: {place: loss}
    run, kills = "", 0
    for line in result.stdout.splitlines():
        word, value = line.split()
        if word == "run":
            run = value
        elif word == "killed":
            kills += 1
        else:
            assert losses.setdefault(run, {}).setdefault(word, value) == value, f"two losses at {word}"
    assert kills == 20
    whole = losses.pop("whole")
    assert len(whole) == 60
    assert losses
    for run, seen in losses.items():
        assert seen == whole
        ours, theirs = (io.load(newest_checkpoint(tmp_path / name)) for name in (run, "whole"))
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        assert not list((tmp_path / run).glob(".*"))


PROGRAM = f"""
import os, random, signal, sys, time
import minidl as md
from minidl import nn, optim, train

sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_checkpoint import Loader

class Print(train.Callback):
    def on_batch_end(self, state):
        os.write(1, f"{{state.epoch}}.{{state.batch}} {{state.logs['loss'].hex()}}\\n".encode())

os.fsync = lambda handle: None

def run(folder):
    md.manual_seed(1)
    with md.use_kernels("generic"):
        model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3, rng=1))
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        callbacks = [Print(), train.EMA(model), train.Checkpoint(folder, batches=1)]
        md.fit(model, Loader(), optimizer, epochs=10, callbacks=callbacks, resume=folder)

def start(name):  # a fork starts in a millisecond what a new interpreter starts in a second
    child = os.fork()
    if child == 0:
        run(os.path.join(sys.argv[1], name))
        os._exit(0)
    return child

os.write(1, b"run whole\\n")
began = time.perf_counter()
os.waitpid(start("whole"), 0)
duration = time.perf_counter() - began
moments, kills, runs = random.Random(0), 0, 0
ended = True
while kills < 20 or not ended:
    if ended:
        runs += 1
        os.write(1, f"run {{runs}}\\n".encode())
    child = start(str(runs))
    if kills < 20:
        time.sleep(moments.uniform(0, duration / 6))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    ended = status == 0
    if not ended and not os.WIFSIGNALED(status):
        sys.exit("a run failed")
    if not ended:
        kills += 1
        os.write(1, b"killed 1\\n")
"""


# ---------------------------------------------------------------- files


def test_names_and_how_many_stay(tmp_path):
    Run(tmp_path / "new" / "run", every=4, epochs=3).fit()
    names = sorted(os.listdir(tmp_path / "new" / "run"))
    assert names == [
        "best.safetensors",
        "epoch-0002.safetensors",
        "epoch-0003-batch-000004.safetensors",
        "epoch-0003.safetensors",
    ]
    assert newest_checkpoint(tmp_path / "new" / "run").name == "epoch-0003.safetensors"
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_every_so_many_epochs_and_the_last(tmp_path):
    model = nn.Linear(4, 3, rng=0)
    saving = Checkpoint(tmp_path, epochs=2, keep=9)
    md.fit(model, Loader(), optim.SGD(model.parameters()), epochs=5, callbacks=[saving])
    assert sorted(os.listdir(tmp_path)) == [f"epoch-000{n}.safetensors" for n in (2, 4, 5)]


def test_the_model_of_a_checkpoint_loads_alone(tmp_path):
    model = Net()
    md.fit(model, Loader(), optim.Adam(model.parameters()), epochs=1, callbacks=[Checkpoint(tmp_path)])
    other = Net()
    other.body[0].weight.data = md.zeros(8, 4)
    md.load_weights(other, newest_checkpoint(tmp_path))
    assert all(np.array_equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))


def test_the_best_weights_are_those_that_validation_saw(tmp_path):
    run = Run(tmp_path, epochs=4).fit()
    best = min(range(4), key=run.history.column("val_loss").__getitem__)
    model = Net()
    md.load_weights(model, tmp_path / "best.safetensors")
    metadata = io.load_metadata(tmp_path / "best.safetensors")
    assert metadata["epoch"] == str(best + 1)
    loss = md.evaluate(model, [(examples()[0][:20], examples()[1][:20])])["loss"]
    assert loss == run.history[best]["val_loss"] == float(metadata["val_loss"])


def test_checkpoints_hold_json_and_arrays_only(tmp_path):
    Run(tmp_path).fit()
    path = newest_checkpoint(tmp_path)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    tree = json.loads(io.load_metadata(path)["checkpoint"], parse_constant=refuse)
    assert tree["version"] == 1
    assert [row["epoch"] for row in tree["history"]] == [1, 2, 3, 4]
    assert "model/body.0.weight" in io.load(path)
    assert b"pickle" not in path.read_bytes()


def test_numbers_that_json_does_not_know(tmp_path):
    class Odd(Callback):
        value = (math.nan, math.inf, {"low": -math.inf, "list": [np.float32(0.5), np.int64(3), True, None]})

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, saved):
            self.loaded = saved["value"]

    def run(odd, **options):
        model = nn.Linear(4, 3, rng=0)
        saving = Checkpoint(tmp_path, monitor="loss", batches=1)
        md.fit(model, Loader(), optim.SGD(model.parameters()), callbacks=[odd, saving], **options)
        return odd

    class Stop(Odd):
        def on_batch_end(self, state):
            state.stop = True

    Stop.__name__ = "Odd"
    run(Stop())  # also the best value so far is -inf here
    nan, inf, rest = run(Odd(), resume=tmp_path).loaded
    assert math.isnan(nan)
    assert inf == math.inf
    assert rest == {"low": -math.inf, "list": [0.5, 3, True, None]}


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced elsewhere")
def test_the_disk_has_the_file_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    replace = os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
    )
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("name"), replace(old, new)))
    md.save({"a": np.zeros(3)}, tmp_path / "a.safetensors")
    assert calls == ["file", "name", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, number, call):
    calls = itertools.count()

    def full(*args):
        raise OSError(number, os.strerror(number))

    def break_disk(state):
        if call == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        else:
            real = open

            def half_open(file, mode="r", *rest, **options):
                stream = real(file, mode, *rest, **options)
                if "x" not in mode:
                    return stream
                next(calls)
                stream.write(b"half of it")
                stream.flush()
                return Broken(stream)

            monkeypatch.setattr(io.weights, "open", half_open, raising=False)

    class Broken:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.stream.close()

        write = full

    whole = Run(None).fit()
    with pytest.raises(OSError, match=r"save: expected room for [\d,]+ bytes in .* got: .* unchanged") as caught:
        Run(tmp_path, at=(2, 3), action=break_disk).fit()
    monkeypatch.undo()
    assert caught.value.errno == number
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "epoch-0001.safetensors"]
    assert Run(tmp_path).fit(resume=tmp_path).result() == whole.result()


@pytest.mark.skipif(os.name != "posix", reason="devices")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    place = tmp_path / "pipe"
    os.mkfifo(place)
    for write in (lambda: md.save({"a": np.zeros(1)}, place), lambda: train.History([{"loss": 1.0}]).to_csv(place)):
        with pytest.raises(ArgumentError, match="save: expected the path of a file, got the device"):
            write()
    assert stat.S_ISFIFO(place.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="file size limits")
def test_a_file_larger_than_the_system_allows(tmp_path):
    path = tmp_path / "model.safetensors"
    md.save({"a": np.zeros(10)}, path)
    code = f"""
import resource, numpy as np, minidl as md
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
md.save({{"a": np.zeros(100000)}}, {str(path)!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(r"OSError: .*save: expected room for 800,\d\d\d bytes in", result.stderr)
    assert os.listdir(tmp_path) == [path.name]
    assert md.load(path)["a"].shape == (10,)


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    left = tmp_path / ".epoch-0001.safetensors.0123abcd.draft"
    left.write_bytes(b"half")
    other = tmp_path / ".keep"
    other.write_bytes(b"mine")
    Run(tmp_path, epochs=1).fit()
    assert not left.exists()
    assert other.exists()


# ---------------------------------------------------------------- errors


def test_the_folder_of_another_run_is_refused(tmp_path):
    Run(tmp_path, epochs=1).fit()
    before = newest_checkpoint(tmp_path).read_bytes()
    with pytest.raises(ArgumentError, match=r"no other run's checkpoints in .* Go on from it with fit\(..., resume=folder\)"):
        Run(tmp_path, epochs=1).fit()
    assert newest_checkpoint(tmp_path).read_bytes() == before
    older = tmp_path / "epoch-0000.safetensors"
    older.write_bytes(before)
    with pytest.raises(ArgumentError, match="no other run's checkpoints"):
        Run(tmp_path, epochs=1).fit(resume=older)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArgumentError, match="Checkpoint: expected a folder, got the file"):
        Run(tmp_path / "file").fit()


def test_a_checkpoint_of_something_else_changes_nothing(tmp_path):
    Run(tmp_path, epochs=1).fit()
    path = newest_checkpoint(tmp_path)

    def attempt(match, model=None, **options):
        run = Run(None, **options)
        if model is not None:
            run.model, run.callbacks = model, []
            run.optimizer = optim.Adam(model.parameters(), lr=0.5)
        before = {name: value.tobytes() for name, value in run.model.state_dict().items()}
        with pytest.raises(ValueError, match=match) as caught:
            run.fit(resume=path)
        assert str(path) in str(caught.value)
        assert {name: value.tobytes() for name, value in run.model.state_dict().items()} == before
        assert not run.optimizer.state

    attempt("load_state_dict", nn.Linear(4, 3))
    attempt("SGD", make=optim.SGD)
    attempt("the metrics of the checkpoint|callbacks of the checkpoint", model=Net(), metrics=[])
    attempt("the callbacks of the checkpoint, .*EMA.* too, got none", model=Net())


def test_what_is_no_checkpoint(tmp_path):
    run = Run(None)
    with pytest.raises(FileNotFoundError, match=r"resume: expected a checkpoint, got .*which does not exist"):
        run.fit(resume=tmp_path / "no.safetensors")
    io.save(run.model, tmp_path / "weights.safetensors")
    with pytest.raises(ArgumentError, match=r"holds no training run. Weights alone load with load_weights"):
        run.fit(resume=tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArgumentError, match=r"a .safetensors file or a folder"):
        run.fit(resume=tmp_path / "text")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678" * 4)
    with pytest.raises(ArgumentError, match=r"resume: expected a complete .safetensors file"):
        run.fit(resume=tmp_path / "bad.safetensors")


def test_callbacks_that_cannot_be_saved_are_found_before_training(tmp_path):
    class Rates:
        def step(self):
            raise AssertionError("training began")

    class Odd(Callback):
        def state_dict(self):
            return {"what": object()}

    model = nn.Linear(4, 3, rng=0)
    with pytest.raises(ArgumentError, match="Schedule: expected a schedule with state_dict"):
        md.fit(model, Loader(), optim.SGD(model.parameters()), callbacks=[Schedule(Rates(), "batch"), Checkpoint(tmp_path)])
    with pytest.raises(DtypeError, match="numbers, texts, arrays, lists and dictionaries in run/callbacks/Odd/what"):
        md.fit(model, Loader(), optim.SGD(model.parameters()), callbacks=[Odd(), Checkpoint(tmp_path)])
    assert os.listdir(tmp_path) == []
    assert np.array_equal(model.weight.numpy(), nn.Linear(4, 3, rng=0).weight.numpy())
