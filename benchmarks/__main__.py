"""``python -m benchmarks cpu [--quick]`` or ``gpu`` measures; ``python -m benchmarks report FILE.json`` renders it again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cases, machine, peers, report, suite

RESULTS = Path(__file__).parent / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="minidl against other frameworks on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    cpu = commands.add_parser("cpu", help="measure on the CPU, write JSON, Markdown and a picture to benchmarks/results/")
    gpu = commands.add_parser("gpu", help="the same on an NVIDIA GPU, with CuPy and PyTorch")
    for command, names, example in ((cpu, peers.PEERS, "cifar_cnn 'conv3-*'"), (gpu, peers.GPU_PEERS, "gpu-cifar_cnn")):
        command.add_argument("--quick", action="store_true", help="less of everything, under two minutes")
        command.add_argument("--cases", nargs="+", default=[], metavar="NAME", help=f"names or patterns, such as {example}")
        command.add_argument("--peers", nargs="+", default=[], metavar="NAME", help=f"among {', '.join(names)}")
        command.add_argument("--threads", type=int, default=machine.usable_cores(), help="of every framework")
        command.add_argument(
            "--python", nargs="+", default=[], metavar="PEER=PATH", help="the interpreter of a peer that is installed elsewhere"
        )
        command.add_argument("--out", type=Path, help="the JSON file to write")
        command.add_argument("--list", action="store_true", help="print the names of cases and peers, and stop")
    render = commands.add_parser("report", help="write the Markdown and the picture of a JSON file again")
    render.add_argument("file", type=Path, help="a JSON file that cpu or gpu wrote")
    render.add_argument("--readme", type=Path, help="a Markdown file whose table between the marks is replaced too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; mistakes end with one line and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return _report(options) if options.command == "report" else _measure(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _measure(options: argparse.Namespace) -> int:
    gpu = options.command == "gpu"
    table = cases.GPU_CASES if gpu else cases.CASES
    if options.list:
        for case in table.values():
            print(f"{case.name:<20} {case.kind:<10} {case.title}: {', '.join(case.targets)}")
        print(f"\npeers: {', '.join(peers.GPU_PEERS if gpu else peers.PEERS)}")
        return 0
    if not 1 <= options.threads <= machine.usable_cores():
        raise ValueError(f"--threads: expected 1 to {machine.usable_cores()}, got {options.threads}.")
    modes = (suite.GPU_FULL, suite.GPU_QUICK) if gpu else (suite.FULL, suite.QUICK)
    mode = modes[options.quick]
    chosen = cases.choose(options.cases, options.quick, table)
    configurations = peers.choose(options.peers, options.quick, gpu)
    names = [case.name for case in chosen]
    ending = "-quick" if options.quick else ""
    path = options.out or RESULTS / f"{options.command}-{machine.slug(options.threads, mode.device)}{ending}.json"
    start = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {text}", flush=True)

    run = suite.Suite(mode, options.threads, peers.interpreters(options.python), say)
    try:
        run.ceilings()
        run.start(configurations)
        for case in chosen:
            run.case(case)
            for result in run.data["results"][-len(case.targets) :]:
                say(_line(run.data, result))
        if mode.first_step in names:
            say("start-up")
            run.starts()
        if set(mode.memory) & set(names):
            say("memory")
            run.memory(name for name in mode.memory if name in names)
        run.ceilings()
    finally:
        run.close()
        if run.data["results"]:
            written = report.write(run.data, path)
    print(f"\n{report.markdown(run.data)}\n" + "\n".join(map(str, written)))
    return 1 if any(result["errors"] for result in run.data["results"]) else 0


def _line(data: report.Data, result: report.Data) -> str:
    """One result for the terminal."""
    what = f"{result['case']:<18} {result['measure']:<20}"
    ours = report.best(data, result, "minidl")
    if ours is None:
        return f"{what} {result['errors'].get('minidl', 'not timed')}"
    others = [
        f"{peer} {found[1]:.3g} ({found[1] / ours[1]:.2f}x)"
        for peer in report.measured_peers(data)
        if (found := report.best(data, result, peer))
    ]
    return (
        f"{what} {ours[1]:>8.3g} ms   "
        + ", ".join(others)
        + "".join(f"   ERROR {name}: {text[:150]}" for name, text in result["errors"].items())
    )


def _report(options: argparse.Namespace) -> int:
    data = report.load(options.file)
    paths = report.render(data, options.file)
    if options.readme:
        report.write_readme(data, options.readme, options.file.with_suffix(".png"))
        paths.append(options.readme)
    print("\n".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
