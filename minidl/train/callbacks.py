"""What may watch and steer training: the callback's moments, history, early stopping, learning-rate schedules."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minidl.errors import ArgumentError
from minidl.io.weights import write_file
from minidl.nn.module import Module
from minidl.ops._arguments import choice, integer, number
from minidl.train.totals import Totals


@dataclass
class State:
    """Where training stands; ``fit`` hands the same object to every callback.

    Attributes:
        model: what is trained.
        optimizer: what trains it.
        epochs: how many epochs were asked for.
        epoch: the running one, counted from 1.
        finished: how many epochs are complete, validation included.
        batches: batches per epoch, None where ``len`` does not say.
        batch: the last finished batch of this epoch, counted from 1.
        walked: whether all batches of this epoch are done, so that only its validation is left.
        step: the optimizer's steps so far, over all epochs.
        pending: examples whose gradients wait for the next step (with ``accumulate``).
        logs: after a batch, loss and accuracy so far in this epoch; after an epoch, its row of the history.
        stop: set it to True to end training after this batch or epoch.
        history: the rows of the finished epochs.
        totals: the sums of the running epoch.
        loaders: the iterables of training and validation batches.
        callbacks: all that watch, in the order in which they are called.
        average: the EMA whose weights are evaluated instead of the model's own.
        resumed: the checkpoint that training went on from.

    >>> import minidl as md
    >>> state = md.train.State(model=None, optimizer=None, epochs=3)
    >>> state.epoch, state.epochs, state.stop
    (0, 3, False)
    """

    model: Module
    optimizer: Any
    epochs: int
    epoch: int = 0
    finished: int = 0
    batches: int | None = None
    batch: int = 0
    walked: bool = False
    step: int = 0
    pending: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    stop: bool = False
    history: History = field(default_factory=lambda: History())
    totals: Totals = field(default_factory=Totals)
    loaders: dict[str, Iterable] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()
    average: Any = None
    resumed: Path | None = None

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The model with the weights that validation judges: inside the block those of an EMA, where there is one."""
        if self.average is None:
            yield
        else:
            with self.average.swapped():
                yield


