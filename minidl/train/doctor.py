"""The training doctor: looks at a model, a batch, a loss and an optimizer, tries a few steps, and says what is wrong.

Every verdict follows from numbers that are printed with it; the thresholds stand by their names, with their reasons.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np

from minidl.backend import to_numpy, xp_of
from minidl.context import enable_grad, watch
from minidl.errors import ArgumentError, DtypeError
from minidl.functional import cross_entropy
from minidl.nn.module import Module
from minidl.nn.teaching import as_before
from minidl.ops._arguments import describe
from minidl.tensor import Parameter, Tensor
from minidl.train.callbacks import Callback, State
from minidl.train.findings import Diagnosis
from minidl.train.loop import Loss, in_mode, pairs
from minidl.train.symptoms import (
    Operations,
    bias_before_norm,
    dead_units,
    failed_loss,
    gradients,
    labels_in_order,
    loss_inputs,
    modes,
    norm,
    usable,
)

FAST = 1.0  # one step's change over the weight, in norms: what was learnt is gone at once; 1e-3 is usual
SLOW = 1e-7  # the same: ten million steps to change the weights by their own size
STEPS = 5  # steps of the trial, on the same batch, on which every rate that is not too large lowers the loss
GROWN = 1.5  # loss after the trial over the loss before it
STUCK = 1e-3  # by which part of itself the loss falls at least over three epochs
SHARED = 0.01  # part of the validation examples that are training examples; data sets hold some twins by nature

Batch = Any


def diagnose(
    model: Module,
    batch: Batch,
    loss: Loss = cross_entropy,
    optimizer: Any = None,
    validation: Iterable | None = None,
    training: bool = True,
    step: Callable[[Tensor, Tensor], Any] | None = None,
) -> Diagnosis:
    """Look for the usual faults of a training before it costs a night.

    A forward and a backward pass, and with an optimizer a few steps on the same batch, are tried out. Afterwards model,
    optimizer, gradients, modes, random generators and loaders are what they were.

    Args:
        model: any Module, in the mode in which the batch will meet it.
        batch: a pair (x, y), or batches that can be walked again, such as a DataLoader or a list, of which the first is
            tried out and the first eight show the order of the labels.
        loss: as for ``fit``.
        optimizer: the one that shall train the model; None leaves out what concerns it.
        validation: batches of the examples that judge the model; their examples are compared with those of ``batch``.
        training: False for a batch that the model only shall predict or be judged on.
        step: the training step of a loop of your own, ``step(x, y)``, to try it out too.

    Returns:
        The findings, none for a training in order.
    Raises:
        DtypeError: something that is no module.
        ArgumentError: an iterator, which cannot be walked again, or no batch.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train import diagnose
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(32, 4)).astype(np.float32), rng.integers(0, 3, 32)
    >>> diagnose(nn.Sequential(nn.Linear(4, 3, rng=0)), (x, y))
    nothing found
    >>> print(diagnose(nn.Sequential(nn.Linear(4, 3, rng=0), nn.Softmax()), (x, y)))
    1 finding
    softmax_before_loss: cross_entropy is given the result of softmax.
        why it hurts: ...
        fix: Return the scores themselves from the model; for probabilities apply softmax to its predictions.
    """
    if not isinstance(model, Module):
        raise DtypeError.of("diagnose", "a Module", describe(model))
    report = Diagnosis()
    batches = _peek(batch, model, 8)
    x, y = batches[0]
    if all(labels.dtype.kind in "iu" and labels.ndim in (1, 2) and labels.size == len(labels) for _, labels in batches):
        labels_in_order(report, np.concatenate([to_numpy(labels._array).reshape(-1) for _, labels in batches]))
    if validation is not None:
        _overlap(report, batch, validation, model)
    modes(report, model, training)
    x = usable(report, model, x, y, training)
    if not training:
        return report
    with _trial(model, optimizer), nullcontext() if model.training else in_mode("diagnose", model, training=True):
        ran = _first_step(report, model, x, y, loss)
    if optimizer is not None:
        _membership(report, model, optimizer)
        if ran and not {"other_model", "exploding_gradients", "nan_in_data"} & set(report.codes):
            with _trial(model, optimizer), nullcontext() if model.training else in_mode("diagnose", model, training=True):
                _few_steps(report, model, x, y, loss, optimizer)
    if step is not None and ran:
        with _trial(model, optimizer):
            _own_step(report, model, x, y, step)
    return report


# ---------------------------------------------------------------- what is looked at, and the way back


def _peek(batch: Batch, model: Module, count: int | None) -> list[tuple[Tensor, Tensor]]:
    """The first batches, as tensors; a loader's place is put back."""
    if isinstance(batch, tuple) and len(batch) == 2:
        return list(pairs("diagnose", [batch], model))
    if isinstance(batch, Iterator) or not isinstance(batch, Iterable):
        hint = "Pass a pair (x, y), a list of pairs or a DataLoader."
        raise ArgumentError.of("diagnose", "batches that can be walked again", describe(batch), hint)
    place = batch.state_dict() if hasattr(batch, "state_dict") else None
    with as_before(model):  # loaders may draw from minidl's own generator
        found = list(pairs("diagnose", islice(batch, count), model))
    if place is not None:
        batch.load_state_dict(place)  # type: ignore[attr-defined]
    return found


