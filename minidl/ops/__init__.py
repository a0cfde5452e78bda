"""Operations on tensors, one file per family. Importing this package gives Tensor its methods."""

from minidl.ops import _numpy, device
from minidl.ops.activation import *
from minidl.ops.attention import *
from minidl.ops.batch_norm import *
from minidl.ops.columns import *
from minidl.ops.compare import *
from minidl.ops.conv import *
from minidl.ops.conv_relu import *
from minidl.ops.create import *
from minidl.ops.cross_entropy import *
from minidl.ops.dropout import *
from minidl.ops.elementwise import *
from minidl.ops.embedding import *
from minidl.ops.index import *
from minidl.ops.linalg import *
from minidl.ops.linear import *
from minidl.ops.loss import *
from minidl.ops.maths import *
from minidl.ops.norm import *
from minidl.ops.pool import *
from minidl.ops.reduce import *
from minidl.ops.resize import *
from minidl.ops.shape import *
from minidl.registry import OPS
from minidl.tensor import Tensor

for _spec in OPS.values():
    for _name in _spec.methods:
        setattr(Tensor, _name, _spec.function)

for _name, _method in {  # what the records cannot say: tensors on the right, ==, x.T, x.to, NumPy's functions
    "__rsub__": _numpy.reflected(subtract),
    "__rtruediv__": _numpy.reflected(divide),
    "__rfloordiv__": _numpy.reflected(floor_divide),
    "__rmod__": _numpy.reflected(remainder),
    "__rpow__": _numpy.reflected(power),
    "__rmatmul__": _numpy.reflected(matmul),
    "__eq__": _numpy.tensor_eq,
    "__ne__": _numpy.tensor_ne,
    "T": property(_numpy.tensor_t),
    "to": device.to,
    "__array_ufunc__": _numpy.array_ufunc,
    "__array_function__": _numpy.array_function,
}.items():
    setattr(Tensor, _name, _method)
