"""What a transform is, and the transforms that are made of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.data.transforms import _check
from minidl.errors import ArgumentError, DtypeError
from minidl.random import generator


class Transform:
    """Something that turns a thing into another one: ``transform(x, rng)``.

    The one rule of all transforms: what is random about them is drawn from the generator that comes with the
    call and from nowhere else, so the same generator gives the same result. ``rng`` is a generator, a seed, or
    None for minidl's own; transforms without chance do not look at it. They hold nothing that a call changes:
    one transform may work in several threads.

    To write one, derive from it and define ``apply(x, rng)``. A plain function of one argument also does
    wherever a transform is asked for; ``Compose`` and ``DataLoader`` call it with ``x`` alone.

    >>> from minidl.data import transforms
    >>> class Roll(transforms.Transform):
    ...     def apply(self, x, rng):
    ...         return np.roll(x, rng.integers(x.shape[-1]), axis=-1)
    >>> import numpy as np
    >>> Roll()(np.arange(6), rng=1)
    array([4, 5, 0, 1, 2, 3])
    """

    def __call__(self, x: Any, rng: np.random.Generator | int | None = None) -> Any:
        """``apply`` with a generator for a seed or None."""
        return self.apply(x, generator(rng))

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """The transform itself; ``rng`` is always a generator."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply(x, rng)")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


class Lambda(Transform):
    """Any function of one argument as a transform. Worker processes need one that is defined in a module.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> transforms.Lambda(np.negative)(np.arange(3))
    array([ 0, -1, -2])
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise DtypeError.of("Lambda", "a function", type(function).__name__)
        self.function = function

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """``function(x)``."""
        return self.function(x)


def as_transform(op: str, value: Any) -> Transform:
    """A transform itself; any other callable as one that does not look at the generator."""
    if isinstance(value, Transform):
        return value
    if not callable(value) or isinstance(value, type):
        raise DtypeError.of(op, "a transform or a function of one argument", repr(value))
    return Lambda(value)


def _several(op: str, transforms: Any) -> list[Transform]:
    if not isinstance(transforms, (list, tuple)):
        raise DtypeError.of(op, "a list of transforms", type(transforms).__name__)
    return [as_transform(op, transform) for transform in transforms]


class Compose(Transform):
    """Several transforms, one after the other.

    >>> import numpy as np
    >>> from minidl.data import transforms
    >>> image = np.full((3, 8, 8), 255, np.uint8)
    >>> steps = transforms.Compose([transforms.RandomCrop(8, padding=2), transforms.ToTensor(), np.negative])
    >>> steps(image, rng=0).shape, steps(image, rng=0).min()
    ((3, 8, 8), np.float32(-1.0))
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = _several("Compose", transforms)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """All of them in turn; they share the generator."""
        for transform in self.transforms:
            x = transform.apply(x, rng)
        return x

    def __repr__(self) -> str:
        return "Compose([" + "".join(f"\n    {transform!r}," for transform in self.transforms) + "\n])"


class RandomApply(Transform):
    """All the transforms with probability p, else none of them.

    >>> from minidl.data import transforms
    >>> transforms.RandomApply([str.upper], p=1.0)("text")
    'TEXT'
    """

    def __init__(self, transforms: Sequence[Any], p: float = 0.5) -> None:
        self.transforms = _several("RandomApply", transforms)
        self.p = _check.number("RandomApply", "p", p, 0, 1)

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """All, or x as it is."""
        if rng.random() < self.p:
            for transform in self.transforms:
                x = transform.apply(x, rng)
        return x


class RandomChoice(Transform):
    """One of the transforms, each with its probability; for batches too: ``RandomChoice([MixUp(), CutMix()])``.

    Args:
        transforms: what to choose from.
        p: one weight per transform; None for equal chances.

    >>> from minidl.data import transforms
    >>> transforms.RandomChoice([str.upper, str.title], p=[1, 3])("text", rng=0)
    'Text'
    """

    def __init__(self, transforms: Sequence[Any], p: Sequence[float] | None = None) -> None:
        self.transforms = _several("RandomChoice", transforms)
        if not self.transforms:
            raise ArgumentError.of("RandomChoice", "at least one transform", "none")
        weights = [1.0] * len(self.transforms) if p is None else [_check.number("RandomChoice", "p", value, 0) for value in p]
        if len(weights) != len(self.transforms) or sum(weights) <= 0:
            raise ArgumentError.of("RandomChoice", f"{len(self.transforms)} weights in p, not all zero", repr(p))
        self.p = [weight / sum(weights) for weight in weights]

    def apply(self, x: Any, rng: np.random.Generator) -> Any:
        """One of them."""
        return self.transforms[rng.choice(len(self.transforms), p=self.p)].apply(x, rng)
