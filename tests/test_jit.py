"""Compiled functions that fork: every part runs once, arguments arrive as they are, several Python threads may call."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

import numba
from numba import config

from minidl.kernels.cpu import _jit
from minidl.kernels.cpu._jit import fork, serial, share, threaded, threads

PARTS = [1, 2, 3, 7]  # fewer and more than there are threads
if not config.DISABLE_JIT and numba.threading_layer() == "workqueue":  # it has no room for more
    PARTS = [parts for parts in PARTS if parts <= numba.get_num_threads()]
compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled code")


@threaded
def _count(times, who, part, parts):
    """times[i] grows by one for each i of this part."""
    if fork(part, parts):
        return
    first, last = share(times.size, part, parts)
    times = times[first:last]
    for i in range(times.size):
        times[i] += 1
    who[part] += parts


@pytest.mark.parametrize("parts", PARTS)
def test_every_part_runs_once(parts):
    """Also when there are fewer things than parts, or none."""
    for size in (0, 1, 2, 100, 10007):
        times, who = np.zeros(size, np.int64), np.zeros(8, np.int64)
        for _ in range(20):
            assert _count(parts, times, who) is None
        assert (times == 20).all()
        np.testing.assert_array_equal(who, [20 * parts] * parts + [0] * (8 - parts))


def test_shares_meet():
    """Each part begins where the one before it ends, and none is larger than another by more than one."""
    for size in (0, 1, 7, 64, 1000003):
        for parts in PARTS:
            shares = [share(size, part, parts) for part in range(parts)]
            assert [shares[0][0], *(last for _, last in shares)] == [*(first for first, _ in shares), size]
            sizes = [last - first for first, last in shares]
            assert max(sizes) - min(sizes) <= 1


def test_small_work_stays_in_one_part():
    assert threads(0) == threads(_jit.PARALLEL_MIN - 1) == 1
    assert threads(_jit.PARALLEL_MIN) == numba.get_num_threads()


@serial
def _add(x, y):
    """A callee that slices, so that it would count references."""
    for i in range(x.size):
        y[i : i + 1] += x[i]


@threaded
def _everything(a, pair, table, number, flag, factor, small, truth, none, pairs, result, one, part, parts):
    """Arrays of all kinds and depths, tuples of them, integers and floats; each part writes its own row of ``result``."""
    if fork(part, parts):
        return
    first, second = pair
    (x, (y, z)), k = pairs
    row = result[part]
    row[0] = a.sum()
    row[1] = first.size + second[-1]
    row[2] = table[1, 2]
    row[3] = number
    row[4] = flag
    row[5] = factor
    for i in range(small.size):
        row[6] += small[i]
        row[7] += truth[i]
    row[8] = none.size
    row[9] = x[0] + y[0, 0] + z[0] + k[0] + k[2]
    _add(a, row[10:])
    one[part] = part + 1


def arguments(parts):
    byte = np.arange(5, dtype=np.uint8)
    pairs = (np.array([10], np.uint8), (np.array([[20.0]]), np.array([True]))), (100, 200, 300)
    return (
        np.array([1.5, 2.5], np.float32),
        (byte, np.array([7, 8], np.int64)),
        np.arange(12.0).reshape(3, 4)[:, ::-1],  # not contiguous
        1 << 40,
        True,
        0.25,
        byte,
        np.array([True, False, True, True, False]),
        np.empty((0, 3), np.uint8),
        pairs,
        np.zeros((parts, 12)),
        np.zeros(parts, np.uint8),
    )


@pytest.mark.parametrize("parts", PARTS)
def test_all_arguments_arrive(parts):
    """Arrays of bytes and truth values, which a fork must not take for counts of references, and empty ones, and tuples."""
    made = arguments(parts)
    _everything(parts, *made)
    want = [4, 13, 5, 1 << 40, 1, 0.25, 10, 3, 0, 431, 1.5, 2.5]
    np.testing.assert_array_equal(made[-2], [want] * parts)
    np.testing.assert_array_equal(made[-1], np.arange(parts) + 1)


@compiled
def test_nothing_is_kept():
    """Arrays are free again afterwards: forks count no references, and so lose none."""
    made = arguments(2)
    array = made[0]
    _everything(2, *made)
    before = sys.getrefcount(array), sys.getrefcount(made[1][0]), sys.getrefcount(made[-1])
    for _ in range(100):
        _everything(2, *made)
    assert (sys.getrefcount(array), sys.getrefcount(made[1][0]), sys.getrefcount(made[-1])) == before
    assert array.tolist() == [1.5, 2.5]


@threaded
def _scale(x, y, factor, part, parts):
    if fork(part, parts):
        return
    first, last = share(x.size, part, parts)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        y[i] = x[i] * factor


@pytest.mark.parametrize("dtype", "fd")
def test_parallel_is_serial(dtype):
    """Each dtype is compiled for itself, and the number of parts changes nothing."""
    x = np.random.default_rng(0).standard_normal(1001).astype(dtype)
    for parts in PARTS:
        y = np.empty_like(x)
        _scale(parts, x, y, 3.0)
        np.testing.assert_array_equal(y, x * 3)


def test_two_python_threads_at_once():
    """Calls wait for each other where they must; each gets its own results."""
    barrier = threading.Barrier(4)

    def work(number):
        x, y = np.full(5000, float(number)), np.empty(5000)
        barrier.wait()
        for i in range(50 if config.DISABLE_JIT else 300):
            _scale(PARTS[i % len(PARTS)], x, y, float(i))
            if not (y == number * i).all():
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4), timeout=120)) == [True] * 4


@compiled
def test_calls_from_a_thread_that_is_new():
    """A thread that has never run compiled code may fork."""
    done = []
    for parts in (PARTS[1], PARTS[-1]):
        y = np.zeros(100)
        thread = threading.Thread(target=lambda y=y, parts=parts: done.append(_scale(parts, np.ones(100), y, 2.0)))
        thread.start()
        thread.join()
        assert (y == 2).all()
    assert done == [None, None]


def test_fork_means_nothing_alone():
    """In plain Python, and for one part, a fork is False."""
    meaning = fork if config.DISABLE_JIT else _serial_fork
    assert meaning(0, 1) is False
    assert meaning(2, 3) is False


@serial
def _serial_fork(part, parts):
    return fork(part, parts)


SCRIPT = """
import numba
import numpy as np
from minidl.kernels.cpu._jit import fork, serial, share, threaded

