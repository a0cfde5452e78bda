"""Write a recording as one HTML page that holds the numbers and the arithmetic."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.io.weights import write_file
from minidl.nn import Module
from minidl.ops._arguments import number
from minidl.viz.microscope.record import OP, Recording, Step, record

CHUNK = 64 * 1024  # bytes of numbers that the page decodes at a time
SCRIPTS = ("numbers.js", "arithmetic.js", "pictures.js", "lens.js", "page.js")

# Operations whose arithmetic the page knows (the table OPERATIONS in arithmetic.js).
KNOWN = {
    *("conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "batch_norm"),
    *("group_norm", "instance_norm", "layer_norm", "relu", "leaky_relu", "elu", "gelu", "silu", "hardswish", "sigmoid"),
    *("tanh", "softplus", "softmax", "log_softmax", "cross_entropy", "reshape", "add", "subtract", "multiply", "divide"),
}
_EXACT = {"relu", "reshape", "add"}  # what the page computes of these has the same bits
_QUICK = {*_EXACT, "batch_norm", "subtract", "multiply", "leaky_relu"}  # one number from one number: cheap to compute again


@dataclass(frozen=True)
class Page:
    """A page as text. A notebook shows it in place; ``save`` writes it to a file.

    Attributes:
        html: the whole page; it needs no network and no other file.

    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.viz.microscope import explain
    >>> explain(nn.Sequential(nn.Flatten(), nn.Linear(4, 2, rng=0)), md.zeros(1, 2, 2)).html[:15]
    '<!doctype html>'
    """

    html: str

    def save(self, path: str | os.PathLike) -> None:
        """Write the page; a file that exists is replaced, and stays as it was when anything fails."""
        write_file(Path(path), self.html.encode())

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" style="width:100%;height:900px;border:0" title="microscope"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB; .save(path) writes it>"


def explain(
    model: Module,
    x: Any,
    path: str | os.PathLike | None = None,
    *,
    label: int | None = None,
    target: int | None = None,
    classes: Sequence[Any] | None = None,
    title: str | None = None,
    megabytes: float = 9.5,
) -> Page:
    """A model under the microscope: one HTML page with every number of a run, forward and backward.

    The page shows the layers as feature maps. Click any number of a convolution, pooling, fully connected,
    normalisation, activation or softmax layer to see the numbers it was computed from, their products and their
    sum; switch to backward for all contributions to the gradient of a number, a weight or a pixel. It works
    from a file, without network.

    Args:
        model: any module; it runs once in evaluation mode, afterwards modes and gradients are as before.
        x: one image (C, H, W) or (1, C, H, W), or one row of features (features,) or (1, features). uint8 is scaled
            to 0..1; floats go in as they are, so normalise them as in training.
        path: the file to write; None writes none.
        label: follow the cross-entropy of the output (1, classes) with this class back.
        target: follow this number of the output back instead. Without both, the largest one.
        classes: names of the classes.
        title: the page's heading; the model's class otherwise.
        megabytes: how large the page may get. Numbers that the page can compute from others are left out first.

    Returns:
        The page. A notebook shows it.

    Raises:
        DtypeError: a model that is no Module, x that is neither float nor uint8, an output that is no tensor.
        ShapeError: a batch of several images (take ``x[0]``), an input that does not fit the model, as many class names
            as the model does not have.
        ArgumentError: label and target together or out of range, or a run that does not fit into ``megabytes``.

    Notes:
        Numbers are stored as they are in memory (float32 or float64). The page says which it computes itself: ReLU, sums
        and their gradients always, to the same bits; batch normalisations and gradients where room is short.

    >>> import minidl as md, os, tempfile
    >>> from minidl import models
    >>> from minidl.viz.microscope import explain
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = explain(models.LeNet5(rng=0), md.zeros(1, 28, 28), os.path.join(folder, "lenet.html"), label=3)
    ...     os.listdir(folder)
    ['lenet.html']
    """
    megabytes = number(OP, "megabytes", megabytes, low=0)
    if title is not None and not isinstance(title, str):
        raise DtypeError.of(OP, "title as text", type(title).__name__)
    run = record(model, x, label, target)
    page = Page(_html(run, _class_names(run, classes), title or f"{run.model} under the microscope", megabytes))
    if path is not None:
        page.save(path)
    return page


def _class_names(run: Recording, classes: Sequence[Any] | None) -> list[str] | None:
    if classes is None:
        return None
    names, count = [str(name) for name in classes], run.values[run.output].value.size
    if len(names) != count:
        raise ShapeError.of(OP, f"{count} classes, one per number of the output", f"{len(names)} names")
    return names


# ---------------------------------------------------------------- what is stored


@dataclass
class _Array:
    """One array that the page may store: whose it is, and how readily it is left out (None: never)."""

    owner: dict[str, Any]
    slot: str  # "value" or "gradient"
    array: np.ndarray
    order: int | None

    @property
    def size(self) -> int:
        """Characters of base64, and of the elements around them."""
        return math.ceil(self.array.nbytes / 3) * 4 + 80 * (self.array.nbytes // CHUNK + 1)


def _known(run: Recording, step: Step) -> bool:
    """Whether the page knows an operation's arithmetic, in the form in which it ran."""
    if step.op in ("add", "subtract", "multiply", "divide"):
        return None not in step.inputs
    if step.op == "cross_entropy":  # of one image, without weights of classes
        plain = step.inputs[2] is None and step.params["label_smoothing"] == 0
        return plain and step.inputs[0] is not None and run.values[step.output].value.size == 1
    return step.op in KNOWN


