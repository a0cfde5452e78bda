"""DataLoader over datasets: samplers, transforms, workers and what becomes of them, resuming."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minidl as md
from minidl import data
from minidl.data import DataLoader, WorkerError, transforms
from minidl.data.gpu import _double_buffered
from minidl.data.samplers import repeats
from minidl.data.shared import Reader, Writer
from minidl.errors import ArgumentError, DtypeError, ShapeError

KINDS = [{}, {"workers": 2, "worker_type": "thread"}, {"workers": 2}]
SHARED = Path("/dev/shm")
linux = pytest.mark.skipif(not SHARED.is_dir(), reason="looks into /dev/shm")


class Pictures:
    """Sample i is a gray picture of value i % 256 and the label i."""

    def __init__(self, n=20, size=4):
        self.n, self.size = n, size

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return np.full((3, self.size, self.size), i % 256, np.uint8), i


class Broken(Pictures):
    def __getitem__(self, i):
        if i == 9:
            raise ValueError("sample nine is broken")
        return super().__getitem__(i)


class Dying(Pictures):
    def __getitem__(self, i):
        if i == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


class Unloadable(Pictures):
    def __setstate__(self, state):
        raise RuntimeError("not in this process")


class Drawing(Pictures):
    """Draws from minidl's own generator."""

    def __getitem__(self, i):
        return md.random.generator().random((3, self.size, self.size)), i


class Words(Pictures):
    def __getitem__(self, i):
        return "a" * i, i


def lengths(samples):
    """Texts of different lengths: a dictionary of arrays and a list."""
    return {"n": np.array([len(word) for word, _ in samples]), "words": [word for word, _ in samples]}


def ragged(samples):
    return np.zeros((len(samples), max(i for _, i in samples) + 1, 50), np.float32), [i for _, i in samples]


def add_noise(batch):
    return batch[0] + 1, batch[1]


def segments(pid=None):
    """The shared memory of this process, or of another one."""
    return {path.name for path in SHARED.glob(f"minidl-{pid or os.getpid()}-*")}


def children():
    """The worker processes of this process that are alive."""
    import multiprocessing

    return [process for process in multiprocessing.active_children() if process.name.startswith("minidl loader")]


def batches(dataset, epochs=1, **options):
    with DataLoader(dataset, **{"batch_size": 6, "rng": 1, **options}) as loader:
        return [batch for _ in range(epochs) for batch in loader]


def equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second):
        for a, b in zip(one, other):
            assert (a.dtype, a.shape, a.strides) == (b.dtype, b.shape, b.strides)
            assert np.array_equal(a, b)


# ---------------------------------------------------------------- what comes out


def test_samples_become_batches_in_the_promised_form():
    x, y = next(iter(DataLoader(Pictures(), batch_size=5)))
    assert (x.shape, x.dtype, y.dtype) == ((5, 3, 4, 4), np.float32, np.int64)
    assert x.transpose(0, 2, 3, 1).flags.c_contiguous
    assert np.array_equal(x[:, 0, 0, 0], np.arange(5, dtype=np.float32) / np.float32(255))
    assert y.tolist() == [0, 1, 2, 3, 4]
    assert [len(y) for _, y in DataLoader(Pictures(7), batch_size=3)] == [3, 3, 1]
    assert [len(y) for _, y in DataLoader(Pictures(7), batch_size=3, drop_last=True)] == [3, 3]
    assert list(DataLoader(Pictures(0))) == []


@pytest.mark.parametrize("size", [4, 200])
def test_samples_and_arrays_give_the_same_batches(size):
    pictures = Pictures(20, size)
    arrays = np.stack([x for x, _ in map(pictures.__getitem__, range(20))]), np.arange(20)
    options = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    equal(batches(arrays, **options), batches(pictures, **options))
    orders = [[y.tolist() for _, y in batches(d, shuffle=True)] for d in (arrays, pictures)]
    assert orders[0] == orders[1]


