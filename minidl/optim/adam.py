"""Adam and AdamW: a step size of its own for every element."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.backend import Array
from minidl.errors import ArgumentError
from minidl.kernels import kernels_for
from minidl.ops._arguments import describe, number
from minidl.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adaptive moment estimation.

    Formula (t counts the steps from 1):
        d = g + weight_decay * p                      (-g with maximize; m and v start at 0)
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d^2
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        With amsgrad, the largest v so far stands in the last line. The divisions by 1 - beta^t make up for the
        start at 0.

    Args:
        params: parameters, (name, parameter) pairs or groups.
        lr: learning rate.
        betas: how much of the averages of d and of d^2 is kept in a step.
        eps: keeps the quotient finite where gradients vanish.
        weight_decay: factor of the L2 penalty.
        amsgrad: never let a step size grow again.
        maximize: climb instead of descending.
        decoupled_weight_decay: shrink the parameter instead of adding to the gradient, as AdamW does.

    Raises:
        ArgumentError: a negative lr, eps or weight_decay, betas outside [0, 1).
    Source:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015; amsgrad: Reddi, Kale and Kumar,
        "On the Convergence of Adam and Beyond", 2018.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> opt = md.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w.detach()
    tensor([ 0.9, -1.9])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse negative numbers and betas outside [0, 1)."""
        self._numbers(options, "lr", "eps", "weight_decay")
        self._flags(options, "amsgrad", "maximize", "decoupled_weight_decay")
        betas = options["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ArgumentError.of(self._name, "betas as a pair (beta1, beta2)", describe(betas))
        options["betas"] = tuple(number(self._name, "betas", beta) for beta in betas)
        if not all(0 <= beta < 1 for beta in options["betas"]):
            raise ArgumentError.of(self._name, "betas from 0 to below 1", f"{options['betas']}")

    def state_names(self, options: dict[str, Any]) -> dict[str, bool]:
        """The count of steps and the averages of d and d^2."""
        return {"step": True, "exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": options["amsgrad"]}

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one parameter."""
        m, v = self._slot(state, "exp_avg", p), self._slot(state, "exp_avg_sq", p)
        v_max = self._slot(state, "max_exp_avg_sq", p) if group["amsgrad"] else None
        state["step"] = step = state.get("step", 0) + 1
        kernels_for(p).adam_update(
            p,
            g,
            m,
            v,
            v_max,
            step,
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: the parameter shrinks by itself, not through the averages.

    Formula:
        p = (1 - lr * weight_decay) * p, then a step of Adam without weight decay.

    Args:
        params: parameters, (name, parameter) pairs or groups.
        lr: learning rate.
        betas: how much of the averages of g and of g^2 is kept in a step.
        eps: keeps the quotient finite where gradients vanish.
        weight_decay: the share, times lr, by which parameters shrink in a step.
        amsgrad: never let a step size grow again.
        maximize: climb instead of descending.

    Raises:
        ArgumentError: a negative lr, eps or weight_decay, betas outside [0, 1).
    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    >>> import minidl as md
    >>> w = md.Parameter([1.0, -2.0])
    >>> opt = md.optim.AdamW([w], lr=0.1, weight_decay=0.5)
    >>> (w * w).sum().backward()
    >>> opt.step()
    >>> w.detach()
    tensor([ 0.85, -1.8 ])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)
