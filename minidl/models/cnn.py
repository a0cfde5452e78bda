"""Four small convolutional networks: 3x3 convolutions without padding, ReLU, 2x2 maximum pooling, linear layers.

A 3x3 convolution without padding takes 2 from height and width; the pooling halves them and drops a
remainder. So every shape can be followed by hand, as the docstrings do (without the batch axis).
"""

from __future__ import annotations

from minidl import nn
from minidl.nn.init import Rng
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = ["CifarCNN", "ImageCNN", "MnistCNN", "SmallCNN"]


class SmallCNN(nn.Module):
    """Two convolutions and one linear layer: 34,826 parameters.

    ======================  ============  ==========
    layer                   output        parameters
    ======================  ============  ==========
    input                   1 x 28 x 28
    conv 3x3, ReLU          32 x 26 x 26         320
    max pool 2x2            32 x 13 x 13
    conv 3x3, ReLU          64 x 11 x 11      18,496
    max pool 2x2            64 x 5 x 5
    flatten                 1,600
    linear                  10                16,010
    ======================  ============  ==========

    Args:
        num_classes: length of the output, one logit per class.
        in_channels: channels of the image.
        rng: generator or seed of the first values.

    Shape:
        x (N, in_channels, 28, 28); logits (N, num_classes). The parameter counts hold for the defaults.

    >>> import minidl as md
    >>> from minidl.models import SmallCNN
    >>> SmallCNN(rng=0)(md.zeros(2, 1, 28, 28)).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, *, rng: Rng = None) -> None:
        super().__init__()
        rng = generator(rng)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64 * 5 * 5, num_classes, rng=rng))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, 28, 28)."""
        return self.classifier(self.features(x))


def _three_convolutions(in_channels: int, rng: Rng) -> nn.Sequential:
    """Convolutions with 32, 64 and 64 channels, the first two pooled."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, rng=rng),
        nn.ReLU(),
    )


def _two_linear(features: int, hidden: int, num_classes: int, rng: Rng) -> nn.Sequential:
    """Flatten, a hidden linear layer with ReLU, and the logits."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, hidden, rng=rng),
        nn.ReLU(),
        nn.Linear(hidden, num_classes, rng=rng),
    )


class MnistCNN(nn.Module):
    """Three convolutions and two linear layers for 28 x 28 images: 93,322 parameters.

    ======================  ============  ==========
    layer                   output        parameters
    ======================  ============  ==========
    input                   1 x 28 x 28
    conv 3x3, ReLU          32 x 26 x 26         320
    max pool 2x2            32 x 13 x 13
    conv 3x3, ReLU          64 x 11 x 11      18,496
    max pool 2x2            64 x 5 x 5
    conv 3x3, ReLU          64 x 3 x 3        36,928
    flatten                 576
    linear, ReLU            64                36,928
    linear                  10                   650
    ======================  ============  ==========

    Args:
        num_classes, in_channels, rng: as in ``SmallCNN``.

    Shape:
        x (N, in_channels, 28, 28); logits (N, num_classes). The parameter counts hold for the defaults.

    >>> import minidl as md
    >>> from minidl.models import MnistCNN
    >>> MnistCNN(rng=0)(md.zeros(2, 1, 28, 28)).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, *, rng: Rng = None) -> None:
        super().__init__()
        rng = generator(rng)
        self.features = _three_convolutions(in_channels, rng)
        self.classifier = _two_linear(64 * 3 * 3, 64, num_classes, rng)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, 28, 28)."""
        return self.classifier(self.features(x))


class CifarCNN(nn.Module):
    """``MnistCNN`` for 32 x 32 colour images: 122,570 parameters.

    ======================  ============  ==========
    layer                   output        parameters
    ======================  ============  ==========
    input                   3 x 32 x 32
    conv 3x3, ReLU          32 x 30 x 30         896
    max pool 2x2            32 x 15 x 15
    conv 3x3, ReLU          64 x 13 x 13      18,496
    max pool 2x2            64 x 6 x 6
    conv 3x3, ReLU          64 x 4 x 4        36,928
    flatten                 1,024
    linear, ReLU            64                65,600
    linear                  10                   650
    ======================  ============  ==========

    Args:
        num_classes, in_channels, rng: as in ``SmallCNN``.

    Shape:
        x (N, in_channels, 32, 32); logits (N, num_classes). The parameter counts hold for the defaults.

    >>> import minidl as md
    >>> from minidl.models import CifarCNN
    >>> CifarCNN(rng=0)(md.zeros(2, 3, 32, 32)).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, *, rng: Rng = None) -> None:
        super().__init__()
        rng = generator(rng)
        self.features = _three_convolutions(in_channels, rng)
        self.classifier = _two_linear(64 * 4 * 4, 64, num_classes, rng)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, 32, 32)."""
        return self.classifier(self.features(x))


class ImageCNN(nn.Module):
    """Three pooled convolutions and two linear layers for 224 x 224 colour images: 11,170,250 parameters.

    ======================  ===============  ==========
    layer                   output           parameters
    ======================  ===============  ==========
    input                   3 x 224 x 224
    conv 3x3, ReLU          32 x 222 x 222          896
    max pool 2x2            32 x 111 x 111
    conv 3x3, ReLU          64 x 109 x 109       18,496
    max pool 2x2            64 x 54 x 54
    conv 3x3, ReLU          128 x 52 x 52        73,856
    max pool 2x2            128 x 26 x 26
    flatten                 86,528
    linear, ReLU            128              11,075,712
    linear                  10                    1,290
    ======================  ===============  ==========

    Args:
        num_classes, in_channels, rng: as in ``SmallCNN``.

    Shape:
        x (N, in_channels, 224, 224); logits (N, num_classes). The parameter counts hold for the defaults.

    >>> from minidl.models import ImageCNN
    >>> sum(p.size for p in ImageCNN(rng=0).parameters())
    11170250
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, *, rng: Rng = None) -> None:
        super().__init__()
        rng = generator(rng)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = _two_linear(128 * 26 * 26, 128, num_classes, rng)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, 224, 224)."""
        return self.classifier(self.features(x))
