"""The table of operations: what an operation's author declares once, and everything else reads.

Tests (value, gradient, dtypes, layouts, bad input), the Tensor methods, FLOP counts, benchmarks and the
table in the documentation all follow from the ``@op`` record beside the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Sample:
    """One call that must work: float64 arrays and plain values, as the public function takes them.

    ``grad`` lists the positions of the arguments whose gradient is checked; None means every floating array.
    """

    args: tuple
    kwargs: dict[str, Any] = field(default_factory=dict)
    grad: tuple[int, ...] | None = None
    name: str = ""

    def __init__(self, *args: Any, grad: tuple[int, ...] | None = None, name: str = "", **kwargs: Any) -> None:
        self.args, self.kwargs, self.grad, self.name = args, kwargs, grad, name

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Positions of the arguments that get a gradient (list arguments count as one position)."""
        if self.grad is not None:
            return self.grad
        return tuple(
            i for i, a in enumerate(self.args) if _is_float(a) or (isinstance(a, list) and a and all(map(_is_float, a)))
        )


@dataclass
class ErrorSample:
    """One call that must be refused: the exception type and a regular expression its message matches."""

    args: tuple
    kwargs: dict[str, Any]
    error: type[Exception]
    match: str

    def __init__(self, error: type[Exception], match: str, *args: Any, **kwargs: Any) -> None:
        self.error, self.match, self.args, self.kwargs = error, match, args, kwargs


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


class Draw:
    """Test inputs from a seeded generator, kept away from the points where derivatives do not exist."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal values."""
        return self.rng.standard_normal(shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Uniform values in [low, high)."""
        return self.rng.uniform(low, high, shape)

    def positive(self, *shape: int) -> np.ndarray:
        """Values in [0.5, 2)."""
        return self.rng.uniform(0.5, 2.0, shape)

    def away(self, *shape: int, points: tuple[float, ...] = (0.0,), gap: float = 0.1, scale: float = 2.0) -> np.ndarray:
        """Values in (-scale, scale) at least ``gap`` away from each of ``points``, where a function has a kink."""
        x = self.rng.uniform(-scale, scale, shape)
        for point in sorted(points):
            near = np.abs(x - point) < gap
            x = np.where(near, point + np.where(x >= point, 1, -1) * (gap + np.abs(x - point)), x)
        return x

    def distinct(self, *shape: int, gap: float = 0.1) -> np.ndarray:
        """Shuffled values at least ``gap`` apart, so that no two are tied for a maximum."""
        n = int(np.prod(shape))
        return (self.rng.permutation(n) - n / 2 + self.rng.uniform(0.05, 0.4, n)).reshape(shape) * gap / 0.65

    def labels(self, *shape: int, classes: int) -> np.ndarray:
        """Class indices 0 .. classes-1."""
        return self.rng.integers(0, classes, shape)

    def probabilities(self, *shape: int, axis: int = 1) -> np.ndarray:
        """Positive values that sum to 1 along ``axis``."""
        p = self.rng.uniform(0.1, 1.0, shape)
        return p / p.sum(axis, keepdims=True)


@dataclass
class OpSpec:
    """The record of one operation."""

    name: str
    function: Callable[..., Any]
    samples: Callable[[Draw], Iterable[Sample]]
    oracle: Callable[..., Any]
    flops: Callable[..., int] | None
    methods: tuple[str, ...]
    errors: Callable[[Draw], Iterable[ErrorSample]]
    differentiable: bool

    @property
    def family(self) -> str:
        """The file in ops/ that holds the operation."""
        return self.function.__module__.rpartition(".")[2]


OPS: dict[str, OpSpec] = {}


def op(
    *,
    samples: Callable[[Draw], Iterable[Sample]],
    oracle: Callable[..., Any],
    flops: Callable[..., int] | None = None,
    methods: tuple[str, ...] = (),
    errors: Callable[[Draw], Iterable[ErrorSample]] = lambda draw: (),
    differentiable: bool = True,
) -> Callable[[F], F]:
    """Register the decorated public function as an operation and return it unchanged.

    Args:
        samples: gives, from a ``Draw``, the calls that every check runs.
        oracle: the same call on plain NumPy arrays, written another way; returns the expected value.
        flops: ``flops(out, *inputs, **params)`` of the Function of the same name: floating-point operations
            of one forward pass (a multiply-add counts as two).
        methods: the names under which it is a Tensor method.
        errors: calls that must be refused.
        differentiable: False for comparisons and index-valued operations.
    """

    def register(function: F) -> F:
        name = function.__name__
        if name in OPS:
            raise ValueError(f"op: expected a new name, got {name!r} twice.")
        OPS[name] = OpSpec(name, function, samples, oracle, flops, methods, errors, differentiable)
        return function

    return register
