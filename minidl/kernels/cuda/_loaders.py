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

// The registers of a thread are taken by its results. What belongs to the block, or to a row of the tile, is in shared memory,
// and loaders refer to it there.

// Where k = (tap of the rows, tap of the columns, channel) stands. VEC: elements that a thread reads at once, along k.
struct Walk {
    int channel, column, row;
    const int& channels;
    const Axis& v;

    __device__ Walk(int begin, int VEC, const int& channels, const Axis& v) : channels(channels), v(v)
    {
        int k = begin + threadIdx.x % (BK / VEC) * VEC, tap = k / channels;
        channel = k % channels;
        row = v.taps ? tap / v.taps : 0;
        column = tap - row * v.taps;
    }
    __device__ void advance()
    {
        channel += BK;
        while (channel >= channels) {
            channel -= channels;
            if (++column == v.taps) { column = 0; ++row; }
        }
    }
};

// x[n, row, column, channel]; may lie outside of the image.
struct alignas(16) Place { int n, row, column, channel; };

// Left of forward and images_gradient: row m of the tile is a result (n, i, j), and it sees  i stride + tap dilation + begin.
template <int VEC> struct Pixels {
    static const int LANES = BK / VEC, STEP = THREADS / LANES, COUNT = BM / STEP;
    static_assert(BK % VEC == 0 && THREADS % LANES == 0 && BM % STEP == 0, "a tile is shared evenly");
    const T* x;
    const Place* seen;  // by result m of the tile through tap (0, 0), from the thread's first m on
    T held[COUNT][VEC];
    const Axis &h, &v;
    int H, W, C;
    Walk& walk;

    // channel: the first one of the group; pooled: m = (n, pooled row, pooled column, which of the window's four results)
    __device__ Pixels(const T* x, int H, int W, int C, const Axis& h, const Axis& v, int channel, int first, int rows,
                      bool pooled, Walk& walk)
        : x(x), h(h), v(v), H(H), W(W), C(C), walk(walk)
    {
        __shared__ Place table[BM];
        int side = pooled ? 2 : 1, area = side * side;  // windows of 2x2 results, or windows of 1x1
        for (int i = threadIdx.x; i < BM; i += THREADS) {
            int m = first + i, within = m % area, across = v.results / side, line = m / area / across, down = h.results / side;
            int row = (line % down * side + within / 2) * h.stride + h.begin;
            int column = (m / area % across * side + within % 2) * v.stride + v.begin;
            table[i] = {line / down, m < rows ? row : -(1 << 30), column, channel};
        }
        seen = table + threadIdx.x / LANES;
        __syncthreads();
    }
    __device__ void fetch()
    {
        int down = walk.row * h.dilation, across = walk.column * v.dilation;
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            Place from = seen[i * STEP];
            int ih = from.row + down, iw = from.column + across;
            bool inside = walk.row < h.taps && (unsigned)ih < H && (unsigned)iw < W;
            if (inside) read(x + ((long long)((from.n * H + ih) * W + iw) * C + (from.channel + walk.channel)), held[i]);
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
    const T* w;
    T held[COUNT][VEC];
    const Axis &h, &v;
    int KW, CG, O, column, channel;
    const Walk& walk;  // which Pixels advances

    __device__ Turned(const T* w, const Axis& h, const Axis& v, int KW, int CG, int O, int first, int channel, const Walk& walk)
        : w(w), h(h), v(v), KW(KW), CG(CG), O(O), column(first + threadIdx.x / LANES), channel(channel), walk(walk) {}
    __device__ void fetch()
    {
        int kh = h.first + walk.row * h.step, kw = v.first + walk.column * v.step;
        int from = ((kh * KW + kw) * CG + column) * O + channel + walk.channel;
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (walk.row < h.taps && column + i * STEP < CG) read(w + (from + i * STEP * O), held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
        }
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
    const Place* seen;  // by result (0, 0, 0) through the tap of the thread's row of the tile
    T held[COUNT][VEC];
    Axis h, v;
    int N, H, W, C, n, line, result;

    __device__ Windows(const T* x, int N, int H, int W, int C, Axis h, Axis v, int group, int channels, int first, int k)
        : x(x), h(h), v(v), N(N), H(H), W(W), C(C)
    {
        __shared__ Place table[LANES];
        for (int i = threadIdx.x; i < LANES; i += THREADS) {
            int m = first + i * VEC, tap = m / channels, row = tap / v.taps * h.dilation + h.begin;
            int column = tap % v.taps * v.dilation + v.begin;
            table[i] = {0, tap < h.taps * v.taps ? row : -(1 << 30), column, group * channels + m % channels};
        }
        seen = table + threadIdx.x % LANES;
        __syncthreads();
        k += threadIdx.x / LANES;
        result = k % v.results;
        line = k / v.results % h.results;
        n = k / v.results / h.results;
    }
    __device__ void fetch()
    {
        Place from = *seen;
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int ih = line * h.stride + from.row, iw = result * v.stride + from.column;
            bool inside = n < N && (unsigned)ih < H && (unsigned)iw < W;
            if (inside) read(x + ((long long)((n * H + ih) * W + iw) * C + from.channel), held[i]);
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
    int O, left;  // of the rows, from the thread's next one on

    __device__ Matrix(const T* a, int rows, int O, int columns, int first, int k) : O(O)
    {
        first += threadIdx.x % LANES * VEC;
        k += threadIdx.x / LANES;
        left = first < columns ? rows - k : 0;
        next = a + (long long)k * O + first;
    }
    __device__ void fetch()
    {
        #pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (left > 0) read(next, held[i]);
            else for (int e = 0; e < VEC; ++e) held[i][e] = 0;
            left -= STEP;
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
