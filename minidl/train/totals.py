"""What the loops count while they walk through the examples: loss, accuracy and the metrics that were asked for."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import describe
from minidl.tensor import Tensor
from minidl.train.metrics import hits
from minidl.train.streaming import ConfusionMatrix

Metrics = Mapping[str, Any] | Sequence[Any] | None
TAKEN = {"epoch", "loss", "accuracy", "seconds", "images_per_second", "lr"}


class Totals:
    """Sums over the examples of one walk; ``metrics`` are those of ``fit``, by name."""

    def __init__(self, metrics: Mapping[str, Any] | None = None) -> None:
        self.examples = 0
        self.loss = 0.0
        self.right = self.labels = 0
        self.start = time.perf_counter()
        self.metrics = dict(metrics or {})
        self.streams = {name: copy.deepcopy(metric) for name, metric in self.metrics.items() if hasattr(metric, "update")}
        self.matrix = ConfusionMatrix()  # the one from which all functions are computed

    def add(self, op: str, loss: Tensor, output: Tensor, y: Tensor) -> float:
        """Add a batch; its loss as a number."""
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise ShapeError.of(op, "the loss as a tensor of one element", describe(loss), "Take its mean.")
        found = hits(output._array, y._array) if isinstance(output, Tensor) else None
        value = loss.item()  # after the work for hits is on its way to a GPU, which is waited for here
        self.examples += len(y)
        self.loss += len(y) * value
        if found is not None:
            self.right += int(found[0])
            self.labels += int(found[1])
        for stream in (*self.streams.values(), *([self.matrix] if len(self.streams) < len(self.metrics) else [])):
            stream.update(output, y)
        return value

    def means(self) -> dict[str, float]:
        """Mean loss, and accuracy where there were class labels."""
        means = {"loss": self.loss / self.examples}
        if self.labels:
            means["accuracy"] = self.right / self.labels
        return means

    def figures(self) -> dict[str, float]:
        """The means and all metrics."""
        figures = self.means()
        for name, metric in self.metrics.items():
            value = self.streams[name].compute() if name in self.streams else metric(self.matrix.compute())
            if np.ndim(value) != 0:
                hint = "Choose an average, such as average='macro'."
                raise ShapeError.of(f"metric {name!r}", "one number", f"shape {np.shape(value)}", hint)
            figures[name] = float(value)
        return figures

    @property
    def seconds(self) -> float:
        """How long the walk has taken so far."""
        return time.perf_counter() - self.start

    def state_dict(self) -> dict[str, Any]:
        """The sums, so that a walk can go on where it was broken off."""
        names = ("examples", "loss", "right", "labels")
        streams = {name: stream.state_dict() for name, stream in self.streams.items()}
        sums = {name: getattr(self, name) for name in names}
        return {**sums, "seconds": self.seconds, "streams": streams, "matrix": self.matrix.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from saved sums.

        Raises:
            ArgumentError: sums of other metrics.
        """
        if set(saved["streams"]) != set(self.streams):
            expected, got = (", ".join(sorted(names)) or "none" for names in (saved["streams"], self.streams))
            raise ArgumentError.of("resume", f"the metrics of the checkpoint ({expected})", got)
        for name in ("examples", "loss", "right", "labels"):
            setattr(self, name, saved[name])
        self.start = time.perf_counter() - saved["seconds"]
        self.matrix.load_state_dict(saved["matrix"])
        for name, stream in self.streams.items():
            stream.load_state_dict(saved["streams"][name])


def named(op: str, metrics: Metrics) -> dict[str, Any]:
    """Metrics by name; a list takes the names of its functions and metrics.

    Raises:
        DtypeError: something that is neither a function of a confusion matrix nor a streaming metric.
        ArgumentError: a name twice, or one that is a column of the history anyway.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, (Mapping, Sequence)) or isinstance(metrics, str):
        hint = "Write metrics=[...] or metrics={'name': ...}."
        raise DtypeError.of(op, "metrics as a dictionary or a list", describe(metrics), hint)
    pairs = (
        list(metrics.items())
        if isinstance(metrics, Mapping)
        else [(getattr(m, "name", None) or _name(op, m), m) for m in metrics]
    )
    for name, metric in pairs:
        streams = all(callable(getattr(metric, part, None)) for part in ("update", "compute"))
        if isinstance(metric, type) or not (streams or callable(metric)):
            hint = "Such as minidl.train.f1 or minidl.train.TopK(5)."
            raise DtypeError.of(op, f"metric {name!r} as a function of a confusion matrix or a metric", describe(metric), hint)
        if name in TAKEN or name.startswith("val_"):
            raise ArgumentError.of(op, "a metric's name that is no other column", repr(name), "Name it: metrics={'name': ...}.")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ArgumentError.of(op, "every name of a metric once", ", ".join(names), "Name them: metrics={'name': ...}.")
    return dict(pairs)


def _name(op: str, metric: Any) -> str:
    name = getattr(metric, "__name__", "")
    if not name.isidentifier():
        raise ArgumentError.of(op, "metrics with names", describe(metric), "Name them: metrics={'name': ...}.")
    return name
