"""The buffer pool: memory is handed out again exactly when nobody can see it any more."""

import threading

import numpy as np
import pytest

from minidl import memory

SHAPE = (256, 1024)  # 1 MB of float32


@pytest.fixture(autouse=True)
def pool_of_its_own(monkeypatch):
    """Arrays of other tests may still be alive: an error that was caught holds them until the collector comes by."""
    monkeypatch.setattr(memory, "_buffers", {})
    monkeypatch.setattr(memory, "_peak", 0)


def address(a):
    return a.__array_interface__["data"][0]


def test_memory_is_reused_after_the_last_view_is_gone():
    a = memory.empty(SHAPE, np.float32)
    where = address(a)
    view = a[3:].T
    del a
    b = memory.empty(SHAPE, np.float32)
    assert address(b) != where, "somebody still looks at the first buffer"
    del view
    assert address(memory.empty(SHAPE, np.float32)) == where


def test_kept_arrays_are_never_overwritten():
    rng = np.random.default_rng(0)
    kept = []
    for i in range(200):
        a = memory.empty((rng.integers(100, 140), 1000), np.float32)
        a[...] = i
        if rng.random() < 0.3:
            kept.append((i, a[::2] if rng.random() < 0.5 else a.T))
    for i, a in kept:
        assert (a == i).all()


def test_threads_never_share_a_buffer():
    wrong = []

    def work(number):
        for _ in range(300):
            a = memory.empty(SHAPE, np.float32)
            a[0] = number
            a[-1] = number
            if not ((a[0] == number).all() and (a[-1] == number).all()):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert wrong == []


def test_free_memory_is_bounded():
    """Ever new sizes do not pile up: the pool keeps at most twice what was in use at once, and some slack."""
    for n in range(100, 300):
        memory.empty((n, 10_000), np.float32)
    used, free = memory.pool_bytes()
    assert used == 0
    assert free < 2 * 300 * 10_000 * 4 * 9 / 8 + memory.SLACK


def test_repeated_work_takes_no_new_memory():
    """The second and every later round of the same allocations finds all its buffers."""

    def work():
        held = [memory.empty((n, 1000), np.float32) for n in range(1000, 5000, 250)]
        del held[::2]
        return held + [memory.empty((n, 1000), np.float32) for n in range(6000, 9000, 500)]

    work()
    before = memory.pool_bytes()
    for _ in range(5):
        work()
        assert memory.pool_bytes() == before


def test_release_and_no_pool():
    a = memory.empty(SHAPE, np.float32)
    del a
    assert memory.pool_bytes()[1] > 0
    memory.release_pool()
    assert memory.pool_bytes() == (0, 0)
    with memory.no_pool():
        memory.empty(SHAPE, np.float32)
        assert memory.pool_bytes() == (0, 0)


@pytest.mark.parametrize("shape", [(0,), (), (3, 0, 2), (5,), (256, 257)])
def test_shapes_and_alignment(shape):
    a = memory.empty(shape, np.float64)
    assert a.shape == shape
    assert a.flags.c_contiguous
    assert a.flags.writeable
    if a.nbytes >= memory.SMALL:
        assert address(a) % memory.ALIGN == 0


def test_empty_like_keeps_the_memory_order():
    x = np.empty((2, 5, 7, 3), np.float32).transpose(0, 3, 1, 2)
    assert memory.empty_like(x).strides == x.strides
    assert memory.empty_images(2, 3, 5, 7, np.float32).strides == x.strides
    assert memory.flat(x).size == x.size
    assert memory.flat(x[:, ::2]) is None
    assert memory.dense(x)[0] is x
    assert memory.channels_last(x).base is not None
    np.testing.assert_array_equal(
        memory.channels_last(np.arange(24.0).reshape(1, 2, 3, 4)), np.arange(24.0).reshape(1, 2, 3, 4).transpose(0, 2, 3, 1)
    )
