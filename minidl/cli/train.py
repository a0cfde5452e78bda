"""Train a classifier of images; write the model, its history, what is needed to repeat the run, and pictures of what it learnt.

Ctrl-C ends a run with everything saved; --resume DIR goes on with it, from the last checkpoint, as if it had never ended.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from minidl import data, io, models, optim, random
from minidl.backend import parse_device
from minidl.cli import _run
from minidl.data import transforms
from minidl.errors import ArgumentError
from minidl.io.weights import write_file
from minidl.nn import summary
from minidl.ops import softmax
from minidl.train import Checkpoint, CSVLog, History, Progress, Schedule, TensorBoard, confusion_matrix, evaluate, fit, predict

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad}
AUGMENTATIONS = ("none", "crop", "flip", "crop-flip")
BESIDE = ("out", "resume", "device", "run", "command", "traceback", "workers")  # options that do not change the result
TEST_BATCH = 250


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, how, and where the results go."""
    parser.add_argument(
        "--data",
        default="mnist-mini",
        help=f"{', '.join(_run.SETS)} (mnist-mini comes with minidl, the others are downloaded once), or the PATH of a folder "
        "or zip archive of images: a folder per class, or folders train, val and test of such folders",
    )
    parser.add_argument("--test-data", metavar="PATH", help="a folder or zip archive of images to test with")
    parser.add_argument(
        "--model",
        help=f"{', '.join(models.MODELS)}, or FILE.py:Class of your own (default: what suits the images)",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="resize pictures to N x N, where the model takes any size")
    parser.add_argument("--epochs", type=int, default=12, help="passes through the training set")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of the one-cycle schedule")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam", help="update rule")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="of the optimizer")
    parser.add_argument(
        "--augment", choices=AUGMENTATIONS, default="none", help="random crops of the padded image, random mirror images"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights, of the order of images and of augmentation")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard too")
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: runs/ and the time)")
    parser.add_argument("--resume", metavar="DIR", help="go on with the run in this folder; other options are the run's own")