def _stored(run: Recording, room: float, megabytes: float) -> tuple[list[dict], list[dict], list[_Array]]:
    """Values and constants as the page's JSON describes them, and the arrays to store, of at most ``room`` characters."""
    makers = {step.output: step for step in run.steps}
    readers: dict[int, list[Any]] = {}
    for step in run.steps:
        for read in step.inputs:
            if read is not None and read[0] == "value":
                readers.setdefault(int(read[1]), []).append(step)
    values = [{"shape": v.value.shape, "value": "computed", "gradient": None} for v in run.values]
    constants = [{"name": c.name, "kind": c.kind, "shape": c.value.shape, "gradient": None} for c in run.constants]
    arrays = []
    for i, (entry, value) in enumerate(zip(values, run.values)):
        op = makers[i].op if i in makers else None
        arrays.append(_Array(entry, "value", value.value, -1 if op in _EXACT else 1 if op == "batch_norm" else None))
        if value.gradient is not None:
            entry["gradient"] = "computed"
            used = [step for step in readers.get(i, []) if run.values[step.output].gradient is not None]
            same_shape = all(run.values[step.output].value.size == value.value.size for step in used)
            order: int | None = 4
            if (run.target is not None and i == run.target["value"]) or not all(_known(run, step) for step in used):
                order = None
            elif all(step.op in _EXACT for step in used) and len(used) <= 2 and same_shape:
                order = -1
            elif all(step.op in _QUICK for step in used):
                order = 2
            arrays.append(_Array(entry, "gradient", value.gradient, order))
    for c, (entry, constant) in enumerate(zip(constants, run.constants)):
        arrays.append(_Array(entry, "value", constant.value, None))
        if constant.gradient is not None:
            entry["gradient"] = "computed"
            known = all(_known(run, step) for step in run.steps if ("constant", c) in step.inputs)
            arrays.append(_Array(entry, "gradient", constant.gradient, 3 if known else None))
    total = sum(a.size for a in arrays)
    left_out = [a for a in arrays if a.order == -1]
    total -= sum(a.size for a in left_out)
    for a in sorted((a for a in arrays if a.order is not None and a.order >= 0), key=lambda a: (a.order, -a.size)):
        if total > room:
            left_out.append(a)
            total -= a.size
    if total > room:
        got = f"{total / 1e6:.1f} MB of numbers that it cannot do without"
        raise ArgumentError.of(OP, f"a run that fits into megabytes={megabytes:g}", got, "Take a smaller image, or allow more.")
    gone = {id(a) for a in left_out}
    return values, constants, [a for a in arrays if id(a) not in gone]


def _chunks(array: np.ndarray) -> tuple[int, list[str]]:
    """How many numbers a chunk holds, and the chunks as base64: whole rows (channels) of at most 64 KB, or one large row."""
    shape = array.shape[1:] if array.ndim > 1 and array.shape[0] == 1 else array.shape
    row = max(1, math.prod(shape[1:]))
    count = row * max(1, CHUNK // (row * array.itemsize))
    flat = array.reshape(-1).astype(array.dtype.newbyteorder("<"), copy=False)
    return count, [base64.b64encode(flat[i : i + count].tobytes()).decode() for i in range(0, flat.size, count)]


# ---------------------------------------------------------------- the page


def _html(run: Recording, classes: list[str] | None, title: str, megabytes: float) -> str:
    folder = files(__package__)
    parts = {name: (folder / name).read_text("utf-8") for name in ("page.html", "page.css", *SCRIPTS)}
    steps = [asdict(step) | {"known": _known(run, step)} for step in run.steps]
    dtype = str(run.values[0].value.dtype)
    about: dict[str, Any] = {"dtype": dtype, "steps": steps, "output": run.output, "target": run.target}
    room = megabytes * 1e6 - sum(map(len, parts.values())) - len(json.dumps(about)) - 400 * len(run.values)
    values, constants, arrays = _stored(run, room, megabytes)
    elements: list[str] = []
    described: dict[str, Any] = {}
    for i, a in enumerate(arrays):
        name = f"a{i}"
        count, chunks = _chunks(a.array)
        described[name] = {"dtype": str(a.array.dtype), "chunk": count}
        a.owner[a.slot] = name
        for k, text in enumerate(chunks):
            elements.append(f'<script type="application/octet-stream" id="{name}-{k}">{text}</script>')
    about |= {"title": title, "model": run.model, "classes": classes, "values": values, "constants": constants}
    about["arrays"] = described
    replacements = {
        "TITLE": html.escape(title),
        "STYLE": parts["page.css"],
        "RECORDING": _script_json(about),
        "ARRAYS": "\n".join(elements),
        "SCRIPT": "\n".join(parts[name] for name in SCRIPTS),
    }
    # One pass, so that nothing in the names of a model is taken for a place to fill in.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: replacements[match[1]], parts["page.html"])


def _script_json(value: Any) -> str:
    """JSON that no text in it can end the script element around it with."""
    return json.dumps(_finite(value), allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they become texts, which Number() in the page reads."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
