"""LeNet-5, the network that read handwritten cheques."""

from __future__ import annotations

from minidl import nn
from minidl.nn.init import Rng
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = ["LeNet5"]


class LeNet5(nn.Module):
    """LeNet-5 with tanh and average pooling: 61,706 parameters.

    ======================  ============  ==========
    layer                   output        parameters
    ======================  ============  ==========
    input                   1 x 28 x 28
    conv 5x5, pad 2, tanh   6 x 28 x 28          156
    average pool 2x2        6 x 14 x 14
    conv 5x5, tanh          16 x 10 x 10       2,416
    average pool 2x2        16 x 5 x 5
    flatten                 400
    linear, tanh            120               48,120
    linear, tanh            84                10,164
    linear                  10                   850
    ======================  ============  ==========

    It differs from the original where later practice does: the pooling has no weights, every channel of the
    second convolution sees all six of the first, and the output is plain logits.

    Args:
        num_classes: length of the output, one logit per class.
        in_channels: channels of the image.
        rng: generator or seed of the first values.

    Shape:
        x (N, in_channels, 28, 28); logits (N, num_classes). The parameter counts hold for the defaults.
    Source:
        LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.

    >>> import minidl as md
    >>> from minidl.models import LeNet5
    >>> LeNet5(rng=0)(md.zeros(2, 1, 28, 28)).shape
    (2, 10)
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, *, rng: Rng = None) -> None:
        super().__init__()
        rng = generator(rng)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2, rng=rng),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5, rng=rng),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120, rng=rng),
            nn.Tanh(),
            nn.Linear(120, 84, rng=rng),
            nn.Tanh(),
            nn.Linear(84, num_classes, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, 28, 28)."""
        return self.classifier(self.features(x))
