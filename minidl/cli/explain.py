"""Write a page that shows every number of a model's run on an image, forward and backward.

The page works offline, in any browser. Click a number to see which numbers it was computed from, and their sum.
"""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

import numpy as np

from minidl import models
from minidl.cli import _run, predict
from minidl.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, image, what is followed back, the file."""
    parser.add_argument(
        "model", metavar="MODEL", help="a model.safetensors that train wrote, or the name of a model, which has learnt nothing"
    )
    parser.add_argument("image", metavar="IMAGE", help="an image file of any size; it is resized to the model's input")
    parser.add_argument("--out", metavar="FILE", help="the page to write (default: the image's name with .html, here)")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--label", metavar="CLASS", help="follow the loss for this class back")
    goal.add_argument("--target", metavar="CLASS", help="follow this class's output back (default: the largest)")
    parser.add_argument(
        "--invert", choices=("auto", "yes", "no"), default="auto", help="dark on light to light on dark, as MNIST is drawn"
    )
    parser.add_argument("--megabytes", type=float, default=9.5, metavar="MB", help="how large the page may get")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def run(options: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from minidl.viz.microscope import explain

    if not Path(options.image).is_file():
        raise FileNotFoundError(f"no such image file: {options.image}")
    out = Path(options.out or f"{Path(options.image).stem}.html")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: no such folder: {out.parent}")
    classes: tuple[str, ...] | None = None
    if options.model in models.MODELS and not Path(options.model).exists():
        name, model = options.model, models.create(options.model, rng=0)
        x = predict._read(options.image, models.MODELS[name].input_shape, options.invert)
    else:
        path = Path(options.model)
        if not path.is_file():
            raise ArgumentError(f"expected a model file or one of {', '.join(models.MODELS)}, got {options.model!r}.")
        model, description = _run.saved_model(path)
        name, classes = description.model, description.classes
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (description.mean, description.std))
        x = (predict._read(options.image, description.input_shape, options.invert) - mean) / std
    page = explain(
        model,
        x,
        out,
        label=_class_number("--label", options.label, classes),
        target=_class_number("--target", options.target, classes),
        classes=classes,
        title=f"{name}: {Path(options.image).name}",
        megabytes=options.megabytes,
    )
    print(f"wrote {out} ({len(page.html) / 1e6:.1f} MB)")
    if options.open:
        webbrowser.open(out.resolve().as_uri())
    return 0


def _class_number(option: str, text: str | None, classes: tuple[str, ...] | None) -> int | None:
    """A class by its name, or by its number."""
    if text is None:
        return None
    if classes and text in classes:
        return classes.index(text)
    if not text.isdecimal():
        expected = f"one of {', '.join(classes)}" if classes else "the number of a class"
        raise ArgumentError(f"{option}: expected {expected}, got {text!r}.")
    return int(text)
