"""Profiles: they see what really runs, count it right, and leave it as it is."""

import json
import sys
import time

import numpy as np
import pytest

import minidl as md
from minidl import ArgumentError, DtypeError, nn
from minidl.context import state
from minidl.profile import Ceilings, ceilings, profile
from minidl.registry import OPS, Draw

TOP = Ceilings(gflops=100, gbs=10)


def network():
    layers = nn.Conv2d(1, 4, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5, rng=1)
    return nn.Sequential(*layers)


def row(p, name, phase, by="op"):
    (found,) = [row for row in p.rows(by, phase=phase) if row.name == name]
    return found


def test_fused_layers_stay_fused_and_results_do_not_change():
    model, x = network(), md.randn(2, 1, 8, 8, rng=0)
    model(x).sum().backward()
    plain = [p.grad.numpy() for p in model.parameters()]
    model.zero_grad()
    with profile(TOP) as p:
        model(x).sum().backward()
    assert [(call.op, call.path) for call in p.calls if call.phase == "forward"] == [
        ("conv2d_relu", "0"),
        ("reshape", "3"),
        ("linear", "4"),
        ("sum", ""),
    ]
    assert [call.op for call in p.calls if call.phase == "backward"] == ["sum", "linear", "reshape", "conv2d_relu"]
    for a, parameter in zip(plain, model.parameters(), strict=True):
        np.testing.assert_array_equal(a, parameter.grad.numpy())


def test_flops_bytes_and_saved_memory_of_a_linear_layer():
    layer = nn.Linear(16, 8, rng=0)
    x = md.ones(4, 16)
    with profile(TOP) as p:
        y = layer(x)
        y.backward(md.ones(4, 8))
    forward, backward = p.calls
    assert forward.flops == 2 * 4 * 8 * 16 + 4 * 8
    assert backward.flops == forward.flops  # x needs no gradient: one product, as in forward
    assert forward.nbytes == 4 * (4 * 16 + 8 * 16 + 8 + 4 * 8)
    assert forward.saved == 4 * 4 * 16  # x; the weights live anyway
    assert forward.shapes == "4x16, 8x16, 8 -> 4x8"
    assert backward.nbytes >= 4 * (4 * 8 + 4 * 16 + 8 * 16 + 8)  # gy, x and the two gradients


def test_backward_counts_a_product_for_each_gradient():
    a, b = md.ones(8, 4, requires_grad=True), md.ones(4, 6, requires_grad=True)
    with profile(TOP) as p:
        (a @ b).backward(md.ones(8, 6))
    assert p.calls[1].flops == 2 * p.calls[0].flops == 4 * 8 * 4 * 6


def test_what_two_operations_keep_counts_once_and_again_after_it_was_released():
    x = md.ones(64, 512, requires_grad=True)
    with profile(TOP) as p:
        for _ in range(2):
            y = x * 2
            (md.square(y) + md.sin(y)).sum().backward()
    saved = {(i, call.op): call.saved for i, call in enumerate(p.calls) if call.phase == "forward"}
    squares = [n for (_, op), n in saved.items() if op == "square"]
    sines = [n for (_, op), n in saved.items() if op == "sin"]
    assert squares == [x.nbytes, x.nbytes]
    assert sines == [0, 0]  # y is kept by square already


def test_views_move_nothing_and_broadcast_arrays_count_once():
    x = md.ones(4, 6)
    with profile(TOP) as p:
        x.reshape(6, 4)
        md.broadcast_to(md.ones(1, 6), (100, 6)) + md.ones(100, 6)
    by_op = {call.op: call for call in p.calls}
    assert by_op["reshape"].nbytes == 0
    assert by_op["add"].nbytes == 4 * (6 + 600 + 600)


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "winograd4"])
def test_the_algorithm_that_ran_is_named(algorithm):
    pytest.importorskip("numba")
    x, w = md.randn(1, 8, 8, 8, rng=0), md.randn(8, 8, 3, 3, rng=1)
    with profile(TOP) as p:
        md.conv2d(x, w, padding=1, algorithm=algorithm)
    assert row(p, "conv2d", "forward").algorithms == [algorithm]


