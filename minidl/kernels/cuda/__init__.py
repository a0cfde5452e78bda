"""The hot kernels in CUDA C, compiled by CuPy, for float32 and float64.

A name that has no kernel here is the generic one, on CuPy's arrays, so the package is always complete.
"""

from minidl.kernels.generic import *  # isort: skip  (first: what follows replaces)
from minidl.kernels.cuda.activation import *
from minidl.kernels.cuda.columns import *
from minidl.kernels.cuda.conv import *
from minidl.kernels.cuda.conv_relu import *
from minidl.kernels.cuda.dropout import *
from minidl.kernels.cuda.elementwise import *
from minidl.kernels.cuda.embedding import *
from minidl.kernels.cuda.linear import *
from minidl.kernels.cuda.loss import *
from minidl.kernels.cuda.norm import *
from minidl.kernels.cuda.optim import *
from minidl.kernels.cuda.pool import *
from minidl.kernels.cuda.resize import *