def run(options: argparse.Namespace) -> int:
    """Load, train, test, save, draw."""
    before = _resumed(options) if options.resume else None
    out = Path(options.resume or options.out or time.strftime("runs/%Y-%m-%d-%H%M%S"))
    _check(options)
    random.manual_seed(options.seed)
    name = options.model or _suiting(options.data)
    wanted = _run.image_size(name, _run.SETS.get(options.data, (None,))[0], options.image_size)
    sets = _run.load_sets(options.data, options.test_data, wanted)
    train, validation, test = _parts(sets)
    record = _record(options, {"train": train, "validation": validation, "test": test}, before)
    shape = wanted or np.asarray(train[0][0]).shape
    classes = tuple(train.classes or map(str, range(int(train.labels.max()) + 1)))
    description = _run.Description(name, classes, shape, *_run.statistics(train), data=options.data)
    model = _run.build(name, len(classes), shape[0]).to(options.device)
    _make(out)
    print(summary(model, (1, *shape)))
    print(
        f"\n{len(train):,} images to train with, {len(validation):,} to validate with, {len(test):,} to test with\n", flush=True
    )

    augmented = _augmentation(options.augment, shape)
    loader = partial(_run.loader, description=description, device=options.device)
    batches = loader(train, batch_size=options.batch_size, shuffle=True, transform=augmented, workers=options.workers)
    optimizer = OPTIMIZERS[options.optimizer](model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    schedule = optim.OneCycleLR(optimizer, max_lr=options.lr, total_steps=options.epochs * len(batches))
    _write_record(out, record)
    callbacks = [Schedule(schedule, every="batch"), Progress(), CSVLog(out / "history.csv")]
    callbacks += [TensorBoard(out / "tensorboard")] if options.tensorboard else []
    callbacks.append(Checkpoint(out / "checkpoints", monitor="val_accuracy"))
    start = time.perf_counter()
    with batches:
        history = fit(
            model,
            batches,
            optimizer,
            epochs=options.epochs,
            validation=loader(validation, batch_size=TEST_BATCH),
            callbacks=callbacks,
            resume=out / "checkpoints",
        )
    print(f"\ntrained for {time.perf_counter() - start:.1f} s" + (" (interrupted)" if history.interrupted else ""))
    tests = _run.loader(test, description, TEST_BATCH)
    result = evaluate(model, tests)
    print(f"test loss {result['loss']:.4f}, test accuracy {result['accuracy']:.2%}\n")
    _write_record(out, {**record, "interrupted": history.interrupted, "epochs_done": len(history), "test": result})
    for path in _write(out, model, description, history, test, tests):
        print(path)
    return 130 if history.interrupted else 0


# ---------------------------------------------------------------- before the work


def _check(options: argparse.Namespace) -> None:
    _run.check_at_least(options, epochs=1, batch_size=1, seed=0, workers=0, image_size=1)
    for name in ("lr", "weight_decay"):
        value = getattr(options, name)
        if not (0 < value < math.inf or (value == 0 and name == "weight_decay")):
            raise ArgumentError(f"--{name.replace('_', '-')}: expected a positive number, got {value}.")
    parse_device(options.device)
    if options.model is not None and options.model not in models.MODELS:
        _run.build(options.model, 2, 3)  # a wrong name or file is found before the data are loaded


def _suiting(name: str) -> str:
    """The model for a data set."""
    C, *_ = _run.SETS.get(name, (3,))
    return "mnist_cnn" if C == 1 else "cifar_cnn"


def _parts(sets: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Images to train with, to validate with and to test with; a tenth is set aside for what is missing."""
    train, validation, test = (sets.get(name) for name in ("train", "validation", "test"))
    shares = [0.1 * (part is None) for part in (validation, test)]
    train, *rest = data.split(train, [1 - sum(shares), *(share for share in shares if share)]) if sum(shares) else (train,)
    if validation is None:
        validation = rest.pop(0)
    return train, validation, test if test is not None else rest.pop(0)


def _augmentation(kind: str, shape: tuple[int, ...]) -> transforms.Transform | None:
    """Crops of the image padded by an eighth, and mirror images."""
    steps: list[Any] = []
    if "crop" in kind:
        steps.append(transforms.RandomCrop(shape[1:], padding=max(1, min(shape[1:]) // 8)))
    if "flip" in kind:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose(steps) if steps else None


def _make(out: Path) -> None:
    """Make the folder and try to write there, so that a wrong one is found before the work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ArgumentError(f"--out: expected a folder to write to, got {str(out)!r}: {error.strerror}.") from error


# ---------------------------------------------------------------- what is needed to repeat a run


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in BESIDE}


def _record(options: argparse.Namespace, sets: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments, versions and hashes of the data, which must be those of the run that is gone on with."""
    packages = ("minidl", "numpy", "numba", "pillow")
    record = {
        "command": "minidl " + " ".join(sys.argv[1:]),
        "arguments": _arguments(options),
        "device": options.device,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": platform.platform(),
        "data": {
            name: {"images": len(one), "sha256": data.data_hash(one) if isinstance(one, data.ArrayDataset) else "not read"}
            for name, one in sets.items()
        },
    }
    if before is None:
        return record
    if record["data"] != before["data"]:
        raise ArgumentError(f"--resume: expected the data that {options.resume} was begun with, got other images.")
    return {**before, "resumed": [*before.get("resumed", []), {key: record[key] for key in ("command", "started", "versions")}]}


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_file(out / "run.json", _run.as_json(record).encode())


def _resumed(options: argparse.Namespace) -> dict[str, Any]:
    """The record of a run, whose arguments take the place of those given."""
    path = Path(options.resume, "run.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        arguments = record["arguments"]
    except (OSError, ValueError, KeyError) as error:
        raise ArgumentError(f"--resume: expected the folder of a run, got {options.resume!r} without its run.json.") from error
    for name, value in arguments.items():
        setattr(options, name, value)
    return record


# ---------------------------------------------------------------- after the work


def _write(out: Path, model: Any, description: _run.Description, history: History, test: Any, tests: Any) -> list[Path]:
    """The model and five pictures; the paths, in the order they were written."""
    weights, classes = out / "model.safetensors", description.classes
    io.save(model, weights, description.metadata())
    from minidl import viz  # after the weights are safe

    probabilities = softmax(predict(model, tests), axis=1).numpy()
    first = next(p for p in model.parameters() if p.ndim == 4)
    matrix = confusion_matrix(test.labels, probabilities.argmax(1), len(classes))
    images, _ = next(iter(tests))
    figures = {
        "confusion-matrix": viz.confusion_matrix(matrix, classes),
        "filters": viz.filters(first.to("cpu").numpy()),
        "feature-maps": viz.feature_maps(model, images[0]),
    }
    if isinstance(test, data.ArrayDataset):
        figures["worst-mistakes"] = viz.worst_mistakes(test.images, test.labels, probabilities, classes)
    if len(history):
        figures["learning-curves"] = viz.learning_curves(history)
    paths = [weights, out / "history.csv", out / "run.json"]
    for name, figure in figures.items():
        paths.append(out / f"{name}.png")
        figure.savefig(paths[-1])
    return paths
