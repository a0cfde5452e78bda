"""The training loop, and the two loops that only look: evaluate and predict.

``fit`` is what one writes by hand (see the README), plus bookkeeping: averages, validation, callbacks.
Copy it and change it when it does not fit; nothing else in minidl depends on it.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np

from minidl import backend, optim
from minidl.context import no_grad
from minidl.data.loader import as_batch
from minidl.errors import ArgumentError, DtypeError, Located, ShapeError
from minidl.functional import cross_entropy
from minidl.nn.module import Module
from minidl.ops._arguments import describe, integer, number
from minidl.tensor import Tensor
from minidl.train.callbacks import Callback, History, State
from minidl.train.checkpoint import newest_checkpoint, restore
from minidl.train.diagnosis import first_not_finite
from minidl.train.totals import Metrics, Totals, named

Loss = Callable[[Tensor, Tensor], Tensor]


class NonFiniteLoss(Located, FloatingPointError):
    """The loss became NaN or infinite; the message names what was the first to do so.

    The model is the one from before the batch, apart from running statistics, which have seen it; ``history`` holds the
    epochs before.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 1, rng=0)
    >>> batches = [(np.full((4, 2), np.nan, np.float32), np.zeros((4, 1), np.float32))]
    >>> try:
    ...     md.fit(model, batches, md.optim.SGD(model.parameters(), lr=0.1), md.mse_loss)
    ... except md.train.NonFiniteLoss as error:
    ...     print(error)
    fit: expected a finite loss, got nan in epoch 1, batch 1; the first that is not finite is the input. Look for ...
    """

    history: History


def fit(
    model: Module,
    batches: Iterable,
    optimizer: Any,
    loss: Loss = cross_entropy,
    epochs: int = 1,
    validation: Iterable | None = None,
    callbacks: Sequence[Callback] = (),
    metrics: Metrics = None,
    accumulate: int = 1,
    clip_grad_norm: float | None = None,
    resume: str | PathLike | None = None,
) -> History:
    """Train a model.

    Args:
        model: any Module; called as ``model(x)``. While it trains it is in training mode, afterwards in the mode of before.
        batches: an iterable of pairs (x, y) of arrays or tensors, walked once per epoch: a DataLoader, a list, ...
            Batches go to the device of the model.
        optimizer: steps after every batch.
        loss: ``loss(model(x), y)``, a tensor of one element, the mean over the batch. For classes of unequal size:
            ``nn.CrossEntropyLoss(weight=md.train.class_weights(labels))``.
        epochs: how often to walk through the batches.
        validation: batches to evaluate on after every epoch, in evaluation mode and without gradients.
        callbacks: what shall watch: ``Progress()``, ``EarlyStopping(...)``, ``Schedule(...)``, ``Checkpoint(...)``, ...
        metrics: more columns of the history, a list or a dictionary by name: functions of the confusion matrix over all
            examples (``md.train.f1``) and metrics that take in batches (``md.train.TopK(5)``, ``md.train.ROCAUC()``).
        accumulate: step once in so many batches, as if they were one; each example counts the same.
        clip_grad_norm: the largest norm of all gradients together; longer ones are shortened before the step.
        resume: go on from a checkpoint: the file, or the folder of ``Checkpoint``, of which the newest is taken.
            A folder without any begins anew, so that the same command starts a run and continues it.

    Returns:
        The history: per epoch the mean loss over all examples and, for integer labels of shape (N, ...) with outputs of
        shape (N, C, ...), the accuracy, both as they were while training, then the metrics; the same on the validation
        batches (``val_``); seconds; images (examples) per second of training. Ctrl-C ends training after the running
        step and returns the finished epochs.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite.
        ArgumentError: an epoch without batches, a generator, which cannot be walked again, for several epochs, or a
            checkpoint that does not fit.
        ShapeError: x and y of different lengths, or a loss that is not one number.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn, optim
    >>> x = np.random.default_rng(0).normal(size=(64, 2))
    >>> batches = md.data.DataLoader((x, (x[:, 0] > x[:, 1]).astype(int)), batch_size=16, shuffle=True, rng=0)
    >>> model = nn.Linear(2, 2, rng=0)
    >>> history = md.fit(model, batches, optim.SGD(model.parameters(), lr=0.5), epochs=5, metrics=[md.train.f1])
    >>> history[-1]["accuracy"] > 0.9, history[-1]["f1"] > 0.9
    (True, True)
    """
    epochs, accumulate = integer("fit", "epochs", epochs, 0), integer("fit", "accumulate", accumulate, 1)
    clip = math.inf if clip_grad_norm is None else number("fit", "clip_grad_norm", clip_grad_norm, 0)
    if isinstance(callbacks, Callback):  # also a History, which is a sequence: of rows
        raise DtypeError.of("fit", "a list of callbacks", type(callbacks).__name__, "Write callbacks=[...].")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = "Make callbacks of your own as subclasses of Callback; a learning-rate schedule goes into Schedule(...)."
            raise DtypeError.of("fit", "callbacks", describe(callback), hint)
    for name, given in (("batches", batches), ("validation", validation)):
        if isinstance(given, Iterator) and epochs > 1:
            expected = f"{name} that can be walked once per epoch, {epochs} times"
            raise ArgumentError.of(
                "fit", expected, f"a {type(given).__name__}", "Pass a list, a DataLoader or another iterable."
            )
    figures = named("fit", metrics)
    state = State(model, optimizer, epochs, batches=len(batches) if isinstance(batches, Sized) else None)
    state.loaders = {"batches": batches} if validation is None else {"batches": batches, "validation": validation}
    state.resumed = None if resume is None else newest_checkpoint(resume)
    state.totals = Totals(figures)
    state.callbacks = [*(c for c in callbacks if not c.late), state.history, *(c for c in callbacks if c.late)]
    with in_mode("fit", model, training=True):
        for callback in state.callbacks:
            callback.on_train_begin(state)
        try:
            if state.resumed is not None:
                restore(state, state.resumed)
            while state.finished < epochs and not state.stop:
                _run_epoch(state, batches, loss, validation, figures, accumulate, clip)
        except KeyboardInterrupt:
            state.history.interrupted = True
            for callback in state.callbacks:
                callback.on_interrupt(state)
        except NonFiniteLoss as error:
            error.history = state.history
            raise
        finally:
            for callback in state.callbacks:
                callback.on_train_end(state)
    return state.history


def _run_epoch(
    state: State, batches: Iterable, loss: Loss, validation: Iterable | None, metrics: dict, accumulate: int, clip: float
) -> None:
    """One epoch, or the rest of one that a checkpoint was written in."""
    if state.epoch == state.finished:
        with _unbroken():
            state.epoch += 1
            state.batch, state.walked, state.logs, state.totals = 0, False, {}, Totals(metrics)
            for callback in state.callbacks:
                callback.on_epoch_begin(state)
    totals = state.totals
    for x, y in () if state.walked else pairs("fit", _remaining(batches, state.batch), state.model, state.batch > 0):
        with _unbroken():
            _train_on(state, x, y, loss, accumulate, clip)
            for callback in state.callbacks:
                callback.on_batch_end(state)
        if state.stop:
            break
    else:
        state.walked = True
    with _unbroken():
        if state.pending:
            _step(state, accumulate, clip)
        trained = totals.seconds
        for callback in state.callbacks:
            callback.on_validation_begin(state)
    row = {"epoch": state.epoch, **totals.figures()}
    if validation is not None:
        with state.evaluated():
            figures = evaluate(state.model, validation, loss, metrics)
        row |= {f"val_{name}": value for name, value in figures.items()}
    with _unbroken():
        state.logs = row | {"seconds": totals.seconds, "images_per_second": totals.examples / trained}
        state.finished = state.epoch
        for callback in state.callbacks:
            callback.on_epoch_end(state)


def _train_on(state: State, x: Tensor, y: Tensor, loss: Loss, accumulate: int, clip: float) -> None:
    """Forward, backward and, when it is time, the step."""
    if not state.pending:
        state.optimizer.zero_grad()
    output = state.model(x)
    value = loss(output, y)
    if not math.isfinite(state.totals.add("fit", value, output, y)):
        place = f"{value.item()} in epoch {state.epoch}, batch {state.batch + 1}"
        first, hint = first_not_finite(state.model, x, y)
        raise NonFiniteLoss.of("fit", "a finite loss", f"{place}; the first that is not finite is {first}", hint)
    (value if accumulate == 1 else value * len(y)).backward()
    state.pending += len(y)
    state.batch += 1
    state.walked = state.batch == state.batches
    state.logs = state.totals.means()
    if state.batch % accumulate == 0 or state.batch == state.batches:
        _step(state, accumulate, clip)


def _step(state: State, accumulate: int, clip: float) -> None:
    """Step with the mean gradient over the examples since the last step."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"] if p._grad is not None]
    for p in parameters if accumulate > 1 else ():
        p._grad = Tensor.wrap(p._grad._array * p.dtype.type(1 / state.pending))
    if clip < math.inf:
        optim.clip_grad_norm(parameters, clip)
    state.optimizer.step()
    state.step += 1
    state.pending = 0
    for callback in state.callbacks:
        callback.on_step_end(state)


