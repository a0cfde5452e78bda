"""Where the matrices of an implicit product are found in memory: the loaders for the text of ``_implicit.py``.

The threads of a block share a piece evenly: LANES of them side by side along the axis on which elements are neighbours in
memory, each with VEC elements at a time, and STEP of such lines at once, so that there are COUNT for everyone.
"""

__all__ = ["LOADERS"]

LOADERS = r"""
#if TENSOR_CORES
__device__ T kept(T value) { return __uint_as_float(to_tf32(value)); }  // as it is kept in shared memory
#else
__device__ T kept(T value) { return value; }
#endif

// Elements to neighbouring places.
__device__ void put(T* to, const T (&values)[4])
{
    Four four;
    for (int e = 0; e < 4; ++e) four.v[e] = kept(values[e]);
    *(Four*)to = four;
}
__device__ void put(T* to, const T (&values)[1]) { *to = kept(values[0]); }

// Elements of neighbouring k to places below each other, piece[k ... k + 3][row]. Each of the 32 banks of shared memory serves
// one word at a time. With the rows that tensor cores want, 8 words longer than a multiple of 32, threads that begin at k = 0,
// 4, 8 and 12 would write to the same banks; so there each of these begins with another one of its elements.
template <int WIDTH> __device__ void put_down(T (*piece)[WIDTH], int k, int row, const T (&values)[4])
{
    int turn = TENSOR_CORES ? k / 4 % 4 : 0;
    T one[4], two[4];  // values turned by turn % 2, then by turn
    #pragma unroll
    for (int e = 0; e < 4; ++e) one[e] = turn % 2 ? values[(e + 1) % 4] : values[e];
    #pragma unroll
    for (int e = 0; e < 4; ++e) two[e] = turn / 2 ? one[(e + 2) % 4] : one[e];
    #pragma unroll
    for (int e = 0; e < 4; ++e) piece[k + (e + turn) % 4][row] = kept(two[e]);
}
template <int WIDTH> __device__ void put_down(T (*piece)[WIDTH], int k, int row, const T (&values)[1])
{
    piece[k][row] = kept(values[0]);
}

// ---------------------------------------------------------------- loaders
// fetch() reads the thread's share of the next piece into registers, and store() puts it into shared memory, as [k][row].

// Where k = (tap of the rows, tap of the columns, channel) stands.
struct Walk {
    int channel, column, row, channels, columns;

    __device__ Walk(int k, int channels, int columns) : channels(channels), columns(columns)
    {
        channel = k % channels;
        column = k / channels % columns;
        row = k / channels / columns;
    }
    __device__ void advance()
    {
        channel += BK;
        while (channel >= channels) {
            channel -= channels;
            if (++column == columns) { column = 0; ++row; }
        }
    }
};

// Left of forward and images_gradient: row m of the tile is a result (n, i, j), and it sees  i stride + tap dilation + begin.
template <int VEC> struct Pixels {
    static const int LANES = BK / VEC, STEP = THREADS / LANES, COUNT = BM / STEP;
    static_assert(BK % VEC == 0 && THREADS % LANES == 0 && BM % STEP == 0, "a tile is shared evenly");
    const T* seen[COUNT];  // by the result, through tap (0, 0); may lie outside of the image
    int row[COUNT], column[COUNT];
    T held[COUNT][VEC];
    Axis h, v;
    int H, W, C;
    Walk walk;

    // x: image 0, at the group's channels; pooled: m = (n, pooled row, pooled column, which of the window's four results)
    __device__ Pixels(const T* x, int H, int W, int C, Axis h, Axis v, int channels, int first, int rows, bool pooled, int k)
        : h(h), v(v), H(H), W(W), C(C), walk(k + threadIdx.x % LANES * VEC, channels, v.taps ? v.taps : 1)
    {
        // Windows of 2x2 results, or windows of 1x1. Dividing is slow, so only once; STEP is a multiple of four.
        int side = pooled ? 2 : 1, area = side * side, across = v.results / side, down = h.results / side;
        int m = first + threadIdx.x / LANES, within = m % area, result = m / area % across;
        int line = m / area / across % down, n = m / area / across / down;
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            bool outside = m + i * STEP >= rows;
            row[i] = outside ? -(1 << 30) : (line * side + within / 2) * h.stride + h.begin;
            column[i] = (result * side + within % 2) * v.stride + v.begin;
            seen[i] = x + (outside ? 0 : (((long long)n * H + row[i]) * W + column[i]) * C);
            result += STEP / area;
            while (result >= across) {
                result -= across;
                if (++line == down) { line = 0; ++n; }
            }
        }
    }
    __device__ void fetch()
    {
        int down = walk.row * h.dilation, across = walk.column * v.dilation;
        int further = (down * W + across) * C + walk.channel;
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            bool inside = walk.row < h.taps && (unsigned)(row[i] + down) < H && (unsigned)(column[i] + across) < W;
            if (inside) read(seen[i] + further, held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
        }
        walk.advance();
    }
    __device__ void store(T (*piece)[BM + PAD])
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) put_down(piece, threadIdx.x % LANES * VEC, threadIdx.x / LANES + i * STEP, held[i]);
    }
};

// Right of images_gradient: k = (kh, kw, o) and columns c of w[kh, kw, c, o].
template <int VEC> struct Turned {
    static const int LANES = BK / VEC, STEP = THREADS / LANES, COUNT = BN / STEP;
    static_assert(THREADS % LANES == 0 && BN % STEP == 0, "a tile is shared evenly");
    const T* first;  // tap of this phase, at the thread's first column
    int rows, columns, to_row, to_column, to_next;
    T held[COUNT][VEC];
    Walk walk;

    __device__ Turned(const T* w, Axis h, Axis v, int KW, int CG, int O, int channels, int column, int k)
        : rows(h.taps), to_row(h.step * KW * CG * O), to_column(v.step * CG * O), to_next(STEP * O),
          walk(k + threadIdx.x % LANES * VEC, channels, v.taps ? v.taps : 1)
    {
        column += threadIdx.x / LANES;
        columns = CG - column;
        first = w + ((h.first * KW + v.first) * CG + column) * O;
    }
    __device__ void fetch()
    {
        const T* from = first + (walk.row * to_row + walk.column * to_column + walk.channel);
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (walk.row < rows && i * STEP < columns) read(from + i * to_next, held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
        }
        walk.advance();
    }
    __device__ void store(T (*piece)[BN + PAD])
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) put_down(piece, threadIdx.x % LANES * VEC, threadIdx.x / LANES + i * STEP, held[i]);
    }
};

// Left of weights_gradient: k is a result (n, oh, ow), and row (kh, kw, c) of the tile is what it sees through that tap.
template <int VEC> struct Windows {
    static const int LANES = BM / VEC, STEP = THREADS / LANES, COUNT = BK / STEP;
    static_assert(THREADS % LANES == 0 && BK % STEP == 0, "a tile is shared evenly");
    const T* x;
    T held[COUNT][VEC];
    Axis h, v;
    int N, H, W, C, n, line, result, down, across;
    bool needed;

    __device__ Windows(const T* x, int N, int H, int W, int C, Axis h, Axis v, int channels, int first, int k)
        : h(h), v(v), N(N), H(H), W(W), C(C)
    {
        int row = first + threadIdx.x % LANES * VEC, tap = row / channels;
        needed = tap < h.taps * v.taps;
        down = tap / v.taps * h.dilation + h.begin;
        across = tap % v.taps * v.dilation + v.begin;
        this->x = x + row % channels;
        k += threadIdx.x / LANES;
        result = k % v.results;
        line = k / v.results % h.results;
        n = k / v.results / h.results;
    }
    __device__ void fetch()
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int ih = line * h.stride + down, iw = result * v.stride + across;
            bool inside = needed && n < N && (unsigned)ih < H && (unsigned)iw < W;
            if (inside) read(x + (((long long)n * H + ih) * W + iw) * C, held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
            result += STEP;
            while (result >= v.results) {
                result -= v.results;
                if (++line == h.results) { line = 0; ++n; }
            }
        }
    }
    __device__ void store(T (*piece)[BM + PAD])
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) put(&piece[threadIdx.x / LANES + i * STEP][threadIdx.x % LANES * VEC], held[i]);
    }
};

// Right of forward and weights_gradient: a matrix (rows, O) as it lies, at the columns of the group.
template <int VEC> struct Matrix {
    static const int LANES = BN / VEC, STEP = THREADS / LANES, COUNT = BK / STEP;
    static_assert(THREADS % LANES == 0 && BK % STEP == 0, "a tile is shared evenly");
    const T* next;
    T held[COUNT][VEC];
    int rows, O, k;
    bool needed;

    __device__ Matrix(const T* a, int rows, int O, int columns, int first, int k) : rows(rows), O(O), k(k + threadIdx.x / LANES)
    {
        first += threadIdx.x % LANES * VEC;
        needed = first < columns;
        next = a + (long long)this->k * O + first;
    }
    __device__ void fetch()
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (needed && k < rows) read(next, held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
            k += STEP;
            next += (long long)STEP * O;
        }
    }
    __device__ void store(T (*piece)[BN + PAD])
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) put(&piece[threadIdx.x / LANES + i * STEP][threadIdx.x % LANES * VEC], held[i]);
    }
};
"""
