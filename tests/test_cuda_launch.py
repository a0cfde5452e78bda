"""How CUDA kernels are declared and launched; and that the emulator finds what would go wrong on a GPU."""

import logging

import numpy as np
import pytest

from minidl import backend, kernels
from minidl.errors import DeviceError
from minidl.kernels.cuda import _launch
from minidl.kernels.cuda._launch import Source, grid_of

SCALE = r"""
// y = factor x, the comment names no __global__ void kernel(int x) {
extern "C" __global__ void scale(const T* __restrict__ x, T* y, long long size, T factor) {
    for (long long i = first_index(); i < size; i += index_step()) y[i] = x[i] * factor;
}
extern "C" __global__ void __launch_bounds__(128) fill(int* y, int n, const bool up) {
    if (first_index() < n) y[first_index()] = up ? first_index() : -first_index();
}
"""


@pytest.fixture
def cp(emulated):
    return emulated


def run(cp, text, x, block=64, shared=0, grid=1, name="kernel"):
    """One launch of ``kernel(const T* x, T* y)``."""
    x = cp.asarray(x)
    y = cp.empty_like(x)
    Source(text).launch(name, x.dtype, grid, block, (x, y), shared)
    return y.get()


def kernel(body):
    return 'extern "C" __global__ void kernel(const T* x, T* y) {\n' + body + "\n}"


# ---------------------------------------------------------------- the launch


def test_signatures_are_read_from_the_text():
    source = Source(SCALE)
    assert [*source.kernels] == ["scale", "fill"]
    assert repr(source.kernels["scale"]) == "scale(const T* x, T* y, long long size, T factor)"
    assert [(p.name, p.type, p.pointer) for p in source.kernels["fill"].parameters] == [
        ("y", "int", True),
        ("n", "int", False),
        ("up", "bool", False),
    ]


def test_unknown_type_in_a_signature():
    with pytest.raises(TypeError, match=r"strange: expected parameters like .*, got 'half x'"):
        _ = Source('extern "C" __global__ void strange(half x) {}').kernels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_launch(cp, dtype):
    source = Source(SCALE)
    x = cp.arange(1000, dtype=dtype)
    y = cp.empty_like(x)
    source.launch("scale", x.dtype, grid_of(x.size, 128), 128, (x, y, x.size, 2))
    np.testing.assert_array_equal(y.get(), 2 * x.get())
    n = cp.empty(3, np.int32)
    source.launch("fill", dtype, (1,), (32, 1), (n, np.int64(3), False))
    np.testing.assert_array_equal(n.get(), [0, -1, -2])


def test_nothing_is_built_twice(cp):
    source, x = Source(SCALE), cp.ones(4, np.float32)
    source.launch("scale", x.dtype, 1, 32, (x, x.copy(), 4, 1.0))
    module, function = source._modules[x.dtype], source._functions["scale", x.dtype]
    for dtype in (x.dtype, np.float32, "float32"):
        source.launch("scale", dtype, 1, 32, (x, x.copy(), 4, 1.0))
    assert source._modules == {x.dtype: module}
    assert source._functions["scale", x.dtype] is function


def test_no_blocks_launch_nothing(cp):
    x = cp.empty(0, np.float32)
    cp.counts.clear()
    Source(SCALE).launch("scale", x.dtype, grid_of(0, 256), 256, (x, x, 0, 1.0))
    assert cp.counts.launches == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({2: 1.5}, "expected long long for size, got 1.5"),
        ({2: "4"}, "expected long long for size, got '4'"),
        ({2: 1 << 63}, "expected long long for size, got 9223372036854775808"),
        ({3: None}, "expected T for factor, got None"),
        ({0: 0}, "expected a float32 device array for x, got int"),
        ({0: np.ones(4, np.float32)}, "expected a float32 device array for x, got ndarray"),
        ({0: "double"}, r"expected a float32 device array for x, got float64 array of shape \(4,\)"),
        ({1: "strided"}, r"expected a C-contiguous array for y, got strides \(8,\)"),
        ({4: 1}, "expected 4 arguments, got 5"),
    ],
)
def test_wrong_arguments(cp, change, message):
    x = cp.ones(4, np.float32)
    args = {0: x, 1: x.copy(), 2: 4, 3: 1.0, **change}
    args = {i: {"double": cp.ones(4), "strided": cp.ones(8, np.float32)[::2]}.get(a, a) if isinstance(a, str) and i < 2 else a
            for i, a in args.items()}  # fmt: skip
    with pytest.raises(TypeError, match=rf"scale\(const T\* x.*\): {message}"):
        Source(SCALE).launch("scale", x.dtype, 1, 32, tuple(args.values()))


