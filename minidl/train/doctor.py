"""The training doctor: looks at a model, a batch, a loss and an optimizer, tries a few steps, and says what is wrong.

Every verdict follows from numbers that are printed with it; the thresholds stand below with their reasons.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from minidl.backend import FLOATS, to_numpy, xp_of
from minidl.context import enable_grad, watch
from minidl.errors import ArgumentError, DtypeError
from minidl.functional import cross_entropy
from minidl.nn.dropout import Dropout
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm1d, BatchNorm2d
from minidl.nn.teaching import as_before
from minidl.ops._arguments import describe
from minidl.tensor import Parameter, Tensor
from minidl.train.callbacks import Callback, State
from minidl.train.loop import Loss, in_mode, pairs

LARGE = 10.0  # standardised data has a spread of 1, images in [0, 1] of 0.3, raw pixels of 60 to 80
SMALL = 5e-3  # images that were divided by 255 twice have a spread of 0.001
DEAD = 0.9  # at the start ReLU silences about half of the values, but hardly a unit for every example of a batch
EXPLODING = 1e3  # gradient over weight, in norms; around 1 or below at the start of a training that works
VANISHING = 1e-6  # first layer's gradient over the largest one; within 1e-3 to 1 in a training that works
FAST = 1.0  # one step's change over the weight, in norms: what was learnt is gone at once; 1e-3 is usual
SLOW = 1e-7  # the same: ten million steps to change the weights by their own size
STEPS = 5  # steps of the trial, on the same batch, on which every rate that is not too large lowers the loss
GROWN = 1.5  # loss after the trial over the loss before it
STUCK = 1e-3  # by which part of itself the loss falls at least over three epochs
SHARED = 0.01  # part of the validation examples that are training examples; data sets hold some twins by nature
SORTED = 16  # labels in order, of at least so many, do not come about by shuffling
ALIKE = 8  # the same label so many times in a row of random draws has a chance of 1 in 128 for two classes

Batch = Any


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or nearly so.

    Attributes:
        code: a name to look for, such as "softmax_before_loss".
        seen: what was seen, with numbers.
        harm: why that hurts.
        fix: what to change.
    """

    code: str
    seen: str
    harm: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code}: {self.seen}\n    why it hurts: {self.harm}\n    fix: {self.fix}"


@dataclass
class Diagnosis:
    """What the doctor found; ``str()`` reads well, and it is true when there are findings.

    Attributes:
        findings: one after the other, in the order: data, model, loss, gradients, optimizer.

    >>> import minidl as md
    >>> from minidl.train.doctor import Diagnosis, Finding
    >>> report = Diagnosis([Finding("nan_in_data", "3 of 12 values are NaN.", "The loss becomes NaN.", "Leave them out.")])
    >>> report.codes
    ['nan_in_data']
    >>> print(report)
    1 finding
    nan_in_data: 3 of 12 values are NaN.
        why it hurts: The loss becomes NaN.
        fix: Leave them out.
    """

    findings: list[Finding] = field(default_factory=list)

    @property
    def codes(self) -> list[str]:
        """The findings' names."""
        return [finding.code for finding in self.findings]

    def add(self, code: str, seen: str, harm: str, fix: str) -> None:
        """One more, unless there is one of this name already."""
        if code not in self.codes:
            self.findings.append(Finding(code, seen, harm, fix))

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __str__(self) -> str:
        if not self.findings:
            return "nothing found"
        count = f"{len(self)} finding{'s' if len(self) > 1 else ''}"
        return "\n".join([count, *map(str, self.findings)])

    __repr__ = __str__