def test_pillow_images_are_samples():
    image = pytest.importorskip("PIL.Image")

    class Painted(Pictures):
        def __getitem__(self, i):
            return image.new("RGB", (5, 4), (255, 0, i)), i

    x, _ = next(iter(DataLoader(Painted(3))))
    assert x.shape == (3, 3, 4, 5)
    assert np.array_equal(x[:, :, 0, 0], np.array([[255, 0, i] for i in range(3)], np.float32) / np.float32(255))


def test_single_values_and_more_than_two():
    class Numbers(Pictures):
        def __getitem__(self, i):
            return float(i)

    class Triples(Pictures):
        def __getitem__(self, i):
            return np.float64(i), i, i > 2

    x = next(iter(DataLoader(Numbers(), batch_size=4)))
    assert (x.tolist(), x.dtype) == ([0, 1, 2, 3], np.float32)
    with md.use_dtype("float64"):
        assert [part.dtype for part in next(iter(DataLoader(Triples())))] == [np.float64, np.int64, np.bool_]


def test_collate_and_plain_functions():
    batch = next(iter(DataLoader(Words(), batch_size=3, collate=lengths)))
    assert batch["n"].tolist() == [0, 1, 2]
    assert batch["words"] == ["", "a", "aa"]
    x, _ = next(iter(DataLoader(Pictures(), transform=lambda picture: picture[:, :2], batch_transform=add_noise)))
    assert x.shape == (20, 3, 2, 4)
    assert x.min() == 1


def test_arrays_take_transforms_too():
    images = np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8)
    crop = transforms.CenterCrop(4)
    x, y = next(iter(DataLoader(data.ArrayDataset(images, [3, 1, 2, 0]), transform=crop)))
    assert np.array_equal(x, images[:, :, 2:6, 2:6] / np.float32(255))
    assert y.tolist() == [3, 1, 2, 0]
    assert next(iter(DataLoader(images, transform=crop))).shape == (4, 3, 4, 4)
    mix = transforms.MixUp(num_classes=4)
    x, y = next(iter(DataLoader((images, np.arange(4)), batch_transform=mix, rng=0)))
    assert y.shape == (4, 4)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


# ---------------------------------------------------------------- samplers


def test_weighted_sampler_balances_classes():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    sampler = data.WeightedRandomSampler(data.balanced_weights(labels), num_samples=3000)
    loader = DataLoader((np.zeros(1000), labels), batch_size=100, sampler=sampler, rng=0)
    assert len(loader) == 30
    counts = np.bincount(np.concatenate([y for _, y in loader]))
    assert counts.sum() == 3000
    assert (abs(counts - 1000) < 100).all()
    without = data.WeightedRandomSampler([0, 1, 2, 0, 3], num_samples=3, replacement=False)
    assert sorted(without.order(np.random.default_rng(0))) == [1, 2, 4]


def test_other_samplers():
    rng = np.random.default_rng(0)
    array = np.arange(10)
    assert data.SequentialSampler(array).order(rng).tolist() == list(range(10))
    assert sorted(data.RandomSampler(array).order(rng)) == list(range(10))
    assert len(set(data.RandomSampler(array, num_samples=4).order(rng))) == 4
    drawn = data.RandomSampler(array, replacement=True, num_samples=200).order(rng)
    assert len(drawn) == 200
    assert set(drawn) == set(range(10))
    epochs = [np.concatenate(batches(array, sampler=data.SubsetRandomSampler([1, 5, 7]), epochs=2)).tolist() for _ in range(2)]
    assert epochs[0] == epochs[1]
    assert sorted(epochs[0]) == [1, 1, 5, 5, 7, 7]
    assert np.concatenate(batches(array, sampler=[3, 3, 0], batch_size=2)).tolist() == [3, 3, 0]


def test_repeats():
    assert repeats(np.array([7, 3, 7, 7, 3])).tolist() == [0, 0, 1, 2, 1]
    assert repeats(np.array([], np.int64)).tolist() == []


