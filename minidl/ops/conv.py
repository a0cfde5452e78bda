"""Convolution of images, and its transpose."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend import Array
from minidl.errors import ArgumentError, DtypeError, ShapeError
from minidl.function import Function
from minidl.kernels import kernels_for
from minidl.ops._arguments import choice, integer, pair, real_tensor, same_dtype
from minidl.ops._images import Pair, batch, fits, padded_oracle, windows_oracle
from minidl.ops.shape import squeeze
from minidl.registry import Draw, ErrorSample, Sample, op
from minidl.tensor import Tensor

__all__ = ["conv2d", "conv_transpose2d"]


def _padding(op: str, padding: Any, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) from an integer, a pair, 'same' or 'valid'."""
    if isinstance(padding, str):
        if choice(op, "padding", padding, ("same", "valid")) == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise ArgumentError.of(op, "stride 1 with padding='same'", f"stride {stride}", "Give the padding as numbers.")
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    PH, PW = pair(op, "padding", padding, 0)
    return (PH, PH), (PW, PW)


def _weights(op: str, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    """Weights of four axes and a bias, if any, of the dtype of x."""
    w = real_tensor(op, weight, "weight")
    b = None if bias is None else real_tensor(op, bias, "bias")
    shape = w._array.shape
    if len(shape) != 4 or 0 in shape:
        letters = "(O, C/groups, KH, KW)" if op == "conv2d" else "(C, O/groups, KH, KW)"
        raise ShapeError.of(op, f"weight of shape {letters}, no axis empty", f"shape {w.shape}")
    same_dtype(op, x=x, weight=w, bias=b)
    return w, b


def _bias(op: str, b: Tensor | None, O: int) -> None:
    if b is not None and b.shape != (O,):
        raise ShapeError.of(op, f"bias of shape {(O,)}", f"shape {b.shape}", "One value per output channel.")


def _conv2d_oracle(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, algorithm="auto"):
    """Window by window, and group by group: the sum of the window times the kernel."""
    batch = x.reshape(-1, *x.shape[-3:])
    padded = padded_oracle(batch, padding, weight.shape[2:], dilation)
    windows = list(windows_oracle(padded, weight.shape[2:], stride, dilation))
    y = np.zeros((len(batch), len(weight), windows[-1][0] + 1, windows[-1][1] + 1), x.dtype)
    for oh, ow, window in windows:
        pieces = zip(np.split(padded[window], groups, 1), np.split(weight, groups), strict=True)
        y[:, :, oh, ow] = np.concatenate([np.tensordot(part, w, ([1, 2, 3], [1, 2, 3])) for part, w in pieces], 1)
    if bias is not None:
        y += bias[:, None, None]
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _conv2d_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(2, 3, 5, 4), draw.normal(4, 3, 3, 2), draw.normal(4)),
        Sample(draw.normal(1, 2, 6, 5), draw.normal(3, 2, 3, 3), None, stride=(2, 1), padding=(1, 2), name="stride, padding"),
        Sample(draw.normal(1, 2, 7, 6), draw.normal(2, 2, 3, 2), draw.normal(2), dilation=(2, 3), name="dilation"),
        Sample(draw.normal(2, 4, 4, 4), draw.normal(6, 2, 3, 3), draw.normal(6), padding=1, groups=2, name="groups"),
        Sample(draw.normal(1, 3, 5, 5), draw.normal(3, 1, 3, 3), draw.normal(3), 2, 1, 1, 3, name="depthwise"),
        Sample(draw.normal(1, 2, 4, 4), draw.normal(4, 1, 2, 2), None, groups=2, name="depthwise, two outputs per channel"),
        Sample(draw.normal(1, 2, 4, 5), draw.normal(2, 2, 2, 4), None, padding="same", name="same"),
        Sample(draw.normal(1, 1, 6, 5), draw.normal(2, 1, 2, 3), None, padding="same", dilation=(3, 1), name="same, dilated"),
        Sample(
            draw.normal(1, 2, 4, 5),
            draw.normal(2, 2, 2, 2),
            None,
            stride=2,
            padding="valid",
            name="valid, stride over the edge",
        ),
        Sample(draw.normal(2, 3, 3, 2), draw.normal(4, 3, 1, 1), draw.normal(4), name="1x1"),
        Sample(draw.normal(1, 2, 3, 2), draw.normal(2, 2, 3, 2), draw.normal(2), name="one output pixel"),
        Sample(draw.normal(2, 4, 4), draw.normal(3, 2, 2, 2), draw.normal(3), name="one image without a batch axis"),
        Sample(draw.normal(0, 2, 4, 4), draw.normal(3, 2, 2, 2), draw.normal(3), name="empty batch"),
        Sample(draw.normal(2, 2, 4, 3), draw.normal(4, 1, 2, 2), draw.normal(4), 1, 1, 1, 2, "loops", name="loops"),
        Sample(draw.normal(2, 2, 4, 3), draw.normal(4, 1, 2, 2), draw.normal(4), 1, 1, 1, 2, "im2col", name="im2col"),
    ]


