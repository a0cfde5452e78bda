"""Every operation against its record: one declared sample runs through all of these checks."""

import numpy as np
import pytest

import minidl as md
from minidl.registry import OPS, Draw
from minidl.testing import FORMS, as_tensors, checked_backward

SAMPLES = [
    pytest.param(spec, sample, id=f"{spec.name}-{sample.name or i}")
    for spec in OPS.values()
    for i, sample in enumerate(spec.samples(Draw(seed=1)))
]
DIFFERENTIABLE = [p for p in SAMPLES if p.values[0].differentiable]
ERRORS = [
    pytest.param(spec, error, id=f"{spec.name}-{i}")
    for spec in OPS.values()
    for i, error in enumerate(spec.errors(Draw(seed=2)))
]
KERNELS = ["generic", "fast"]


def outputs(result):
    """The result's tensors as a list."""
    return list(result) if isinstance(result, (list, tuple)) else [result]


def run(spec, sample, **form):
    """The operation on the sample, its floating outputs, its leaves."""
    args = as_tensors(sample.args, sample.differentiable if spec.differentiable else (), **form)
    leaves = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, md.Tensor) and t.requires_grad]
    return outputs(spec.function(*args, **sample.kwargs)), leaves


def backward(ys, seed=3):
    """Gradients of <v, y> summed over the outputs, for a fixed random v."""
    rng = np.random.default_rng(seed)
    for y in ys:
        v = rng.standard_normal(y.shape)
        if y.requires_grad:
            y.backward(v, retain_graph=True)


def close(a, b, dtype, message):
    rtol, atol = (1e-9, 1e-10) if dtype == np.float64 else (2e-4, 2e-5)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=message)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_value(spec, sample, kernels, device):
    """Forward equals the oracle, in float64."""
    if device != "cpu" and "dropout" in spec.name + sample.name:
        pytest.skip("a GPU draws its own random numbers")
    with md.use_kernels(kernels):
        ys, _ = run(spec, sample, device=device)
    expected = outputs(spec.oracle(*sample.args, **sample.kwargs))
    assert len(ys) == len(expected)
    for y, e in zip(ys, expected):
        assert y.shape == np.shape(e)
        np.testing.assert_allclose(y.numpy(), e, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("spec", "sample"), DIFFERENTIABLE)
def test_gradient(spec, sample, kernels):
    """Backward equals central differences in float64."""
    if not sample.differentiable:
        pytest.skip("no floating argument")
    with md.use_kernels(kernels):
        report = md.gradcheck(
            lambda *args: spec.function(*args, **sample.kwargs), sample.args, wrt=sample.differentiable, name=spec.name
        )
    assert report, str(report)
    assert all(entry.verdict == "ok" for entry in report.inputs), f"a sample sits on a kink:\n{report}"


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_float32(spec, sample, kernels, device):
    """float32 in, float32 out and back, close to float64."""
    with md.use_kernels(kernels):
        ys64, leaves64 = run(spec, sample, device=device)
        ys32, leaves32 = run(spec, sample, dtype=np.float32, device=device)
        for y64, y32 in zip(ys64, ys32):
            assert y32.dtype == (np.float32 if y64.dtype == np.float64 else y64.dtype)
            close(y32.numpy(), y64.numpy(), np.float32, "value")
        backward(ys64)
        backward(ys32)
    for i, (a, b) in enumerate(zip(leaves64, leaves32)):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            assert b.grad.dtype == np.float32, f"gradient {i}"
            close(b.grad.numpy(), a.grad.numpy(), np.float32, f"gradient {i}")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("form", [name for name in FORMS if name != "contiguous"])
@pytest.mark.parametrize(("spec", "sample"), SAMPLES)
def test_layout(spec, sample, form, kernels):
    """The memory order of the inputs does not matter, and the inputs are left untouched."""
    with md.use_kernels(kernels):
        ys, leaves = run(spec, sample)
        args = as_tensors(sample.args, sample.differentiable if spec.differentiable else (), form=FORMS[form])
        flat = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, md.Tensor)]
        before = [t.numpy().copy() for t in flat]
        others = outputs(spec.function(*args, **sample.kwargs))
        backward(ys)
        backward(others)
    for y, z in zip(ys, others):
        close(z.numpy(), y.numpy(), np.float64, "value")
    for t, b in zip(flat, before):
        np.testing.assert_array_equal(t.numpy(), b, err_msg="an input was written to")
    for leaf, other in zip(leaves, [t for t in flat if t.requires_grad]):
        if leaf.grad is not None:
            close(other.grad.numpy(), leaf.grad.numpy(), np.float64, "gradient")


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("spec", "sample"), DIFFERENTIABLE)
def test_rules(spec, sample, kernels):
    """Only needed gradients are computed, with the right shape and dtype, sharing no memory they must not."""
    for position in sample.differentiable:
        args = as_tensors(sample.args, [position])
        leaves = args[position] if isinstance(args[position], list) else [args[position]]
        with md.use_kernels(kernels):
            for y in outputs(spec.function(*args, **sample.kwargs)):
                if not y.requires_grad:
                    continue
                grads = checked_backward(y, np.random.default_rng(0).standard_normal(y.shape))
                for leaf in leaves:
                    if leaf in grads:
                        assert grads[leaf].shape == leaf.shape
                        assert grads[leaf].dtype == leaf.dtype


@pytest.mark.parametrize(("spec", "sample"), DIFFERENTIABLE)
def test_nothing_saved_without_gradient(spec, sample):
    """Under no_grad, and for inputs without gradient, no array is kept."""
    kept = []
    with md.watch(lambda node, inputs, params, out: kept.extend(node.saved or ())):
        with md.no_grad():
            run(spec, sample)
        spec.function(*as_tensors(sample.args), **sample.kwargs)
    assert kept == []


@pytest.mark.parametrize(("spec", "error"), ERRORS)
def test_bad_input(spec, error):
    """Declared bad input raises the declared error, before anything is computed."""
    args = as_tensors(error.args)
    with pytest.raises(error.error, match=error.match):
        spec.function(*args, **error.kwargs)
