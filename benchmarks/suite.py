"""The run: agreement first, then turns, then start-up and memory.

For every case all configurations load the same inputs and weights, each in its own process. minidl's results are
compared with each of the others'; who disagrees is not timed. Then they take turns, A B C A B C ...: a turn is some
steps, each with a clock around it, after a few without, and the next one starts when all threads of the last sleep.
Whatever slows the machine for a while slows all of them.
"""

from __future__ import annotations

import datetime
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks import ceilings, machine, report
from benchmarks.cases import TRAIN, Case, find
from benchmarks.peers import OURS, Configuration, environment
from benchmarks.peers.base import MODEL_GRADIENT
from benchmarks.worker import ROOT, Worker, WorkerError

FORMAT = 1  # of the JSON file
CLOSE = 1e-4  # largest difference, relative to the largest value
GPU_CLOSE = 5e-4  # the same on a GPU, where the fastest algorithms round more often
TF32_CLOSE, TF32_TOLERANCE = 1e-2, 10  # the same with 10 bits of fraction; and how many times a case's own tolerance
SLOW = 2.0  # seconds of a step, from which on three turns must do


@dataclass(frozen=True)
class Mode:
    """How much is measured."""

    name: str
    rounds: int  # turns of each configuration
    seconds: float  # least length of a turn; always at least one step
    memory: tuple[str, ...]  # cases whose memory is measured
    starts: int  # times that start-up is measured
    first_step: str = "cifar_cnn"  # the case whose first step is measured
    device: str = "cpu"
    lead: int = 1  # steps that are not timed, at least: a recording is made in the third