@contextmanager
def _trial(model: Module, optimizer: Any) -> Iterator[None]:
    """Values, gradients, buffers, attributes, random generators and the optimizer are after the block what they were."""
    parameters = [*model.parameters()]
    if optimizer is not None:
        known = set(map(id, parameters))
        parameters += [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    held = [(p, p._array, p._grad) for p in parameters]  # holding the arrays keeps steps from writing to them
    options = None if optimizer is None else optimizer.state_dict()
    try:
        with as_before(model), enable_grad():
            for p in parameters:
                p._grad = None
            yield
    finally:
        for p, values, gradient in held:
            p._array, p._grad = values, gradient
        if optimizer is not None:
            optimizer.load_state_dict(options)


# ---------------------------------------------------------------- examples


def _overlap(report: Diagnosis, batch: Batch, validation: Iterable, model: Module) -> None:
    train = {digest for x, _ in _peek(batch, model, None) for digest in _digests(x)}
    held_out = [digest for x, _ in _peek(validation, model, None) for digest in _digests(x)]
    shared = sum(digest in train for digest in held_out)
    if shared > SHARED * len(held_out):
        report.add(
            "overlap",
            f"{shared} of {len(held_out)} validation examples are training examples.",
            "The figures on them say how well the model remembers, not how well it will do on new examples.",
            "Split once, before anything else, and keep the parts apart; drop duplicates first.",
        )


def _digests(x: Tensor) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest() for row in to_numpy(x._array)]


# ---------------------------------------------------------------- steps


def _first_step(report: Diagnosis, model: Module, x: Tensor, y: Tensor, loss: Loss) -> bool:
    """Forward and backward; whether both ran."""
    operations = Operations()
    with watch(operations):
        try:
            output = model(x)
        except Exception as error:
            if "batch_of_one" not in report.codes:
                report.add("model_fails", f"{type(error).__name__}: {error}", "Nothing can be learnt.", "See the message.")
            return False
        inside = len(operations.all)
        try:
            value = loss(output, y)
        except Exception as error:
            failed_loss(report, output, y, error)
            return False
    bias_before_norm(report, operations)
    dead_units(report, operations, len(x))
    loss_inputs(report, operations, inside)
    if not isinstance(value, Tensor) or value.size != 1 or not value.requires_grad:
        got = describe(value) if not isinstance(value, Tensor) or value.size != 1 else "a tensor without a graph"
        harm = "backward has nowhere to start from."
        fix = "Return a tensor of one element that was computed from the model's output, without .item(), .numpy() or no_grad."
        report.add("loss_fails", f"The loss is {got}.", harm, fix)
        return False
    if "nan_in_data" in report.codes:
        return False  # all that follows would only repeat it
    value.backward()
    gradients(report, model)
    return True


def _membership(report: Diagnosis, model: Module, optimizer: Any) -> None:
    steered = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in named if id(p) not in steered]
    foreign = len(steered - {id(p) for p in model.parameters()})
    if named and len(missing) == len(named):
        report.add(
            "other_model",
            f"None of the model's {len(named)} parameters is in the optimizer, which has {len(steered)} others.",
            "Training changes another model, or one from before.",
            "Make the optimizer after the model, from model.parameters().",
        )
    elif missing:
        report.add(
            "not_in_optimizer",
            f"{len(missing)} of {len(named)} parameters are not in the optimizer: {', '.join(map(repr, missing[:5]))}.",
            "They stay as they were drawn.",
            "Make the optimizer after all layers are there; freeze with requires_grad=False what shall not learn.",
        )
    if foreign and "other_model" not in report.codes:
        report.add(
            "foreign_parameters",
            f"{foreign} of the optimizer's parameters are not the model's.",
            "They get no gradient from this loss.",
            "Pass model.parameters() of the model that is called.",
        )


