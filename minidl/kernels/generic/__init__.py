"""The textbook kernels: every formula on NumPy's interface, for NumPy and CuPy arrays alike."""

from minidl.kernels.generic.activation import *
from minidl.kernels.generic.elementwise import *
from minidl.kernels.generic.optim import *
