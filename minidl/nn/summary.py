"""A table of a model: what every layer gives out, holds, computes and keeps for backward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import random
from minidl.backend import Array, default_dtype, is_array
from minidl.context import enable_grad, watch
from minidl.errors import ArgumentError
from minidl.nn.module import Module
from minidl.node import Node
from minidl.ops._arguments import integer
from minidl.registry import OPS
from minidl.tensor import Tensor

__all__ = ["LayerSummary", "Summary", "summary"]


@dataclass
class LayerSummary:
    """One row of the table.

    Attributes:
        path: the layer's dotted path, "" for the model itself.
        type: its class.
        output_shape: of its result; None when it was not called.
        parameters: numbers that can be trained or frozen, of this layer itself; shared ones count once.
        flops: floating-point operations of its own operations in one forward pass; a multiply-add counts as two.
        saved_bytes: arrays that its operations keep for backward; each buffer counts once, where it is kept first.

    >>> import minidl as md
    >>> from minidl import nn
    >>> layer = md.summary(nn.Linear(4, 2), (16, 4)).layers[0]
    >>> layer.type, layer.output_shape, layer.parameters, layer.flops
    ('Linear', (16, 2), 10, 288)
    """

    path: str
    type: str
    output_shape: Any = None
    parameters: int = 0
    flops: int = 0
    saved_bytes: int = 0


@dataclass
class Summary:
    """The table and its totals; ``str()`` gives it as text.

    Attributes:
        model: the model's class.
        input_shape: of the input, with the batch axis.
        layers: one ``LayerSummary`` per row.
        parameters: numbers in all parameters, shared ones once.
        trainable: how many of them require a gradient.
        parameter_bytes: the memory they take.

    >>> import minidl as md
    >>> from minidl import nn
    >>> table = md.summary(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (16, 4))
    >>> table.parameters, table.flops, table.saved_bytes
    (58, 1824, 768)
    """

    model: str
    input_shape: Any
    layers: list[LayerSummary] = field(default_factory=list)
    parameters: int = 0
    trainable: int = 0
    parameter_bytes: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations of one forward pass of this batch."""
        return sum(layer.flops for layer in self.layers)

    @property
    def saved_bytes(self) -> int:
        """Bytes kept for backward, without parameters and buffers."""
        return sum(layer.saved_bytes for layer in self.layers)

    def __str__(self) -> str:
        header = ("layer", "type", "output shape", "parameters", "FLOPs", "saved")
        rows = [
            (
                layer.path or "(model)",
                layer.type,
                "not called" if layer.output_shape is None else str(layer.output_shape),
                f"{layer.parameters:,}",
                _si(layer.flops),
                _bytes(layer.saved_bytes),
            )
            for layer in self.layers
        ]
        total = ("total", "", "", f"{self.parameters:,}", _si(self.flops), _bytes(self.saved_bytes))
        widths = [max(map(len, column)) for column in zip(header, *rows, total)]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

        def line(cells: tuple[str, ...]) -> str:
            aligned = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
            return "  ".join(aligned).rstrip()

        return "\n".join(
            [
                f"{self.model}, input {self.input_shape}",
                line(header),
                rule,
                *map(line, rows),
                rule,
                line(total),
                f"parameters: {self.trainable:,} trainable, {self.parameters - self.trainable:,} frozen, "
                f"{_bytes(self.parameter_bytes)}",
            ]
        )

    __repr__ = __str__


def summary(model: Module, input_shape: Any, dtype: Any = None) -> Summary:
    """Run a model once on zeros and tabulate its layers.

    The pass runs in the model's current mode (``model.eval()`` first for inference); running statistics,
    random generators and gradients are as before afterwards.

    Args:
        model: the module.
        input_shape: the whole shape of the input with the batch axis, such as (1, 3, 32, 32); a list of shapes
            for a model of several inputs.
        dtype: of the input; that of the model's first parameter when None. Integers for embeddings.

    Returns:
        An object whose ``str`` is the table; ``layers``, ``parameters``, ``flops`` and ``saved_bytes`` hold the numbers.

    Notes:
        Layers stand in the order in which they ran. A layer that holds others has a row only when it computes
        something itself or holds parameters itself. When forward fails, the table up to that point is added to
        the error.
    Raises:
        ArgumentError: something that is no module, or an input_shape that is no tuple.

    >>> import minidl as md
    >>> from minidl import nn
    >>> print(md.summary(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (16, 4)))
    Sequential, input (16, 4)
    layer  type    output shape  parameters   FLOPs  saved
    ------------------------------------------------------
    0      Linear  (16, 8)               40  1.15 k  256 B
    1      ReLU    (16, 8)                0     128  512 B
    2      Linear  (16, 2)               18     544    0 B
    ------------------------------------------------------
    total                                58  1.82 k  768 B
    parameters: 58 trainable, 0 frozen, 232 B
    """
    if not isinstance(model, Module):
        raise ArgumentError.of("summary", "a Module", type(model).__name__)
    lists = isinstance(input_shape, (tuple, list))
    several = lists and len(input_shape) > 0 and all(isinstance(shape, (tuple, list)) for shape in input_shape)
    shapes = [_shape(shape) for shape in (input_shape if several else [input_shape])]
    first = next(model.parameters(), None)
    device = "cpu" if first is None else first.device
    dtype = np.dtype((default_dtype() if first is None else first.dtype) if dtype is None else dtype)
    inputs = [Tensor(np.zeros(shape, dtype), device=device) for shape in shapes]

    shown = shapes if several else shapes[0]
    with _unchanged(model):
        recorder = _Recorder(model)
        try:
            with watch(recorder.operation), recorder, enable_grad():
                model(*inputs)
        except Exception as error:
            error.add_note(f"in summary; the layers before it:\n{recorder.table(shown, called=True)}")
            raise
        return recorder.table(shown)