def test_an_index_drawn_twice_is_transformed_twice():
    (batch,) = batches(Pictures(1, 64), sampler=[0, 0, 0], transform=transforms.GaussianNoise(), mean=0)
    x = batch[0]
    assert len({image.tobytes() for image in x}) == 3


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: data.WeightedRandomSampler([]), ArgumentError, "not all zero"),
        (lambda: data.WeightedRandomSampler([1, -1]), ArgumentError, "at least 0"),
        (lambda: data.WeightedRandomSampler([1, float("nan")]), ArgumentError, "finite"),
        (lambda: data.WeightedRandomSampler([[1]]), ShapeError, "one weight per example"),
        (lambda: data.WeightedRandomSampler(["a"]), DtypeError, "weights as numbers"),
        (lambda: data.WeightedRandomSampler([1, 0], 2, replacement=False), ArgumentError, "num_samples of at most 1"),
        (lambda: data.RandomSampler([1, 2], num_samples=3), ArgumentError, "at most 2 without replacement"),
        (lambda: data.RandomSampler([1], num_samples=0), ArgumentError, "at least 1"),
        (lambda: data.RandomSampler([1], num_samples=1.5), DtypeError, "an integer"),
        (lambda: data.SubsetRandomSampler([0.5]), DtypeError, "integers"),
        (lambda: data.SequentialSampler(3), DtypeError, "data with a length"),
        (lambda: DataLoader(np.arange(3), sampler=iter([1])), DtypeError, "a sampler with a length"),
        (lambda: DataLoader(np.arange(3), sampler=[0], shuffle=True), ArgumentError, "shuffle or a sampler, got both"),
        (lambda: next(iter(DataLoader(np.arange(3), sampler=[3]))), ArgumentError, "indices from 0 to 2, got 3 to 3"),
        (lambda: DataLoader(Pictures(), workers=-1), ArgumentError, "workers of at least 0"),
        (lambda: DataLoader(Pictures(), prefetch=0), ArgumentError, "prefetch of at least 1"),
        (lambda: DataLoader(Pictures(), worker_type="fork"), ArgumentError, "'process' or 'thread'"),
        (lambda: DataLoader(Pictures(), transform=3), DtypeError, "a transform or a function"),
        (lambda: DataLoader(Pictures(), collate=3), DtypeError, "collate as a function"),
        (lambda: DataLoader(Pictures(), collate=lengths, mean=1), ArgumentError, "mean and std, or collate"),
        (lambda: DataLoader({"x": [1]}), (DtypeError, ShapeError), "DataLoader"),
        (lambda: DataLoader("text"), (DtypeError, ShapeError), "DataLoader"),
        (lambda: next(iter(DataLoader(Words()))), DtypeError, "value 0 of a sample as numbers, got str"),
        (lambda: next(iter(DataLoader(Pictures(), mean=[1, 2]))), ShapeError, "mean as a number or 3 of them"),
    ],
)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_samples_that_do_not_fit_together():
    class Odd(Pictures):
        def __getitem__(self, i):
            return self.samples[i]

    odd = Odd(2)
    picture = np.zeros((3, 4, 4), np.uint8)
    for second, error in (
        ((np.zeros((3, 4, 5), np.uint8), 1), ShapeError),
        ((picture / 2, 1), DtypeError),
        ((picture, 0.5), DtypeError),
        ((picture, 1, 2), ShapeError),
        (picture, ShapeError),
    ):
        odd.samples = [(picture, 0), second]
        with pytest.raises(error, match="DataLoader: expected samples of"):
            next(iter(DataLoader(odd)))


# ---------------------------------------------------------------- randomness


AUGMENT = transforms.Compose(
    [transforms.RandomCrop(4, padding=2), transforms.RandomHorizontalFlip(), transforms.GaussianNoise(sigma=0.3)]
)


def test_every_kind_of_worker_gives_the_same_batches():
    mix = transforms.RandomChoice([transforms.MixUp(num_classes=23), transforms.CutMix(num_classes=23)])
    options = {"transform": AUGMENT, "batch_transform": mix, "shuffle": True, "epochs": 2, "std": 0.5}
    results = [batches(Drawing(23), **options, **kind) for kind in KINDS]
    equal(results[0], results[1])
    equal(results[0], results[2])
    assert not np.array_equal(results[0][0][0], results[0][4][0])  # another epoch, other numbers


