"""The commands as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minidl as md
from minidl.cli import main

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that minidl train wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "deep" / "er"
    command = [sys.executable, "-m", "minidl", "train", "--model", "small_cnn", "--epochs", "2", "--out", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_train_prints_a_line_per_epoch_and_the_paths(trained):
    folder, out = trained
    lines = re.findall(
        r"^epoch \d/2  loss [\d.]+  accuracy [\d.]+  val_loss [\d.]+  val_accuracy [\d.]+  [\d,]+ images/s$", out, re.M
    )
    assert len(lines) == 2
    accuracy = float(re.search(r"test loss [\d.]+, test accuracy ([\d.]+)%", out).group(1))
    assert accuracy > 80
    names = ["model.safetensors", "history.csv", "run.json"]
    names += [f"{name}.png" for name in ("learning-curves", "confusion-matrix", "filters", "feature-maps", "worst-mistakes")]
    for name in names:
        assert str(folder / name) in out
        assert (folder / name).stat().st_size > 100
    for name in names[3:]:
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 500
    header, *rows = (folder / "history.csv").read_text().splitlines()
    assert header.startswith("epoch,loss,accuracy,val_loss,val_accuracy")
    assert len(rows) == 2


def test_predict_reads_digits(trained, tmp_path, capsys):
    folder, _ = trained
    _, test = md.data.mnist_mini()
    files = []
    for i in range(20):
        pixels = test.images[i, 0]
        if i % 2:
            pixels = 255 - pixels  # dark on light, as on paper
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).resize((56, 56), Image.Resampling.NEAREST).save(files[-1])
    assert main(["predict", "--model", str(folder / "model.safetensors"), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [int(re.search(r"\.png\s+(\d)\s+[\d.]+%", line).group(1)) for line in lines]
    assert np.mean(np.array(said) == test.labels[:20]) > 0.7


def test_the_record_is_enough_to_repeat_a_run(trained):
    folder, _ = trained
    record = json.loads((folder / "run.json").read_text())
    assert record["arguments"]["model"] == "small_cnn"
    assert record["arguments"]["seed"] == 0
    assert {"python", "minidl", "numpy", "numba"} <= set(record["versions"])
    assert record["data"]["test"] == {"images": 1000, "sha256": md.data.data_hash(md.data.mnist_mini()[1])}
    assert record["epochs_done"] == 2
    assert record["test"]["accuracy"] > 0.8


def test_evaluate_prints_every_class(trained, capsys):
    folder, out = trained
    assert main(["evaluate", "--model", str(folder / "model.safetensors")]) == 0
    printed = capsys.readouterr().out
    accuracy = re.search(r"test accuracy ([\d.]+%)", out).group(1)
    assert f"accuracy {accuracy}" in printed
    assert "top-5 accuracy" in printed
    assert len(re.findall(r"^ +\d +[\d.]+ +[\d.]+ +[\d.]+ +\d+$", printed, re.M)) == 10


@pytest.fixture
def pictures(tmp_path):
    """Two classes of coloured squares of different sizes, in folders."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for k, name in enumerate(("blue", "red")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (9 + i, 12, 3), np.uint8)
                pixels[..., 2 - 2 * k] = 250
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pets"