def _conv2d_errors(draw: Draw) -> list[ErrorSample]:
    x, w = draw.normal(2, 3, 8, 8), draw.normal(8, 3, 3, 3)
    return [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\), got shape \(8, 8\)", x[0, 0], w),
        ErrorSample(ShapeError, r"expected x with no empty axis but the first", draw.normal(2, 3, 0, 4), w),
        ErrorSample(ShapeError, r"expected weight of shape \(O, C/groups, KH, KW\)", x, w[0]),
        ErrorSample(
            ShapeError,
            r"conv2d: expected x with C = 4 channels, as weight of shape \(8, 4, 3, 3\) and groups=1 ask for, got shape \(",
            x,
            draw.normal(8, 4, 3, 3),
        ),
        ErrorSample(ShapeError, r"expected bias of shape \(8,\), got shape \(4,\)", x, w, draw.normal(4)),
        ErrorSample(
            ShapeError, r"padded input \(8, 8\), got kernel \(9, 3\).* padding of at least \(1, 0\)", x, draw.normal(8, 3, 9, 3)
        ),
        ErrorSample(ShapeError, r"spans \(9, 9\)\).* padding of at least \(1, 1\)", x, w, dilation=4),
        ErrorSample(ArgumentError, "expected padding of at least 0, got -1", x, w, padding=-1),
        ErrorSample(ArgumentError, "expected padding as one of 'same', 'valid', got 'full'", x, w, padding="full"),
        ErrorSample(ArgumentError, "expected stride 1 with padding='same', got stride", x, w, stride=2, padding="same"),
        ErrorSample(ArgumentError, "expected stride of at least 1, got 0", x, w, stride=(1, 0)),
        ErrorSample(ArgumentError, "expected dilation of at least 1, got 0", x, w, dilation=0),
        ErrorSample(ArgumentError, "expected groups that divides C = 3 and O = 8, got groups=2", x, w, groups=2),
        ErrorSample(
            ArgumentError, "expected groups that divides C = 3 and O = 8, got groups=3", x, draw.normal(8, 1, 3, 3), groups=3
        ),
        ErrorSample(ArgumentError, "expected groups of at least 1, got 0", x, w, groups=0),
        ErrorSample(
            ArgumentError, "algorithm, for this convolution, as one of 'auto', .*'loops', got 'fft'", x, w, algorithm="fft"
        ),
        ErrorSample(DtypeError, "expected stride as an integer, got 1.5", x, w, stride=1.5),
        ErrorSample(
            DtypeError, "expected one dtype for all tensors, got x float64, weight float32", x, Tensor(w.astype("float32"))
        ),
        ErrorSample(
            DtypeError, r"expected x of float32 or float64, got int64\. Convert with .astype\('float32'\)", x.astype("int64"), w
        ),
    ]


