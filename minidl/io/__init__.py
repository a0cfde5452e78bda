"""Models in files."""

from minidl.io.weights import load, load_metadata, load_weights, save

__all__ = [
    "load",
    "load_metadata",
    "load_weights",
    "save",
]