@serial
def twice(x):
    return 2 * x

@threaded
def double(x, y, names, part, parts):
    if fork(part, parts):
        return
    first, last = share(x.size, part, parts)
    x, y = x[first:last], y[first:last]
    for i in range(x.size):
        y[i] = twice(x[i])
    names[0][part] = part + 1

for dtype in "fd":
    for parts in (1, 2, 3, 7):
        if numba.threading_layer() == "workqueue" and parts > numba.get_num_threads():
            continue
        for _ in range(10):
            x, names = np.arange(1001, dtype=dtype), np.zeros(parts, np.uint8)
            y = np.zeros_like(x)
            double(parts, x, y, (names, x))
            assert (y == 2 * x).all(), y
            assert (names == np.arange(parts) + 1).all(), names
stats = double.compiled.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def run(script, **environment):
    result = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-3000:])
    return result.stdout.split()


@compiled
def test_second_process_takes_it_from_the_disk(tmp_path):
    """What was compiled before is loaded and forks as before, whatever the number of threads then was."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(script, **cache) == ["0", "2"]
    assert run(script, **cache) == ["2", "0"]
    assert run(script, **cache, NUMBA_NUM_THREADS="1") == ["2", "0"]
    assert run(script, **cache, NUMBA_NUM_THREADS="4") == ["2", "0"]


@compiled
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_every_threading_layer(layer, tmp_path):
    """Whatever starts the threads calls back once for each part."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numba\n"
        "try:\n"
        "    numba.get_num_threads()  # starts them\n"
        "except ValueError:  # the layer is not installed\n"
        "    raise SystemExit(0)\n"
        f"assert numba.threading_layer() == '{layer}'\n" + SCRIPT
    )
    run(script, NUMBA_THREADING_LAYER=layer, NUMBA_CACHE_DIR=str(tmp_path / "cache"))


@compiled
def test_package_is_importable_without_starting_threads(tmp_path):
    """Importing minidl alone neither loads Numba nor starts its threads."""
    code = "import sys, minidl; assert 'numba' not in sys.modules, 'numba loaded'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent, timeout=60)
