"""The errors minidl raises, all in one form: ``op [module path]: expected ..., got .... Hint.``"""

from __future__ import annotations

from typing import TypeVar

from minidl.context import state

E = TypeVar("E", bound="Located")


class Located(Exception):
    """An error that says which operation of which module met it.

    Attributes:
        op: the operation.
        got: what came, as the message says it.
    """

    op = ""
    got = ""
    _facts = ""  # the message without its hint

    @classmethod
    def of(cls: type[E], op: str, expected: str, got: str, hint: str = "") -> E:
        """Compose the message: what ran and where, what it expected, what came, the smallest fix."""
        place = f"{op} [{state.path}]" if state.path else op
        text = f"{place}: expected {expected}, got {got}."
        error = cls(f"{text} {hint}" if hint else text)
        error.op, error.got, error._facts = op, got, text
        return error

    def advise(self, hint: str) -> None:
        """Put a better hint in the place of the message's own.

        >>> import minidl as md
        >>> error = md.ShapeError.of("linear", "x with 3 features", "shape (2, 4)", "Look at the sizes.")
        >>> error.advise("Use in_features=4.")
        >>> print(error)
        linear: expected x with 3 features, got shape (2, 4). Use in_features=4.
        """
        self.args = (f"{self._facts} {hint}",)


class ShapeError(Located, ValueError):
    """Shapes that do not fit the operation or each other.

    >>> import minidl as md
    >>> md.ones(2) + md.ones(3)
    Traceback (most recent call last):
        ...
    minidl.errors.ShapeError: add: expected shapes that broadcast, got (2,) and (3,). Axes must be equal or 1, ...
    """


class ArgumentError(Located, ValueError):
    """A value outside of what an argument allows: negative padding, a label out of range, ...

    >>> import minidl as md
    >>> md.dropout(md.ones(2), p=1.5)
    Traceback (most recent call last):
        ...
    minidl.errors.ArgumentError: dropout: expected p within 0 to 1, got 1.5.
    """


class DtypeError(Located, TypeError):
    """An array or value of the wrong type: object arrays, float labels, integer logits, ...

    >>> import minidl as md
    >>> md.tensor([1, 2], requires_grad=True)
    Traceback (most recent call last):
        ...
    minidl.errors.DtypeError: requires_grad: expected float32 or float64, got int64. Gradients need real numbers: ...
    """


class DeviceError(Located, RuntimeError):
    """Arrays on different devices, or a device that is not there.

    >>> import minidl as md
    >>> try:
    ...     md.ones(2, device="cuda:99")
    ... except md.DeviceError as error:
    ...     print(error)
    device: expected ..., got ...
    """


class GraphError(Located, RuntimeError):
    """A graph that cannot be walked: freed, or never recorded.

    >>> import minidl as md
    >>> md.ones(1).backward()
    Traceback (most recent call last):
        ...
    minidl.errors.GraphError: backward: expected a tensor that depends on one with requires_grad=True, got ...
    """
