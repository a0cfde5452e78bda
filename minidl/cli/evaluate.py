"""Test a saved model: loss, accuracy, and precision, recall and F1 of every class."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from minidl.backend import parse_device
from minidl.cli import _run
from minidl.train import TopK, classification_report, evaluate, recall

TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, on what."""
    parser.add_argument(
        "--model", metavar="FILE", help="a model.safetensors that train wrote (default: the newest below runs/)"
    )
    parser.add_argument("--data", help="as for train (default: what the model was trained on); its test images are used")
    parser.add_argument("--test-data", metavar="PATH", help="a folder or zip archive of images to test with")
    parser.add_argument("--batch-size", type=int, default=250, help="images at a time")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")


def run(options: argparse.Namespace) -> int:
    """Print the figures."""
    _run.check_at_least(options, batch_size=1)
    parse_device(options.device)
    path = Path(options.model) if options.model else _run.newest_model()
    model, description = _run.saved_model(path, options.device)
    if options.test_data is not None:
        sets = {"test": _run.load_sets(options.test_data, None, description.input_shape)["train"]}
    else:
        sets = _run.load_sets(options.data or description.data, None, description.input_shape)
    test = sets.get("test") or sets["train"]
    _run.same_classes(test, description.classes)
    matrices: list[np.ndarray] = []

    def balanced(matrix: np.ndarray) -> float:
        """The mean of all classes' recall; and keep the matrix for the report."""
        matrices.append(matrix)
        return recall(matrix)

    metrics = {"balanced": balanced} | ({"top": TopK(TOP)} if len(description.classes) > TOP else {})
    result = evaluate(model, _run.loader(test, description, options.batch_size, device=options.device), metrics=metrics)
    print(f"{path}: {description.model} on {len(test):,} images")
    if "test" not in sets and (options.data or description.data) == description.data:
        print("it was trained on most of them: pass others with --test-data to know how well it does on new images")
    print(f"loss {result['loss']:.4f}, accuracy {result['accuracy']:.2%}, balanced {result['balanced']:.2%}", end="")
    print(f", top-{TOP} accuracy {result['top']:.2%}\n" if "top" in result else "\n")
    print(classification_report(matrices[-1], description.classes))
    return 0