def diagnose(
    model: Module,
    batch: Batch,
    loss: Loss = cross_entropy,
    optimizer: Any = None,
    validation: Iterable | None = None,
    training: bool = True,
    step: Callable[[Tensor, Tensor], Any] | None = None,
) -> Diagnosis:
    """Look for the usual faults of a training before it costs a night.

    A forward and a backward pass, and with an optimizer a few steps on the same batch, are tried out. Afterwards model,
    optimizer, gradients, modes, random generators and loaders are what they were.

    Args:
        model: any Module, in the mode in which the batch will meet it.
        batch: a pair (x, y), or batches that can be walked again, such as a DataLoader or a list, of which the first is
            tried out and the first eight show the order of the labels.
        loss: as for ``fit``.
        optimizer: the one that shall train the model; None leaves out what concerns it.
        validation: batches of the examples that judge the model; their examples are compared with those of ``batch``.
        training: False for a batch that the model only shall predict or be judged on.
        step: the training step of a loop of your own, ``step(x, y)``, to try it out too.

    Returns:
        The findings, none for a training in order.
    Raises:
        DtypeError: something that is no module.
        ArgumentError: an iterator, which cannot be walked again, or no batch.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train.doctor import diagnose
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(32, 4)).astype(np.float32), rng.integers(0, 3, 32)
    >>> diagnose(nn.Sequential(nn.Linear(4, 3, rng=0)), (x, y))
    nothing found
    >>> print(diagnose(nn.Sequential(nn.Linear(4, 3, rng=0), nn.Softmax()), (x, y)))
    1 finding
    softmax_before_loss: cross_entropy is given the result of softmax.
        why it hurts: ...
        fix: Return the scores themselves from the model; for probabilities apply softmax to its predictions.
    """
    if not isinstance(model, Module):
        raise DtypeError.of("diagnose", "a Module", describe(model))
    report = Diagnosis()
    batches = _peek(batch, model, 8)
    x, y = batches[0]
    _labels(report, np.concatenate([to_numpy(labels._array) for _, labels in batches]) if _columns(batches) else None)
    if validation is not None:
        _overlap(report, batch, validation, model)
    _mode(report, model, training)
    x = _inputs(report, model, x, y, training)
    if not training:
        return report
    with _trial(model, optimizer), nullcontext() if model.training else in_mode("diagnose", model, training=True):
        ran = _first_step(report, model, x, y, loss)
    if optimizer is not None:
        _membership(report, model, optimizer)
        if ran and not {"other_model", "exploding_gradients", "nan_in_data"} & set(report.codes):
            with _trial(model, optimizer), nullcontext() if model.training else in_mode("diagnose", model, training=True):
                _few_steps(report, model, x, y, loss, optimizer)
    if step is not None and ran:
        with _trial(model, optimizer):
            _own_step(report, model, x, y, step)
    return report


# ---------------------------------------------------------------- what is looked at, and the way back


def _peek(batch: Batch, model: Module, count: int | None) -> list[tuple[Tensor, Tensor]]:
    """The first batches, as tensors; a loader's place is put back."""
    if isinstance(batch, tuple) and len(batch) == 2:
        return list(pairs("diagnose", [batch], model))
    if isinstance(batch, Iterator) or not isinstance(batch, Iterable):
        hint = "Pass a pair (x, y), a list of pairs or a DataLoader."
        raise ArgumentError.of("diagnose", "batches that can be walked again", describe(batch), hint)
    place = batch.state_dict() if hasattr(batch, "state_dict") else None
    with as_before(model):  # loaders may draw from minidl's own generator
        found = list(pairs("diagnose", islice(batch, count), model))
    if place is not None:
        batch.load_state_dict(place)  # type: ignore[attr-defined]
    return found


