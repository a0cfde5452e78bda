"""The benchmark suite: what it compares, counts and writes. No time is asserted."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import cli, nn
from minidl.cli import bench

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # benchmarks/ is not installed; at the end, so that the tested minidl stays the same

from benchmarks import cases, ceilings, machine, peers, report, suite  # noqa: E402
from benchmarks.__main__ import main as benchmarks  # noqa: E402
from benchmarks.accuracy import __main__ as accuracy  # noqa: E402
from benchmarks.peers import base, layers  # noqa: E402
from benchmarks.peers.ours import Minidl  # noqa: E402
from benchmarks.worker import Worker, WorkerError, timed  # noqa: E402

try:
    from benchmarks.peers.pytorch import Torch
except ImportError:  # PyTorch is not needed to test minidl
    Torch = None

BRIEF = suite.Mode("quick", 2, 1e-4, (), 1)
MODELS = [case for case in cases.CASES.values() if case.kind == "model"]
OPERATIONS = [case for case in cases.CASES.values() if case.kind == "operation"]
name_of = lambda case: case.name  # noqa: E731


# ---------------------------------------------------------------- statistics and agreement


def test_spread_is_median_and_quartiles_in_milliseconds():
    assert suite.spread([0.004, 0.001, 0.002, 0.003, 0.010]) == {"median_ms": 3.0, "q1_ms": 2.0, "q3_ms": 4.0, "repeats": 5}
    assert suite.spread([0.001, 0.002])["median_ms"] == pytest.approx(1.5)
    assert suite.spread([0.5]) == {"median_ms": 500.0, "q1_ms": 500.0, "q3_ms": 500.0, "repeats": 1}


def test_differences():
    y = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    ours = {"output": y, "dL/d weight": y}
    assert suite.differences(ours, ours, 1e-2) == (0.0, [])
    assert suite.differences(ours, {"output": y}, 1e-2) == (0.0, []), "a peer that only infers"
    near = y.copy()
    near[1, 1] += 2 * 1e-5  # relative to the largest value, 2: a tenth of what is allowed
    worst, lines = suite.differences(ours, {"output": near}, 1e-2)
    assert worst == pytest.approx(0.1, rel=0.01)
    assert lines == []
    near[1, 1] += 1e-2
    worst, lines = suite.differences(ours, {"output": near, "dL/d weight": near}, 1e-2)
    assert worst > 1
    assert len(lines) == 1, "the gradient of a model may differ by more"
    assert lines[0].startswith("output: differs by 5.0e-03")
    assert suite.differences(ours, {"dL/d weight": -y}, 1e-2)[1] != []


@pytest.mark.parametrize(
    ("theirs", "words"),
    [({"output": np.zeros((4, 3))}, "shape"), ({"loss": np.zeros(1)}, "loss"), ({"output": np.full((3, 4), np.nan)}, "NaN")],
)
def test_what_cannot_be_compared_disagrees(theirs, words):
    worst, lines = suite.differences({"output": np.zeros((3, 4))}, theirs, 1.0)
    assert worst == np.inf
    assert words in lines[0]


# ---------------------------------------------------------------- cases


def test_training_flops_of_the_cifar_cnn():
    """Forward once and backward twice, but for the gradient of the images."""
    per_layer = [
        2 * pixels * o * k for pixels, o, k in ((900, 32, 27), (169, 64, 288), (16, 64, 576), (1, 64, 1024), (1, 10, 64))
    ]
    costs = Minidl(1).costs(cases.CASES["cifar_cnn"])
    exact = 128 * (3 * sum(per_layer) - per_layer[0])
    assert exact <= costs[cases.TRAIN].flops < 1.01 * exact  # the biases are counted too
    assert costs[cases.INFER].bytes == 4 * 122_570


def test_bytes_and_flops_of_a_convolution():
    case = cases.CASES["conv7s2-3-64-224"]
    cost = case.costs[cases.FORWARD]
    assert cost.flops == 2 * 16 * 64 * 112 * 112 * 3 * 49
    assert cost.bytes == 4 * (16 * 3 * 224 * 224 + 64 * 3 * 49 + 16 * 64 * 112 * 112)


@pytest.mark.parametrize("case", MODELS, ids=name_of)
def test_every_framework_names_and_shapes_parameters_alike(case):
    theirs = case.build(layers.namespace(ops=None)).all_shapes()
    ours = {name: value.shape for name, value in case.build(nn).state_dict().items() if "num_batches" not in name}
    assert theirs == ours


def test_inputs_and_weights_are_reproducible():
    case = cases.CASES["lenet5"]
    for a, b in zip(case.inputs(), case.inputs()):
        np.testing.assert_array_equal(a, b)
    shapes = {"a.weight": (4, 3), "a.bias": (4,), "n.running_var": (4,)}
    one, other = cases.first_weights(shapes), cases.first_weights(dict(reversed(shapes.items())))
    assert all(np.array_equal(one[name], other[name]) for name in shapes)
    assert (one["n.running_var"] > 0).all()


def test_choosing_cases_and_peers():
    assert [case.name for case in cases.choose(["mlp", "lenet5*"], quick=True)] == ["lenet5", "mlp", "lenet5-1"]
    assert cases.choose([], quick=False) == list(cases.CASES.values())
    assert 0 < len(cases.choose([], quick=True)) < len(cases.CASES)
    with pytest.raises(ValueError, match=r"'cifar_cn'\. Did you mean cifar_cnn"):
        cases.choose(["cifar_cn"], quick=True)
    assert [c.name for c in peers.choose(["minidl-1-thread"], quick=True)] == ["minidl", "minidl 1 thread"]
    with pytest.raises(ValueError, match="caffe"):
        peers.choose(["caffe"], quick=True)
    with pytest.raises(ValueError, match="PEER=PATH"):
        peers.interpreters(["jax"])
    assert peers.interpreters([f"jax={sys.executable}"])["jax"] == sys.executable


def small(case):
    """The case with two images; the optimizer with few values."""
    return replace(case, shape=(1000,)) if case.build is None else case.at_batch(2)


@pytest.fixture(scope="module")
def torch_peer():
    if Torch is None:
        pytest.skip("PyTorch is not installed")
    peer = Torch(1, channels_last=True)
    peer.adam([peer.parameter(np.zeros(1, np.float32))])  # its first optimizer loads modules that add warning filters
    return peer


@pytest.mark.parametrize("case", [*MODELS, *OPERATIONS], ids=name_of)
def test_minidl_and_torch_agree(case, torch_peer):
    """On every case, and each measure can be run again and again."""
    case = small(case)
    ours, theirs = Minidl(1).prepare(case), torch_peer.prepare(case)
    values = ours.check()
    assert values
    assert all(v.dtype == np.float32 for v in values.values())
    assert suite.differences(values, theirs.check(), case.tolerance)[1] == []
    assert list(ours.measures) == list(theirs.measures) == list(case.targets)
    again = ours.check()
    assert all(np.array_equal(values[name], again[name]) for name in values), "check starts from the first weights"


def test_tasks_without_torch():
    """Training moves the loss; the gradients are those of the loss; frozen weights get none."""
    task = Minidl(1).prepare(cases.CASES["mlp"].at_batch(4))
    assert isinstance(task, base.ModelTask)
    losses = task.check()["losses"]
    assert losses[-1] < losses[0]
    case = cases.CASES["conv3-1-32-28"].at_batch(2)
    values = Minidl(1).prepare(case).check()
    shapes = {name: value.shape for name, value in values.items()}
    assert shapes == {
        "forward 0": (2, 32, 26, 26),
        "gradient of x 0": (2, 1, 28, 28),
        "gradient of weights 0": (32, 1, 3, 3),
        "gradient of weights 1": (32,),
    }


# ---------------------------------------------------------------- workers


@pytest.fixture(scope="module")
def worker():
    with Worker(peers.OURS, 1) as worker:
        yield worker


def test_gpu_models_are_built_alike():
    torch = pytest.importorskip("torch")
    for case in cases.GPU_CASES.values():
        if case.kind == "model":
            ours, theirs = (sum(math.prod(p.shape) for p in case.build(space).parameters()) for space in (nn, torch.nn))
            assert ours == theirs
    assert sum(p.size for p in cases.resnet50(nn).parameters()) == 25_557_032


def test_gpu_steps_are_timed_together():
    calls = []
    times = timed(lambda: calls.append("step"), 2, 5, lambda: calls.append("wait"), together=2)
    assert calls == ["step", "step", "wait", "step", "step", "wait", "step", "step", "wait", "step", "wait"]
    assert len(times) == 5
    assert times[0] == times[1] > 0


def test_worker_answers(worker):
    assert worker.ask("prepare", "mlp-1", 1) == [cases.INFER]
    assert worker.ask("check")["output"].shape == (1, 10)
    assert len(worker.ask("run", cases.INFER, 1, 4)) == 4
    worker.rest()


def test_worker_passes_errors_on_and_lives(worker):
    worker.ask("prepare", "mlp-1", 1)
    with pytest.raises(WorkerError, match="KeyError: 'training step'"):
        worker.ask("run", cases.TRAIN, 1, 1)
    assert worker.alive


def test_worker_measures_memory(worker):
    row = worker.ask("memory", "mlp", 64)
    assert set(row) == {"step_bytes", "process_bytes", "faults_per_step"}
    assert row["process_bytes"] > row["step_bytes"] >= 0


def test_worker_that_ends_says_why():
    worker = Worker(peers.OURS, 1)
    worker.process.kill()
    with pytest.raises(WorkerError, match="ended with code -9"):
        worker.ask("drop")
    assert not worker.alive


def test_environment_of_a_worker():
    configuration = next(c for c in peers.CONFIGURATIONS if c.name == "torch malloc")
    variables = peers.environment(configuration, 3)
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["MALLOC_MMAP_THRESHOLD_"] == str(2**30)
    assert variables["PATH"] == os.environ["PATH"]


# ---------------------------------------------------------------- the run


class Scripted:
    """A worker that answers in this process and notes its turns."""

    turns: list = []  # noqa: RUF012
    outputs = {"torch": 1.0}  # noqa: RUF012  # by configuration; 0 for the others
    breaks = ()

    def __init__(self, configuration, threads, python, **variables):
        self.configuration, self.version, self.alive = configuration, "1", True

    def ask(self, what, *arguments):
        name = self.configuration.name
        if what == "check":
            return {"output": np.full(3, self.outputs.get(name, 0.0), np.float32)}
        if what == "run":
            if name in self.breaks:
                raise WorkerError("out of memory")
            self.turns.append(name)
            return [0.001] * arguments[2]
        return {"refuses": "", "prepare": list(cases.CASES[arguments[0]].targets) if arguments else [], "costs": {}}.get(what)

    def rest(self):
        pass

    def close(self):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(suite, "Worker", Scripted)
    monkeypatch.setattr(Scripted, "turns", [])
    run = suite.Suite(BRIEF, 1, peers.interpreters([]), lambda text: None)
    run.start(c for c in peers.CONFIGURATIONS if c.peer in ("minidl", "torch"))
    return run


def test_turns_alternate_and_a_disagreement_is_an_error_without_a_time(scripted):
    scripted.case(cases.CASES["mlp-1"])
    (result,) = scripted.data["results"]
    assert "torch" not in Scripted.turns
    assert "disagrees with minidl: output" in result["errors"]["torch"]
    assert "torch" not in result["timings"]
    others = ["minidl", "torch channels_last", "torch malloc", "torch channels_last malloc"]
    assert Scripted.turns == others * 3  # one turn to warm up, two that count
    assert {name: timing["repeats"] for name, timing in result["timings"].items()} == dict.fromkeys(others, 2)
    assert report.troubles(scripted.data) == [f"mlp-1, torch: {result['errors']['torch']}"]


def test_who_breaks_drops_out(scripted, monkeypatch):
    monkeypatch.setattr(Scripted, "breaks", ("torch malloc",))
    scripted.case(cases.CASES["mlp"])
    for result in scripted.data["results"]:
        assert result["errors"]["torch malloc"] == "training step: out of memory"
        assert "torch malloc" not in result["timings"]
        assert "minidl" in result["timings"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A real run: minidl against itself on one thread, and a framework that is not there."""
    path = tmp_path_factory.mktemp("results") / "deep" / "run.json"
    missing = peers.Configuration("nowhere", "nowhere", ("nowhere", "Nothing"), "nowhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "CONFIGURATIONS", [*peers.CONFIGURATIONS, missing])
        patch.setattr(peers, "PEERS", [*peers.PEERS, "nowhere"])
        patch.setattr(suite, "QUICK", BRIEF)
        patch.setattr(ceilings, "measure", lambda threads, device: {"product_gflops": 100.0, "copy_gbs": 10.0})
        arguments = ["cpu", "--quick", "--cases", "mlp", "--peers", "minidl-1-thread", "nowhere", "--threads", "1"]
        assert benchmarks([*arguments, "--out", str(path)]) == 0
    return path


def test_form_of_the_json_file(measured):
    data = json.loads(measured.read_text())
    assert data["format"] == 1
    assert data["mode"] == "quick"
    assert data["threads"] == 1
    assert data["machine"]["cpu"]
    assert set(data["machine"]["packages"]) == {"numpy", "numba", "llvmlite"}
    assert len(data["ceilings"]) == 2
    assert data["configurations"]["minidl 1 thread"]["peer"] == "minidl-1-thread"
    assert [result["measure"] for result in data["results"]] == [cases.TRAIN, cases.INFER]
    for result in data["results"]:
        assert result["batch"] == 128
        assert result["errors"] == {}
        assert result["agreement"]["minidl 1 thread"] <= 1
        assert result["cost"]["flops"] > 0
        assert set(result["timings"]) == {"minidl", "minidl 1 thread"}
        for timing in result["timings"].values():
            assert timing["q1_ms"] <= timing["median_ms"] <= timing["q3_ms"]
            assert timing["repeats"] >= 2


def test_a_missing_framework_is_named_and_skipped(measured):
    data = json.loads(measured.read_text())
    assert "benchmarks.peers.nowhere" in data["absent"]["nowhere"]
    assert "nowhere" not in data["configurations"]
    assert "- nowhere is not measured: No module named 'benchmarks.peers.nowhere'" in measured.with_suffix(".md").read_text()


def test_report_writes_the_markdown_again(measured, capsys):
    path = measured.with_suffix(".md")
    text = path.read_text()
    path.unlink()
    assert benchmarks(["report", str(measured)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text() == text
    assert f"# {json.loads(measured.read_text())['machine']['cpu']}, 1 threads" in text
    for heading in ("## Models", "## Where minidl is slower", "## Errors, and what is not measured"):
        assert heading in text
    assert "| MLP, N=128 | training step |" in text


# ---------------------------------------------------------------- the report's numbers


def result(medians, kind="model", **more):
    timings = {name: {"median_ms": ms, "q1_ms": ms, "q3_ms": ms, "repeats": 3} for name, ms in medians.items()}
    fixed = {"case": "c", "title": "CNN", "kind": kind, "batch": 8, "measure": cases.TRAIN, "target": 3.0, "errors": {}}
    return {**fixed, "cost": {"flops": 10**9, "bytes": 10**6}, "timings": timings, **more}


@pytest.fixture
def data():
    by_peer = {"minidl": "minidl", "torch": "torch", "torch malloc": "torch", "torch-compile": "torch-compile", "jax": "jax"}
    return {
        "mode": "full",
        "date": "2026-01-01",
        "threads": 2,
        "machine": {"cpu": "Some CPU", "system": "Linux", "python": "3", "packages": {"numpy": "2"}},
        "ceilings": [
            {"product_gflops": 50.0, "copy_gbs": 10.0, "busy_share": 0.01},
            {"product_gflops": 100.0, "copy_gbs": 9.0, "busy_share": None},
        ],
        "configurations": {name: {"peer": peer, "version": "1"} for name, peer in by_peer.items()},
        "absent": {"mygrad": "No module named 'mygrad'"},
        "results": [
            result({"minidl": 20, "torch": 80, "torch malloc": 70, "torch-compile": 50, "jax": 10}),
            result({"minidl": 20, "torch": 80, "torch malloc": 70}, measure=cases.INFER, batch=16),
            result({"minidl": 5, "torch": 10}, kind="growth", batch=4),
        ],
        "starts": {"minidl": {"import_s": [0.3, 0.1, 0.2], "cold_s": [9.0], "warm_s": [1.0]}, "jax": {"error": "no"}},
        "memory": [
            {"title": "CNN", "configuration": "minidl", "step_bytes": 2**20, "process_bytes": 2**21, "faults_per_step": 0.4},
            {"title": "CNN", "configuration": "torch", "error": "killed"},
        ],
    }


def test_ratios_are_to_the_fastest_configuration(data):
    first, second, _ = data["results"]
    assert report.best(data, first, "torch") == ("torch malloc", 70)
    assert report.best(data, second, "jax") is None
    assert report.ratio(data, first, "torch") == 3.5
    assert report.against_target(data, first) == 2.5, "PyTorch compiled counts"
    assert report.against_target(data, second) == 3.5
    assert report.bound_ms(data, first) == pytest.approx(10.0)  # 1 GFLOP at the better of the two measured products
    assert report.bound_ms(data, {"cost": {"flops": 1, "bytes": 10**9}}) == pytest.approx(100.0)
    assert report.bound_ms(data, {"cost": None}) is None


def test_the_report_says_where_minidl_is_slower(data):
    assert report.slower(data) == ["CNN, N=8, training step: JAX takes 0.50 of minidl's time"]
    assert report.troubles(data) == ["MyGrad is not measured: No module named 'mygrad'"]
    data["results"][0]["errors"] = {"jax": "disagrees"}
    assert report.troubles(data)[0] == "c, jax: disagrees"


def test_rows_of_the_markdown(data):
    text = report.markdown(data)
    assert "| CNN, N=8 | training step | 20 | 20 - 20 | 50% | 70 | malloc | 3.50 | 4.00 | 2.50 | 0.50 | 3.0 missed |" in text
    assert "| CNN, N=16 | inference | 20 | 20 - 20 | 50% | 70 | malloc | 3.50 | 4.00 |  |  | 3.0 met |" in text
    assert "| CNN | training step | 4 | 1250.0 | 2500.0 |" in text, "time per image"
    assert "| minidl | 0.20 | 9.00 | 1.00 |" in text
    assert "| jax |  |  | no |" in text
    assert "| CNN | minidl | 1 | 2 | 0 |" in text
    assert "| CNN | torch | killed |" in text
    for line in text.splitlines():
        if line.startswith("|") and "---" not in line:
            assert line.endswith("|")


def test_a_busy_machine_is_named(data):
    assert "Do not trust" not in report.markdown(data)
    data["ceilings"][1]["busy_share"] = 0.4
    data["ceilings"][0]["busy_share"] = 0.05
    assert "Other programs took 5% and 40% of the processor" in report.markdown(data)
    assert 0 <= (machine.busy_share(0.05) or 0) <= 1


def test_readme_table_is_replaced_between_its_marks(data, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    report.write_readme(data, readme, tmp_path / "results" / "all.png")
    text = readme.read_text()
    assert "![How long others take](results/all.png)" in text
    assert "old" not in text
    assert text.startswith("before\n<!-- benchmarks -->")
    assert text.endswith("<!-- /benchmarks -->\nafter\n")
    assert "| CNN, training step, batch 8 | 20 | 70 | 3.5 |" in text
    report.write_readme(data, readme, tmp_path / "results" / "all.png")
    assert readme.read_text() == text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="<!-- benchmarks -->"):
        report.write_readme(data, readme, tmp_path / "results" / "all.png")


def test_picture(data, tmp_path):
    path = tmp_path / "run.json"
    written = report.write({"format": 1, **data}, path)
    assert written == [path, path.with_suffix(".md"), path.with_suffix(".png")]
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert report.load(path)["results"] == data["results"]


def test_nothing_to_draw(data, tmp_path):
    data["results"] = data["results"][2:]
    assert not report.plot(data, tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- machine and command line


def test_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "SIZE", 64)
    monkeypatch.setattr(ceilings, "COPIED", 1 << 16)
    assert ceilings.product_gflops(1) > 0
    assert ceilings.copy_gbs(2) > 0


def test_machine_slug(monkeypatch):
    monkeypatch.setattr(machine, "cpu_name", lambda: "Intel(R) Xeon(R) CPU E5-2680 @ 2.40GHz")
    assert machine.slug(2) == "intel-xeon-e5-2680-2-threads"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cpu", "--cases", "conv9"], "conv9"),
        (["cpu", "--peers", "caffe"], "caffe"),
        (["cpu", "--threads", "0"], "--threads"),
        (["cpu", "--python", "jax"], "PEER=PATH"),
        (["report", "nothing.json"], "nothing.json"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, words, capsys):
    assert benchmarks(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_report_refuses_other_files(tmp_path, capsys):
    other = tmp_path / "other.json"
    for text in ("[1]", '{"a": 1}', "not json"):
        other.write_text(text)
        assert benchmarks(["report", str(other)]) == 2
    assert "python -m benchmarks" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [other]


def test_minidl_bench_runs_the_suite_of_the_checkout(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PACKAGE", ROOT / "minidl")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "cpu", "--list"]) == 0
    out = capfd.readouterr().out
    for name in ("cifar_cnn", "resnet20", "adam", "torch-compile"):
        assert name in out
    assert cli.main(["bench", "cpu", "--cases", "nothing"]) == 2


def test_minidl_bench_outside_of_a_checkout(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PACKAGE", tmp_path / "site-packages" / "minidl")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--quick"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "checkout of minidl" in message


def test_minidl_is_measured_as_users_get_it():
    """Images lie channels-last, as minidl's own loaders and layers give them."""
    peer = Minidl(1)
    x = peer.tensor(np.zeros((2, 3, 4, 5), np.float32))
    assert x.shape == (2, 3, 4, 5)
    assert md.memory.channels_last(x.data).base is not None


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize(("name", "lr"), [("mnist", 2e-3), ("resnet20", 0.02)])
def test_both_frameworks_are_trained_by_the_same_recipe(name, lr, torch_peer):
    """Adam and SGD: weights, batches, schedule, momentum and decay; the losses of ten steps differ by rounding alone."""
    recipe = replace(accuracy.RECIPES[name], build=cases.mnist_cnn, lr=lr)
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((8, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 8)) for _ in range(10)]
    ours, theirs = (list(run(recipe, batches, batches[:2], 2, 0)) for run in (accuracy._minidl, accuracy._torch))
    for row, other in zip(ours, theirs):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert row["test_accuracy"] == other["test_accuracy"]