class Callback:
    """Does nothing; override the moments that matter.

    ``on_train_end`` also runs when training ends early, by ``stop``, an error or Ctrl-C. A callback that remembers
    something says so in ``state_dict``, and takes it back in ``load_state_dict`` after ``on_train_begin``, so that
    checkpoints hold it.

    Attributes:
        late: call this one after all others, when the history has the epoch's row.

    >>> import minidl as md
    >>> class StopAt(md.train.Callback):
    ...     def __init__(self, accuracy):
    ...         self.accuracy = accuracy
    ...     def on_epoch_end(self, state):
    ...         state.stop = state.logs["accuracy"] >= self.accuracy
    """

    late = False

    def on_train_begin(self, state: State) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, state: State) -> None:
        """Before an epoch's first batch."""

    def on_step_end(self, state: State) -> None:
        """After the optimizer's step, which with ``accumulate`` comes once in several batches."""

    def on_batch_end(self, state: State) -> None:
        """After a batch, and the step if there was one."""

    def on_validation_begin(self, state: State) -> None:
        """After an epoch's last batch; validation follows, where there are batches for it."""

    def on_epoch_end(self, state: State) -> None:
        """After an epoch and its validation; what is added to ``state.logs`` appears in the history."""

    def on_interrupt(self, state: State) -> None:
        """After Ctrl-C, before ``on_train_end``."""

    def on_train_end(self, state: State) -> None:
        """After the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What has to be remembered: numbers, texts, arrays, lists and dictionaries of them."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""


class History(Callback, Sequence):
    """One row per finished epoch, as dictionaries: epoch, loss, accuracy, val_loss, val_accuracy, seconds, images_per_second.

    Columns that have no meaning (the accuracy of a regression) are not there. ``fit`` returns one.

    Attributes:
        rows: the dictionaries.
        interrupted: whether Ctrl-C ended training.

    >>> import minidl as md
    >>> history = md.train.History([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    >>> len(history), history[-1]["loss"], history.column("loss")
    (2, 0.25, [0.5, 0.25])
    """

    def __init__(self, rows: Sequence[dict[str, float]] = ()) -> None:
        self.rows = list(rows)
        self.interrupted = False

    def on_epoch_end(self, state: State) -> None:
        """Keep the row."""
        self.rows.append(dict(state.logs))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they came up."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[float]:
        """One column, an entry per epoch; NaN where an epoch lacks it.

        Raises:
            ArgumentError: a column that no row has.
        """
        if name not in self.columns:
            raise ArgumentError.of("History.column", f"one of {', '.join(self.columns) or 'no columns'}", repr(name))
        return [row.get(name, math.nan) for row in self.rows]

    def to_csv(self, path: str | Path) -> None:
        """Write a table with a header line, which every spreadsheet opens; a file of before stays whole until then."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_file(Path(path), text.getvalue().encode())


class Monitor:
    """Reads one column of the logs and tells when it is better than ever before."""

    def __init__(self, op: str, monitor: str, mode: str | None, min_delta: float = 0.0) -> None:
        if mode is None:
            mode = "min" if monitor.endswith("loss") else "max" if monitor.endswith("accuracy") else None
        self.op = op
        self.name = monitor
        self.sign = {"min": -1, "max": 1}[choice(op, "mode", mode, ("min", "max"))]
        self.min_delta = number(op, "min_delta", min_delta, 0)
        self.best = -math.inf

    def improved(self, logs: dict[str, float]) -> bool:
        """Whether the value is better by more than min_delta; NaN never is."""
        if self.name not in logs:
            hint = "Pass validation= to fit." if self.name.startswith("val_") else ""
            raise ArgumentError.of(self.op, f"monitor as one of {', '.join(logs)}", repr(self.name), hint)
        value = self.sign * logs[self.name]
        if not value > self.best + self.min_delta:
            return False
        self.best = value
        return True


class EarlyStopping(Callback):
    """Stop when a column of the history has not improved for some epochs, and go back to the best weights.

    Args:
        monitor: the column: "val_loss", "val_accuracy", "loss", ...
        patience: after how many epochs in a row without improvement training ends.
        min_delta: how much better counts as better.
        mode: "min" or "max"; None takes "min" for names that end in "loss" and "max" for those in "accuracy".
        restore_best: when training ends, for whatever reason, give the model the weights and buffers of its best epoch.

    Attributes:
        best_epoch: the epoch of the best value, 0 before the first.

    Raises:
        ArgumentError: patience below 1, a negative min_delta, a column whose better end cannot be told from its name.
    Source:
        Prechelt, "Early Stopping - But When?", 1998.

    >>> import minidl as md
    >>> from minidl import nn
    >>> state = md.train.State(nn.Linear(2, 1), optimizer=None, epochs=9)
    >>> stopping = md.train.EarlyStopping("loss", patience=2)
    >>> for loss in (0.5, 0.4, 0.6, 0.7):  # as fit does
    ...     state.epoch, state.logs = state.epoch + 1, {"loss": loss}
    ...     stopping.on_epoch_end(state)
    >>> state.stop, stopping.best_epoch
    (True, 2)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        self.patience = integer("EarlyStopping", "patience", patience, 1)
        self.restore_best = restore_best
        self.best_epoch = 0
        self._settings = ("EarlyStopping", monitor, mode, min_delta)
        self._monitor = Monitor(*self._settings)
        self._weights: dict[str, Any] | None = None
        self._state: State | None = None

    def on_train_begin(self, state: State) -> None:
        """Forget an earlier training."""
        self._monitor = Monitor(*self._settings)
        self._weights = None
        self._state = state
        self.best_epoch = 0

    def on_epoch_end(self, state: State) -> None:
        """Remember the weights of a better epoch, or count down."""
        if self._monitor.improved(state.logs):
            self.best_epoch = state.epoch
            if self.restore_best:
                with state.evaluated():
                    self._weights = state.model.state_dict()
        elif state.epoch - self.best_epoch >= self.patience:
            state.stop = True

    def on_train_end(self, state: State) -> None:
        """Restore."""
        if self._weights is not None:
            state.model.load_state_dict(self._weights)
            state.average = None  # an EMA shall not put its last weights in the place of the best
        self._weights = self._state = None

    def state_dict(self) -> dict[str, Any]:
        """The best value, when it was, and its weights."""
        weights = None if self._weights is None else dict(self._weights)
        return {"best": self._monitor.best, "best_epoch": self.best_epoch, "weights": weights}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on; a training that had stopped has stopped, unless ``patience`` is longer now."""
        self._monitor.best = saved["best"]
        self.best_epoch = saved["best_epoch"]
        self._weights = saved["weights"] if self.restore_best else None
        if self._state is not None and self._state.finished > 0 and self._state.finished - self.best_epoch >= self.patience:
            self._state.stop = True


class Schedule(Callback):
    """Step a learning-rate schedule after every epoch or every step of the optimizer, and log the rate as ``lr``.

    Args:
        scheduler: one of ``minidl.optim``'s schedules, or anything with ``step()``.
        every: "epoch" or "batch", which is the optimizer's step; which of them the schedule was made for.
        monitor: a column of the history to pass to ``step(value)``, as ReduceLROnPlateau wants; only for "epoch".

    Raises:
        ArgumentError: another word for every, a monitor with every='batch', a column that the history lacks.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2, rng=0)
    >>> optimizer = md.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = [(np.eye(2, dtype=np.float32), np.array([0, 1]))]
    >>> schedule = md.train.Schedule(md.optim.StepLR(optimizer, step_size=1, gamma=0.5))
    >>> md.fit(model, batches, optimizer, epochs=3, callbacks=[schedule]).column("lr")
    [0.1, 0.05, 0.025]
    """

    def __init__(self, scheduler: Any, every: str = "epoch", monitor: str | None = None) -> None:
        self.scheduler = scheduler
        self.every = choice("Schedule", "every", every, ("epoch", "batch"))
        self.monitor = monitor
        if monitor is not None and every == "batch":
            raise ArgumentError.of("Schedule", "every='epoch' with a monitor", "every='batch'")

    def on_step_end(self, state: State) -> None:
        """Step."""
        if self.every == "batch":
            self.scheduler.step()

    def on_epoch_end(self, state: State) -> None:
        """Log the rate of this epoch (its last, when it changes every batch), then step."""
        state.logs["lr"] = state.optimizer.param_groups[0]["lr"]
        if self.every == "epoch" and self.monitor is None:
            self.scheduler.step()
        elif self.every == "epoch":
            if self.monitor not in state.logs:
                raise ArgumentError.of("Schedule", f"monitor as one of {', '.join(state.logs)}", repr(self.monitor))
            self.scheduler.step(state.logs[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        """The schedule's.

        Raises:
            ArgumentError: a schedule that cannot tell its state.
        """
        if not (hasattr(self.scheduler, "state_dict") and hasattr(self.scheduler, "load_state_dict")):
            name = type(self.scheduler).__name__
            raise ArgumentError.of("Schedule", "a schedule with state_dict and load_state_dict, for checkpoints", name)
        return {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from the schedule's state."""
        self.scheduler.load_state_dict(saved["scheduler"])
