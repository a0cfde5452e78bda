"""DataLoader: batches of arrays, in the order and form in which training wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.backend import default_dtype, to_device
from minidl.data.batches import Rows, Samples, Standard, Task, as_batch as as_batch
from minidl.data.dataset import ArrayDataset, numbers
from minidl.data.gpu import to_gpu
from minidl.data.samplers import check_sampler, draw, repeats
from minidl.data.transforms.base import as_transform
from minidl.data.workers import Processes, Threads
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.random import generator


class DataLoader:
    """Batches of a dataset, or of arrays that belong together row by row.

    What comes out are new NumPy arrays, which nobody else holds:

    - uint8 arrays of shape (N, C, H, W) are images: they become floats between 0 and 1 (divided by 255);
    - floats take the default dtype, float32 (``md.use_dtype`` changes it), whatever they were before;
    - other integers, such as labels, become int64; booleans stay;
    - floats of shape (N, C, H, W) lie channels-last in memory, as minidl's kernels read them.

    Args:
        data: an ``ArrayDataset``, a tuple or list of arrays of one length, or a single array. Or any dataset: an
            object with ``len(data)`` and ``data[i]``, most often a pair (x, y) of a picture and its label. Samples are
            numbers, arrays or Pillow images, of one shape within a batch; they are loaded when their batch is made.
        batch_size: examples per batch; the last batch may be smaller.
        shuffle: draw a new order for every epoch.
        drop_last: leave out a last batch that is not full.
        rng: a generator or a seed for the orders and the transforms; the same seed gives the same batches. None:
            minidl's own.
        mean: subtracted from the first array, after the division by 255; a number or one per channel (axis 1).
        std: what the first array is then divided by; a number or one per channel.
        sampler: in place of shuffle, which indices make an epoch: a ``Sampler``, or a list of indices.
        transform: applied to every sample's first value: a ``transforms.Transform``, or a function of it alone.
        collate: makes a batch of a list of samples, in place of stacking them. What it returns is handed out as it is.
        batch_transform: applied to every finished batch, the tuple (x, y) as one thing: ``transforms.MixUp()``, ...
        workers: how many workers make batches ahead of time; 0 for none.
        worker_type: "process" or "thread". Processes run Python code at the same time, but start in about a second
            and get the dataset as a pickled copy; threads start at once and share it. Both give the same batches.
        prefetch: how many batches per worker are made ahead of time. This bounds the memory, whatever the set's size.
        device: "cuda" or "cuda:N" for batches on a GPU, as CuPy arrays; the next one is copied, through pinned memory and
            beside the kernels, while you work with the present one.

    Each pass over the loader is one epoch and yields tuples of arrays, or arrays where ``data`` is a single one.
    ``len(loader)`` is the number of batches; data without rows gives no batches.

    What is random about a sample depends on the seed, the epoch and the sample's index, and on nothing else: not on the
    number or kind of workers, nor on the batch size. An index that a sampler gives several times in an epoch is
    transformed anew each time.

    Workers are started by the first epoch and stay for the next one. They end with ``close()``, at the end of a
    ``with`` block, or when nobody holds the loader any more; an exception ends them as well, and the next epoch starts
    new ones. Leaving an epoch early is fine. With processes, one pass at a time; a new one ends the one before.

    Raises:
        ShapeError: arrays of different lengths, samples of different shapes.
        DtypeError: arrays that hold no numbers; ``mean`` or ``std`` for integers; what cannot be sent to a process.
        ArgumentError: batch_size below 1, no array, a std that is not positive, arguments that exclude each other.
        DeviceError: a GPU that is not there, or CuPy missing.
        WorkerError: a worker process raised an exception (the message holds its traceback), or died.

    >>> import numpy as np
    >>> import minidl as md
    >>> images = np.full((10, 1, 8, 8), 255, np.uint8)
    >>> loader = md.data.DataLoader((images, np.arange(10)), batch_size=4, shuffle=True, rng=0)
    >>> for x, y in loader:
    ...     print(x.shape, x.dtype, x.max(), y)
    (4, 1, 8, 8) float32 1.0 [4 6 2 7]
    (4, 1, 8, 8) float32 1.0 [3 5 9 0]
    (2, 1, 8, 8) float32 1.0 [8 1]

    Transforms, and two threads that work ahead:

    >>> crop = md.data.transforms.RandomCrop(6)
    >>> with md.data.DataLoader((images, np.arange(10)), transform=crop, rng=0, workers=2, worker_type="thread") as loader:
    ...     [x.shape for x, y in loader]
    [(10, 1, 6, 6)]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 32,
        shuffle: bool = False,
        drop_last: bool = False,
        rng: np.random.Generator | int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        *,
        sampler: Any = None,
        transform: Callable[..., Any] | None = None,
        collate: Callable[[list], Any] | None = None,
        batch_transform: Callable[..., Any] | None = None,
        workers: int = 0,
        worker_type: str = "process",
        prefetch: int = 2,
        device: str = "cpu",
    ) -> None:
        self.batch_size = _integer("batch_size", batch_size, 1)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = _integer("workers", workers, 0)
        self.worker_type = worker_type
        self.prefetch = _integer("prefetch", prefetch, 1)
        self.sampler = sampler
        self.device = device
        to_device(np.empty(0), device)  # refuses a GPU that is not there
        if worker_type not in ("process", "thread"):
            raise ArgumentError.of("DataLoader", "worker_type as 'process' or 'thread'", repr(worker_type))
        if sampler is not None:
            check_sampler(sampler)
            if shuffle:
                raise ArgumentError.of("DataLoader", "shuffle or a sampler", "both", "A sampler decides the order alone.")
        if collate is not None and not callable(collate):
            raise DtypeError.of("DataLoader", "collate as a function of a list of samples", repr(collate))
        if collate is not None and (mean is not None or std is not None):
            raise ArgumentError.of("DataLoader", "mean and std, or collate", "both", "Normalize in collate or transform.")
        self._recipe = _recipe(data, Standard(mean, std), transform, collate, batch_transform)
        self._rng = None if rng is None else generator(rng)  # None: whatever minidl's own is when an epoch begins
        self._pool: Processes | Threads | None = None
        self._epoch = 0  # passes finished or broken off
        self._batch = 0  # batches handed out in the pass that runs
        self._begin: dict[str, Any] | None = None  # the generator's state when that pass began
        self._resume: dict[str, Any] | None = None

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays that the batches are made of; none where a dataset gives samples one by one."""
        return self._recipe.arrays if isinstance(self._recipe, Rows) else ()

    @property
    def _examples(self) -> int:
        return len(self._recipe.arrays[0]) if isinstance(self._recipe, Rows) else len(self._recipe.dataset)

    def __len__(self) -> int:
        full, rest = divmod(self._examples if self.sampler is None else len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        if self._batch:  # the pass before was broken off
            self._epoch += 1
        start, rng = self._position()
        self._begin, self._batch = dict(rng.bit_generator.state), start
        total = len(self)
        tasks = self._tasks(rng, start, total)
        batches: Iterator[Any]
        if self.workers:
            batches = self._started().run(tasks)
        else:
            batches = (self._recipe.make(task) for task in tasks)
        if self.device != "cpu":
            batches = to_gpu(batches, self.device)
        mine = self._begin
        for number, batch in enumerate(batches, start + 1):
            if mine is self._begin:  # else a newer pass has begun: its position counts
                self._batch = number
            yield batch
            del batch
        if mine is self._begin:
            self._epoch, self._batch = self._epoch + 1, 0

    def _position(self) -> tuple[int, np.random.Generator]:
        """Where the pass begins that starts now, and the generator that it draws from."""
        resume, self._resume = self._resume, None
        if resume is None:
            return 0, generator(self._rng)
        rng = self._rng
        if rng is None:  # minidl's own is not ours to set back: its state belongs to whoever saves the training
            if resume["batch"] == 0:
                return 0, generator(None)
            rng = np.random.Generator(getattr(np.random, resume["rng"]["bit_generator"])())
        rng.bit_generator.state = resume["rng"]
        return resume["batch"], rng

    def _tasks(self, rng: np.random.Generator, start: int, total: int) -> Iterator[Task]:
        """What to make in a pass, from batch ``start`` on. All that is random is drawn here, at once."""
        order = again = None
        if self.sampler is not None:
            order = draw(self.sampler, rng, self._examples)
            again = repeats(order)
        elif self.shuffle:
            order = rng.permutation(self._examples)
        key = int(rng.integers(2**63)) if self._recipe.random else None
        dtype = default_dtype()

        def tasks() -> Iterator[Task]:
            for number in range(start, total):
                rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
                yield Task(number, rows if order is None else order[rows], None if again is None else again[rows], key, dtype)

        return tasks()

    def _started(self) -> Processes | Threads:
        if self._pool is None or (isinstance(self._pool, Processes) and self._pool.closed):
            kind = Processes if self.worker_type == "process" else Threads
            self._pool = kind(self._recipe, self.workers, self.prefetch)
        return self._pool

    def close(self) -> None:
        """End the workers. The loader stays usable: another pass starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: to save with a checkpoint, and to continue from with ``load_state_dict``.

        Called within a pass, after batch k was handed out, it is the position before batch k + 1; after the last batch,
        the beginning of the next epoch. It is JSON-compatible for generators of ``numpy.random.default_rng``.
        A loader without ``rng=`` draws from minidl's own generator, whose state you save yourself
        (``md.random.get_state``); this one holds what repeats the pass that runs. Samplers that are
        not of minidl's kind, and draw from elsewhere, are not repeated.

        >>> import numpy as np
        >>> import minidl as md
        >>> loader = md.data.DataLoader(np.arange(8), batch_size=4, shuffle=True, rng=0)
        >>> first = next(iter(loader))
        >>> state = loader.state_dict()
        >>> resumed = md.data.DataLoader(np.arange(8), batch_size=4, shuffle=True, rng=0)
        >>> resumed.load_state_dict(state)
        >>> (rest,) = resumed
        >>> sorted([*first, *rest]) == list(range(8))
        True
        """
        state = {"examples": self._examples, "batch_size": self.batch_size}
        if self._resume is not None:
            return dict(self._resume)
        if 0 < self._batch < len(self):
            return {**state, "epoch": self._epoch, "batch": self._batch, "rng": self._begin}
        now = dict(generator(self._rng).bit_generator.state)
        return {**state, "epoch": self._epoch + (self._batch > 0), "batch": 0, "rng": now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was called: the next pass begins at that batch, with that order.

        Raises:
            ArgumentError: a state of other data, of another batch size, or with another kind of generator.
        """
        wanted = {"examples", "batch_size", "epoch", "batch", "rng"}
        if not isinstance(state, dict) or set(state) != wanted:
            raise ArgumentError.of("load_state_dict", f"a dictionary with {', '.join(sorted(wanted))}", repr(state)[:200])
        for name, own in (("examples", self._examples), ("batch_size", self.batch_size)):
            if state[name] != own:
                raise ArgumentError.of("load_state_dict", f"a state of a loader with {name} {own}", str(state[name]))
        if not 0 <= state["batch"] < max(len(self), 1):
            raise ArgumentError.of("load_state_dict", f"a batch from 0 to {len(self) - 1}", str(state["batch"]))
        kind = type(generator(self._rng).bit_generator).__name__
        if state["rng"].get("bit_generator") != kind:
            raise ArgumentError.of("load_state_dict", f"the state of a {kind}", repr(state["rng"].get("bit_generator")))
        self._epoch, self._batch, self._resume = state["epoch"], 0, dict(state)

    @property
    def epoch(self) -> int:
        """How many passes are over."""
        return self._epoch


