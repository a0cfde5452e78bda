"""What the commands share: pictures by name or from a folder, models by name or from a file, and what a saved model is for."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl import data, io, models
from minidl.data import transforms
from minidl.errors import ArgumentError
from minidl.nn import Module

SETS = {
    "mnist-mini": (1, 28, 28),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}
SPLITS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test",)}
IN_MEMORY = 1 << 31  # bytes of decoded pictures up to which a set is read once and kept
ANY_SIZE = ("resnet",)  # beginnings of the names of models that take images of every size


@dataclass(frozen=True)
class Description:
    """What a saved model is, and how images become its inputs; goes into the metadata of the weights.

    Attributes:
        model: a name in ``models.MODELS``, or ``FILE.py:Class``.
        classes: the names of the classes.
        input_shape: (C, H, W) of the images.
        mean, std: what is subtracted from the images in [0, 1] and what they are divided by, one number per channel.
        data: what it was trained on.
    """

    model: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str

    def metadata(self) -> dict[str, str]:
        """As text, for ``io.save``."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(self).items()}

    @staticmethod
    def of(path: Path) -> Description:
        """From the metadata of a file that ``minidl train`` wrote."""
        saved = io.load_metadata(path)
        try:
            lists = {name: tuple(json.loads(saved[name])) for name in ("classes", "input_shape", "mean", "std")}
            return Description(model=saved["model"], data=saved["data"], **lists)
        except (KeyError, ValueError, TypeError) as error:
            raise ArgumentError(
                f"{path}: expected a model that minidl train wrote, got weights without its description."
            ) from error


# ---------------------------------------------------------------- data


def load_sets(name: str, test: str | None, image: tuple[int, int, int] | None) -> dict[str, Any]:
    """The datasets "train", and where there are any "validation" and "test", of a name, a folder or a zip archive.

    Args:
        name: of a data set, or the path of images with one folder per class, or of folders ``train``, ``val``, ``test``.
        test: a second path, of images to test with.
        image: (C, H, W) that pictures from files are brought to; None leaves their size as it is, in colour.
    """
    if name in SETS:
        if test is not None:
            raise ArgumentError(f"--test-data: expected no path with --data {name}, which has test images, got {test!r}.")
        if name == "mnist-mini":
            train, held_out = data.mnist_mini()
            return {"train": train, "test": held_out}
        load = getattr(data, name.replace("-", "_"))
        return {"train": load("train"), "test": load("test")}
    path = Path(name)
    if not path.exists():
        raise ArgumentError(f"--data: expected {', '.join(SETS)} or a folder or zip archive of images, got {name!r}.")
    whole = _folder(path, image)
    known = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    if all(name.lower() in known for name in whole.classes):
        sets = {known[name.lower()]: _folder(path / name, image) for name in whole.classes}
        if "train" not in sets:
            raise ArgumentError(f"--data: expected a folder train in {name!r}, got {', '.join(whole.classes)}.")
    else:
        sets = {"train": whole}
    if test is not None:
        sets["test"] = _folder(Path(test), image)
    for split, one in sets.items():
        if one.classes != sets["train"].classes:
            expected = f"the classes of the training set, {', '.join(sets['train'].classes)}"
            raise ArgumentError(f"--data: expected {expected}, in the {split} set, got {', '.join(one.classes)}.")
    return {split: kept(one, image) for split, one in sets.items()}


def _folder(path: Path, image: tuple[int, int, int] | None) -> data.ImageFolder:
    if image is None:
        return data.ImageFolder(path)
    return data.ImageFolder(path, fitting(image), mode="gray" if image[0] == 1 else "rgb")


def fitting(image: tuple[int, int, int]) -> transforms.Transform:
    """A picture of any size to (H, W): the shorter side first, then the middle of the longer one."""
    _, H, W = image
    if H != W:
        return transforms.Resize((H, W))
    return transforms.Compose([transforms.Resize(H), transforms.CenterCrop(H)])


def kept(dataset: Any, image: tuple[int, int, int] | None) -> Any:
    """A dataset in memory if it fits; otherwise as it is, and decoded in every epoch."""
    shape = image or np.asarray(dataset[0][0]).shape
    return data.in_memory(dataset) if len(dataset) * math.prod(shape) <= IN_MEMORY else dataset


