"""``python -m benchmarks gpu`` and minidl's commands on a GPU: the code they run, on small inputs. No time is asserted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl import cli

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

from benchmarks import __main__ as command, cases, ceilings, machine, peers, suite, worker  # noqa: E402

pytestmark = pytest.mark.cuda


class Here:
    """A worker in this process: the same commands without a pipe."""

    alive = True

    def __init__(self, configuration, threads, python=sys.executable, **variables):
        if configuration.peer not in ("minidl", "minidl-eager", "minidl-tf32"):
            raise suite.WorkerError("not installed here")
        self.configuration, self.commands = configuration, worker._Commands()
        self.version = self.commands.start(configuration, threads)

    def ask(self, name, *arguments):
        return getattr(self.commands, name)(*arguments)

    def rest(self):
        pass

    def close(self):
        switch = getattr(self.commands.peer, "tf32", None)
        if switch is not None:
            switch.__exit__(None, None, None)

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *error: self.close()  # noqa: E731


SMALL = {  # of every kind of case one
    "gpu-mnist_cnn": {"shape": (2, 1, 8, 8), "build": lambda nn: nn.Sequential(*small_layers(nn))},
    "gpu-batch_norm": {"shape": (2, 64, 3, 3)},
}


def small_layers(nn):
    return nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)


def test_a_run(on_gpu, tmp_path, monkeypatch):
    """All steps of a run: ceilings, agreement of the configurations, turns, the report."""
    names = list(SMALL)
    table = {name: replace(cases.GPU_CASES[name], **SMALL[name]) for name in names}
    monkeypatch.setattr(cases, "GPU_CASES", table)
    monkeypatch.setattr(suite, "Worker", Here)
    monkeypatch.setattr(suite.Suite, "starts", lambda self: None)
    monkeypatch.setattr(suite, "GPU_QUICK", replace(suite.GPU_QUICK, rounds=1, seconds=1e-4))
    monkeypatch.setattr(machine, "busy_share", lambda: 0.0)
    monkeypatch.setattr(worker, "_use_cores", lambda threads: None)
    monkeypatch.setattr(ceilings, "measure", lambda threads, device: ceilings.on_gpu())
    monkeypatch.setattr(ceilings, "GPU_SIZE", 16)
    monkeypatch.setattr(ceilings, "GPU_COPIED", 1 << 12)
    monkeypatch.setattr(peers, "GPU_CONFIGURATIONS", [c for c in peers.GPU_CONFIGURATIONS if c.name != "minidl tf32"])
    path = tmp_path / "gpu.json"
    assert command.main(["gpu", "--quick", "--cases", *names, "--out", str(path)]) == 0
    data = json.loads(path.read_text())
    assert data["device"] == "cuda"
    assert data["machine"]["gpu"]
    assert {result["case"] for result in data["results"]} == set(names)
    assert set(data["absent"]) == {"torch", "torch-tf32", "torch-compile"}
    for result in data["results"]:
        assert result["errors"] == {}
        assert result["agreement"]["minidl eager"] <= 1
        assert set(result["timings"]) == {"minidl", "minidl eager"}
    assert all(ceiling["product_gflops"] > 0 and ceiling["copy_gbs"] > 0 for ceiling in data["ceilings"])
    assert "MNIST CNN" in path.with_suffix(".md").read_text()


# ---------------------------------------------------------------- minidl's commands


def test_gradcheck(on_gpu, capsys):
    assert cli.main(["gradcheck", "relu", "linear", "Linear", "--device", "cuda"]) == 0
    assert "0 failed" in capsys.readouterr().out


def test_gradcheck_along_directions(on_gpu):
    x = md.randn(3, 4, device="cuda", rng=0)
    assert md.gradcheck(lambda t: (t * t).sum(), x, mode="directional")


def test_doctor(on_gpu, capsys):
    assert cli.main(["doctor"]) == 0
    facts = capsys.readouterr().out
    assert "compute capability" in facts
    assert "kernel_cache" in facts or "gpu kernel cache" in facts


def test_warmup(on_gpu, capsys):
    pytest.importorskip("tqdm")
    assert cli.main(["doctor", "--warmup", "relu", "Linear", "Adam", "--device", "cuda"]) == 0
    assert "compiled in" in capsys.readouterr().out
    assert cli.main(["doctor", "--warmup", "relu", "--device", "cuda:7"]) == 2


def test_train_and_evaluate(on_gpu, capsys, tmp_path, monkeypatch):
    """From the command to the files; the weights say the same on the CPU."""
    for package in ("matplotlib", "safetensors", "tqdm"):
        pytest.importorskip(package)
    x, y = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), np.uint8), np.arange(20) % 10
    classes = [str(i) for i in range(10)]
    sets = md.data.ArrayDataset(x, y, classes), md.data.ArrayDataset(x[:4], y[:4], classes)
    monkeypatch.setattr(md.data, "mnist_mini", lambda: sets)
    out = tmp_path / "run"
    arguments = ["--model", "lenet5", "--epochs", "1", "--batch-size", "16", "--device", "cuda", "--out", str(out)]
    assert cli.main(["train", *arguments]) == 0, capsys.readouterr().err
    capsys.readouterr()
    model = ["evaluate", "--model", str(out / "model.safetensors")]
    assert cli.main([*model, "--device", "cuda"]) == 0
    there = capsys.readouterr().out
    assert "accuracy" in there
    assert cli.main(model) == 0
    assert there == capsys.readouterr().out