class Conv2d(Function):
    """y = x cross-correlated with w, plus b."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Array,
        w: Array,
        b: Array | None,
        stride: Pair,
        padding: tuple[Pair, Pair],
        dilation: Pair,
        groups: int,
        algorithm: str,
    ) -> Array:
        kernels = kernels_for(x)
        x = kernels.images(x)
        ctx.save(x if ctx.needs[1] else None, w)
        ctx.size, ctx.algorithm = x.shape[2:], algorithm
        ctx.geometry = stride, padding, dilation, groups
        return kernels.conv2d_forward(x, w, b, *ctx.geometry, algorithm)

    @staticmethod
    def backward(ctx: Any, gy: Array) -> tuple:
        x, w = ctx.saved
        return kernels_for(gy).conv2d_backward(gy, x, w, ctx.size, *ctx.geometry, ctx.needs, ctx.algorithm)


def checked(
    op: str, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any], bool]:
    """The arguments of a convolution, checked: x as a batch, weights, bias, the rest by name; and whether x was one image."""
    x, single = batch(op, x)
    w, b = _weights(op, x, weight, bias)
    stride, dilation = pair(op, "stride", stride), pair(op, "dilation", dilation)
    groups = integer(op, "groups", groups, 1)
    C, (O, CG, KH, KW) = x.shape[1], w.shape
    if C % groups or O % groups:
        raise ArgumentError.of(op, f"groups that divides C = {C} and O = {O}", f"groups={groups}")
    if C // groups != CG:
        expected = f"x with C = {CG * groups} channels, as weight of shape {w.shape} and groups={groups} ask for"
        raise ShapeError.of(op, expected, f"shape {x.shape}", "x is (N, C, H, W), weight is (O, C/groups, KH, KW).")
    _bias(op, b, O)
    sides = _padding(op, padding, (KH, KW), stride, dilation)
    fits(op, x.shape[2:], (KH, KW), sides, dilation)
    return x, w, b, {"stride": stride, "padding": sides, "dilation": dilation, "groups": groups}, single


def _algorithm(x: Tensor, w: Tensor, geometry: dict[str, Any], algorithm: str) -> str:
    """The algorithm that is asked for, if it can compute the convolution; the fastest for "auto"."""
    possible = kernels_for(x._array).conv2d_algorithms(x.shape, w.shape, *geometry.values(), x.dtype)
    if algorithm == "auto":
        return possible[0]
    return choice("conv2d", "algorithm, for this convolution,", algorithm, ("auto", *possible))


@op(
    samples=_conv2d_samples,
    oracle=_conv2d_oracle,
    flops=lambda y, x, w, b, **geometry: 2 * y.size * w[0].size + (0 if b is None else y.size),
    errors=_conv2d_errors,
)
def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Tensor:
    """Convolution of images, which in deep learning means cross-correlation: the kernel is not flipped.

    Formula:
        y[n, o, oh, ow] = bias[o] + sum over c, kh, kw of
        weight[o, c, kh, kw] x[n, g C/groups + c, oh SH + kh DH - PH, ow SW + kw DW - PW]
        where g = o // (O/groups) is the group of output channel o, and x is zero outside of the image.
    Shape:
        x (N, C, H, W) or (C, H, W), weight (O, C/groups, KH, KW), bias (O,); y (N, O, OH, OW) with
        OH = (H + 2 PH - DH (KH - 1) - 1) // SH + 1, and OW likewise.
    Gradient:
        dL/dx is ``conv_transpose2d`` of dL/dy: with stride 1, dL/dy cross-correlated with the flipped kernel.
        dL/dweight is x cross-correlated with dL/dy, summed over the images; dL/dbias is the sum of dL/dy over images
        and pixels.
    Notes:
        To get the convolution of signal processing (scipy.signal.convolve2d), flip the kernel along both axes.
        ``padding="same"`` keeps H and W (stride 1 only); where the padding is odd, the extra row or column is at
        the end. ``padding="valid"`` is none. ``groups=C`` is a depthwise convolution: every channel has its own
        kernels.
        ``algorithm`` forces one: "loops" (the definition), "im2col" and, on the CPU with Numba, "direct", "depthwise",
        "winograd4" and "winograd2" (F(4x4, 3x3) and F(2x2, 3x3), where they apply). "auto" takes the fastest, and
        ``minidl.watch`` tells which one that is.
    Raises:
        ShapeError: channels that do not match, or a kernel larger than the padded input.
        ArgumentError: negative padding, a stride of 0, groups that do not divide C and O, an algorithm that does not
            exist or cannot compute this convolution.
        DtypeError: integer images, or float32 mixed with float64.
    Source:
        LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.

    >>> import minidl as md
    >>> x = md.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    >>> difference = md.tensor([[[[-1.0, 1.0]]]])  # right pixel minus left pixel
    >>> md.conv2d(x, difference)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    x, w, b, geometry, single = checked("conv2d", x, weight, bias, stride, padding, dilation, groups)
    y = Conv2d.apply(x, w, b, **geometry, algorithm=_algorithm(x, w, geometry, algorithm))
    return squeeze(y, 0) if single else y


