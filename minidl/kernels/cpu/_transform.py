"""The transforms of Winograd convolution, and why they save multiplications.

**The idea in one dimension.** A convolution multiplies polynomials: the coefficients of a product are sums of products of
coefficients. But a polynomial is also known by its values at enough points, and values are multiplied one by one. Four
outputs of a 3-tap filter see six inputs; six points turn 12 multiplications into 6:

    y = A^T [(G g) * (B^T d)]        d: 6 inputs,  g: 3 weights,  y: 4 outputs,  *: element by element

In two dimensions the same is done to the rows and then to the columns:  Y = A^T [(G g G^T) * (B^T d B)] A,  for tiles d of
6x6 inputs, four pixels apart: 36 multiplications instead of 144. That is F(4x4, 3x3).

**The points** are 0, 3/4, -3/4, 3/2, -3/2 and infinity (Cook-Toom; the tests derive the matrices again). The usual
0, +-1, +-2 give simpler numbers but four times the rounding error: powers of points near 1 stay small.

    B^T |  81/64   0       -45/16   0       1  0 |     G |   64/81     0      0    |     A^T | 1   1     1     1     1    0 |
        |   0    -27/16     -9/4    3/4     1  0 |       | -128/243 -32/81   -8/27 |         | 0   3/4  -3/4   3/2  -3/2  0 |
        |   0     27/16     -9/4   -3/4     1  0 |       | -128/243  32/81   -8/27 |         | 0   9/16  9/16  9/4   9/4  0 |
        |   0    -27/32     -9/16   3/2     1  0 |       |   32/243  16/81    8/27 |         | 0  27/64 -27/64 27/8 -27/8 1 |
        |   0     27/32     -9/16  -3/2     1  0 |       |   32/243 -16/81    8/27 |
        |   0     81/64      0    -45/16    0  1 |       |    0        0      1    |

**F(2x2, 3x3)** does it with the points 0, 1, -1 and infinity: 16 multiplications instead of 36 for a 2x2 square of outputs,
with a rounding error below that of the direct sum.

    B^T | -1   0  1  0 |     G | -1    0    0  |     A^T | 1  1   1  0 |
        |  0   1  1  0 |       | 1/2  1/2  1/2 |         | 0  1  -1  1 |
        |  0  -1  1  0 |       | 1/2 -1/2  1/2 |
        |  0  -1  0  1 |       |  0    0    1  |

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. The functions here take and return tuples
of vectors, or of numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from numba.extending import overload

from minidl.kernels.cpu._jit import serial

__all__ = ["input_matrix", "input_transposed", "output_matrix", "output_transposed", "weight_matrix", "weight_transposed"]

A, B = 3 / 4, 3 / 2  # the points are 0, A, -A, B, -B and infinity
AA, BB, AAA, BBB = A * A, B * B, A * A * A, B * B * B
SUM, PRODUCT = AA + BB, AA * BB
G0, GA, GB = 1 / PRODUCT, 1 / (2 * AA * (AA - BB)), 1 / (2 * BB * (BB - AA))  # 1 / product of distances to other points
GA1, GA2, GB1, GB2 = GA * A, GA * AA, GB * B, GB * BB


# ------------------------------------------------------------------ F(4x4, 3x3)


@serial
def _input_six(d):
    """B^T d: six vectors to six."""
    d0, d1, d2, d3, d4, d5 = d
    even_a, odd_a = d4 - BB * d2, A * (d3 - BB * d1)
    even_b, odd_b = d4 - AA * d2, B * (d3 - AA * d1)
    first, last = PRODUCT * d0 - SUM * d2 + d4, PRODUCT * d1 - SUM * d3 + d5
    return first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, last


@serial
def _input_transposed_six(v):
    """B v: six vectors to six."""
    v0, va, wa, vb, wb, v5 = v
    even_a, odd_a, even_b, odd_b = va + wa, A * (va - wa), vb + wb, B * (vb - wb)
    d1 = PRODUCT * v5 - BB * odd_a - AA * odd_b
    d2 = -SUM * v0 - BB * even_a - AA * even_b
    return PRODUCT * v0, d1, d2, odd_a + odd_b - SUM * v5, v0 + (even_a + even_b), v5


@serial
def _output_six(m):
    """A^T m: six vectors to four."""
    m0, ma, na, mb, nb, m5 = m
    even_a, odd_a, even_b, odd_b = ma + na, ma - na, mb + nb, mb - nb
    return m0 + (even_a + even_b), A * odd_a + B * odd_b, AA * even_a + BB * even_b, AAA * odd_a + (BBB * odd_b + m5)


@serial
def _output_transposed_six(y):
    """A y: four vectors to six."""
    y0, y1, y2, y3 = y
    even_a, odd_a = y0 + AA * y2, A * (y1 + AA * y3)
    even_b, odd_b = y0 + BB * y2, B * (y1 + BB * y3)
    return y0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, y3


@serial
def _weight_six(g):
    """G g: three vectors to six."""
    g0, g1, g2 = g
    even_a, odd_a = GA * g0 + GA2 * g2, GA1 * g1
    even_b, odd_b = GB * g0 + GB2 * g2, GB1 * g1
    return G0 * g0, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g2


@serial
def _weight_transposed_six(u):
    """G^T u: six vectors to three."""
    u0, ua, wa, ub, wb, u5 = u
    even_a, odd_a, even_b, odd_b = ua + wa, ua - wa, ub + wb, ub - wb
    return G0 * u0 + GA * even_a + GB * even_b, GA1 * odd_a + GB1 * odd_b, GA2 * even_a + GB2 * even_b + u5


# ------------------------------------------------------------------ F(2x2, 3x3)


@serial
def _input_four(d):
    """B^T d: four vectors to four."""
    d0, d1, d2, d3 = d
    return d2 - d0, d1 + d2, d2 - d1, d3 - d1


@serial
def _input_transposed_four(v):
    """B v: four vectors to four."""
    v0, v1, v2, v3 = v
    return -1.0 * v0, v1 - v2 - v3, v0 + v1 + v2, v3


@serial
def _output_four(m):
    """A^T m: four vectors to two."""
    m0, m1, m2, m3 = m
    return m0 + m1 + m2, m1 - m2 + m3


@serial
def _output_transposed_four(y):
    """A y: two vectors to four."""
    y0, y1 = y
    return y0, y0 + y1, y0 - y1, y1


@serial
def _weight_four(g):
    """G g: three vectors to four."""
    g0, g1, g2 = g
    even, odd = 0.5 * (g0 + g2), 0.5 * g1
    return -1.0 * g0, even + odd, even - odd, g2


@serial
def _weight_transposed_four(u):
    """G^T u: four vectors to three."""
    u0, u1, u2, u3 = u
    even, odd = 0.5 * (u1 + u2), 0.5 * (u1 - u2)
    return even - u0, odd, even + u3


# ------------------------------------------------------------------ either of them


def _either(six: Callable, four: Callable) -> Callable:
    """The function of (inputs, vectors) that ``inputs``, the Shape of a tile's row of inputs, chooses: a constant."""

    def choose(inputs, values):
        return (six if inputs.rows == 6 else four)(values)

    @overload(choose)
    def compiled(inputs, values):
        chosen = six if inputs.rows == 6 else four
        return lambda inputs, values: chosen(values)

    return choose


input_matrix = _either(_input_six, _input_four)
input_transposed = _either(_input_transposed_six, _input_transposed_four)
output_matrix = _either(_output_six, _output_four)
output_transposed = _either(_output_transposed_six, _output_transposed_four)
weight_matrix = _either(_weight_six, _weight_four)
weight_transposed = _either(_weight_transposed_six, _weight_transposed_four)
