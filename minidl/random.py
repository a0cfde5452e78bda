"""Random numbers: one seed for everything, or a generator of your own wherever ``rng=`` is taken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minidl.errors import DtypeError

_generator = np.random.default_rng()


class _Local(threading.local):
    generator: np.random.Generator | None = None  # in place of minidl's own, in this thread


_local = _Local()


def manual_seed(seed: int) -> np.random.Generator:
    """Restart minidl's own generator from ``seed``; every initialiser, dropout and shuffle follows from it.

    >>> import minidl as md
    >>> _ = md.manual_seed(0)
    >>> a = md.randn(3)
    >>> _ = md.manual_seed(0)
    >>> bool((a == md.randn(3)).all())
    True
    """
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def generator(rng: np.random.Generator | int | None = None) -> np.random.Generator:
    """``rng`` itself, a new generator when it is a seed, minidl's own when it is None.

    Raises:
        DtypeError: anything else.

    >>> from minidl import random
    >>> random.generator(0).integers(10, size=3).tolist()
    [8, 6, 5]
    """
    if rng is None:
        return _generator if _local.generator is None else _local.generator
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng))
    raise DtypeError.of("rng", "a numpy.random.Generator, a seed or None", type(rng).__name__)


@contextmanager
def use_generator(rng: np.random.Generator) -> Iterator[None]:
    """Put a generator in the place of minidl's own inside a ``with`` block of this thread.

    >>> import numpy as np
    >>> from minidl import random
    >>> rng = np.random.default_rng(0)
    >>> with random.use_generator(rng):
    ...     random.generator(None) is rng
    True
    """
    outer, _local.generator = _local.generator, rng
    try:
        yield
    finally:
        _local.generator = outer


def get_state() -> dict:
    """The state of minidl's own generator, as a JSON-compatible dictionary.

    >>> from minidl import random
    >>> random.get_state()["bit_generator"]
    'PCG64'
    """
    return dict(_generator.bit_generator.state)


def set_state(state: dict) -> None:
    """Continue from a state that ``get_state`` returned.

    >>> import minidl as md
    >>> from minidl import random
    >>> state = random.get_state()
    >>> a = md.randn(3)
    >>> random.set_state(state)
    >>> bool((a == md.randn(3)).all())
    True
    """
    global _generator
    fresh = np.random.Generator(getattr(np.random, state["bit_generator"])())
    fresh.bit_generator.state = state
    _generator = fresh