def statistics(dataset: Any, most: int = 2000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over images in [0, 1]: of at most so many, evenly spread."""
    chosen = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int)
    if isinstance(dataset, data.ArrayDataset):
        images = dataset.images[chosen]
    else:
        images = np.stack([np.asarray(dataset[int(i)][0]) for i in chosen])
    values = images.astype(np.float64) / (255 if images.dtype == np.uint8 else 1)
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    return tuple(map(float, mean)), tuple(float(s) if s > 0 else 1.0 for s in std)


# ---------------------------------------------------------------- models


def image_size(model: str, channels: int | None, size: int | None) -> tuple[int, int, int] | None:
    """(C, H, W) that a model wants; None where it takes any."""
    entry = models.MODELS.get(model)
    if entry is None or model.startswith(ANY_SIZE):
        return None if size is None else (channels or 3, size, size)
    C, H, W = entry.input_shape
    if size is not None and (size, size) != (H, W):
        raise ArgumentError(f"--image-size: expected {H}, which {model} is made for, got {size}.")
    return channels or C, H, W


def build(model: str, num_classes: int, channels: int) -> Module:
    """A model by its name, or the class of a Python file, which may take num_classes and in_channels."""
    options = {"num_classes": num_classes, "in_channels": channels}
    if model in models.MODELS:
        return models.create(model, **options)
    path, separator, name = model.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise ArgumentError(f"--model: expected {', '.join(models.MODELS)} or FILE.py:Class, got {model!r}.")
    if not Path(path).is_file():
        raise ArgumentError(f"--model: expected a Python file, got {path!r}, which does not exist.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, name, None)
    if make is None:
        raise ArgumentError(f"--model: expected a class or function in {path}, got {name!r}, which it does not have.")
    known = inspect.signature(make).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        options = {option: value for option, value in options.items() if option in known}
    built = make(**options)
    if not isinstance(built, Module):
        raise ArgumentError(f"--model: expected {model} to make a minidl Module, got {type(built).__name__}.")
    return built


def saved_model(path: Path, device: str = "cpu") -> tuple[Module, Description]:
    """A trained model and its description."""
    description = Description.of(path)
    model = build(description.model, len(description.classes), description.input_shape[0])
    io.load_weights(model, path)
    return model.to(device), description


def newest_model() -> Path:
    """The model that was trained last below runs/."""
    found = sorted(Path("runs").glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError("no model below runs/: train one with minidl train, or pass --model FILE")
    return found[-1]


def loader(dataset: Any, description: Description, batch_size: int, **options: Any) -> data.DataLoader:
    """Batches of a dataset as the model wants them: normalised, and resized where arrays are of another size."""
    C, H, W = description.input_shape
    shape = np.asarray(dataset[0][0]).shape
    if shape[0] != C:
        raise ArgumentError(f"--data: expected images of {C} channel(s), as the model takes, got {shape[0]}.")
    steps = [] if shape[1:] == (H, W) else [transforms.Resize((H, W))]
    extra = options.pop("transform", None)
    steps += [] if extra is None else [extra]
    transform = transforms.Compose(steps) if steps else None
    return data.DataLoader(dataset, batch_size, mean=description.mean, std=description.std, transform=transform, **options)


def check_at_least(options: Any, **limits: int) -> None:
    """Refuse numbers below their limits, by the names of their options."""
    for name, limit in limits.items():
        value = getattr(options, name)
        if value is not None and value < limit:
            raise ArgumentError(f"--{name.replace('_', '-')}: expected at least {limit}, got {value}.")


def same_classes(dataset: Any, classes: tuple[str, ...]) -> None:
    """Refuse images of other classes than a model's."""
    found = getattr(dataset, "classes", None)
    if found is not None and tuple(found) != classes:
        raise ArgumentError(f"--data: expected the classes of the model, {', '.join(classes)}, got {', '.join(found)}.")


def as_json(value: Mapping[str, Any]) -> str:
    """Readable JSON, ending with a newline."""
    return json.dumps(value, indent=1, default=str) + "\n"