def test_random_numbers_of_a_sample_do_not_depend_on_its_batch():
    options = {"transform": transforms.GaussianNoise(sigma=0.3), "rng": 5}
    (one,), several = batches(Pictures(9), batch_size=9, **options), batches(Pictures(9), batch_size=2, **options)
    assert np.array_equal(one[0], np.concatenate([x for x, _ in several]))
    assert not np.array_equal(one[0], batches(Pictures(9), batch_size=9, **{**options, "rng": 6})[0][0])


def test_minidls_own_seed_counts():
    runs = []
    for _ in range(2):
        md.manual_seed(3)
        runs.append(batches(Pictures(), rng=None, shuffle=True, transform=AUGMENT))
    equal(*runs)


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("kind", KINDS[:2], ids=["alone", "threads"])
def test_resume_within_an_epoch(kind):
    options = {"batch_size": 4, "shuffle": True, "transform": AUGMENT, "rng": 7, **kind}
    with DataLoader(Pictures(18), **options) as loader, DataLoader(Pictures(18), **options) as other:
        list(loader)
        seen = iter(loader)
        next(seen), next(seen)
        state = json.loads(json.dumps(loader.state_dict()))
        assert (state["epoch"], state["batch"]) == (1, 2)
        rest, following = list(seen), list(loader)
        other.load_state_dict(state)
        assert other.state_dict() == state
        assert other.epoch == 1
        equal(rest, list(other))
        equal(following, list(other))
        assert other.epoch == 3


def test_resume_between_epochs_and_after_the_last_batch():
    options = {"batch_size": 6, "shuffle": True, "rng": 7}
    loader = DataLoader(np.arange(18), **options)
    states = []
    for _ in loader:
        states.append(loader.state_dict())
    states.append(loader.state_dict())
    assert [(s["epoch"], s["batch"]) for s in states] == [(0, 1), (0, 2), (1, 0), (1, 0)]
    following = [x.tolist() for x in loader]
    for state in states[2:]:
        other = DataLoader(np.arange(18), **options)
        other.load_state_dict(state)
        assert [x.tolist() for x in other] == following


