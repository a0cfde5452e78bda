"""The training loop, and the two loops that only look: evaluate and predict.

``fit`` is what one writes by hand (see the README), plus bookkeeping: averages, validation, callbacks.
Copy it and change it when it does not fit; nothing else in minidl depends on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl import backend
from minidl.context import no_grad
from minidl.data.loader import as_batch
from minidl.errors import ArgumentError, DtypeError, Located, ShapeError
from minidl.functional import cross_entropy
from minidl.nn.module import Module
from minidl.ops._arguments import describe, integer
from minidl.tensor import Tensor
from minidl.train.callbacks import Callback, History, State
from minidl.train.metrics import hits

Loss = Callable[[Tensor, Tensor], Tensor]


class NonFiniteLoss(Located, FloatingPointError):
    """The loss became NaN or infinite.

    The parameters are those from before the batch (running statistics have seen it); ``history`` holds the epochs before.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(2, 1, rng=0)
    >>> batches = [(np.full((4, 2), np.nan, np.float32), np.zeros((4, 1), np.float32))]
    >>> try:
    ...     md.fit(model, batches, md.optim.SGD(model.parameters(), lr=0.1), md.mse_loss)
    ... except md.train.NonFiniteLoss as error:
    ...     print(error)
    fit: expected a finite loss, got nan in epoch 1, batch 1. Try a smaller learning rate, ...
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
) -> History:
    """Train a model.

    Args:
        model: any Module; called as ``model(x)``. While it trains it is in training mode, afterwards in the mode of before.
        batches: an iterable of pairs (x, y) of arrays or tensors, walked once per epoch: a DataLoader, a list, ...
            Batches go to the device of the model.
        optimizer: steps after every batch.
        loss: ``loss(model(x), y)``, a tensor of one element, the mean over the batch.
        epochs: how often to walk through the batches.
        validation: batches to evaluate on after every epoch, in evaluation mode and without gradients.
        callbacks: what shall watch: ``Progress()``, ``EarlyStopping(...)``, ...

    Returns:
        The history: per epoch the mean loss over all examples and, for integer labels of shape (N, ...) with outputs of
        shape (N, C, ...), the accuracy, both as they were while training; the same on the validation batches (``val_``);
        seconds; images (examples) per second of training. Ctrl-C ends training and returns the finished epochs.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite.
        ArgumentError: an epoch without batches, or a generator, which cannot be walked again, for several epochs.
        ShapeError: x and y of different lengths, or a loss that is not one number.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn, optim
    >>> x = np.random.default_rng(0).normal(size=(64, 2))
    >>> batches = md.data.DataLoader((x, (x[:, 0] > x[:, 1]).astype(int)), batch_size=16, shuffle=True, rng=0)
    >>> model = nn.Linear(2, 2, rng=0)
    >>> history = md.fit(model, batches, optim.SGD(model.parameters(), lr=0.5), epochs=5)
    >>> history[-1]["accuracy"] > 0.9
    True
    """
    epochs = integer("fit", "epochs", epochs, 0)
    if isinstance(callbacks, Callback):  # also a History, which is a sequence: of rows
        raise DtypeError.of("fit", "a list of callbacks", type(callbacks).__name__, "Write callbacks=[...].")
    for name, given in (("batches", batches), ("validation", validation)):
        if isinstance(given, Iterator) and epochs > 1:
            expected = f"{name} that can be walked once per epoch, {epochs} times"
            raise ArgumentError.of(
                "fit", expected, f"a {type(given).__name__}", "Pass a list, a DataLoader or another iterable."
            )
    state = State(model, optimizer, epochs, batches=len(batches) if isinstance(batches, Sized) else None)
    history = History()
    watching = (*callbacks, history)
    with _mode("fit", model, training=True):
        for callback in watching:
            callback.on_train_begin(state)
        try:
            while state.epoch < epochs and not state.stop:
                state.epoch += 1
                _run_epoch(state, batches, loss, validation, watching)
        except KeyboardInterrupt:
            history.interrupted = True
        except NonFiniteLoss as error:
            error.history = history
            raise
        finally:
            for callback in watching:
                callback.on_train_end(state)
    return history


def _run_epoch(state: State, batches: Iterable, loss: Loss, validation: Iterable | None, watching: Sequence[Callback]) -> None:
    model, optimizer = state.model, state.optimizer
    state.batch, state.logs = 0, {}
    for callback in watching:
        callback.on_epoch_begin(state)
    totals = _Totals()
    start = time.perf_counter()
    for x, y in _pairs("fit", batches, model):
        optimizer.zero_grad()
        output = model(x)
        value = loss(output, y)
        if not math.isfinite(totals.add("fit", value, output, y)):
            hint = "Try a smaller learning rate, look for NaN in the data, or clip the gradients."
            place = f"{value.item()} in epoch {state.epoch}, batch {state.batch + 1}"
            raise NonFiniteLoss.of("fit", "a finite loss", place, hint)
        value.backward()
        optimizer.step()
        state.batch += 1
        state.logs = totals.means()
        for callback in watching:
            callback.on_batch_end(state)
        if state.stop:
            break
    trained = time.perf_counter() - start
    state.logs = {"epoch": state.epoch, **totals.means()}
    if validation is not None:
        state.logs |= {f"val_{name}": value for name, value in evaluate(model, validation, loss).items()}
    state.logs |= {"seconds": time.perf_counter() - start, "images_per_second": totals.examples / trained}
    for callback in watching:
        callback.on_epoch_end(state)


def evaluate(model: Module, batches: Iterable, loss: Loss = cross_entropy) -> dict[str, float]:
    """The mean loss and, for class labels, the accuracy over batches; in evaluation mode and without gradients.

    Arguments as for ``fit``. The model's mode is afterwards what it was before.

    Returns:
        ``{"loss": ..., "accuracy": ...}``, without accuracy where there are no class labels.
    Raises:
        ArgumentError: no batches, or batches that are no pairs.
        ShapeError: x and y of different lengths, or a loss that is not one number.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> md.evaluate(nn.Identity(), [(np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0, 0]))])["accuracy"]
    0.5
    """
    totals = _Totals()
    with _mode("evaluate", model, training=False), no_grad():
        for x, y in _pairs("evaluate", batches, model):
            output = model(x)
            totals.add("evaluate", loss(output, y), output, y)
    return totals.means()


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
    with _mode("predict", model, training=False), no_grad():
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


class _Totals:
    """Sums over the examples of an epoch."""

    def __init__(self) -> None:
        self.examples = 0
        self.loss = 0.0
        self.right = self.labels = 0

    def add(self, op: str, loss: Tensor, output: Tensor, y: Tensor) -> float:
        """Add a batch; its loss as a number."""
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise ShapeError.of(op, "the loss as a tensor of one element", describe(loss), "Take its mean.")
        value = loss.item()
        self.examples += len(y)
        self.loss += len(y) * value
        found = hits(output._array, y._array) if isinstance(output, Tensor) else None
        if found is not None:
            self.right += found[0]
            self.labels += found[1]
        return value

    def means(self) -> dict[str, float]:
        """Mean loss, and accuracy where there were class labels."""
        means = {"loss": self.loss / self.examples}
        if self.labels:
            means["accuracy"] = self.right / self.labels
        return means


@contextmanager
def _mode(op: str, model: Module, training: bool) -> Iterator[None]:
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


def _pairs(op: str, batches: Iterable, model: Module) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches as tensors on the model's device; those without examples are passed over."""
    walked = False
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
