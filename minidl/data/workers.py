"""Workers that make batches ahead of time: processes, or threads.

Processes are spawned, never forked: a forked copy of a process with running threads (BLAS, OpenMP, CUDA) may hang or
die. Each has a pipe of its own and ``prefetch`` slots of shared memory; there is no queue and no lock that a killed
process could leave closed. A pipe only carries short messages: what to make, and where it lies.

A batch is copied out of its slot when it is handed out, so the user's arrays are ordinary memory: they may be kept,
and outlive the loader. The copy costs little beside making the batch, and the ring stays as large as it is.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import signal
import time
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import Any, NoReturn

from minidl.data.batches import Rows, Samples, Task
from minidl.data.shared import Reader, Writer
from minidl.errors import DtypeError, Located

GRACE = 0.5  # seconds that workers have to leave by themselves
LONGEST = 20_000  # characters of a traceback that go through a pipe, which must never fill


class WorkerError(Located, RuntimeError):
    """A worker of a DataLoader raised an exception, or died.

    >>> import minidl as md
    >>> issubclass(md.data.WorkerError, RuntimeError)
    True
    """


class Threads:
    """Worker threads. Good where most of the work is outside of Python: decoding, waiting for files."""

    def __init__(self, recipe: Rows | Samples, workers: int, prefetch: int) -> None:
        self._recipe, self._ahead = recipe, workers * prefetch
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="minidl loader")

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The batches of the tasks, in order."""
        pending: deque[Future] = deque()
        tasks = iter(tasks)
        try:
            for task in tasks:
                pending.append(self._executor.submit(self._recipe.make, task))
                if len(pending) > self._ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """End the threads, after the batch they are at."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, number: int, name: str, prefetch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        names = [f"{name}-{number * prefetch + k}" for k in range(prefetch)]
        self.slots = [Reader(name) for name in names]
        self.free = list(range(prefetch))
        self.spoke = False
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, names), name=f"minidl loader {number}", daemon=True)
        try:
            with _no_interrupt():
                self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()


class Processes:
    """Worker processes with a ring of shared memory. They live until ``close``, or until nobody holds this object."""

    def __init__(self, recipe: Rows | Samples, workers: int, prefetch: int) -> None:
        pickled = _pickled(recipe)  # before anything starts
        self._workers: list[_Worker] = []
        self._epoch = 0
        self._ready: dict[int, tuple[_Worker, int, Any]] = {}  # answers of this epoch whose turn has not come
        self._end = weakref.finalize(self, _end, os.getpid(), self._workers)
        try:
            name = f"minidl-{os.getpid()}-{secrets.token_hex(3)}"  # macOS takes 30 characters, with what follows
            for number in range(workers):  # all of them first: they start side by side
                self._workers.append(_Worker(number, name, prefetch))
            for worker in self._workers:
                self._send(worker, pickled)
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Iterable[Task]) -> Iterator[Any]:
        """The batches of the tasks, in order. A later run ends this one."""
        self._epoch += 1
        epoch, tasks = self._epoch, iter(tasks)
        for worker, slot, _ in self._ready.values():  # of an epoch that was broken off
            worker.free.append(slot)
        self._ready.clear()
        pending: deque[int] = deque()  # numbers of the tasks that are out, in order
        try:
            more = True
            while True:
                while more and (worker := max(self._workers, key=lambda w: len(w.free))).free:
                    task = next(tasks, None)
                    if task is None:
                        more = False
                        break
                    self._send(worker, pickle.dumps((epoch, worker.free.pop(), task)))
                    pending.append(task.number)
                if not pending:
                    if not more:
                        return
                    self._receive()  # all workers are still at an epoch that was broken off
                    continue
                number = pending.popleft()
                while number not in self._ready:
                    self._receive()
                batch = self._open(*self._ready.pop(number))
                yield batch
                del batch
                if self.closed:
                    raise WorkerError.of("DataLoader", "a loader that is open", "one closed within a pass over it")
                if epoch != self._epoch:
                    hint = "One loader with worker processes makes one pass at a time."
                    raise WorkerError.of("DataLoader", "the newest pass over the loader", "an older one", hint)
        except GeneratorExit:
            raise  # the workers finish what they are at and wait for the next epoch
        except BaseException:
            if epoch == self._epoch:
                self.close()
            raise

    def close(self) -> None:
        """End the processes and remove their shared memory."""
        self._end()

    @property
    def closed(self) -> bool:
        """True when the processes have been ended."""
        return not self._end.alive

    def _send(self, worker: _Worker, message: bytes) -> None:
        try:
            worker.pipe.send_bytes(message)
        except OSError:
            self._dead(worker)

    def _receive(self) -> None:
        """Wait for news and take them in. Answers to an epoch that was broken off only free their slots."""
        sources: dict[Any, _Worker] = {}
        for worker in self._workers:
            sources[worker.pipe] = sources[worker.process.sentinel] = worker
        arrived = {sources[source].number: sources[source] for source in connection.wait(list(sources))}
        for worker in arrived.values():
            try:
                if not worker.pipe.poll():
                    self._dead(worker)  # its sentinel spoke: it has ended, and all it said has been read
                of, slot, number, answer = pickle.loads(worker.pipe.recv_bytes())
            except (EOFError, OSError):
                self._dead(worker)
            worker.spoke = True
            if of is None:
                hint = "What it uses must be defined in a module or script, not in a notebook; or use worker_type='thread'."
                expected = "a dataset that a worker process can load"
                raise WorkerError.of("DataLoader", expected, "an exception", f"{hint} This is its traceback:\n\n{answer}")
            if of == self._epoch:
                self._ready[number] = (worker, slot, answer)
            else:
                worker.free.append(slot)

    def _open(self, worker: _Worker, slot: int, answer: Any) -> Any:
        if isinstance(answer, str):
            place = f"worker {worker.number} (process {worker.process.pid}) to make its batch"
            raise WorkerError.of("DataLoader", place, "an exception", f"This is its traceback:\n\n{answer}")
        batch = worker.slots[slot].unpack(*answer)
        worker.free.append(slot)
        return batch

    def _dead(self, worker: _Worker) -> NoReturn:
        process = worker.process
        process.join(GRACE)
        code = process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"its end by {({s.value: s.name for s in signal.Signals}).get(-code, f'signal {-code}')}"
        hint = "It may have been killed for want of memory, or crashed in compiled code; workers=0 shows where."
        if not worker.spoke and (code or 0) > 0:
            hint = "Scripts that start worker processes need ``if __name__ == '__main__':`` around what they run."
        place = f"worker {worker.number} (process {process.pid}) to be alive"
        raise WorkerError.of("DataLoader", place, how, hint)


def _end(pid: int, workers: list[_Worker]) -> None:
    if os.getpid() != pid:
        return  # a fork of the process that they belong to
    with _no_interrupt():
        for worker in workers:
            worker.pipe.close()  # who waits for a task sees this and leaves
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(deadline - time.monotonic(), 0))
            worker.process.terminate()
        for worker in workers:
            worker.process.join(GRACE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.process.close()
            for slot in worker.slots:
                slot.close()
        workers.clear()


def _pickled(recipe: Rows | Samples) -> bytes:
    try:
        return pickle.dumps(recipe, protocol=5)
    except Exception as error:
        parts = {name: value for name, value in vars(recipe).items() if value is not None}
        culprit = next((name for name, value in parts.items() if not _picklable(value)), "recipe")
        expected = f"a {culprit.replace('_', ' ')} that can be pickled, to send it to worker processes"
        hint = "Define its functions and classes at the top of a module (no lambda), or use worker_type='thread'."
        raise DtypeError.of("DataLoader", expected, f"{type(error).__name__}: {error}", hint) from error


def _picklable(value: Any) -> bool:
    try:
        pickle.dumps(value, protocol=5)
    except Exception:
        return False
    return True


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back inside the block. Processes that start in it never see it: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Any, names: list[str]) -> None:
    """What a worker process does: read what to make, make it, say where it lies; until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slots = [Writer(name) for name in names]
    with suppress(EOFError, OSError):  # the parent has closed the pipe, or is gone
        message = pipe.recv_bytes()
        try:
            recipe = pickle.loads(message)
        except BaseException:
            pipe.send_bytes(pickle.dumps((None, 0, 0, _traceback())))
            return
        del message
        while True:
            epoch, slot, task = pickle.loads(pipe.recv_bytes())
            answer = _answer(recipe, task, slots[slot])
            pipe.send_bytes(pickle.dumps((epoch, slot, task.number, answer)))
    for writer in slots:
        writer.close()


def _answer(recipe: Rows | Samples, task: Task, slot: Writer) -> Any:
    slot.clear()
    try:
        return slot.pack(recipe.make(task, slot.empty))
    except BaseException:  # also SystemExit: whatever ends a batch is told
        return _traceback()


def _traceback() -> str:
    text = traceback.format_exc()
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}"
