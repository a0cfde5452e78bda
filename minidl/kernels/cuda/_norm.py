"""The CUDA text of normalisation; see ``norm.py``."""

__all__ = ["NORM"]

NORM = r"""
const int ALL = 0, COMPUTED = 1, READ = 2;

__device__ T inverse_std(T var, double eps) { return T(1 / sqrt(double(var) + eps)); }

// A value that is near the mean of a channel's group, however large that is: the average of four pixels.
__device__ T typical(const T* piece, long long pixels, long long channels, long long c, long long K) {
    long long step = pixels / 4 * channels;
    const T* p = piece + c / K * K;
    T h = (p[0] + p[step] + p[2 * step] + p[3 * step]) * T(0.25);
    return h - h == 0 ? h : T(0);  // neither infinite nor NaN
}

// What a thread needs to know about its channels: y = (x - center) * scale + bias.
template <int L> struct Channels {
    T center[L], scale[L], bias[L];
    __device__ Channels(Place<L> at, long long channels, long long K, const T* mean, const T* var, const T* w, const T* b,
                        double eps) {
        for (int l = 0; l < L; l++) {
            long long c = at.channel + l;
            if (c >= channels) continue;
            long long group = at.piece * (channels / K) + c / K;
            center[l] = mean[group];
            scale[l] = inverse_std(var[group], eps) * (w ? w[c] : T(1));
            bias[l] = b ? b[c] : T(0);
        }
    }
    __device__ T value(int l, T x) { return (x - center[l]) * scale[l] + bias[l]; }
};

template <int L> struct Pair { Pack<L> a, b; };
template <int L> struct Triple { Pack<L> a, b, c; };
template <int L> __device__ Pack<L> read(const T* from, long long i) { return *(const Pack<L>*)(from + i); }

// ---------------------------------------------------------------- forward

template <int L>
__device__ void sum_squares(const T* x, double* partial, long long pixels, long long channels, long long K) {
    Place<L> at(pixels, channels);
    T shift[L];
    for (int l = 0; l < L; l++)
        shift[l] = at.count ? typical(x + at.piece * pixels * channels, pixels, channels, at.channel + l, K) : T(0);
    auto load = [&](long long pixel) { return read<L>(x, pixel * channels + at.channel); };
    column_sums<L>(at, channels, partial, load, [&](long long, Pack<L> v, T* s, T* q) {
        for (int l = 0; l < L; l++) {
            T d = v.v[l] - shift[l];
            s[l] += d, q[l] += d * d;
        }
    });
}
extern "C" __global__ void forward_sums(const T* x, double* partial, long long pixels, long long channels, long long K,
                                        long long lanes) {
    if (lanes == 1) sum_squares<1>(x, partial, pixels, channels, K);
    else sum_squares<LANES>(x, partial, pixels, channels, K);
}

// Mean and variance of a group, a block for each, from the sums of its K channels in all splits, which lie side by side.
extern "C" __global__ void join_moments(const T* x, const double* partial, T* mean, T* var, long long pixels,
                                        long long channels, long long K, long long splits) {
    long long groups = channels / K, piece = blockIdx.x / groups, c = blockIdx.x % groups * K;
    const double *s = partial + (piece * 2 * channels + c) * splits, *q = s + channels * splits;
    double share = 1.0 / (double(pixels) * K);
    double m = row_sum<double>(of_block(), K * splits, [=](long long k) { return s[k]; }) * share;
    double v = row_sum<double>(of_block(), K * splits, [=](long long k) { return q[k]; }) * share - m * m;
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = T(typical(x + piece * pixels * channels, pixels, channels, c, K) + m);
        var[blockIdx.x] = T(v < 0 ? 0 : v);
    }
}

extern "C" __global__ void update_moments(long long size, T momentum, T correction, const T* mean, const T* var,
                                          const T* batch_mean, const T* batch_var, T* new_mean, T* new_var) {
    long long c = first_index();
    if (c >= size) return;
    new_mean[c] = (1 - momentum) * mean[c] + momentum * batch_mean[c];
    new_var[c] = (1 - momentum) * var[c] + momentum * (batch_var[c] * correction);
}

template <int L>
__device__ void normalise(const T* x, const T* residual, T* y, long long channels, Channels<L> of, Place<L> at, bool relu) {
    auto place = [&](long long k) { return (at.first + k * at.step) * channels + at.channel; };
    in_batches(at.count, [&](long long k) {
        return Pair<L>{read<L>(x, place(k)), residual ? read<L>(residual, place(k)) : Pack<L>()};
    }, [&](long long k, Pair<L> of_k) {
        Pack<L> v = of_k.a;
        for (int l = 0; l < L; l++) {
            v.v[l] = of.value(l, v.v[l]) + of_k.b.v[l];
            if (relu && v.v[l] <= 0) v.v[l] = 0;  // NaN stays
        }
        *(Pack<L>*)(y + place(k)) = v;
    });
}
extern "C" __global__ void forward_apply(const T* x, const T* residual, T* y, const T* mean, const T* var, const T* weight,
                                         const T* bias, double eps, long long pixels, long long channels, long long K,
                                         long long lanes, bool relu) {
    #define APPLY(L) { \
        Place<L> at(pixels, channels); \
        Channels<L> of(at, channels, K, mean, var, weight, bias, eps); \
        normalise<L>(x, residual, y, channels, of, at, relu); \
    }
    if (lanes == 1) APPLY(1) else APPLY(LANES)
    #undef APPLY
}

// ---------------------------------------------------------------- backward

// Sums of gy and gy * (x - mean), of what passes; gr, if there is one, keeps what passes.
template <int L, int PASSES>
__device__ void sum_gradients(const T* gy, const T* x, const T* y, T* gr, double* partial, long long channels, Channels<L> of,
                              Place<L> at) {
    auto place = [&](long long pixel) { return pixel * channels + at.channel; };
    column_sums<L>(at, channels, partial, [&](long long pixel) {
        long long i = place(pixel);
        return Triple<L>{read<L>(gy, i), read<L>(x, i), PASSES == READ ? read<L>(y, i) : Pack<L>()};
    }, [&](long long pixel, Triple<L> of_pixel, T* s, T* q) {
        Pack<L> g = of_pixel.a, v = of_pixel.b, r = of_pixel.c;
        for (int l = 0; l < L; l++) {
            if (PASSES == COMPUTED) r.v[l] = of.value(l, v.v[l]);
            if (PASSES != ALL && r.v[l] <= 0) g.v[l] = 0;
            s[l] += g.v[l], q[l] += g.v[l] * (v.v[l] - of.center[l]);
        }
        if (PASSES == READ) *(Pack<L>*)(gr + place(pixel)) = g;
    });
}
extern "C" __global__ void backward_sums(const T* gy, const T* x, const T* y, T* gr, double* partial, const T* mean,
                                         const T* var, const T* weight, const T* bias, double eps, long long pixels,
                                         long long channels, long long K, long long lanes, long long passes) {
    #define SUM(L) { \
        Place<L> at(pixels, channels); \
        Channels<L> of(at, channels, K, mean, var, weight, bias, eps); \
        if (passes == ALL) sum_gradients<L, ALL>(gy, x, y, gr, partial, channels, of, at); \
        else if (passes == COMPUTED) sum_gradients<L, COMPUTED>(gy, x, y, gr, partial, channels, of, at); \
        else sum_gradients<L, READ>(gy, x, y, gr, partial, channels, of, at); \
    }
    if (lanes == 1) SUM(1) else SUM(LANES)
}

// A block for each group, and a warp of it for each channel: gw and gb (pieces, channels), and the group's slope and offset
// in gx = gy * scale + (x - center) * slope + offset.
extern "C" __global__ void join_gradients(const double* partial, const T* var, const T* weight, double eps, T* gw, T* gb,
                                          T* slope, T* offset, long long pixels, long long channels, long long K,
                                          long long splits) {
    long long groups = channels / K, piece = blockIdx.x / groups, first = blockIdx.x % groups * K;
    double istd = 1 / sqrt(double(var[blockIdx.x]) + eps), of_g = 0, of_gx = 0;
    for (long long c = first + warp_index(); c < first + K; c += blockDim.x / WARP) {
        const double *s = partial + (piece * 2 * channels + c) * splits, *q = s + channels * splits;
        double total = row_sum<double>(of_warp(), splits, [=](long long k) { return s[k]; });
        double product = row_sum<double>(of_warp(), splits, [=](long long k) { return q[k]; });
        if (lane_index() == 0) {
            gb[piece * channels + c] = T(total), gw[piece * channels + c] = T(product * istd);
            of_g += total * (weight ? weight[c] : T(1)), of_gx += product * (weight ? weight[c] : T(1));
        }
    }
    of_g = of_block().sum(of_g), of_gx = of_block().sum(of_gx);
    double share = -1.0 / (double(pixels) * K);
    if (threadIdx.x == 0) {
        offset[blockIdx.x] = T(of_g * istd * share);
        slope[blockIdx.x] = T(of_gx * istd * istd * istd * share);
    }
}

template <int L, int PASSES>
__device__ void gradient(const T* gy, const T* x, T* gx, const T* slopes, const T* offsets, long long channels, long long K,
                         Channels<L> of, Place<L> at) {
    T slope[L], offset[L];
    for (int l = 0; l < L; l++) {
        long long group = at.piece * (channels / K) + (at.channel + l) / K;
        slope[l] = slopes && at.count ? slopes[group] : T(0), offset[l] = slopes && at.count ? offsets[group] : T(0);
    }
    auto place = [&](long long k) { return (at.first + k * at.step) * channels + at.channel; };
    in_batches(at.count, [&](long long k) {
        return Pair<L>{read<L>(gy, place(k)), slopes || PASSES != ALL ? read<L>(x, place(k)) : Pack<L>()};
    }, [&](long long k, Pair<L> of_k) {
        Pack<L> g = of_k.a, v = of_k.b;
        for (int l = 0; l < L; l++) {
            if (PASSES != ALL && of.value(l, v.v[l]) <= 0) g.v[l] = 0;
            g.v[l] *= of.scale[l];
            if (slopes) g.v[l] += (v.v[l] - of.center[l]) * slope[l] + offset[l];
        }
        *(Pack<L>*)(gx + place(k)) = g;
    });
}
extern "C" __global__ void backward_apply(const T* gy, const T* x, T* gx, const T* mean, const T* var, const T* weight,
                                          const T* bias, const T* slope, const T* offset, double eps, long long pixels,
                                          long long channels, long long K, long long lanes, long long passes) {
    #define APPLY(L) { \
        Place<L> at(pixels, channels); \
        Channels<L> of(at, channels, K, mean, var, weight, bias, eps); \
        if (passes == ALL) gradient<L, ALL>(gy, x, gx, slope, offset, channels, K, of, at); \
        else gradient<L, COMPUTED>(gy, x, gx, slope, offset, channels, K, of, at); \
    }
    if (lanes == 1) APPLY(1) else APPLY(LANES)
}

// (rows, columns) summed over the rows, in order: a warp for each column.
extern "C" __global__ void add_pieces(const T* x, T* y, long long rows, long long columns) {
    long long c = first_index() / WARP;
    if (c >= columns) return;
    double total = row_sum<double>(of_warp(), rows, [=](long long k) { return double(x[k * columns + c]); });
    if (lane_index() == 0) y[c] = T(total);
}

// ---------------------------------------------------------------- one pixel: each group of K channels is a row

extern "C" __global__ void forward_rows(long long rows, long long K, const T* x, T* y, const T* weight, const T* bias,
                                        double eps, long long groups, T* mean, T* var) {
    for_rows(rows, K, [=](long long row, Team team) {
        const T* r = x + row * K;
        T* o = y + row * K;
        long long c = row % groups * K;
        T first = r[0], share = T(1) / T(K);
        T m = first + row_sum<T>(team, K, [=](long long k) { return r[k] - first; }) * share;
        T v = row_sum<T>(team, K, [=](long long k) { return (r[k] - m) * (r[k] - m); }) * share;
        T istd = inverse_std(v, eps);
        fill_row(team, K, o, [=](long long k) {
            return (r[k] - m) * istd * (weight ? weight[c + k] : T(1)) + (bias ? bias[c + k] : T(0));
        });
        if (team.rank == 0) mean[row] = m, var[row] = v;
    });
}

extern "C" __global__ void backward_rows(long long rows, long long K, const T* gy, const T* x, T* gx, const T* mean,
                                         const T* var, const T* weight, double eps, long long groups) {
    for_rows(rows, K, [=](long long row, Team team) {
        const T *r = x + row * K, *g = gy + row * K, *w = weight ? weight + row % groups * K : weight;
        T* o = gx + row * K;
        T m = mean[row], istd = inverse_std(var[row], eps), share = T(1) / T(K);
        T of_g = row_sum<T>(team, K, [=](long long k) { return g[k] * (w ? w[k] : T(1)); }) * share;
        T of_gx = row_sum<T>(team, K, [=](long long k) { return g[k] * (w ? w[k] : T(1)) * ((r[k] - m) * istd); }) * share;
        fill_row(team, K, o, [=](long long k) { return (g[k] * (w ? w[k] : T(1)) - of_g - (r[k] - m) * istd * of_gx) * istd; });
    });
}

// Sums of gy and gy * xhat down the rows.
template <int L>
__device__ void sum_rows(const T* gy, const T* x, double* partial, const T* mean, const T* var, double eps, long long rows,
                         long long channels, long long K) {
    Place<L> at(rows, channels);
    long long groups = channels / K;
    column_sums<L>(at, channels, partial, [&](long long row) {
        long long i = row * channels + at.channel;
        return Pair<L>{read<L>(gy, i), read<L>(x, i)};
    }, [&](long long row, Pair<L> of_row, T* s, T* q) {
        for (int l = 0; l < L; l++) {
            long long group = row * groups + (at.channel + l) / K;
            T g = of_row.a.v[l];
            s[l] += g, q[l] += g * ((of_row.b.v[l] - mean[group]) / sqrt(var[group] + T(eps)));
        }
    });
}
extern "C" __global__ void __launch_bounds__(256, 2)
backward_row_sums(const T* gy, const T* x, double* partial, const T* mean, const T* var, double eps, long long rows,
                  long long channels, long long K, long long lanes) {
    if (lanes == 1) sum_rows<1>(gy, x, partial, mean, var, eps, rows, channels, K);
    else sum_rows<LANES>(gy, x, partial, mean, var, eps, rows, channels, K);
}

// gb and gw from the sums of all splits: a warp for each channel.
extern "C" __global__ void join_rows(const double* partial, T* gw, T* gb, long long channels, long long splits) {
    long long c = first_index() / WARP;
    if (c >= channels) return;
    const double *s = partial + c * splits, *q = s + channels * splits;
    double total = row_sum<double>(of_warp(), splits, [=](long long k) { return s[k]; });
    double product = row_sum<double>(of_warp(), splits, [=](long long k) { return q[k]; });
    if (lane_index() == 0) gb[c] = T(total), gw[c] = T(product);
}
"""
