"""Adagrad: gradients divided by the root of all squared gradients so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.backend import Array
from minidl.kernels import kernels_for
from minidl.optim.optimizer import Optimizer

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Gradient descent in which elements with large gradients behind them take smaller steps.

    Formula (t counts the steps from 1):
        d = g + weight_decay * p                      (-g with maximize)
        s = s + d^2                                   (s starts at initial_accumulator_value)
        p = p - lr / (1 + (t - 1) * lr_decay) * d / (sqrt(s) + eps)

    Args:
        params: parameters, (name, parameter) pairs or groups.
        lr: learning rate.
        lr_decay: how fast the learning rate falls with the number of steps.
        weight_decay: factor of the L2 penalty.
        initial_accumulator_value: where the sum of squares starts.
        eps: keeps the quotient finite where gradients vanish.
        maximize: climb instead of descending.

    Raises:
        ArgumentError: any of the numbers negative.
    Source:
        Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
        Optimization", 2011.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> opt = md.optim.Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w.detach()
    tensor([ 0.9, -1.9])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse negative numbers."""
        self._numbers(options, "lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        self._flags(options, "maximize")

    def state_names(self, options: dict[str, Any]) -> dict[str, bool]:
        """The count of steps and the sum of squares."""
        return {"step": True, "sum": True}

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter."""
        total = self._slot(state, "sum", p, group["initial_accumulator_value"])
        rate = group["lr"] / (1 + state.get("step", 0) * group["lr_decay"])
        state["step"] = state.get("step", 0) + 1
        kernels_for(p).adagrad_update(p, g, total, rate, group["eps"], group["weight_decay"], group["maximize"])
