"""The CUDA text in front of every source: what kernels of all families share. T is float or double.

Names of C (exp, log, tanh, sqrt, fma, ...) take both types already. Sums of a warp and of a block are added in an order that
does not change from run to run. The tensor core's product and the copies past the registers are PTX instructions; the text has
a second version of them in C++ for the tests, which run kernels on the CPU (EMULATED).
"""

PRELUDE = r"""
typedef T_NAME T;  // not a macro: CUDA's own headers have templates of a T
#define WARP 32
#define ALL_LANES 0xffffffffu

// ---- indices: a kernel over `size` elements is  for (long long i = first_index(); i < size; i += index_step())

__device__ __forceinline__ long long first_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ long long index_step() { return (long long)gridDim.x * blockDim.x; }
__device__ __forceinline__ int lane_index() { return threadIdx.x % WARP; }  // of the thread in its warp
__device__ __forceinline__ int warp_index() { return threadIdx.x / WARP; }  // of the warp in its block

// ---- numbers

__device__ __forceinline__ T infinity() { return (T)__int_as_float(0x7f800000); }
__device__ __forceinline__ T nan_value() { return (T)__int_as_float(0x7fc00000); }

// The larger one; NaN when either is NaN, as in NumPy (CUDA's fmax prefers the number).
template <typename V> __device__ __forceinline__ V maximum(V a, V b) { return a > b || a != a ? a : b; }
template <typename V> __device__ __forceinline__ V minimum(V a, V b) { return a < b || a != a ? a : b; }

// ---- sums over threads: every thread gets the result. blockDim.x is a multiple of 32, blockDim.y = blockDim.z = 1.

template <typename V> __device__ __forceinline__ V warp_sum(V value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

template <typename V> __device__ __forceinline__ V warp_max(V value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = maximum(value, __shfl_xor_sync(ALL_LANES, value, step));
    return value;
}

template <typename V> __device__ V block_sum(V value) {
    __shared__ V partial[WARP];
    value = warp_sum(value);
    __syncthreads();  // the sum before this one has been read
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    return warp_sum(lane_index() < blockDim.x / WARP ? partial[lane_index()] : V(0));
}

template <typename V> __device__ V block_max(V value) {
    __shared__ V partial[WARP];
    value = warp_max(value);
    __syncthreads();
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    return warp_max(partial[lane_index() < blockDim.x / WARP ? lane_index() : 0]);
}

// ---- the tensor core: a warp's product d += a b of (16, 8) by (8, 8) in TF32, added up in float.
// With g = lane / 4 and t = lane % 4 a lane holds a = {A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]},
// b = {B[t][g], B[t + 4][g]} and d = {D[g][2 t], D[g][2 t + 1], D[g + 8][2 t], D[g + 8][2 t + 1]}.

#ifndef EMULATED
__device__ __forceinline__ unsigned to_tf32(float x) {  // 10 bits of fraction, to nearest
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
__device__ unsigned to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

__device__ void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    struct Held { unsigned a[4], b[2]; } held = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const Held* lanes = (const Held*)emulator_exchange(ALL_LANES, &held, sizeof held);
    const int g = lane_index() / 4, t = lane_index() % 4;
    for (int i = 0; i < 4; i++) {
        const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        float sum = d[i];
        for (int k = 0; k < 8; k++)
            sum += __uint_as_float(lanes[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)] & 0xffffe000u) *
                   __uint_as_float(lanes[column * 4 + k % 4].b[k / 4] & 0xffffe000u);
        d[i] = sum;
    }
}
#endif

// ---- copies from global to shared memory that go on while the thread computes. BYTES is 4, 8 or 16, and both ends are
// multiples of it. Where `valid` is false zeros are written and `from` is not read. All copies since the last
// copy_async_commit() are one group; copy_async_wait<N>() waits until at most N groups are under way; after it
// __syncthreads() shows them to others.

template <int BYTES> __device__ __forceinline__ void copy_async(void* to, const void* from, bool valid = true) {
#ifndef EMULATED
    const unsigned target = (unsigned)__cvta_generic_to_shared(to);
    const int count = valid ? BYTES : 0;
    if (BYTES == 16)  // past the first-level cache
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(count) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(from), "n"(BYTES), "r"(count)
                     : "memory");
#else
    emulator_copy_async(to, valid ? from : nullptr, BYTES);
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#ifndef EMULATED
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator_copy_async_commit();
#endif
}

template <int GROUPS> __device__ __forceinline__ void copy_async_wait() {
#ifndef EMULATED
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#else
    emulator_copy_async_wait(GROUPS);
#endif
}
"""
