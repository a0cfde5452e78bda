"""The first bad number: which operation made a NaN or an infinity, where, out of what, and why.

Once a NaN is there it spreads through everything, and the loss that says ``nan`` is far from where it began. Inside of
``detect_anomaly`` every result and every gradient is looked at as soon as it is there, so that the first bad one is named.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from minidl.backend import Array, is_array, to_numpy, xp_of
from minidl.context import observe
from minidl.errors import DtypeError, Located
from minidl.ops._arguments import describe
from minidl.tensor import Parameter, Tensor

__all__ = ["NonFiniteError", "detect_anomaly"]

# Files that call operations on somebody's behalf: minidl's own, NumPy's and the decorators of the standard library.
HELPERS = (f"{Path(__file__).parent}{os.sep}", f"{Path(np.__file__).parent}{os.sep}", contextlib.__file__, functools.__file__)
SHOWN = 8  # operands in a message at most
LARGE = 1e15  # above this, numbers have exploded
PRODUCTS = ("matmul", "linear", "linear_relu", "conv2d", "conv2d_relu", "conv_transpose2d", "einsum", "dot")


class NonFiniteError(Located, FloatingPointError):
    """A NaN or an infinity, at the operation that met it first.

    Attributes:
        op, path: the operation and the module that ran it.
        phase: "forward" or "backward".
        index: of the first bad number in its array.
        value: that number.
        operands: what the operation computed it from, by name: the element at that index, or the array in words.
        cause: what most likely led to it, and what helps.
        source: file, line and text of the code that called the operation; None where it is not known.

    >>> import minidl as md
    >>> from minidl.anomaly import NonFiniteError, detect_anomaly
    >>> with detect_anomaly():
    ...     md.log(md.tensor([1.0, 0.0]))
    Traceback (most recent call last):
        ...
    minidl.anomaly.NonFiniteError: log (forward): expected finite numbers, got -inf at index (1,) of its result (1 of 2 ...
    """

    op = path = phase = cause = ""
    index: tuple[int, ...] = ()
    value: float = float("nan")
    operands: dict[str, str]
    source: tuple[str, int, str] | None = None


@contextlib.contextmanager
def detect_anomaly(infinite: bool = True) -> Iterator[None]:
    """Stop at the first NaN or infinity that an operation of this thread makes or meets, forward or backward.

    Args:
        infinite: False lets infinities pass and stops at NaN only: for models that mask with -inf.

    Notes:
        The error names the operation, the module that ran it, the line that called it, the index in the array, the
        operands there, and the likely cause. Numbers that were bad before are told apart from those that the
        operation made. An operation that turns bad input into finite results, such as ``nan_to_num``, passes.

        What runs does not change. Every array is read once more, which may take as long as computing it, and on a GPU
        every operation is waited for: use it to find a fault, not while training. Outside of the block it costs nothing.
    Raises:
        NonFiniteError: in the block, at the first bad number.
        DtypeError: ``infinite`` that is not a boolean.

    >>> import minidl as md
    >>> from minidl.anomaly import NonFiniteError, detect_anomaly
    >>> x = md.tensor([4.0, 0.0], requires_grad=True)
    >>> with detect_anomaly():
    ...     try:
    ...         md.sqrt(x).sum().backward()
    ...     except NonFiniteError as error:
    ...         print(error.op, error.phase, error.index, error.value)
    sqrt backward (1,) inf
    """
    if not isinstance(infinite, (bool, np.bool_)):
        raise DtypeError.of("detect_anomaly", "infinite as True or False", describe(infinite))
    with observe(_Search(bool(infinite)).observe):
        yield


class _Search:
    """Looks at what goes into and comes out of each operation."""

    def __init__(self, infinite: bool) -> None:
        self.infinite = infinite

    def observe(self, node: Any, phase: str, function: Callable) -> Callable:
        """The same forward or backward, and a look at its result."""

        def looked_at(ctx: Any, *arrays: Any, **params: Any) -> Any:
            if phase == "forward":
                node.__dict__["_source"] = _caller()
                result = function(ctx, *arrays, **params)
                self.forward(node, arrays, params, result[0] if type(result) is tuple else result)
                return result
            gy, saved = arrays[0], node.saved
            if (index := self.first(gy)) is not None:
                raise self.arrived(node, gy, index)
            result = function(ctx, *arrays, **params)
            for i, g in enumerate(result if type(result) is tuple else (result,)):
                if i < len(node.needs) and node.needs[i] and (index := self.first(g)) is not None:
                    raise self.gradient(node, i, g, index, gy, saved)
            return result

        return looked_at

    def first(self, array: Any) -> tuple[int, ...] | None:
        """The index of the first bad number, None when there is none."""
        if isinstance(array, np.floating):
            array = np.asarray(array)
        if not is_array(array) or array.dtype.kind != "f" or array.size == 0:
            return None
        xp = xp_of(array)
        with np.errstate(all="ignore"):
            if np.isfinite(float(array.sum())):  # one pass without a result: a bad number makes the sum bad
                return None
        bad = ~xp.isfinite(array) if self.infinite else xp.isnan(array)
        where = int(xp.argmax(bad))
        index = tuple(int(i) for i in np.unravel_index(where, array.shape))
        return index if bool(bad[index]) else None

    # ---------------------------------------------------------------- what was found

    def forward(self, node: Any, arrays: tuple, params: dict, y: Any) -> None:
        """Complain about a bad result: its input's fault, or its own."""
        index = self.first(y)
        if index is None:
            return
        for i, array in enumerate(arrays):
            at = self.first(array)
            if at is not None:
                raise self.already_bad(node, i, array, at)
        operands = _operands(node, arrays, params, index, y)
        cause = _forward_cause(node.name, arrays, float(y[index]), index, y)
        raise _error(node, "forward", y, index, "its result", operands, cause, node.__dict__.get("_source"))

    def already_bad(self, node: Any, i: int, array: Array, index: tuple[int, ...]) -> NonFiniteError:
        """The operation is not to blame: what it was given is bad."""
        edge = node.edges[i] if i < len(node.edges) else None
        name = _argument(node, i)
        if isinstance(edge, Parameter):
            what = f"its parameter {name}"
            cause = (
                "the optimizer's last step spoiled it: its gradient was bad or the learning rate is too large. "
                "Put backward() and step() inside of the block too, lower the learning rate, or clip gradients."
            )
        elif isinstance(edge, Tensor):
            what, cause = f"its input {name}", "it was bad when it was made: look at the code that fills it."
        elif edge is None:
            what = f"its input {name}"
            cause = "bad data, or statistics spoiled by it, unless it was computed before the block: check it with isfinite."
        else:
            what = f"its input {name}, a result of {edge!r},"
            cause = "it was computed before the block: put that inside of detect_anomaly too."
        return _error(node, "forward", array, index, what, {}, cause, node.__dict__.get("_source"), already=True)

    def arrived(self, node: Any, gy: Array, index: tuple[int, ...]) -> NonFiniteError:
        """All gradients before were finite, yet what comes in is not: the start, a hook, or a sum of several."""
        cause = (
            "the gradient that backward() was given, a hook that changed it, or a sum of gradients that overflowed: "
            "every gradient that an operation returned so far was finite."
        )
        source = node.__dict__.get("_source")
        return _error(node, "backward", gy, index, "the gradient of its result", {}, cause, source, already=True)

    def gradient(self, node: Any, i: int, g: Array, index: tuple[int, ...], gy: Array, saved: Any) -> NonFiniteError:
        """A backward that made a bad number out of a finite gradient."""
        kept = [array for array in saved or () if is_array(array)]
        operands = {"gradient of the result": _at(gy, index, g.shape)}
        operands |= {f"saved[{j}]": _at(array, index, g.shape) for j, array in enumerate(kept[:SHOWN])}
        cause = _backward_cause(node.name, float(g[index]), gy, kept)
        where = f"the gradient of {_argument(node, i)}"
        return _error(node, "backward", g, index, where, operands, cause, node.__dict__.get("_source"))


def _error(
    node: Any,
    phase: str,
    array: Array,
    index: tuple[int, ...],
    where: str,
    operands: dict[str, str],
    cause: str,
    source: tuple[str, int, str] | None,
    already: bool = False,
) -> NonFiniteError:
    value = float(array[index])
    bad = int((~xp_of(array).isfinite(array)).sum())
    place = f"{node.name} [{node.path}] ({phase})" if node.path else f"{node.name} ({phase})"
    count = f"{bad:,} of {array.size:,} {'is' if bad == 1 else 'are'} not finite"
    if already:
        text = f"{place}: expected finite numbers, but {where} already holds {value} at index {index} ({count})."
    else:
        text = f"{place}: expected finite numbers, got {value} at index {index} of {where} ({count})."
    lines = [text]
    if operands:
        lines.append(f"  computed from: {'; '.join(f'{name} = {what}' for name, what in operands.items())}")
    lines.append(f"  likely cause: {cause}")
    if source is not None:
        file, line, code = source
        what = "called" if phase == "forward" else "its forward was called"
        lines.append(f"  {what} at {file}:{line}{f': {code}' if code else ''}")
    error = NonFiniteError("\n".join(lines))
    error.op, error.path, error.phase, error.cause, error.source = node.name, node.path, phase, cause, source
    error.index, error.value, error.operands = index, value, operands
    return error


def _caller() -> tuple[str, int, str] | None:
    """The line that called the running operation: the innermost one that is not minidl's own."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(HELPERS):
            return file, frame.f_lineno, linecache.getline(file, frame.f_lineno, frame.f_globals).strip()
        frame = frame.f_back
    return None


# ---------------------------------------------------------------- operands and causes


def _argument(node: Any, i: int) -> str:
    """What the operation's forward calls its input i: x, w, b, ..."""
    parameters = list(inspect.signature(node.function.forward).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return named[i] if i < len(named) else f"argument {i}"


def _operands(node: Any, arrays: tuple, params: dict, index: tuple[int, ...], y: Any) -> dict[str, str]:
    found = {_argument(node, i): _at(a, index, np.shape(y)) for i, a in enumerate(arrays) if a is not None}
    found |= {name: repr(value) for name, value in params.items() if isinstance(value, (int, float))}
    return dict(list(found.items())[:SHOWN])


def _at(array: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The element that belongs to an index of the result when shapes broadcast; else the array in words."""
    if not is_array(array):
        return repr(array)
    skipped = len(shape) - array.ndim
    if skipped >= 0 and all(n in (1, m) for n, m in zip(array.shape, shape[skipped:])):
        own = tuple(0 if n == 1 else i for n, i in zip(array.shape, index[skipped:]))
        return f"{array[own].item():.6g}" + (f" at {own}" if own != index and own else "")
    return _in_words(array)


def _in_words(array: Array) -> str:
    values = to_numpy(array)
    text = f"{values.dtype} of shape {values.shape}"
    if values.dtype.kind == "f" and values.size:
        text += f", {values.min():.4g} to {values.max():.4g}"
    return text


def _largest(arrays: Any) -> float:
    """The largest absolute value of floating arrays."""
    sizes = [float(abs(a).max()) for a in arrays if is_array(a) and a.dtype.kind == "f" and a.size]
    return max(sizes, default=0.0)


def _element(array: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """The number of an operand that broadcasts to the result's shape, NaN when it does not."""
    if isinstance(array, (int, float)):
        return float(array)
    if not is_array(array):
        return float("nan")
    try:
        return float(np.broadcast_to(to_numpy(array), shape)[index])
    except ValueError:
        return float("nan")


def _forward_cause(op: str, arrays: tuple, value: float, index: tuple[int, ...], y: Any) -> str:
    x, z = ([_element(a, index, np.shape(y)) for a in arrays[:2]] + [float("nan")] * 2)[:2]
    if op in ("log", "log2", "log10", "log1p"):
        edge = -1 if op == "log1p" else 0
        if x == edge:
            return f"{op} of {edge}. Add a small number first, such as 1e-7, or use log_softmax or a loss that takes logits."
        return f"{op} of a negative number ({x:.6g}). Clip its argument from below."
    if op in ("divide", "floor_divide", "remainder", "mod") and z == 0:
        return f"division of {x:.6g} by 0. Add a small number to the divisor, or use where to leave these elements out."
    if op == "reciprocal" and x == 0:
        return "division by 0. Add a small number to the divisor."
    if op == "sqrt" and x < 0:
        return f"square root of a negative number ({x:.6g}): often a variance computed as a difference. Clip it at 0."
    if op == "power":
        if x == 0 and z < 0:
            return f"0 to the negative power {z:.6g}, which is a division by 0."
        if x < 0 and not float(z).is_integer():
            return f"a negative number ({x:.6g}) to the power {z:.6g}, which is not an integer."
        return f"overflow: {x:.6g} to the power {z:.6g} is beyond {np.asarray(y).dtype}."
    if op in ("exp", "exp2", "expm1", "sinh", "cosh"):
        limit = np.log(float(np.finfo(y.dtype).max))
        return f"{op}({x:.6g}) overflows: {y.dtype} ends at {limit:.1f}. Subtract the largest value first, as softmax does."
    if op in ("mean", "var", "std") and arrays and is_array(arrays[0]) and arrays[0].size == 0:
        return f"{op} of no numbers."
    if value != value and op in ("var", "std"):
        return f"{op} over too few numbers for its correction."
    size = _largest(arrays)
    if size > LARGE or op in PRODUCTS:
        return (
            f"overflow: its operands are as large as {size:.3g}. Activations or weights exploded: lower the learning rate, "
            "clip gradients, normalise the input, or add normalisation layers."
        )
    return f"overflow or an undefined value; its operands are at most {size:.3g} in size."


def _backward_cause(op: str, value: float, gy: Array, saved: list[Array]) -> str:
    if op in ("sqrt", "norm", "std"):
        return f"the derivative of {op} at 0 is infinite. Add a small number inside: sqrt(x + 1e-12)."
    if op in ("log", "log2", "log10"):
        return f"the derivative of {op} near 0 is too large. Add a small number to its argument."
    if op in ("divide", "reciprocal"):
        return "the derivative of a division by (nearly) 0: the divisor squared underflows. Add a small number to it."
    if op == "power":
        return "the derivative of a power of 0 (an exponent below 1), or of a negative number by its exponent."
    if op in ("arcsin", "arccos", "arctanh"):
        return f"the derivative of {op} at -1 or 1 is infinite. Clip its argument."
    size = max(_largest(saved), _largest((gy,)))
    return (
        f"overflow: the gradient and the operands are as large as {size:.3g}. Gradients exploded: lower the learning rate, "
        "clip gradients, scale the loss, or look at the initial weights."
    )