@contextmanager
def _trial(model: Module, optimizer: Any) -> Iterator[None]:
    """Values, gradients, buffers, attributes, random generators and the optimizer are after the block what they were."""
    parameters = [*model.parameters()]
    if optimizer is not None:
        known = set(map(id, parameters))
        parameters += [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    held = [(p, p._array, p._grad) for p in parameters]  # holding the arrays keeps steps from writing to them
    options = None if optimizer is None else optimizer.state_dict()
    try:
        with as_before(model), enable_grad():
            for p in parameters:
                p._grad = None
            yield
    finally:
        for p, values, gradient in held:
            p._array, p._grad = values, gradient
        if optimizer is not None:
            optimizer.load_state_dict(options)


# ---------------------------------------------------------------- data


def _columns(batches: list[tuple[Tensor, Tensor]]) -> bool:
    """Whether the targets are class labels, (N,) or (N, 1)."""
    return all(y.dtype.kind in "iu" and y.ndim in (1, 2) and y.size == len(y) for _, y in batches)


def _labels(report: Diagnosis, labels: np.ndarray | None) -> None:
    if labels is None:
        return
    labels = labels.reshape(-1)
    if len(labels) >= ALIKE and (labels == labels[0]).all():
        report.add(
            "one_class",
            f"All {len(labels)} labels are {labels[0]}.",
            "The model learns to give one answer whatever it sees, and forgets it with the next class.",
            "Shuffle (DataLoader(..., shuffle=True)), and look at how the labels were made.",
        )
    elif len(labels) >= SORTED and (labels[1:] >= labels[:-1]).all():
        report.add(
            "sorted_labels",
            f"The {len(labels)} labels come in order, from {labels[0]} to {labels[-1]}.",
            "Batches of one class pull the model to and fro; batch statistics are those of a class.",
            "Shuffle: DataLoader(..., shuffle=True).",
        )


def _overlap(report: Diagnosis, batch: Batch, validation: Iterable, model: Module) -> None:
    train = {digest for x, _ in _peek(batch, model, None) for digest in _digests(x)}
    held_out = [digest for x, _ in _peek(validation, model, None) for digest in _digests(x)]
    shared = sum(digest in train for digest in held_out)
    if shared > SHARED * len(held_out):
        report.add(
            "overlap",
            f"{shared} of {len(held_out)} validation examples are training examples.",
            "The figures on them say how well the model remembers, not how well it will do on new examples.",
            "Split once, before anything else, and keep the parts apart; drop duplicates first.",
        )


def _digests(x: Tensor) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest() for row in to_numpy(x._array)]


def _inputs(report: Diagnosis, model: Module, x: Tensor, y: Tensor, training: bool) -> Tensor:
    """Look at the numbers of a batch; x in the form in which the model can take it."""
    for name, tensor in (("inputs", x), ("targets", y)):
        if tensor.dtype in FLOATS and (bad := int((~xp_of(tensor._array).isfinite(tensor._array)).sum())):
            report.add(
                "nan_in_data",
                f"{bad} of {tensor.size} values of the {name} are NaN or infinite.",
                "One of them makes the loss, all gradients and with the next step all weights NaN.",
                "Find them with np.isfinite; leave these examples out or fill the values in.",
            )
    weights = next((p.dtype for p in model.parameters()), None)
    if x.dtype == np.float64 and weights == np.float32:
        report.add(
            "float64",
            "The inputs are float64, the parameters float32.",
            "Layers refuse to mix them; in float64 everything takes twice the memory and time.",
            "x.astype('float32'), which DataLoader does by itself.",
        )
        x = x.astype("float32")
    if x.dtype == np.uint8 and x.ndim > 1 and weights is not None:
        report.add(
            "raw_images",
            f"The inputs are uint8, from {x._array.min()} to {x._array.max()}.",
            "Layers take floats, and learn well from numbers around 1.",
            "x.astype('float32') / 255, which DataLoader does by itself.",
        )
        x = x.astype("float32") / 255
    if x.dtype in FLOATS and "nan_in_data" not in report.codes and x.size > 1:
        _scale(report, x)
    if training and len(x) == 1 and any(isinstance(module, (BatchNorm1d, BatchNorm2d)) for module in model.modules()):
        report.add(
            "batch_of_one",
            "The model has batch normalisation and the batch a single example.",
            "Its mean and spread are those of the example: it is normalised by itself, and its statistics are no one's.",
            "Larger batches, drop_last=True for a last batch of one, or nn.GroupNorm.",
        )
    return x


