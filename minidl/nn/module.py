"""Module: a part of a model. It holds parameters, buffers and other modules, and runs ``forward``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minidl.backend import FLOATS, Array, is_array, parse_device, to_device
from minidl.context import state
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.ops._arguments import describe
from minidl.tensor import Parameter, Tensor


class _Structure:
    """Counts every change to any module's children, so that cached paths know when they are stale."""

    version = 0


class Module:
    """The base of all layers and models.

    Assign parameters, buffers (``register_buffer``) and other modules as attributes in ``__init__`` and
    write ``forward``. Calling the module runs ``forward`` with its hooks and names the module in every
    operation it runs, so that errors and reports say ``features.3.conv1``.

    >>> import minidl as md
    >>> from minidl import nn
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 2, rng=0)
    ...     def forward(self, x):
    ...         return md.relu(self.fc(x))
    >>> Net()(md.ones(3, 4)).shape
    (3, 2)
    """

    training: bool

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", {})
        object.__setattr__(self, "_buffers", {})
        object.__setattr__(self, "_transient", set())  # names of buffers that state_dict leaves out
        object.__setattr__(self, "_modules", {})
        object.__setattr__(self, "_pre_hooks", [])
        object.__setattr__(self, "_hooks", [])
        object.__setattr__(self, "_paths", (-1, {}))  # (structure version, {id(module): path below this one})
        object.__setattr__(self, "training", True)

    # ---------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning attributes.")
        if isinstance(value, Parameter):
            if name not in self._parameters:
                self._forget(name)
            self._parameters[name] = value
        elif isinstance(value, Module):
            if name not in self._modules:
                self._forget(name)
            self._modules[name] = value
            _Structure.version += 1
        elif name in self._parameters:
            if value is not None:
                raise DtypeError.of(
                    f"{type(self).__name__}.{name}",
                    "a Parameter or None",
                    type(value).__name__,
                    "Wrap it: minidl.Parameter(...).",
                )
            self._parameters[name] = None
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise DtypeError.of(f"{type(self).__name__}.{name}", "a Tensor or None", type(value).__name__)
            self._buffers[name] = value
        elif name in self._modules:
            self._forget(name)
        object.__setattr__(self, name, value)  # what is registered is an ordinary attribute too: quick to read

    def __getattr__(self, name: str) -> Any:
        if "_modules" not in self.__dict__:  # what every module has after Module.__init__
            raise AttributeError(f"{type(self).__name__}: call super().__init__() first in __init__; there is no {name!r} yet.")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name: str) -> bool:
        """Remove an attribute, also from where it is registered; whether there was one."""
        found = name in self.__dict__
        for table in (self.__dict__, self._parameters, self._buffers, self._modules):
            table.pop(name, None)
        self._transient.discard(name)
        _Structure.version += 1
        return found

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Add a parameter under a name; None reserves the name (an absent bias).

        Raises:
            ArgumentError: a name that is empty, has a dot, or exists already.
            DtypeError: something that is no Parameter.
        """
        self._check_new(name)
        if parameter is not None and not isinstance(parameter, Parameter):
            raise DtypeError.of("register_parameter", "a Parameter or None", type(parameter).__name__)
        self._parameters[name] = self.__dict__[name] = parameter

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that belongs to the state but is not trained, such as running statistics.

        Args:
            name: the attribute.
            tensor: the values; None reserves the name.
            persistent: whether ``state_dict`` holds it.

        Raises:
            ArgumentError: a name that is empty, has a dot, or exists already.
            DtypeError: something that is no Tensor.

        >>> import minidl as md
        >>> from minidl import nn
        >>> class Centre(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("mean", md.zeros(3))
        >>> list(Centre().state_dict()), list(Centre().parameters())
        (['mean'], [])
        """
        self._check_new(name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise DtypeError.of("register_buffer", "a Tensor or None", type(tensor).__name__)
        self._buffers[name] = self.__dict__[name] = tensor
        if not persistent:
            self._transient.add(name)

    def add_module(self, name: str, module: Module) -> None:
        """Add a child under a name.

        Raises:
            ArgumentError: a name that is empty, has a dot, or exists already.
            DtypeError: something that is no Module.
        """
        self._check_new(name)
        if not isinstance(module, Module):
            hint = f"Make one: {module.__name__}(...)." if isinstance(module, type) else ""
            hint = "Unpack it: Sequential(*modules)." if isinstance(module, (list, tuple)) else hint
            if callable(module) and not hint:
                hint = "Functions run in forward; in their place here stand modules, such as nn.ReLU() for relu."
            raise DtypeError.of(type(self).__name__, "a Module", describe(module), hint)
        self._modules[name] = self.__dict__[name] = module
        _Structure.version += 1

    def _check_new(self, name: str) -> None:
        if not name or "." in name:
            raise ArgumentError.of(type(self).__name__, "a name without dots", repr(name))
        if name in self._parameters or name in self._buffers or name in self._modules or hasattr(self, name):
            raise ArgumentError.of(type(self).__name__, "a new name", f"{name!r}, which exists already")

    def __getstate__(self) -> dict[str, Any]:
        """What copy.deepcopy takes over: all but the cached paths, which belong to these very modules."""
        return {**self.__dict__, "_paths": (-1, {})}

    # ---------------------------------------------------------------- running

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the output; every module writes its own."""
        raise NotImplementedError(f"{type(self).__name__}: write a forward method.")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the pre-hooks, ``forward`` and the hooks."""
        names = state.names
        if names is None:
            return self._call_outermost(inputs, options)
        outer = state.path
        state.path = names.get(id(self)) or f"{outer}.{type(self).__name__}"
        try:
            if self._pre_hooks or self._hooks:
                return self._between_hooks(inputs, options)
            return self.forward(*inputs, **options)
        finally:
            state.path = outer

    @np.errstate(all="ignore")  # infinities and NaN are results here, not warnings
    def _call_outermost(self, inputs: tuple, options: dict[str, Any]) -> Any:
        """A call from outside of any module: paths begin here, and NumPy is told once for all operations to be quiet."""
        outer = state.path
        state.path, state.names = type(self).__name__, self._path_names()
        try:
            return self._between_hooks(inputs, options)
        except (ShapeError, ArgumentError, AttributeError, TypeError) as error:  # a DtypeError is a TypeError
            from minidl.nn.teaching import teach  # only when something went wrong

            teach(self, inputs, options, error)
            raise
        finally:
            state.path, state.names = outer, None

    def _between_hooks(self, inputs: tuple, options: dict[str, Any]) -> Any:
        """The pre-hooks, ``forward`` and the hooks."""
        for hook in tuple(self._pre_hooks):
            changed = hook(self, inputs)
            if changed is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*inputs, **options)
        for hook in tuple(self._hooks):
            changed = hook(self, inputs, output)
            if changed is not None:
                output = changed
        return output

    def _path_names(self) -> dict[int, str]:
        version, names = self._paths
        if version != _Structure.version:
            names = {id(module): path for path, module in reversed(list(self.named_modules())) if path}
            object.__setattr__(self, "_paths", (_Structure.version, names))
        return names

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> Callable[[], None]:
        """Call ``hook(module, inputs)`` before forward; what it returns, if not None, replaces the inputs.

        Returns:
            A function that removes the hook.
        """
        self._pre_hooks.append(hook)
        return lambda: self._pre_hooks.remove(hook) if hook in self._pre_hooks else None

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> Callable[[], None]:
        """Call ``hook(module, inputs, output)`` after forward; what it returns, if not None, replaces the output.

        Returns:
            A function that removes the hook.

        >>> import minidl as md
        >>> from minidl import nn
        >>> model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.ReLU())
        >>> remove = model[0].register_forward_hook(lambda module, inputs, output: print(output.shape))
        >>> _ = model(md.ones(3, 4))
        (3, 8)
        >>> remove()
        """
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook) if hook in self._hooks else None

    # ---------------------------------------------------------------- what is inside

    def named_modules(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their dotted paths, each once, parents first."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once, parents first."""
        found: dict[int, Module] = {}
        waiting = [self]
        while waiting:
            module = waiting.pop()
            if id(module) not in found:
                found[id(module)] = module
                if module._modules:
                    waiting += reversed(module._modules.values())
        return iter(found.values())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct children with their names."""
        return iter(self._modules.items())

    def children(self) -> Iterator[Module]:
        """The direct children."""
        return iter(self._modules.values())

    def _named(self, table: str, unique: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, tensor in getattr(module, table).items():
                if tensor is not None and not (unique and id(tensor) in seen):
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, in the order of assignment, shared ones once.

        >>> from minidl import nn
        >>> [(name, p.shape) for name, p in nn.Sequential(nn.Linear(4, 2)).named_parameters()]
        [('0.weight', (2, 4)), ('0.bias', (2,))]
        """
        return self._named("_parameters", unique=True)

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, in the order of assignment, shared ones once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their dotted names."""
        return self._named("_buffers", unique=True)

    def buffers(self) -> Iterator[Tensor]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers())

    def get_submodule(self, path: str) -> Module:
        """The module at a dotted path; ``""`` is this one.

        Raises:
            ArgumentError: a path that leads nowhere.
        """
        module = self
        for name in path.split(".") if path else ():
            if name not in module._modules:
                raise ArgumentError.of(
                    type(self).__name__, f"a path below it (one of {', '.join(module._modules) or 'none'})", repr(path)
                )
            module = module._modules[name]
        return module

    # ---------------------------------------------------------------- changing it

    def train(self, mode: bool = True) -> Module:
        """Switch this module and all below to training (dropout drops, batch norm uses the batch)."""
        mode = bool(mode)
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def eval(self) -> Module:
        """Switch this module and all below to evaluation."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call ``function`` on every module, children before parents, in the order of assignment; shared ones once."""
        return self._apply(function, set())

    def _apply(self, function: Callable[[Module], Any], seen: set[int]) -> Module:
        if id(self) not in seen:
            seen.add(id(self))
            for child in self._modules.values():
                child._apply(function, seen)
            function(self)
        return self

    def to(self, target: Any) -> Module:
        """Move all parameters and buffers to a device, or cast the floating ones to a dtype; in place.

        Gradients are dropped. Create the optimizer afterwards or before: parameters stay the same objects.

        Raises:
            DtypeError: anything but a device, float32 or float64.
            DeviceError: a GPU that is not there, or CuPy missing.
        """
        device = target if isinstance(target, str) and (target == "cpu" or target.startswith("cuda")) else None
        if device is not None:
            parse_device(device)
        elif target is None or _dtype(target) not in FLOATS:
            raise DtypeError.of("Module.to", "a device, float32 or float64", repr(target))
        for tensor in (*self.parameters(), *self.buffers()):
            if device is not None:
                tensor._array = to_device(tensor._array, device)
            elif tensor.dtype in FLOATS:
                tensor._array = tensor._array.astype(target, order="K", copy=False)
            tensor.grad = None
        return self

    def float(self) -> Module:
        """Cast parameters and buffers to float32."""
        return self.to(np.float32)

    def double(self) -> Module:
        """Cast parameters and buffers to float64."""
        return self.to(np.float64)

    # ---------------------------------------------------------------- state

    def state_dict(self) -> OrderedDict[str, np.ndarray]:
        """All parameters and persistent buffers by dotted name, as copies in NumPy arrays, with PyTorch's keys."""
        return OrderedDict((name, np.array(tensor.numpy(), order="C")) for name, tensor in self._state())

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """What state_dict holds; a shared module or parameter appears under each of its names, as in PyTorch."""
        for name, parameter in self._parameters.items():
            if parameter is not None:
                yield prefix + name, parameter
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._transient:
                yield prefix + name, buffer
        for name, child in self._modules.items():
            yield from child._state(f"{prefix}{name}.")

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Take all values from a dictionary with the keys of ``state_dict``; nothing changes when one does not fit.

        Args:
            values: arrays, tensors or PyTorch tensors by dotted name.
            strict: refuse missing and unexpected keys.

        Returns:
            The missing and the unexpected keys.

        Raises:
            ArgumentError: missing or unexpected keys (strict), numbers too large for the dtype.
            ShapeError: an array of another shape than the module's.
            DtypeError: an array that holds no numbers, or floats for an integer buffer.

        >>> import numpy as np
        >>> from minidl import nn
        >>> model = nn.Linear(2, 1)
        >>> model.load_state_dict({"weight": np.array([[1.0, 2.0]]), "bias": np.array([0.5])})
        ([], [])
        >>> model.bias.detach()
        tensor([0.5])
        """
        if not isinstance(values, Mapping):
            raise DtypeError.of("load_state_dict", "a dictionary of arrays by name", type(values).__name__)
        own = dict(self._state())
        missing = [name for name in own if name not in values]
        unexpected = [name for name in values if name not in own]
        if strict and (missing or unexpected):
            raise ArgumentError.of(
                f"load_state_dict [{type(self).__name__}]",
                f"the {len(own)} keys of the module",
                f"{len(missing)} missing ({_some(missing)}) and {len(unexpected)} unexpected ({_some(unexpected)})",
                "Pass strict=False to load what fits.",
            )
        fitting: list[tuple[Tensor, Array]] = []
        for name, tensor in own.items():
            if name in missing:
                continue
            value = values[name]
            try:
                array = value._array if isinstance(value, Tensor) else value if is_array(value) else np.asarray(value)
            except TypeError as error:  # a PyTorch tensor on a GPU, or of bfloat16
                raise DtypeError.of(f"load_state_dict [{name}]", "values that NumPy can hold", str(error)) from None
            if array.shape != tensor.shape:
                raise ShapeError.of(f"load_state_dict [{name}]", f"shape {tensor.shape}", f"{array.shape}")
            if array.dtype.kind not in "fiub" or (tensor.dtype.kind in "iu" and array.dtype.kind == "f"):
                raise DtypeError.of(f"load_state_dict [{name}]", f"values for {tensor.dtype}", str(array.dtype))
            try:
                with np.errstate(over="raise"):
                    fitting.append((tensor, array.astype(tensor.dtype, copy=False)))
            except FloatingPointError:
                raise ArgumentError.of(
                    f"load_state_dict [{name}]", f"values within {tensor.dtype}", f"larger ones in {array.dtype}"
                ) from None
        for tensor, array in fitting:
            tensor._replace(array)
        return missing, unexpected

    # ---------------------------------------------------------------- how it prints

    def extra_repr(self) -> str:
        """The layer's own arguments, for its repr."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._modules.items()]
        head, extra = type(self).__name__, self.extra_repr()
        if not lines:
            return f"{head}({extra})"
        return f"{head}({extra}\n  " + "\n  ".join(lines) + "\n)"


def _dtype(target: Any) -> Any:
    """The NumPy dtype, or the value itself when it names none."""
    try:
        return np.dtype(target)
    except TypeError:
        return target


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
