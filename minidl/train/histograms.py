"""Histograms of activations and gradients while training runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from minidl.backend import to_numpy
from minidl.context import observe
from minidl.ops._arguments import integer
from minidl.train.callbacks import Callback, State

__all__ = ["Histograms"]

BINS = 64
QUANTILES = (0.05, 0.5, 0.95)


class Histograms(Callback):
    """Records how the numbers of each layer are spread: what it returns, and the gradients of its weights.

    ``minidl.viz.histograms`` draws them. Dead layers (nothing but 0), exploding and vanishing numbers show at a glance.

    Args:
        every: steps from one record to the next. A recorded step is slower, the others are not.

    Attributes:
        records: for "activations" (by the path of the module) and "gradients" (by the name of the parameter), one
            dictionary per recorded step: step, low and high (the ends of the histogram), counts, quantiles, zeros (share).

    Notes:
        Layers that run fused have one record, of what comes out of the last of them, under the path of the first.
        Values that are NaN or infinite are left out.
    Raises:
        ArgumentError: ``every`` below 1.

    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train.histograms import Histograms
    >>> model, recorded = nn.Sequential(nn.Linear(4, 2, rng=0)), Histograms(every=2)
    >>> batches = [(md.randn(8, 4, rng=i), md.tensor([0, 1] * 4)) for i in range(4)]
    >>> history = md.fit(model, batches, optimizer=md.optim.SGD(model.parameters(), lr=0.1), epochs=1, callbacks=[recorded])
    >>> [record["step"] for record in recorded.records["activations"]["0"]]
    [0, 2]
    >>> list(recorded.records["gradients"])
    ['0.weight']
    """

    def __init__(self, every: int = 10) -> None:
        self.every = integer("Histograms", "every", every, 1)
        self.records: dict[str, dict[str, list[dict[str, Any]]]] = {"activations": {}, "gradients": {}}
        self._due = False
        self._step = 0
        self._seen: dict[str, Any] = {}  # what each module returned last
        self._watching = ExitStack()

    def on_train_begin(self, state: State) -> None:
        """Begin to look at operations."""
        self._watching.close()
        self._watching.enter_context(observe(self._observe))

    def on_epoch_begin(self, state: State) -> None:
        """Decide about the first batch."""
        self._decide(state)

    def on_step_end(self, state: State) -> None:
        """Record the step that just ended, if it was one to record."""
        if not self._due:
            return
        for path, array in self._seen.items():
            self._keep("activations", path, array)
        for name, parameter in state.model.named_parameters():
            if parameter.ndim > 1 and parameter.grad is not None:
                self._keep("gradients", name, parameter.grad._array)
        self._seen.clear()

    def on_batch_end(self, state: State) -> None:
        """Decide about the next batch."""
        self._decide(state)

    def on_validation_begin(self, state: State) -> None:
        """Validation is not recorded."""
        self._due = False
        self._seen.clear()

    def on_train_end(self, state: State) -> None:
        """Stop looking."""
        self._due = False
        self._seen.clear()
        self._watching.close()

    def state_dict(self) -> dict[str, Any]:
        """The records."""
        return {"records": self.records}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on with these records."""
        self.records = {
            kind: {name: [dict(record) for record in rows] for name, rows in layers.items()}
            for kind, layers in saved["records"].items()
        }

    def _decide(self, state: State) -> None:
        self._step, self._due = state.step, state.step % self.every == 0
        self._seen.clear()

    def _observe(self, node: Any, phase: str, function: Callable) -> Callable:
        if not self._due or phase != "forward" or not node.path:
            return function

        def noted(ctx: Any, *arrays: Any, **params: Any) -> Any:
            result = function(ctx, *arrays, **params)
            y = result[0] if type(result) is tuple else result
            if getattr(y, "size", 0) and y.dtype.kind == "f":
                self._seen[node.path] = y
            return result

        return noted

    def _keep(self, kind: str, name: str, array: Any) -> None:
        values = to_numpy(array).ravel()
        values = values[np.isfinite(values)]
        if not values.size:
            return
        counts, edges = np.histogram(values, BINS)
        record = {
            "step": self._step,
            "low": float(edges[0]),
            "high": float(edges[-1]),
            "counts": counts,
            "quantiles": np.quantile(values, QUANTILES),
            "zeros": float((values == 0).mean()),
        }
        self.records[kind].setdefault(name, []).append(record)
