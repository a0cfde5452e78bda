// CUDA C as C++: what a kernel's text needs to compile and run on the CPU. Threads of a block are coroutines (cuda_emulator.cpp).
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <cmath>

#define __global__ __attribute__((visibility("default"), noinline))
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define UNCHECKED __attribute__((no_sanitize_address))

struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(16) double4 { double x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(2) uchar2 { unsigned char x, y; };
struct alignas(16) longlong2 { long long x, y; };
typedef uint3 dim3;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline double4 make_double4(double x, double y, double z, double w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }

// ---- the run time

extern "C" {
uint3 emulator_thread() __attribute__((const));
uint3 emulator_block() __attribute__((const));
uint3 emulator_block_size() __attribute__((const));
uint3 emulator_grid_size() __attribute__((const));
void* emulator_dynamic_shared() __attribute__((const));
int emulator_lane() __attribute__((const));
void emulator_barrier();
const void* emulator_exchange(unsigned mask, const void* value, int size);  // everyone's values, sizeof(value) apart
void emulator_copy_async(void* to, const void* from, int size);
void emulator_copy_async_commit();
void emulator_copy_async_wait(int groups);
void emulator_fence();
void emulator_check(const void* place, int size, int writes);  // bounds only
void emulator_trap(const char* message);
}
#define threadIdx (emulator_thread())
#define blockIdx (emulator_block())
#define blockDim (emulator_block_size())
#define gridDim (emulator_grid_size())
#define warpSize 32

static inline void __syncthreads() { emulator_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { char nothing = 0; emulator_exchange(mask, &nothing, 1); }
static inline void __threadfence() { emulator_fence(); }
static inline void __threadfence_block() {}
static inline void __trap() { emulator_trap("__trap()"); }

template <typename V> static UNCHECKED V emulator_from(unsigned mask, V value, int lane) {
    V result;
    memcpy(&result, (const char*)emulator_exchange(mask, &value, sizeof(V)) + sizeof(V) * lane, sizeof(V));
    return result;
}
template <typename V> static V __shfl_sync(unsigned mask, V value, int lane, int width = 32) {
    const int self = emulator_lane();
    return emulator_from(mask, value, (self & ~(width - 1)) | (lane & (width - 1)));
}
template <typename V> static V __shfl_xor_sync(unsigned mask, V value, int change, int width = 32) {
    const int self = emulator_lane(), other = self ^ change;
    return emulator_from(mask, value, (other & ~(width - 1)) > (self & ~(width - 1)) ? self : other);
}
template <typename V> static V __shfl_up_sync(unsigned mask, V value, int change, int width = 32) {
    const int self = emulator_lane(), other = self - change;
    return emulator_from(mask, value, other < (self & ~(width - 1)) ? self : other);
}
template <typename V> static V __shfl_down_sync(unsigned mask, V value, int change, int width = 32) {
    const int self = emulator_lane(), other = self + change;
    return emulator_from(mask, value, other > (self | (width - 1)) ? self : other);
}
static UNCHECKED inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const int yes = predicate != 0;
    const int* all = (const int*)emulator_exchange(mask, &yes, sizeof yes);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        if ((mask >> lane & 1) && all[lane]) result |= 1u << lane;
    return result;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// A shared variable is declared as  static T x_in_shared[32]; auto& x = emulator_place(x_in_shared);  (emulator.py does it): not
// knowing where x lies the compiler has every access checked.
template <typename V> static inline V& emulator_place(V& variable) {
    V* place = &variable;
    asm("" : "+r"(place));
    return *place;
}

// ---- loads, stores, atomics

template <typename V> static inline V __ldg(const V* place) { return *place; }
template <typename V> static inline V __ldcs(const V* place) { return *place; }
template <typename V> static inline V __ldcg(const V* place) { return *place; }
template <typename V> static inline V __ldca(const V* place) { return *place; }
template <typename V> static inline void __stcs(V* place, V value) { *place = value; }
template <typename V> static inline void __stcg(V* place, V value) { *place = value; }

#define ATOMIC(name, expression)                                                            \
    template <typename V, typename U> static UNCHECKED __noinline__ V name(V* place, U given) { \
        emulator_check(place, sizeof(V), 1);                                                \
        const V old = *place, value = (V)given;                                             \
        *place = expression;                                                                \
        return old;                                                                         \
    }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicExch, value)
ATOMIC(atomicMax, old > value ? old : value)
ATOMIC(atomicMin, old < value ? old : value)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicAnd, old & value)
ATOMIC(atomicInc, old >= value ? 0 : old + 1)
template <typename V, typename U, typename W> static UNCHECKED __noinline__ V atomicCAS(V* place, U expected, W value) {
    emulator_check(place, sizeof(V), 1);
    const V old = *place;
    if (old == (V)expected) *place = (V)value;
    return old;
}

// ---- numbers

template <typename To, typename From> static UNCHECKED inline To emulator_bits(From from) {
    To to;
    static_assert(sizeof(To) == sizeof(From), "");
    memcpy(&to, &from, sizeof(To));
    return to;
}
static inline int __float_as_int(float x) { return emulator_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emulator_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
static inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
#define __expf expf
#define __logf logf
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __log2f log2f
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline long long min(long long a, int b) { return a < b ? a : b; }
static inline long long min(int a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, int b) { return a > b ? a : b; }
static inline long long max(int a, long long b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
using std::abs; using std::exp; using std::log; using std::tanh; using std::sqrt; using std::fma; using std::erf; using std::pow;
using std::expm1; using std::log1p; using std::floor; using std::ceil; using std::fmax; using std::fmin; using std::fabs;
using std::isnan; using std::isinf; using std::isfinite; using std::cosh; using std::sinh; using std::copysign; using std::exp2;
using std::cos; using std::sin; using std::round; using std::trunc; using std::cbrt; using std::hypot; using std::fmod;
using std::signbit; using std::log2; using std::nearbyint; using std::rint;