def _remaining(batches: Iterable, done: int) -> Iterable:
    """The batches after the first ``done``; a loader that was told its place knows them itself."""
    return batches if hasattr(batches, "load_state_dict") else islice(batches, done, None)


@contextmanager
def _unbroken() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block, so that no step is left half done."""
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def evaluate(model: Module, batches: Iterable, loss: Loss = cross_entropy, metrics: Metrics = None) -> dict[str, float]:
    """The mean loss, for class labels the accuracy, and metrics over batches; in evaluation mode and without gradients.

    Arguments as for ``fit``. The model's mode is afterwards what it was before.

    Returns:
        ``{"loss": ..., "accuracy": ...}``, without accuracy where there are no class labels, and the metrics by name.
    Raises:
        ArgumentError: no batches, or batches that are no pairs.
        ShapeError: x and y of different lengths, or a loss that is not one number.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> md.evaluate(nn.Identity(), [(np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0, 0]))])["accuracy"]
    0.5
    """
    totals = Totals(named("evaluate", metrics))
    with in_mode("evaluate", model, training=False), no_grad():
        for x, y in pairs("evaluate", batches, model):
            output = model(x)
            totals.add("evaluate", loss(output, y), output, y)
    return totals.figures()


def predict(model: Module, batches: Any, batch_size: int = 128) -> np.ndarray:
    """The outputs of a model for all examples, as one NumPy array; in evaluation mode and without gradients.

    Args:
        model: any Module that returns one tensor with a row per example.
        batches: an array or tensor of inputs (N, ...), of which ``batch_size`` examples are computed at a time; NumPy
            arrays are brought into the form that DataLoader gives (uint8 images become floats in [0, 1]). Or an
            iterable of batches: inputs x, or pairs (x, y), of which y is not used.
        batch_size: examples at a time; has no effect on an iterable.

    Returns:
        (N, ...), a row per example, in the examples' order.
    Raises:
        ArgumentError: an iterable without batches.
        ShapeError: an output that does not have one row per example.
        DtypeError: a model that returns something else than one tensor.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> md.predict(nn.ReLU(), np.array([[-1.0, 2.0], [3.0, -4.0]]))
    array([[0., 2.],
           [3., 0.]], dtype=float32)
    """
    batch_size = integer("predict", "batch_size", batch_size, 1)
    outputs = []
    with in_mode("predict", model, training=False), no_grad():
        for x in _inputs(model, batches, batch_size):
            output = model(x)
            if not isinstance(output, Tensor):
                raise DtypeError.of("predict", "one tensor from the model", describe(output))
            if output.shape[:1] != x.shape[:1]:
                raise ShapeError.of("predict", f"one output row for each of {len(x)} examples", f"shape {output.shape}")
            outputs.append(output.numpy())
    if not outputs:
        raise ArgumentError.of("predict", "at least one batch", "none")
    return np.concatenate(outputs)


@contextmanager
def in_mode(op: str, model: Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside the block; afterwards every module's own mode of before, frozen ones included."""
    if not isinstance(model, Module):
        raise DtypeError.of(op, "a Module", describe(model))
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def pairs(op: str, batches: Iterable, model: Module, walked: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as tensors on the model's device; without examples they are passed over, but not all of them may be."""
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ArgumentError.of(
                op, "batches as pairs (x, y)", describe(batch), "Make them with DataLoader((x, y), batch_size=32)."
            )
        x, y = (_tensor(value, model) for value in batch)
        if x.ndim == 0 or y.shape[:1] != x.shape[:1]:
            hint = "Make batches with DataLoader(..., batch_size=32)."
            raise ShapeError.of(op, "x and y with one row per example", f"shapes {x.shape} and {y.shape}", hint)
        if len(x) > 0:
            walked = True
            yield x, y
    if not walked:
        raise ArgumentError.of(op, "at least one example", "none", "Can the batches be walked more than once?")


def _inputs(model: Module, batches: Any, batch_size: int) -> Iterator[Tensor]:
    """The x of all batches; an array without rows is one batch, so that its output has the right shape."""
    if isinstance(batches, Tensor) or backend.is_array(batches):
        dtype = next((p.dtype for p in model.parameters()), backend.default_dtype())
        for start in range(0, max(len(batches), 1), batch_size):
            rows = slice(start, start + batch_size)
            if isinstance(batches, np.ndarray):
                yield _tensor(as_batch(batches, rows, dtype), model)
            else:
                yield _tensor(batches[rows], model)
    else:
        for batch in batches:
            yield _tensor(batch[0] if isinstance(batch, (tuple, list)) else batch, model)


def _tensor(value: Any, model: Module) -> Tensor:
    """A tensor on the model's device. Arrays are not copied: whoever made the batch does not write to it while it is in use."""
    parameter = next(model.parameters(), None)
    device = "cpu" if parameter is None else parameter.device
    if isinstance(value, Tensor):
        return value.to(device)
    if backend.is_array(value) and (value.dtype in backend.FLOATS or (value.dtype.kind in "iub" and value.dtype.isnative)):
        return Tensor.wrap(backend.to_device(value, device))
    return Tensor(value, device=device)
