"""``python -m benchmarks.accuracy RECIPE --data FOLDER [--framework torch]`` trains, tests, and adds to the log.

Both frameworks get the same first weights and the same batches, which minidl's loader makes; optimizer, learning rates
and loss are the same formulas. So what differs in the end is rounding, and what the rounding grew into.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minidl as md
from benchmarks import cases, machine
from benchmarks.accuracy.report import LOG, write
from minidl import data, nn, optim, train
from minidl.data import transforms

BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how.

    Attributes:
        title: for the table.
        load: (training set, test set) from a folder.
        build: the model from an ``nn`` namespace.
        epochs: passes through the training set.
        optimizer: "adam", or "sgd" with Nesterov's momentum of 0.9 and a weight decay of 5e-4.
        lr: the highest learning rate of the one-cycle schedule; momentum stays as it is.
        augment: crops of the padded image, and mirror images.
        target: test accuracy in percent, None where PyTorch's is the measure.
    """

    title: str
    load: Callable[[Path], tuple[Any, Any]]
    build: Callable[[Any], Any]
    epochs: int
    optimizer: str
    lr: float
    augment: bool
    target: float | None


def _mnist(folder: Path) -> tuple[Any, Any]:
    return data.mnist("train", folder), data.mnist("test", folder)


def _cifar10(folder: Path) -> tuple[Any, Any]:
    """From one JPEG file per image, in train.zip and test.zip."""
    return tuple(data.in_memory(data.ImageFolder(folder / f"{split}.zip")) for split in ("train", "test"))


RECIPES = {
    "mnist": Recipe("MNIST, MNIST CNN", _mnist, cases.mnist_cnn, 5, "adam", 2e-3, False, 99.0),
    "cifar10": Recipe("CIFAR-10 (JPEG), CIFAR CNN", _cifar10, cases.cifar_cnn, 10, "adam", 2e-3, False, 70.0),
    "resnet20": Recipe("CIFAR-10 (JPEG), ResNet-20", _cifar10, cases.resnet20, 20, "sgd", 0.2, True, None),
}


def first_weights(recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
    """The weights that training starts from, in both frameworks: minidl's own initialisation with a seed."""
    md.manual_seed(seed)
    return recipe.build(nn).state_dict()


def loaders(recipe: Recipe, folder: Path, seed: int) -> tuple[data.DataLoader, data.DataLoader, dict[str, str]]:
    """Training batches, test batches, and the hashes of both sets."""
    sets = recipe.load(folder)
    crop = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    axes = (0, 2, 3)
    mean, std = sets[0].images.mean(axes) / 255, sets[0].images.std(axes) / 255
    options = {"mean": mean, "std": std}
    transform = crop if recipe.augment else None
    batches = data.DataLoader(sets[0], BATCH, shuffle=True, drop_last=True, rng=seed, transform=transform, **options)
    hashes = {name: data.data_hash(one) for name, one in zip(("train", "test"), sets)}
    return batches, data.DataLoader(sets[1], 500, **options), hashes


def _minidl(recipe: Recipe, batches: Any, test: Any, epochs: int, seed: int) -> Iterator[dict[str, float]]:
    model = recipe.build(nn)
    model.load_state_dict(first_weights(recipe, seed))
    if recipe.optimizer == "adam":
        optimizer: Any = optim.Adam(model.parameters(), lr=recipe.lr)
    else:
        optimizer = optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = optim.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=epochs * len(batches), cycle_momentum=False)
    rows: list[dict[str, float]] = []

    class Rows(train.Callback):
        def on_epoch_end(self, state: Any) -> None:
            rows.append(_row(state.epoch, state.logs["loss"], state.logs["val_accuracy"], state.logs["seconds"]))
            print(rows[-1], flush=True)

    train.fit(model, batches, optimizer, epochs=epochs, validation=test, callbacks=[train.Schedule(schedule, "batch"), Rows()])
    yield from rows


def _torch(recipe: Recipe, batches: Any, test: Any, epochs: int, seed: int) -> Iterator[dict[str, float]]:
    import torch

    torch.set_num_threads(machine.usable_cores())
    model = recipe.build(torch.nn)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in first_weights(recipe, seed).items()})
    model.to(memory_format=torch.channels_last)
    if recipe.optimizer == "adam":
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    else:
        options = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, fused=True, **options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, epochs * len(batches), cycle_momentum=False)
    for epoch in range(1, epochs + 1):
        start, total, examples = time.perf_counter(), 0.0, 0
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y))
            loss.backward()
            optimizer.step()
            schedule.step()
            total, examples = total + loss.item() * len(y), examples + len(y)
        model.eval()
        with torch.inference_mode():
            right = sum(int((model(torch.from_numpy(x)).argmax(1).numpy() == y).sum()) for x, y in test)
        row = _row(epoch, total / examples, right / _examples(test), time.perf_counter() - start)
        print(row, flush=True)
        yield row


def _row(epoch: int, loss: float, accuracy: float, seconds: float) -> dict[str, float]:
    return {"epoch": epoch, "loss": round(loss, 5), "test_accuracy": round(100 * accuracy, 2), "seconds": round(seconds, 1)}


def _examples(batches: Any) -> int:
    return sum(len(y) for _, y in batches)


def main() -> int:
    """Train one recipe in one framework and write its log."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("recipe", choices=[*RECIPES, "report"], help="what to train; report only writes the table again")
    parser.add_argument("--data", type=Path, help="folder with the files: mnist/*.gz, or train.zip and test.zip")
    parser.add_argument("--framework", choices=("minidl", "torch"), default="minidl")
    parser.add_argument("--epochs", type=int, help="other than the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.recipe != "report":
        if options.data is None:
            parser.error("--data: expected a folder")
        recipe = RECIPES[options.recipe]
        epochs = options.epochs or recipe.epochs
        batches, test, hashes = loaders(recipe, options.data, options.seed)
        run = {"minidl": _minidl, "torch": _torch}[options.framework]
        start = time.perf_counter()
        rows = list(run(recipe, batches, test, epochs, options.seed))
        version = __import__(options.framework).__version__
        record = {
            "recipe": options.recipe,
            "framework": f"{options.framework} {version}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "seed": options.seed,
            "epochs": epochs,
            "batch_size": BATCH,
            "optimizer": recipe.optimizer,
            "max_lr": recipe.lr,
            "augment": recipe.augment,
            "machine": machine.describe(),
            "data_sha256": hashes,
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "history": rows,
        }
        LOG.mkdir(exist_ok=True)
        path = LOG / f"{options.recipe}-{options.framework}-{epochs}-epochs-seed-{options.seed}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(path)
    print(write({name: (recipe.title, recipe.target) for name, recipe in RECIPES.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
