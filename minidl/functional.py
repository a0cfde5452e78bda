"""Every operation as a function: ``minidl.functional.relu(x)``, and the same as ``minidl.relu(x)``."""

from typing import TYPE_CHECKING

from minidl import ops
from minidl.ops import *

if not TYPE_CHECKING:  # a type checker cannot compute this, and takes every name instead
    __all__ = [name for name in dir(ops) if callable(getattr(ops, name)) and not name.startswith("_")]  # not the files of ops/
