"""How the pictures look: colours, sizes and the few shapes they share.

Colours and sizes are set on each figure, never in matplotlib's global settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from minidl.errors import ShapeError

INK = "#222222"
QUIET = "#666666"
FAINT = "#999999"
LINE = "#cccccc"
BLUE = "#0072b2"  # this blue and this orange stay apart for every kind of colour blindness (Okabe and Ito)
ORANGE = "#d55e00"
SIGNED = "RdBu_r"  # blue below 0, white at 0, red above
POSITIVE = "viridis"

TITLE, LABEL, SMALL = 12, 9, 8  # font sizes in points


def figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of a size in inches with a title on top."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, compress=True)  # compress: tight around images
    fig = Figure(figsize=(width, height), dpi=130, facecolor="white", layout=layout)
    fig.suptitle(title, fontsize=TITLE, color=INK)
    return fig


def title_width(title: str) -> float:
    """About how many inches a title takes, with some space beside it."""
    return 0.3 + 0.098 * max(map(len, title.split("\n"))) if title else 0.0


def panel(axes: Axes) -> None:
    """A plain frame for curves: two axes, a faint grid, dark text."""
    axes.set_facecolor("white")
    axes.grid(True, color=LINE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=INK, labelsize=LABEL)


def part_of(cmap: str, low: float, high: float) -> Colormap:
    """The part of a colour map between two fractions, so that even its smallest value is seen on white."""
    return LinearSegmentedColormap.from_list(cmap, colormaps[cmap](np.linspace(low, high, 256)))


def ink_on(colour: Sequence[float] | np.ndarray) -> str:
    """Black or white, whichever stands out more: a contrast of at least 4.5 on any colour (WCAG 2)."""
    rgb = np.asarray(colour[:3], dtype=float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def class_names(op: str, classes: Sequence[Any] | None, count: int) -> list[str]:
    """The names of the classes as texts; their numbers where none are given."""
    names = [str(name) for name in (range(count) if classes is None else classes)]
    if len(names) != count:
        raise ShapeError.of(op, f"{count} classes", f"{len(names)} names")
    return names


def colour_bar(fig: Figure, axes: Axes, mappable: ScalarMappable, label: str, form: Any = None) -> None:
    """A slim colour bar, of one width for figures of any height."""
    bar = fig.colorbar(mappable, ax=axes, shrink=0.8, pad=0.02, aspect=max(8, 6 * fig.get_figheight()), format=form)
    bar.set_label(label, fontsize=LABEL, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=SMALL)
    bar.outline.set_edgecolor(LINE)


def percent(share: float) -> str:
    """A share as text: 0.9984 is ``99.8 %``."""
    return f"{100 * share:.1f} %"


def tiles(
    axes: Axes,
    pictures: Sequence[np.ndarray] | np.ndarray,
    captions: Sequence[str],
    columns: int,
    caption_height: float,
    **show: Any,
) -> None:
    """Lay pictures of one size out in a grid on one pair of axes, each with a caption above it.

    The width of a picture is the unit of length. One pair of axes for all is what keeps grids of
    hundreds of tiles fast.

    Args:
        axes: where to draw.
        pictures: arrays (H, W) or (H, W, 3).
        captions: one text per picture.
        columns: pictures per row.
        caption_height: space above each row.
        show: options of ``imshow``.
    """
    gap = 0.12
    tall = pictures[0].shape[0] / pictures[0].shape[1]
    rows = -(-len(pictures) // columns)
    step = caption_height + tall + gap
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        row, column = divmod(i, columns)
        left, top = column * (1 + gap), row * step + caption_height
        axes.imshow(picture, extent=(left, left + 1, top + tall, top), interpolation="nearest", **show)
        axes.add_patch(Rectangle((left, top), 1, tall, fill=False, edgecolor=LINE, linewidth=0.6))
        text: dict[str, Any] = {"ha": "center", "va": "baseline", "fontsize": SMALL, "color": INK, "linespacing": 1.1}
        axes.annotate(caption, (left + 0.5, top), (0, 4), textcoords="offset points", **text)
    axes.set(xlim=(-0.02, columns * (1 + gap) - gap + 0.02), ylim=(rows * step - gap + 0.02, 0), aspect="equal")
    axes.set_axis_off()


def tiles_size(count: int, columns: int, tall: float, caption_height: float) -> tuple[float, float]:
    """Width and height that ``tiles`` takes, in widths of a picture."""
    rows = -(-count // columns)
    return columns * 1.12, rows * (tall + caption_height + 0.12)
