"""Learning rate schedules: what the learning rate is in each epoch, or in each step.

Make a schedule after the optimizer and call its ``step()`` after ``optimizer.step()``, once per epoch
(or per batch, for OneCycleLR and warm-ups). The rules are written as PyTorch has them, from one learning
rate to the next, so that several schedules on one optimizer multiply: a LinearLR warm-up beside a
StepLR, both stepped, gives the product of their factors. SequentialLR runs them one after the other.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minidl.errors import ArgumentError, DtypeError
from minidl.ops._arguments import choice, describe, integer, number
from minidl.optim.optimizer import Optimizer

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


class _Saved:
    """What every schedule can tell: the learning rates it set last, and its state."""

    _last_lr: list[float]

    @property
    def _name(self) -> str:
        return type(self).__name__

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as this schedule left it last."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, as numbers, lists and text; save the optimizer's state beside it."""
        own = {name: value for name, value in vars(self).items() if name != "optimizer"}
        return {name: list(value) if isinstance(value, list) else value for name, value in own.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ArgumentError: the state of another kind of schedule.
        """
        own = set(vars(self)) - {"optimizer"}
        if not isinstance(state_dict, Mapping) or set(state_dict) != own:
            got = ", ".join(sorted(map(str, state_dict))) if isinstance(state_dict, Mapping) else describe(state_dict)
            raise ArgumentError.of(f"{self._name}.load_state_dict", f"the entries {', '.join(sorted(own))}", got)
        for name, value in state_dict.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)


class LRScheduler(_Saved):
    """The base of all schedules: it counts, and writes learning rates into the optimizer's groups.

    A subclass writes ``next_lr``, which gives the learning rates of epoch ``last_epoch`` from those now in
    the groups. ``base_lrs`` are the learning rates the optimizer was made with.

    Args:
        optimizer: whose learning rates change.
        last_epoch: the last epoch that ran, when training goes on; -1 to begin.

    Raises:
        DtypeError: something that is no optimizer.
        ArgumentError: ``last_epoch`` given, but the groups hold no ``initial_lr``: load the optimizer first.

    >>> import minidl as md
    >>> class Halving(md.optim.LRScheduler):
    ...     def next_lr(self):
    ...         return [base / 2**self.last_epoch for base in self.base_lrs]
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = Halving(opt)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = _optimizer(self._name, optimizer)
        last_epoch = integer(self._name, "last_epoch", last_epoch, -1)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                hint = "Load the optimizer's state, or start with last_epoch=-1."
                raise ArgumentError.of(self._name, f"'initial_lr' in group {i} to go on from epoch {last_epoch}", "none", hint)
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch + 1
        self._write(self.first_lr())

    def next_lr(self) -> list[float]:
        """The learning rates of epoch ``last_epoch``, from those of the epoch before."""
        raise NotImplementedError(f"{self._name}: write a next_lr method.")

    def first_lr(self) -> list[float]:
        """The learning rates that the schedule sets when it is made."""
        return self.next_lr()

    def step(self) -> None:
        """Go on to the next epoch."""
        self.last_epoch += 1
        self._write(self.next_lr())

    def restart(self) -> None:
        """Begin at epoch 0 with the learning rates the optimizer was made with."""
        self._write(self.base_lrs)
        self.last_epoch = 0
        self._write(self.first_lr())

    def _current(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _write(self, rates: list[float]) -> None:
        if len(rates) != len(self.optimizer.param_groups):
            got = f"{len(self.optimizer.param_groups)}"
            raise ArgumentError.of(
                self._name, f"{len(rates)} groups as when it was made", got, "Add groups before making schedules."
            )
        for group, lr in zip(self.optimizer.param_groups, rates):
            group["lr"] = lr
        self._last_lr = self._current()


class StepLR(LRScheduler):
    """Multiply the learning rate by ``gamma`` every ``step_size`` epochs.

    Formula:
        lr(t) = lr(0) * gamma^floor(t / step_size)

    Args:
        optimizer: whose learning rates change.
        step_size: epochs from one fall to the next.
        gamma: the factor.
        last_epoch: the last epoch that ran, when training goes on.

    Raises:
        ArgumentError: step_size below 1, a negative gamma.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = md.optim.StepLR(opt, step_size=2, gamma=0.5)
    >>> for _ in range(4):
    ...     schedule.step()
    >>> opt.param_groups[0]["lr"]
    0.25
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = integer(self._name, "step_size", step_size, 1)
        self.gamma = number(self._name, "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def next_lr(self) -> list[float]:
        """gamma times the last one when a period ends."""
        falls = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [lr * self.gamma if falls else lr for lr in self._current()]


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by ``gamma`` at each of the given epochs.

    Formula:
        lr(t) = lr(0) * gamma^(number of milestones <= t); a milestone given twice counts twice.

    Args:
        optimizer: whose learning rates change.
        milestones: the epochs in which it falls.
        gamma: the factor.
        last_epoch: the last epoch that ran, when training goes on.

    Raises:
        ArgumentError: a negative milestone or gamma.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = md.optim.MultiStepLR(opt, milestones=[1, 3], gamma=0.5)
    >>> for _ in range(4):
    ...     schedule.step()
    >>> opt.param_groups[0]["lr"]
    0.25
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones = sorted(integer(self._name, "milestones", epoch, 0) for epoch in milestones)
        self.gamma = number(self._name, "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def next_lr(self) -> list[float]:
        """gamma times the last one at a milestone."""
        factor = self.gamma ** self.milestones.count(self.last_epoch)
        return [lr * factor for lr in self._current()]


class ExponentialLR(LRScheduler):
    """Multiply the learning rate by ``gamma`` in every epoch.

    Formula:
        lr(t) = lr(0) * gamma^t

    Args:
        optimizer: whose learning rates change.
        gamma: the factor.
        last_epoch: the last epoch that ran, when training goes on.

    Raises:
        ArgumentError: a negative gamma.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = md.optim.ExponentialLR(opt, gamma=0.5)
    >>> schedule.step()
    >>> opt.param_groups[0]["lr"]
    0.5
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = number(self._name, "gamma", gamma, 0.0)
        super().__init__(optimizer, last_epoch)

    def first_lr(self) -> list[float]:
        """The learning rate as it is."""
        return self._current()

    def next_lr(self) -> list[float]:
        """gamma times the last one."""
        return [lr * self.gamma for lr in self._current()]


class LinearLR(LRScheduler):
    """Change the learning rate linearly over the first epochs: a warm-up when ``start_factor`` is small.

    Formula:
        lr(t) = lr(0) * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)

    Args:
        optimizer: whose learning rates change.
        start_factor: factor at the start, above 0 and at most 1.
        end_factor: factor from ``total_iters`` on, from 0 to 1.
        total_iters: how many epochs (or steps) the change takes.
        last_epoch: the last epoch that ran, when training goes on.

    Raises:
        ArgumentError: start_factor of 0, factors outside of [0, 1], total_iters below 1.
    Source:
        Warm-up: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> warmup = md.optim.LinearLR(opt, start_factor=0.25, total_iters=3)
    >>> rates = warmup.get_last_lr()
    >>> for _ in range(4):
    ...     warmup.step()
    ...     rates += warmup.get_last_lr()
    >>> rates
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = number(self._name, "start_factor", start_factor, 0.0, 1.0)
        if self.start_factor == 0:
            raise ArgumentError.of(self._name, "start_factor above 0", "0", "Learning rates are multiplied; 0 would stay 0.")
        self.end_factor = number(self._name, "end_factor", end_factor, 0.0, 1.0)
        self.total_iters = integer(self._name, "total_iters", total_iters, 1)
        super().__init__(optimizer, last_epoch)

    def first_lr(self) -> list[float]:
        """start_factor times the learning rate; as it is when training goes on."""
        return [lr * self.start_factor if self.last_epoch == 0 else lr for lr in self._current()]

    def next_lr(self) -> list[float]:
        """The last one times the ratio of this epoch's factor to the last epoch's."""
        if self.last_epoch > self.total_iters:
            return self._current()
        rise = self.end_factor - self.start_factor
        ratio = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)
        return [lr * ratio for lr in self._current()]


class CosineAnnealingLR(LRScheduler):
    """Let the learning rate fall along half a cosine, to ``eta_min`` in epoch ``T_max``.

    Formula:
        lr(t) = eta_min + (lr(0) - eta_min) * (1 + cos(pi * t / T_max)) / 2

    Args:
        optimizer: whose learning rates change.
        T_max: the epoch in which the minimum is reached.
        eta_min: the minimum.
        last_epoch: the last epoch that ran, when training goes on.

    Notes:
        After T_max the learning rate rises again, as in PyTorch. There is no warm restart.
    Raises:
        ArgumentError: T_max below 1, a negative eta_min.
    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = md.optim.CosineAnnealingLR(opt, T_max=2)
    >>> schedule.step()
    >>> round(opt.param_groups[0]["lr"], 6)
    0.5
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = integer(self._name, "T_max", T_max, 1)
        self.eta_min = number(self._name, "eta_min", eta_min, 0.0)
        super().__init__(optimizer, last_epoch)

    def first_lr(self) -> list[float]:
        """The learning rate as it is."""
        return self._current()

    def next_lr(self) -> list[float]:
        """eta_min plus the last one's height above it, times the ratio of the cosine terms."""
        t, T, low = self.last_epoch, self.T_max, self.eta_min
        if (t - 1 - T) % (2 * T) == 0:  # the last epoch stood at the minimum: no ratio to go on from
            rise = (1 - math.cos(math.pi / T)) / 2
            return [lr + (base - low) * rise for lr, base in zip(self._current(), self.base_lrs)]
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return [low + (lr - low) * ratio for lr in self._current()]


class OneCycleLR(LRScheduler):
    """One rise of the learning rate to ``max_lr`` and one long fall, in steps of a batch; momentum runs against it.

    Formula:
        from initial_lr = max_lr / div_factor up to max_lr in the first pct_start of all steps, then down to
        initial_lr / final_div_factor at the last step; with ``three_phase``, down to initial_lr as fast as
        it rose, and from there to the end. Momentum (or beta1) goes from max_momentum down to
        base_momentum while the learning rate rises, and back.

    Args:
        optimizer: whose learning rates change.
        max_lr: the peak, one number or one per group.
        total_steps: length of the cycle in steps; or give ``epochs`` and ``steps_per_epoch``.
        epochs: number of epochs.
        steps_per_epoch: number of batches of an epoch.
        pct_start: share of the steps in which the learning rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether momentum changes too.
        base_momentum: momentum at the peak of the learning rate, one number or one per group.
        max_momentum: momentum at both ends, one number or one per group.
        div_factor: max_lr over the learning rate at the start.
        final_div_factor: the learning rate at the start over that at the end.
        three_phase: fall in two phases.
        last_epoch: the last step that ran, when training goes on.

    Raises:
        ArgumentError: no length given, a step after the last one, a share outside of [0, 1],
            ``cycle_momentum`` with an optimizer that has no momentum, lists that do not match the groups.
    Source:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
        Rates", 2018.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=0.1, momentum=0.9)
    >>> schedule = md.optim.OneCycleLR(opt, max_lr=1.0, total_steps=10)
    >>> for _ in range(2):
    ...     schedule.step()
    >>> schedule.get_last_lr()
    [1.0]
    >>> opt.param_groups[0]["momentum"]
    0.85
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        op = self._name
        groups = _optimizer(op, optimizer).param_groups
        if total_steps is not None:
            self.total_steps = integer(op, "total_steps", total_steps, 1)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = integer(op, "epochs", epochs, 1) * integer(op, "steps_per_epoch", steps_per_epoch, 1)
        else:
            raise ArgumentError.of(op, "total_steps, or epochs and steps_per_epoch", "neither")
        share = number(op, "pct_start", pct_start, 0.0, 1.0) * self.total_steps
        self.anneal_strategy = choice(op, "anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.cycle_momentum = bool(cycle_momentum)
        # where each phase ends, and between which of the groups' values it goes
        last = self.total_steps - 1
        self.ends = [share - 1, 2 * share - 2, last] if three_phase else [share - 1, last]
        self.rates = ["initial_lr", "max_lr", "initial_lr", "min_lr"] if three_phase else ["initial_lr", "max_lr", "min_lr"]
        self.momenta = ["max_momentum", "base_momentum", "max_momentum", *(["max_momentum"] if three_phase else [])]
        peaks = _per_group(op, "max_lr", max_lr, len(groups))
        lows = _per_group(op, "base_momentum", base_momentum, len(groups))
        highs = _per_group(op, "max_momentum", max_momentum, len(groups))
        div_factor = number(op, "div_factor", div_factor, 0.0)
        final_div_factor = number(op, "final_div_factor", final_div_factor, 0.0)
        if 0 in (div_factor, final_div_factor):
            raise ArgumentError.of(op, "div_factor and final_div_factor above 0", f"{div_factor} and {final_div_factor}")
        if self.cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            kind = type(optimizer).__name__
            raise ArgumentError.of(op, "an optimizer with momentum or betas", kind, "Or pass cycle_momentum=False.")
        if last_epoch == -1:
            for group, peak, low, high in zip(groups, peaks, lows, highs):
                start = peak / div_factor
                group.update(initial_lr=start, max_lr=peak, min_lr=start / final_div_factor)
                if self.cycle_momentum:
                    group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)

    def next_lr(self) -> list[float]:
        """The value of the running phase; momentum is written into the groups on the way."""
        t = self.last_epoch
        if t > self.total_steps:
            raise ArgumentError.of(self._name, f"at most {self.total_steps} steps", f"step {t}", "Make the cycle longer.")
        phase = next((i for i, end in enumerate(self.ends) if t <= end), len(self.ends) - 1)
        start, end = self.ends[phase - 1] if phase else 0.0, self.ends[phase]
        part = (t - start) / (end - start) if end != start else 1.0
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            value = self._between(group[self.momenta[phase]], group[self.momenta[phase + 1]], part)
            group.update({"betas": (value, group["betas"][1])} if "betas" in group else {"momentum": value})
        return [self._between(g[self.rates[phase]], g[self.rates[phase + 1]], part) for g in self.optimizer.param_groups]

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


class SequentialLR(LRScheduler):
    """Schedules one after the other: each begins anew at its milestone, from the optimizer's first learning rates.

    Args:
        optimizer: the optimizer of all schedules.
        schedulers: the schedules, in order.
        milestones: the epochs in which the second, third, ... begin.
        last_epoch: the last epoch that ran; only -1, to begin (load a state to go on).

    Raises:
        ArgumentError: schedules of other optimizers, ReduceLROnPlateau, or a number of milestones that is
            not one less than that of the schedules.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> warmup = md.optim.LinearLR(opt, start_factor=0.5, total_iters=2)
    >>> fall = md.optim.ExponentialLR(opt, gamma=0.5)
    >>> schedule = md.optim.SequentialLR(opt, [warmup, fall], milestones=[2])
    >>> rates = schedule.get_last_lr()
    >>> for _ in range(4):
    ...     schedule.step()
    ...     rates += schedule.get_last_lr()
    >>> rates
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        op = self._name
        self.schedulers = list(schedulers)
        self.milestones = [integer(op, "milestones", epoch, 1) for epoch in milestones]
        if not self.schedulers or not all(isinstance(s, LRScheduler) and s.optimizer is optimizer for s in self.schedulers):
            raise ArgumentError.of(op, "schedules of this optimizer, other than ReduceLROnPlateau", describe(self.schedulers))
        if len(self.milestones) != len(self.schedulers) - 1 or self.milestones != sorted(set(self.milestones)):
            n = len(self.schedulers)
            raise ArgumentError.of(op, f"{n - 1} rising milestones for {n} schedules", f"{self.milestones}")
        if last_epoch != -1:
            raise ArgumentError.of(op, "last_epoch -1", str(last_epoch), "To go on, load a saved state.")
        super().__init__(optimizer, last_epoch)

    def first_lr(self) -> list[float]:
        """Those of the first schedule."""
        self.schedulers[0].restart()
        return self._current()

    def next_lr(self) -> list[float]:
        """Those of the running schedule."""
        schedule = self.schedulers[bisect_right(self.milestones, self.last_epoch)]
        if self.last_epoch in self.milestones:
            schedule.restart()
        else:
            schedule.step()
        return self._current()

    def state_dict(self) -> dict[str, Any]:
        """The state of the schedules, and which one runs."""
        return {**super().state_dict(), "schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        own = self.schedulers
        saved = state_dict.get("schedulers") if isinstance(state_dict, Mapping) else None
        if not isinstance(saved, list) or len(saved) != len(own):
            raise ArgumentError.of(f"{self._name}.load_state_dict", f"the states of {len(own)} schedules", describe(saved))
        for schedule, state in zip(own, saved):
            schedule.load_state_dict(state)
        super().load_state_dict(state_dict)
        self.schedulers = own


class ReduceLROnPlateau(_Saved):
    """Multiply the learning rate by ``factor`` when a number, such as the validation loss, stops improving.

    Formula (mode "min"; best is the best value so far):
        improved: value < best * (1 - threshold), or best - threshold with threshold_mode "abs"
        after more than ``patience`` epochs without improvement: lr = max(lr * factor, min_lr)

    Args:
        optimizer: whose learning rates change.
        mode: "min" when small values are good, "max" when large ones are.
        factor: below 1.
        patience: epochs without improvement that are tolerated.
        threshold: how much better counts as better.
        threshold_mode: "rel", a share of the best value, or "abs".
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: the lowest learning rate, one number or one per group.
        eps: smaller changes of the learning rate are not made.

    Notes:
        A value that is NaN is no improvement.
    Raises:
        ArgumentError: factor not below 1, unknown modes, a min_lr list that does not match the groups.

    >>> import minidl as md
    >>> opt = md.optim.SGD([md.Parameter([1.0])], lr=1.0)
    >>> schedule = md.optim.ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     schedule.step(loss)
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        op = self._name
        self.optimizer = _optimizer(op, optimizer)
        self.mode = choice(op, "mode", mode, ("min", "max"))
        self.factor = number(op, "factor", factor, 0.0)
        if self.factor >= 1:
            raise ArgumentError.of(op, "factor below 1", str(factor))
        self.patience = integer(op, "patience", patience, 0)
        self.threshold = number(op, "threshold", threshold, 0.0)
        self.threshold_mode = choice(op, "threshold_mode", threshold_mode, ("rel", "abs"))
        self.cooldown = integer(op, "cooldown", cooldown, 0)
        self.min_lrs = _per_group(op, "min_lr", min_lr, len(optimizer.param_groups))
        self.eps = number(op, "eps", eps, 0.0)
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_epochs = 0
        self.cooldown_left = 0
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def _improves(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        bound = self.best * (1 + sign * self.threshold) if self.threshold_mode == "rel" else self.best + sign * self.threshold
        return value > bound if self.mode == "max" else value < bound

    def step(self, metrics: Any) -> None:
        """Take in the value of this epoch: a number or a tensor of one element."""
        value = float(metrics)
        self.last_epoch += 1
        if self._improves(value):
            self.best = value
            self.bad_epochs = 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            for group, low in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lr = max(group["lr"] * self.factor, low)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_left = self.cooldown
            self.bad_epochs = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _optimizer(op: str, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise DtypeError.of(op, "an optimizer", describe(optimizer))
    return optimizer


def _per_group(op: str, name: str, value: Any, groups: int) -> list[float]:
    """One number for all groups, or one per group."""
    if not isinstance(value, (list, tuple)):
        return [number(op, name, value, 0.0)] * groups
    if len(value) != groups:
        raise ArgumentError.of(op, f"{name} as one number or {groups}, one per group", f"{len(value)}")
    return [number(op, name, one, 0.0) for one in value]