def test_null_pointer(cp):
    text = kernel("y[threadIdx.x] = x ? x[threadIdx.x] : T(7);")
    y = cp.empty(4, np.float64)
    Source(text).launch("kernel", y.dtype, 1, 4, (None, y))
    np.testing.assert_array_equal(y.get(), np.full(4, 7.0))


def test_array_of_another_device(cp):
    x = cp.ones(4, np.float32)
    with cp.cuda.Device(1), pytest.raises(DeviceError, match=r"scale: expected x on the current device, cuda:1, got .* cuda:0"):
        Source(SCALE).launch("scale", x.dtype, 1, 32, (x, x, 4, 1.0))


def test_much_shared_memory_is_asked_for(cp):
    text = kernel(
        "extern __shared__ T all[]; all[threadIdx.x + 10000] = x[threadIdx.x]; y[threadIdx.x] = all[threadIdx.x + 10000];"
    )
    x = np.arange(4.0)
    np.testing.assert_array_equal(run(cp, text, x, 4, shared=10004 * 8), x)
    with pytest.raises(cp.cuda.driver.CUDADriverError):
        run(cp, text, x, 4, shared=300_000)


def test_a_line_explains_the_wait(cp, caplog, monkeypatch):
    monkeypatch.setattr(_launch, "compiling", _launch._Compiling())
    x = cp.ones(4, np.float32)
    with caplog.at_level(logging.WARNING, "minidl"):
        for seconds, lines in ((0.0, 0), (1.0, 1), (1.0, 1)):
            _launch.compiling.seconds = seconds
            Source(SCALE).launch("scale", x.dtype, 1, 32, (x, x.copy(), 4, 1.0))
            assert caplog.text.count("compiling kernels for this GPU") == lines


def test_kernels_of_device_arrays(cp):
    from minidl.kernels import cuda, generic

    x = cp.ones(2, np.float32)
    assert kernels.kernels_for(x) is cuda
    assert kernels.kernels_for(x.astype(np.int64)) is generic
    with kernels.use_kernels("generic"):
        assert kernels.kernels_for(x) is generic
    assert backend.device_of(x) == "cuda:0"


# ---------------------------------------------------------------- what all texts share


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block", [32, 96, 1024])
def test_sums(cp, dtype, block):
    x = np.random.default_rng(0).standard_normal(block).astype(dtype)
    total = run(cp, kernel("y[threadIdx.x] = block_sum(x[threadIdx.x]) + block_sum(T(1));"), x, block)
    np.testing.assert_allclose(total, np.full(block, x.sum() + block), rtol=1e-5)
    assert len(set(total)) == 1  # every thread has the same one
    np.testing.assert_array_equal(
        run(cp, kernel("y[threadIdx.x] = block_max(x[threadIdx.x]);"), x, block), np.full(block, x.max())
    )
    sums = run(cp, kernel("y[threadIdx.x] = warp_sum(x[threadIdx.x]);"), x, block)
    np.testing.assert_allclose(sums, x.reshape(-1, 32).sum(1).repeat(32), rtol=1e-4, atol=1e-5)


def test_maximum_of_nan_is_nan(cp):
    x = np.array([1.0, np.nan, -np.inf, 3.0])
    y = run(cp, kernel("for (int i = 0; i < 4; i++) y[i] = maximum(x[i], x[3 - i]) + minimum(x[3 - i], x[i]);"), x, 1)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y, np.maximum(x, x[::-1]) + np.minimum(x, x[::-1]))