def _few_steps(report: Diagnosis, model: Module, x: Tensor, y: Tensor, loss: Loss, optimizer: Any) -> None:
    """Steps on the same batch, each with the same random numbers: does the loss fall, and how far do weights move?"""
    rates = ", ".join(dict.fromkeys(f"{group['lr']:g}" for group in optimizer.param_groups if "lr" in group))
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    start = [p._array for p in weights]
    losses, moved = [], 0.0
    for number in range(STEPS + 1):
        with as_before(model):
            value = loss(model(x), y)
        losses.append(value.item())
        if number == STEPS or not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if number == 0:
            shares = [norm(p._array - old) / norm(old) for p, old in zip(weights, start) if norm(old) > 0]
            moved = max(shares, default=math.nan)
    grown = not math.isfinite(losses[-1]) or losses[-1] > GROWN * losses[0] + 0.1
    if grown or moved > FAST:
        report.add(
            "learning_rate_large",
            f"With lr={rates} the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses) - 1} steps; "
            f"the first changes a weight by {moved:.2g} of its size.",
            "Steps overshoot; the loss grows or becomes NaN.",
            "Divide lr by 10, or let md.find_lr suggest one.",
        )
    elif moved < SLOW and "no_gradient" not in report.codes:
        report.add(
            "learning_rate_small",
            f"With lr={rates} a step changes no weight by more than {moved:.2g} of its size.",
            f"It takes {1 / max(moved, 1e-300):.0e} steps to change a weight by as much as it holds.",
            "Multiply lr by 10 or 100, or let md.find_lr suggest one.",
        )


def _own_step(report: Diagnosis, model: Module, x: Tensor, y: Tensor, step: Callable) -> None:
    """A step of the user's: are gradients forgotten between two, and does it change anything?"""
    parameters: list[Parameter] = [p for p in model.parameters() if p.requires_grad]
    before = [p._array.copy() for p in parameters]
    step(x, y)
    if all(bool((p._array == old).all()) for p, old in zip(parameters, before)):
        report.add(
            "step_forgotten",
            f"step(x, y) leaves all {len(parameters)} parameters as they were.",
            "Nothing is learnt.",
            "loss.backward(), then optimizer.step().",
        )
    marked = [p for p in parameters if p._grad is not None]
    if not marked:
        return  # forgotten at the end of the step
    size = 1e6 * max(1.0, *(float(abs(p._grad._array).max()) for p in marked))  # type: ignore[union-attr]
    for p in marked:
        p._grad = Tensor.wrap(xp_of(p._array).full_like(p._array, size))
    step(x, y)
    kept = sum(p._grad is not None and float(p._grad._array.mean()) > size / 2 for p in marked)
    if kept:
        report.add(
            "zero_grad_forgotten",
            f"{kept} of {len(marked)} gradients still hold those of the step before.",
            "Every step adds its gradients to all that came before it, and goes in the direction of their sum.",
            "optimizer.zero_grad() before loss.backward().",
        )


class Doctor(Callback):
    """Diagnoses before training and listens while it runs; for ``fit(callbacks=[Doctor()])``.

    Args:
        loss: the loss that ``fit`` is given.
        verbose: whether to print what is found, at once.

    Attributes:
        report: the findings so far.

    Notes:
        Beside what ``diagnose`` finds: a loss that grows over the epochs, and one that does not move.
        Batches from an iterator cannot be looked at ahead; there only the epochs are watched. With validation batches, all
        training and validation examples are read once more, to compare them.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train import Doctor
    >>> batches = [(np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32), np.arange(16) % 3)]
    >>> model, doctor = nn.Linear(4, 3, rng=0), Doctor(verbose=False)
    >>> _ = md.fit(model, batches, md.optim.SGD(model.parameters(), lr=1e6), callbacks=[doctor])
    >>> doctor.report.codes
    ['learning_rate_large']
    """

    def __init__(self, loss: Loss = cross_entropy, verbose: bool = True) -> None:
        self.loss = loss
        self.verbose = verbose
        self.report = Diagnosis()
        self._losses: list[float] = []

    def on_train_begin(self, state: State) -> None:
        """Diagnose."""
        self.report, self._losses = Diagnosis(), []
        batches = state.loaders["batches"]
        if not isinstance(batches, Iterator):
            self.report = diagnose(state.model, batches, self.loss, state.optimizer, state.loaders.get("validation"))
        if self.verbose and self.report.findings:
            print(self.report)

    def on_epoch_end(self, state: State) -> None:
        """Compare the loss with that of the epochs before."""
        losses = self._losses
        losses.append(state.logs["loss"])
        known = len(self.report)
        if losses[-1] > GROWN * min(losses) + 0.1:
            self.report.add(
                "loss_grows",
                f"The loss of epoch {state.epoch} is {losses[-1]:.4g}, that of the best one {min(losses):.4g}.",
                "Steps overshoot.",
                "A smaller learning rate, a schedule that lowers it, clip_grad_norm=1.0.",
            )
        if len(losses) == 3 and losses[0] > 0 and max(losses) - min(losses) < STUCK * losses[0]:
            self.report.add(
                "loss_stuck",
                f"The loss was {', '.join(f'{loss:.5g}' for loss in losses)} in the first three epochs.",
                "Nothing is learnt.",
                "Another learning rate (md.find_lr), inputs around 1, labels that belong to their examples.",
            )
        for finding in self.report.findings[known:] if self.verbose else ():
            print(finding)
