"""Weights in files: what is written comes back, and bad files are refused with the model unchanged."""

import json
import os
import pickle
import stat
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

import minidl as md
from minidl import io, nn
from minidl.errors import ArgumentError, DtypeError, ShapeError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def model(seed=0):
    return nn.Sequential(nn.Conv2d(1, 4, 3, rng=seed), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2, rng=seed))


def states_equal(a, b):
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a
    )


# ---------------------------------------------------------------- round trips


def test_model_round_trip(path):
    one, two = model(0), model(1)
    one[1].running_mean.data = np.arange(4.0)
    one[1].num_batches_tracked.data = np.array(17)
    md.save(one, path)
    assert md.load_weights(two, path) == ([], [])
    assert states_equal(one.state_dict(), two.state_dict())
    assert two[1].num_batches_tracked.item() == 17


@pytest.mark.parametrize(
    "array",
    [
        np.array(2.5),
        np.array(7, np.int64),
        np.zeros((0, 3), np.float32),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(24.0)[::-3],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">f4"),
        np.arange(4, dtype=">i8"),
        np.array([True, False]),
        np.arange(3, dtype=np.uint8),
        np.array([1.5, np.inf], np.float16),
        np.array([np.nan, -np.inf, -0.0, 1e-45], np.float32),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_array_round_trip(array, path):
    md.save({"a": array}, path)
    loaded = md.load(path)["a"]
    assert loaded.shape == array.shape
    assert loaded.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)
    np.testing.assert_array_equal(np.signbit(loaded), np.signbit(array)) if array.dtype.kind == "f" else None


def test_values_may_be_tensors_and_lists(path):
    md.save({"a": md.tensor([1.0, 2.0]), "b": md.Parameter([3.0]), "c": [4, 5]}, path)
    assert {name: values.tolist() for name, values in md.load(path).items()} == {"a": [1, 2], "b": [3], "c": [4, 5]}


def test_metadata(path):
    md.save({}, path, metadata={"model": "lenet5", "text": "späß \n"})
    assert md.load(path) == {}
    assert io.load_metadata(path) == {"model": "lenet5", "text": "späß \n"}
    md.save({"a": np.ones(1)}, path)
    assert io.load_metadata(path) == {}


def test_non_finite_weights_load_as_they_are(path):
    one, two = nn.Linear(2, 2, rng=0), nn.Linear(2, 2, rng=1)
    one.bias.data = np.array([np.nan, -np.inf])
    md.save(one, path)
    md.load_weights(two, path)
    np.testing.assert_array_equal(two.bias.numpy(), [np.nan, -np.inf])


def test_dtype_follows_the_model(path):
    md.save(nn.Linear(2, 2, rng=0).double(), path)
    single = nn.Linear(2, 2, rng=1)
    md.load_weights(single, path)
    assert single.weight.dtype == np.float32
    np.testing.assert_array_equal(single.weight.numpy(), md.load(path)["weight"].astype(np.float32))


@pytest.fixture(scope="module")
def torch():
    """PyTorch, imported before the global state of a test is noted."""
    return pytest.importorskip("torch")


def test_pytorch_reads_what_we_write_and_we_read_what_it_writes(torch, path):
    st = pytest.importorskip("safetensors.torch")
    theirs = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2))
    ours = model()
    md.save(ours, path)
    theirs.load_state_dict(st.load_file(path))
    assert states_equal({k: v.numpy() for k, v in theirs.state_dict().items()}, ours.state_dict())
    with torch.no_grad():
        theirs[0].weight += 1
    st.save_file(theirs.state_dict(), path)
    md.load_weights(ours, path)
    assert states_equal({k: v.numpy() for k, v in theirs.state_dict().items()}, ours.state_dict())


def test_writing_replaces_whole_files(path, monkeypatch):
    md.save(model(0), path)
    before = path.read_bytes()

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        md.save(model(1), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    md.save(model(1), str(path))
    assert path.read_bytes() != before
    assert os.listdir(path.parent) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


# ---------------------------------------------------------------- what save refuses


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ([np.ones(1)], DtypeError, "a Module or a dictionary of arrays, got list"),
        ({1: np.ones(1)}, ArgumentError, "names as text, got int 1"),
        ({"a": np.array([object()])}, DtypeError, "'a', got dtype object"),
        ({"a": np.array(["x"])}, DtypeError, "numbers of at most 64 bits"),
        ({"a": np.array([1j])}, DtypeError, "dtype complex128"),
        ({"__metadata__": np.ones(1)}, ArgumentError, "reserves"),
    ],
)
def test_save_refuses(values, error, match, path):
    with pytest.raises(error, match=match):
        md.save(values, path)
    assert not path.exists()


def test_save_refuses_places_and_metadata(path):
    with pytest.raises(ArgumentError, match="the path of a file, got the folder"):
        md.save({}, path.parent)
    with pytest.raises(FileNotFoundError, match=r"an existing folder, got .*nowhere"):
        md.save({}, path.parent / "nowhere" / "x.safetensors")
    with pytest.raises(ArgumentError, match=r"metadata\['epoch'\] as text, got int 3"):
        md.save({}, path, metadata={"epoch": 3})


# ---------------------------------------------------------------- bad files


