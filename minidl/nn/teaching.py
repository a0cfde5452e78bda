"""What an error in a model teaches: the shapes on the way to it, and the smallest fix.

Nothing is recorded while a model runs. When its outermost call fails, the call is repeated with hooks on every module
and a watcher of operations, which tell what came in and went out until the failure.
"""

from __future__ import annotations

import io
import math
import random as python_random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.context import no_grad, state, watch
from minidl.errors import Located, ShapeError
from minidl.nn.attention import MultiheadAttention
from minidl.nn.conv import Conv2d, ConvTranspose2d
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from minidl.nn.pooling import AvgPool2d, MaxPool2d
from minidl.nn.summary import _unchanged
from minidl.nn.upsample import Upsample
from minidl.ops._arguments import describe
from minidl.tensor import Tensor

ROWS = 30  # of a table; a deeper model shows the last ones, next to the failure
IMAGES = (Conv2d, ConvTranspose2d, BatchNorm2d, MaxPool2d, AvgPool2d, Upsample)


def teach(model: Module, inputs: tuple, options: dict[str, Any], error: Exception) -> None:
    """Add to an error that leaves a model's outermost call the shapes before it and, where one is known, the fix."""
    if state.recorder is not None or state.watchers or any(note.startswith(_TITLE) for note in getattr(error, "__notes__", ())):
        return  # a graph is being recorded on the GPU, a summary makes its own table, or an inner model has spoken
    run = _Run(model)
    if not _lock.acquire(timeout=5.0):  # never stand still for a message, whatever forward does with threads
        return
    try:
        if not run.repeat(inputs, options, error):
            return
    finally:
        _lock.release()
    hint = _fix(run, run.error)
    if hint and isinstance(error, Located):
        error.advise(hint)
    elif hint:
        error.add_note(hint)
    if isinstance(error, Located):
        error.add_note(run.table())


_TITLE = "shapes up to the failure"
_lock = threading.Lock()  # two repetitions at a time would take each other's hooks for the model's own


@dataclass
class _Call:
    """A module that was called, or an operation outside of any layer."""

    path: str
    module: Module | None
    inputs: tuple
    output: Any = None
    done: bool = False
    op: str = ""

    @property
    def children(self) -> bool:
        """Whether the module holds others."""
        return self.module is not None and bool(self.module._modules)


