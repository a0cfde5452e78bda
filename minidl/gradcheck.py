"""Numerical gradient checks: is backward the derivative of forward?

The function is made scalar by a fixed random projection, L(x) = <v, f(x)>, so that one backward pass
gives the whole gradient and every element of it can be compared with a central difference in float64:

    dL/dx_i  ~  (L(x + h e_i) - L(x - h e_i)) / 2h          error O(h^2)

For large inputs the directional check compares <grad, u> with (L(x + h u) - L(x - h u)) / 2h for a few
random directions u: two evaluations each, whatever the size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import backend
from minidl.context import enable_grad, no_grad
from minidl.errors import ArgumentError, DtypeError, GraphError
from minidl.ops._arguments import describe
from minidl.tensor import Tensor

STEP = 1e-5
FULL_LIMIT = 4096  # elements of one input up to which every element is checked
DIRECTIONS = 4


@dataclass
class InputReport:
    """What was found for one input: its worst element, or its worst direction.

    Attributes:
        name: the argument or parameter.
        verdict: "ok", "kink" (the derivative does not exist there; backward gave a subgradient) or "FAIL".
        error: relative error |analytic - numeric| / max(|analytic|, |numeric|, floor) at the worst place.
        where: index of the worst element, or the direction's number.
        numeric, analytic: the two values there.
        checked: how many elements or directions were compared; kinks: how many of them sit on one.
    """

    name: str
    verdict: str
    error: float
    where: str
    numeric: float
    analytic: float
    checked: int
    kinks: int = 0

    def __str__(self) -> str:
        line = f"{self.name}: {self.verdict}, worst relative error {self.error:.1e} at {self.where}"
        if self.verdict == "FAIL":
            line += f": numeric {self.numeric:.9g}, analytic {self.analytic:.9g}"
        if self.kinks:
            line += f"; {self.kinks} of {self.checked} on a kink or tie"
            line += " (left and right derivatives differ; analytic lies between them)"
        return line


@dataclass
class GradcheckReport:
    """The result of one gradient check; true when every gradient is right, and readable as text.

    Attributes:
        operation: what was checked.
        inputs: one ``InputReport`` per argument and parameter.

    >>> import minidl as md
    >>> report = md.gradcheck(md.tanh, [0.5, -0.5])
    >>> report.passed, report.worst.name, report.worst.checked
    (True, 'x0', 2)
    """

    operation: str
    inputs: list[InputReport] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No input failed."""
        return all(entry.verdict != "FAIL" for entry in self.inputs)

    @property
    def worst(self) -> InputReport | None:
        """The entry that decides: a failure before a kink before the largest error."""
        rank = {"FAIL": 2, "kink": 1, "ok": 0}
        return max(self.inputs, key=lambda entry: (rank[entry.verdict], entry.error), default=None)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        head = f"gradcheck {self.operation}: {'passed' if self.passed else 'FAILED'}"
        return "\n".join([head, *(f"  {entry}" for entry in self.inputs)])

    __repr__ = __str__


