"""What training does inside of a model: the spread of its numbers step by step, and the surface that it walks down on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minidl.backend import to_device, to_numpy
from minidl.context import no_grad
from minidl.errors import ArgumentError, DtypeError
from minidl.nn import Module
from minidl.ops._arguments import choice, describe, integer, number
from minidl.tensor import Parameter
from minidl.viz import _style as style

_PANELS = 12
_ROWS = 96  # of a heat map


def histograms(recorded: Any, kind: str = "activations") -> Figure:
    """How the numbers of each layer were spread while training ran: a panel per layer, a column per recorded step.

    The darker, the more of the layer's numbers lie there. The line is the median, and the two thin lines hold nine in ten
    numbers between them. The share of zeros stands in the title: a ReLU layer near 100 % is dead.

    Args:
        recorded: a ``Histograms`` callback of minidl.train that has watched ``fit``.
        kind: "activations" (what layers return) or "gradients" (of weights).

    Raises:
        DtypeError: something that holds no records.
        ArgumentError: another kind, or nothing recorded.

    >>> import minidl as md
    >>> from minidl import nn
    >>> from minidl.train.histograms import Histograms
    >>> model, recorded = nn.Sequential(nn.Linear(4, 2, rng=0)), Histograms(every=1)
    >>> batches = [(md.randn(8, 4, rng=i), md.tensor([0, 1] * 4)) for i in range(4)]
    >>> history = md.fit(model, batches, optimizer=md.optim.SGD(model.parameters(), lr=0.1), epochs=1, callbacks=[recorded])
    >>> md.viz.histograms(recorded, "gradients").get_suptitle()
    'Gradients of weights over 4 recorded steps'
    """
    op = "histograms"
    choice(op, "kind", kind, ("activations", "gradients"))
    records = getattr(recorded, "records", None)
    if not isinstance(records, dict) or kind not in records:
        raise DtypeError.of(op, "the callback minidl.train.Histograms", describe(recorded))
    layers = records[kind]
    if not layers:
        raise ArgumentError.of(op, "at least one record", "none", "Pass the callback to fit first.")
    steps = max(map(len, layers.values()))
    what = "What layers return" if kind == "activations" else "Gradients of weights"
    title = f"{what} over {steps} recorded step{'s' if steps > 1 else ''}"
    shown = list(layers.items())[:_PANELS]
    if len(layers) > len(shown):
        title += f", the first {len(shown)} of {len(layers)} layers"
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    fig = style.figure(3.5 * columns + 0.8, 2.3 * rows + 1.0, title)
    panels = fig.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel()[len(shown) :]:
        axes.set_axis_off()
    for axes, (name, rows_) in zip(panels.ravel(), shown):
        _spread(axes, name, rows_)
    for axes in panels.ravel()[: len(shown)][-columns:]:  # the lowest of each column
        axes.set_xlabel("step", fontsize=style.LABEL, color=style.INK)
    for axes in panels[:, 0]:
        axes.set_ylabel("value" if kind == "activations" else "gradient", fontsize=style.LABEL, color=style.INK)
    median, _, outer = panels[0, 0].lines
    legend = fig.legend(
        [median, outer],
        ["median", "5 % and 95 %: nine in ten numbers lie between"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=style.LABEL,
    )
    for text in legend.get_texts():
        text.set_color(style.INK)
    mappable = ScalarMappable(PowerNorm(0.4, 0, 1), "Blues")
    style.colour_bar(fig, panels, mappable, "share of the fullest cell")  # type: ignore[arg-type]
    return fig


def _spread(axes: Axes, name: str, records: list[dict[str, Any]]) -> None:
    """One panel."""
    style.panel(axes)
    low = min(float(r["quantiles"][0]) for r in records)
    high = max(float(r["quantiles"][-1]) for r in records)
    room = 0.35 * (high - low) or max(1e-12, 0.1 * abs(high))
    low = max(low - room, min(r["low"] for r in records))
    high = min(high + room, max(r["high"] for r in records))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    grid = np.linspace(low, high, _ROWS + 1)
    heat = np.stack([_density(record, grid) for record in records], axis=1)
    steps = np.array([record["step"] for record in records], dtype=float)
    half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
    middles = (steps[1:] + steps[:-1]) / 2
    edges = np.concatenate([[steps[0] - half], middles, [steps[-1] + half]])
    heat = heat / (np.quantile(heat, 0.995) or 1)
    axes.pcolormesh(edges, grid, np.clip(heat, 0, 1), cmap="Blues", norm=PowerNorm(0.4, 0, 1), rasterized=True)
    quantiles = np.array([record["quantiles"] for record in records])
    marker = "." if len(records) == 1 else ""
    axes.plot(steps, quantiles[:, 1], color=style.ORANGE, linewidth=1.4, marker=marker)
    for i in (0, 2):
        axes.plot(steps, quantiles[:, i], color=style.ORANGE, linewidth=0.7, marker=marker)
    zeros = records[-1]["zeros"]
    text = f"{name}, {style.percent(zeros)} zeros at the end" if zeros >= 0.0005 else name
    axes.set_title(text, fontsize=style.LABEL, color=style.INK, loc="left")
    axes.grid(False)
    axes.set_ylim(low, high)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.yaxis.get_offset_text().set_fontsize(style.SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _density(record: dict[str, Any], grid: np.ndarray) -> np.ndarray:
    """The share of a record's numbers in each cell of the grid, from its cumulative histogram."""
    edges = np.linspace(record["low"], record["high"], len(record["counts"]) + 1)
    below = np.concatenate([[0.0], np.cumsum(record["counts"])]) / max(1, int(np.sum(record["counts"])))
    if not record["high"] > record["low"]:
        return ((grid[:-1] <= record["low"]) & (record["low"] < grid[1:])).astype(float)
    return np.diff(np.interp(grid, edges, below, left=0.0, right=1.0))


