"""What the training doctor looks at: numbers of a batch, operations of a loss, gradients of a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import FLOATS, xp_of
from minidl.nn.dropout import Dropout
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm1d, BatchNorm2d
from minidl.tensor import Tensor
from minidl.train.findings import Diagnosis

LARGE = 10.0  # standardised data has a spread of 1, images in [0, 1] of 0.3, raw pixels of 60 to 80
SMALL = 5e-3  # images that were divided by 255 twice have a spread of 0.001
DEAD = 0.9  # at the start ReLU silences about half of the values, but hardly a unit for every example of a batch
EXPLODING = 1e3  # gradient over weight, in norms; around 1 or below at the start of a training that works
VANISHING = 1e-6  # first layer's gradient over the largest one; within 1e-3 to 1 in a training that works
SORTED = 16  # labels in order, of at least so many, do not come about by shuffling
ALIKE = 8  # the same label so many times in a row of random draws has a chance of 1 in 128 for two classes


# ---------------------------------------------------------------- data


def labels_in_order(report: Diagnosis, labels: np.ndarray) -> None:
    """Class numbers that are all the same, or sorted."""
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


def usable(report: Diagnosis, model: Module, x: Tensor, y: Tensor, training: bool) -> Tensor:
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
            "First weights are made for inputs around 1: scores and gradients are huge, and steps overshoot.",
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


def modes(report: Diagnosis, model: Module, training: bool) -> None:
    """Training where the model shall predict, or the other way round; only where some layer makes a difference."""
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


class Operations:
    """What ran, in order; the arrays stay alive, so that each is told from all others."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, tuple, Any]] = []  # name, module path, input arrays, output array
        self.makers: dict[int, tuple[str, str, tuple, Any]] = {}

    def __call__(self, node: Any, inputs: tuple, params: dict, output: Any) -> None:
        """Watcher: one more."""
        self.all.append((node.name, node.path, inputs, output))
        self.makers[id(output)] = self.all[-1]

    def maker(self, array: Any) -> str:
        """The operation that made an array; changes of shape do not count."""
        while (made := self.makers.get(id(array))) and made[0] in ("reshape", "flatten", "squeeze", "expand_dims"):
            array = made[2][0]
        return made[0] if made else ""


def failed_loss(report: Diagnosis, output: Any, y: Tensor, error: Exception) -> None:
    """Why a loss that raised an error may have done so."""
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


def loss_inputs(report: Diagnosis, operations: Operations, inside: int) -> None:
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


def bias_before_norm(report: Diagnosis, operations: Operations) -> None:
    """Layers with a bias whose result a batch normalisation takes."""
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


def dead_units(report: Diagnosis, operations: Operations, examples: int) -> None:
    """ReLUs of which most units give nothing."""
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


def norm(array: Any) -> float:
    """The Euclidean norm of an array, summed in float64."""
    return float(xp_of(array).sqrt((array.astype(np.float64) ** 2).sum()))


def gradients(report: Diagnosis, model: Module) -> None:
    """Gradients that are not there, huge, or lost on their way to the first layers."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    without = [name for name, p in named if p._grad is None]
    if without:
        report.add(
            "no_gradient",
            f"{len(without)} of {len(named)} parameters get no gradient: {', '.join(map(repr, without[:5]))}.",
            "They stay as they were drawn.",
            "Use these layers in forward, without detach, .numpy() or no_grad; or freeze them with requires_grad=False.",
        )
    weights = [(name, p, norm(p._grad._array)) for name, p in named if p._grad is not None and p.ndim > 1]
    for name, p, size in weights:
        if not math.isfinite(size) or size > EXPLODING * max(norm(p._array), 1.0):
            report.add(
                "exploding_gradients",
                f"The gradient of {name!r} has norm {size:.3g}, the weight {norm(p._array):.3g}.",
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
