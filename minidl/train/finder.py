"""find_lr: a learning rate for a model and its data, from one short run in which the rate grows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.errors import ArgumentError
from minidl.functional import cross_entropy
from minidl.nn.module import Module
from minidl.ops._arguments import integer, number
from minidl.train.checkpoint import random_state, set_random_state
from minidl.train.loop import Loss, in_mode, pairs

_MEMORY = 0.9  # how much of the smoothed loss stays from step to step
_DIVERGED = 4.0  # so many times the lowest smoothed loss


@dataclass
class LearningRates:
    """What ``find_lr`` saw.

    Attributes:
        rates: the learning rates, growing.
        losses: the loss of the batch before the step with that rate.
        smoothed: the same, averaged over the last ten or so.
        suggestion: the rate at which the smoothed loss falls fastest (per factor of the rate).

    >>> import minidl as md
    >>> found = md.train.LearningRates([0.01, 0.1, 1.0], [1.0, 0.5, 0.4], [1.0, 0.7, 0.6], suggestion=0.1)
    >>> found.suggestion
    0.1
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float


def find_lr(
    model: Module,
    batches: Iterable,
    optimizer: Any,
    loss: Loss = cross_entropy,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
) -> LearningRates:
    """Train for some steps while the learning rate grows from ``low`` to ``high``, and see where the loss falls fastest.

    Ends early when the loss has become four times its lowest value or is not finite. Afterwards the model, the
    optimizer, the random generators and, where it can tell its state, the loader are what they were before.

    Args:
        model: any Module, at the beginning of its training.
        batches: as for ``fit``; walked as often as the steps need.
        optimizer: as for ``fit``; groups keep the proportions of their rates, and ``low`` and ``high`` are the first's.
        loss: as for ``fit``.
        low: the first rate.
        high: the last rate.
        steps: how many there are.

    Returns:
        The rates, the losses and a suggestion.
    Raises:
        ArgumentError: rates that are not 0 < low < high, fewer than 10 steps, a loss that is not finite from the
            beginning.
    Source:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; the suggestion is that of fastai.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    >>> model = nn.Linear(2, 2, rng=0)
    >>> optimizer = md.optim.SGD(model.parameters(), lr=0.1)
    >>> found = md.train.find_lr(model, [(x, (x[:, 0] > 0).astype(int))], optimizer, high=100.0)
    >>> 0.1 < found.suggestion < 10
    True
    """
    op = "find_lr"
    low, high = number(op, "low", low), number(op, "high", high)
    steps = integer(op, "steps", steps, 10)
    if not 0 < low < high < math.inf:
        raise ArgumentError.of(op, "0 < low < high", f"{low} and {high}")
    first = optimizer.param_groups[0]["lr"]
    shares = [group["lr"] / first if first else 1.0 for group in optimizer.param_groups]
    before = _Before(model, batches, optimizer)
    rates, losses, smoothed, mean = [], [], [], 0.0
    try:
        with in_mode(op, model, training=True):
            for step, (x, y) in zip(range(steps), _again(op, batches, model)):
                rate = low * (high / low) ** (step / (steps - 1))
                for group, share in zip(optimizer.param_groups, shares):
                    group["lr"] = rate * share
                optimizer.zero_grad()
                value = loss(model(x), y)
                now = value.item()
                if not math.isfinite(now):
                    break
                mean = _MEMORY * mean + (1 - _MEMORY) * now
                rates.append(rate)
                losses.append(now)
                smoothed.append(mean / (1 - _MEMORY ** (step + 1)))
                if smoothed[-1] > _DIVERGED * min(smoothed):
                    break
                value.backward()
                optimizer.step()
    finally:
        before.restore()
    if len(rates) < 3:
        raise ArgumentError.of(op, "a finite loss at the lowest rates", f"another one after {len(rates)} steps", "Lower low.")
    end = max(int(np.argmin(smoothed)) + 1, 3)
    slopes = np.gradient(smoothed[:end], np.log(rates[:end]))
    return LearningRates(rates, losses, smoothed, rates[int(np.argmin(slopes))])


def _again(op: str, batches: Iterable, model: Module) -> Iterator[tuple[Any, Any]]:
    """The batches, from the beginning when they end."""
    while True:
        yield from pairs(op, batches, model)


class _Before:
    """Everything that a trial run changes, and the way back."""

    def __init__(self, model: Module, batches: Iterable, optimizer: Any) -> None:
        self.model, self.batches, self.optimizer = model, batches, optimizer
        tensors = [*model.parameters(), *model.buffers()]
        self.tensors = [(tensor, tensor._array.copy(order="K"), tensor._grad) for tensor in tensors]
        self.options = optimizer.state_dict()
        self.random = random_state(model)
        self.place = batches.state_dict() if hasattr(batches, "state_dict") else None

    def restore(self) -> None:
        for tensor, values, gradient in self.tensors:
            tensor._array, tensor._grad = values, gradient
        self.optimizer.load_state_dict(self.options)
        if self.place is not None:
            self.batches.load_state_dict(self.place)  # type: ignore[attr-defined]
        set_random_state(self.model, self.random)
