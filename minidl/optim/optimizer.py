"""Optimizer: what all update rules share: groups of parameters, their state, saving it and going on from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from minidl.backend import Array, device_of, is_array, on_device_of, to_device, to_numpy, xp_of
from minidl.context import state
from minidl.errors import ArgumentError, DeviceError, DtypeError, GraphError, ShapeError
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, number
from minidl.tensor import Tensor

SCHEDULED = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")  # what schedules note in a group
NOTES = ("name", "param_names")
ELSEWHERE = ("foreach", "fused", "capturable", "differentiable")  # in PyTorch's state: how to compute, not what


class Optimizer:
    """The base of all optimizers.

    A subclass passes its options to ``__init__``, checks them in ``check_options``, names the entries of a
    parameter's state in ``state_names`` and writes the rule in ``update``. Options live in
    ``param_groups``: a list of dictionaries with the tensors under ``"params"`` and one value per option,
    so that parts of a model can have their own learning rate. ``state`` maps a parameter to the
    dictionary of what the rule remembers about it.

    Args:
        params: parameters, (name, parameter) pairs, or groups: dictionaries with ``"params"`` and any of
            the options.
        defaults: the options of groups that do not say otherwise.

    Raises:
        ArgumentError: no parameters, one given twice, an option out of range or unknown.
        DtypeError: something that is no tensor.
        GraphError: a tensor that an operation made.

    >>> import minidl as md
    >>> from minidl.optim import Optimizer
    >>> class SignDescent(Optimizer):
    ...     def __init__(self, params, lr=0.1):
    ...         super().__init__(params, {"lr": lr})
    ...     def update(self, p, g, state, group):
    ...         p -= group["lr"] * (2.0 * (g > 0) - 1.0).astype(p.dtype)
    >>> w = md.Parameter([1.0, -2.0])
    >>> (w * w).sum().backward()
    >>> SignDescent([w]).step()
    >>> w.detach()
    tensor([ 0.9, -1.9])
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = dict(defaults)
        self.check_options(self.defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._launches: dict[int, dict[Any, Any]] = {}  # what kernels keep from one step of a group to the next
        items = self._items(params)
        groups = items if items and all(isinstance(item, Mapping) for item in items) else [{"params": items}]
        for group in groups:
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            hint = "A generator can be used only once; does the model have parameters?"
            raise ArgumentError.of(self._name, "at least one parameter", "none", hint)

    @property
    def _name(self) -> str:
        return type(self).__name__

    # ---------------------------------------------------------------- for subclasses

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse options out of range; called with the defaults and with every group."""

    def state_names(self, options: dict[str, Any]) -> dict[str, bool]:
        """What ``update`` may remember about a parameter, and whether these options need it: arrays, and ``"step"``."""
        return {}

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Overwrite the array of one parameter, given its gradient, its state and its group's options."""
        raise NotImplementedError(f"{self._name}: write an update method.")

    def _numbers(self, options: dict[str, Any], *names: str, low: float | None = 0.0) -> None:
        for name in names:
            options[name] = number(self._name, name, options[name], low)

    def _flags(self, options: dict[str, Any], *names: str) -> None:
        for name in names:
            if not isinstance(options[name], (bool, np.bool_)):
                raise DtypeError.of(self._name, f"{name} as True or False", describe(options[name]))
            options[name] = bool(options[name])

    def _slot(self, state: dict[str, Any], name: str, p: Array, fill: float = 0.0) -> Array:
        """An array of the state; made on first use with p's shape, dtype, memory order and device."""
        array = state.get(name)
        if array is None:
            array = state[name] = xp_of(p).full_like(p, fill)
        if not _fit(array, p):
            raise DtypeError.of(
                self._name,
                f"{name} of {p.dtype} on {device_of(p)}, as the parameter",
                f"{array.dtype} on {device_of(array)}",
                "After Module.to, let the state follow: optimizer.load_state_dict(optimizer.state_dict()).",
            )
        return array

    # ---------------------------------------------------------------- parameters

    def _items(self, params: Any) -> list[Any]:
        """The parameters or groups as a list."""
        single = isinstance(params, (Tensor, Mapping, str)) or is_array(params)
        unordered = isinstance(params, (set, frozenset))
        if single or unordered or not isinstance(params, Iterable):
            got = "a set, whose order changes from run to run" if unordered else type(params).__name__
            hint = "Call model.parameters(), or pass a list."
            raise DtypeError.of(self._name, "an iterable of parameters or of groups", got, hint)
        return list(params)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters, with options of their own where the group names them.

        >>> import minidl as md
        >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=0.1)
        >>> opt.add_param_group({"params": [md.Parameter([2.0])], "lr": 0.01})
        >>> [group["lr"] for group in opt.param_groups]
        [0.1, 0.01]
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise DtypeError.of(self._name, "a group as a dictionary with 'params'", describe(group))
        unknown = set(group) - {"params", *self.defaults, *SCHEDULED, *NOTES}
        if unknown:
            got = ", ".join(sorted(map(repr, unknown)))
            raise ArgumentError.of(self._name, f"options among {', '.join(self.defaults)}", got)
        given = group["params"]
        items = [given] if isinstance(given, Tensor) else self._items(given)
        named = [isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in items]
        names = [item[0] for item, pair in zip(items, named) if pair]
        tensors = [item[1] if pair else item for item, pair in zip(items, named)]
        if names and len(names) < len(items):
            got = f"{len(names)} of {len(items)} named"
            raise ArgumentError.of(self._name, "names for all parameters of a group or for none", got)
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for i, p in enumerate(tensors):
            which = f"parameter {i}" + (f" ({names[i]!r})" if names else "")
            if not isinstance(p, Tensor):
                raise DtypeError.of(self._name, f"{which} as a Tensor", describe(p), "Call model.parameters().")
            if p.grad_fn is not None:
                hint = "Optimize the parameters it was computed from."
                raise GraphError.of(self._name, f"{which} as a leaf tensor", f"the result of {p.grad_fn.name}", hint)
            if id(p) in taken:
                raise ArgumentError.of(self._name, "every parameter once", f"{which} a second time")
            taken.add(id(p))
        options = {**self.defaults, **group, "params": tensors}
        if names:
            options["param_names"] = names
        self.check_options(options)
        self.param_groups.append(options)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters: ``.grad`` becomes None."""
        for group in self.param_groups:
            for p in group["params"]:
                p._grad = None

    # ---------------------------------------------------------------- the step

    @np.errstate(all="ignore")  # infinities and NaN are results here, not warnings
    def step(self) -> None:
        """Update every parameter that has a gradient; the others stay as they are.

        Parameters change in place, unless a graph that waits for backward, or anybody else, still holds the
        old values: those stay as they were, and the parameter moves to a new array.

        Raises:
            ShapeError, DtypeError, DeviceError: a gradient that does not fit its parameter; nothing has
                been updated then.
        """
        due = [[p for p in group["params"] if p._grad is not None] for group in self.param_groups]
        for params in due:
            for p in params:
                self._check_gradient(p)
        self._update(due, launch=True)
        if state.recorder is not None:
            state.recorder.optimizer(self)

    @np.errstate(all="ignore")
    def advance(self) -> None:
        """Count a step that a CUDA graph is about to take, and hand it the options of now, such as the learning rate.

        A step that was captured into a CUDA graph reads its numbers from device memory. The first replay is the step
        that was captured; call ``advance`` before each of the others. Gradients must be at the same addresses, which
        they are when the graph computes them too.

        Raises:
            ArgumentError: parameters on the CPU, generic kernels, or an ``update`` that is not minidl's: no graph holds those.
        """
        if not self._fuses:
            raise ArgumentError.of(f"{self._name}.advance", "an update of minidl's own", "another one", "Call step().")
        self._update([[p for p in group["params"] if p._grad is not None] for group in self.param_groups], launch=False)

    def _update(self, due: list[list[Tensor]], launch: bool) -> None:
        """``update`` for these parameters of each group, on a GPU all of a group at once."""
        for i, (params, group) in enumerate(zip(due, self.param_groups)):
            if not params:
                continue
            with on_device_of(params[0]._array), self._together(i, params, launch):
                for p in params:
                    state = self.state.get(p)
                    if state is None:
                        state = self.state[p] = {}
                    self.update(p.writable(), p._grad._array, state, group)  # type: ignore[union-attr]

    @property
    def _fuses(self) -> bool:
        """Whether ``update`` does nothing to a parameter but by one kernel, which may therefore run later."""
        return type(self).update.__module__.startswith("minidl.")

    def _together(self, group: int, params: list[Tensor], launch: bool) -> AbstractContextManager[None]:
        """The block in which the kernels of several updates become one."""
        if not params or not self._fuses:
            return nullcontext()
        return kernels_for(params[0]._array).together(self._launches.setdefault(group, {}), launch)

    def _check_gradient(self, p: Tensor) -> None:
        g = p._grad._array  # type: ignore[union-attr]
        if g.shape != p._array.shape:
            raise ShapeError.of(self._name, f"a gradient of shape {p.shape} for {self._label(p)}", f"{g.shape}")
        if _fit(g, p._array):
            return
        if g.dtype != p.dtype:
            raise DtypeError.of(self._name, f"a gradient of {p.dtype} for {self._label(p)}", f"{g.dtype}")
        raise DeviceError.of(self._name, f"a gradient on {p.device} for {self._label(p)}", device_of(g))

    def _label(self, p: Tensor) -> str:
        for i, group in enumerate(self.param_groups):
            for j, other in enumerate(group["params"]):
                if other is p:
                    name = f" ({group['param_names'][j]!r})" if "param_names" in group else ""
                    return f"parameter {j}{name} of group {i}"
        raise AssertionError("a parameter of no group")

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The options of all groups and the state of all parameters, as copies.

        Returns:
            ``{"state": {index: {name: NumPy array or number}}, "param_groups": [{option: value, ...,
            "params": [index, ...]}]}``. Parameters are known by their index over all groups, as in PyTorch.

        >>> import minidl as md
        >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=0.1)
        >>> opt.state_dict()["param_groups"][0]["params"]
        [0]
        """
        saved: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        index = 0
        for group in self.param_groups:
            options = {name: list(value) if isinstance(value, list) else value for name, value in group.items()}
            groups.append({**options, "params": list(range(index, index + len(group["params"])))})
            for p in group["params"]:
                entries = {k: np.array(to_numpy(v), order="C") if is_array(v) else v for k, v in self.state.get(p, {}).items()}
                if entries:
                    saved[index] = entries
                index += 1
        return {"state": saved, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state; nothing changes when a part of it does not fit.

        Takes what ``state_dict`` returned, also after a way through JSON (keys as text, tuples as lists),
        and PyTorch's ``state_dict()`` of the same optimizer. Arrays take the dtype and device of their
        parameters. Build schedules before loading: they set learning rates when they are made.

        Raises:
            ArgumentError: other groups, options or state entries than this optimizer has.
            ShapeError: an array of another shape than its parameter.
            DtypeError: a value that is not what its name asks for.
        """
        op = f"{self._name}.load_state_dict"
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise ArgumentError.of(op, "a dictionary with 'state' and 'param_groups'", describe(state_dict))
        sizes = [len(group["params"]) for group in self.param_groups]
        saved = state_dict["param_groups"]
        if not isinstance(saved, list) or not all(isinstance(g, Mapping) and isinstance(g.get("params"), list) for g in saved):
            raise ArgumentError.of(op, "'param_groups' as a list of dictionaries with a list under 'params'", describe(saved))
        found = [len(group["params"]) for group in saved]
        if found != sizes:
            raise ArgumentError.of(op, f"groups of {sizes} parameters", f"{found}", "Build the optimizer with the same groups.")
        groups = [self._loaded_options(op, own, new) for own, new in zip(self.param_groups, saved)]
        places = {str(key): (p, group) for group, new in zip(groups, saved) for key, p in zip(new["params"], group["params"])}
        states: dict[Tensor, dict[str, Any]] = {}
        if not isinstance(state_dict["state"], Mapping):
            raise ArgumentError.of(op, "'state' as a dictionary", describe(state_dict["state"]))
        for key, entries in state_dict["state"].items():
            if str(key) not in places or not isinstance(entries, Mapping):
                got = f"{key!r}: {describe(entries)}"
                raise ArgumentError.of(op, "'state' with a dictionary per parameter of the groups", got)
            p, group = places[str(key)]
            states[p] = self._loaded_state(f"{op} [parameter {key}]", p, group, entries)
        self.param_groups[:] = groups
        self.state = states

    def _loaded_options(self, op: str, own: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: tuple(value) if isinstance(value, list) and name == "betas" else value for name, value in new.items()}
        options = {name: value for name, value in options.items() if name not in ELSEWHERE}
        missing = set(self.defaults) - set(options)
        unknown = set(options) - {"params", *self.defaults, *SCHEDULED, *NOTES}
        if missing or unknown:
            got = f"{', '.join(sorted(missing)) or 'none'} missing and {', '.join(sorted(map(str, unknown))) or 'none'} unknown"
            raise ArgumentError.of(op, f"the options of {self._name}", got, "Was it saved by another optimizer?")
        options = {**{name: own[name] for name in NOTES if name in own}, **options, "params": own["params"]}
        self.check_options(options)
        return options

    def _loaded_state(self, op: str, p: Tensor, options: dict[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
        entries = {name: value for name, value in entries.items() if value is not None}
        names = self.state_names(options)
        needed = {name for name, need in names.items() if need}
        if entries and not needed <= set(entries) <= set(names):
            got = ", ".join(sorted(map(str, entries)))
            raise ArgumentError.of(op, f"the entries {', '.join(names)}", got, "Was it saved with other options?")
        state: dict[str, Any] = {}
        for name, value in entries.items():
            array = _numbers(op, name, value)
            if name == "step":
                if array.size != 1 or array.item() < 0 or not float(array.item()).is_integer():
                    raise ArgumentError.of(op, "step as a count", describe(value))
                state[name] = int(array.item())
                continue
            if array.shape != p.shape:
                raise ShapeError.of(op, f"{name} of shape {p.shape}", f"{array.shape}")
            state[name] = xp_of(p._array).empty_like(p._array)
            state[name][...] = to_device(array, p.device)
        return state

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            options = ", ".join(f"{name}={value}" for name, value in group.items() if name not in ("params", "param_names"))
            lines.append(f"  group {i}: {len(group['params'])} parameters, {options}\n")
        return f"{self._name}(\n{''.join(lines)})"


def _fit(x: Array, p: Array) -> bool:
    """Whether x has the dtype of p and lies on the same device."""
    return x.dtype == p.dtype and (type(x) is type(p) is np.ndarray or device_of(x) == device_of(p))


def _numbers(op: str, name: str, value: Any) -> Array:
    """A saved value as an array of numbers: an array, a tensor (also PyTorch's), a number or nested lists."""
    try:
        array = value._array if isinstance(value, Tensor) else value if is_array(value) else np.asarray(value)
    except ValueError as error:
        raise DtypeError.of(op, f"{name} as numbers", describe(value)) from error
    if array.dtype.kind not in "fiu":
        raise DtypeError.of(op, f"{name} as numbers", describe(value))
    return array