def _scale(report: Diagnosis, x: Tensor) -> None:
    array = x._array
    mean, spread = float(array.mean()), float(array.std())
    same = len(x) > 1 and bool((array == array[:1]).all())
    low, high = float(array.min()), float(array.max())
    seen = f"The inputs lie between {low:.4g} and {high:.4g}, with mean {mean:.4g} and spread {spread:.4g}."
    if same:
        report.add(
            "constant_input",
            f"All {len(x)} examples are equal, between {low:.4g} and {high:.4g}.",
            "There is nothing to tell them apart by.",
            "Look at the batch: was the array filled, the right file read, the mean not subtracted from itself?",
        )
    elif spread > LARGE or abs(mean) > LARGE:
        report.add(
            "unnormalised_input",
            seen,
            "First weights that fit inputs around 1 give huge scores and gradients; small learning rates then do nothing.",
            "Images: divide by 255. Otherwise subtract the mean and divide by the spread, of the training data.",
        )
    elif spread < SMALL:
        report.add(
            "tiny_input",
            seen,
            "The first layer's bias outweighs what it sees, and its weights learn slowly.",
            "Were images divided by 255 twice? Else divide by the spread of the training data.",
        )


# ---------------------------------------------------------------- model and loss


def _mode(report: Diagnosis, model: Module, training: bool) -> None:
    moody = [module for module in model.modules() if isinstance(module, (Dropout, BatchNorm1d, BatchNorm2d))]
    if not moody:
        return
    kinds = ", ".join(sorted({type(module).__name__ for module in moody}))
    if training and not any(module.training for module in (model, *moody)):
        report.add(
            "train_forgotten",
            f"The model trains in evaluation mode; it has {kinds}.",
            "Dropout drops nothing and batch normalisation does not collect its statistics.",
            "Call model.train() before training, also after each evaluation.",
        )
    if not training and any(module.training for module in moody):
        report.add(
            "eval_forgotten",
            f"The model predicts in training mode; it has {kinds}.",
            "Predictions change from call to call and depend on the other examples of the batch.",
            "Call model.eval() before predicting, or use md.predict and md.evaluate.",
        )


