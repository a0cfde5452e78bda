"""minidl: deep learning from scratch, in Python that can be read and is fast."""

from minidl import data, functional, io, models, nn, optim, train
from minidl.backend import default_dtype, use_dtype
from minidl.context import enable_grad, is_grad_enabled, no_grad, watch
from minidl.errors import ArgumentError, DeviceError, DtypeError, GraphError, ShapeError
from minidl.function import Function
from minidl.functional import *
from minidl.gradcheck import gradcheck
from minidl.io import load, load_weights, save
from minidl.kernels import use_kernels
from minidl.memory import no_pool
from minidl.nn import summary
from minidl.random import manual_seed
from minidl.tensor import Parameter, Tensor
from minidl.train import evaluate, fit, predict


def __getattr__(name: str):
    if name == "viz":  # loads matplotlib, so only on first use
        import minidl.viz as viz

        return viz
    raise AttributeError(f"module 'minidl' has no attribute {name!r}")