@np.errstate(all="ignore")  # infinities and NaN fail the check, without warnings
def gradcheck(
    function: Callable[..., Any],
    inputs: Any,
    *,
    tolerance: float = 1e-6,
    step: float = STEP,
    mode: str = "auto",
    seed: int = 0,
    name: str | None = None,
    wrt: Sequence[int] | None = None,
) -> GradcheckReport:
    """Compare the gradients of a function or Module with central differences in float64.

    Args:
        function: takes the inputs as tensors and returns a tensor, or a list or tuple of tensors; must give
            the same result each time. Of a Module, the parameters are checked too (on a float64 copy).
        inputs: one array or tensor, or a list or tuple of arguments. Floating arrays (and lists of them) are
            cast to float64 and checked, tensors on the device where they are; everything else passes as it is.
        tolerance: largest relative error that passes.
        step: h of the central difference, relative to max(1, abs(x)).
        mode: "full" (every element), "directional" (random directions), "auto" (full up to 4096 elements).
        seed: of the projection and the directions; the check is deterministic.
        name: how the report calls the function.
        wrt: positions of the arguments to check; all floating ones by default.

    Returns:
        A report that is true when all gradients are right, names the worst element of each input and says
        where the point sits on a kink or a tie (ReLU at 0, equal maxima) instead of failing there.

    Raises:
        GraphError: the function is not deterministic, or its result does not depend on the inputs.
        DtypeError: no floating input or parameter.
        ArgumentError: another mode.

    >>> import minidl as md
    >>> bool(md.gradcheck(lambda x: (x * x).sum(), [1.0, 2.0]))
    True
    >>> from minidl import nn
    >>> bool(md.gradcheck(nn.Linear(3, 2), md.randn(4, 3, rng=0)))  # the weights too
    True
    >>> print(md.gradcheck(md.relu, [[0.0, 1.0]], name="relu"))  # doctest: +ELLIPSIS
    gradcheck relu: passed
      x0: kink, worst relative error ... at (0,); 1 of 2 on a kink or tie...
    """
    if mode not in ("auto", "full", "directional"):
        raise ArgumentError.of("gradcheck", "mode 'auto', 'full' or 'directional'", repr(mode))
    if not isinstance(inputs, (list, tuple)) or (
        inputs and not any(isinstance(a, (Tensor, np.ndarray, list, tuple)) for a in inputs)
    ):
        inputs = (inputs,)
    name = str(name or getattr(function, "__name__", type(function).__name__))
    arguments, checked = _float64_inputs(inputs, wrt)
    if hasattr(function, "named_parameters"):
        module: Any = copy.deepcopy(function)
        module.to("float64")
        checked += [(label, p) for label, p in module.named_parameters() if p.requires_grad]
        function = module
    if not checked:
        raise DtypeError.of("gradcheck", "at least one floating input or parameter", f"none for {name}")

    rng = np.random.default_rng(seed)
    first = _outputs(function, arguments)
    projections = [rng.standard_normal(y.shape) for y in first]

    def loss() -> float:
        with no_grad():
            return sum(float((y.numpy() * v).sum()) for y, v in zip(_outputs(function, arguments), projections, strict=True))

    if any(
        not np.array_equal(a.numpy(), b.numpy(), equal_nan=True)
        for a, b in zip(first, _outputs(function, arguments), strict=True)
    ):
        raise GraphError.of(
            "gradcheck",
            f"{name} to give the same result twice",
            "two results",
            "Fix its randomness with rng=seed, or use eval().",
        )
    analytic = _analytic(function, arguments, checked, projections, name)

    # L is a sum of terms v y, each rounded; the difference of two such sums is uncertain by about this much.
    magnitude = sum(float(np.abs(y.numpy() * v).sum()) for y, v in zip(first, projections, strict=True))
    noise = 4 * np.finfo(np.float64).eps * magnitude / step
    report = GradcheckReport(name)
    for (label, tensor), gradient in zip(checked, analytic, strict=True):
        full = mode == "full" or (mode == "auto" and tensor.size <= FULL_LIMIT)
        places = _elements(tensor) if full else _directions(tensor, rng)
        report.inputs.append(_compare(label, tensor, gradient, places, loss, step, tolerance, noise))
    return report


def _float64_inputs(inputs: Sequence[Any], wrt: Sequence[int] | None) -> tuple[list[Any], list[tuple[str, Tensor]]]:
    """The arguments with floating arrays as fresh float64 leaves, and those leaves by name."""
    checked: list[tuple[str, Tensor]] = []

    def convert(value: Any, label: str, wanted: bool) -> Any:
        if isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, np.ndarray)) for v in value):
            return type(value)(convert(v, f"{label}[{i}]", wanted) for i, v in enumerate(value))
        if wanted and isinstance(value, (list, tuple)) and value and not isinstance(value[0], int):
            value = np.asarray(value, np.float64)
        if backend.is_array(value):
            value = Tensor(value)
        if isinstance(value, Tensor) and value.dtype.kind == "f":
            value = Tensor(value._array.astype(np.float64), requires_grad=wanted)
            if wanted:
                checked.append((label, value))
        return value

    arguments = [convert(value, f"x{i}", wrt is None or i in wrt) for i, value in enumerate(inputs)]
    return arguments, checked


def _outputs(function: Callable[..., Any], arguments: list[Any]) -> list[Tensor]:
    result = function(*arguments)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    for y in outputs:
        if not isinstance(y, Tensor):
            raise DtypeError.of("gradcheck", "a function that returns a tensor, or a list or tuple of them", describe(y))
    return [y for y in outputs if y.dtype.kind == "f"]