class _Run:
    """The failed call once more: the calls of modules in order, and the operations."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.calls: list[_Call] = []
        self.open: list[_Call] = []
        self.error: Exception = Exception()  # that of the repetition
        self.made: list[tuple[str, tuple, Any]] = []  # (operation, input arrays, output array), which keep the arrays alive

    def repeat(self, inputs: tuple, options: dict[str, Any], error: Exception) -> bool:
        """Run; whether it failed in the same way, so that what was recorded holds."""
        path, names = state.path, state.names
        try:
            with as_before(self.model), no_grad(), watch(self._operation), redirect_stdout(_Elsewhere(sys.stdout)):
                for module in self.model.modules():
                    before, after = map(_elsewhere, module._pre_hooks), map(_elsewhere, module._hooks)
                    module.__dict__["_pre_hooks"] = [_only_here(self._begin), *before]
                    module.__dict__["_hooks"] = [_only_here(self._end), *after]
                self.model._between_hooks(inputs, options)
        except Exception as again:
            self.error = again
            return _alike(again, error)
        finally:
            state.path, state.names = path, names
        return False

    def _begin(self, module: Module, inputs: tuple) -> None:
        call = _Call(self.paths.get(id(module), ""), module, inputs)
        self.calls.append(call)
        self.open.append(call)

    def _end(self, module: Module, inputs: tuple, output: Any) -> None:
        call = self.open.pop()
        call.output, call.done = output, True

    def _operation(self, node: Any, inputs: tuple, params: dict, output: Any) -> None:
        self.made.append((node.name, inputs, output))
        if self.open and self.open[-1].children:  # in a layer it would only repeat the layer's own row
            self.calls.append(_Call(self.open[-1].path, None, inputs, output, True, node.name))

    @property
    def failed(self) -> _Call:
        """The innermost call that did not come to its end."""
        return self.open[-1] if self.open else self.calls[0]

    def origin(self, x: Any) -> Any:
        """The array before a flatten or reshape made x of it; None when x is no result of one."""
        array = _array(x)
        for op, inputs, output in reversed(self.made):
            if output is array:
                return inputs[0] if op in ("reshape", "flatten") else None
        return None

    def maker(self, x: Any, kinds: Any = Module) -> _Call | None:
        """The last layer of some kinds that had finished before the failure and whose result is, or leads to, x."""
        for call in reversed(self.calls):
            if call.done and isinstance(call.module, kinds) and not call.children:
                return call
        return None

    def is_input(self, x: Any) -> bool:
        """Whether x is what the model was called with."""
        return any(_array(value) is _array(x) for value in self.calls[0].inputs)

    def table(self) -> str:
        """The shapes, a row per layer; the operations between layers have rows of their own."""
        image = any(isinstance(call.module, IMAGES) for call in self.calls)
        rows = [("input", "", *_shown(self.calls[0].inputs, image))]
        for call in self.calls:
            if not call.done or call.children:
                continue
            kind = call.op if call.module is None else _kind(call.module)
            path = call.path or type(self.model).__name__
            rows.append((path, kind, *_shown(call.output, isinstance(call.module, IMAGES) or (call.module is None and image))))
        left_out = len(rows) - ROWS
        if left_out > 0:
            rows[1 : 1 + left_out] = [("...", f"{left_out} more", "", "")]
        failed = self.failed
        name = failed.path or type(self.model).__name__
        given = " ".join(_shown(failed.inputs, image)).rstrip()
        rows.append((name, _kind(failed.module), "fails", f"it was given {given}"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows]
        return "\n".join([f"{_TITLE}:", *lines])


def _alike(again: Exception, error: Exception) -> bool:
    """Whether the repetition, in which every layer runs by itself, failed as the call did, where some may have been joined."""
    if type(again) is not type(error):
        return False
    if isinstance(again, Located) and isinstance(error, Located):
        joined = error.op.removesuffix("_relu") == again.op or (error.op, again.op) == ("batch_norm_relu", "Residual")
        return joined or str(again) == str(error)
    return str(again) == str(error)


@contextmanager
def as_before(model: Module) -> Iterator[None]:
    """Attributes, also lists and dictionaries in them, buffers and random generators are after the block what they were."""
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    contents = [(v, v.copy()) for held in attributes for v in held.values() if type(v) in (list, dict, set)]
    numpy_state, python_state = np.random.get_state(), python_random.getstate()  # noqa: NPY002 - users may draw from it
    try:
        with _unchanged(model):
            yield
    finally:
        for value, copy in contents:
            if not _same(value, copy):  # untouched ones stay as they are, also for a moment: other threads may run the model
                value.clear()
                value.extend(copy) if type(value) is list else value.update(copy)
        for module, held in zip(modules, attributes):
            for name in vars(module).keys() - held.keys():
                del module.__dict__[name]
            module.__dict__.update(held)
        np.random.set_state(numpy_state)  # noqa: NPY002
        python_random.setstate(python_state)


def _same(value: Any, copy: Any) -> bool:
    """Whether a list, dictionary or set holds the very objects of its copy, in their order."""
    if len(value) != len(copy):
        return False
    if type(value) is dict:
        return all(a is b for a, b in zip(value, copy)) and all(a is b for a, b in zip(value.values(), copy.values()))
    return value == copy if type(value) is set else all(a is b for a, b in zip(value, copy))


def _only_here(hook: Callable) -> Callable:
    """The hook for this thread alone: others may run the same model meanwhile."""
    here = threading.get_ident()
    return lambda *arguments: hook(*arguments) if threading.get_ident() == here else None


def _elsewhere(hook: Callable) -> Callable:
    """The hook for all other threads."""
    here = threading.get_ident()
    return lambda *arguments: None if threading.get_ident() == here else hook(*arguments)


class _Elsewhere(io.TextIOBase):
    """Standard output for all threads but this one."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.here = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.here else self.stream.write(text)