def test_resume_with_minidls_own_generator():
    loader = DataLoader(np.arange(30), batch_size=5, shuffle=True)
    seen = iter(loader)
    next(seen), next(seen)
    state, own = loader.state_dict(), md.random.get_state()
    rest = [x.tolist() for x in [*seen, *loader]]
    md.random.set_state(own)
    other = DataLoader(np.arange(30), batch_size=5, shuffle=True)
    other.load_state_dict(state)
    assert [x.tolist() for x in [*other, *other]] == rest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": 19}, "examples 18, got 19"),
        ({"batch_size": 5}, "batch_size 4, got 5"),
        ({"batch": 5}, "a batch from 0 to 4"),
        ({"rng": {"bit_generator": "MT19937"}}, "the state of a PCG64"),
        ({"more": 1}, "a dictionary with"),
    ],
)
def test_states_that_do_not_fit(change, message):
    loader = DataLoader(Pictures(18), batch_size=4, rng=0)
    with pytest.raises(ArgumentError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    assert len(list(loader)) == 5


# ---------------------------------------------------------------- workers


@linux
def test_processes_persist_and_leave_nothing():
    loader = DataLoader(Pictures(50), batch_size=5, workers=2)
    first = list(loader)
    pids = sorted(process.pid for process in children())
    assert len(pids) == 2
    assert len(segments()) == 4  # a ring of 2 workers with 2 batches each, however many come
    for _ in loader:  # leaving early is fine
        break
    equal(first, list(loader))
    assert sorted(process.pid for process in children()) == pids
    loader.close()
    assert children() == []
    assert segments() == set()
    assert first[9][1].tolist() == list(range(45, 50))  # batches are memory of their own: they outlive the loader
    assert first[9][0].flags.writeable
    equal(first, list(loader))  # starts new ones
    pool = loader._pool
    del loader, pool
    gc.collect()
    assert children() == []
    assert segments() == set()


@linux
def test_early_break_of_a_loader_that_nobody_keeps():
    for batch in DataLoader(Pictures(50), batch_size=5, workers=1):
        assert batch[0].shape == (5, 3, 4, 4)
        break
    gc.collect()
    assert (children(), segments()) == ([], set())


@linux
def test_errors_in_a_process():
    loader = DataLoader(Broken(), batch_size=4, workers=1)
    running = iter(loader)
    assert [next(running)[1].tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # what is before it comes
    with pytest.raises(WorkerError, match="sample nine is broken") as info:
        next(running)
    assert "__getitem__" in str(info.value)
    assert "DataLoader met this in sample 9" in str(info.value)
    assert (children(), segments()) == ([], set())
    with pytest.raises(WorkerError, match="not in this process"):
        next(iter(DataLoader(Unloadable(), workers=1)))
    assert (children(), segments()) == ([], set())


@linux
def test_a_process_that_dies():
    start = time.monotonic()
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(DataLoader(Dying(), batch_size=4, workers=1))
    assert (children(), segments()) == ([], set())
    assert time.monotonic() - start < 60  # it does not wait for an answer that cannot come


@linux
def test_a_process_killed_from_outside_between_epochs():
    loader = DataLoader(Pictures(), batch_size=4, workers=1)
    list(loader)
    os.kill(children()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        list(loader)
    assert (children(), segments()) == ([], set())
    assert len(list(loader)) == 5
    loader.close()


def test_what_cannot_be_sent_to_a_process():
    for options, part in (
        ({"data": type("Local", (Pictures,), {})()}, "dataset"),
        ({"data": Pictures(), "transform": lambda x: x}, "transform"),
        ({"data": Pictures(), "collate": lambda samples: samples}, "collate"),
    ):
        with pytest.raises(DtypeError, match=f"a {part} that can be pickled.*worker_type='thread'"):
            next(iter(DataLoader(workers=1, **options)))
        assert children() == []


def test_errors_in_a_thread():
    with DataLoader(Broken(), batch_size=4, workers=2, worker_type="thread") as loader:
        with pytest.raises(ValueError, match="sample nine is broken"):
            list(loader)
        assert len(next(iter(loader))) == 2  # the threads are there still
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("minidl loader")]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_is_read_ahead_than_allowed(prefetch):
    """A set larger than memory costs as much as the batches that are on their way."""

    class Endless(Pictures):
        read = 0

        def __getitem__(self, i):
            type(self).read += 1
            return np.zeros(10, np.float32)

    with DataLoader(Endless(10**12), batch_size=10, workers=2, worker_type="thread", prefetch=prefetch) as loader:
        for number, _ in enumerate(loader, 1):
            assert Endless.read <= 10 * (number + 2 * prefetch)
            if number == 20:
                break


@linux
def test_a_ring_of_processes_does_not_grow_with_the_set():
    with DataLoader(Pictures(10**12), batch_size=3, workers=1, prefetch=2) as loader:
        for number, (_, y) in enumerate(loader):
            assert y.tolist() == [3 * number, 3 * number + 1, 3 * number + 2]
            assert len(segments()) <= 2
            if number == 20:
                break


def test_processes_and_collate_of_any_form():
    expected = batches(Words(), collate=lengths)
    found = batches(Words(), collate=lengths, workers=1)
    for one, other in zip(expected, found):
        assert one["words"] == other["words"]
        assert one["n"].tolist() == other["n"].tolist()
    alone, apart = (batches(Pictures(400), collate=ragged, batch_size=16, **kind) for kind in (KINDS[0], KINDS[2]))
    assert [x.shape for x, _ in alone] == [
        x.shape for x, _ in apart
    ]  # every batch is larger than the one before: the ring grows


def test_one_pass_at_a_time():
    with DataLoader(Pictures(), batch_size=2, workers=1) as loader:
        older = iter(loader)
        next(older)
        newer = iter(loader)
        assert next(newer)[1].tolist() == [0, 1]
        with pytest.raises(WorkerError, match="the newest pass over the loader"):
            next(older)
        assert [y.tolist() for _, y in newer] == [[i, i + 1] for i in range(2, 20, 2)]
        running = iter(loader)
        next(running)
        loader.close()
        with pytest.raises(WorkerError, match="a loader that is open"):
            next(running)


SCRIPT = """
import os, sys, time
import numpy as np
from minidl.data import DataLoader

class Slow:
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.01)
        return np.zeros((3, 64, 64), np.uint8), i

if __name__ == "__main__":
    import multiprocessing
    for number, _ in enumerate(DataLoader(Slow(), batch_size=2, workers=2)):
        if number == 1:
            print(*[p.pid for p in multiprocessing.active_children()], flush=True)
"""


def _ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@linux
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_program_that_is_ended_leaves_nothing(name, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    program = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    assert segments(program.pid)
    if name == "SIGINT":
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all processes
    else:
        program.send_signal(getattr(signal, name))
    _, errors = program.communicate(timeout=60)
    assert program.returncode != 0
    if name == "SIGINT":
        assert errors.count("Traceback") == 1  # the program's own; the workers keep quiet
    deadline = time.monotonic() + 30
    while (segments(program.pid) or not all(map(_ended, pids))) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not segments(program.pid)
    assert all(map(_ended, pids))


def test_a_script_without_a_guard_is_told(tmp_path):
    text = """
        import numpy as np
        from minidl.data import DataLoader
        class Data:
            def __len__(self): return 4
            def __getitem__(self, i): return np.zeros(3), i
        for batch in DataLoader(Data(), workers=1):
            pass
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "if __name__ == '__main__':" in result.stderr.splitlines()[-1]


# ---------------------------------------------------------------- shared memory


def test_slots_carry_any_batch():
    writer, reader = (kind(f"minidl-{os.getpid()}-slot") for kind in (Writer, Reader))
    try:
        for size in (3, 40, 500, 7):
            writer.clear()
            inside = writer.empty((size, 4, 4, 3), np.float32)
            inside[...] = np.arange(inside.size).reshape(inside.shape)
            outside = np.asfortranarray(np.arange(size * 2.0).reshape(size, 2))
            batch = {
                "images": inside.transpose(0, 3, 1, 2),
                "rest": [outside, outside[::-2], np.arange(0), np.float32(2), "text"],
                "objects": np.array([{1}], object),
            }
            expected = batch["images"].copy(order="K")
            found = reader.unpack(*writer.pack(batch))
            writer.clear()
            writer.empty((size, 4, 4, 3), np.float32)[...] = -1  # the slot is used again: what was read stays
            assert np.array_equal(found["images"], expected)
            assert found["images"].strides == expected.strides
            assert np.array_equal(found["rest"][0], outside)
            assert np.array_equal(found["rest"][1], outside[::-2])
            assert found["rest"][2:] == [pytest.approx([]), 2, "text"]
            assert found["objects"].tolist() == [{1}]
            del inside, batch
    finally:
        writer.close()
        reader.close()
    assert not segments()


@linux
@pytest.mark.parametrize("transformed", [False, True])
def test_a_slot_grows_once_for_batches_of_one_size(transformed):
    writer, reader = (kind(f"minidl-{os.getpid()}-slot") for kind in (Writer, Reader))
    try:
        for number in range(4):
            writer.clear()
            x = writer.empty((100, 1000), np.float32)
            x[...] = number
            x = x + 1 if transformed else x.reshape(1000, 100)  # made anew, as MixUp does, or a view
            found = reader.unpack(*writer.pack([x, np.arange(number)]))
            assert (found[0] == x).all()
            assert segments() == {f"minidl-{os.getpid()}-slot-1"}
            size = (SHARED / f"minidl-{os.getpid()}-slot-1").stat().st_size
            assert size < (2 if transformed else 1) * 4e5 * 1.3
            del x
    finally:
        writer.close()
        reader.close()


@linux
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve memory")
def test_shared_memory_that_is_full(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    writer = Writer(f"minidl-{os.getpid()}-full")
    with pytest.raises(MemoryError, match=r"no room for .* bytes of shared memory: .*No space left.*--shm-size"):
        writer.pack(np.zeros(1000))
    assert not segments()


def test_to_gpu_says_what_is_missing():
    with pytest.raises(ArgumentError, match="a GPU: 'cuda' or 'cuda:N', got 'cpu'"):
        data.to_gpu([], "cpu")


class _FakeGpu:
    """Stands in for CuPy: a copy happens when its event is awaited, as late as it may."""

    class Stream:
        def __init__(self, non_blocking=False):
            self.queued = []

        def record(self):
            event = _FakeGpu.Stream()
            event.queued, self.queued = self.queued, []
            return event

        def wait_event(self, event):
            pass

        def synchronize(self):
            while self.queued:
                self.queued.pop(0)()

    class Array(np.ndarray):
        def set(self, source, stream):
            stream.queued.append(lambda: np.copyto(self, source))

    def __init__(self):
        self.current = self.Stream()
        self.cuda = SimpleNamespace(
            Device=lambda index: nullcontext(),
            Stream=self.Stream,
            get_current_stream=lambda: self.current,
            alloc_pinned_memory=bytearray,
        )

    def empty(self, shape, dtype):
        return np.full(shape, -1, dtype).view(self.Array)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_double_buffering_gives_the_same_batches(count):
    read = []

    def watched():
        for number in range(count):
            read.append(number)
            yield np.full((2, 5, 4, 3), number, np.float32).transpose(0, 3, 1, 2), np.arange(2) + number

    for number, (x, y) in enumerate(_double_buffered(_FakeGpu(), watched(), 0)):
        assert read[-1] == min(number + 1, count - 1)  # the next one is on its way
        assert (x.shape, x.strides) == ((2, 3, 5, 4), (240, 4, 48, 12))
        assert (x == number).all()
        assert y.tolist() == [number, number + 1]
    assert len(read) == count
    singles = [np.asarray(x) for x in _double_buffered(_FakeGpu(), iter([np.arange(3), np.zeros((0, 2))]), 0)]
    assert [x.tolist() for x in singles] == [[0, 1, 2], []]


@pytest.mark.cuda
def test_batches_on_a_gpu(on_gpu):
    """The same, in the same memory order; and the loader's place is before the batch that is on its way."""
    host, loader = (DataLoader(Pictures(40), 8, shuffle=True, rng=0, device=device) for device in ("cpu", "cuda"))
    for (x, y), (gx, gy) in zip(host, loader):
        assert isinstance(gx, on_gpu.ndarray)
        assert gx.strides == x.strides
        assert np.array_equal(gx.get(), x)
        assert np.array_equal(gy.get(), y)
        assert loader.state_dict() == host.state_dict()
    with pytest.raises(DtypeError, match=r"to_gpu: expected batches of NumPy arrays, .* got str"):
        next(iter(DataLoader(Pictures(4), 2, collate=lambda samples: "text", device="cuda")))
    with pytest.raises(md.DeviceError, match=r"at most \d+ GPU\(s\), got 'cuda:99'"):
        DataLoader(Pictures(4), 2, device="cuda:99")


@pytest.mark.cuda
def test_training_from_batches_on_a_gpu(on_gpu):
    histories = []
    for device in ("cpu", "cuda"):
        model = md.nn.Sequential(md.nn.Flatten(), md.nn.Linear(48, 24, rng=0)).to(device)
        batches, held_out = (DataLoader(Pictures(24), 8, shuffle=True, rng=1, device=device) for _ in range(2))
        optimizer = md.optim.SGD(model.parameters(), lr=0.1)
        histories.append(md.fit(model, batches, optimizer, epochs=2, validation=held_out))
    for row, expected in zip(*histories):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-5)
