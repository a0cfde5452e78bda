"""Operations on tensors, one file per family. Importing this package gives Tensor its methods."""

from minidl.ops.activation import *
from minidl.ops.compare import *
from minidl.ops.create import *
from minidl.ops.cross_entropy import *
from minidl.ops.elementwise import *
from minidl.ops.index import *
from minidl.ops.loss import *
from minidl.ops.reduce import *
from minidl.ops.shape import *
from minidl.registry import OPS
from minidl.tensor import Tensor

for _spec in OPS.values():
    for _name in _spec.methods:
        setattr(Tensor, _name, _spec.function)
