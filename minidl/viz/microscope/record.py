"""Run a model once and keep every number: what each operation read and gave out, and all gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array, default_dtype, is_array, to_numpy
from minidl.context import enable_grad, watch
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn import Module
from minidl.ops import cross_entropy, softmax
from minidl.ops._arguments import describe, integer
from minidl.tensor import Node, Tensor

OP = "explain"


@dataclass
class Value:
    """The image, or what an operation gave out. ``gradient`` is None where the target does not depend on it."""

    value: np.ndarray
    gradient: np.ndarray | None = None


@dataclass
class Constant:
    """What operations read besides: ``kind`` is parameter, buffer, or constant for any other array."""

    name: str
    kind: str
    value: np.ndarray
    gradient: np.ndarray | None = None


@dataclass
class Step:
    """One operation that ran. An input is ("value" or "constant", its number), ("number", a number) or None."""

    op: str
    path: str
    kind: str  # the class of the module at this path; "" for operations outside of the model
    inputs: list[tuple[str, float] | None]
    output: int
    params: dict[str, Any]


@dataclass
class Recording:
    """A run, operation by operation. ``values[0]`` is the image, ``output`` the number of the model's output."""

    model: str
    values: list[Value] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    output: int = 0
    target: dict[str, Any] | None = None  # kind "number" or "loss", its index or label, the value it starts from


def record(model: Module, x: Any, label: int | None = None, target: int | None = None) -> Recording:
    """Run a model on one image, forward and backward, in evaluation mode. Modes and gradients are put back.

    Raises: as ``explain``.
    """
    if not isinstance(model, Module):
        raise DtypeError.of(OP, "model as a Module", describe(model))
    if label is not None and target is not None:
        raise ArgumentError.of(OP, "a label or a target", "both", "The label's loss or the target's number is followed back.")
    label = None if label is None else integer(OP, "label", label, 0)
    target = None if target is None else integer(OP, "target", target, 0)
    image = _one_image(model, x)
    recorder = _Recorder(model, image)
    with _put_back(model), enable_grad():
        with watch(recorder.step):
            output = model.eval()(image)
        if not isinstance(output, Tensor) or output.size == 0:
            raise DtypeError.of(OP, "a model that returns one tensor", describe(output))
        run = recorder.recording
        run.output = recorder.number_of(output)
        _check_target(output, label, target)
        with watch(recorder.step):
            if output.ndim == 2 and output.shape[1] > 1 and not (run.steps and run.steps[-1].op.endswith("softmax")):
                softmax(output, axis=1)
            loss = None if label is None else cross_entropy(output, Tensor(np.array([label]), device=output.device))
        if output.requires_grad:
            _backward(recorder, output, loss, label, target)
        for parameter in model.parameters():
            number = recorder.constant_numbers.get(id(parameter._array))
            if number is not None and parameter.grad is not None:
                run.constants[number].gradient = _copy(parameter.grad._array)
    if image.grad is not None:
        run.values[0].gradient = _copy(image.grad._array)
    return run


def _backward(recorder: _Recorder, output: Tensor, loss: Tensor | None, label: int | None, target: int | None) -> None:
    """Fill in the gradients of the loss, or of one number of the output: the chosen one or else the largest."""
    run = recorder.recording
    if loss is not None:
        run.target = {"kind": "loss", "label": label, "value": recorder.number_of(loss)}
        loss.backward()
        return
    numbers = to_numpy(output._array).reshape(-1)
    index = int(np.argmax(numbers)) if target is None else target
    seed = np.zeros(output.shape, output.dtype)
    seed.reshape(-1)[index] = 1
    run.target = {"kind": "number", "index": index, "value": run.output}
    output.backward(seed)


def _check_target(output: Tensor, label: int | None, target: int | None) -> None:
    if label is not None:
        if output.ndim != 2:
            hint = "Use target= instead."
            raise ShapeError.of(OP, "a model with output (1, classes) for a label", f"output of shape {output.shape}", hint)
        if label >= output.shape[1]:
            raise ArgumentError.of(OP, f"label from 0 to {output.shape[1] - 1}", str(label))
    if target is not None and target >= output.size:
        raise ArgumentError.of(OP, f"target from 0 to {output.size - 1}", str(target))
    if (label is not None or target is not None) and not output.requires_grad:
        raise ArgumentError.of(OP, "an output that depends on x through recorded operations", "one without a graph")


