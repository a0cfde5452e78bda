"""Cross-validation: how well a kind of model does, on examples that it was not trained on, and how much that varies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl import data, optim, random
from minidl.errors import ArgumentError, DtypeError
from minidl.functional import cross_entropy
from minidl.nn.module import Module
from minidl.ops._arguments import describe
from minidl.train.callbacks import Callback, History
from minidl.train.loop import Loss, evaluate, fit
from minidl.train.totals import Metrics


@dataclass
class CrossValidation:
    """What ``cross_validate`` found.

    Attributes:
        folds: for every part, the figures of the model that was not trained on it.
        histories: for every part, the history of that model.

    >>> import minidl as md
    >>> result = md.train.CrossValidation([{"loss": 0.5}, {"loss": 0.25}], histories=[])
    >>> result.mean
    {'loss': 0.375}
    >>> print(result)
    loss 0.3750 +- 0.1768 over 2 parts
    """

    folds: list[dict[str, float]]
    histories: list[History]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of every figure over the parts."""
        return {name: float(np.mean([fold[name] for fold in self.folds])) for name in self.folds[0]}

    @property
    def std(self) -> dict[str, float]:
        """The standard deviation of every figure over the parts (with n - 1)."""
        return {name: float(np.std([fold[name] for fold in self.folds], ddof=1)) for name in self.folds[0]}

    def __str__(self) -> str:
        std = self.std
        return "\n".join(
            f"{name} {mean:.4f} +- {std[name]:.4f} over {len(self.folds)} parts" for name, mean in self.mean.items()
        )


def cross_validate(
    make_model: Callable[[], Module],
    dataset: Any,
    k: int = 5,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    loss: Loss = cross_entropy,
    make_optimizer: Callable[[Module], Any] = lambda model: optim.Adam(model.parameters()),
    make_callbacks: Callable[[Module, Any], Sequence[Callback]] = lambda model, optimizer: (),
    metrics: Metrics = None,
    rng: np.random.Generator | int | None = None,
) -> CrossValidation:
    """Train k models, each without one of k parts of the examples, and judge each on the part that it has not seen.

    Every part has its share of every class.

    Args:
        make_model: called k times, returns a new model each time.
        dataset: what ``md.data.k_fold`` takes.
        k: number of parts.
        epochs: for each model.
        batch_size: examples per step.
        loss: as for ``fit``.
        make_optimizer: ``make_optimizer(model)`` returns the optimizer; Adam by default.
        make_callbacks: ``make_callbacks(model, optimizer)`` returns the callbacks.
        metrics: as for ``fit``.
        rng: a generator or a seed for the parts and the order of examples; None: minidl's own.

    Returns:
        The figures of every part, their mean and standard deviation, and the histories. The figures are those of the
        model as training left it: with ``EarlyStopping``, at its best epoch, which the part itself has chosen.

    Raises:
        DtypeError: something else than a function in the place of make_model.
        ArgumentError: k below 2 or above the number of examples; a make_model that returns the same model twice.
    Source:
        Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> dataset = md.data.ArrayDataset(x, (x[:, 0] > x[:, 1]).astype(int))
    >>> make_optimizer = lambda model: md.optim.SGD(model.parameters(), lr=1.0)
    >>> result = md.train.cross_validate(lambda: nn.Linear(2, 2, rng=0), dataset, 3, make_optimizer=make_optimizer, rng=0)
    >>> len(result.folds), result.mean["accuracy"] > 0.9
    (3, True)
    """
    op = "cross_validate"
    if isinstance(make_model, Module) or not callable(make_model):
        hint = "Write lambda: Model(...)."
        raise DtypeError.of(op, "make_model as a function that makes a model", describe(make_model), hint)
    rng = random.generator(rng)
    models: list[Module] = []
    result = CrossValidation([], [])
    for training, validation in data.k_fold(dataset, k, rng):
        model = make_model()
        if any(model is other for other in models):
            raise ArgumentError.of(op, "a new model for every part", "the same one again")
        models.append(model)
        optimizer = make_optimizer(model)
        held_out = data.DataLoader(validation, batch_size)
        batches = data.DataLoader(training, batch_size, shuffle=True, rng=rng)
        watching = make_callbacks(model, optimizer)
        history = fit(model, batches, optimizer, loss, epochs, held_out, watching, metrics)
        if history.interrupted:
            raise KeyboardInterrupt
        result.histories.append(history)
        result.folds.append(evaluate(model, held_out, loss, metrics))
    return result