def _analytic(function: Callable, arguments: list, checked: list, projections: list, name: str) -> list[np.ndarray]:
    with enable_grad():
        for _, tensor in checked:
            tensor.grad = None
        outputs = _outputs(function, arguments)
        if not any(y.requires_grad for y in outputs):
            raise GraphError.of("gradcheck", f"a result of {name} that depends on its inputs", "one that records no graph")
        for y, v in zip(outputs, projections, strict=True):
            if y.requires_grad:
                y.backward(v, retain_graph=True)
    return [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for _, t in checked]


def _elements(tensor: Tensor) -> list[tuple[str, Any]]:
    """One place per element: its index, as text and as the index to move along."""
    return [(str(tuple(map(int, index))), index) for index in np.ndindex(tensor.shape)]


def _directions(tensor: Tensor, rng: np.random.Generator) -> list[tuple[str, Any]]:
    """A few random unit directions."""
    vectors = [rng.standard_normal(tensor.shape) for _ in range(DIRECTIONS)]
    return [(f"direction {i}", v / np.linalg.norm(v)) for i, v in enumerate(vectors)]


def _compare(
    label: str,
    tensor: Tensor,
    gradient: np.ndarray,
    places: list,
    loss: Callable[[], float],
    step: float,
    tolerance: float,
    noise: float,
) -> InputReport:
    base = loss()
    # Elements far smaller than the largest, or than the noise allows to see, are compared on that scale.
    floor = max(1e-3 * float(np.abs(gradient).max(initial=0.0)), noise / tolerance, 1e-12)
    worst = InputReport(label, "ok", 0.0, "no element", 0.0, 0.0, len(places))
    rank = {"ok": 0, "kink": 1, "FAIL": 2}
    for where, place in places:
        if isinstance(place, tuple):
            analytic, reach = float(gradient[place]), max(1.0, abs(float(tensor._array[place])))
        else:
            analytic, reach = float((gradient * place).sum()), 1.0
        verdict, error, numeric = _one_place(tensor, place, analytic, base, loss, step * reach, tolerance, floor)
        worst.kinks += verdict == "kink"
        if (rank[verdict], error) > (rank[worst.verdict], worst.error) or worst.where == "no element":
            worst.verdict, worst.error, worst.where, worst.numeric, worst.analytic = verdict, error, where, numeric, analytic
    return worst


def _one_place(
    tensor: Tensor,
    place: Any,
    analytic: float,
    base: float,
    loss: Callable[[], float],
    step: float,
    tolerance: float,
    floor: float,
) -> tuple[str, float, float]:
    """Central differences with h, h/10, h/100: a kink nearby is left behind, a kink exactly here stays."""
    best: tuple[float, float] | None = None
    right_at: tuple[float, float] | None = None  # where analytic and numeric agree
    one_sided = []
    for h in (step, step / 10, step / 100):
        up, down = _shifted(tensor, place, h, loss), _shifted(tensor, place, -h, loss)
        numeric = (up - down) / (2 * h)
        error = abs(analytic - numeric) / max(abs(analytic), abs(numeric), floor)
        if np.isnan(error):
            error = 0.0 if np.isnan(analytic) and np.isnan(numeric) else np.inf
        if best is None or error < best[0]:
            best = (error, numeric)
        left, right = (base - down) / h, (up - base) / h
        one_sided.append((left, right))
        if error <= tolerance * (step / h):  # rounding errors of the difference grow as h shrinks
            right_at = right_at or (error, numeric)
            if not abs(right - left) > 0.01 * max(abs(left), abs(right), floor):
                return "ok", *right_at
    assert best is not None
    (left, right), (left_before, right_before) = one_sided[-1], one_sided[-2]
    jump, slack = abs(right - left), 1e-3 * max(abs(left), abs(right), floor)
    settled = abs(left - left_before) <= slack and abs(right - right_before) <= slack
    if jump > 10 * slack and settled and min(left, right) - slack <= analytic <= max(left, right) + slack:
        return "kink", *best
    return ("ok", *right_at) if right_at else ("FAIL", *best)


def _shifted(tensor: Tensor, place: Any, h: float, loss: Callable[[], float]) -> float:
    """L with one element, or the whole tensor along a direction, moved by h; put back afterwards."""
    array = tensor._array
    if isinstance(place, tuple):
        old = array[place].copy()
        array[place] += h
        value = loss()
        array[place] = old
    else:
        kept = array.copy()
        array += backend.to_device(h * place, tensor.device)
        value = loss()
        array[...] = kept
    return value
