"""Checkpoints: everything a training run needs to go on as if nothing had happened, in one file.

A checkpoint is one safetensors file. Its arrays are the weights, the optimizer's state and all other arrays; its
metadata holds the rest as JSON, in which ``{"__array__": name}`` stands for an array and ``{"__float__": "nan"}`` for a
number that JSON does not know. Nothing in it can run code. It is written beside its destination, brought to the disk
and renamed, so that whatever ends the process, the newest file with the name of a checkpoint is a whole one.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minidl import io, random
from minidl.backend import to_device, to_numpy
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.io.weights import CHECKPOINT, MODEL, read_file
from minidl.nn.module import Module
from minidl.ops._arguments import describe, integer
from minidl.tensor import Tensor
from minidl.train.callbacks import Callback, History, Monitor, State

VERSION = 1
_NAME = re.compile(r"epoch-(\d+)(?:-batch-(\d+))?\.safetensors")
_POSITION = ("epoch", "finished", "batch", "walked", "step", "pending")


class Checkpoint(Callback):
    """Save the whole training run after every epoch, or also every so many batches; the last ``keep`` files stay.

    ``fit(..., resume=folder)`` goes on from the newest one, bit for bit as if the run had never ended: a checkpoint
    holds the model, the optimizer, what the other callbacks remember (schedules, EMA, early stopping), the random
    generators, the place in the data, the sums of the running epoch and the history. Files are called
    ``epoch-0003.safetensors`` (after epoch 3) and ``epoch-0004-batch-000120.safetensors`` (within epoch 4), and
    ``load_weights(model, file)`` reads the model alone from them. Ctrl-C saves the batch that was finished last.

    Args:
        folder: where the files go; made if it does not exist.
        epochs: save after every so many epochs, and after the last.
        batches: save also after every so many batches of an epoch; None for not at all.
        keep: how many files stay.
        monitor: a column of the history, such as "val_loss": the weights of its best epoch (those of an EMA, where
            there is one) are kept in ``best.safetensors``, whose metadata tells the epoch's figures.
        mode: "min" or "max"; None takes "min" for names that end in "loss" and "max" for those in "accuracy".

    Notes:
        The place in the data and the order of the examples come from the loader's ``state_dict()``: after a batch the
        place before the next one, after the last the beginning of the next epoch. Of other iterables, as many batches
        are skipped as had been used, which is right when each walk gives the same batches.
    Raises:
        ArgumentError: a folder with the checkpoints of another run, a column that the history lacks or whose better
            end cannot be told from its name.
        OSError: no room on the disk, no permission; the checkpoints of before are whole.

    >>> import os, tempfile
    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> def run(folder, epochs):
    ...     model = nn.Linear(2, 2, rng=0)
    ...     batches = [(np.eye(2, dtype=np.float32), np.array([0, 1]))]
    ...     optimizer = md.optim.Adam(model.parameters())
    ...     saving = md.train.Checkpoint(folder, monitor="loss")
    ...     return md.fit(model, batches, optimizer, epochs=epochs, callbacks=[saving], resume=folder).column("loss")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = run(folder, 2), run(folder, 4)
    ...     print(sorted(os.listdir(folder)))
    ...     with tempfile.TemporaryDirectory() as other:
    ...         print(run(folder, 4) == run(other, 4))
    ['best.safetensors', 'epoch-0003.safetensors', 'epoch-0004.safetensors']
    True
    """

    late = True

    def __init__(
        self,
        folder: str | os.PathLike,
        epochs: int = 1,
        batches: int | None = None,
        keep: int = 2,
        monitor: str | None = None,
        mode: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.epochs = integer("Checkpoint", "epochs", epochs, 1)
        self.batches = None if batches is None else integer("Checkpoint", "batches", batches, 1)
        self.keep = integer("Checkpoint", "keep", keep, 1)
        self._settings = None if monitor is None else ("Checkpoint", monitor, mode)
        self._monitor = None if self._settings is None else Monitor(*self._settings)
        self._place: dict[str, Any] = {}

    def on_train_begin(self, state: State) -> None:
        """Make the folder and find what would go wrong before the work is done."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ArgumentError.of("Checkpoint", "a folder", f"the file {str(self.folder)!r}")
        self.folder.mkdir(parents=True, exist_ok=True)
        newest = newest_checkpoint(self.folder)
        if newest is not None and (state.resumed is None or state.resumed.resolve() != newest.resolve()):
            hint = "Go on from it with fit(..., resume=folder), or choose another folder."
            raise ArgumentError.of("Checkpoint", f"no other run's checkpoints in {str(self.folder)!r}", newest.name, hint)
        if self._settings is not None:
            self._monitor = Monitor(*self._settings)
        for name, callback in _named(state):  # one whose state cannot be saved says so now
            _without_arrays(callback.state_dict(), f"run/callbacks/{name}", {})
        for draft in self.folder.glob(".*.safetensors.*.draft"):  # what a killed process was writing
            with suppress(FileNotFoundError):
                draft.unlink()
        self._place = _place_in_data(state)

    def on_batch_end(self, state: State) -> None:
        """Save when it is time."""
        self._place = _place_in_data(state)
        due = state.stop or (self.batches is not None and state.batch % self.batches == 0)
        if due and not state.walked:  # else the end of the epoch follows at once
            self._save(state)

    def on_validation_begin(self, state: State) -> None:
        """Note where the loaders are, in case validation is broken off."""
        self._place = _place_in_data(state)

    def on_epoch_end(self, state: State) -> None:
        """Save when it is time, first the best weights: an epoch that is done twice writes the same."""
        self._place = _place_in_data(state)
        if self._monitor is not None and self._monitor.improved(state.logs):
            with state.evaluated():
                io.save(state.model, self.folder / "best.safetensors", {k: str(v) for k, v in state.logs.items()})
        due = state.epoch % self.epochs == 0 or state.epoch == state.epochs or state.stop
        if due and state.walked:  # of an epoch that ``stop`` has cut short, the last batch is saved
            self._save(state)

    def on_interrupt(self, state: State) -> None:
        """Save."""
        if state.step or state.pending:
            self._save(state)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {} if self._monitor is None else {"best": self._monitor.best}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from the best value."""
        if self._monitor is not None and "best" in saved:
            self._monitor.best = saved["best"]

    def _save(self, state: State) -> None:
        inside = "" if state.finished == state.epoch else f"-batch-{state.batch:06d}"
        path = self.folder / f"epoch-{state.epoch:04d}{inside}.safetensors"
        write_checkpoint(state, path, self._place)
        for old in sorted(_checkpoints(self.folder), key=_moment)[: -self.keep]:
            old.unlink()


# ---------------------------------------------------------------- files


def newest_checkpoint(path: str | os.PathLike) -> Path | None:
    """The checkpoint that ``resume=path`` means: the file itself, or the newest of a folder; None where there is none yet.

    Raises:
        FileNotFoundError: a file that does not exist.

    >>> import tempfile
    >>> import minidl as md
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(md.train.newest_checkpoint(folder))
    None
    """
    place = Path(path)
    if place.suffix == ".safetensors" and not place.is_dir():
        if not place.is_file():
            raise FileNotFoundError(f"resume: expected a checkpoint, got {str(place)!r}, which does not exist.")
        return place
    if place.exists() and not place.is_dir():
        raise ArgumentError.of("resume", "a .safetensors file or a folder", repr(str(place)))
    return max(_checkpoints(place), key=_moment, default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("epoch-*.safetensors") if _NAME.fullmatch(path.name)]


def _moment(path: Path) -> tuple[int, float]:
    """(epoch, batch) of a file's name; an epoch's end comes after all of its batches."""
    epoch, batch = _NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    return int(epoch), float("inf") if batch is None else int(batch)


def write_checkpoint(state: State, path: Path, place: Mapping[str, Any]) -> None:
    """Write all of a training run to one file; ``place`` is ``_place_in_data`` after the last finished batch."""
    gradients = {}
    if state.pending:
        named = state.model.named_parameters()
        gradients = {name: np.array(p._grad.numpy(), order="C") for name, p in named if p._grad is not None}
    tree = {
        "version": VERSION,
        "position": {name: getattr(state, name) for name in _POSITION},
        "optimizer": state.optimizer.state_dict(),
        "gradients": gradients,
        "random": random_state(state.model) | {"minidl": place["minidl"]},
        "loaders": place["loaders"],
        "callbacks": {name: callback.state_dict() for name, callback in _named(state)},
        "totals": state.totals.state_dict() if state.finished < state.epoch else None,
        "history": state.history.rows,
    }
    arrays: dict[str, np.ndarray] = {MODEL + name: array for name, array in state.model.state_dict().items()}
    text = json.dumps(_without_arrays(tree, "run", arrays), allow_nan=False)
    io.save(arrays, path, {CHECKPOINT: text})


def restore(state: State, path: Path) -> None:
    """Bring a run to where a checkpoint was written; the model and the optimizer stay as they were when it does not fit.

    Raises:
        ArgumentError: a file that is no checkpoint, or one of another model, optimizer or other callbacks.
        ShapeError: arrays of other shapes.
    """
    arrays, texts = read_file("resume", path)
    if CHECKPOINT not in texts:
        hint = "Weights alone load with load_weights(model, path)."
        raise ArgumentError.of("resume", "a checkpoint", f"{str(path)!r}, which holds no training run", hint)
    tree = _with_arrays(json.loads(texts[CHECKPOINT]), arrays)
    if tree["version"] != VERSION:
        raise ArgumentError.of("resume", f"a checkpoint of version {VERSION}", f"version {tree['version']}")
    before = state.model.state_dict(), state.optimizer.state_dict()
    try:
        weights = {name.removeprefix(MODEL): value for name, value in arrays.items() if name.startswith(MODEL)}
        state.model.load_state_dict(weights)
        state.optimizer.load_state_dict(tree["optimizer"])
        _restore_parts(state, tree)
    except (ArgumentError, ShapeError, DtypeError) as error:
        state.model.load_state_dict(before[0])
        state.optimizer.load_state_dict(before[1])
        raise type(error)(f"{error} Checkpoint: {str(path)!r}.") from error


def _restore_parts(state: State, tree: dict[str, Any]) -> None:
    for name in _POSITION:
        setattr(state, name, tree["position"][name])
    state.history.rows[:] = tree["history"]
    if tree["totals"] is not None:
        state.totals.load_state_dict(tree["totals"])
    own = dict(_named(state))
    forgotten = [name for name, saved in tree["callbacks"].items() if saved and name not in own]
    if forgotten:
        raise ArgumentError.of(
            "resume", f"the callbacks of the checkpoint, {', '.join(forgotten)} too", ", ".join(own) or "none"
        )
    for name, callback in own.items():
        if tree["callbacks"].get(name):
            callback.load_state_dict(tree["callbacks"][name])
    parameters = dict(state.model.named_parameters())
    for name, gradient in tree["gradients"].items():
        parameters[name]._grad = Tensor.wrap(to_device(gradient, parameters[name].device))
    for name, loader in state.loaders.items():
        if name in tree["loaders"]:
            if not hasattr(loader, "load_state_dict"):
                raise ArgumentError.of("resume", f"{name} that can go on, as in the checkpoint", describe(loader))
            loader.load_state_dict(tree["loaders"][name])
    set_random_state(state.model, tree["random"])


def _named(state: State) -> Iterator[tuple[str, Callback]]:
    """The callbacks by name: Schedule, Schedule-2, ..."""
    seen: dict[str, int] = {}
    for callback in state.callbacks:
        if not isinstance(callback, History):
            kind = type(callback).__name__
            seen[kind] = seen.get(kind, 0) + 1
            yield (kind if seen[kind] == 1 else f"{kind}-{seen[kind]}"), callback


def _place_in_data(state: State) -> dict[str, Any]:
    """Where the loaders are, and minidl's generator, from which a loader draws when it begins an epoch.

    Noted after every batch, because when Ctrl-C comes the loader may be ahead of what was trained on.
    """
    loaders = {name: loader.state_dict() for name, loader in state.loaders.items() if hasattr(loader, "state_dict")}
    return {"loaders": loaders, "minidl": dict(random.generator().bit_generator.state)}


# ---------------------------------------------------------------- random numbers


def random_state(model: Module) -> dict[str, Any]:
    """The state of minidl's generator and of those that modules hold as attributes, such as dropout's."""
    return {
        "minidl": dict(random.generator().bit_generator.state),
        "modules": {name: dict(rng.bit_generator.state) for name, rng in _generators(model)},
    }


def set_random_state(model: Module, saved: Mapping[str, Any]) -> None:
    """Bring all generators back to where ``random_state`` saw them."""
    own = random.generator()
    if own.bit_generator.state["bit_generator"] == saved["minidl"]["bit_generator"]:
        own.bit_generator.state = saved["minidl"]  # the same object: whoever shares it goes on too
    else:
        random.set_state(dict(saved["minidl"]))
    generators = dict(_generators(model))
    if set(generators) != set(saved["modules"]):
        expected, got = (", ".join(sorted(names)) or "none" for names in (saved["modules"], generators))
        raise ArgumentError.of("resume", f"modules with the generators {expected}", got, "Give dropout layers the same rng.")
    for name, rng in generators.items():
        rng.bit_generator.state = saved["modules"][name]


def _generators(model: Module) -> Iterator[tuple[str, np.random.Generator]]:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, np.random.Generator):
                yield f"{path}.{name}" if path else name, value


# ---------------------------------------------------------------- a tree as JSON and arrays


def _without_arrays(value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` as JSON writes it; its arrays move to ``arrays`` under the name of their place."""
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(item, f"{place}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(item, f"{place}/{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}
    if isinstance(value, Tensor):
        value = to_numpy(value._array)
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"__array__": place}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise DtypeError.of("Checkpoint", f"numbers, texts, arrays, lists and dictionaries in {place}", describe(value))


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    return [_with_arrays(item, arrays) for item in value] if isinstance(value, list) else value
