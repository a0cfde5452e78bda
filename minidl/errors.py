"""The errors minidl raises, all in one form: ``op [module path]: expected ..., got .... Hint.``"""

from __future__ import annotations

from typing import TypeVar

from minidl.context import state

E = TypeVar("E", bound="Located")


class Located(Exception):
    """An error that says which operation of which module met it."""

    @classmethod
    def of(cls: type[E], op: str, expected: str, got: str, hint: str = "") -> E:
        """Compose the message: what ran and where, what it expected, what came, the smallest fix."""
        place = f"{op} [{state.path}]" if state.path else op
        text = f"{place}: expected {expected}, got {got}."
        return cls(f"{text} {hint}" if hint else text)


class ShapeError(Located, ValueError):
    """Shapes that do not fit the operation or each other."""


class ArgumentError(Located, ValueError):
    """A value outside of what an argument allows: negative padding, a label out of range, ..."""


class DtypeError(Located, TypeError):
    """An array or value of the wrong type: object arrays, float labels, integer logits, ..."""


class DeviceError(Located, RuntimeError):
    """Arrays on different devices, or a device that is not there."""


class GraphError(Located, RuntimeError):
    """A graph that cannot be walked: freed, or never recorded."""