def test_the_algorithm_of_fused_layers_is_the_one_that_kernels_choose(monkeypatch):
    cpu = pytest.importorskip("minidl.kernels.cpu")
    ran = []
    chosen = cpu.conv.conv2d_algorithms
    monkeypatch.setattr(cpu.conv, "conv2d_algorithms", lambda *args: ran.append(chosen(*args)[0]) or chosen(*args))
    for channels, size in ((1, 9), (16, 16), (64, 16)):
        for pool in (1, 2):
            x, w = md.randn(4, channels, size, size, rng=0), md.randn(channels, channels, 3, 3, rng=1)
            ran.clear()
            with profile(TOP) as p:
                md.conv2d_relu(x, w, padding=1, pool=pool)
            assert p.calls[-1].algorithm == ran[0]


def test_generic_kernels_say_im2col():
    with md.use_kernels("generic"), profile(TOP) as p:
        md.conv2d(md.ones(1, 1, 4, 4), md.ones(1, 1, 3, 3))
    assert p.calls[0].algorithm == "im2col"


def test_rows_add_up_and_sort():
    with profile(TOP) as p:
        for _ in range(3):
            network()(md.ones(2, 1, 8, 8)).sum().backward()
    assert sum(r.calls for r in p.rows("op")) == len(p.calls) == 24
    assert sum(r.seconds for r in p.rows("module")) == pytest.approx(sum(call.seconds for call in p.calls))
    assert 0 < sum(call.seconds for call in p.calls) < p.seconds
    flops = [r.flops for r in p.rows("op", sort="flops")]
    assert flops == sorted(flops, reverse=True)
    assert flops[0] > 0
    assert [r.name for r in p.rows("module", sort="order", phase="forward")] == ["0", "3", "4", "(outside of modules)"]
    assert [r.name for r in p.rows("op", sort="name", phase="forward")] == ["conv2d_relu", "linear", "reshape", "sum"]


def test_the_share_of_the_roofline():
    with profile(TOP) as p:
        md.ones(64, 64) @ md.ones(64, 64)
    (r,) = p.rows("op")
    bound = max(2 * 64**3 / 100e9, 3 * 64 * 64 * 4 / 10e9)
    assert r.bound == pytest.approx(bound)
    assert r.reached == pytest.approx(bound / r.seconds)
    assert r.gflops == pytest.approx(2 * 64**3 / r.seconds / 1e9)
    assert r.gbs == pytest.approx(3 * 64 * 64 * 4 / r.seconds / 1e9)


def test_text():
    with profile(TOP) as p:
        network()(md.ones(2, 1, 8, 8)).sum().backward()
    lines = str(p).splitlines()
    assert lines[0].startswith("profile: ")
    assert "in 8 operations" in lines[0]
    assert lines[1] == "ceilings: 100 GFLOP/s in a float32 matrix product, 10 GB/s in a copy"
    assert lines[3].split()[:4] == ["module", "phase", "calls", "time"]
    assert any(line.startswith("0 ") and "conv2d_relu" in line for line in lines[5:])
    assert p.table("op", limit=2).splitlines()[-1] == "... 6 more"
    assert repr(p).startswith("<Profile of 8 operations in ")


def test_an_empty_profile_is_a_table_without_rows():
    with profile(TOP) as p:
        pass
    assert p.rows() == []
    assert "0 operations" in str(p)


def test_chrome_trace(tmp_path):
    with profile(TOP) as p:
        network()(md.ones(2, 1, 8, 8)).sum().backward()
    path = tmp_path / "trace.json"
    p.to_chrome_trace(path)
    trace = json.loads(path.read_text())
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    timed = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for event in timed:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert event["ts"] + event["dur"] <= p.seconds * 1e6 + 1
    operations = [event for event in timed if event["cat"] in ("forward", "backward")]
    assert [event["name"] for event in operations] == [
        call.op if call.phase == "forward" else f"{call.op} backward" for call in p.calls
    ]
    convolution = operations[0]
    assert convolution["args"]["module"] == "0"
    assert convolution["args"]["FLOPs"] == p.calls[0].flops
    module = next(event for event in timed if event["cat"] == "module, forward" and event["name"] == "0")
    assert module["ts"] <= convolution["ts"]
    assert module["ts"] + module["dur"] >= convolution["ts"] + convolution["dur"] - 0.01  # the file rounds to nanoseconds