def _kind(module: Any) -> str:
    """A layer with its most important arguments, which come first."""
    text = repr(module).partition("\n")[0].removesuffix("(")
    return text if len(text) <= 44 else f"{text[:41]}..."


def _array(x: Any) -> Any:
    return x._array if isinstance(x, Tensor) else x


def _shape(x: Any) -> tuple[int, ...] | None:
    return getattr(_array(x), "shape", None)


def _shown(value: Any, image: bool) -> tuple[str, str]:
    """A shape as text, and the letters of its axes."""
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            return ", ".join(_shown(item, image)[0] for item in value), ""
        value = value[0]
    shape = _shape(value)
    if shape is None:
        return describe(value), ""
    three = "(C, H, W)" if image else "(N, length, features)"
    return str(shape), {2: "(N, features)", 3: three, 4: "(N, C, H, W)"}.get(len(shape), "")


# ---------------------------------------------------------------- fixes


def _fix(run: _Run, error: Exception) -> str:
    """The smallest change that makes the failed module fit; "" when none is known."""
    failed = run.failed
    module, inputs = failed.module, failed.inputs
    x = inputs[0] if inputs else None
    if not isinstance(error, Located):
        return _fix_call(run, failed)
    if isinstance(x, (tuple, list)) and any(isinstance(item, Tensor) for item in x):
        return _fix_several(run, x)
    shapes = [tuple(map(int, re.findall(r"\d+", text))) for text in re.findall(r"\(([\d, ]+)\)", error.got)]
    if error.op == "add" or (error.op == "Residual" and len(shapes) == 1):
        return _fix_sum(*(shapes if len(shapes) == 2 else [_main_shape(error), shapes[0]]))
    if _shape(x) is None:
        return _fix_call(run, failed)
    if not isinstance(error, ShapeError):
        return ""  # the operation says it all
    for kinds, rule in _RULES:
        if isinstance(module, kinds):
            return rule(run, module, x, tuple(_shape(x) or ()))
    return ""


def _fix_call(run: _Run, failed: _Call) -> str:
    """A module that was called with too few, too many or the wrong kind of things."""
    name = type(failed.module).__name__
    if isinstance(failed.module, MultiheadAttention) and len(failed.inputs) == 1:
        return f"{name} takes query, key and value: for self-attention call attention(x, x, x)."
    odd = next((value for value in failed.inputs if _shape(value) is None), failed)
    if odd is failed:
        return ""
    if odd is None:
        return f"{name} was given None: does what comes before it end with return?"
    if isinstance(odd, Module):
        return f"{name} was given a module: call it with a tensor first, or put both into nn.Sequential."
    if isinstance(odd, (list, tuple)) and any(isinstance(item, Tensor) for item in odd):
        return _fix_several(run, odd)
    return f"{name} was given {describe(odd)}: make a tensor of it with minidl.tensor(...)."


def _fix_several(run: _Run, x: Any) -> str:
    if any(x is value for value in run.calls[0].inputs):
        return "The model was given several things at once: take the batch apart, x, y = batch, and call model(x)."
    maker = run.maker(x)
    where = f"{maker.path!r} ({type(maker.module).__name__})" if maker else "The layer before"
    return f"{where} returns {len(x)} things: hand on the first alone, y, *_ = layer(...)."


def _main_shape(error: Located) -> tuple[int, ...]:
    found = re.search(r"main\(x\)'s shape \(([\d, ]+)\)", str(error))
    return tuple(map(int, re.findall(r"\d+", found.group(1)))) if found else ()


def _fix_sum(main: Any, shortcut: Any) -> str:
    """Two branches of a residual block that do not fit."""
    if len(main) != 4 or len(shortcut) != 4 or main[0] != shortcut[0]:
        return ""
    (_, O, OH, OW), (_, C, H, W) = main, shortcut
    lost = H - OH, W - OW
    if O == C and all(0 < n < 3 or (n < 7 and n % 2 == 0 and size > 2 * n) for n, size in zip(lost, (H, W), strict=True)):
        return f"A convolution in the block cuts off the edge: padding=1 with kernel 3 keeps H and W at {(H, W)}."
    step = max(1, round(H / OH))
    stride = f", stride={step}" if step > 1 else ""
    return f"Bring the shortcut to the same shape with nn.Conv2d({C}, {O}, 1{stride}) (in nn.Residual: its second argument)."


