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
    ax.annotate(
        flat,
        (span[1], top.gflops),
        (0, -5),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=style.SMALL,
        color=style.INK,
    )
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
    named = [(row.name, row.phase, row.seconds / total) for row in shown[:_NAMED] if row.seconds >= 0.005 * total]
    radii = np.sqrt([30 + 900 * row.seconds / total for row in shown]) / 2
    _name(ax, named, x, y, radii, (len(flat), top.gflops))
    ax.set_xlabel("FLOPs per byte moved", fontsize=10, color=style.INK)
    ax.set_ylabel("GFLOP/s", fontsize=10, color=style.INK)
    handles = ax.legend(loc="lower right", frameon=False, fontsize=style.LABEL, title="size: share of the time")
    handles.get_title().set_fontsize(style.SMALL)
    for handle in handles.legend_handles:
        handle.set_sizes([50])  # type: ignore[union-attr]
    return fig


def _name(
    ax: Axes, points: list[tuple[str, str, float]], x: np.ndarray, y: np.ndarray, radii: np.ndarray, flat: tuple[int, float]
) -> None:
    """Names beside the dots in their colours, each where it covers no other name and no dot; a line leads to one far off."""
    low, high = np.log10(ax.get_xlim()), np.log10(ax.get_ylim())
    wide, tall, letter = 560.0, 300.0, 4.6  # about, of the axes and of a letter in points
    left = (np.log10(x) - low[0]) / (low[1] - low[0]) * wide
    up = (np.log10(y) - high[0]) / (high[1] - high[0]) * tall
    ceiling = (np.log10(flat[1]) - high[0]) / (high[1] - high[0]) * tall - 9
    # What is there already: the left end, the lower and upper edge and the right end of dots and names, in points.
    taken = [(a - r, b - r, b + r, a + r) for a, b, r in zip(left, up, radii)]
    taken.append((wide - letter * flat[0], ceiling - 5, ceiling + 5, wide))
    taken.append((0.0, ceiling + 8, ceiling + 10, wide))  # the flat line
    for i, (name, phase, share) in enumerate(points):
        text = f"{name}  {100 * share:.0f} %"
        room, length = 4 + radii[i], letter * len(text)
        turned = left[i] + room + length > wide
        start = left[i] - room - length if turned else left[i] + room
        others = [box for k, box in enumerate(taken) if k != i]
        shift = 0
        for step in sorted(range(-88, 89, 11), key=abs):
            place = start, up[i] + step - 5, up[i] + step + 5, start + length
            if place[1] > 0 and place[2] < tall and not any(_overlap(place, box) for box in others):
                shift = step
                break
        taken.append((start, up[i] + shift - 5, up[i] + shift + 5, start + length))
        ax.annotate(
            text,
            (x[i], y[i]),
            (-room if turned else room, shift),
            textcoords="offset points",
            ha="right" if turned else "left",
            va="center",
            fontsize=style.SMALL,
            color=style.BLUE if phase == "forward" else style.ORANGE,
            arrowprops={"arrowstyle": "-", "color": style.FAINT, "linewidth": 0.6} if abs(shift) > 11 else None,
        )


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, lower, upper, right) share some area."""
    return a[0] < b[3] and b[0] < a[3] and a[1] < b[2] and b[1] < a[2]
