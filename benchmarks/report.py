"""The JSON file of a run as Markdown, as a picture, and as the table of the README.

A ratio is another framework's median time divided by minidl's: above 1 minidl is faster. A framework that ran in
several configurations is represented by the fastest of them, case by case.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import COMPILED, GPU_PEERS, OURS, PEERS, PLAIN, TITLES

Data = dict[str, Any]
KINDS = {
    "model": "Models",
    "latency": "One image at a time",
    "growth": "Other batch sizes",
    "operation": "Single operations",
}
COLOURS = ("#d55e00", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#0072b2")  # Okabe and Ito's
MARKS = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def load(path: Path) -> Data:
    """Read a file that a run wrote.

    Raises:
        ValueError: a file of another form.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("format") != 1:
        raise ValueError(f"{path}: expected a file that `python -m benchmarks` wrote.")
    return data


# ---------------------------------------------------------------- numbers


def best(data: Data, result: Data, peer: str) -> tuple[str, float] | None:
    """A peer's fastest configuration in one result, and its median in milliseconds; None where it was not timed."""
    own = [name for name, entry in data["configurations"].items() if entry["peer"] == peer and name in result["timings"]]
    if not own:
        return None
    name = min(own, key=lambda name: result["timings"][name]["median_ms"])
    return name, result["timings"][name]["median_ms"]


def ratio(data: Data, result: Data, peer: str) -> float | None:
    """How many times longer the peer takes than minidl."""
    ours, theirs = best(data, result, OURS.peer), best(data, result, peer)
    return theirs[1] / ours[1] if ours and theirs else None


def bound_ms(data: Data, result: Data) -> float | None:
    """The least time at this machine's ceilings: products at the product's speed, bytes at the copy's."""
    if result["cost"] is None or not data["ceilings"]:
        return None
    gflops = max(entry["product_gflops"] for entry in data["ceilings"])
    gbs = max(entry["copy_gbs"] for entry in data["ceilings"])
    return max(result["cost"]["flops"] / gflops, result["cost"]["bytes"] / gbs) / 1e6


def against_target(data: Data, result: Data) -> float | None:
    """The ratio that a target speaks of: to the fastest that PyTorch offers, compiled or not; None without PyTorch.

    On a GPU it is eager PyTorch without TF32.
    """
    eager, compiled = (ratio(data, result, peer) for peer in (PLAIN, COMPILED))
    if data.get("device") == "cuda":
        return eager
    return eager if eager is None or compiled is None else min(eager, compiled)


def measured_peers(data: Data) -> list[str]:
    """The other frameworks of the run."""
    present = {entry["peer"] for entry in data["configurations"].values()}
    return [peer for peer in dict.fromkeys((*PEERS, *GPU_PEERS)) if peer in present]


def is_busy(share: float | None) -> bool:
    """Whether others use so much of the processor that times mean little."""
    return share is not None and share > 0.1


# ---------------------------------------------------------------- Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _results_table(data: Data, results: list[Data]) -> str:
    peers = measured_peers(data)
    header = ["case", "measure", "minidl ms", "quartiles", "of bound"]
    if PLAIN in peers:
        header += ["PyTorch ms", "its best configuration", "ratio", "out of the box"]
    others = [peer for peer in peers if peer != PLAIN and any(best(data, r, peer) for r in results)]
    header += [f"{TITLES[peer]} ratio" for peer in others]
    targets = any(_target(data, result) for result in results)
    header += ["target"] if targets else []
    return table(header, [_row(data, result, PLAIN in peers, others, targets) for result in results])


def _row(data: Data, result: Data, torch: bool, others: list[str], targets: bool) -> list[str]:
    title = f"{result['title']}, N={result['batch']}" if result["kind"] != "operation" else result["title"]
    ours, bound = result["timings"].get(OURS.name), bound_ms(data, result)
    if ours is None:
        cells = [title, result["measure"], "not timed", "", ""]
    else:
        share = f"{bound / ours['median_ms']:.0%}" if bound else ""
        cells = [title, result["measure"], _ms(ours["median_ms"]), f"{_ms(ours['q1_ms'])} - {_ms(ours['q3_ms'])}", share]
    if torch:
        name, median = best(data, result, PLAIN) or ("", None)
        plain = result["timings"].get(PLAIN)
        boxed = plain["median_ms"] / ours["median_ms"] if plain and ours else None
        how = name.removeprefix(PLAIN).strip() or "as it comes" if name else ""
        cells += [_ms(median), how, _times(ratio(data, result, PLAIN)), _times(boxed)]
    cells += [_times(ratio(data, result, peer)) for peer in others]
    return cells + ([_target(data, result)] if targets else [])


