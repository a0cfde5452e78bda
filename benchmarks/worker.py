"""One process per configuration: it stays alive, does what it is told over a pipe, and sleeps in between.

A worker waits in a blocking read, so it takes no processor time from the one whose turn it is.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.cases import TRAIN, Case, find
from benchmarks.peers import Configuration, environment

ROOT = Path(__file__).resolve().parents[1]


class WorkerError(RuntimeError):
    """A worker that raised an exception, or ended."""


class Worker:
    """A worker process as the suite sees it."""

    def __init__(self, configuration: Configuration, threads: int, python: str = sys.executable, **variables: str) -> None:
        self.configuration = configuration
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
            env={**environment(configuration, threads), **variables},
        )
        try:
            self.version: str = self.ask("start", configuration, configuration.threads or threads)
        except WorkerError:
            self.close()
            raise

    def ask(self, command: str, *arguments: Any) -> Any:
        """Run one command there and return its answer.

        Raises:
            WorkerError: the command failed, the framework is not installed, or the process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            pickle.dump((command, arguments), self.process.stdin)
            self.process.stdin.flush()
            kind, answer = pickle.load(self.process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            self.end()
            words = self.last_words()
            self.close()
            raise WorkerError(f"the process ended with code {self.process.returncode}: {words}") from error
        if kind == "error":
            raise WorkerError(answer)
        return answer

    def last_words(self) -> str:
        """The end of what the worker wrote to its standard error."""
        self.log.seek(0)
        return " ".join(self.log.read().decode(errors="replace").split())[-500:] or "no message"

    def rest(self) -> None:
        """Wait until the worker's threads sleep: OpenMP and BLAS let them spin for a while after their last work."""
        before = self._busy_ns()
        for _ in range(200):
            time.sleep(0.005)
            now = self._busy_ns()
            if now - before < 200_000:
                return
            before = now

    def _busy_ns(self) -> int:
        """Processor time of all its threads; 0 where the system does not tell, which makes ``rest`` one short pause."""
        total = 0
        for file in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # a thread that has just ended
                total += int(file.read_text().split()[0])
        return total

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self.process.poll() is None

    def close(self) -> None:
        """Let it end, and forget what it wrote."""
        self.end()
        self.log.close()

    def end(self) -> None:
        """Close its pipes, upon which it ends by itself; kill it when it does not."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it has ended already
                    pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# ---------------------------------------------------------------- in the worker process


class _Commands:
    """What a worker can be told."""

    peer: Any
    task: Any = None

    def start(self, configuration: Configuration, threads: int) -> str:
        _use_cores(threads)
        self.peer = configuration.make(threads)
        on_gpu = configuration.options.get("device") == "cuda"
        self.together = 10 if on_gpu else 1
        self.wait = self.peer.wait if on_gpu else lambda: None
        return self.peer.version

    def refuses(self, name: str, batch: int) -> str:
        return self.peer.refuses(_case(name, batch))

    def costs(self, name: str, batch: int) -> dict[str, Any]:
        return self.peer.costs(_case(name, batch))

    def prepare(self, name: str, batch: int) -> list[str]:
        self.drop()
        self.task = self.peer.prepare(_case(name, batch))
        return list(self.task.measures)

    def check(self) -> dict[str, Any]:
        return self.task.check()

    def drop(self) -> None:
        self.task = None
        gc.collect()

    def run(self, measure: str, lead: int, steps: int) -> list[float]:
        """Seconds of each of ``steps`` steps, after ``lead`` that are not timed.

        The first of those makes the optimizer's state anew; without them the steps go on from the last ones.
        """
        if lead:
            self.task.reset()
        return timed(self.task.measures[measure], lead, steps, self.wait, self.together)

    def memory(self, name: str, batch: int) -> dict[str, float]:
        """Bytes that training steps take at their peak beyond model and data, and page faults per step afterwards.

        A step with two images loads the libraries and kernels first, so that they do not count.
        """
        self.prepare(name, 2)
        self.task.measures[TRAIN]()
        self.prepare(name, batch)
        step = self.task.measures[TRAIN]
        before = _restart_peak()
        timed(step, 3, 0, self.wait)
        peak = _peak_bytes()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        timed(step, 0, 5, self.wait)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return {"step_bytes": peak - before, "process_bytes": peak, "faults_per_step": faults / 5}


def timed(step: Callable[[], Any], lead: int, steps: int, wait: Callable[[], None], together: int = 1) -> list[float]:
    """Run ``lead`` steps, then ``steps`` more with a clock around each, or around some that run ``together``.

    A GPU works while the program prepares the next step; waiting for it after each would measure something else.
    """
    for _ in range(lead):
        step()
    wait()
    clock, times = time.perf_counter, []
    while len(times) < steps:
        count = min(together, steps - len(times))
        start = clock()
        for _ in range(count):
            step()
        wait()
        times += [(clock() - start) / count] * count
    return times


def _case(name: str, batch: int) -> Case:
    return find(name).at_batch(batch)


def _use_cores(threads: int) -> None:
    """Stay on as many cores as there are threads, for the frameworks that count cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _status(name: str) -> int:
    """A number of bytes from Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _restart_peak() -> int:
    """Bytes in use now; from here on the peak counts anew, where the system can do that."""
    if not Path("/proc/self/status").exists():
        return _peak_bytes()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_bytes() -> int:
    """The most bytes that were in use at once."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serve commands until the pipe closes; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    commands = _Commands()
    while True:
        try:
            command, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("answer", getattr(commands, command)(*arguments))
        except ImportError as error:
            answer = ("error", str(error))
        except Exception as error:  # whatever a framework raises is the suite's to report
            traceback.print_exc()
            answer = ("error", " ".join(f"{type(error).__name__}: {error}".split()))
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