class _Operations:
    """What ran, in order; the arrays stay alive, so that each is told from all others."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, tuple, Any]] = []  # name, module path, input arrays, output array
        self.makers: dict[int, tuple[str, str, tuple, Any]] = {}

    def __call__(self, node: Any, inputs: tuple, params: dict, output: Any) -> None:
        self.all.append((node.name, node.path, inputs, output))
        self.makers[id(output)] = self.all[-1]

    def maker(self, array: Any) -> str:
        """The operation that made an array; changes of shape do not count."""
        while (made := self.makers.get(id(array))) and made[0] in ("reshape", "flatten", "squeeze", "expand_dims"):
            array = made[2][0]
        return made[0] if made else ""


def _first_step(report: Diagnosis, model: Module, x: Tensor, y: Tensor, loss: Loss) -> bool:
    """Forward and backward; whether both ran."""
    operations = _Operations()
    with watch(operations):
        try:
            output = model(x)
        except Exception as error:
            if "batch_of_one" not in report.codes:
                report.add("model_fails", f"{type(error).__name__}: {error}", "Nothing can be learnt.", "See the message.")
            return False
        inside = len(operations.all)
        try:
            value = loss(output, y)
        except Exception as error:
            _failed_loss(report, output, y, error)
            return False
    _bias_before_norm(report, operations)
    _dead(report, operations, len(x))
    _loss(report, operations, inside)
    if not isinstance(value, Tensor) or value.size != 1 or not value.requires_grad:
        got = describe(value) if not isinstance(value, Tensor) or value.size != 1 else "a tensor without a graph"
        harm = "backward has nowhere to start from."
        fix = "Return a tensor of one element that was computed from the model's output, without .item(), .numpy() or no_grad."
        report.add("loss_fails", f"The loss is {got}.", harm, fix)
        return False
    value.backward()
    _gradients(report, model)
    return True


def _failed_loss(report: Diagnosis, output: Any, y: Tensor, error: Exception) -> None:
    if y.ndim == 2 and y.shape == getattr(output, "shape", None) and y.dtype.kind in "iu" and _one_hot(y):
        report.add(
            "one_hot_labels",
            f"The targets are one-hot rows of integers, {y.shape}.",
            "The loss expects class numbers (N,), or probabilities as floats.",
            "y.argmax(1), or y.astype('float32').",
        )
    elif isinstance(output, Tensor) and output.size == y.size and output.shape != y.shape:
        _broadcast(report, output.shape, y.shape)
    else:
        report.add("loss_fails", f"{type(error).__name__}: {error}", "Nothing can be learnt.", "See the message.")


def _one_hot(y: Tensor) -> bool:
    return bool(((y._array == 0) | (y._array == 1)).all() and (y._array.sum(1) == 1).all())


def _broadcast(report: Diagnosis, a: tuple, b: tuple) -> None:
    report.add(
        "broadcast_in_loss",
        f"In the loss, shapes {a} and {b} meet.",
        "Every prediction is compared with the target of every example, and the model learns their mean.",
        f"Bring them to one shape: target.reshape{a if len(a) > len(b) else b}, or output.reshape(-1).",
    )


def _loss(report: Diagnosis, operations: _Operations, inside: int) -> None:
    """What the loss's operations are given."""
    for name, _, inputs, _ in operations.all[inside:]:
        shapes = [array.shape for array in inputs[:2] if getattr(array, "ndim", 0) > 0]
        if len(shapes) == 2 and sorted(map(len, shapes)) == [1, 2]:
            row, column = sorted(shapes, key=len)
            if row[0] > 1 and column == (row[0], 1):
                _broadcast(report, *shapes)
        maker = operations.maker(inputs[0]) if inputs else ""
        if name in ("cross_entropy", "cross_entropy_probabilities") and maker in ("softmax", "log_softmax"):
            report.add(
                "softmax_before_loss",
                f"{name} is given the result of {maker}.",
                "It applies softmax itself: scores between 0 and 1 can never be sure, gradients are small, learning stalls.",
                "Return the scores themselves from the model; for probabilities apply softmax to its predictions.",
            )
        elif name in ("binary_cross_entropy_with_logits", "focal_loss") and maker in ("sigmoid", "softmax"):
            report.add(
                "sigmoid_twice",
                f"{name} is given the result of {maker}.",
                "It applies sigmoid itself: probabilities stay between 0.5 and 0.73, and the loss cannot fall.",
                "Return the scores themselves from the model, or use binary_cross_entropy.",
            )
        elif name == "nll_loss" and maker != "log_softmax" and bool((inputs[0] > 0).any()):
            report.add(
                "nll_without_log",
                f"nll_loss is given numbers up to {float(inputs[0].max()):.3g}{f', made by {maker}' if maker else ''}.",
                "It expects logarithms of probabilities, which are at most 0; the loss falls without limit.",
                "Use cross_entropy on the scores, or log_softmax before it.",
            )
        elif name in _ON_SCORES and maker in ("relu", "relu6", "sigmoid", "tanh"):
            report.add(
                "activation_on_logits",
                f"{name} is given the result of {maker}.",
                "Scores must be free to be negative and large; where ReLU gives 0 no gradient passes.",
                f"Leave out the {maker} after the last layer.",
            )


_ON_SCORES = ("cross_entropy", "cross_entropy_probabilities", "focal_loss", "binary_cross_entropy_with_logits")


def _bias_before_norm(report: Diagnosis, operations: _Operations) -> None:
    found = []
    for name, _, inputs, _ in operations.all:
        made = operations.makers.get(id(inputs[0])) if name == "batch_norm" else None
        if made and made[0] in ("conv2d", "linear") and len(made[2]) > 2 and made[2][2] is not None:
            found.append(made[1])
    if found:
        report.add(
            "bias_before_norm",
            f"{', '.join(map(repr, found[:5]))} has a bias right before batch normalisation.",
            "A hint: the normalisation subtracts it again; it costs memory and time, and learns nothing.",
            "bias=False in these layers.",
        )


def _dead(report: Diagnosis, operations: _Operations, examples: int) -> None:
    for name, path, _, output in operations.all:
        if name != "relu" or output.ndim < 2 or examples < ALIKE:
            continue
        axes = tuple(axis for axis in range(output.ndim) if axis != 1)  # features or channels
        dead = float((output == 0).all(axes).mean())
        if dead > DEAD:
            report.add(
                "dead_relu",
                f"{dead:.0%} of the {output.shape[1]} units of the ReLU in {path!r} are 0 for all {examples} examples.",
                "No gradient passes through them, so that they stay dead.",
                "A smaller learning rate, nn.LeakyReLU, biases that start at 0, inputs around 0.",
            )


