"""Residual networks: a few sizes for 32x32 images, and the ones for ImageNet.

Parameters are named as in torchvision, so its weights load by key.
"""

from __future__ import annotations

from collections.abc import Sequence

from minidl import nn
from minidl.errors import ArgumentError
from minidl.nn.fusion import in_a_row
from minidl.nn.init import Rng, kaiming_normal_
from minidl.nn.residual import residual_sum
from minidl.random import generator
from minidl.tensor import Tensor

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet20", "resnet34", "resnet50"]


class _Block(nn.Module):
    """A few convolutions, each with a batch normalisation, and a shortcut around them."""

    expansion = 1  # output channels per ``width``

    def __init__(self, channels: int, width: int, stride: int, rng: Rng) -> None:
        super().__init__()
        out = width * self.expansion
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False, rng=rng), nn.BatchNorm2d(out))

    def main(self) -> list[nn.Module]:
        """The layers on the main way, in a row."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """max(main(x) + shortcut(x), 0)."""
        residual = x if self.downsample is None else self.downsample(x)
        return residual_sum(self.main(), x, residual)


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18, -20 and -34.

    Args:
        channels: of x.
        width: channels of both convolutions.
        stride: of the first convolution. If it is not 1, or channels change, the shortcut is a 1x1 convolution.
        rng: generator or seed of the first values.

    >>> import minidl as md
    >>> from minidl import models
    >>> models.resnet.BasicBlock(16, 32, stride=2)(md.ones(1, 16, 8, 8)).shape
    (1, 32, 4, 4)
    """

    def __init__(self, channels: int, width: int, stride: int = 1, *, rng: Rng = None) -> None:
        rng = generator(rng)
        super().__init__(channels, width, stride, rng)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False, rng=rng)
        self.bn2 = nn.BatchNorm2d(width)

    def main(self) -> list[nn.Module]:
        """The layers on the main way, in a row."""
        return [self.conv1, self.bn1, self.relu, self.conv2, self.bn2]


class Bottleneck(_Block):
    """A 1x1 convolution to fewer channels, a 3x3, and a 1x1 to four times as many: the block of ResNet-50.

    Args:
        channels: of x.
        width: channels of the 3x3 convolution; the output has ``4 * width``.
        stride: of the 3x3 convolution, as in torchvision (the paper has it in the 1x1 before).
        rng: generator or seed of the first values.

    >>> import minidl as md
    >>> from minidl import models
    >>> models.resnet.Bottleneck(16, 8, stride=2)(md.ones(1, 16, 8, 8)).shape
    (1, 32, 4, 4)
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1, *, rng: Rng = None) -> None:
        rng = generator(rng)
        super().__init__(channels, width, stride, rng)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False, rng=rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False, rng=rng)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU()

    def main(self) -> list[nn.Module]:
        """The layers on the main way, in a row."""
        return [self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu, self.conv3, self.bn3]


class ResNet(nn.Module):
    """A residual network: a stem, stages of blocks (each but the first halves the image), average pooling, a linear layer.

    Args:
        block: BasicBlock or Bottleneck.
        blocks: how many blocks each stage has.
        widths: the width of each stage's blocks.
        small_images: a stem of one 3x3 convolution, for images of about 32x32; else a 7x7 convolution and a max pooling,
            which make the image four times smaller.
        num_classes: length of the output, one logit per class.
        in_channels: channels of the image.
        rng: generator or seed of the first values.

    Shape:
        x (N, in_channels, H, W) of any size; logits (N, num_classes).
    Notes:
        A block learns what to add to its input. Gradients pass the sums unchanged, so that networks of a hundred layers
        learn, where plain ones of twenty get worse with every further layer.
    Raises:
        ArgumentError: stages without widths, or the other way round.
    Source:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015.

    >>> import minidl as md
    >>> from minidl import models
    >>> model = models.ResNet(models.resnet.BasicBlock, [1, 1], [8, 16], small_images=True, num_classes=5, rng=0)
    >>> model(md.zeros(2, 3, 16, 16)).shape
    (2, 5)
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        small_images: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        rng: Rng = None,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths) or not blocks:
            raise ArgumentError.of("ResNet", "one width for each stage", f"{len(blocks)} stages and {len(widths)} widths")
        rng, channels = generator(rng), widths[0]
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False, rng=rng)
        else:
            self.conv1 = nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.maxpool: nn.Module = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        self.stages = len(blocks)
        for i, (count, width) in enumerate(zip(blocks, widths)):
            layer = nn.Sequential()
            for k in range(count):
                layer.append(block(channels, width, stride=2 if k == 0 and i > 0 else 1, rng=rng))
                channels = width * block.expansion
            self.add_module(f"layer{i + 1}", layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes, rng=rng)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x (N, in_channels, H, W)."""
        x = in_a_row([self.conv1, self.bn1, self.relu, self.maxpool], x)
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)))


def resnet20(num_classes: int = 10, in_channels: int = 3, *, rng: Rng = None) -> ResNet:
    """ResNet-20 for 32x32 images: three stages of three blocks, 16, 32 and 64 channels; 272,474 parameters.

    Where the paper pads the shortcut with zeros, this has 1x1 convolutions (its "option B").

    >>> from minidl import models
    >>> sum(p.size for p in models.resnet20(rng=0).parameters())
    272474
    """
    return ResNet(BasicBlock, (3, 3, 3), (16, 32, 64), True, num_classes, in_channels, rng=rng)


def resnet18(num_classes: int = 1000, in_channels: int = 3, *, rng: Rng = None) -> ResNet:
    """ResNet-18 for images of about 224x224; 11,689,512 parameters.

    >>> from minidl import models
    >>> sum(p.size for p in models.resnet18(rng=0).parameters())
    11689512
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), False, num_classes, in_channels, rng=rng)


def resnet34(num_classes: int = 1000, in_channels: int = 3, *, rng: Rng = None) -> ResNet:
    """ResNet-34 for images of about 224x224; 21,797,672 parameters.

    >>> from minidl import models
    >>> len(models.resnet34(rng=0).layer3)
    6
    """
    return ResNet(BasicBlock, (3, 4, 6, 3), (64, 128, 256, 512), False, num_classes, in_channels, rng=rng)


def resnet50(num_classes: int = 1000, in_channels: int = 3, *, rng: Rng = None) -> ResNet:
    """ResNet-50 for images of about 224x224; 25,557,032 parameters.

    >>> from minidl import models
    >>> sum(p.size for p in models.resnet50(rng=0).parameters())
    25557032
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), False, num_classes, in_channels, rng=rng)
