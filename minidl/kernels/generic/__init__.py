"""The textbook kernels: every formula on NumPy's interface, for NumPy and CuPy arrays alike."""

from minidl.kernels.generic.activation import *
from minidl.kernels.generic.columns import *
from minidl.kernels.generic.conv import *
from minidl.kernels.generic.conv_relu import *
from minidl.kernels.generic.dropout import *
from minidl.kernels.generic.elementwise import *
from minidl.kernels.generic.embedding import *
from minidl.kernels.generic.linear import *
from minidl.kernels.generic.loss import *
from minidl.kernels.generic.norm import *
from minidl.kernels.generic.optim import *
from minidl.kernels.generic.pool import *
from minidl.kernels.generic.resize import *
