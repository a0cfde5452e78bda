"""Which machine, and which versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """As the maker calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        return found.group(1).strip() if found else platform.machine()
    if platform.system() == "Darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
        ).stdout.strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """For the head of a report."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("numpy", "numba", "llvmlite")},
    }


def slug(threads: int) -> str:
    """The machine's name for a file: ``amd-epyc-9r14-2-threads``."""
    words = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", " ", cpu_name(), flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {threads} threads".lower()).strip("-")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
