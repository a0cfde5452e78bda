"""The commands as a user types them."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import minidl as md
from minidl.cli import main


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
    names = ["model.safetensors", "history.csv"]
    names += [f"{name}.png" for name in ("learning-curves", "confusion-matrix", "filters", "feature-maps", "worst-mistakes")]
    for name in names:
        assert str(folder / name) in out
        assert (folder / name).stat().st_size > 100
    for name in names[2:]:
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
        (["train", "--fly"], ["--fly"]),
        (["train", "--model", "resnet9000"], ["resnet9000", "lenet5"]),
        (["train", "--epochs", "0"], ["--epochs", "0"]),
        (["train", "--epochs", "many"], ["--epochs", "many"]),
        (["train", "--lr", "-1"], ["--lr", "-1"]),
        (["train", "--device", "tpu"], ["tpu", "cuda"]),
        (["predict", "--model", "nowhere.safetensors", "nothing.png"], ["nothing.png"]),
        (["gradcheck", "conv3d"], ["conv3d", "conv2d"]),
        (["doctor", "now"], ["now"]),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = error_line(capsys, arguments)
    for word in words:
        assert word in message
    assert list(tmp_path.iterdir()) == [], "a refused command leaves nothing behind"


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


@pytest.mark.parametrize("command", [[], ["train"], ["predict"], ["gradcheck"], ["doctor"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "--help" in capsys.readouterr().out