def _product(shape: tuple[int, ...]) -> str:
    return "*".join(map(str, shape))


def _from(run: _Run, x: Any, kinds: Any = Module) -> str:
    """ ", what 'path' gives", or nothing for the model's own input."""
    maker = None if run.is_input(x) else run.maker(x, kinds)
    return f", what {maker.path!r} ({type(maker.module).__name__}) gives" if maker and maker.path else ""


def _fix_linear(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    want = module.in_features
    if shape[-1:] == (want,):
        return ""
    before = _shape(run.origin(x))
    size = math.prod(shape)
    if size == want and len(shape) > 1 and shape[0] > 1 and (before is None or len(before) != 4):
        return "The batch axis is missing: call the model with x[None] for a single example."
    if before is not None and len(before) == 3 and math.prod(before) == want:
        return "The batch axis is missing: call the model with x[None] for a single image."
    if before is not None and len(before) > 2 and len(shape) == 2:
        C, features = before[1], shape[1]
        pool = "put nn.GlobalAvgPool2d() before the flatten"
        if len(before) == 4 and want == C:
            return f"The features are {features} = {_product(before[1:])}: {pool}, or use in_features={features}."
        also = f", or {pool} and use in_features={C}" if len(before) == 4 and before[2:] != (1, 1) else ""
        return (
            f"Use in_features={features} = {_product(before[1:])} (C*H*W{_from(run, x, IMAGES)}){also}."
            if len(before) == 4
            else (f"Use in_features={features} = {_product(before[1:])}.")
        )
    flat = math.prod(shape[1:])
    image = len(shape) == 4 or (len(shape) == 3 and flat == want)
    if image and len(shape) > 2:
        product = f"{flat} = {_product(shape[1:])}"
        use = "" if flat == want else f" and use in_features={flat}"
        return f"Put nn.Flatten() before it, which makes (N, {product}) of {shape}{use}."
    maker = run.maker(x, Linear)
    there = f", or out_features={want} in {maker.path!r}" if maker and not run.is_input(x) and maker.path else ""
    return f"Use in_features={shape[-1]}{_from(run, x, Linear)}{there}." if shape else ""


def _fix_channels(run: _Run, module: Any, x: Any, shape: tuple[int, ...], want: int, word: str) -> str:
    """Another number of channels than a layer was made for."""
    C = shape[-3]
    if run.is_input(x):
        if shape[-1] == want and want != C:
            turn = "x.transpose(0, 3, 1, 2)" if len(shape) == 4 else "x.transpose(2, 0, 1)[None]"
            return f"The channels come last, {'(N, H, W, C)' if len(shape) == 4 else '(H, W, C)'}: pass {turn}."
        if len(shape) == 3 and want == 1:
            return f"The channel axis is missing: pass x[:, None], of shape {(C, 1, *shape[1:])}."
        if (C, want) == (1, 3):
            return f"The images are grey: use {word}=1, or pass minidl.concatenate([x, x, x], axis=-3)."
        if (C, want) == (3, 1):
            return f"The images are RGB: use {word}=3, or make them grey with x.mean(axis=-3, keepdims=True)."
        if (C, want) == (4, 3):
            return f"The fourth channel is transparency: pass x[..., :3, :, :], or use {word}=4."
    maker = None if run.is_input(x) else run.maker(x, (Conv2d, ConvTranspose2d))
    there = f", or out_channels={want} in {maker.path!r}" if maker and maker.path else ""
    return f"Use {word}={C}{_from(run, x, (Conv2d, ConvTranspose2d)) or _from(run, x)}{there}."


def _fix_conv(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    want = module.in_channels
    if len(shape) == 2:
        pixels = shape[1] // want
        side = math.isqrt(pixels)
        if want * side * side == shape[1] and side > 1:
            return f"These are rows of numbers, not images: pass x.reshape(-1, {want}, {side}, {side}), or nn.Unflatten."
        return f"These are rows of numbers, not images: bring them to (N, {want}, H, W) with x.reshape or nn.Unflatten."
    if len(shape) not in (3, 4):
        return ""
    if shape[-3] != want:
        return _fix_channels(run, module, x, shape, want, "in_channels")
    return _fix_size(run, module, x, shape)


def _fix_size(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    """A window larger than its image: how far the image has shrunk, and how large it would have to be."""
    first = _shape(run.calls[0].inputs[0]) if run.calls[0].inputs else None
    if len(shape) == 2:
        return f"{type(module).__name__} takes images (N, C, H, W); put it before the flatten."
    if (
        "kernel" not in getattr(run.error, "got", "")
        or first is None
        or len(shape) < 3
        or not isinstance(getattr(module, "kernel_size", None), tuple)
    ):
        return ""
    need = list(module.kernel_size)
    shrinking = []
    for call in reversed(run.calls):
        layer: Any = call.module
        if not call.done or not isinstance(layer, (Conv2d, MaxPool2d, AvgPool2d)):
            continue
        padding = layer.padding if isinstance(layer.padding, tuple) else [(k - 1) // 2 for k in layer.kernel_size]
        need = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(need, layer.stride, padding, layer.kernel_size, strict=True)]
        if (_shape(call.output) or shape)[-2:] != (_shape(call.inputs[0]) or shape)[-2:]:
            shrinking.append(call.path)
    if not shrinking:
        return f"Use images of at least {module.kernel_size[0]} x {module.kernel_size[1]}, or a smaller kernel_size."
    layers = ", ".join(repr(path) for path in reversed(shrinking[-6:]))
    return (
        f"After {layers} the image of {first[-2:]} is {shape[-2:]}: leave one of these layers or this one out, "
        f"or use images of at least {need[0]} x {need[1]}."
    )


def _fix_batch_norm(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    two, want = isinstance(module, BatchNorm2d), module.num_features
    if two and len(shape) == 3:
        return (
            f"The batch axis is missing: call the model with x[None], of shape {(1, *(_shape(run.calls[0].inputs[0]) or ()))}."
        )
    if two and len(shape) == 2:
        return f"Use nn.BatchNorm1d({shape[1]}) for (N, features)."
    if not two and len(shape) == 4:
        return f"Use nn.BatchNorm2d({shape[1]}) for images (N, C, H, W)."
    if len(shape) == 4 and shape[1] != want:
        return _fix_channels(run, module, x, shape, want, "num_features")
    if len(shape) in (2, 3) and shape[1] != want:
        return f"Use num_features={shape[1]}{_from(run, x)}."
    if module.training and shape[:1] == (1,):
        return "Use batches of two examples or more (drop_last=True in DataLoader), or model.eval() for predictions."
    return ""


def _fix_layer_norm(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    sizes = shape[-len(module.normalized_shape) :]
    return f"Use normalized_shape={sizes[0] if len(sizes) == 1 else sizes}{_from(run, x)}." if sizes else ""


def _fix_group_norm(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    same = len(shape) < 2 or shape[1] == module.num_channels
    return "" if same else f"Use num_channels={shape[1]}{_from(run, x)}."


def _fix_attention(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return f"The batch axis is missing: pass {'x[None]' if module.batch_first else 'x[:, None]'}."
    return f"Use embed_dim={shape[-1]}{_from(run, x)}." if len(shape) == 3 and shape[2] != module.embed_dim else ""


def _fix_upsample(run: _Run, module: Any, x: Any, shape: tuple[int, ...]) -> str:
    return {
        2: "These are rows of numbers: make images of them with nn.Unflatten(1, (C, H, W)) first.",
        3: "The batch axis is missing: pass x[None].",
    }.get(len(shape), "")


_RULES: tuple[tuple[Any, Any], ...] = (
    (Linear, _fix_linear),
    ((Conv2d, ConvTranspose2d), _fix_conv),
    ((MaxPool2d, AvgPool2d), _fix_size),
    ((BatchNorm1d, BatchNorm2d), _fix_batch_norm),
    (LayerNorm, _fix_layer_norm),
    (GroupNorm, _fix_group_norm),
    (MultiheadAttention, _fix_attention),
    (Upsample, _fix_upsample),
)