def _target(data: Data, result: Data) -> str:
    reached = against_target(data, result)
    if result["target"] is None or reached is None:
        return ""
    return f"{result['target']:.1f} {'met' if reached >= result['target'] else 'missed'}"


def _growth_table(data: Data, results: list[Data]) -> str:
    """Time per image at all batch sizes of the cases that have several."""
    titles = {result["title"] for result in results if result["kind"] == "growth"}
    chosen = [
        r for r in results if r["title"] in titles and r["kind"] in ("growth", "model", "latency") and OURS.name in r["timings"]
    ]
    chosen.sort(key=lambda r: (r["title"], r["measure"], r["batch"]))
    rows = []
    for result in chosen:
        medians = [best(data, result, peer) for peer in (OURS.peer, PLAIN)]
        cells = [f"{m[1] * 1e3 / result['batch']:.1f}" if m else "" for m in medians]
        rows.append([result["title"], result["measure"], str(result["batch"]), *cells])
    return table(["case", "measure", "batch", "minidl, us per image", "PyTorch best, us per image"], rows)


def _median(values: Sequence[float] | None) -> str:
    return f"{sorted(values)[len(values) // 2]:.2f}" if values else ""


def _starts_table(data: Data) -> str:
    rows = [
        [name, _median(e.get("import_s")), _median(e.get("cold_s")), _median(e.get("warm_s")) or e.get("error", "")]
        for name, e in data["starts"].items()
    ]
    return table(["", "import, s", "first step, empty compiler cache, s", "first step, s"], rows)


def _memory_table(data: Data) -> str:
    rows = []
    for row in data["memory"]:
        if "error" in row:
            rows.append([row["title"], row["configuration"], row["error"], "", ""])
        else:
            sizes = [f"{row[key] / 2**20:,.0f}" for key in ("step_bytes", "process_bytes")]
            rows.append([row["title"], row["configuration"], *sizes, f"{row['faults_per_step']:,.0f}"])
    return table(["case", "configuration", "peak of a step, MiB", "peak of the process, MiB", "page faults per step"], rows)


def slower(data: Data) -> list[str]:
    """One line for each result in which somebody beats minidl, the worst first."""
    found = []
    for result in data["results"]:
        for peer in measured_peers(data):
            r = ratio(data, result, peer)
            if r is not None and r < 1:
                what = f"{result['title']}" + (f", N={result['batch']}" if result["kind"] != "operation" else "")
                found.append((r, f"{what}, {result['measure']}: {TITLES[peer]} takes {r:.2f} of minidl's time"))
    return [line for _, line in sorted(found)]


def troubles(data: Data) -> list[str]:
    """One line for each disagreement, failure and missing framework."""
    lines = dict.fromkeys(
        f"{result['case']}, {name}: {text}" for result in data["results"] for name, text in result["errors"].items()
    )
    missing = [f"{TITLES.get(peer, peer)} is not measured: {why}" for peer, why in data["absent"].items()]
    return [*lines, *missing]


def _head(data: Data) -> list[str]:
    where = data["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    versions = {entry["peer"]: entry["version"] for entry in data["configurations"].values()}
    peers = ", ".join(f"{peer} {version}" for peer, version in versions.items() if peer != "minidl-1-thread")
    lines = [
        f"# {where['gpu']}" if "gpu" in where else f"# {where['cpu']}, {data['threads']} threads",
        f"{data['date']}, {data['mode']} run. {where['system']}, Python {where['python']}, {packages}. Measured: {peers}.",
    ]
    if "gpu" in where:
        lines.append(
            f"Driver for CUDA {where['driver']}, CUDA {where['cuda']}, CuPy {where['cupy']}. minidl replays training steps "
            "as a CUDA graph (minidl eager does not). All compute in float32 proper, but where a name says TF32; targets are "
            "against eager PyTorch without TF32."
        )
    if data["ceilings"]:
        products = " and ".join(f"{entry['product_gflops']:.0f}" for entry in data["ceilings"])
        copies = " and ".join(f"{entry['copy_gbs']:.1f}" for entry in data["ceilings"])
        lines.append(f"Ceilings, before and after: matrix product {products} GFLOP/s, copy {copies} GB/s.")
        if any(is_busy(entry["busy_share"]) for entry in data["ceilings"]):
            shares = " and ".join(f"{entry['busy_share'] or 0:.0%}" for entry in data["ceilings"])
            lines.append(
                f"**Other programs took {shares} of the processor before and after this run. Do not trust its numbers:** "
                "threads that wait for each other slow some frameworks tenfold when they must share cores."
            )
    lines.append(
        "Ratios are the other's median time divided by minidl's: above 1 minidl is faster. All frameworks computed the same "
        'values before they were timed, in turns, each in its own process. "Of bound" is the least time that the machine\'s '
        "ceilings allow, divided by minidl's; it passes 100 % where Winograd's algorithm saves operations or caches hold data."
    )
    return lines


def markdown(data: Data) -> str:
    """The whole report."""
    parts = _head(data)
    for kind, heading in KINDS.items():
        results = [result for result in data["results"] if result["kind"] == kind]
        if results:
            parts += [f"## {heading}", _results_table(data, results)]
            parts += [_growth_table(data, data["results"])] if kind == "growth" else []
    if data["starts"]:
        parts += ["## Start-up", _starts_table(data)]
    if data["memory"]:
        parts += ["## Memory of a training step", _memory_table(data)]
    for heading, lines in (("Where minidl is slower", slower(data)), ("Errors, and what is not measured", troubles(data))):
        parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines) or "Nothing."]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- README and picture