def test_tensor_core_product(cp):
    text = r"""
extern "C" __global__ void product(const float* a, const float* b, float* d) {
    const int g = lane_index() / 4, t = lane_index() % 4;
    const unsigned part_a[4] = {to_tf32(a[8 * g + t]), to_tf32(a[8 * g + 64 + t]), to_tf32(a[8 * g + t + 4]),
                                to_tf32(a[8 * g + 64 + t + 4])};
    const unsigned part_b[2] = {to_tf32(b[8 * t + g]), to_tf32(b[8 * t + 32 + g])};
    float sum[4] = {0, 0, 0, 0};
    mma_tf32_16x8x8(sum, part_a, part_b);
    for (int i = 0; i < 4; i++) d[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = sum[i];
}"""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-99, 99, shape).astype(np.float32) for shape in ((16, 8), (8, 8)))  # TF32 holds them
    d = cp.empty((16, 8), np.float32)
    Source(text).launch("product", np.float32, 1, 32, (cp.array(a), cp.array(b), d))
    np.testing.assert_array_equal(d.get(), a @ b)


COPIED = """
    extern __shared__ T all[];
    copy_async<sizeof(T)>(all + threadIdx.x, x + threadIdx.x, threadIdx.x != 5);
    copy_async_commit();
    %s
    y[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
"""


def test_copies_beside_the_threads(cp):
    x = np.arange(64.0) + 1
    y = run(cp, kernel(COPIED % "copy_async_wait<0>(); __syncthreads();"), x, shared=512)
    np.testing.assert_array_equal(y[::-1], np.where(np.arange(64) == 5, 0, x))


# ---------------------------------------------------------------- what the emulator finds

