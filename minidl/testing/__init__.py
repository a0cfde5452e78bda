"""Helpers for testing operations: inputs in every form, and a walk through the graph that checks the rules."""

from minidl.testing.forms import FORMS, as_tensors
from minidl.testing.walk import checked_backward

__all__ = [
    "FORMS",
    "as_tensors",
    "checked_backward",
]
