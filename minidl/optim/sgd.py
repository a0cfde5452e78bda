"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.backend import Array
from minidl.errors import ArgumentError
from minidl.kernels import kernels_for
from minidl.optim.optimizer import Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

    Formula:
        d = g + weight_decay * p                    (-g with maximize)
        b = momentum * b + (1 - dampening) * d      (b = d in the first step)
        d = d + momentum * b with nesterov, else b  (momentum > 0 only)
        p = p - lr * d

    Args:
        params: parameters, (name, parameter) pairs or groups.
        lr: learning rate.
        momentum: how much of the last direction is kept.
        dampening: how much of the new gradient is left out of the momentum.
        weight_decay: factor of the L2 penalty.
        nesterov: look ahead along the momentum; needs momentum > 0 and dampening 0.
        maximize: climb instead of descending.

    Notes:
        The learning rate multiplies the momentum, as in PyTorch; in Sutskever et al. it is inside of it.
    Raises:
        ArgumentError: a negative lr, momentum or weight_decay, nesterov without momentum or with dampening.
    Source:
        Robbins and Monro, "A Stochastic Approximation Method", 1951; momentum: Polyak, "Some methods of speeding up
        the convergence of iteration methods", 1964; nesterov: Nesterov, "A method for solving the convex
        programming problem with convergence rate O(1/k^2)", 1983, in the form of Sutskever, Martens, Dahl and
        Hinton, "On the importance of initialization and momentum in deep learning", 2013.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> opt = md.optim.SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     opt.zero_grad()
    ...     (w * w).sum().backward()
    ...     opt.step()
    >>> w.detach()
    tensor([ 0.46, -0.92])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse negative numbers, and nesterov where it has no meaning."""
        self._numbers(options, "lr", "momentum", "weight_decay")
        self._numbers(options, "dampening", low=None)
        self._flags(options, "nesterov", "maximize")
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            got = f"momentum {options['momentum']} and dampening {options['dampening']}"
            raise ArgumentError.of(self._name, "momentum > 0 and dampening 0 for nesterov", got)

    def state_names(self, options: dict[str, Any]) -> dict[str, bool]:
        """The momentum, when there is one."""
        return {"momentum_buffer": options["momentum"] != 0}

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter."""
        momentum, dampening = group["momentum"], group["dampening"]
        buffer = None
        if momentum != 0:
            if "momentum_buffer" not in state:
                dampening = 0.0  # the first direction is the whole gradient
            buffer = self._slot(state, "momentum_buffer", p)
        kernels_for(p).sgd_update(
            p, g, buffer, group["lr"], momentum, dampening, group["weight_decay"], group["nesterov"], group["maximize"]
        )
