"""Measure minidl against other frameworks on this machine: runs the benchmarks of a checkout of minidl."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What goes on to ``python -m benchmarks``."""
    parser.add_argument("--quick", action="store_true", help="short for: cpu --quick")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: short for gpu")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="for python -m benchmarks, such as: cpu --cases cifar_cnn; cpu --help lists them",
    )


def run(options: argparse.Namespace) -> int:
    """Run the suite in a process of its own and return its exit code."""
    checkout = _checkout()
    arguments = options.arguments or ["gpu" if options.device == "cuda" else "cpu"]
    if options.quick:
        arguments = [*arguments, "--quick"]
    path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "benchmarks", *arguments]  # -P: not what lies in the current folder
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


def _checkout() -> Path:
    """The folder with minidl's source and its benchmarks: where the package lies, or where the user stands."""
    for folder in (PACKAGE.parent, Path.cwd()):
        if (folder / "benchmarks" / "suite.py").is_file() and (folder / "minidl").is_dir():
            return folder
    raise FileNotFoundError(
        f"the benchmarks belong to the source code and are not in the installed package ({PACKAGE}). "
        "Run this in a checkout of minidl: the folder that holds benchmarks/ and minidl/."
    )
