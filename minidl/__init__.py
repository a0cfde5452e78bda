"""minidl: deep learning from scratch, in Python that can be read and is fast."""

# "import x as x" tells type checkers that a name is public.
from typing import TYPE_CHECKING

from minidl import data as data
from minidl import functional as functional
from minidl import io as io
from minidl import models as models
from minidl import nn as nn
from minidl import optim as optim
from minidl import train as train
from minidl.backend import default_dtype as default_dtype
from minidl.backend import use_dtype as use_dtype
from minidl.context import enable_grad as enable_grad
from minidl.context import is_grad_enabled as is_grad_enabled
from minidl.context import no_grad as no_grad
from minidl.context import watch as watch
from minidl.errors import ArgumentError as ArgumentError
from minidl.errors import DeviceError as DeviceError
from minidl.errors import DtypeError as DtypeError
from minidl.errors import GraphError as GraphError
from minidl.errors import ShapeError as ShapeError
from minidl.function import Function as Function
from minidl.functional import *
from minidl.gradcheck import gradcheck as gradcheck
from minidl.io import load as load
from minidl.io import load_weights as load_weights
from minidl.io import save as save
from minidl.kernels import use_kernels as use_kernels
from minidl.memory import no_pool as no_pool
from minidl.nn import summary as summary
from minidl.random import manual_seed as manual_seed
from minidl.tensor import Parameter as Parameter
from minidl.tensor import Tensor as Tensor
from minidl.train import evaluate as evaluate
from minidl.train import fit as fit
from minidl.train import predict as predict


if TYPE_CHECKING:
    from minidl import viz as viz
else:

    def __getattr__(name: str):
        if name == "viz":  # loads matplotlib, so only on first use
            import minidl.viz as viz

            return viz
        raise AttributeError(f"module 'minidl' has no attribute {name!r}")
