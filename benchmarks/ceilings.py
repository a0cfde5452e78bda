"""The machine's two ceilings: how fast a matrix product and a copy of memory are, on all its threads or on its GPU.

No kernel computes much more than the product or moves more than the copy, so the larger of operations / product and
bytes / copy is the least time that a case can take. (Winograd's convolution beats it: it does fewer operations.)
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.peers import OURS, environment

SIZE = 2048  # of the square matrices
COPIED = 1 << 27  # bytes per thread: more than caches hold
GPU_SIZE, GPU_COPIED = 8192, 1 << 30  # the same on a GPU
REPEATS = 7


def measure(threads: int, device: str = "cpu") -> dict[str, float]:
    """Both ceilings, measured in a process of its own: GFLOP/s in float32, and GB/s read and written together."""
    command = [sys.executable, "-m", "benchmarks.ceilings", str(threads), device]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run(command, env=environment(OURS, threads), cwd=root, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def _fastest(step: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def product_gflops(threads: int) -> float:
    """A float32 matrix product in the faster of NumPy and, where it is installed, PyTorch."""
    a = np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32)
    y = np.empty_like(a)
    seconds = _fastest(lambda: np.matmul(a, a, out=y))
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        b = torch.from_numpy(a)
        time.sleep(0.5)  # NumPy's threads spin for a while after their last product
        seconds = min(seconds, _fastest(lambda: torch.mm(b, b)))
    return 2 * SIZE**3 / seconds / 1e9


def copy_gbs(threads: int) -> float:
    """NumPy's copy, one thread per part; NumPy lets other threads run meanwhile."""
    pairs = [(np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _fastest(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))
    return 2 * COPIED * threads / seconds / 1e9


def on_gpu() -> dict[str, float]:
    """Both ceilings of a GPU, with cuBLAS in float32 proper, without TF32, and a copy from one array to another."""
    import cupy as cp

    def fastest(step: Callable[[], object]) -> float:
        def finished() -> None:
            for _ in range(10):
                step()
            cp.cuda.Device().synchronize()

        finished()
        return _fastest(finished) / 10

    a = cp.random.default_rng(0).standard_normal((GPU_SIZE, GPU_SIZE), dtype=cp.float32)
    y = cp.empty_like(a)
    product = fastest(lambda: cp.matmul(a, a, out=y))
    x = cp.zeros(GPU_COPIED // 4, cp.float32)
    z = cp.empty_like(x)
    copy = fastest(lambda: cp.copyto(z, x))
    return {"product_gflops": 2 * GPU_SIZE**3 / product / 1e9, "copy_gbs": 2 * x.nbytes / copy / 1e9}


if __name__ == "__main__":
    count = int(sys.argv[1])
    if sys.argv[2] == "cuda":
        print(json.dumps(on_gpu()))
    else:
        print(json.dumps({"product_gflops": product_gflops(count), "copy_gbs": copy_gbs(count)}))
