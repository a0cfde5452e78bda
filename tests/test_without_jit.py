"""The kernels as plain Python, the package without Numba, and a process that forks after parallel work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUIET = ["-q", "-p", "no:cacheprovider"]


def passed(code, **environment):
    """Run Python code in a process of its own and return how many tests its pytest passed."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, **environment},
        timeout=240,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return int(re.search(r"(\d+) passed", result.stdout).group(1))


def test_kernels_as_plain_python():
    """NUMBA_DISABLE_JIT=1: every compiled kernel runs as the Python it is written in, with its bounds checked."""
    pytest.importorskip("numba")
    code = f"import pytest, sys; sys.exit(pytest.main({[*QUIET, 'test_ops.py', '-k', '(test_value or test_rules) and fast']}))"
    assert passed(code, NUMBA_DISABLE_JIT="1") > 200


def test_convolution_as_plain_python():
    """The algorithms of convolution, their instructions and what follows them, at the edges of all that they read and write."""
    pytest.importorskip("numba")
    files = ["test_winograd.py", "test_conv_algorithms.py", "test_jit.py", "test_tile.py"]
    chosen = "test_winograd or test_conv_algorithms or test_jit or meaning or buffers"
    code = f"import pytest, sys; sys.exit(pytest.main({[*QUIET, *files, '-k', f'({chosen}) and not bit_by_bit']}))"
    assert passed(code, NUMBA_DISABLE_JIT="1") > 100


def test_without_numba():
    """Numba absent: one warning, then everything runs on the generic kernels."""
    code = (
        "import sys, warnings; sys.modules['numba'] = None\n"
        "import numpy as np, minidl as md\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    md.relu(md.ones(3)); md.relu(md.ones(3))\n"
        "assert ['Numba is not installed' in str(w.message) for w in caught] == [True], caught\n"
        "import pytest\n"
        f"sys.exit(pytest.main({[*QUIET, 'test_ops.py', 'test_bad_input.py', '-k', 'test_bad_input or test_value and fast']}))"
    )
    assert passed(code) > 200


def test_no_folder_for_compiled_kernels():
    """A file system that cannot be written to: one warning, then kernels are compiled in memory."""
    pytest.importorskip("numba")
    code = (
        "import warnings\n"
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import minidl as md\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    assert md.relu(md.tensor([-1.0, 2.0])).tolist() == [0, 2]\n"
        "assert [str(w.message).count('NUMBA_CACHE_DIR') for w in caught] == [1], caught\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_survives():
    """OpenMP ends a forked child that enters a parallel region; minidl's child takes the generic kernels."""
    code = (
        "import os, numpy as np, minidl as md\n"
        "x = md.ones(1 << 18)\n"
        "md.relu(x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    ok = bool((md.relu(x) == 1).all())\n"
        "    os._exit(0 if ok else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "0", result.stderr
