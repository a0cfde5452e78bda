"""EMA: the moving average of a model's weights, which often generalises better than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidl.backend import device_of, to_device, to_numpy
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn.module import Module
from minidl.ops._arguments import describe, number
from minidl.train.callbacks import Callback, State


class EMA(Callback):
    """An exponential moving average of a model's parameters, for ``fit`` or for a loop of your own.

    Formula (after step t, counted from 1):
        d = min(decay, (1 + t) / (10 + t)) with warmup, else decay
        a = d a + (1 - d) p

    Args:
        model: whose parameters are averaged; move it to its device first.
        decay: how much of the average stays in each step.
        warmup: let the first steps count more, so that the average soon forgets the weights of the beginning.

    In ``fit``, validation, ``EarlyStopping`` and the best weights of ``Checkpoint`` see the average, and the model holds
    it when training has ended. In a loop: ``update()`` after every step, and ``with ema.swapped():`` around evaluation.
    Buffers, such as the running statistics of batch norm, are the model's own.

    Raises:
        DtypeError: something that is no Module.
        ArgumentError: decay outside of 0 to 1.
    Source:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the warm-up is that of
        TensorFlow's ExponentialMovingAverage.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Linear(1, 1, bias=False, rng=0)
    >>> model.weight.data = md.tensor([[0.0]])
    >>> ema = md.train.EMA(model, decay=0.9, warmup=False)
    >>> model.weight.data = md.tensor([[1.0]])  # a step of an optimizer
    >>> ema.update()
    >>> with ema.swapped():
    ...     print(round(model.weight.item(), 6))
    0.1
    >>> model.weight.item()
    1.0
    """

    def __init__(self, model: Module, decay: float = 0.999, warmup: bool = True) -> None:
        if not isinstance(model, Module):
            raise DtypeError.of("EMA", "a Module", describe(model))
        self.model = model
        self.decay = number("EMA", "decay", decay, 0, 1)
        self.warmup = warmup
        self.steps = 0
        self._parameters = dict(model.named_parameters())
        self._averages = {name: p._array.copy(order="K") for name, p in self._parameters.items()}

    def update(self) -> None:
        """Take in the parameters as they are now."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warmup else self.decay
        with np.errstate(all="ignore"):
            for name, p in self._parameters.items():
                average = self._averages[name]
                if device_of(average) != p.device or average.dtype != p.dtype:
                    average = self._averages[name] = to_device(average, p.device).astype(p.dtype)
                kind = average.dtype.type
                average *= kind(decay)
                average += kind(1 - decay) * p._array

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model with the averaged weights inside the block, and with its own afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, p in self._parameters.items():
            p._array, self._averages[name] = self._averages[name], p._array

    def on_train_begin(self, state: State) -> None:
        """Let validation see the average."""
        if state.model is not self.model:
            raise ArgumentError.of("EMA", "the model that is trained", "another one", "Write EMA(model) with the model of fit.")
        if state.average is not None:
            raise ArgumentError.of("EMA", "one average", "two", "Pass one EMA to fit.")
        state.average = self

    def on_step_end(self, state: State) -> None:
        """Average."""
        self.update()

    def on_train_end(self, state: State) -> None:
        """Leave the averaged weights in the model, and start from them if it is trained again."""
        if state.average is self:
            for name, p in self._parameters.items():
                p._replace(self._averages[name])
        state.average = None

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of steps."""
        return {"steps": self.steps, "averages": {name: np.array(to_numpy(a), order="C") for name, a in self._averages.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from saved averages.

        Raises:
            ArgumentError: averages of other parameters.
            ShapeError: an average of another shape than its parameter.
        """
        if set(saved["averages"]) != set(self._averages):
            raise ArgumentError.of("EMA.load_state_dict", f"averages of {len(self._averages)} parameters", "those of others")
        for name, values in saved["averages"].items():
            if values.shape != self._averages[name].shape:
                raise ShapeError.of("EMA.load_state_dict", f"{name} of shape {self._averages[name].shape}", f"{values.shape}")
        self.steps = saved["steps"]
        for name, values in saved["averages"].items():
            self._averages[name][...] = to_device(values, device_of(self._averages[name]))