def _shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)):
        raise ArgumentError.of("summary", "input_shape as a tuple with the batch axis, such as (1, 3, 32, 32)", repr(shape))
    return tuple(integer("summary", "input_shape", size, 0) for size in shape)


class _Recorder:
    """Listens to operations and modules during one forward pass."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.layers: dict[str, LayerSummary] = {}
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.alive: list[Array] = []  # so that no memory is recycled during the pass and counted for another array
        self.counted = [_span(t._array) for t in (*model.parameters(), *model.buffers())]
        self.removers: list[Any] = []

    def __enter__(self) -> _Recorder:
        self.removers = [module.register_forward_hook(self.module) for module in self.model.modules()]
        return self

    def __exit__(self, *exc: object) -> None:
        for remove in self.removers:
            remove()
        self.removers.clear()  # they refer to this recorder, which holds arrays

    def module(self, module: Module, inputs: tuple, output: Any) -> None:
        """Forward hook: the shape of a layer's result."""
        path = self.paths[id(module)]
        if path in self.layers or not module._modules:
            self.row(path, type(module).__name__).output_shape = _shape_of(output)

    def operation(self, node: Node, inputs: tuple, params: dict, output: Array) -> None:
        """Watcher: the work and the memory of one operation."""
        path = "" if node.path == type(self.model).__name__ and node.path not in self.paths.values() else node.path
        row = self.row(path, path.rpartition(".")[2])
        row.output_shape = tuple(output.shape)
        spec = OPS.get(node.name)
        if spec is not None and spec.flops is not None:
            row.flops += int(spec.flops(output, *inputs, **params))
        for array in node.saved or ():
            if is_array(array) and array.size:
                row.saved_bytes += self.new_bytes(array)

    def row(self, path: str, kind: str) -> LayerSummary:
        return self.layers.setdefault(path, LayerSummary(path, kind))

    def new_bytes(self, array: Array) -> int:
        """The array's bytes, 0 when they were counted already."""
        low, high = _span(array)
        if any(a <= low and high <= b for a, b in self.counted):
            return 0
        self.counted.append((low, high))
        self.alive.append(array)
        return high - low

    def table(self, input_shape: Any, called: bool = False) -> Summary:
        """What was recorded, with the parameters of every layer, or only of those that were called."""
        parameters = list(self.model.parameters())
        result = Summary(type(self.model).__name__, input_shape)
        result.parameters = sum(p.size for p in parameters)
        result.trainable = sum(p.size for p in parameters if p.requires_grad)
        result.parameter_bytes = sum(p.nbytes for p in parameters)
        seen: set[int] = set()
        for path, module in self.model.named_modules():
            own = [p for p in module._parameters.values() if p is not None and id(p) not in seen]
            seen.update(map(id, own))
            if path in self.layers or (own and not called):
                row = self.row(path, type(module).__name__)
                row.type, row.parameters = type(module).__name__, sum(p.size for p in own)
        result.layers = list(self.layers.values())
        return result


def _shape_of(output: Any) -> Any:
    """The shape of a tensor, a list of the shapes of several."""
    if isinstance(output, Tensor):
        return output.shape
    if isinstance(output, dict):
        output = output.values()
    if isinstance(output, Iterable):
        return [_shape_of(value) for value in output]
    return None


def _span(array: Array) -> tuple[int, int]:
    """First and last byte + 1 of an array in memory."""
    low = high = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    for size, stride in zip(array.shape, array.strides):
        reach = (size - 1) * stride
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high + array.itemsize


class _unchanged:
    """Buffers and random generators are after the block what they were before."""

    def __init__(self, model: Module) -> None:
        self.buffers = list(model.buffers())
        generators = [value for module in model.modules() for value in vars(module).values()]
        self.generators = [value for value in generators if isinstance(value, np.random.Generator)] + [random.generator()]

    def __enter__(self) -> None:
        self.arrays = [buffer._array for buffer in self.buffers]
        self.states = [generator.bit_generator.state for generator in self.generators]
        for buffer in self.buffers:
            buffer._array = buffer._array.copy(order="K")

    def __exit__(self, *exc: object) -> None:
        for buffer, array in zip(self.buffers, self.arrays):
            buffer._array = array
        for generator, state in zip(self.generators, self.states):
            generator.bit_generator.state = state


def _si(n: int) -> str:
    """A count with k, M, G, T."""
    return _scaled(n, 1000, ("", "k", "M", "G", "T"))


def _bytes(n: int) -> str:
    """A number of bytes in B, KiB, MiB, GiB."""
    return _scaled(n, 1024, ("B", "KiB", "MiB", "GiB"))


def _scaled(n: int, base: int, units: tuple[str, ...]) -> str:
    """Three digits and the largest unit that leaves at least one before the point."""
    value, place = float(n), 0
    while value >= base - 0.5 and place < len(units) - 1:
        value, place = value / base, place + 1
    decimals = 0 if place == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {units[place]}".rstrip()
