"""Check every operation and layer numerically: backward against central differences in float64."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator

import numpy as np

from minidl.backend import to_device
from minidl.errors import ArgumentError
from minidl.gradcheck import GradcheckReport, gradcheck
from minidl.kernels import use_kernels
from minidl.registry import OPS, Draw
from minidl.testing.forms import as_tensors
from minidl.testing.layers import LAYERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Names, kernels, seed."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="operations or layers to check, such as conv2d or Conv2d; all by default"
    )
    parser.add_argument("--kernels", choices=("fast", "generic"), default="fast", help="compiled kernels or the textbook ones")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--verbose", action="store_true", help="print every input's line, not only the worst")


def run(options: argparse.Namespace) -> int:
    """Print the table; exit code 1 when a gradient is wrong."""
    known = [
        *(name for name, spec in OPS.items() if spec.differentiable),
        *dict.fromkeys(_split(case.name)[0] for case in LAYERS),
    ]
    for name in options.names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            raise ArgumentError(
                f"expected the name of a differentiable operation or a layer, got {name!r}."
                + (f" Did you mean {', '.join(near)}?" if near else "")
            )
    if options.seed < 0:
        raise ArgumentError(f"--seed: expected at least 0, got {options.seed}.")
    to_device(np.empty(0), options.device)  # refuses a GPU that is not there before the table begins
    names = set(options.names or known)
    print(f"{'op':<33} {'sample':<34} {'worst rel. error':>16}  {'where':<24} verdict")
    counts = {"ok": 0, "kink": 0, "FAIL": 0}
    with use_kernels(options.kernels):
        for sample, report in _reports(names, options.seed, options.device):
            worst = report.worst
            assert worst is not None
            counts[worst.verdict] += 1
            place = f"{worst.name} {worst.where}"
            print(f"{report.operation:<33} {sample:<34} {worst.error:>16.1e}  {place:<24} {worst.verdict}", flush=True)
            if options.verbose or worst.verdict == "FAIL":
                for entry in report.inputs:
                    print(f"    {entry}")
    print(f"{sum(counts.values())} checks: {counts['ok']} ok, {counts['kink']} on a kink, {counts['FAIL']} failed")
    return 1 if counts["FAIL"] else 0


def _reports(names: set[str], seed: int, device: str) -> Iterator[tuple[str, GradcheckReport]]:
    for name, spec in OPS.items():
        if name in names and spec.differentiable:
            for i, sample in enumerate(spec.samples(Draw(seed))):
                if sample.differentiable:
                    call = lambda *args, spec=spec, sample=sample: spec.function(*args, **sample.kwargs)  # noqa: E731
                    yield (
                        sample.name or f"sample {i}",
                        gradcheck(call, as_tensors(sample.args, device=device), wrt=sample.differentiable, name=name),
                    )
    for case in LAYERS:
        name, variant = _split(case.name)
        if name in names:
            yield (
                variant or "defaults",
                gradcheck(case.make().to(device), as_tensors(case.inputs(Draw(seed)), device=device), name=name),
            )


def _split(name: str) -> tuple[str, str]:
    """The layer and the variant of it: ``"Conv2d, depthwise"``."""
    layer, _, variant = name.partition(", ")
    return layer, variant
