"""RMSprop: gradients divided by their running magnitude."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.backend import Array
from minidl.kernels import kernels_for
from minidl.optim.optimizer import Optimizer

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """Gradient descent with every element divided by the running root mean square of its gradient.

    Formula:
        d = g + weight_decay * p                                        (-g with maximize; s, a, b start at 0)
        s = alpha * s + (1 - alpha) * d^2
        a = alpha * a + (1 - alpha) * d,  s' = s - a^2 with centered, else s' = s
        u = d / (sqrt(s') + eps)
        b = momentum * b + u,  u = b                                    (momentum > 0 only)
        p = p - lr * u

    Args:
        params: parameters, (name, parameter) pairs or groups.
        lr: learning rate.
        alpha: how much of the averages is kept in a step.
        eps: keeps the quotient finite where gradients vanish.
        weight_decay: factor of the L2 penalty.
        momentum: how much of the last direction is kept.
        centered: divide by the standard deviation of the gradient instead of its root mean square.
        maximize: climb instead of descending.

    Notes:
        eps stands outside of the root, as in PyTorch; TensorFlow has it inside.
    Raises:
        ArgumentError: a negative lr, alpha, eps, weight_decay or momentum.
    Source:
        Tieleman and Hinton, "Neural Networks for Machine Learning", lecture 6.5, 2012; centered: Graves,
        "Generating Sequences With Recurrent Neural Networks", 2013.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> opt = md.optim.RMSprop([w], lr=0.1, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w.detach()
    tensor([ 0.8, -1.8])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse negative numbers."""
        self._numbers(options, "lr", "alpha", "eps", "weight_decay", "momentum")
        self._flags(options, "centered", "maximize")

    def state_names(self, options: dict[str, Any]) -> dict[str, bool]:
        """The count of steps, the averages of d^2 and d, and the momentum."""
        momentum = options["momentum"] > 0
        return {"step": True, "square_avg": True, "momentum_buffer": momentum, "grad_avg": options["centered"]}

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter."""
        square_average = self._slot(state, "square_avg", p)
        average = self._slot(state, "grad_avg", p) if group["centered"] else None
        buffer = self._slot(state, "momentum_buffer", p) if group["momentum"] > 0 else None
        state["step"] = state.get("step", 0) + 1
        kernels_for(p).rmsprop_update(
            p,
            g,
            square_average,
            average,
            buffer,
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["maximize"],
        )
