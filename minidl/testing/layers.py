"""Every layer with inputs it can be checked on: used by the tests and by ``minidl gradcheck``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl import nn
from minidl.registry import Draw

__all__ = ["LAYERS", "LayerCase"]


class LayerCase(NamedTuple):
    """One layer: what to call it, how to make it, and inputs away from kinks and ties."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[Draw], tuple[Any, ...]]


def _images(n: int = 2, c: int = 4, h: int = 5, w: int = 6) -> Callable[[Draw], tuple[Any, ...]]:
    return lambda draw: (draw.normal(n, c, h, w),)


def _distinct(draw: Draw) -> tuple[Any, ...]:
    return (draw.distinct(2, 3, 6, 5),)


def _rows(draw: Draw) -> tuple[Any, ...]:
    return (draw.normal(5, 4),)


def _bent(*points: float) -> Callable[[Draw], tuple[Any, ...]]:
    """Inputs around the kinks of an activation."""
    return lambda draw: (draw.away(4, 5, points=points, scale=4.0),)


def _scores(draw: Draw) -> tuple[Any, ...]:
    return draw.normal(6, 4), draw.labels(6, classes=4)


def _pairs(*points: float) -> Callable[[Draw], tuple[Any, ...]]:
    """Outputs and targets whose differences keep away from the kinks of a loss."""

    def make(draw: Draw) -> tuple[Any, ...]:
        target = draw.normal(4, 3)
        return target + draw.away(4, 3, points=points, scale=3.0), target

    return make


def _yes_no(draw: Draw) -> tuple[Any, ...]:
    return draw.normal(5, 3), draw.labels(5, 3, classes=2).astype(np.float64)


def _attention(draw: Draw) -> tuple[Any, ...]:
    return draw.normal(2, 3, 6), draw.normal(2, 4, 6), draw.normal(2, 4, 6)