class _Recorder:
    """Turns what ``watch`` reports into steps between numbered values.

    Which value an input is, the graph's edges say; an operation that needs no gradient has none, then the array's
    identity does. All arrays are held until the end, so that no identity is used twice.
    """

    def __init__(self, model: Module, image: Tensor) -> None:
        self.recording = Recording(type(model).__name__)
        self.recording.values.append(Value(_copy(image._array)))
        self.image = image
        self.kinds = {path or type(model).__name__: type(module).__name__ for path, module in model.named_modules()}
        self.names: dict[int, tuple[str, str]] = {}  # id of an array -> kind and name
        for kind, tensors in (("buffer", model.named_buffers()), ("parameter", model.named_parameters())):
            self.names.update({id(tensor._array): (kind, name) for name, tensor in tensors})
        self.nodes: dict[Node, int] = {}
        self.arrays: dict[int, int] = {id(image._array): 0}
        self.constant_numbers: dict[int, int] = {}
        self.held: list[Any] = [image._array]

    def step(self, node: Node, inputs: tuple, params: dict, output: Any) -> None:
        """What ``watch`` calls after every operation."""
        read = [self._input(node.edges[i], value) for i, value in enumerate(inputs)]
        number = len(self.recording.values)
        self.recording.values.append(Value(_copy(output)))
        self.nodes[node] = self.arrays[id(output)] = number
        self.held.append(output)
        if True in node.needs:
            node.hooks = [partial(self._keep_gradient, number)]
        plain = {name: _plain(value) for name, value in params.items()}
        kind = self.kinds.get(node.path, "")
        self.recording.steps.append(Step(node.name, node.path, kind, read, number, plain))

    def number_of(self, tensor: Tensor) -> int:
        """The number of the value that a tensor holds."""
        if tensor._node is not None and tensor._node in self.nodes:
            return self.nodes[tensor._node]
        if id(tensor._array) not in self.arrays:
            raise DtypeError.of(OP, "a model whose output is computed by minidl's operations", describe(tensor))
        return self.arrays[id(tensor._array)]

    def _input(self, edge: Any, value: Any) -> tuple[str, float] | None:
        if value is None:
            return None
        if not is_array(value):
            return ("number", float(value)) if isinstance(value, (bool, int, float, np.generic)) else None
        if edge is self.image:
            return "value", 0
        if isinstance(edge, Node):
            return "value", self.nodes[edge]
        if id(value) in self.arrays:
            return "value", self.arrays[id(value)]
        if id(value) not in self.constant_numbers:
            kind, name = self.names.get(id(value), ("constant", f"constant {len(self.recording.constants)}"))
            self.constant_numbers[id(value)] = len(self.recording.constants)
            self.recording.constants.append(Constant(name, kind, _copy(value)))
            self.held.append(value)
        return "constant", self.constant_numbers[id(value)]

    def _keep_gradient(self, number: int, gradient: Tensor) -> None:
        self.recording.values[number].gradient = _copy(gradient._array)


@contextmanager
def _put_back(model: Module) -> Iterator[None]:
    """Give every module its mode back, and every parameter its gradient."""
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _one_image(model: Module, x: Any) -> Tensor:
    """The input as a batch of one, in the model's dtype and on its device; uint8 is scaled to 0..1."""
    try:
        array = to_numpy(x._array) if isinstance(x, Tensor) else np.asarray(x)
    except ValueError:
        raise ShapeError.of(OP, "one image as an array", "nested lists of different lengths") from None
    if array.dtype.kind not in "f" and array.dtype != np.uint8:
        raise DtypeError.of(
            OP, "x of floats or uint8", f"{array.dtype} of shape {array.shape}", "Convert with .astype('float32')."
        )
    given = array.shape
    if array.ndim in (1, 3):
        array = array[None]
    if array.ndim not in (2, 4) or len(array) != 1 or array.size == 0:
        hint = "Take one image of the batch: x[0]." if array.ndim in (2, 4) and len(array) > 1 else ""
        raise ShapeError.of(OP, "one image of shape (C, H, W) or (1, C, H, W), or (1, features)", f"shape {given}", hint)
    if array.dtype == np.uint8:
        array = array / np.float32(255)
    like = next((p for p in model.parameters() if p.dtype in FLOATS), None)
    dtype, device = (default_dtype(), "cpu") if like is None else (like.dtype, like.device)
    return Tensor(array.astype(dtype), device=device, requires_grad=True)


def _copy(array: Array) -> np.ndarray:
    """An own copy in host memory, in C order; float32 and float64 as they are, anything else as float64."""
    host = to_numpy(array) if is_array(array) else np.asarray(array)
    return np.array(host, host.dtype if host.dtype in FLOATS else np.float64, order="C")


def _plain(value: Any) -> Any:
    """A parameter of an operation as JSON can hold it."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
