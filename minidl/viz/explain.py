"""Why a model answers as it does: which pixels matter to an answer, and what a channel or class looks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from minidl import functional as F
from minidl.context import no_grad
from minidl.errors import ArgumentError, ShapeError
from minidl.nn import Module
from minidl.ops._arguments import describe, integer, number, pair
from minidl.random import generator
from minidl.tensor import Tensor
from minidl.viz import _models as models, _style as style
from minidl.viz.images import displayable, image_grid

_HEAT = "inferno"
_RUNS = 64  # covered images in one batch of occlusion


def saliency(
    model: Module, images: Any, target: Any = None, classes: Sequence[Any] | None = None, samples: int = 25, noise: float = 0.15
) -> Figure:
    """How much each pixel moves the score of a class: the size of the gradient with respect to the image.

    Formula:
        s[h, w] = max over channels c of | mean over noise of d score / d x[c, h, w] |
    Args:
        model: gives scores (N, K); runs in evaluation mode, and is left as it was.
        images: (C, H, W) or (N, C, H, W), up to 12, as the model takes them; uint8 is scaled to 0..1.
        target: the class to explain, one for all or one per image; the model's answer otherwise.
        classes: names of the classes.
        samples: the mean of the gradients of so many noisy copies (SmoothGrad), which is far less speckled than one; 1 is
            the plain gradient of the image itself.
        noise: standard deviation, as a share of the image's range of values.

    Raises:
        ShapeError: images or scores of another shape.
        ArgumentError: a target that is no class, samples below 1.

    Source:
        Simonyan et al., "Deep Inside Convolutional Networks", 2013; Smilkov et al., "SmoothGrad", 2017.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, rng=0))
    >>> len(md.viz.saliency(model, md.randn(2, 1, 8, 8, rng=0)).axes)  # images, maps and the scale of the maps
    3
    """
    op = "saliency"
    x, samples = models.batch(op, images), integer(op, "samples", samples, 1)
    noise = number(op, "noise", noise, 0)
    rng = np.random.default_rng(0)
    spread = noise * (x.max(axis=(1, 2, 3), keepdims=True) - x.min(axis=(1, 2, 3), keepdims=True))
    with models.judging(op, model):
        with no_grad():
            scores = models.answers(op, model, models.to_model(model, x)).numpy()
        chosen = models.targets(op, scores, target)
        total = np.zeros(x.shape)
        for _ in range(samples):
            noisy = x if samples == 1 else x + spread * rng.standard_normal(x.shape)
            total += _image_gradient(op, model, noisy, chosen)
    maps = np.abs(total).max(axis=1)
    how = "gradient of the score" if samples == 1 else f"mean gradient of the score over {samples} noisy copies"
    return _explained("Saliency", how, x, maps, scores, chosen, classes)


def _image_gradient(op: str, model: Module, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """d(sum of the chosen scores) / dx; images do not touch each other's scores in evaluation mode."""
    leaf = models.to_model(model, x)
    leaf.requires_grad = True
    y = models.answers(op, model, leaf)
    if not y.requires_grad:
        raise ArgumentError.of(op, "scores that depend on the image", "scores that record no graph")
    y.backward(_one_hot(y, chosen))
    assert leaf.grad is not None
    return leaf.grad.numpy()


def _one_hot(y: Tensor, chosen: np.ndarray) -> Tensor:
    ones = np.zeros(y.shape, y.dtype)
    ones[np.arange(len(chosen)), chosen] = 1
    return Tensor(ones, device=y.device)