def test_nothing_is_left_behind_after_an_error():
    before = state.observer

    def fail():
        md.relu(md.ones(2))
        md.ones(2) + md.ones(3)

    with pytest.raises(md.ShapeError), profile(TOP) as p:
        fail()
    assert state.observer is before is None
    assert [call.op for call in p.calls] == ["relu"]
    assert p.seconds > 0
    md.relu(md.ones(2))
    assert len(p.calls) == 1


def test_profiles_within_each_other_both_see_the_operation():
    with profile(TOP) as outer:
        with profile(TOP) as inner:
            md.relu(md.ones(2))
        md.exp(md.ones(2))
    assert [call.op for call in inner.calls] == ["relu"]
    assert [call.op for call in outer.calls] == ["relu", "exp"]
    assert outer.calls[0].seconds >= inner.calls[0].seconds


def test_times_are_those_of_the_operation():
    class Slow(md.Function):
        @staticmethod
        def forward(ctx, x):
            time.sleep(0.02)
            return x.copy()

        @staticmethod
        def backward(ctx, gy):
            time.sleep(0.01)
            return gy

    with profile(TOP) as p:
        Slow.apply(md.ones(2, requires_grad=True)).backward(md.ones(2))
    assert p.calls[0].seconds >= 0.02
    assert p.calls[1].seconds >= 0.01
    assert p.calls[0].flops == 0  # nobody wrote down a formula


def test_backward_of_operations_from_before_the_block():
    y = md.square(md.ones(3, requires_grad=True)).sum()
    with profile(TOP) as p:
        y.backward()
    assert [(call.op, call.phase, call.flops) for call in p.calls] == [("sum", "backward", 0), ("square", "backward", 0)]


def test_other_threads_are_not_seen():
    from threading import Thread

    with profile(TOP) as p:
        thread = Thread(target=lambda: md.relu(md.ones(2)))
        thread.start()
        thread.join()
    assert p.calls == []


def test_gpu_operations_are_waited_for(emulated):
    with profile(TOP) as p:
        md.relu(md.ones(4, device="cuda"))
    assert [(call.op, call.device) for call in p.calls] == [("relu", "cuda:0")]


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS.keys())
def test_every_operation_can_be_profiled(spec):
    """Its formula for FLOPs takes what its Function takes."""
    with profile(TOP) as p:
        for sample in spec.samples(Draw()):
            spec.function(*sample.args, **sample.kwargs)
    assert all(call.flops >= 0 and call.nbytes >= 0 for call in p.calls)
    if spec.flops is not None and spec.name != "embedding":
        assert any(call.flops for call in p.calls)


def test_gpu_ceilings(emulated, monkeypatch):
    module = sys.modules["minidl.profile"]
    monkeypatch.setattr(module, "SIDE", 4)
    monkeypatch.setattr(module, "COPIED", 64)
    measured = module._gpu_ceilings("cuda")
    assert measured.gflops > 0
    assert measured.gbs > 0


def test_bad_arguments():
    with pytest.raises(DtypeError, match="expected ceilings as Ceilings"), profile(100):
        pass
    with pytest.raises(ArgumentError, match="gflops and gbs above 0, got 0 and 1"):
        Ceilings(0, 1)
    with profile(TOP) as p:
        pass
    with pytest.raises(ArgumentError, match="expected by as one of 'module', 'op', got 'layer'"):
        p.rows("layer")
    with pytest.raises(ArgumentError, match="expected sort as one of"):
        p.table(sort="time")
    with pytest.raises(ArgumentError, match="expected phase as one of"):
        p.rows(phase="both")


def test_ceilings_are_measured_once(monkeypatch):
    monkeypatch.setattr(sys.modules["minidl.profile"], "SIDE", 64)
    monkeypatch.setattr(sys.modules["minidl.profile"], "COPIED", 1 << 16)
    ceilings.cache_clear()
    try:
        with profile() as p:
            md.relu(md.ones(2))
        assert p.ceilings is ceilings("cpu")
        assert p.ceilings.gflops > 0
        assert p.ceilings.gbs > 0
    finally:
        ceilings.cache_clear()
