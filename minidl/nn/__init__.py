"""Modules: layers, containers, initialisers, losses."""

from minidl.nn.module import Module
from minidl.tensor import Parameter
