"""Transforms of images and batches, named and behaving as in torchvision: ``transform(x, rng)``.

They take Pillow images and arrays (C, H, W) of uint8 or floats, and draw from the generator they are handed; see
``Transform`` for the one rule. MixUp and CutMix take batches.
"""

from minidl.data.transforms.base import Compose, Lambda, RandomApply, RandomChoice, Transform
from minidl.data.transforms.color import ColorJitter, Grayscale, RandomGrayscale
from minidl.data.transforms.convert import Normalize, ToTensor
from minidl.data.transforms.geometry import (
    CenterCrop,
    Pad,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from minidl.data.transforms.mix import CutMix, MixUp
from minidl.data.transforms.noise import Cutout, GaussianNoise, RandomErasing, SaltAndPepper

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "GaussianNoise",
    "Grayscale",
    "Lambda",
    "MixUp",
    "Normalize",
    "Pad",
    "RandomAffine",
    "RandomApply",
    "RandomChoice",
    "RandomCrop",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "SaltAndPepper",
    "ToTensor",
    "Transform",
]
