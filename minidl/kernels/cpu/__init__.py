"""The hot kernels compiled by Numba, for float32 and float64.

A name that has no compiled version is the generic one, so the package is always complete.
"""

from minidl.kernels.generic import *  # isort: skip  (first: what follows replaces)
from minidl.kernels.cpu.activation import *
from minidl.kernels.cpu.columns import *
from minidl.kernels.cpu.conv import *
from minidl.kernels.cpu.elementwise import *
from minidl.kernels.cpu.linear import *
from minidl.kernels.cpu.loss import *
from minidl.kernels.cpu.norm import *
from minidl.kernels.cpu.optim import *
from minidl.kernels.cpu.pool import *
from minidl.kernels.cpu.resize import *