def grad_cam(
    model: Module, images: Any, target: Any = None, layer: str | None = None, classes: Sequence[Any] | None = None
) -> Figure:
    """Where a convolution layer sees what speaks for a class: its maps, weighted by what they do for the score.

    Formula:
        s[h, w] = relu(sum over k of a[k] A[k, h, w]),  a[k] = mean over h, w of d score / d A[k, h, w]
    Args:
        model, images, target, classes: see ``saliency``.
        layer: dotted path of a layer whose output A is (N, C, H, W); the last convolution otherwise.

    Raises:
        ShapeError: images, scores or an output of the layer of another shape.
        ArgumentError: a layer that the model does not have, or that did not run; a target that is no class.

    Source:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3, rng=1))
    >>> md.viz.grad_cam(model, md.randn(1, 8, 8, rng=0)).axes[1].get_title(loc="left")[:14]
    'Grad-CAM: maps'
    """
    op = "grad_cam"
    x = models.batch(op, images)
    heard: list[Tensor] = []
    with models.judging(op, model):
        path, module = models.layer_of(op, model, layer)
        leaf = models.to_model(model, x)
        leaf.requires_grad = True  # else nothing would be recorded: the parameters are frozen
        with models.listening(module, heard):
            y = models.answers(op, model, leaf)
        if not heard:
            raise ArgumentError.of(op, "a layer that runs in forward", f"{path}, which did not")
        maps = heard[-1]
        if not isinstance(maps, Tensor) or maps.ndim != 4 or not maps.requires_grad:
            raise ShapeError.of(op, "a layer with output (N, C, H, W)", f"{describe(maps)} from {path}")
        scores = y.numpy()
        chosen = models.targets(op, scores, target)
        maps.retain_grad()
        y.backward(_one_hot(y, chosen))
    if maps.grad is None:
        raise ArgumentError.of(op, "a layer that the scores depend on", path)
    weights = maps.grad.numpy().mean(axis=(2, 3), keepdims=True)
    heat = np.maximum((weights * maps.numpy()).sum(axis=1), 0)
    H, W = heat.shape[1:]
    large = F.interpolate(Tensor(heat[:, None]), size=x.shape[2:], mode="bilinear").numpy()[:, 0]
    return _explained("Grad-CAM", f"maps of {path or 'the model'}, {H} x {W}", x, large, scores, chosen, classes)