MISTAKES = {
    "a store past the end": ("y[threadIdx.x + 1] = x[0];", "a store of 8 bytes, 8 bytes past the end of y.*thread 63"),
    "a load before the beginning": (
        "y[threadIdx.x] = x[(int)threadIdx.x - 2];",
        "a load of 8 bytes, 16 bytes before the beginning of x",
    ),
    "a shared array's end": (
        "__shared__ T all[64]; all[threadIdx.x + 1] = x[threadIdx.x]; y[threadIdx.x] = 0;",
        "a store of 8 bytes, 8 bytes past the end of shared all",
    ),
    "dynamic shared memory's end": (
        "extern __shared__ T all[]; all[threadIdx.x + 1] = x[threadIdx.x];",
        "8 bytes past the end of dynamic shared memory",
    ),
    "an address of no float4": (
        "const float4 v = *(const float4*)(x + threadIdx.x); y[threadIdx.x] = v.x;",
        "no multiple of 16",
    ),
    "no barrier before a load": (
        "__shared__ T all[64]; all[threadIdx.x] = x[threadIdx.x]; y[threadIdx.x] = all[63 - threadIdx.x];",
        "with no barrier between",
    ),
    "no barrier before a store": (
        "__shared__ T first; if (threadIdx.x == 0) first = x[0]; __syncthreads(); y[threadIdx.x] = first;"
        "if (threadIdx.x == 0) first = x[1];",
        "with no barrier between",
    ),
    "two writers": ("y[threadIdx.x / 2] = x[threadIdx.x];", "y: thread 0 wrote element .* that this one writes"),
    "two blocks write": ("y[threadIdx.x] = x[threadIdx.x];", "of another block wrote"),
    "a barrier that not all reach": (
        "if (threadIdx.x < 40) __syncthreads(); else warp_sum(T(1));",
        "threads wait for each other",
    ),
    "an exchange with an ended lane": (
        "if (threadIdx.x == 3) return; y[threadIdx.x] = warp_sum(x[threadIdx.x]);",
        "lane 3 has ended",
    ),
    "a lane outside of the mask": ("y[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 0);", "does not name this lane, 16"),
    "a copy without a wait": (COPIED % "__syncthreads();", "a copy_async is never waited for|no barrier between"),
    "too many threads": ("y[0] = 0;", "not within 1 to 1024"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found(cp, name):
    body, message = MISTAKES[name]
    grid, block = 2 if name == "two blocks write" else 1, 2048 if name == "too many threads" else 64
    with pytest.raises(AssertionError, match=message):
        run(cp, kernel(body), np.arange(64.0), block, 512, grid)
    fine = run(cp, kernel("y[threadIdx.x] = warp_sum(x[threadIdx.x]);"), np.arange(64.0))  # and the next launch is well
    np.testing.assert_array_equal(fine, np.repeat([496.0, 1520.0], 32))


def test_reading_what_nobody_wrote_shows(cp):
    assert np.isnan(run(cp, kernel("__shared__ T all[64]; y[threadIdx.x] = all[threadIdx.x];"), np.ones(64))).all()
    assert np.isnan(cp.empty(3).get()).all()


def test_partial_masks_and_votes(cp):
    body = """
    const bool low = threadIdx.x < 8;
    T value = x[threadIdx.x];
    if (low) value = __shfl_down_sync(0xffu, value, 1) + __shfl_up_sync(0xffu, value, 1, 8);
    else value = __shfl_xor_sync(0xffffff00u, value, 1);
    y[threadIdx.x] = value + 100 * __popc(__ballot_sync(0xffffffffu, low)) + 1000 * __any_sync(0xffffffffu, threadIdx.x == 3);
"""
    x = np.arange(32.0)
    expected = np.where(x < 8, np.minimum(x + 1, 8) + np.maximum(x - 1, 0), x + 1 - 2 * (x % 2)) + 1800
    expected[7] = (
        8 - 1 + 8 - 2 + 1800 + 1 - 0
    )  # the last lane of the mask reads the one after it: undefined on a GPU, so not compared
    y = run(cp, kernel(body), x, 32)
    np.testing.assert_array_equal(np.delete(y, 7), np.delete(expected, 7))


# ---------------------------------------------------------------- the stand-in


def test_it_refuses_what_cupy_refuses(cp):
    x = cp.ones(3)
    for wrong in (
        lambda: np.asarray(x),
        lambda: x + np.ones(3),
        lambda: np.add(x, np.ones(3)),
        lambda: cp.add(np.ones(3), x),
        lambda: cp.sum(x, where=True),
        lambda: range(3)[cp.array(1)],
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(NotImplementedError):
        cp.maximum.reduce(x)
    with pytest.raises(AttributeError):
        _ = cp.nditer
    with cp.cuda.Device(1), pytest.raises(ValueError, match=r"device"):
        x + x


def test_it_does_what_cupy_does(cp):
    x = cp.arange(6, dtype=np.float32).reshape(2, 3)
    assert isinstance(x.sum(), cp.ndarray)
    assert isinstance(np.exp(x), cp.ndarray)
    assert isinstance(np.concatenate([x, x]), cp.ndarray)
    assert (x + 1.5).dtype == (np.float32(2) * x).dtype == np.float32
    part = x[1, 2]
    part[...] = 9  # a view
    assert x.get()[1, 2] == 9
    x += 1
    assert float(x[0, 0]) == 1.0


def test_it_counts(cp):
    x = cp.array(np.arange(4.0))
    cp.counts.clear()
    y = (x * 2).sum()
    assert (cp.counts.downloads, cp.counts.uploads) == (0, 0)
    _ = float(y), x[x > 1], bool(y > 0), x.get()
    assert cp.counts.downloads == 4
    _ = cp.array(np.ones(2))
    assert cp.counts.uploads == 1


def test_graph(cp):
    source, x, y = Source(SCALE), cp.arange(4, dtype=np.float32), cp.zeros(4, np.float32)
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        z = x + 1
        source.launch("scale", x.dtype, 1, 32, (z, y, 4, 2.0))
        y[0] = 7
        y *= 2
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError):
            float(x[0])
        graph = stream.end_capture()
    np.testing.assert_array_equal(y.get(), np.zeros(4))
    for first in (0, 10):
        x[...] = cp.arange(first, first + 4, dtype=np.float32)
        graph.launch()
        np.testing.assert_array_equal(y.get(), [14, *(4 * (np.arange(first + 1, first + 4) + 1))])
