"""Tensor: an array that remembers how it was computed, and the backward engine that walks the memory.

Every operation on tensors leaves a ``Node`` (see node.py): which function ran, where its inputs came from, and the
arrays its derivative needs. ``loss.backward()`` visits the nodes from the last to the first and applies
the chain rule: a node receives dL/d(output) and returns dL/d(input) for each input.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import backend, memory
from minidl.backend import Array
from minidl.context import state
from minidl.errors import ArgumentError, DtypeError, GraphError, ShapeError
from minidl.kernels import kernels_for
from minidl.node import Node


class Tensor:
    """An array with a gradient.

    Args:
        data: numbers, nested lists or an array. Copied, so that later changes to it cannot reach the graph.
        dtype: defaults to the array's own dtype, and to the default floating dtype (float32) for Python floats.
        requires_grad: whether ``backward`` shall leave d(loss)/d(this) in ``.grad``.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        DtypeError: objects, text, complex numbers, or ``requires_grad`` for integers.
        DeviceError: a GPU that is not there, or CuPy missing.

    >>> import minidl as md
    >>> x = md.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    __slots__ = ("__weakref__", "_array", "_grad", "_hooks", "_node", "_requires_grad")

    _array: Array
    _node: Node | None
    _grad: Tensor | None

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> None:
        array = backend.as_array(data._array if isinstance(data, Tensor) else data, dtype, copy=memory.copy)
        self._array = array if device is None else backend.to_device(array, device)
        self._node = None
        self._grad = None
        self._hooks: list[Callable] | None = None
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    @staticmethod
    def wrap(array: Array, node: Node | None = None) -> Tensor:
        """A tensor around an array that nobody else will write to; no copy, no check."""
        tensor = Tensor.__new__(Tensor)
        if type(array) is not np.ndarray and isinstance(array, np.generic):
            array = np.asarray(array)  # NumPy makes 0-d results scalars
        tensor._array = array
        tensor._node = node
        tensor._grad = None
        tensor._hooks = None
        tensor._requires_grad = node is not None
        return tensor

    # ---------------------------------------------------------------- what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return self._array.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._array.size

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self._array.nbytes

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""
        return backend.device_of(self._array)

    @property
    def data(self) -> Array:
        """The array, read-only. Assign to replace it (same shape): ``p.data = p.data - 0.1 * p.grad.data``."""
        view = self._array.view()
        if isinstance(view, np.ndarray):
            view.flags.writeable = False
        return view

    @data.setter
    def data(self, value: Any) -> None:
        array = backend.as_array(value._array if isinstance(value, Tensor) else value, self.dtype, "Tensor.data")
        if array.shape != self.shape:
            raise ShapeError.of("Tensor.data", f"shape {self.shape}", f"{array.shape}")
        self._replace(array)

    def _replace(self, array: Array) -> None:
        """Take new values, in the memory order and on the device of the old ones, which live graphs keep."""
        room = self._room()
        room[...] = backend.to_device(array, self.device)
        self._array = room

    def _room(self) -> Array:
        """Where new values go: beside the old ones, or where the next replay reads them if a CUDA graph is recorded."""
        if state.recorder is not None and not isinstance(self._array, np.ndarray):
            return self._array
        return backend.xp_of(self._array).empty_like(self._array)

    @property
    def is_leaf(self) -> bool:
        """True when no recorded operation made this tensor."""
        return self._node is None

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._node is not None and not value:
            raise GraphError.of("requires_grad", "a leaf tensor", f"the result of {self._node.name}", "Use detach().")
        if value and self.dtype not in backend.FLOATS:
            raise DtypeError.of(
                "requires_grad", "float32 or float64", str(self.dtype), "Gradients need real numbers: cast with astype."
            )
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` and return the tensor."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> Tensor | None:
        """d(loss)/d(this tensor), left by ``backward``; of this tensor's shape and dtype."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            value = value if isinstance(value, Tensor) else Tensor(value, dtype=self.dtype)
            if value.shape != self.shape:
                raise ShapeError.of("Tensor.grad", f"shape {self.shape}", f"{value.shape}")
            if value.dtype != self.dtype:
                raise DtypeError.of("Tensor.grad", str(self.dtype), str(value.dtype), "Convert it with .astype.")
        self._grad = value

    @property
    def grad_fn(self) -> Node | None:
        """The node of the operation that made this tensor; None for leaves."""
        return self._node

    # ---------------------------------------------------------------- values out of it

    def numpy(self) -> np.ndarray:
        """The values as a read-only NumPy array, without a copy on the CPU. ``.copy()`` gives one to write to."""
        view = backend.to_numpy(self._array).view()
        view.flags.writeable = False
        return view

    def item(self) -> float | int | bool:
        """The value of a one-element tensor as a Python number.

        Raises:
            ShapeError: more than one element, or none.
        """
        if self.size != 1:
            raise ShapeError.of("item", "one element", f"shape {self.shape}", "Reduce first, for example with mean().")
        return self._array.item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self._array.tolist()

    def detach(self) -> Tensor:
        """The same values outside of the graph: no gradient flows back through the result.

        >>> import minidl as md
        >>> w = md.tensor([2.0], requires_grad=True)
        >>> (w * w.detach()).backward()  # the second factor counts as a constant
        >>> w.grad
        tensor([2.])
        """
        return Tensor.wrap(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ArgumentError.of("__array__", "copy=True or None to change the dtype", "copy=False")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        array = self._array
        if isinstance(array, np.ndarray):  # read-only, as numpy() is; a copy for those who cannot be told so
            array = self.numpy() if options.get("max_version") else array.copy(order="K")
        return array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DtypeError.of("index", "an integer tensor", str(self.dtype))
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError.of("bool", "one element", f"shape {self.shape}", "Say any() or all().")
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        """``f"{loss:.4f}"`` for a tensor of one element."""
        return format(self.item(), spec) if spec and self.size == 1 else super().__format__(spec)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len: expected at least one axis, got a 0-d tensor.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # == compares elements; a tensor as a key means this very tensor

    def __getstate__(self) -> Any:
        """What copies and pickles take over: leaves only, because the graph behind a result is not theirs to copy."""
        if self._node is not None:
            raise GraphError.of("copy or pickle", "a leaf tensor", f"the result of {self._node.name}", "Take x.detach().")
        return super().__getstate__()

    def __repr__(self) -> str:
        values = np.array2string(backend.to_numpy(self._array), separator=", ", prefix="tensor(", threshold=100, precision=4)
        parts = [values]
        if self.size == 0 and self.ndim > 1:
            parts.append(f"shape={self.shape}")
        if self.dtype not in (np.float32, np.int64, np.bool_):
            parts.append(f"dtype={self.dtype}")
        if self.device != "cpu":
            parts.append(f"device='{self.device}'")
        if self._node is not None:
            parts.append(f"grad_fn={self._node!r}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "setitem: tensors are not written to, because backward may need the old values. "
            "Use md.where(mask, value, x), or build the array in NumPy first."
        )

    # ---------------------------------------------------------------- new values for leaves

    def writable(self) -> Array:
        """The array to write new values into, for optimizers: a private copy of it when anybody else still looks.

        Whoever took the values before, a graph that waits for backward, a view or a detached tensor, keeps
        them: nothing that was computed can be changed behind its back.
        """
        if self._array.base is not None or _references(self) != _ALONE:
            self._array = self._array.copy(order="K")
        return self._array

    def __pos__(self) -> Tensor:
        return self

    def __iadd__(self, other: Any) -> Tensor:
        return self._update(self + other)

    def __isub__(self, other: Any) -> Tensor:
        return self._update(self - other)

    def __imul__(self, other: Any) -> Tensor:
        return self._update(self * other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._update(self / other)

    def __ipow__(self, other: Any) -> Tensor:
        return self._update(self**other)

    def __ifloordiv__(self, other: Any) -> Tensor:
        return self._update(self // other)

    def __imod__(self, other: Any) -> Tensor:
        return self._update(self % other)

    def __imatmul__(self, other: Any) -> Tensor:
        return self._update(self @ other)

    def _update(self, result: Tensor) -> Tensor:
        """``w -= lr * w.grad`` gives a leaf that asks for a gradient new values; for others ``x -= y`` means ``x = x - y``.

        Recorded, it would be neither: the name would point to a result, and the parameter stay as it was.
        """
        if self._node is not None or not self._requires_grad:
            return result
        if state.grad_enabled:
            hint = "Use it under md.no_grad() to change the values, or write x = x + y for a new tensor."
            raise GraphError.of("in-place update", "a tensor that requires no gradient", "a leaf that does", hint)
        if result.shape != self.shape:
            raise ShapeError.of("in-place update", f"a result of shape {self.shape}", f"{result.shape}")
        self._replace(result._array)
        return self

    # ---------------------------------------------------------------- gradients

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._grad = None

    def retain_grad(self) -> None:
        """Ask ``backward`` to leave the gradient of this intermediate result in ``.grad`` too.

        Raises:
            GraphError: a tensor that requires no gradient.

        >>> import minidl as md
        >>> x = md.tensor([3.0], requires_grad=True)
        >>> y = x * x
        >>> y.retain_grad()
        >>> (2 * y).backward()
        >>> y.grad, x.grad
        (tensor([2.]), tensor([12.]))
        """
        if self._node is not None:
            self._node.retain = weakref.ref(self)
        elif not self.requires_grad:
            raise GraphError.of("retain_grad", "a tensor of a recorded graph", "one that requires no gradient")

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook(grad)`` when this tensor's gradient is complete; a returned tensor replaces it.

        Returns:
            A function that removes the hook.
        Raises:
            GraphError: a tensor that requires no gradient.

        >>> import minidl as md
        >>> x = md.tensor([3.0], requires_grad=True)
        >>> remove = x.register_hook(lambda grad: grad * 10)
        >>> (x * x).backward()
        >>> x.grad
        tensor([60.])
        """
        if not self.requires_grad:
            raise GraphError.of("register_hook", "a tensor that requires a gradient", "one that does not")
        owner = self._node if self._node is not None else self
        attribute = "hooks" if self._node is not None else "_hooks"
        hooks = getattr(owner, attribute) or []
        setattr(owner, attribute, hooks)
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add d(this)/d(leaf), times ``grad``, to the ``.grad`` of every leaf this was computed from.

        Args:
            grad: dL/d(this), of this tensor's shape; 1 when this has one element.
            retain_graph: keep the saved arrays, so that ``backward`` can run once more.

        Raises:
            GraphError: nothing recorded, or the graph was freed by an earlier call; ``grad`` missing for a
                tensor of more than one element.
            ShapeError: ``grad`` of another shape.

        >>> import minidl as md
        >>> x = md.tensor([3.0], requires_grad=True)
        >>> (x ** 2).backward()
        >>> x.grad
        tensor([6.])
        """
        if not self.requires_grad:
            raise GraphError.of(
                "backward",
                "a tensor that depends on one with requires_grad=True",
                "one that does not",
                "Was it computed under no_grad or detached?",
            )
        if grad is None:
            if self.size != 1:
                raise GraphError.of(
                    "backward", "a tensor of one element, or grad=", f"shape {self.shape}", "Use loss.mean() or pass grad=."
                )
            array = backend.run_on(self._array, backend.xp_of(self._array).ones_like, self._array)
        elif isinstance(grad, Tensor) and grad.dtype == self.dtype:
            array = grad._array  # tensors are not written to, so no copy is needed
        else:
            array = backend.as_array(grad._array if isinstance(grad, Tensor) else grad, self.dtype, "backward")
        if array.shape != self.shape:
            raise ShapeError.of("backward", f"grad of shape {self.shape}", f"{array.shape}")
        array = backend.to_device(array, self.device)
        backend.run_on(array, _walk, self._node if self._node is not None else self, array, retain_graph)

    if TYPE_CHECKING:  # the operations become methods in minidl.ops; this tells type checkers and editors
        T: Tensor
        split: Callable[..., list[Tensor]]

        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __invert__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...


def _references(tensor: Tensor) -> int:
    return sys.getrefcount(tensor._array)


# The count of an array that only its tensor holds; measured, because interpreters count borrowed references differently.
_ALONE = _references(Tensor.wrap(np.empty(1)))


class Parameter(Tensor):
    """A tensor that a Module registers and an optimizer updates; it requires a gradient from the start.

    Args:
        data: numbers, nested lists, an array or a tensor; copied.
        requires_grad: False freezes it.

    >>> import minidl as md
    >>> md.Parameter([1.0, 2.0]).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        if isinstance(data, Tensor):
            data = data._array
        super().__init__(data, requires_grad=requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def _shares(a: Array, b: Array) -> bool:
    """Whether a may lie in b's memory, or is a broadcast view, whose elements share memory with each other."""
    if isinstance(a, np.ndarray):
        if a.base is None:  # a owns its memory
            return a is b or a is b.base
        return np.may_share_memory(a, b) or not a.flags.writeable
    return a.data.ptr == b.data.ptr or a.base is not None


@np.errstate(all="ignore")  # infinities and NaN are results here, not warnings
def _walk(root: Node | Tensor, grad: Array, retain_graph: bool) -> None:
    """The backward engine: every node once, last made first visited.

    A node's sequence number is higher than that of every node it depends on, so taking the highest
    number first guarantees that a node is visited only after everything that uses its output, and no
    recursion is needed. ``grads`` holds the gradients that have arrived so far.
    """
    grads: dict[Node | Tensor, Array] = {root: grad}
    own: set[Node | Tensor] = set()  # their gradient is an array of our own making: nobody else sees it, add in place
    waiting = [(-root.sequence, root)] if isinstance(root, Node) else []
    leaves = [] if isinstance(root, Node) else [root]
    observer = state.observer
    while waiting:
        node = heappop(waiting)[1]
        gy = grads.pop(node)
        own.discard(node)
        if node.hooks:
            gy = _run_hooks(node.hooks, gy)
        if node.retain is not None and (tensor := node.retain()) is not None:
            tensor._grad = Tensor.wrap(gy.copy())
        if node.saved is None:
            raise _freed(node)
        try:
            backward = node.function.backward
            if observer is not None:
                backward = observer(node, "backward", backward)
            incoming = backward(node, gy) if type(gy) is np.ndarray else backend.run_on(gy, backward, node, gy)
        except Exception as error:
            error.add_note(f"in the backward of {_place(node)}")
            raise
        edges = node.edges
        if not retain_graph:
            node.saved = None
            node.edges = ()
        if type(incoming) is not tuple:
            incoming = (incoming,)
        if len(incoming) != len(edges):
            raise _wrong_gradient(node, f"{len(edges)} gradients, one per input of forward", str(len(incoming)))
        for i, (edge, g) in enumerate(zip(edges, incoming)):
            if edge is None:
                continue
            if type(g) is not np.ndarray:
                if not backend.is_array(g) and not isinstance(g, np.generic):
                    raise _wrong_gradient(node, f"an array as the gradient of input {i}", type(g).__name__)
                g = np.asarray(g) if isinstance(g, np.generic) else g
            if isinstance(edge, Tensor) and g.shape != edge._array.shape:
                raise _wrong_gradient(node, f"a gradient of shape {edge.shape} for input {i}", f"{g.shape}")
            if edge in own:
                kernels_for(g).add_to(grads[edge], g)
            elif edge in grads:
                grads[edge] = kernels_for(g).add(grads[edge], g)[...]  # NumPy makes 0-d sums scalars; this, arrays again
                own.add(edge)
            else:
                grads[edge] = g
                if isinstance(edge, Node):
                    heappush(waiting, (-edge.sequence, edge))
                else:
                    leaves.append(edge)
                    if not _shares(g, gy):
                        own.add(edge)
    for leaf in leaves:
        g = grads.pop(leaf)
        if leaf not in own:
            g = g.copy(order="K")
        if leaf._hooks:
            g = _run_hooks(leaf._hooks, g)
        if leaf._grad is None:
            leaf._grad = Tensor.wrap(g)
        else:
            leaf._grad = Tensor.wrap(leaf._grad._array + g)


def _run_hooks(hooks: list[Callable], g: Array) -> Array:
    for hook in list(hooks):
        result = hook(Tensor.wrap(g))
        if result is not None:
            if not isinstance(result, Tensor):
                raise DtypeError.of("gradient hook", "a Tensor or None", type(result).__name__)
            if result.shape != g.shape:
                raise ShapeError.of("gradient hook", f"shape {g.shape}", f"{result.shape}")
            if result.dtype != g.dtype:
                raise DtypeError.of("gradient hook", str(g.dtype), str(result.dtype))
            g = result._array
    return g


def _freed(node: Node) -> GraphError:
    return GraphError(
        f"backward: expected a live graph, got one that an earlier backward() freed (at {_place(node)}). "
        "Run forward again, or pass retain_graph=True to the first backward()."
    )


def _wrong_gradient(node: Node, expected: str, got: str) -> GraphError:
    """A backward that does not keep the rules of Function."""
    return GraphError(f"{_place(node)}: expected backward to return {expected}, got {got}.")


def _place(node: Node) -> str:
    return f"{node.name} [{node.path}]" if node.path else node.name
