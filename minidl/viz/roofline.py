"""The roofline of a profile: how near each operation comes to what the machine can do."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minidl.errors import ArgumentError, DtypeError
from minidl.ops._arguments import describe, integer
from minidl.profile import Profile
from minidl.viz import _style as style

_NAMED = 10  # points with a name


def roofline(profile: Profile, by: str = "module", limit: int = 30, ax: Axes | None = None) -> Figure:
    """Where operations lie below the machine's ceilings: the closer to the line, the less there is to gain.

    To the right stand operations that compute much with each byte they move. The slope on the left is the machine's
    copy, the flat line its matrix product. The larger a dot, the more time it takes. Winograd's convolution may lie
    above the line, because it computes less than the definition, which is what counts here.

    Args:
        profile: of ``minidl.profile``, with operations that compute something.
        by: a dot for each "module" or each "op".
        limit: how many dots at most, those that take longest.
        ax: draw here; a figure of its own otherwise.

    Raises:
        DtypeError: no profile.
        ArgumentError: another ``by``, or a profile without operations that have a formula.

    Source:
        Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model", 2009.

    >>> import minidl as md
    >>> from minidl.profile import Ceilings, profile
    >>> with profile(Ceilings(gflops=100, gbs=20)) as p:
    ...     y = md.ones(64, 64) @ md.ones(64, 64)
    >>> md.viz.roofline(p, "op").axes[0].get_xlabel()
    'FLOPs per byte moved'
    """
    if not isinstance(profile, Profile):
        raise DtypeError.of("roofline", "a Profile", describe(profile))
    rows = [row for row in profile.rows(by) if row.flops and row.nbytes and row.seconds]
    if not rows:
        raise ArgumentError.of("roofline", "operations that compute and move numbers", f"none in {profile!r}")
    shown = rows[: integer("roofline", "limit", limit, 1)]
    top = profile.ceilings
    if ax is None:
        fig = style.figure(9.0, 5.4, f"Roofline, by {'module' if by == 'module' else 'operation'}")
        ax = fig.subplots()
    fig = ax.get_figure(root=True)  # type: ignore[assignment]
    style.panel(ax)
    x = np.array([row.flops / row.nbytes for row in shown])
    y = np.array([row.gflops for row in shown])
    ridge = top.gflops / top.gbs
    span = np.array([min(x.min(), ridge) / 2.5, max(x.max(), ridge) * 6])
    line = np.array([span[0], ridge, span[1]])
    ax.plot(line, np.minimum(line * top.gbs, top.gflops), color=style.INK, linewidth=1.6, zorder=2)
    flat = f"matrix product: {top.gflops:.3g} GFLOP/s"
    ax.annotate(flat, (ridge, top.gflops), (0, 5), textcoords="offset points", fontsize=style.SMALL, color=style.INK)
    corner = np.sqrt(span[0] * ridge)
    copy = f"copy: {top.gbs:.3g} GB/s"
    ax.annotate(
        copy, (corner, corner * top.gbs), (-6, 4), textcoords="offset points", ha="right", fontsize=style.SMALL, color=style.INK
    )
    total = sum(row.seconds for row in rows)
    for phase, colour, marker in (("forward", style.BLUE, "o"), ("backward", style.ORANGE, "s")):
        mine = [i for i, row in enumerate(shown) if row.phase == phase]
        if mine:
            sizes = [30 + 900 * shown[i].seconds / total for i in mine]
            look = {"alpha": 0.75, "edgecolor": "white", "linewidth": 0.8, "zorder": 3}
            ax.scatter(x[mine], y[mine], s=sizes, c=colour, marker=marker, label=phase, **look)  # type: ignore[arg-type]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*span)
    ax.set_ylim(min(y.min(), span[0] * top.gbs) / 2, max(top.gflops, y.max()) * 2.5)
    _name(ax, [(row.name, row.seconds / total) for row in shown[:_NAMED] if row.seconds >= 0.005 * total], x, y)
    ax.set_xlabel("FLOPs per byte moved", fontsize=10, color=style.INK)
    ax.set_ylabel("GFLOP/s", fontsize=10, color=style.INK)
    handles = ax.legend(loc="lower right", frameon=False, fontsize=style.LABEL, title="size: share of the time")
    handles.get_title().set_fontsize(style.SMALL)
    for handle in handles.legend_handles:
        handle.set_sizes([50])  # type: ignore[union-attr]
    return fig


def _name(ax: Axes, points: list[tuple[str, float]], x: np.ndarray, y: np.ndarray) -> None:
    """Names beside the dots, each where it covers no other name."""
    taken: list[tuple[float, float, float]] = []  # left end, height and right end of the names so far, in points
    low, high = np.log10(ax.get_xlim()), np.log10(ax.get_ylim())
    wide, tall = 560.0, 300.0  # about, of the axes in points
    for i, (name, share) in enumerate(points):
        text = f"{name}  {100 * share:.0f} %"
        left = (np.log10(x[i]) - low[0]) / (low[1] - low[0]) * wide
        up = (np.log10(y[i]) - high[0]) / (high[1] - high[0]) * tall
        room = 4 + np.sqrt(30 + 900 * share) / 2
        length = 4.6 * len(text)
        turned = left + room + length > wide
        start = left - room - length if turned else left + room
        shift = 0.0
        for step in (0, 11, -11, 22, -22, 33, -33, 44, -44):
            shift = float(step)
            if all(abs(up + shift - h) > 10 or start > end or start + length < begin for begin, h, end in taken):
                break
        taken.append((start, up + shift, start + length))
        ax.annotate(
            text,
            (x[i], y[i]),
            (-room if turned else room, shift),
            textcoords="offset points",
            ha="right" if turned else "left",
            va="center",
            fontsize=style.SMALL,
            color=style.INK,
        )