QUICK = Mode("quick", 3, 0.03, ("cifar_cnn",), 1)
FULL = Mode("full", 7, 0.15, ("mnist_cnn", "cifar_cnn", "image_cnn", "resnet20"), 3)
GPU_QUICK = Mode("quick", 3, 0.05, (), 1, "gpu-cifar_cnn", "cuda", 4)
GPU_FULL = Mode("full", 7, 0.3, (), 3, "gpu-cifar_cnn", "cuda", 4)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and number of times in seconds; the times in milliseconds."""
    low, middle, high = np.percentile(times, (25, 50, 75)) * 1e3
    return {"median_ms": float(middle), "q1_ms": float(low), "q3_ms": float(high), "repeats": len(times)}


def differences(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float, close: float = CLOSE
) -> tuple[float, list[str]]:
    """The largest difference as a share of what is allowed, and a line for each value that differs by more.

    Outputs, losses and the gradients of single operations may differ anywhere by ``close`` times the largest value,
    the gradients of whole models by ``tolerance`` times their length. A peer that only infers has fewer values.
    """
    worst, lines = 0.0, []
    for name, b in theirs.items():
        a = ours.get(name)
        if a is None or a.shape != b.shape:
            return math.inf, [f"{name}: shape {None if a is None else a.shape} here, {b.shape} there"]
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return math.inf, [f"{name}: infinite values or NaN"]
        distance = a - b
        if name.startswith(MODEL_GRADIENT):
            allowed, error = tolerance, np.linalg.norm(distance) / (np.linalg.norm(b) or 1)
        else:
            allowed, error = close, np.abs(distance).max() / (np.abs(b).max() or 1)
        worst = max(worst, float(error) / allowed)
        if error > allowed:
            lines.append(f"{name}: differs by {error:.1e}, {allowed:.0e} is allowed")
    return worst, lines


class Suite:
    """All workers, and what has been measured so far (``data``, as it goes into the JSON file)."""

    def __init__(self, mode: Mode, threads: int, interpreters: dict[str, str], say: Callable[[str], None] = print) -> None:
        self.mode, self.threads, self.interpreters, self.say = mode, threads, interpreters, say
        self.workers: dict[str, Worker] = {}
        self.configurations: dict[str, Configuration] = {}  # those that are installed, by name
        self.data: dict[str, Any] = {
            "format": FORMAT,
            "mode": mode.name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "device": mode.device,
            "threads": threads,
            "machine": machine.describe(mode.device),
            "ceilings": [],
            "configurations": {},
            "absent": {},
            "results": [],
            "starts": {},
            "memory": [],
        }

    # ---------------------------------------------------------------- workers

    def worker(self, configuration: Configuration, **variables: str) -> Worker:
        """A new process."""
        return Worker(configuration, self.threads, self.interpreters[configuration.peer], **variables)

    def start(self, configurations: Iterable[Configuration]) -> None:
        """Start one worker per configuration; note the frameworks that are not there."""
        for configuration in configurations:
            if configuration.peer in self.data["absent"]:
                continue
            try:
                worker = self.workers[configuration.name] = self.worker(configuration)
            except WorkerError as error:
                self.data["absent"][configuration.peer] = str(error)
                self.say(f"{configuration.peer} is not measured: {error}")
                continue
            self.configurations[configuration.name] = configuration
            self.data["configurations"][configuration.name] = {
                "peer": configuration.peer,
                "version": worker.version,
                "threads": configuration.threads or self.threads,
                "environment": configuration.environment,
            }
        if OURS.name not in self.workers:
            raise RuntimeError(f"minidl itself cannot be measured: {self.data['absent'].get(OURS.peer)}")

    def alive(self, name: str) -> Worker:
        """The configuration's worker, a new one where the last has ended."""
        if not self.workers[name].alive:
            self.workers[name] = self.worker(self.workers[name].configuration)
        return self.workers[name]

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    # ---------------------------------------------------------------- cases

    def ceilings(self) -> None:
        """Measure the machine's ceilings once more, and how much of it others use."""
        busy = machine.busy_share()
        self.data["ceilings"].append({"busy_share": busy, **ceilings.measure(self.threads, self.mode.device)})
        if report.is_busy(busy):
            self.say(f"other programs take {busy:.0%} of the processor: what follows is not to be trusted")

    def case(self, case: Case) -> None:
        """Prepare, compare and time one case in all workers."""
        notes: dict[str, Any] = {"agreement": {}, "errors": {}, "skipped": {}}
        costs = dict(case.costs)
        ready: dict[str, list[str]] = {}  # measures by configuration
        ours: dict[str, np.ndarray] = {}
        for name in self.workers:
            try:
                worker = self.alive(name)
                if reason := worker.ask("refuses", case.name, case.batch):
                    notes["skipped"][name] = reason
                    continue
                measures = worker.ask("prepare", case.name, case.batch)
                values = worker.ask("check")
                if name == OURS.name:
                    ours = values
                    costs |= worker.ask("costs", case.name, case.batch)
                else:
                    worst, lines = differences(ours, values, *self.allowed(case, worker.configuration))
                    notes["agreement"][name] = worst if math.isfinite(worst) else None
                    if lines:
                        raise WorkerError(f"disagrees with minidl: {'; '.join(lines[:3])}")
                ready[name] = measures
                worker.rest()
            except WorkerError as error:
                notes["errors"][name] = str(error)
                if name == OURS.name:
                    break  # nothing to compare with
        times = self.turns(case, ready, notes["errors"])
        for name in self.workers:
            with suppress(WorkerError):
                self.workers[name].ask("drop")
        for measure, target in case.targets.items():
            entry = {"case": case.name, "title": case.title, "kind": case.kind, "batch": case.batch, "measure": measure}
            cost = asdict(costs[measure]) if measure in costs else None
            timings = {name: spread(all_times) for name, all_times in times[measure].items()}
            self.data["results"].append({**entry, "target": target, "cost": cost, "timings": timings, **notes})

    def allowed(self, case: Case, configuration: Configuration) -> tuple[float, float]:
        """How far a configuration's gradients of a whole model, and its other values, may be from minidl's in float32."""
        if configuration.options.get("tf32"):
            return min(0.5, TF32_TOLERANCE * case.tolerance), TF32_CLOSE
        return case.tolerance, CLOSE if self.mode.device == "cpu" else GPU_CLOSE

    def turns(self, case: Case, ready: dict[str, list[str]], errors: dict[str, str]) -> dict[str, dict[str, list[float]]]:
        """Seconds of all timed steps, by measure and configuration; who fails drops out, with a line in ``errors``."""
        times: dict[str, dict[str, list[float]]] = {measure: {} for measure in case.targets}
        for measure in case.targets:
            steps: dict[str, int] = {}
            turns: dict[str, int] = {}
            for turn in range(self.mode.rounds + 1):  # the first turn warms up and tells how long a step is
                for name, measures in ready.items():
                    if measure not in measures or name in errors or turn > turns.get(name, 0):
                        continue
                    worker = self.workers[name]
                    try:
                        if turn == 0:
                            (seconds,) = worker.ask("run", measure, self.mode.lead, 1)
                            turns[name] = self.mode.rounds if seconds < SLOW else 3
                            steps[name] = min(max(1, math.ceil(self.mode.seconds / seconds)), 1000)
                        else:
                            lead = max(self.mode.lead, math.ceil(steps[name] / 5)) if steps[name] > 1 else 0
                            times[measure].setdefault(name, []).extend(worker.ask("run", measure, lead, steps[name]))
                        worker.rest()
                    except WorkerError as error:
                        errors[name] = f"{measure}: {error}"
                        times[measure].pop(name, None)
        return times

    # ---------------------------------------------------------------- start-up and memory

    def starts(self) -> None:
        """Import time, and the time from the start of a process to the end of its first training step.

        Cold means with an empty compiler cache; frameworks without one have no cold start.
        """
        seen: set[str] = set()
        for name, configuration in self.configurations.items():
            if configuration.peer in seen or configuration.threads:
                continue  # one plain configuration of each framework
            seen.add(configuration.peer)
            entry: dict[str, Any] = {"import_s": [self.import_seconds(configuration) for _ in range(self.mode.starts)]}
            self.data["starts"][name] = entry
            try:
                if configuration.cache:
                    with tempfile.TemporaryDirectory() as folder:
                        entry["cold_s"] = [self.first_step_seconds(configuration, {configuration.cache: folder})]
                entry["warm_s"] = [self.first_step_seconds(configuration, {}) for _ in range(self.mode.starts)]
            except WorkerError as error:
                entry["error"] = str(error)

    def import_seconds(self, configuration: Configuration) -> float:
        """Seconds of the import statement in a new process."""
        code = f"import time; start = time.perf_counter(); import {configuration.package}; print(time.perf_counter() - start)"
        command = [self.interpreters[configuration.peer], "-c", code]
        result = subprocess.run(
            command, env=environment(configuration, self.threads), cwd=ROOT, capture_output=True, text=True, check=True
        )
        return float(result.stdout.split()[-1])

    def first_step_seconds(self, configuration: Configuration, variables: dict[str, str]) -> float:
        """Seconds from the start of a process to the end of its first training step; data and model included."""
        case, start = find(self.mode.first_step), time.perf_counter()
        with self.worker(configuration, **variables) as worker:
            if TRAIN not in worker.ask("prepare", case.name, case.batch):
                raise WorkerError("it does not train")
            worker.ask("run", TRAIN, 0, 1)
            return time.perf_counter() - start

    def memory(self, cases: Iterable[str]) -> None:
        """Peak memory and page faults of training steps, each in a process of its own."""
        for case in cases:
            for name, configuration in self.configurations.items():
                if TRAIN not in find(case).targets or configuration.threads:
                    continue
                try:
                    with self.worker(configuration) as worker:
                        if TRAIN not in worker.ask("prepare", case, 2):
                            continue
                        row = worker.ask("memory", case, find(case).batch)
                except WorkerError as error:
                    row = {"error": str(error)}
                self.data["memory"].append({"case": case, "title": find(case).title, "configuration": name, **row})