def _norm(array: Any) -> float:
    return float(xp_of(array).sqrt((array.astype(np.float64) ** 2).sum()))


def _gradients(report: Diagnosis, model: Module) -> None:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, p in named if p._grad is None]
    if without:
        report.add(
            "no_gradient",
            f"{len(without)} of {len(named)} parameters get no gradient: {', '.join(map(repr, without[:5]))}.",
            "They stay as they were drawn.",
            "Use these layers in forward, without detach, .numpy() or no_grad; or freeze them with requires_grad=False.",
        )
    weights = [(name, p, _norm(p._grad._array)) for name, p in named if p._grad is not None and p.ndim > 1]
    for name, p, size in weights:
        if not math.isfinite(size) or size > EXPLODING * max(_norm(p._array), 1.0):
            report.add(
                "exploding_gradients",
                f"The gradient of {name!r} has norm {size:.3g}, the weight {_norm(p._array):.3g}.",
                "A step throws the weights far away; the loss becomes NaN.",
                "Inputs around 1, batch normalisation, a smaller first spread of weights, clip_grad_norm=1.0 in fit.",
            )
    if len(weights) > 1 and "exploding_gradients" not in report.codes:
        rms = [size / math.sqrt(p.size) for _, p, size in weights]
        if rms[0] < VANISHING * max(rms):
            report.add(
                "vanishing_gradients",
                f"The gradient of {weights[0][0]!r} is {rms[0]:.2g} per weight, the largest of a layer {max(rms):.2g}.",
                "The first layers do not learn.",
                "ReLU instead of sigmoid and tanh, batch normalisation, nn.Residual.",
            )


# ---------------------------------------------------------------- optimizer


def _membership(report: Diagnosis, model: Module, optimizer: Any) -> None:
    steered = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    missing = [name for name, p in named if id(p) not in steered]
    foreign = len(steered - {id(p) for p in model.parameters()})
    if named and len(missing) == len(named):
        report.add(
            "other_model",
            f"None of the model's {len(named)} parameters is in the optimizer, which has {len(steered)} others.",
            "Training changes another model, or one from before.",
            "Make the optimizer after the model, from model.parameters().",
        )
    elif missing:
        report.add(
            "not_in_optimizer",
            f"{len(missing)} of {len(named)} parameters are not in the optimizer: {', '.join(map(repr, missing[:5]))}.",
            "They stay as they were drawn.",
            "Make the optimizer after all layers are there; freeze with requires_grad=False what shall not learn.",
        )
    if foreign and "other_model" not in report.codes:
        report.add(
            "foreign_parameters",
            f"{foreign} of the optimizer's parameters are not the model's.",
            "They get no gradient from this loss.",
            "Pass model.parameters() of the model that is called.",
        )


def _few_steps(report: Diagnosis, model: Module, x: Tensor, y: Tensor, loss: Loss, optimizer: Any) -> None:
    """Steps on the same batch, each with the same random numbers: does the loss fall, and how far do weights move?"""
    rates = ", ".join(dict.fromkeys(f"{group['lr']:g}" for group in optimizer.param_groups if "lr" in group))
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    start = [p._array for p in weights]
    losses, moved = [], 0.0
    for number in range(STEPS + 1):
        with as_before(model):
            value = loss(model(x), y)
        losses.append(value.item())
        if number == STEPS or not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if number == 0:
            shares = [_norm(p._array - old) / _norm(old) for p, old in zip(weights, start) if _norm(old) > 0]
            moved = max(shares, default=math.nan)
    grown = not math.isfinite(losses[-1]) or losses[-1] > GROWN * losses[0] + 0.1
    if grown or moved > FAST:
        report.add(
            "learning_rate_large",
            f"With lr={rates} the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses) - 1} steps; "
            f"the first changes a weight by {moved:.2g} of its size.",
            "Steps overshoot; the loss grows or becomes NaN.",
            "Divide lr by 10, or let md.find_lr suggest one.",
        )
    elif moved < SLOW and "no_gradient" not in report.codes:
        report.add(
            "learning_rate_small",
            f"With lr={rates} a step changes no weight by more than {moved:.2g} of its size.",
            f"It takes {1 / max(moved, 1e-300):.0e} steps to change a weight by as much as it holds.",
            "Multiply lr by 10 or 100, or let md.find_lr suggest one.",
        )


