"""minidl's network operations against PyTorch's answers: the stored ones always, fresh ones where PyTorch is installed."""

import warnings

import numpy as np
import pytest
from torch_golden import FILE, arrays_of, entries, projection, torch_answer, with_arrays

import minidl as md

GOLDEN = dict(np.load(FILE, allow_pickle=False))
ENTRIES = [pytest.param(key, spec, sample, id=key) for key, spec, sample in entries()]


def minidl_answer(spec, sample, arrays):
    """Outputs and gradients in the form of torch_answer."""
    tensors = [md.Tensor(a) for a in arrays]
    args, kwargs = with_arrays(sample, tensors)
    for position in sample.differentiable:
        args[position].requires_grad = True
    result = spec.function(*args, **kwargs)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    for y in outputs:
        if y.requires_grad:
            y.backward(projection(y.shape), retain_graph=True)
    return [y.numpy() for y in outputs], [None if t.grad is None else t.grad.numpy() for t in tensors]


def compare(ours, theirs):
    assert len(ours[0]) == len(theirs[0])
    for name, mine, reference in zip(("output", "gradient"), ours, theirs, strict=True):
        for i, (a, b) in enumerate(zip(mine, reference, strict=True)):
            assert (a is None) == (b is None), f"{name} {i}"
            if a is not None:
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10, err_msg=f"{name} {i}")


@pytest.mark.parametrize(("key", "spec", "sample"), ENTRIES)
def test_stored_answers(key, spec, sample):
    assert f"{key}/out0" in GOLDEN, "run python tests/torch_golden.py where PyTorch is installed"
    arrays = [GOLDEN[f"{key}/in{i}"] for i in range(len(arrays_of(sample)))]
    outputs = [GOLDEN[f"{key}/out{i}"] for i in range(sum(name.startswith(f"{key}/out") for name in GOLDEN))]
    compare(minidl_answer(spec, sample, arrays), (outputs, [GOLDEN.get(f"{key}/grad{i}") for i in range(len(arrays))]))


@pytest.mark.parametrize(("key", "spec", "sample"), ENTRIES)
def test_fresh_answers(key, spec, sample):
    pytest.importorskip("torch")
    with warnings.catch_warnings():  # some of its parts add filters when they are first imported
        warnings.filterwarnings("ignore", message="Using padding='same'")
        reference = torch_answer(spec, sample)
    compare(minidl_answer(spec, sample, arrays_of(sample)), reference)
