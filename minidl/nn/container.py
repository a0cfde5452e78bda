"""Containers: modules that hold other modules in a row, in a list, or by name."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from minidl.errors import ArgumentError, DtypeError
from minidl.nn.fusion import in_a_row
from minidl.nn.module import Module
from minidl.ops._arguments import integer

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Numbered(Module):
    """What Sequential and ModuleList share: children that are counted, indexed and sliced."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._from_items(list(self._modules.items())[index])
        return self._modules[self._key(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        if not isinstance(module, Module):
            raise DtypeError.of(type(self).__name__, "a Module", type(module).__name__)
        setattr(self, self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        names = list(self._modules)
        for name in names[index] if isinstance(index, slice) else [self._key(index)]:
            delattr(self, name)
        if _are_numbers(names):
            self._renumber(list(self))

    def append(self, module: Module) -> Any:
        """Add a module at the end; returns the container."""
        numbers = [int(name) for name in self._modules if name.isdigit()]
        self.add_module(str(max(len(self), max(numbers, default=-1) + 1)), module)  # a slice starts above 0
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add several modules at the end; returns the container."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before position ``index``; those behind it are renumbered."""
        if not isinstance(module, Module):
            raise DtypeError.of(type(self).__name__, "a Module", type(module).__name__)
        if not _are_numbers(self._modules):
            raise ArgumentError.of(
                f"{type(self).__name__}.insert", "numbered children", f"the names {', '.join(self._modules)}"
            )
        modules = list(self)
        modules.insert(index, module)
        self._renumber(modules)

    def _key(self, index: int) -> str:
        """The name of the child at a position; negative positions count from the end."""
        place = integer(type(self).__name__, "index", index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"{type(self).__name__}: expected an index from {-len(self)} to {len(self) - 1}, got {index}.")
        return list(self._modules)[place]

    def _renumber(self, modules: list[Module]) -> None:
        for name in list(self._modules):
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def _from_items(self, items: list[tuple[str, Module]]) -> Any:
        raise NotImplementedError


def _are_numbers(names: Iterable[str]) -> bool:
    return all(name.isdigit() for name in names)


class Sequential(_Numbered):
    """Modules in a row: each takes what the one before it returns.

    Args:
        modules: the modules in order, or one dictionary of names and modules.

    Notes:
        ``model[0]``, ``model[-1]``, ``model[1:3]`` (which shares the modules and keeps their names), ``len(model)``,
        iteration, ``append``, ``extend``, ``insert`` and ``del model[0]`` work as for a list.
        A convolution, a ReLU and a max pooling by 2 in a row run as one operation (``minidl.conv2d_relu``), so do a
        fully connected layer or a batch normalisation and a ReLU, and, in evaluation under ``no_grad``, a convolution and a
        batch normalisation, as long as no hook asks for what lies between. The results are the same but for rounding.
    Raises:
        DtypeError: something that is no module.
        ArgumentError: a name that is empty, has a dot, or exists already.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.ReLU(), nn.Linear(8, 2, rng=1))
    >>> model(md.ones(3, 4)).shape
    (3, 2)
    >>> model[:2]
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            self.extend(modules)  # type: ignore[arg-type]

    def _from_items(self, items: list[tuple[str, Module]]) -> Sequential:
        return Sequential(dict(items))

    def forward(self, x: Any, residual: Any = None) -> Any:
        """Run the modules one after the other; the last, a batch normalisation, adds a residual that is given, then ReLU."""
        return in_a_row(list(self._modules.values()), x, residual)


class ModuleList(_Numbered):
    """A list of modules whose parameters the parent finds; calling them is the parent's own business.

    Notes:
        Indexing, slicing, iteration, ``append``, ``extend``, ``insert`` and ``del`` work as for a list.

    >>> from minidl import nn
    >>> layers = nn.ModuleList(nn.Linear(4, 4, rng=i) for i in range(3))
    >>> len(layers), len(list(layers.parameters()))
    (3, 6)
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _from_items(self, items: list[tuple[str, Module]]) -> ModuleList:
        return ModuleList(module for _, module in items)


class ModuleDict(Module):
    """Modules by name whose parameters the parent finds; calling them is the parent's own business.

    Notes:
        Indexing, ``in``, ``del``, iteration, ``keys``, ``values``, ``items`` and ``update`` work as for a dictionary.

    >>> from minidl import nn
    >>> heads = nn.ModuleDict({"digit": nn.Linear(8, 10, rng=0), "colour": nn.Linear(8, 3, rng=1)})
    >>> heads["colour"].out_features, list(heads)
    (3, ['digit', 'colour'])
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace several modules."""
        for name, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[name] = module

    def __getitem__(self, name: str) -> Module:
        if name not in self._modules:
            raise KeyError(f"ModuleDict: expected one of {', '.join(self._modules) or 'no names'}, got {name!r}.")
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        if name in self._modules and isinstance(module, Module):
            setattr(self, name, module)
        else:
            self.add_module(name, module)

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Module]:
        """The modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Module]:
        """Names and modules."""
        return self._modules.items()