def made_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD = {
    "empty": (b"", "header too small"),
    "three bytes": (b"abc", "header too small"),
    "header of 2^60 bytes": (struct.pack("<Q", 1 << 60) + b"{}", "header too large"),
    "header longer than the file": (struct.pack("<Q", 5000) + b"{}", "header"),
    "no JSON": (made_of(b"hello"), "JSON"),
    "a list": (made_of([1, 2]), "JSON"),
    "no UTF-8": (made_of(b'{"\xff": 1}'), "UTF-8"),
    "overlap": (made_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "offset"),
    "gap": (made_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "offset"),
    "offsets beyond the file": (made_of({"a": entry(offsets=(0, 8000), shape=(2000,))}, bytes(8)), "."),
    "offsets backwards": (made_of({"a": entry(offsets=(8, 0))}, bytes(8)), "."),
    "huge shape": (made_of({"a": entry(shape=(1 << 40, 1 << 40))}, bytes(8)), "overflow"),
    "huge empty shape": (made_of({"a": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}), "."),
    "negative shape": (made_of({"a": entry(shape=(-2,))}, bytes(8)), "JSON"),
    "wrong size": (made_of({"a": entry(shape=(3,))}, bytes(8)), "."),
    "unknown dtype": (made_of({"a": entry("X99")}, bytes(8)), "X99"),
    "bfloat16": (made_of({"a": entry("BF16", offsets=(0, 4))}, bytes(4)), "'a' of dtype BF16"),
    "float8": (made_of({"a": entry("F8_E4M3", offsets=(0, 2))}, bytes(2)), "'a' of dtype F8_E4M3"),
    "metadata that is no text": (made_of({"__metadata__": {"a": 1}}), "JSON"),
    "twice the same name": (made_of(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)), None),
    "pickle": (pickle.dumps({"weight": list(range(1000))}), "a pickle, which is not read"),
    "old pickle": (pickle.dumps({"weight": list(range(1000))}, protocol=2), "a pickle, which is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, path):
    data, match = BAD[name]
    path.write_bytes(data)
    if match is None:  # a matter of the format's reader: an error or one of the two, but no crash
        with suppress(ArgumentError):
            assert md.load(path)["a"].shape == (2,)
        return
    refused(path, match)


def refused(path, match):
    """All ways of reading refuse the file, name it, and leave a model as it was."""
    linear = nn.Linear(2, 2, rng=0)
    before = linear.state_dict()
    for read in (md.load, io.load_metadata, lambda p: md.load_weights(linear, p)):
        with pytest.raises(ArgumentError, match=match) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "expected" in str(caught.value)
    assert states_equal(before, linear.state_dict())


def test_truncated_anywhere(path):
    md.save(nn.Linear(2, 2, rng=0), path, metadata={"a": "b"})
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        refused(path, "expected a complete .safetensors file")
    path.write_bytes(data + b"more")
    refused(path, "expected a complete .safetensors file")


def test_damaged_anywhere(path):
    """One flipped byte: an error of ours or other numbers, never a crash."""
    md.save({"a": np.arange(4.0)}, path)
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), 3):
        broken = bytearray(data)
        broken[i] ^= 0x55
        path.write_bytes(broken)
        try:
            md.load(path)
        except ArgumentError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_numpy_archives(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.ones((2, 2)))
    refused(tmp_path / "a.npz", r"a zip archive, as NumPy's \.npz")
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    refused(tmp_path / "a.npy", r"a NumPy \.npy file")


def test_missing_files_and_folders(tmp_path):
    for read in (md.load, io.load_metadata, lambda p: md.load_weights(nn.ReLU(), p)):
        with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors', which does not exist"):
            read(tmp_path / "nothing.safetensors")
        with pytest.raises(ArgumentError, match="which is a folder"):
            read(tmp_path)


def test_weights_that_do_not_fit(path):
    linear = nn.Linear(2, 2, rng=0)
    before = linear.state_dict()
    good = {"weight": np.ones((2, 2)), "bias": np.ones(2)}

    def not_loaded(error, match, values, **options):
        md.save(values, path)
        with pytest.raises(error, match=match) as caught:
            md.load_weights(linear, path, **options)
        assert str(path) in str(caught.value)
        assert states_equal(before, linear.state_dict())

    not_loaded(ShapeError, r"expected shape \(2,\), got \(3,\)", {**good, "bias": np.ones(3)})
    not_loaded(ShapeError, r"expected shape \(2,\), got \(3,\)", {**good, "bias": np.ones(3)}, strict=False)
    not_loaded(ArgumentError, "1 missing .*bias", {"weight": np.ones((2, 2))})
    not_loaded(ArgumentError, "1 unexpected .*extra", {**good, "extra": np.ones(1)})
    not_loaded(ArgumentError, "values within float32", {**good, "bias": np.array([1e300, 1.0])})
    with pytest.raises(DtypeError, match="a Module, got dict"):
        md.load_weights({}, path)
    md.save({"weight": np.ones((2, 2)), "extra": np.ones(1)}, path)
    assert md.load_weights(linear, path, strict=False) == (["bias"], ["extra"])
    assert (linear.weight.numpy() == 1).all()


def test_import_stays_light():
    code = "import minidl, sys; print([m for m in ('safetensors', 'pickle5') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