def _own_step(report: Diagnosis, model: Module, x: Tensor, y: Tensor, step: Callable) -> None:
    """A step of the user's: are gradients forgotten between two, and does it change anything?"""
    parameters: list[Parameter] = [p for p in model.parameters() if p.requires_grad]
    before = [p._array.copy() for p in parameters]
    step(x, y)
    if all(bool((p._array == old).all()) for p, old in zip(parameters, before)):
        report.add(
            "step_forgotten",
            f"step(x, y) leaves all {len(parameters)} parameters as they were.",
            "Nothing is learnt.",
            "loss.backward(), then optimizer.step().",
        )
    marked = [p for p in parameters if p._grad is not None]
    if not marked:
        return  # forgotten at the end of the step
    size = 1e6 * max(1.0, *(float(abs(p._grad._array).max()) for p in marked))  # type: ignore[union-attr]
    for p in marked:
        p._grad = Tensor.wrap(xp_of(p._array).full_like(p._array, size))
    step(x, y)
    kept = sum(p._grad is not None and float(p._grad._array.mean()) > size / 2 for p in marked)
    if kept:
        report.add(
            "zero_grad_forgotten",
            f"{kept} of {len(marked)} gradients still hold those of the step before.",
            "Every step adds its gradients to all that came before it, and goes in the direction of their sum.",
            "optimizer.zero_grad() before loss.backward().",
        )


class Doctor(Callback):
    """Diagnoses before training and listens while it runs; for ``fit(callbacks=[Doctor()])``.

    Args:
        loss: the loss that ``fit`` is given.
        verbose: whether to print what is found, at once.

    Attributes:
        report: the findings so far.

    Notes:
        Beside what ``diagnose`` finds: a loss that grows over the epochs, and one that does not move.
        Batches from an iterator cannot be looked at ahead; there only the epochs are watched.

    >>> import numpy as np
    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train.doctor import Doctor
    >>> batches = [(np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32), np.arange(16) % 3)]
    >>> model, doctor = nn.Linear(4, 3, rng=0), Doctor(verbose=False)
    >>> _ = md.fit(model, batches, md.optim.SGD(model.parameters(), lr=1e6), callbacks=[doctor])
    >>> doctor.report.codes
    ['learning_rate_large']
    """

    def __init__(self, loss: Loss = cross_entropy, verbose: bool = True) -> None:
        self.loss = loss
        self.verbose = verbose
        self.report = Diagnosis()
        self._losses: list[float] = []

    def on_train_begin(self, state: State) -> None:
        """Diagnose."""
        self.report, self._losses = Diagnosis(), []
        batches = state.loaders["batches"]
        if not isinstance(batches, Iterator):
            self.report = diagnose(state.model, batches, self.loss, state.optimizer, state.loaders.get("validation"))
        if self.verbose and self.report.findings:
            print(self.report)

    def on_epoch_end(self, state: State) -> None:
        """Compare the loss with that of the epochs before."""
        losses = self._losses
        losses.append(state.logs["loss"])
        known = len(self.report)
        if losses[-1] > GROWN * min(losses) + 0.1:
            self.report.add(
                "loss_grows",
                f"The loss of epoch {state.epoch} is {losses[-1]:.4g}, that of the best one {min(losses):.4g}.",
                "Steps overshoot.",
                "A smaller learning rate, a schedule that lowers it, clip_grad_norm=1.0.",
            )
        if len(losses) == 3 and losses[0] > 0 and max(losses) - min(losses) < STUCK * losses[0]:
            self.report.add(
                "loss_stuck",
                f"The loss was {', '.join(f'{loss:.5g}' for loss in losses)} in the first three epochs.",
                "Nothing is learnt.",
                "Another learning rate (md.find_lr), inputs around 1, labels that belong to their examples.",
            )
        for finding in self.report.findings[known:] if self.verbose else ():
            print(finding)
