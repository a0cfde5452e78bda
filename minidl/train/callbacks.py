"""What may watch and steer training: progress, history, early stopping, checkpoints, learning-rate schedules."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minidl import io
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.ops._arguments import choice, integer, number


@dataclass
class State:
    """Where training stands; ``fit`` hands the same object to every callback.

    Attributes:
        model: what is trained.
        optimizer: what trains it.
        epochs: how many epochs were asked for.
        epoch: the running one, counted from 1.
        batches: batches per epoch, None where ``len`` does not say.
        batch: the last finished batch of this epoch, counted from 1.
        logs: after a batch, loss and accuracy so far in this epoch; after an epoch, its row of the history.
        stop: set it to True to end training after this batch or epoch.

    >>> import minidl as md
    >>> state = md.train.State(model=None, optimizer=None, epochs=3)
    >>> state.epoch, state.epochs, state.stop
    (0, 3, False)
    """

    model: Module
    optimizer: Any
    epochs: int
    epoch: int = 0
    batches: int | None = None
    batch: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    stop: bool = False


class Callback:
    """Does nothing; override the moments that matter.

    ``on_train_end`` also runs when training ends early, by ``stop``, an error or Ctrl-C.

    >>> import minidl as md
    >>> class StopAt(md.train.Callback):
    ...     def __init__(self, accuracy):
    ...         self.accuracy = accuracy
    ...     def on_epoch_end(self, state):
    ...         state.stop = state.logs["accuracy"] >= self.accuracy
    """

    def on_train_begin(self, state: State) -> None:
        """Before the first epoch."""

    def on_epoch_begin(self, state: State) -> None:
        """Before an epoch's first batch."""

    def on_batch_end(self, state: State) -> None:
        """After the optimizer's step."""

    def on_epoch_end(self, state: State) -> None:
        """After an epoch and its validation; what is added to ``state.logs`` appears in the history."""

    def on_train_end(self, state: State) -> None:
        """After the last epoch."""


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
        """Write a table with a header line, which every spreadsheet opens."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


class Progress(Callback):
    """A bar that runs through each epoch, where standard error is a terminal, and one printed line per epoch.

    The line: ``epoch 3/10  loss 0.1234  accuracy 0.9650  val_loss 0.1300  val_accuracy 0.9610  12,345 images/s``.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 2, rng=0)
    >>> optimizer = md.optim.SGD(model.parameters(), lr=0.1)
    >>> batches = [(np.eye(2, dtype=np.float32), np.array([0, 1]))]
    >>> _ = md.fit(model, batches, optimizer, epochs=2, callbacks=[md.train.Progress()])
    epoch 1/2  loss ...  accuracy ...  ... images/s
    epoch 2/2  loss ...  accuracy ...  ... images/s
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def on_epoch_begin(self, state: State) -> None:
        """Open the bar."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.batches, desc=f"epoch {state.epoch}/{state.epochs}", unit="batch", leave=False)

    def on_batch_end(self, state: State) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in state.logs.items()}, refresh=False)
            self._bar.update()

    def on_epoch_end(self, state: State) -> None:
        """Close the bar and print the line."""
        self._close()
        parts = [f"epoch {state.epoch}/{state.epochs}"]
        parts += [f"{name} {value:.4f}" for name, value in state.logs.items() if name.endswith(("loss", "accuracy"))]
        print("  ".join(parts) + f"  {state.logs['images_per_second']:,.0f} images/s", flush=True)

    def on_train_end(self, state: State) -> None:
        """Close the bar that an interruption left open."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Monitor:
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
        self._monitor = _Monitor(*self._settings)
        self._weights: dict[str, Any] | None = None

    def on_train_begin(self, state: State) -> None:
        """Forget an earlier training."""
        self._monitor = _Monitor(*self._settings)
        self._weights = None
        self.best_epoch = 0

    def on_epoch_end(self, state: State) -> None:
        """Remember the weights of a better epoch, or count down."""
        if self._monitor.improved(state.logs):
            self.best_epoch = state.epoch
            if self.restore_best:
                self._weights = state.model.state_dict()
        elif state.epoch - self.best_epoch >= self.patience:
            state.stop = True

    def on_train_end(self, state: State) -> None:
        """Restore."""
        if self._weights is not None:
            state.model.load_state_dict(self._weights)
            self._weights = None


class Checkpoint(Callback):
    """Save the model after each epoch to one safetensors file, which the next epoch overwrites.

    The file's metadata names the epoch and its figures. Folders that do not exist are made.

    Args:
        path: the file.
        monitor: the column of the history that says which epoch is best.
        save_best_only: save only epochs that are better than all before.
        mode: "min" or "max"; None takes "min" for names that end in "loss" and "max" for those in "accuracy".

    Raises:
        ArgumentError: a column that the history lacks, or whose better end cannot be told from its name.

    >>> import os, tempfile
    >>> import minidl as md
    >>> from minidl import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "runs", "best.safetensors")
    ...     checkpoint = md.train.Checkpoint(path, monitor="loss", save_best_only=True)
    ...     state = md.train.State(nn.Linear(2, 1), optimizer=None, epochs=2)
    ...     checkpoint.on_train_begin(state)
    ...     for loss in (0.25, 0.5):  # as fit does
    ...         state.epoch, state.logs = state.epoch + 1, {"epoch": state.epoch + 1, "loss": loss}
    ...         checkpoint.on_epoch_end(state)
    ...     md.io.load_metadata(path)["epoch"]
    '1'
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", save_best_only: bool = False, mode: str | None = None
    ) -> None:
        self.path = Path(path)
        self.save_best_only = save_best_only
        self._settings = ("Checkpoint", monitor, mode)
        self._monitor = _Monitor(*self._settings) if save_best_only else None

    def on_train_begin(self, state: State) -> None:
        """Make the folder, so that a wrong path is found before the work is done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.save_best_only:
            self._monitor = _Monitor(*self._settings)

    def on_epoch_end(self, state: State) -> None:
        """Save."""
        if self._monitor is None or self._monitor.improved(state.logs):
            io.save(state.model, self.path, {name: str(value) for name, value in state.logs.items()})


class Schedule(Callback):
    """Step a learning-rate schedule after every epoch or every batch, and log the rate as ``lr``.

    Args:
        scheduler: one of ``minidl.optim``'s schedules, or anything with ``step()``.
        every: "epoch" or "batch"; which of them the schedule was made for.
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

    def on_batch_end(self, state: State) -> None:
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