def test_train_on_a_folder_with_an_own_model_and_resume(pictures, tmp_path, capsys):
    """The same figures whether a run is broken off or not."""
    (tmp_path / "net.py").write_text(
        "from minidl import nn\n"
        "def Net(num_classes):\n"
        "    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(4, num_classes)]\n"
        "    return nn.Sequential(*layers)\n"
    )
    arguments = ["train", "--data", str(pictures), "--model", f"{tmp_path / 'net.py'}:Net", "--image-size", "8"]
    arguments += ["--batch-size", "4", "--augment", "crop-flip", "--lr", "0.05", "--epochs", "4"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    assert "22 images to train with, 2 to validate with, 8 to test with" in capsys.readouterr().out
    whole = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert whole["test"]["accuracy"] == 1.0

    class Stop(Exception):
        pass

    def fail(*_):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(md.optim.Adam, "step", _after(9, md.optim.Adam.step, fail))
        with pytest.raises(Stop):
            main([*arguments, "--out", str(tmp_path / "broken")])
    assert main(["train", "--resume", str(tmp_path / "broken")]) == 0
    broken = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert broken["test"] == whole["test"]
    assert len(broken["resumed"]) == 1
    capsys.readouterr()
    (pictures / "train" / "red" / "0.png").unlink()
    assert "expected the data" in error_line(capsys, ["train", "--resume", str(tmp_path / "broken")])
    weights = str(tmp_path / "whole" / "model.safetensors")
    assert main(["predict", "--model", weights, str(pictures / "test" / "red" / "1.png")]) == 0
    assert re.search(r"red +\d", capsys.readouterr().out)


def _after(count, original, fail):
    """A method that works so many times, and then fails."""
    calls = []

    def method(self, *arguments):
        calls.append(None)
        return fail() if len(calls) > count else original(self, *arguments)

    return method


def error_line(capsys, arguments):
    """What a command refused with exit code 2 prints: one line on standard error."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["fly"], ["fly", "train"]),
        (["train", "--fly"], ["--fly", "minidl train --help"]),
        (["train", "--lr", "inf"], ["--lr", "inf"]),
        (["train", "--seed", "-1"], ["--seed", "-1"]),
        (["gradcheck", "relu", "--seed", "-1"], ["--seed", "-1"]),
        (["train", "--model", "resnet9000"], ["resnet9000", "lenet5"]),
        (["train", "--model", "nowhere.py:Net"], ["nowhere.py", "does not exist"]),
        (["train", "--data", "nowhere"], ["nowhere", "cifar10"]),
        (["train", "--test-data", "nowhere"], ["--test-data", "mnist-mini"]),
        (["train", "--resume", "nowhere"], ["nowhere", "run.json"]),
        (["train", "--workers", "-1"], ["--workers", "-1"]),
        (["evaluate", "--batch-size", "0"], ["--batch-size", "0"]),
        (["evaluate"], ["runs/", "--model"]),
        (["train", "--epochs", "0"], ["--epochs", "0"]),
        (["train", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "--lr", "-1"], ["--lr", "-1"]),
        (["train", "--device", "tpu"], ["tpu", "cuda"]),
        (["predict", "--model", "nowhere.safetensors", "nothing.png"], ["nothing.png"]),
        (["gradcheck", "conv3d"], ["conv3d", "conv2d"]),
        (["doctor", "now"], ["now"]),
        (["doctor", "--warmup", "conv3d"], ["--warmup", "conv3d", "conv2d"]),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = error_line(capsys, arguments)
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_train_finds_a_wrong_folder_before_the_work(out, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = error_line(capsys, ["train", "--out", str(tmp_path / out)])
    assert "--out: expected a folder to write to" in message
    assert str(tmp_path / out) in message


def test_train_names_a_loss_that_is_not_finite(capsys, tmp_path):
    assert main(["train", "--model", "small_cnn", "--epochs", "1", "--lr", "1e30", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert re.match(r"minidl train: fit: expected a finite loss, got .* smaller learning rate.*\n$", message)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT between processes")
def test_ctrl_c_writes_what_there_is(tmp_path):
    command = [sys.executable, "-u", "-m", "minidl", "train", "--model", "small_cnn", "--epochs", "500", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/500"):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "(interrupted)" in out
    assert (tmp_path / "model.safetensors").stat().st_size > 1000
    assert len((tmp_path / "history.csv").read_text().splitlines()) >= 2
    assert len(list(tmp_path.glob("*.png"))) == 5


@pytest.mark.skipif(os.name == "nt", reason="pipes end differently")
def test_a_reader_that_leaves_early():
    command = f"{sys.executable} -m minidl gradcheck relu exp log | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert re.fullmatch("(minidl: compiling kernels .*\n)?", result.stderr)
    assert result.stdout.startswith("op ")


def test_predict_reads_every_kind_of_picture(trained, tmp_path, capsys):
    folder, _ = trained
    _, test = md.data.mnist_mini()
    pixels = test.images[0, 0]
    pictures = {
        "black on transparent": Image.fromarray(np.dstack([np.zeros((28, 28, 3), np.uint8), pixels])),
        "16 bits": Image.fromarray(pixels.astype(np.uint16) * 257),
        "colour": Image.fromarray(pixels).convert("RGB"),
        "palette": Image.fromarray(pixels).convert("P"),
    }
    names = [str(tmp_path / f"{name}.png") for name in pictures]
    for name, picture in zip(names, pictures.values()):
        picture.save(name)
    for name, values in (("32 bits", pixels.astype(np.int32) * 1000), ("floats", pixels / np.float32(255))):
        names.append(str(tmp_path / f"{name}.tiff"))
        Image.fromarray(values).save(names[-1])
    assert main(["predict", "--model", str(folder / "model.safetensors"), "--top", "1", *names]) == 0
    said = [re.search(r"\.\w+\s+(\d)\s+([\d.]+)%", line).groups() for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 6
    assert len({digit for digit, _ in said}) == 1
    shares = [float(share) for _, share in said]
    assert max(shares) - min(shares) < 2


def test_predict_refuses_bad_files(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = trained
    text, image = tmp_path / "text.png", tmp_path / "image.png"
    text.write_text("not an image")
    Image.new("L", (28, 28)).save(image)
    assert "text.png" in error_line(capsys, ["predict", "--model", str(folder / "model.safetensors"), str(text)])
    assert "absent.safetensors" in error_line(capsys, ["predict", "--model", "absent.safetensors", str(image)])
    assert "text.png" in error_line(capsys, ["predict", "--model", str(text), str(image)])
    assert "minidl train" in error_line(capsys, ["predict", str(image)])
    md.save({"w": np.zeros(3)}, tmp_path / "bare.safetensors")
    assert "description" in error_line(capsys, ["predict", "--model", "bare.safetensors", str(image)])
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "half.safetensors" in error_line(capsys, ["predict", "--model", "half.safetensors", str(image)])


def test_gradcheck_prints_a_table(capsys):
    assert main(["gradcheck", "relu", "Conv2d"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^op +sample +worst rel\. error +where +verdict$", out, re.M)
    assert re.search(r"^relu .* ok$", out, re.M)
    assert re.search(r"^Conv2d +depthwise .* ok$", out, re.M)
    assert re.search(r"^\d+ checks: \d+ ok, 0 on a kink, 0 failed$", out, re.M)


def test_gradcheck_reports_a_wrong_gradient(capsys, monkeypatch):
    from minidl.ops.maths import Sin

    right = Sin.backward
    monkeypatch.setattr(Sin, "backward", staticmethod(lambda ctx, gy: right(ctx, gy) * 1.01))
    assert main(["gradcheck", "sin"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "analytic" in out


def test_doctor_names_what_matters(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("minidl", "python", "numpy", "numba", "blas", "numba threads", "kernels", "gpu"):
        assert re.search(rf"^{word}", out, re.M), word


def run_cold(code, cache, *arguments):
    """What a process with kernels cached in a folder prints, on stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-W", "error", *(["-c", code] if code else ["-m", "minidl"]), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_compiling_is_announced_once(tmp_path):
    """One line on stderr when it takes long, nothing when kernels come from the cache, and the logger "minidl" silences it."""
    pytest.importorskip("numba")
    code = (
        "import gc, sys, logging, numpy as np, minidl as md\n"
        "from numba import njit\n"
        "from minidl.kernels.cpu import _compiling\n"
        "njit(lambda x: np.sort(x))(np.ones(3, np.float32))\n"  # the user's own
        "compiling, _compiling.NOTICEABLE = _compiling.compiling, 0.1\n"
        "assert compiling.kernels == compiling.seconds == 0 and not compiling.told\n"
        "if sys.argv[1:]: logging.getLogger('minidl').setLevel('ERROR')\n"
        "x = md.ones(2, 3, 4, 4, dtype=sys.argv[2] if sys.argv[1:] else 'float32', requires_grad=True)\n"
        "md.functional.max_pool2d(x, 2).sum().backward()\n"
        "assert gc.isenabled()\n"
        "print(compiling.kernels, compiling.told, compiling.seconds > 0)\n"
    )
    out, error = run_cold(code, tmp_path)
    assert out == "2 True True\n"
    assert re.fullmatch(r"minidl: compiling kernels for this machine, once; .*minidl doctor --warmup.*\n", error)
    assert run_cold(code, tmp_path) == ("0 False False\n", "")
    assert run_cold(code, tmp_path, "quiet", "float64") == ("2 True True\n", "")


def test_doctor_warms_up(tmp_path):
    """After it a training step compiles nothing, whatever its sizes, and neither does a gradient check."""
    pytest.importorskip("numba")
    out, error = run_cold("", tmp_path, "doctor", "--warmup", "cifar_cnn", "BatchNorm2d", "linear", "tanh", "SGD")
    kernels, folder = re.fullmatch(r"(\d+) kernels compiled in [\d.]+ s; they lie in (.*)\n", out).groups()
    assert error == ""
    assert int(kernels) > 10
    assert list(Path(folder).glob("*.nbc"))
    code = (
        "import numpy as np, minidl as md\n"
        "from minidl import nn, optim\n"
        "from minidl.kernels.cpu._compiling import compiling\n"
        "def train(model, optimizer, *shape):\n"
        "    x, t = md.randn(*shape, rng=0), md.tensor(np.arange(shape[0]) % 10)\n"
        "    nn.CrossEntropyLoss()(model(x), t).backward()\n"
        "    optimizer(model.parameters()).step()\n"
        "    model.eval()(x)\n"
        "train(md.models.CifarCNN(rng=0), optim.Adam, 128, 3, 32, 32)\n"
        "train(nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 10)), optim.SGD, 128, 784)\n"
        "layers = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(14400, 10)\n"
        "train(nn.Sequential(*layers), optim.SGD, 32, 3, 32, 32)\n"
        "from minidl.cli import main\n"
        "main(['gradcheck', 'tanh', 'linear', 'BatchNorm2d'])\n"
        "print(compiling.kernels)\n"
    )
    out, error = run_cold(code, tmp_path)
    assert out.splitlines()[-1] == "0"
    assert error == ""


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["gradcheck"], ["doctor"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--help" in out
    assert "None" not in out
    assert ("(default: 0)" in out) == (command in (["train"], ["gradcheck"]))
