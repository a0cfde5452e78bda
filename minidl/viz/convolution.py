"""How a convolution works (im2col), and how far a pixel of a result sees (the receptive field)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minidl import functional as F
from minidl.context import observe
from minidl.errors import ArgumentError, ShapeError
from minidl.nn import Module
from minidl.ops._arguments import describe, integer, pair, tensor
from minidl.tensor import Node, Tensor
from minidl.viz import _models as models, _style as style

_MARKS = (style.BLUE, style.ORANGE, "#009e73")  # of the windows that are followed; Okabe and Ito
_CELLS = 1600  # more numbers than that cannot be read


def im2col(x: Any, weight: Any, stride: Any = 1, padding: Any = 0) -> Figure:
    """Convolution as a product of matrices: each window of the image becomes a column, and the kernel, a row, multiplies all.

    The row stands left of its result and the columns above it, so that each number of the result lies where its row and
    its column meet. Three windows are followed in colour: their cells in the image, their column and their result.

    Formula:
        y (1, OH OW) = w (1, C KH KW) @ columns (C KH KW, OH OW); a layer has one such row for each output channel

    Args:
        x: a small image, (H, W) or (C, H, W).
        weight: one kernel, (KH, KW) or (C, KH, KW).
        stride, padding: as for ``minidl.im2col``.

    Raises:
        ShapeError: other shapes, or a kernel that does not fit.
        ArgumentError: more numbers than can be read; and what ``minidl.im2col`` refuses.

    >>> import numpy as np
    >>> import minidl as md
    >>> figure = md.viz.im2col(np.arange(16).reshape(4, 4), [[1, 0], [0, -1]])
    >>> figure.get_suptitle()
    'im2col: 9 windows of 2 x 2 as the columns of a matrix'
    """
    op = "viz.im2col"
    image, kernel = (tensor(op, v, n).numpy().astype(np.float64) for v, n in ((x, "x"), (weight, "weight")))
    image = image[None] if image.ndim == 2 else image
    kernel = kernel[None] if kernel.ndim == 2 else kernel
    if image.ndim != 3 or kernel.ndim != 3 or len(image) != len(kernel) or image.size == 0:
        got = f"x {np.shape(x)}, weight {np.shape(weight)}"
        raise ShapeError.of(op, "x (C, H, W) and weight (C, KH, KW), or both without C", got)
    C, KH, KW = kernel.shape
    columns = F.im2col(Tensor(image), (KH, KW), stride, padding).numpy()
    K, L = columns.shape
    if K * L > _CELLS:
        raise ArgumentError.of(op, f"at most {_CELLS} numbers in the matrix", f"{K} x {L}", "Take a smaller image.")
    y = F.conv2d(Tensor(image), Tensor(kernel[None]), stride=stride, padding=padding).numpy()[0]
    (SH, SW), (PH, PW) = pair(op, "stride", stride), pair(op, "padding", padding, 0)
    OW = y.shape[1]
    wide = np.pad(image, ((0, 0), (PH, PH), (PW, PW)))
    H, W = wide.shape[1:]

    OH = y.shape[0]
    beside = W + 1.5  # of the kernel as it is, left of the columns
    right = max(K, beside + KW) + 1.8  # of the columns and of the result
    product = max(K, C * (max(H, KH) + 1) - 1) + 1.6  # below the columns: the kernel as a row, and the result
    folded = product + 2.8
    width, tall = right + max(L, 10), folded + OH
    scale = min(0.42, 13 / width)
    title = f"im2col: {L} windows of {' x '.join(map(str, kernel.shape if C > 1 else (KH, KW)))} as the columns of a matrix"
    fig = style.figure(max(6.0, width * scale + 0.5), max(3.4, (tall + 1.2) * scale + 0.5), title)
    axes = fig.subplots()
    size = min(style.LABEL, scale * 72 * 0.3)
    followed = list(dict.fromkeys((0, min(1, L - 1), L - 1)))
    over = product - 1.6 - K  # the columns end where the image ends, or the other way round
    for c in range(C):
        _numbers(axes, wide[c], 0, c * (H + 1), size, pad=(PH, PW))
        _numbers(axes, kernel[c], beside, c * (H + 1), size, style.SIGNED)
    _numbers(axes, columns, right, over, size)
    _numbers(axes, kernel.reshape(1, K), right - 1.8 - K, product, size, style.SIGNED)
    _numbers(axes, y.reshape(1, L), right, product, size, style.SIGNED)
    _numbers(axes, y, right, folded, size, style.SIGNED)
    for colour, k in zip(_MARKS, followed):
        row, column = divmod(k, OW)
        shrink = 0.06 + 0.07 * followed.index(k)  # windows that overlap stay apart
        for c in range(C):
            _mark(axes, column * SW, c * (H + 1) + row * SH, KW, KH, colour, shrink)
        _mark(axes, right + k, over, 1, K, colour)
        _mark(axes, right + k, product, 1, 1, colour)
        _mark(axes, right + column, folded + row, 1, 1, colour)
    text: dict[str, Any] = {"fontsize": style.LABEL, "color": style.INK, "va": "bottom"}
    shape = f"{C} x " if C > 1 else ""
    axes.text(0, -0.25, f"x, {shape}{H - 2 * PH} x {W - 2 * PW}{', padded' if PH or PW else ''}", **text)
    axes.text(beside, -0.25, f"w, {shape}{KH} x {KW}", **text)
    axes.text(right, over - 0.25, f"columns, {K} x {L}: one for each window", **text)
    axes.text(right - 1.8 - max(K, 4), product - 0.25, f"w as a row, 1 x {K}", **text)
    axes.text(right - 0.9, product + 0.5, "=", fontsize=14, ha="center", va="center", color=style.INK)
    axes.text(right, product - 0.25, "y = w · columns: multiply the row by each column and add up", **text)
    axes.text(right, folded - 0.25, f"y, folded to {OH} x {OW}", **text)
    axes.set(xlim=(-0.2, width + 0.2), ylim=(tall + 0.1, -1.2), aspect="equal")
    axes.set_axis_off()
    return fig


def _numbers(
    axes: Axes, values: np.ndarray, left: float, top: float, size: float, cmap: str = "Greys", pad: tuple[int, int] = (0, 0)
) -> None:
    """A grid of cells with their numbers, lightly tinted; the padding is paler."""
    rows, columns = values.shape
    largest = float(np.abs(values).max()) or 1.0
    tint = style.part_of(cmap, 0.0, 0.45) if cmap == "Greys" else style.part_of(cmap, 0.22, 0.78)
    norm = Normalize(0 if cmap == "Greys" else -largest, largest)
    for i in range(rows):
        for j in range(columns):
            padded = i < pad[0] or i >= rows - pad[0] or j < pad[1] or j >= columns - pad[1]
            face = "white" if padded else tint(norm(values[i, j]))
            axes.add_patch(Rectangle((left + j, top + i), 1, 1, facecolor=face, edgecolor=style.LINE, linewidth=0.6))
            place = left + j + 0.5, top + i + 0.52
            colour = style.FAINT if padded else style.INK
            axes.text(*place, _short(values[i, j]), ha="center", va="center", fontsize=size, color=colour)


def _short(value: float) -> str:
    """A number of few characters: a whole one as it is, else three digits, or two where zeros come first."""
    if value == round(value) and abs(value) < 1e5:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return text if len(text.lstrip("-")) <= 5 else f"{value:.2g}"


def _mark(axes: Axes, left: float, top: float, width: float, height: float, colour: str, shrink: float = 0.04) -> None:
    corner = left + shrink, top + shrink
    size = width - 2 * shrink, height - 2 * shrink
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2.2, zorder=3))


def receptive_field(
    model: Module,
    shape: tuple[int, int, int],
    layer: str | None = None,
    position: tuple[int, int] | None = None,
    images: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """What one pixel of a layer's output sees of the image: the frame that it can reach, and where it really looks.

    The frame follows from the sizes of kernels, strides and paddings. The heat is the mean size of the gradient of that
    pixel (the sum of its channels) with respect to the image: as a rule a blob in the middle of the frame.

    Args:
        model: runs in evaluation mode and is left as it was.
        shape: (C, H, W) of its images.
        layer: dotted path of a layer with output (N, C, H, W); the last convolution otherwise.
        position: (row, column) of the output's pixel; the middle otherwise.
        images: (N, C, H, W) to take the gradients at; 12 random ones otherwise.
        ax: draw here; a figure of its own otherwise.

    Raises:
        ShapeError: a layer whose output is not (N, C, H, W), a shape that is not (C, H, W), other images.
        ArgumentError: a layer that the model does not have or that did not run, or a position outside of its output.

    Source:
        Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, rng=1))
    >>> md.viz.receptive_field(model, (1, 16, 16)).get_suptitle()
    'Receptive field of 3: 8 x 8 pixels'
    """
    op = "receptive_field"
    if not isinstance(shape, (tuple, list)):
        raise ShapeError.of(op, "shape as (C, H, W)", describe(shape), "Of an image x: x.shape.")
    if len(shape) != 3:
        raise ShapeError.of(op, "shape as (C, H, W)", str(shape))
    C, H, W = (integer(op, "shape", n, 1) for n in shape)
    x = np.random.default_rng(0).standard_normal((12, C, H, W)) if images is None else models.batch(op, images)
    if x.shape[1:] != (C, H, W):
        raise ShapeError.of(op, f"images of shape (N, {C}, {H}, {W})", f"shape {x.shape}")
    ran: dict[Node, tuple[tuple, dict[str, Any], tuple[int, ...]]] = {}

    def note(node: Any, phase: str, function: Any) -> Any:
        def noted(ctx: Any, *arrays: Any, **params: Any) -> Any:
            result = function(ctx, *arrays, **params)
            y = result[0] if type(result) is tuple else result
            ran[node] = tuple(getattr(a, "shape", ()) for a in arrays), params, y.shape
            return result

        return noted if phase == "forward" else function

    heard: list[Tensor] = []
    with models.judging(op, model):
        path, module = models.layer_of(op, model, layer)
        leaf = models.to_model(model, x)
        leaf.requires_grad = True
        with models.listening(module, heard), observe(note):
            model(leaf)
        if not heard:
            raise ArgumentError.of(op, "a layer that runs in forward", f"{path}, which did not")
        y = heard[-1]
        if not isinstance(y, Tensor) or y.ndim != 4 or y._node is None:
            raise ShapeError.of(op, "a layer with output (N, C, H, W)", f"{describe(y)} from {path or 'the model'}")
        OH, OW = y.shape[2:]
        row, column = (OH // 2, OW // 2) if position is None else position
        if not (0 <= row < OH and 0 <= column < OW):
            raise ArgumentError.of(op, f"a position within {OH} x {OW}", f"{(row, column)}")
        reach = _reach(y._node, leaf, (row, column), ran)
        seed = np.zeros(y.shape, y.dtype)
        seed[:, :, row, column] = 1
        y.backward(Tensor(seed, device=y.device))
        assert leaf.grad is not None
        heat = np.abs(leaf.grad.numpy()).mean(axis=(0, 1))
    top, bottom, left, right = reach
    title = f"Receptive field of {path or 'the model'}: {bottom - top + 1} x {right - left + 1} pixels"
    if ax is None:
        fig = style.figure(5.8, max(2.6, min(8.0, 4.4 * H / W + 1.3)), title)
        ax = fig.subplots()
    fig = ax.get_figure(root=True)  # type: ignore[assignment]
    largest = float(heat.max()) or 1.0
    picture = ax.imshow(heat / largest, cmap="Oranges", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    frame = {"fill": False, "edgecolor": style.BLUE, "linewidth": 2.0, "clip_on": False}
    ax.add_patch(Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, **frame))  # type: ignore[arg-type]
    ax.set_xlim(min(-0.5, left - 1), max(W - 0.5, right + 1))
    ax.set_ylim(max(H - 0.5, bottom + 1), min(-0.5, top - 1))
    ax.add_patch(Rectangle((-0.5, -0.5), W, H, fill=False, edgecolor=style.QUIET, linewidth=1))
    inside = _share(heat)
    note_ = f"output pixel ({row}, {column}) of {OH} x {OW}; blue: what it can see of the image of {H} x {W}"
    most = f"colour: mean |gradient|, 90 % of which lie within {inside:,} of its pixels"
    ax.set_xlabel(f"{note_}\n{most}", fontsize=style.LABEL, color=style.INK)
    ax.tick_params(colors=style.INK, labelsize=style.SMALL)
    for side in ax.spines.values():
        side.set_visible(False)
    style.colour_bar(fig, ax, picture, "share of the peak")
    return fig


def _share(heat: np.ndarray, part: float = 0.9) -> int:
    """How few pixels hold a part of the whole."""
    ordered = np.sort(heat, axis=None)[::-1]
    total = ordered.sum()
    return int(np.searchsorted(np.cumsum(ordered), part * total) + 1) if total > 0 else 0


def _reach(
    root: Node, leaf: Tensor, pixel: tuple[int, int], ran: dict[Node, tuple[tuple, dict[str, Any], tuple[int, ...]]]
) -> tuple[int, int, int, int]:
    """First and last row and column of the image that a pixel of the result depends on, padding included."""
    H, W = leaf.shape[2:]
    found: dict[Any, tuple[int, int, int, int]] = {root: (pixel[0], pixel[0], pixel[1], pixel[1])}
    for node in sorted(ran, key=lambda node: -node.sequence):
        if node not in found:
            continue
        for i, edge in enumerate(node.edges):
            if edge is None:
                continue
            shapes, params, y = ran[node]
            area = _area(node.name, found[node], shapes[i], shapes, params, y)
            if edge in found:
                others = found[edge]
                area = min(area[0], others[0]), max(area[1], others[1]), min(area[2], others[2]), max(area[3], others[3])
            found[edge] = area
    return found.get(leaf, (0, H - 1, 0, W - 1))


def _area(
    op: str,
    area: tuple[int, int, int, int],
    x: tuple[int, ...],
    shapes: tuple,
    params: dict[str, Any],
    y: tuple[int, ...],
) -> tuple[int, int, int, int]:
    """The rows and columns of an input that an area of the result depends on."""
    bounds: list[int] = []
    for axis in (0, 1):
        low, high = area[2 * axis], area[2 * axis + 1]
        if op in ("conv2d", "conv2d_relu", "conv_transpose2d", "max_pool2d", "avg_pool2d"):
            kernel = params["kernel_size"][axis] if "pool2d" in op else shapes[1][2 + axis]
            stride, dilation = params["stride"][axis], params.get("dilation", (1, 1))[axis]
            padding = params["padding"][axis]
            before = padding[0] if isinstance(padding, tuple) else padding
            extent = dilation * (kernel - 1)
            if op == "conv_transpose2d":
                low, high = math.ceil((low + before - extent) / stride), (high + before) // stride
            else:
                if params.get("pool", 1) == 2:
                    low, high = 2 * low, 2 * high + 1
                low, high = low * stride - before, high * stride - before + extent
        elif len(x) != 4 or len(y) != 4 or x[2:] != y[2:]:
            low, high = 0, (x[2 + axis] if len(x) == 4 else 1) - 1  # all of it
        bounds += [low, high]
    return bounds[0], bounds[1], bounds[2], bounds[3]