def occlusion(
    model: Module,
    images: Any,
    target: Any = None,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] = 1,
    fill: float | None = None,
    classes: Sequence[Any] | None = None,
) -> Figure:
    """How much the probability of a class falls when a patch of the image is covered, for each place of the patch.

    It needs no gradients: the model runs once for each place. A pixel's number is the mean over the patches that cover it.

    Args:
        model, images, target, classes: see ``saliency``.
        size: height and width of the patch; a quarter of the image otherwise.
        stride: steps between its places.
        fill: the value of the patch; the most common value of the image otherwise, which is its background as a rule.

    Raises:
        ShapeError: images or scores of another shape, a patch larger than the image.
        ArgumentError: a target that is no class, a size or stride below 1.

    Source:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, rng=0))
    >>> md.viz.occlusion(model, md.randn(1, 8, 8, rng=0), size=3).get_suptitle()
    'Occlusion: what the answer rests on'
    """
    op = "occlusion"
    x = models.batch(op, images)
    H, W = x.shape[2:]
    KH, KW = pair(op, "size", (max(1, H // 4), max(1, W // 4)) if size is None else size)
    SH, SW = pair(op, "stride", stride)
    if KH > H or KW > W:
        raise ShapeError.of(op, f"a patch within the image of {H} x {W}", f"{KH} x {KW}")
    tops = sorted({*range(0, H - KH + 1, SH), H - KH})
    lefts = sorted({*range(0, W - KW + 1, SW), W - KW})
    with models.judging(op, model), no_grad():
        scores = models.answers(op, model, models.to_model(model, x)).numpy()
        chosen = models.targets(op, scores, target)
        before = models.probabilities(scores)[np.arange(len(x)), chosen]
        heat = np.zeros((len(x), H, W))
        for i, image in enumerate(x):
            if fill is None:
                values, counts = np.unique(image, return_counts=True)
                cover = values[counts.argmax()]
            else:
                cover = number(op, "fill", fill)
            places = [(top, left) for top in tops for left in lefts]
            fallen = np.empty(len(places))
            for start in range(0, len(places), _RUNS):
                part = places[start : start + _RUNS]
                covered = np.repeat(image[None], len(part), axis=0)
                for copy, (top, left) in zip(covered, part):
                    copy[:, top : top + KH, left : left + KW] = cover
                p = models.probabilities(models.answers(op, model, models.to_model(model, covered)).numpy())
                fallen[start : start + len(part)] = before[i] - p[:, chosen[i]]
            times = np.zeros((H, W))
            for fall, (top, left) in zip(fallen, places):
                heat[i, top : top + KH, left : left + KW] += fall
                times[top : top + KH, left : left + KW] += 1
            heat[i] /= np.maximum(times, 1)
    how = f"fall of the probability under a patch of {KH} x {KW}"
    return _explained("Occlusion", how, x, heat, scores, chosen, classes, signed=True)


def _explained(
    name: str,
    how: str,
    x: np.ndarray,
    heat: np.ndarray,
    scores: np.ndarray,
    chosen: np.ndarray,
    classes: Sequence[Any] | None,
    signed: bool = False,
) -> Figure:
    """A row of the images and a row of what was found, one column per image."""
    op = name.lower()
    N, C, H, W = x.shape
    texts = models.names(classes if classes is None else style.class_names(op, classes, scores.shape[1]), chosen)
    sure = models.probabilities(scores)[np.arange(N), chosen]
    pictures = displayable(op, x if C in (1, 3) else x.mean(axis=1, keepdims=True))
    tall = H / W
    inches = min(max(1.1, min(2.4, 4.8 / N)), 3.2 / tall)  # width of an image
    caption, bar = 0.22 / inches, 0.9  # of its text, and of the colour bar in inches
    title = f"{name}: what the answer rests on"
    if N == 1:  # side by side
        fig = style.figure(max(5.6, 2.24 * inches + bar + 0.2), (tall + caption) * inches + 1.05, title)
        above, below = fig.subplots(1, 2)
    else:
        fig = style.figure(max(5.6, N * 1.12 * inches + bar), 2 * (tall + caption) * inches + 1.2, title)
        above, below = fig.subplots(2, 1)
    captions = [f"{text}: {style.percent(p)}" for text, p in zip(texts, sure)]
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if pictures.ndim == 3 else {}
    style.tiles(above, pictures, captions, N, caption, **grey)
    heads = ["image, the class that is explained and its probability", f"{name}: {how}"]
    for axes, head in zip((above, below), heads):
        text = fill(head, 36) if N == 1 else head
        axes.set_title(text, fontsize=style.LABEL, color=style.INK, loc="left")
    if signed:  # one scale: probabilities can be compared
        largest = float(np.abs(heat).max()) or 1.0
        cmap, norm = style.SIGNED, Normalize(-largest, largest)
        shown, label = list(heat), "fall"
    else:  # each image on its own: gradients of different images have no common scale
        peaks = heat.max(axis=(1, 2), keepdims=True)
        cmap, norm, shown = _HEAT, Normalize(0, 1), list(heat / np.where(peaks > 0, peaks, 1))
        label = "share of the peak"
    space = caption if N == 1 else caption / 3  # side by side, both stand at the same height
    style.tiles(below, shown, [""] * N, N, space, cmap=cmap, norm=norm)
    outline = pictures if pictures.ndim == 3 else pictures.mean(axis=3)
    for i, picture in enumerate(outline):  # faint edges of the image, to see where the heat lies
        if picture.max() > picture.min():
            grid_x = i * 1.12 + (np.arange(W) + 0.5) / W
            grid_y = space + (np.arange(H) + 0.5) / W
            level = [(float(picture.max()) + float(picture.min())) / 2]
            colour = style.QUIET if signed else "white"
            below.contour(grid_x, grid_y, picture, level, colors=colour, linewidths=0.7, alpha=0.8)
    style.colour_bar(fig, below, ScalarMappable(norm, cmap), label)
    return fig


def activation_maximisation(
    model: Module,
    shape: tuple[int, int, int],
    layer: str | None = None,
    channels: Sequence[int] | int = 10,
    steps: int = 128,
    lr: float = 0.06,
    values: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    classes: Sequence[Any] | None = None,
) -> Figure:
    """Images that a channel or a class answers to most, found by gradient ascent on the image.

    Above each stands the activation that it reaches (the root of the mean square of the positive part of the channel's map, or
    the score) and, for comparison, that of noise of the same brightness and contrast: the larger the difference, the more the
    channel asks for. Each image is stretched from black to white.

    Formula:
        x <- x + lr * g / rms(g),  g = d/dx (sum of relu(map)^2 / 2, or the score), without its mean;
        before each step x is shifted by up to 2 pixels; contrast fades by 1 % each step, and every fourth step blurs: without
        that, ascent finds speckles that no image has.
    Args:
        model: runs in evaluation mode and is left as it was.
        shape: (C, H, W) of its images.
        layer: dotted path of a layer with output (N, C, H, W) or (N, K); what the model returns otherwise.
        channels: numbers of the channels or classes, or how many, from 0 on.
        steps: of the ascent.
        lr: size of a step, as a share of the range of values.
        values: the darkest and the brightest that a pixel can be: of images that are normalised, not 0 and 1.
        seed: of the noise that it starts from, and of the shifts.
        classes: names of the classes.

    Notes:
        The mean of an image stays what it is at the beginning, 0 where ``values`` have it inside, which is the mean of
        normalised images, and the middle otherwise: else plain white or plain black would win for most filters. A channel
        that neither ascent nor noise makes positive is marked as dead. Behind a ReLU ascent finds no way out of silence:
        the layer before it tells a channel that is dead from one that is hard to wake.

    Raises:
        ShapeError: a layer with output of another shape, or a shape that is not (C, H, W).
        ArgumentError: a layer that the model does not have, channels that it does not have, steps below 1.

    Source:
        Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009; Yosinski et al., "Understanding Neural
        Networks Through Deep Visualization", 2015; Olah et al., "Feature Visualization", 2017.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3, rng=1))
    >>> figure = md.viz.activation_maximisation(model, (1, 8, 8), layer="0", channels=[0, 3], steps=4)
    >>> figure.get_suptitle().splitlines()[0]
    'What channels of 0 answer to most'
    """
    op = "activation_maximisation"
    steps, lr = integer(op, "steps", steps, 1), number(op, "lr", lr, 0)
    if not isinstance(shape, (tuple, list)):
        raise ShapeError.of(op, "shape as (C, H, W)", describe(shape), "Of an image x: x.shape.")
    if len(shape) != 3:
        raise ShapeError.of(op, "shape as (C, H, W)", str(shape))
    C, H, W = (integer(op, "shape", n, 1) for n in shape)
    low, high = (number(op, "values", v) for v in values)
    if not low < high:
        raise ArgumentError.of(op, "values from dark to bright", repr(values))
    with models.judging(op, model):
        path, module = ("", model) if layer is None else models.layer_of(op, model, layer)
        count = _channels_of(op, model, module, path, (C, H, W))
        wanted = list(range(min(count, channels))) if isinstance(channels, int) else [int(c) for c in channels]
        if not wanted or min(wanted) < 0 or max(wanted) >= count:
            raise ArgumentError.of(op, f"channels from 0 to {count - 1}", repr(channels))

        def activity(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Of images from 0 (dark) to 1 (bright): the gradient, and how active each one's own channel is."""
            return _activity(op, model, module, path, low + (high - low) * x, wanted)

        mean = -low / (high - low) if low < 0 < high else 0.5
        x, noise = _ascended(activity, (len(wanted), C, H, W), mean, steps, lr, generator(seed))
        reached, compared = activity(x)[1], activity(noise)[1]
    if layer is None:
        texts = models.names(classes if classes is None else style.class_names(op, classes, count), np.array(wanted))
        title, what = "What the model takes for each class most", "score"
    else:
        texts, title, what = [str(c) for c in wanted], f"What channels of {path} answer to most", "activation"
    dead = [layer is not None and value <= 0 for value in reached]
    captions = [
        f"{text}\nnever positive" if gone else f"{text}\n{_short(value)}, noise {_short(other)}"
        for text, value, other, gone in zip(texts, reached, compared, dead)
    ]
    pictures = x if C in (1, 3) else x.mean(axis=1, keepdims=True)
    darkest, brightest = (f(pictures, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    pictures = (pictures - darkest) / np.where(brightest > darkest, brightest - darkest, 1)
    pictures[dead] = 1
    title += f"\n{what} of each image, and of noise of the same contrast"
    fig = image_grid(pictures, captions, columns=min(5, len(wanted)), title=title)
    axes = fig.axes[0]
    for image, gone in zip(axes.images, dead):
        if gone:
            left, right, bottom, top = image.get_extent()
            middle = (left + right) / 2, (bottom + top) / 2
            axes.text(*middle, "dead", ha="center", va="center", fontsize=style.LABEL, color=style.QUIET)
    return fig


def _short(value: float) -> str:
    """Three digits; what is a thousandth at most is 0."""
    return "0" if abs(value) < 0.0005 else f"{value:.3g}"


def _ascended(
    activity: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int, int],
    mean: float,
    steps: int,
    lr: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Images that go up the gradient from noise, and noise as bright and as rich in contrast as they are."""
    pixels = (1, 2, 3)
    x = np.clip(mean + 0.1 * rng.standard_normal(shape), 0, 1)
    for step in range(steps):
        shift = rng.integers(-2, 3, 2)
        g, _ = activity(np.roll(x, shift, (2, 3)))
        g = np.roll(g, -shift, (2, 3))
        silent = ~g.any(axis=pixels)  # behind a ReLU nothing shows the way up: look for it from elsewhere
        x[silent] = np.clip(mean + 0.3 * rng.standard_normal((silent.sum(), *shape[1:])), 0, 1)
        g = g - g.mean(axis=pixels, keepdims=True)
        rms = np.sqrt((g * g).mean(axis=pixels, keepdims=True))
        x = x + lr * (1 - 0.5 * step / steps) * g / np.where(rms > 0, rms, 1)
        x = mean + 0.99 * (x - x.mean(axis=pixels, keepdims=True))
        x = np.clip(_smooth(x, 0.4) if step % 4 == 3 else x, 0, 1)
    noise = rng.standard_normal(shape)
    noise -= noise.mean(axis=pixels, keepdims=True)
    noise *= x.std(axis=pixels, keepdims=True) / np.maximum(noise.std(axis=pixels, keepdims=True), 1e-12)
    return x, x.mean(axis=pixels, keepdims=True) + noise


def _channels_of(op: str, model: Module, module: Module, path: str, shape: tuple[int, int, int]) -> int:
    with no_grad():
        return _heard(op, model, module, path, models.to_model(model, np.zeros((1, *shape)))).shape[1]


def _heard(op: str, model: Module, module: Module, path: str, x: Tensor) -> Tensor:
    """What the layer makes of images."""
    heard: list[Tensor] = []
    with models.listening(module, heard):
        model(x)
    if not heard:
        raise ArgumentError.of(op, "a layer that runs in forward", f"{path}, which did not")
    y = heard[-1]
    if not isinstance(y, Tensor) or y.ndim not in (2, 4):
        raise ShapeError.of(op, "a layer with output (N, C, H, W) or (N, K)", f"{describe(y)} from {path or 'the model'}")
    return y


def _activity(
    op: str, model: Module, module: Module, path: str, x: np.ndarray, wanted: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of each image's own channel, squared where it is a map, and how far that is active."""
    leaf = models.to_model(model, x)
    leaf.requires_grad = True
    y = _heard(op, model, module, path, leaf)
    if not y.requires_grad:
        raise ArgumentError.of(op, "a layer that depends on the image", path or type(model).__name__)
    each = np.arange(len(x)), np.array(wanted)
    own = y.numpy()[each]
    gy = np.zeros(y.shape, y.dtype)
    if own.ndim == 1:
        gy[each] = 1
    else:
        positive = np.maximum(own, 0)
        gy[each] = np.where(positive.any(axis=(1, 2), keepdims=True), positive, 1)  # a silent map is to rise everywhere
        own = np.sqrt((positive * positive).mean(axis=(1, 2)))
    y.backward(Tensor(gy, device=y.device))
    assert leaf.grad is not None
    return leaf.grad.numpy(), own


def _smooth(x: np.ndarray, share: float) -> np.ndarray:
    """Each pixel moves a share of the way to the mean of its four neighbours."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    mean = (wide[:, :, :-2, 1:-1] + wide[:, :, 2:, 1:-1] + wide[:, :, 1:-1, :-2] + wide[:, :, 1:-1, 2:]) / 4
    return (1 - share) * x + share * mean