def summary_table(data: Data) -> str:
    """The models in four columns, for the README."""
    rows = []
    for result in data["results"]:
        theirs = best(data, result, PLAIN)
        if result["kind"] == "model" and theirs and OURS.name in result["timings"]:
            ours = result["timings"][OURS.name]["median_ms"]
            cells = [_ms(ours), _ms(theirs[1]), f"{theirs[1] / ours:.1f}"]
            rows.append([f"{result['title']}, {result['measure']}, batch {result['batch']}", *cells])
    return table(["", "minidl ms", "PyTorch ms", "times faster"], rows)


def write_readme(data: Data, path: Path, picture: Path) -> None:
    """Replace what stands between the marks in a Markdown file by the summary table and the picture.

    Raises:
        ValueError: a file without the marks.
    """
    text = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{path}: expected the lines {MARKS[0]} and {MARKS[1]} around the place for the table.")
    where = f"{data['machine']['cpu']}, {data['threads']} threads; PyTorch in the fastest of its eager configurations. All:"
    link = Path(os.path.relpath(picture, path.parent)).as_posix()
    block = "\n\n".join((MARKS[0], summary_table(data), where, f"![How long others take]({link})", MARKS[1]))
    path.write_text(pattern.sub(lambda _: block, text), encoding="utf-8")


def plot(data: Data, path: Path) -> bool:
    """Draw how long others take in units of minidl's time, as a PNG; False where no model was timed, or without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from minidl.viz._style import INK, LABEL, SMALL, figure, panel

    results = [r for r in data["results"] if r["kind"] == "model" and OURS.name in r["timings"]]
    peers = [p for p in measured_peers(data) if p != "minidl-1-thread" and any(ratio(data, r, p) for r in results)]
    if not results or not peers:
        return False
    measures = list(dict.fromkeys(r["measure"] for r in results))
    most = max(sum(r["measure"] == measure for r in results) for measure in measures)
    fig = figure(5 * len(measures), 1.4 + 0.19 * (len(peers) + 1) * most, "How many times longer others take than minidl")
    for axes, measure in zip(fig.subplots(1, len(measures), squeeze=False, sharex=True)[0], measures):
        panel(axes)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        rows = [r for r in results if r["measure"] == measure][::-1]
        height = 0.8 / len(peers)
        for i, peer in enumerate(peers):
            ratios = [(y + 0.4 - height * (i + 0.5), ratio(data, row, peer)) for y, row in enumerate(rows)]
            drawn = [(place, value) for place, value in ratios if value is not None]
            places, values = [place for place, _ in drawn], [value for _, value in drawn]
            colour = COLOURS[i % len(COLOURS)]
            axes.barh(places, [value - 1 for value in values], height, left=1, color=colour, label=TITLES[peer])
            for place, value in drawn:
                axes.annotate(
                    f"{value:.2g}",
                    (value, place),
                    (3 if value >= 1 else -3, 0),
                    textcoords="offset points",
                    ha="left" if value >= 1 else "right",
                    va="center",
                    fontsize=SMALL,
                    color=INK,
                )
        axes.axvline(1, color=INK, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [f"{r['title']}, N={r['batch']}" for r in rows])
        axes.set_title(measure, fontsize=LABEL + 1, color=INK)
        axes.margins(x=0.18)
        axes.set_xlabel("faster than minidl  <  1  <  slower", fontsize=LABEL, color=INK)
    handles = {label: handle for axes in fig.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=SMALL, frameon=False)
    fig.savefig(path)
    return True


def write(data: Data, path: Path) -> list[Path]:
    """Write the JSON file, and the Markdown and the picture beside it; the paths of what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return [path, *render(data, path)]


def render(data: Data, path: Path) -> list[Path]:
    """Write the Markdown and the picture beside a JSON file."""
    text, picture = path.with_suffix(".md"), path.with_suffix(".png")
    text.write_text(markdown(data), encoding="utf-8")
    return [text, picture] if plot(data, picture) else [text]