def loss_surface(
    model: Module, loss: Callable[[Module], Any], span: float = 1.0, points: int = 21, seed: int = 0, ax: Axes | None = None
) -> Figure:
    """The loss around a model's weights, along two random directions: a valley that is wide and smooth, or narrow and rough.

    Formula:
        f(a, b) = loss(w + a d + b e),  d, e random; each filter of d and e is as long as that filter of w
    Args:
        model: runs in evaluation mode; its weights are put back bit for bit.
        loss: takes the model and returns its loss, a number or a tensor of one, always on the same data.
        span: the directions go from -span to span; 1 is as far as the weights are from 0.
        points: numbers along each axis; an odd one, so that the model itself is among them. ``loss`` runs points^2 times.
        seed: of the directions.
        ax: draw here; a figure of its own otherwise.

    Notes:
        Biases and the parameters of normalisations stay: they have no filters to be measured by. Two directions of
        millions show little; the same two, with the same seed, compare models of one architecture.

    Raises:
        DtypeError: a model that is not a Module, or a loss that is no function of it.
        ArgumentError: an even number of points or fewer than 3, a span of 0, or a loss that is nowhere finite.

    Source:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", 2018.

    >>> import minidl as md
    >>> from minidl import nn
    >>> model, x = nn.Linear(4, 1, rng=0), md.randn(16, 4, rng=1)
    >>> figure = md.viz.loss_surface(model, lambda model: md.square(model(x)).mean(), points=5)
    >>> figure.axes[0].get_xlabel()
    'along the first direction'
    """
    op = "loss_surface"
    if not isinstance(model, Module):
        raise DtypeError.of(op, "model as a Module", describe(model))
    if not callable(loss):
        raise DtypeError.of(op, "loss as a function of the model", describe(loss))
    points, span = integer(op, "points", points, 3), number(op, "span", span, 0)
    if points % 2 == 0:
        raise ArgumentError.of(op, "an odd number of points", str(points))
    if span == 0:
        raise ArgumentError.of(op, "span above 0", "0")
    places = np.linspace(-span, span, points)
    surface = _surface(model, loss, places, seed)
    if not np.isfinite(surface).any():
        raise ArgumentError.of(op, "a loss that is finite somewhere", "NaN or infinity everywhere")
    centre = surface[points // 2, points // 2]
    if ax is None:
        fig = style.figure(6.6, 5.2, f"Loss around the weights: {centre:.3g} in the middle")
        ax = fig.subplots()
    fig = ax.get_figure(root=True)  # type: ignore[assignment]
    finite = surface[np.isfinite(surface)]
    low, high = float(finite.min()), float(finite.max())
    logarithmic = low > 0 and high > 5 * low
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high if high > low else low + 1)
    levels = np.geomspace(low, high, 15) if logarithmic else np.linspace(low, high if high > low else low + 1, 15)
    shown = np.ma.masked_invalid(surface)
    ax.contourf(places, places, shown, levels=levels, norm=norm, cmap=style.POSITIVE, extend="neither")
    lines = ax.contour(places, places, shown, levels=levels, norm=norm, colors="white", linewidths=0.6, alpha=0.7)
    ax.clabel(lines, list(levels[1::3]), fmt=lambda value: f"{value:.2g}", fontsize=style.SMALL)

    def ink(value: float) -> str:
        """What can be read on the colour of a loss."""
        return style.ink_on(colormaps[style.POSITIVE](float(norm(value))))

    for text in lines.labelTexts:
        text.set_color(ink(float(text.get_text())))
    ax.plot([0], [0], "o", markersize=8, markerfacecolor=style.ORANGE, markeredgecolor="white")
    here = ink(centre) if math.isfinite(centre) else style.INK
    ax.annotate("the model", (0, 0), (9, 9), textcoords="offset points", fontsize=style.LABEL, color=here)
    ax.set(aspect="equal", facecolor=style.LINE)
    ax.set_xlabel("along the first direction", fontsize=10, color=style.INK)
    ax.set_ylabel("along the second", fontsize=10, color=style.INK)
    ax.tick_params(colors=style.INK, labelsize=style.LABEL)
    ticks = [t for t in (m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5)) if low <= t <= high]
    bar = fig.colorbar(ScalarMappable(norm, style.POSITIVE), ax=ax, shrink=0.85, pad=0.02)
    if logarithmic and len(ticks) > 1:
        bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
        bar.minorticks_off()
    bar.set_label("loss", fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(colors=style.INK, labelsize=style.SMALL)
    return fig


def _surface(model: Module, loss: Callable[[Module], Any], places: np.ndarray, seed: int) -> np.ndarray:
    """The loss at each place; row: second direction, column: first."""
    rng = np.random.default_rng(seed)
    weights = [p for p in model.parameters() if p.ndim > 1]
    if not weights:
        raise ArgumentError.of("loss_surface", "a model with weights of two axes or more", type(model).__name__)
    bases = [p._array for p in weights]
    directions = [[_direction(p, rng) for p in weights] for _ in range(2)]
    modes = [(module, module.training) for module in model.modules()]
    surface = np.empty((len(places), len(places)))
    try:
        model.eval()
        with no_grad():
            for i, b in enumerate(places):
                for j, a in enumerate(places):
                    for p, base, d, e in zip(weights, bases, *directions):
                        p._array = base + base.dtype.type(a) * d + base.dtype.type(b) * e
                    value = float(loss(model))
                    surface[i, j] = value if math.isfinite(value) else math.nan
    finally:
        for p, base in zip(weights, bases):
            p._array = base
        for module, training in modes:
            module.training = training
    return surface


def _direction(p: Parameter, rng: np.random.Generator) -> Any:
    """Random numbers of the parameter's shape, each filter (or row) as long as that of the parameter."""
    w = to_numpy(p._array)
    d = rng.standard_normal(w.shape)
    axes = tuple(range(1, w.ndim))
    lengths = np.sqrt((d * d).sum(axes, keepdims=True))
    d *= np.sqrt((w.astype(np.float64) ** 2).sum(axes, keepdims=True)) / np.where(lengths > 0, lengths, 1)
    return to_device(d.astype(w.dtype), p.device)
