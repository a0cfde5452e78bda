"""What convolution layers have learned (filters) and what they make of an image (feature maps)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from minidl.backend import FLOATS, default_dtype
from minidl.context import no_grad
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.nn import Conv2d, ConvTranspose2d, Module
from minidl.ops._arguments import describe, integer, tensor
from minidl.tensor import Tensor
from minidl.viz import _style as style
from minidl.viz.images import displayable

_ROWS = 12  # layers in one picture of feature maps
_SIDE = 16  # filters and channels in one picture of filters with many channels


def filters(weights: Any, limit: int = 64) -> Figure:
    """The filters of a convolution layer, each with its number above it.

    One input channel: blue is negative, white 0, red positive, on one scale for all filters. Three input
    channels: as colours, each filter stretched by its largest weight around grey, which is 0. Any other
    number: a row per filter and a column per input channel, coloured as for one channel, 16 of each at most.

    Args:
        weights: (O, C, KH, KW), such as ``model.conv1.weight``.
        limit: how many filters at most; the title says what was left out.

    Raises:
        ShapeError: weights of another shape, or empty ones.
        ArgumentError: weights that are NaN or infinite.

    >>> import minidl as md
    >>> figure = md.viz.filters(md.ones(8, 1, 3, 3))
    >>> figure.get_suptitle()
    '8 filters of 3 x 3'
    """
    op = "filters"
    w = tensor(op, weights, "weights").numpy()
    if w.ndim != 4 or w.size == 0:
        raise ShapeError.of(op, "weights of shape (O, C, KH, KW)", f"shape {w.shape}")
    if not np.isfinite(w).all():
        raise ArgumentError.of(op, "finite weights", "NaN or infinity")
    count, C, KH, KW = w.shape
    in_rows = C not in (1, 3)
    shown = w[: integer(op, "limit", limit, 1)]
    title = _counted(count, len(shown), f"filter{'s' if count > 1 else ''} of {KH} x {KW}")
    largest = float(np.abs(w).max()) or 1.0
    show = {"cmap": style.SIGNED, "vmin": -largest, "vmax": largest}
    if in_rows:
        shown, columns = shown[:_SIDE, :_SIDE], min(C, _SIDE)
        title = f"{_counted(count, len(shown), 'filters')} (rows), {_counted(C, columns, 'input channels').lower()} (columns)"
        pictures, captions = list(shown.reshape(-1, KH, KW)), [""] * shown.shape[0] * shown.shape[1]
    else:
        columns, captions = min(len(shown), 8), [str(i) for i in range(len(shown))]
        pictures = list(shown[:, 0])
    if C == 3:
        peaks = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
        pictures = list(np.moveaxis(0.5 + 0.5 * shown / np.where(peaks > 0, peaks, 1), 1, -1))
        show = {}
        title += " in colour (grey is 0)"

    inches, caption_height = (0.5, 0.0) if in_rows else (0.75, 0.24)
    width, height = style.tiles_size(len(pictures), columns, KH / KW, caption_height)
    fig = style.figure(max(5.0, width * inches + 1.0), height * inches + 0.7, title)
    axes = fig.subplots()
    style.tiles(axes, pictures, captions, columns, caption_height, **show)
    if in_rows:
        text: dict[str, Any] = {"fontsize": style.SMALL, "color": style.INK}
        for c in range(columns):
            axes.text(c * 1.12 + 0.5, -0.1, str(c), ha="center", va="baseline", **text)
        for o in range(len(shown)):
            axes.text(-0.15, o * (KH / KW + 0.12) + KH / KW / 2, str(o), ha="right", va="center", **text)
    if show:
        style.colour_bar(fig, axes, ScalarMappable(Normalize(-largest, largest), style.SIGNED), "weight")
    return fig


def feature_maps(model: Module, image: Any, layer: str | Sequence[str] | None = None, channels: int = 8) -> Figure:
    """What the convolution layers of a model make of one image: the image, then a row of maps per layer.

    The model runs once, in evaluation mode and without recording a graph; afterwards every module is in
    the mode it was in. The maps of a row share one scale: blue is negative, white 0, red positive; from dark
    to light where none is negative.

    Args:
        model: the model, which takes a batch (1, C, H, W).
        image: (C, H, W) or (1, C, H, W). uint8 is scaled to 0..1; anything else goes in as it is,
            so normalise it as in training.
        layer: the dotted path of a layer or several; all convolution layers otherwise (at most 12).
        channels: maps per layer at most.

    Raises:
        ShapeError: an image of another shape, or a layer whose output is not (N, C, H, W).
        ArgumentError: a layer that the model does not have or that did not run, or a model without convolutions.
        DtypeError: a model that is not a Module.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU())
    >>> figure = md.viz.feature_maps(model, md.zeros(1, 8, 8))
    >>> len(figure.axes), figure.axes[0].get_title(loc="left")
    (2, 'input: 1 x 8 x 8, values 0 to 0')
    """
    op = "feature_maps"
    if not isinstance(model, Module):
        raise DtypeError.of(op, "model as a Module", describe(model))
    channels = integer(op, "channels", channels, 1)
    x = _batch_of_one(op, model, image)
    layers = _layers(op, model, layer)
    outputs = _outputs(op, model, x, layers)
    silent = layers.keys() - {path for path, _, _ in outputs}
    if silent and (layer is not None or not outputs):
        raise ArgumentError.of(op, "layers that run in forward", f"{', '.join(sorted(silent))}, which did not")
    title = "What the layers make of the image"
    if len(outputs) > _ROWS:
        title += f"\nthe first {_ROWS} of {len(outputs)}; pick others with layer="
    outputs = outputs[:_ROWS]

    columns = max(min(channels, len(maps)) + (len(maps) > channels) for *_, maps in outputs)
    inches = 0.95  # width of a map
    caption_height, below = 0.17, 0.15  # space for its number, and under the row, in widths of a map
    tall = [x.shape[2] / x.shape[3], *(maps.shape[1] / maps.shape[2] for *_, maps in outputs)]
    heights = [inches * (t + caption_height + below) for t in tall]
    size = max(6.4, columns * 1.12 * inches + 0.2), sum(heights) + 0.26 * len(heights) + 0.5
    fig = style.figure(*size, title)
    panels = fig.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    _draw_input(panels[0], x)
    for axes, (path, kind, maps) in zip(panels[1:], outputs):
        _draw_maps(axes, f"{path}: {kind}" if path else kind, maps, channels, caption_height)
    for axes in panels:
        axes.set_xlim(-0.02, max(size[0] / inches, columns * 1.12))
        axes.set_ylim(axes.get_ylim()[0] + below, 0)
        axes.set_anchor("W")
    return fig


def _batch_of_one(op: str, model: Module, image: Any) -> Tensor:
    """The image as the batch (1, C, H, W) in the model's dtype and on its device."""
    x = tensor(op, image, "image").numpy()
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4 or len(x) != 1 or x.size == 0:
        raise ShapeError.of(op, "one image of shape (C, H, W) or (1, C, H, W)", f"shape {np.shape(image)}")
    if x.dtype == np.uint8:
        x = x / np.float32(255)
    like = next((p for p in model.parameters() if p.dtype in FLOATS), None)
    return Tensor(x, default_dtype() if like is None else like.dtype, device="cpu" if like is None else like.device)