LAYERS: list[LayerCase] = [
    LayerCase("Identity", nn.Identity, _rows),
    LayerCase("Linear", lambda: nn.Linear(4, 3, rng=0), _rows),
    LayerCase("Linear, no bias", lambda: nn.Linear(4, 3, bias=False, rng=0), _rows),
    LayerCase("Conv2d", lambda: nn.Conv2d(4, 3, 3, rng=0), _images()),
    LayerCase("Conv2d, all arguments", lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2, rng=0), _images()),
    LayerCase("Conv2d, same", lambda: nn.Conv2d(4, 2, 4, padding="same", bias=False, rng=0), _images()),
    LayerCase("Conv2d, depthwise", lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, rng=0), _images()),
    LayerCase("ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 3, 2, stride=2, rng=0), _images(h=3, w=2)),
    LayerCase(
        "ConvTranspose2d, all arguments",
        lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, (1, 2), 2, False, (2, 1), rng=0),
        _images(h=3, w=2),
    ),
    LayerCase("Unfold", lambda: nn.Unfold((2, 3), padding=1, stride=2), _images()),
    LayerCase("Fold", lambda: nn.Fold((4, 5), 2), lambda draw: (draw.normal(2, 12, 12),)),
    LayerCase(
        "Residual",
        lambda: nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False, rng=0), nn.BatchNorm2d(4))),
        lambda draw: (20 * draw.away(2, 4, 5, 6, gap=0.5),),  # x decides the sign of the sum
    ),
    LayerCase("MaxPool2d", lambda: nn.MaxPool2d(2), _distinct),
    LayerCase("MaxPool2d, all arguments", lambda: nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True), _distinct),
    LayerCase("AvgPool2d", lambda: nn.AvgPool2d(2), _images()),
    LayerCase("AvgPool2d, all arguments", lambda: nn.AvgPool2d(3, 2, 1, True, False), _images()),
    LayerCase("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d((3, 4)), _images()),
    LayerCase("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d((3, None)), _distinct),
    LayerCase("GlobalAvgPool2d", nn.GlobalAvgPool2d, _images()),
    LayerCase("GlobalMaxPool2d", nn.GlobalMaxPool2d, _distinct),
    LayerCase("ReLU", nn.ReLU, _bent(0.0)),
    LayerCase("LeakyReLU", lambda: nn.LeakyReLU(0.2), _bent(0.0)),
    LayerCase("ELU", lambda: nn.ELU(0.7), _bent(0.0)),
    LayerCase("GELU", nn.GELU, _rows),
    LayerCase("GELU, tanh", lambda: nn.GELU("tanh"), _rows),
    LayerCase("SiLU", nn.SiLU, _rows),
    LayerCase("Hardswish", nn.Hardswish, _bent(-3.0, 3.0)),
    LayerCase("Sigmoid", nn.Sigmoid, _rows),
    LayerCase("Tanh", nn.Tanh, _rows),
    LayerCase("Softplus", lambda: nn.Softplus(2.0, 5.0), _bent(2.5)),
    LayerCase("Softmax", lambda: nn.Softmax(axis=1), _rows),
    LayerCase("LogSoftmax", lambda: nn.LogSoftmax(axis=1), _rows),
    LayerCase("BatchNorm1d", lambda: nn.BatchNorm1d(4), _rows),
    LayerCase("BatchNorm1d, positions", lambda: nn.BatchNorm1d(4), lambda draw: (draw.normal(3, 4, 5),)),
    LayerCase("BatchNorm2d", lambda: nn.BatchNorm2d(4), _images()),
    LayerCase("BatchNorm2d, averaging", lambda: nn.BatchNorm2d(4, momentum=None), _images()),
    LayerCase("BatchNorm2d, evaluation", lambda: _eval(nn.BatchNorm2d(4)), _images()),
    LayerCase("BatchNorm2d, plain", lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), _images()),
    LayerCase("LayerNorm", lambda: nn.LayerNorm(4), _rows),
    LayerCase("LayerNorm, images", lambda: nn.LayerNorm((4, 5, 6), bias=False), _images()),
    LayerCase("GroupNorm", lambda: nn.GroupNorm(2, 4), _images()),
    LayerCase("InstanceNorm2d", lambda: nn.InstanceNorm2d(4), _images()),
    LayerCase("InstanceNorm2d, all arguments", lambda: nn.InstanceNorm2d(4, 1e-3, 0.2, True, True), _images()),
    LayerCase("Dropout, evaluation", lambda: _eval(nn.Dropout(0.5)), _rows),
    LayerCase("Dropout2d, evaluation", lambda: _eval(nn.Dropout2d(0.5)), _images()),
    LayerCase("Embedding", lambda: nn.Embedding(7, 3, rng=0), lambda draw: (draw.labels(2, 5, classes=7),)),
    LayerCase("MultiheadAttention", lambda: nn.MultiheadAttention(6, 2, batch_first=True, rng=0), _attention),
    LayerCase("Upsample", lambda: nn.Upsample(scale_factor=2), _images(h=3, w=2)),
    LayerCase("Upsample, bilinear", lambda: nn.Upsample((5, 7), mode="bilinear", align_corners=True), _images(h=3, w=2)),
    LayerCase("Flatten", nn.Flatten, _images()),
    LayerCase("Unflatten", lambda: nn.Unflatten(1, (2, -1)), _rows),
    LayerCase("Sequential", lambda: nn.Sequential(nn.Linear(4, 6, rng=0), nn.Tanh(), nn.Linear(6, 2, rng=1)), _rows),
    LayerCase("CrossEntropyLoss", nn.CrossEntropyLoss, _scores),
    LayerCase(
        "CrossEntropyLoss, all arguments",
        lambda: nn.CrossEntropyLoss(np.array([1.0, 2.0, 0.5, 1.5]), ignore_index=1, reduction="sum", label_smoothing=0.1),
        _scores,
    ),
    LayerCase(
        "CrossEntropyLoss, probabilities", nn.CrossEntropyLoss, lambda draw: (draw.normal(5, 4), draw.probabilities(5, 4))
    ),
    LayerCase("NLLLoss", lambda: nn.NLLLoss(np.array([1.0, 2.0, 0.5, 1.5])), _scores),
    LayerCase("MSELoss", nn.MSELoss, _pairs(0.0)),
    LayerCase("L1Loss", lambda: nn.L1Loss("sum"), _pairs(0.0)),
    LayerCase("SmoothL1Loss", lambda: nn.SmoothL1Loss(beta=0.5), _pairs(-0.5, 0.5)),
    LayerCase("HuberLoss", lambda: nn.HuberLoss("none", 1.5), _pairs(-1.5, 1.5)),
    LayerCase("BCELoss", nn.BCELoss, lambda draw: (draw.uniform(5, 3, low=0.1, high=0.9), draw.uniform(5, 3))),
    LayerCase("BCEWithLogitsLoss", lambda: nn.BCEWithLogitsLoss(pos_weight=np.array([1.0, 2.0, 3.0])), _yes_no),
    LayerCase("FocalLoss", nn.FocalLoss, _yes_no),
]


def _eval(module: nn.Module) -> nn.Module:
    return module.eval()
