"""Say what a saved model sees in image files: one line each with the class and its probability."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from minidl.backend import parse_device
from minidl.cli import _run
from minidl.errors import ArgumentError
from minidl.ops import softmax
from minidl.train import predict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, model, how the pictures are drawn."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files of any size; they are resized and cut to the model's input"
    )
    parser.add_argument(
        "--model", metavar="FILE", help="a model.safetensors that train wrote (default: the newest below runs/)"
    )
    parser.add_argument(
        "--invert", choices=("auto", "yes", "no"), default="auto", help="dark on light to light on dark, as MNIST is drawn"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes to show")


def run(options: argparse.Namespace) -> int:
    """Print one line per image."""
    if options.top < 1:
        raise ArgumentError(f"--top: expected at least 1, got {options.top}.")
    missing = [name for name in options.images if not Path(name).is_file()]
    if missing:
        raise FileNotFoundError(f"no such image file: {', '.join(missing)}")
    parse_device(options.device)
    path = Path(options.model) if options.model else _run.newest_model()
    model, description = _run.saved_model(path, options.device)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (description.mean, description.std))
    x = np.stack([(_read(name, description.input_shape, options.invert) - mean) / std for name in options.images])
    probabilities = softmax(predict(model, x), axis=1).numpy()
    width = max(map(len, options.images))
    for name, p in zip(options.images, probabilities):
        best = np.argsort(-p)[: options.top]
        print(f"{name:<{width}}  " + "   ".join(f"{description.classes[k]} {p[k]:6.1%}" for k in best))
    return 0


def _read(name: str, shape: tuple[int, int, int], invert: str) -> np.ndarray:
    """One image as float32 (C, H, W) in [0, 1], light strokes on a dark ground."""
    from PIL import Image, UnidentifiedImageError

    channels, height, width = shape
    try:
        with Image.open(name) as file:
            picture = _opaque(file).convert("L" if channels == 1 else "RGB")
            picture = _run.fitting(shape)(picture)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ArgumentError(f"{name}: expected an image, got a file that Pillow cannot read ({error}).") from error
    x = np.asarray(picture, np.float32) / 255
    if invert == "yes" or (invert == "auto" and channels == 1 and x.mean() > 0.5):
        x = 1 - x
    return x.reshape(height, width, channels).transpose(2, 0, 1)


def _opaque(picture: Any) -> Any:
    """A picture of 8 bits without transparency: drawn on white paper, or its own brightest value turned white."""
    from PIL import Image

    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture.convert("RGBA"))
    if picture.mode[0] in "IF":  # 16 or 32 bits, or floats, which convert() would cut off at 255
        values = np.asarray(picture, np.float32)
        return Image.fromarray(np.uint8(255 * np.clip(values, 0, None) / max(float(values.max()), 1e-30)))
    return picture
