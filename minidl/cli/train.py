"""Train a CNN on handwritten digits; write the model, its history and pictures of what it learnt."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from minidl import data, io, models, optim, random
from minidl.backend import parse_device
from minidl.errors import ArgumentError
from minidl.nn import summary
from minidl.ops import softmax
from minidl.train import History, Progress, Schedule, confusion_matrix, evaluate, fit, predict

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, how, and where the results go."""
    parser.add_argument(
        "--data", choices=["mnist-mini"], default="mnist-mini", help="5,000 + 1,000 digits that come with minidl"
    )
    parser.add_argument(
        "--model",
        choices=[name for name, entry in models.MODELS.items() if entry.input_shape == (1, 28, 28)],
        default="mnist_cnn",
        help="architecture",
    )
    parser.add_argument("--epochs", type=int, default=12, help="passes through the training set")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of the one-cycle schedule")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="update rule")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of images")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: runs/ and the time)")


def run(options: argparse.Namespace) -> int:
    """Load, train, test, save, draw."""
    for name in ("epochs", "batch_size"):
        if getattr(options, name) < 1:
            raise ArgumentError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}.")
    if options.seed < 0:
        raise ArgumentError(f"--seed: expected at least 0, got {options.seed}.")
    if not 0 < options.lr < math.inf:
        raise ArgumentError(f"--lr: expected a positive number, got {options.lr}.")
    parse_device(options.device)
    random.manual_seed(options.seed)
    digits, test = data.mnist_mini()
    train, validation = data.split(digits, [0.9, 0.1])
    model = models.create(options.model).to(options.device)
    out = Path(options.out or time.strftime("runs/%Y-%m-%d-%H%M%S"))
    _make(out)
    print(summary(model, (1, *models.MODELS[options.model].input_shape)))
    print(f"\n{len(train):,} images to train with, {len(validation):,} to validate with, {len(test):,} to test with")
    print("The first run on a machine compiles the kernels, which takes about half a minute.\n", flush=True)

    batches = data.DataLoader(train, options.batch_size, shuffle=True)
    optimizer = OPTIMIZERS[options.optimizer](model.parameters(), lr=options.lr)
    schedule = optim.OneCycleLR(optimizer, max_lr=options.lr, total_steps=options.epochs * len(batches))
    start = time.perf_counter()
    history = fit(
        model,
        batches,
        optimizer,
        epochs=options.epochs,
        validation=data.DataLoader(validation, 250),
        callbacks=[Schedule(schedule, every="batch"), Progress()],
    )
    print(f"\ntrained for {time.perf_counter() - start:.1f} s" + (" (interrupted)" if history.interrupted else ""))
    result = evaluate(model, data.DataLoader(test, 250))
    print(f"test loss {result['loss']:.4f}, test accuracy {result['accuracy']:.2%}\n")
    for path in _write(out, model, options, history, test):
        print(path)
    return 130 if history.interrupted else 0


def _make(out: Path) -> None:
    """Make the folder and try to write there, so that a wrong one is found before the work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ArgumentError(f"--out: expected a folder to write to, got {str(out)!r}: {error.strerror}.") from error


def _write(out: Path, model: Any, options: argparse.Namespace, history: History, test: data.ArrayDataset) -> list[Path]:
    """The model, the history and five pictures; the paths, in the order they were written."""
    from minidl import viz

    weights, table = out / "model.safetensors", out / "history.csv"
    classes = test.classes or tuple(map(str, range(int(test.labels.max()) + 1)))
    io.save(model, weights, {"model": options.model, "classes": ",".join(classes), "seed": str(options.seed)})
    history.to_csv(table)
    images = next(iter(data.DataLoader(test.images, len(test))))
    probabilities = softmax(predict(model, images), axis=1).numpy()
    first = next(p for p in model.parameters() if p.ndim == 4)
    matrix = confusion_matrix(test.labels, probabilities.argmax(1), len(classes))
    figures = {
        "confusion-matrix": viz.confusion_matrix(matrix, classes),
        "filters": viz.filters(first.numpy()),
        "feature-maps": viz.feature_maps(model, images[0]),
        "worst-mistakes": viz.worst_mistakes(test.images, test.labels, probabilities, classes),
    }
    if len(history):
        figures["learning-curves"] = viz.learning_curves(history)
    paths = [weights, table]
    for name, figure in figures.items():
        paths.append(out / f"{name}.png")
        figure.savefig(paths[-1])
    return paths
