"""Which machine, and which versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minidl.backend import cupy


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


def gpu_name() -> str:
    """As the maker calls the first GPU.

    Raises:
        DeviceError: no CuPy, or no GPU.
    """
    return cupy().cuda.runtime.getDeviceProperties(0)["name"].decode()


def _gpu() -> dict[str, str]:
    """The GPU and the versions of what drives it."""
    runtime = cupy().cuda.runtime
    driver, toolkit = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    return {"gpu": gpu_name(), "driver": _cuda_version(driver), "cuda": _cuda_version(toolkit), "cupy": cupy().__version__}


def _cuda_version(number: int) -> str:
    """12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


def describe(device: str = "cpu") -> dict[str, Any]:
    """For the head of a report."""
    return {
        **(_gpu() if device == "cuda" else {}),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("numpy", "numba", "llvmlite")},
    }


def slug(threads: int, device: str = "cpu") -> str:
    """The machine's name for a file: ``amd-epyc-9r14-2-threads``, ``nvidia-h200``."""
    name = gpu_name() if device == "cuda" else cpu_name()
    words = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", " ", name, flags=re.IGNORECASE)
    ending = "" if device == "cuda" else f" {threads} threads"
    return re.sub(r"[^a-z0-9]+", "-", f"{words}{ending}".lower()).strip("-")


def busy_share(seconds: float = 1.0) -> float | None:
    """How much of all cores other programs take while this one sleeps; None where the system does not tell."""
    if not Path("/proc/stat").exists():
        return None
    before = _ticks()
    time.sleep(seconds)
    total, idle = (now - then for now, then in zip(_ticks(), before))
    return 1 - idle / total if total else None


def _ticks() -> tuple[int, int]:
    """Processor time since the start of the system, and how much of it was idle or waited for disks."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(numbers), numbers[3] + numbers[4]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