def _conv_transpose2d_oracle(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Every input pixel adds its multiple of the kernel to the output; then the padding is cut off."""
    (SH, SW), (PH, PW), (DH, DW) = (np.broadcast_to(v, 2) for v in (stride, padding, dilation))
    batch = x.reshape(-1, *x.shape[-3:])
    (N, _, H, W), (_, OG, KH, KW), extra = batch.shape, weight.shape, np.broadcast_to(output_padding, 2)
    y = np.zeros((N, OG * groups, (H - 1) * SH + (KH - 1) * DH + 1 + extra[0], (W - 1) * SW + (KW - 1) * DW + 1 + extra[1]))
    for part, w, out in zip(np.split(batch, groups, 1), np.split(weight, groups), np.split(y, groups, 1), strict=True):
        for h in range(H):
            for v in range(W):
                rows = slice(h * SH, h * SH + (KH - 1) * DH + 1, DH)
                out[:, :, rows, v * SW : v * SW + (KW - 1) * DW + 1 : DW] += np.tensordot(part[:, :, h, v], w, 1)
    y = y[:, :, PH : y.shape[2] - PH, PW : y.shape[3] - PW]
    if bias is not None:
        y = y + bias[:, None, None]
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def _conv_transpose2d_samples(draw: Draw) -> list[Sample]:
    return [
        Sample(draw.normal(2, 3, 3, 2), draw.normal(3, 4, 3, 2), draw.normal(4)),
        Sample(draw.normal(1, 2, 3, 3), draw.normal(2, 3, 3, 2), None, stride=(2, 3), padding=(1, 0), name="stride, padding"),
        Sample(draw.normal(1, 2, 3, 3), draw.normal(2, 2, 3, 3), draw.normal(2), 2, 1, 1, name="output_padding"),
        Sample(draw.normal(1, 2, 2, 3), draw.normal(2, 2, 2, 2), None, output_padding=(1, 0), dilation=(2, 1), name="dilation"),
        Sample(draw.normal(1, 4, 2, 3), draw.normal(4, 3, 2, 2), draw.normal(6), stride=2, groups=2, name="groups"),
        Sample(draw.normal(1, 3, 3, 3), draw.normal(3, 1, 3, 3), draw.normal(3), 2, 1, 0, 3, name="depthwise"),
        Sample(draw.normal(2, 3, 2, 2), draw.normal(3, 2, 1, 1), draw.normal(2), name="1x1"),
        Sample(draw.normal(1, 2, 4, 3), draw.normal(2, 2, 1, 2), None, padding=(1, 1), name="padding larger than the kernel"),
        Sample(draw.normal(2, 3, 3), draw.normal(2, 3, 2, 2), draw.normal(3), name="one image without a batch axis"),
        Sample(draw.normal(0, 2, 3, 3), draw.normal(2, 3, 2, 2), draw.normal(3), name="empty batch"),
    ]


def _conv_transpose2d_errors(draw: Draw) -> list[ErrorSample]:
    x, w = draw.normal(2, 4, 3, 3), draw.normal(4, 3, 2, 2)
    return [
        ErrorSample(ShapeError, r"expected x of shape \(N, C, H, W\) or \(C, H, W\)", x[0, 0], w),
        ErrorSample(
            ShapeError,
            r"expected x with C = 3 channels, as weight of shape \(3, 4, 2, 2\) asks for, got shape \(",
            x,
            draw.normal(3, 4, 2, 2),
        ),
        ErrorSample(ShapeError, r"expected weight of shape \(C, O/groups, KH, KW\)", x, w[0]),
        ErrorSample(ShapeError, r"expected bias of shape \(6,\), got shape \(3,\)", x, w, draw.normal(3), groups=2),
        ErrorSample(ShapeError, r"expected an output of at least 1 x 1, got -4 x -4", x, w, padding=4),
        ErrorSample(ArgumentError, "expected groups that divides C = 4, got groups=3", x, w, groups=3),
        ErrorSample(
            ArgumentError,
            r"expected output_padding below stride or dilation .*, got \(2, 2\)",
            x,
            w,
            stride=2,
            output_padding=2,
        ),
        ErrorSample(ArgumentError, "expected padding of at least 0, got -1", x, w, padding=-1),
        ErrorSample(ArgumentError, "expected stride of at least 1, got 0", x, w, stride=0),
        ErrorSample(DtypeError, "expected padding as an integer, got 'same'", x, w, padding="same"),
        ErrorSample(DtypeError, "expected one dtype for all tensors", x, Tensor(w.astype("float32"))),
    ]


class ConvTranspose2d(Function):
    """The transpose of ``Conv2d`` as a linear map: what is forward there is backward here."""

    @staticmethod
    @np.errstate(invalid="ignore", over="ignore")
    def forward(
        ctx: Any,
        x: Array,
        w: Array,
        b: Array | None,
        stride: Pair,
        padding: Pair,
        output_padding: Pair,
        groups: int,
        dilation: Pair,
    ) -> Array:
        sides, size = [], []
        for axis in (0, 1):
            reach = (x.shape[2 + axis] - 1) * stride[axis] + dilation[axis] * (w.shape[2 + axis] - 1) + 1
            size.append(reach - 2 * padding[axis] + output_padding[axis])
            # The output's last rows may lie beyond the last window: then nothing, or less than nothing, is padded there.
            sides.append((padding[axis], padding[axis] - output_padding[axis]))
        ctx.save(x if ctx.needs[1] else None, w)
        ctx.size = tuple(size)
        ctx.geometry = stride, tuple(sides), dilation, groups
        y, _, _ = kernels_for(x).conv2d_backward(x, None, w, ctx.size, *ctx.geometry, (True, False, False))
        if b is not None:
            y += b[:, None, None]
        return y

    @staticmethod
    @np.errstate(invalid="ignore", over="ignore")
    def backward(ctx: Any, gy: Array) -> tuple:
        x, w = ctx.saved
        k = kernels_for(gy)
        gx = k.conv2d_forward(gy, w, None, *ctx.geometry) if ctx.needs[0] else None
        gw = k.conv2d_backward(x, gy, w, ctx.size, *ctx.geometry, (False, True, False))[1] if ctx.needs[1] else None
        return gx, gw, gy.sum((2, 3)).sum(0) if ctx.needs[2] else None


@op(
    samples=_conv_transpose2d_samples,
    oracle=_conv_transpose2d_oracle,
    flops=lambda y, x, w, b, **geometry: 2 * x.size * w[0].size + (0 if b is None else y.size),
    errors=_conv_transpose2d_errors,
)
def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Tensor:
    """Transposed convolution: every input pixel paints its multiple of the kernel into the output.

    Formula:
        y[n, o, h SH + kh DH - PH, w SW + kw DW - PW] += weight[c, o, kh, kw] x[n, c, h, w], over all c, h, w, kh, kw;
        then bias[o] is added; c and o are of one group. As a linear map it is the transpose of ``conv2d`` with the
        same weight, stride, padding, dilation and groups: <conv2d(a), x> = <a, conv_transpose2d(x)>.
    Shape:
        x (N, C, H, W) or (C, H, W), weight (C, O/groups, KH, KW), bias (O,); y (N, O, OH, OW) with
        OH = (H - 1) SH - 2 PH + DH (KH - 1) + output_padding + 1, and OW likewise.
    Gradient:
        dL/dx is ``conv2d`` of dL/dy, dL/dweight is dL/dy cross-correlated with x, dL/dbias sums dL/dy over images and
        pixels.
    Notes:
        Several input sizes give the same output size under a strided ``conv2d``; ``output_padding`` says which of
        them to return to: it adds rows and columns at the end. It undoes the shape of a convolution, not its values.
    Raises:
        ShapeError: channels that do not match, or padding that leaves no output.
        ArgumentError: negative padding, a stride of 0, groups that do not divide C, output_padding not below
            stride or dilation.
        DtypeError: integer images, or float32 mixed with float64.
    Source:
        Zeiler et al., "Deconvolutional Networks", 2010.

    >>> import minidl as md
    >>> md.conv_transpose2d(md.tensor([[[[1.0, 2.0]]]]), md.tensor([[[[1.0, 10.0]]]]), stride=2)
    tensor([[[[ 1., 10.,  2., 20.]]]])
    """
    name = "conv_transpose2d"
    x, single = batch(name, x)
    w, b = _weights(name, x, weight, bias)
    stride, dilation, padding = (
        pair(name, "stride", stride),
        pair(name, "dilation", dilation),
        pair(name, "padding", padding, 0),
    )
    extra = pair(name, "output_padding", output_padding, 0)
    groups = integer(name, "groups", groups, 1)
    C, OG, kernel = x.shape[1], w.shape[1], w.shape[2:]
    if C % groups:
        raise ArgumentError.of(name, f"groups that divides C = {C}", f"groups={groups}")
    if w.shape[0] != C:
        expected = f"x with C = {w.shape[0]} channels, as weight of shape {w.shape} asks for"
        raise ShapeError.of(name, expected, f"shape {x.shape}", "x is (N, C, H, W), weight is (C, O/groups, KH, KW).")
    _bias(name, b, OG * groups)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ArgumentError.of(name, f"output_padding below stride or dilation ({stride}, {dilation})", str(extra))
    OH, OW = ((x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + extra[i] + 1 for i in (0, 1))
    if OH < 1 or OW < 1:
        raise ShapeError.of(name, "an output of at least 1 x 1", f"{OH} x {OW}", f"The padding {padding} cuts everything off.")
    geometry = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    y = ConvTranspose2d.apply(x, w, b, **geometry)
    return squeeze(y, 0) if single else y
