"""im2col and its transpose on the GPU; and the same with pixels as rows, which suits products of images that lie channels last.

The transposes gather: every pixel adds, in a fixed order, what the columns hold for it. Nothing is added to one place by two
threads.
"""

from __future__ import annotations

from minidl.backend import Array, xp_of
from minidl.kernels.cuda._axes import AXES, Sizes, channels_last, sizes_of, tap_steps
from minidl.kernels.cuda._launch import Source
from minidl.kernels.generic.columns import Padding, Pair

__all__ = ["col2im", "im2col"]

THREADS = 256

source = Source(
    AXES
    + r"""
// columns[n, c, kh, kw, oh, ow] = x[n, oh SH + kh DH - top, ow SW + kw DW - left, c]; a thread for each of them.
extern "C" __global__ void image_to_columns(
    const T* x, T* columns, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups)
{
    long long i = first_index(), rest = i;
    int ow = rest % OW; rest /= OW;
    int oh = rest % OH; rest /= OH;
    int kw = rest % KW; rest /= KW;
    int kh = rest % KH; rest /= KH;
    int c = rest % C;
    long long n = rest / C;
    if (n >= N) return;
    int ih = oh * SH + kh * DH - top, iw = ow * SW + kw * DW - left;
    bool inside = 0 <= ih && ih < H && 0 <= iw && iw < W;
    columns[i] = inside ? x[((n * H + ih) * W + iw) * C + c] : 0;
}

// x[n, c, ih, iw] = the sum of all columns that hold this pixel: see gradient_axis in _axes.py.
extern "C" __global__ void columns_to_image(
    const T* columns, T* x, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int step_h, int step_w)
{
    long long i = first_index(), rest = i;
    int iw = rest % W; rest /= W;
    int ih = rest % H; rest /= H;  // rest is n C + c now
    if (rest >= (long long)N * C) return;
    Axis h = gradient_axis(H, KH, SH, DH, top, step_h, ih % SH), v = gradient_axis(W, KW, SW, DW, left, step_w, iw % SW);
    T sum = 0;
    for (int j = 0; j < h.taps; ++j) {
        int oh = ih / SH + j * h.dilation + h.begin;
        if (oh < 0 || oh >= OH) continue;
        for (int k = 0; k < v.taps; ++k) {
            int ow = iw / SW + k * v.dilation + v.begin, kh = h.first + j * h.step, kw = v.first + k * v.step;
            if (ow >= 0 && ow < OW) sum += columns[(((rest * KH + kh) * KW + kw) * OH + oh) * OW + ow];
        }
    }
    x[i] = sum;
}

// rows[g, m - begin, (kh, kw, c)] = what result m = (n, oh, ow) sees in group g of the channels; begin <= m < begin + count.
extern "C" __global__ void image_to_rows(
    const T* x, T* rows, int N, int H, int W, int C, int O, int OH, int OW,
    int KH, int KW, int SH, int SW, int DH, int DW, int top, int left, int groups, int begin, int count)
{
    int CG = C / groups;
    long long i = first_index(), rest = i;
    int c = rest % CG; rest /= CG;
    int kw = rest % KW; rest /= KW;
    int kh = rest % KH; rest /= KH;
    int m = begin + rest % count, group = rest / count;
    if (group >= groups) return;
    int ow = m % OW, oh = m / OW % OH, ih = oh * SH + kh * DH - top, iw = ow * SW + kw * DW - left;
    long long n = m / OW / OH;
    bool inside = 0 <= ih && ih < H && 0 <= iw && iw < W;
    rows[i] = inside ? x[((n * H + ih) * W + iw) * C + group * CG + c] : 0;
}

// x += what these rows hold for its pixels, from image ``first`` on.
extern "C" __global__ void add_rows_to_image(
    const T* rows, T* x, int N, int H, int W, int C, int O, int OH, int OW, int KH, int KW, int SH, int SW, int DH, int DW,
    int top, int left, int groups, int step_h, int step_w, int begin, int count, int first, int images)
{
    int CG = C / groups;
    long long i = first_index(), rest = i;
    int c = rest % C, group = c / CG; rest /= C;
    int iw = rest % W; rest /= W;
    int ih = rest % H; rest /= H;
    if (rest >= images) return;
    int n = first + rest;
    Axis h = gradient_axis(H, KH, SH, DH, top, step_h, ih % SH), v = gradient_axis(W, KW, SW, DW, left, step_w, iw % SW);
    T sum = 0;
    for (int j = 0; j < h.taps; ++j) {
        int oh = ih / SH + j * h.dilation + h.begin;
        if (oh < 0 || oh >= OH) continue;
        for (int k = 0; k < v.taps; ++k) {
            int ow = iw / SW + k * v.dilation + v.begin, kh = h.first + j * h.step, kw = v.first + k * v.step;
            int row = (n * OH + oh) * OW + ow - begin;
            if (ow < 0 || ow >= OW || row < 0 || row >= count) continue;
            sum += rows[((((long long)group * count + row) * KH + kh) * KW + kw) * CG + c % CG];
        }
    }
    x[(((long long)n * H + ih) * W + iw) * C + c] += sum;
}
"""
)


def im2col(x: Array, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """(N, C, H, W) -> (N, C * KH * KW, OH * OW): column oh * OW + ow holds what the window at (oh, ow) sees."""
    N, C, H, W = x.shape
    s = sizes_of(N, (H, W), (1, C, *kernel), stride, padding, dilation, 1)
    columns = xp_of(x).empty((N, C * s.KH * s.KW, s.OH * s.OW), x.dtype)
    source.launch("image_to_columns", x.dtype, -(-columns.size // THREADS), THREADS, (channels_last(x), columns, *s))
    return columns


def col2im(columns: Array, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """(N, C * KH * KW, OH * OW) -> (N, C, H, W): every pixel sums what the columns hold for it."""
    N, C, xp = len(columns), columns.shape[1] // (kernel[0] * kernel[1]), xp_of(columns)
    s = sizes_of(N, size, (1, C, *kernel), stride, padding, dilation, 1)
    x = xp.empty((N, C, *size), columns.dtype)
    arguments = xp.ascontiguousarray(columns), x, *s, *tap_steps(s)
    source.launch("columns_to_image", x.dtype, -(-x.size // THREADS), THREADS, arguments)
    return x


def to_rows(x: Array, rows: Array, sizes: Sizes, begin: int) -> None:
    """What results begin, begin + 1, ... of all (n, oh, ow) see of x (N, H, W, C), to rows (G, results, KH KW C/G)."""
    arguments = x, rows, *sizes, begin, rows.shape[1]
    source.launch("image_to_rows", x.dtype, -(-rows.size // THREADS), THREADS, arguments)


def add_from_rows(rows: Array, x: Array, sizes: Sizes, begin: int) -> None:
    """The transpose of ``to_rows``: x += what the rows hold for its pixels."""
    count, pixels = rows.shape[1], sizes.OH * sizes.OW
    first, images = begin // pixels, -(-(begin + count) // pixels) - begin // pixels
    elements = images * sizes.H * sizes.W * sizes.C
    arguments = rows, x, *sizes, *tap_steps(sizes), begin, count, first, images
    source.launch("add_rows_to_image", x.dtype, -(-elements // THREADS), THREADS, arguments)