def _recipe(data: Any, standard: Standard, transform: Any, collate: Any, batch_transform: Any) -> Rows | Samples:
    """How batches of the data are made: of rows where it is arrays and nothing looks at single samples."""
    transform = None if transform is None else as_transform("DataLoader", transform)
    batch_transform = None if batch_transform is None else as_transform("DataLoader", batch_transform)
    single = not isinstance(data, (ArrayDataset, tuple, list))
    if single and _is_dataset(data):
        return Samples(data, transform, collate, standard, batch_transform)
    if isinstance(data, ArrayDataset):
        data = (data.images, data.labels)
    elif single:
        data = (data,)
    arrays = tuple(numbers("DataLoader", array, f"array {i}") for i, array in enumerate(data))
    lengths = [len(array) for array in arrays]
    if not lengths:
        raise ArgumentError.of("DataLoader", "at least one array", "none")
    if len(set(lengths)) > 1:
        raise ShapeError.of("DataLoader", "arrays of one length", " and ".join(map(str, lengths)))
    if transform is None and collate is None:
        return Rows(arrays, single, standard, batch_transform)
    return Samples(_RowByRow(arrays, single), transform, collate, standard, batch_transform)


def _is_dataset(data: Any) -> bool:
    """Something with a length and items that is no array, no text and no mapping."""
    if isinstance(data, (str, bytes, dict)) or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


class _RowByRow:
    """Arrays as a dataset: sample i is row i of each."""

    def __init__(self, arrays: tuple[np.ndarray, ...], single: bool) -> None:
        self.arrays, self.single = arrays, single

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int) -> Any:
        return self.arrays[0][index] if self.single else tuple(array[index] for array in self.arrays)


def _integer(name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError.of("DataLoader", f"{name} as an integer", repr(value))
    if value < minimum:
        raise ArgumentError.of("DataLoader", f"{name} of at least {minimum}", str(value))
    return int(value)