def _layers(op: str, model: Module, layer: str | Sequence[str] | None) -> dict[str, Module]:
    """The layers to look at, by their path."""
    modules = dict(model.named_modules())
    if layer is None:
        paths = [path for path, module in modules.items() if isinstance(module, (Conv2d, ConvTranspose2d))]
        if not paths:
            hint = "Name other layers with layer=."
            raise ArgumentError.of(op, "a model with convolution layers", type(model).__name__, hint)
    else:
        paths = [layer] if isinstance(layer, str) else list(layer)
    for path in paths:
        if path not in modules:
            raise ArgumentError.of(op, f"a layer of the model ({', '.join(filter(None, modules))})", repr(path))
    return {path: modules[path] for path in paths}


def _outputs(op: str, model: Module, x: Tensor, layers: dict[str, Module]) -> list[tuple[str, str, np.ndarray]]:
    """Path, kind and output (C, H, W) of each call of the layers, in the order in which they ran."""
    outputs: list[tuple[str, str, np.ndarray]] = []

    def keep(path: str, layer: Module, inputs: tuple, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or output.size == 0:
            raise ShapeError.of(op, "a layer with output (N, C, H, W)", describe(output))
        outputs.append((path, type(layer).__name__, np.array(output.numpy()[0])))

    modes = [(module, module.training) for module in model.modules()]
    remove = [module.register_forward_hook(partial(keep, path)) for path, module in layers.items()]
    try:
        with no_grad():
            model.eval()(x)
    finally:
        for undo in remove:
            undo()
        for module, training in modes:
            module.training = training
    return outputs


def _draw_input(axes: Axes, x: Tensor) -> None:
    image = x.numpy()
    C, H, W = image.shape[1:]
    what = f"input: {C} x {H} x {W}, {_range(image)}"
    if C not in (1, 3):
        image = image.mean(axis=1, keepdims=True)
        what += " (shown: the mean of its channels)"
    (picture,) = displayable("feature_maps", image, "image")
    style.tiles(axes, [picture], [""], 1, 0, **({"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}))
    axes.set_title(what, fontsize=style.LABEL, color=style.INK, loc="left")


def _draw_maps(axes: Axes, name: str, maps: np.ndarray, channels: int, caption_height: float) -> None:
    """One row: the first maps of a layer, and how many more there are."""
    shown = maps[:channels]
    count, H, W = maps.shape
    finite = shown[np.isfinite(shown)]
    largest = float(np.abs(finite).max(initial=0)) or 1.0
    signed = bool((finite < 0).any())
    show = {"cmap": style.SIGNED if signed else style.POSITIVE, "vmin": -largest if signed else 0, "vmax": largest}
    style.tiles(axes, list(shown), [str(i) for i in range(len(shown))], len(shown), caption_height, **show)
    if count > len(shown):
        middle = caption_height + H / W / 2
        axes.text(
            len(shown) * 1.12 + 0.1, middle, f"+{count - len(shown)} more", va="center", fontsize=style.LABEL, color=style.INK
        )
    colours = "blue below 0, red above" if signed else "dark is 0"
    text = f"{name}, {count} map{'s' if count > 1 else ''} of {H} x {W}, {_range(shown)} ({colours})"
    axes.set_title(text, fontsize=style.LABEL, color=style.INK, loc="left")


def _range(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    if finite.size < values.size:
        return f"{values.size - finite.size:,} of {values.size:,} values NaN or infinite"
    return f"values {finite.min():.3g} to {finite.max():.3g}"


def _counted(total: int, shown: int, what: str) -> str:
    return f"{total} {what}" if shown == total else f"First {shown} of {total} {what}"
