"""minidl: deep learning from scratch, in Python that can be read and is fast."""

# "import x as x" tells type checkers that a name is public.
from typing import TYPE_CHECKING

from minidl import (
    data as data,
    functional as functional,
    io as io,
    models as models,
    nn as nn,
    optim as optim,
    train as train,
)
from minidl.anomaly import NonFiniteError as NonFiniteError, detect_anomaly as detect_anomaly
from minidl.backend import default_dtype as default_dtype, use_dtype as use_dtype
from minidl.capture import capture as capture
from minidl.context import (
    allow_tf32 as allow_tf32,
    enable_grad as enable_grad,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    watch as watch,
)
from minidl.errors import (
    ArgumentError as ArgumentError,
    DeviceError as DeviceError,
    DtypeError as DtypeError,
    GraphError as GraphError,
    ShapeError as ShapeError,
)
from minidl.function import Function as Function
from minidl.functional import *
from minidl.gradcheck import gradcheck as gradcheck
from minidl.io import load as load, load_weights as load_weights, save as save
from minidl.kernels import use_kernels as use_kernels
from minidl.memory import no_pool as no_pool
from minidl.nn import summary as summary
from minidl.profile import profile as profile
from minidl.random import manual_seed as manual_seed
from minidl.tensor import Parameter as Parameter, Tensor as Tensor
from minidl.train import (
    cross_validate as cross_validate,
    diagnose as diagnose,
    evaluate as evaluate,
    find_lr as find_lr,
    fit as fit,
    predict as predict,
)

if TYPE_CHECKING:
    from minidl import viz as viz
    from minidl.viz.microscope import explain as explain

    __version__: str
else:

    def __getattr__(name: str):
        if name == "viz":  # loads matplotlib, so only on first use
            import minidl.viz as viz

            return viz
        if name == "explain":
            from minidl.viz.microscope import explain

            return explain
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                return version("minidl")
            except PackageNotFoundError:  # used from a checkout, without being installed
                return "checkout"
        raise AttributeError(f"module 'minidl' has no attribute {name!r}")
