// CUDA's words for a host compiler: `g++ -include cuda_shim.h` reads a file of kernels as it is.
// No standard header is included, so that names stay free as they are under NVRTC.
#pragma once
#include "run.h"

// -- qualifiers -----------------------------------------------------------------------------------
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#ifdef EMU_SCAN  // only the list of kernels is wanted
#define __global__ EMU_GLOBAL
#define __launch_bounds__(...) EMU_BOUNDS(__VA_ARGS__)
#else
#define __global__
#define __launch_bounds__(...)
#endif

// -- types ----------------------------------------------------------------------------------------
#define EMU_VECTORS(T, name, a1, a2, a4)                                                          \
  struct __align__(a1) name##1 { T x; };                                                          \
  struct __align__(a2) name##2 { T x, y; };                                                       \
  struct name##3 { T x, y, z; };                                                                  \
  struct __align__(a4) name##4 { T x, y, z, w; };                                                 \
  static inline name##1 make_##name##1(T x) { return {x}; }                                       \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                               \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                       \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char, 1, 2, 4)
EMU_VECTORS(unsigned char, uchar, 1, 2, 4)
EMU_VECTORS(short, short, 2, 4, 8)
EMU_VECTORS(unsigned short, ushort, 2, 4, 8)
EMU_VECTORS(int, int, 4, 8, 16)
EMU_VECTORS(unsigned, uint, 4, 8, 16)
EMU_VECTORS(long long, longlong, 8, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 8, 16, 16)
EMU_VECTORS(float, float, 4, 8, 16)
EMU_VECTORS(double, double, 8, 16, 16)
#undef EMU_VECTORS
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// -- where a thread is ----------------------------------------------------------------------------
__attribute__((unused)) static uint3 threadIdx, blockIdx;
__attribute__((unused)) static dim3 blockDim, gridDim;
static const int warpSize = 32;
static emu_run* emu_now;
static inline unsigned emu_lane() { return emu_now->current % 32; }

// -- barriers and exchanges: other threads run meanwhile, then this one is in its place again -----
template <typename F> static inline auto emu_apart(F f) {
  const uint3 index = threadIdx;
  emu_run* const run = emu_now;
  const unsigned current = run->current;
  auto value = f(run);
  threadIdx = index;
  run->current = current;
  return value;
}
static inline unsigned emu_block_vote(emu_vote vote, unsigned value) {
  return emu_apart([&](emu_run* run) { return emu_barrier(run, vote, value); });
}
static inline emu_u64 emu_exchanged(emu_exchange what, unsigned mask, emu_u64 value,
                                    unsigned source) {
  return emu_apart([&](emu_run* run) { return emu_warp(run, what, mask, value, source); });
}
static inline void __syncthreads() { emu_block_vote(EMU_COUNT, 0); }
static inline int __syncthreads_count(int p) { return emu_block_vote(EMU_COUNT, p != 0); }
static inline int __syncthreads_and(int p) { return emu_block_vote(EMU_AND, p != 0); }
static inline int __syncthreads_or(int p) { return emu_block_vote(EMU_OR, p != 0); }
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emu_exchanged(EMU_SYNC, mask, 0, 0); }
static inline unsigned __ballot_sync(unsigned mask, int p) {
  return (unsigned)emu_exchanged(EMU_BALLOT, mask, p != 0, 0);
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
static inline unsigned __activemask() {
  emu_fail(emu_now, "__activemask() is not what a warp has in common: give masks by hand");
  return 0;
}

template <typename T> static inline T emu_shuffled(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  emu_u64 bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = emu_exchanged(EMU_SHUFFLE, mask, bits, source);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T> static inline T __shfl_sync(unsigned m, T v, int lane, int width = 32) {
  return emu_shuffled(m, v, (emu_lane() & ~(width - 1u)) | (lane & (width - 1u)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned m, T v, int bits, int width = 32) {
  const unsigned lane = emu_lane(), other = lane ^ (unsigned)bits;
  return emu_shuffled(m, v, other < ((lane & ~(width - 1u)) + width) ? other : lane);
}
template <typename T> static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) {
  const unsigned lane = emu_lane();
  return emu_shuffled(m, v, (lane & (w - 1u)) + d < (unsigned)w ? lane + d : lane);
}
template <typename T> static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) {
  const unsigned lane = emu_lane();
  return emu_shuffled(m, v, (lane & (w - 1u)) >= d ? lane - d : lane);
}
static inline unsigned __reduce_add_sync(unsigned m, unsigned v) {
  return (unsigned)emu_exchanged(EMU_ADD, m, v, 0);
}
static inline unsigned __reduce_min_sync(unsigned m, unsigned v) {
  return (unsigned)emu_exchanged(EMU_MIN, m, v, 0);
}
static inline unsigned __reduce_max_sync(unsigned m, unsigned v) {
  return (unsigned)emu_exchanged(EMU_MAX, m, v, 0);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __trap() { emu_fail(emu_now, "__trap()"); }
static inline void __nanosleep(unsigned) {}

// -- atomics: one thread runs at a time -----------------------------------------------------------
#define EMU_ATOMIC(name, T, expression)                                                           \
  static inline T name(T* address, T value) {                                                     \
    const T old = *address;                                                                       \
    *address = (T)(expression);                                                                   \
    return old;                                                                                   \
  }
#define EMU_ATOMICS(T)                                                                            \
  EMU_ATOMIC(atomicAdd, T, old + value)                                                           \
  EMU_ATOMIC(atomicExch, T, value)                                                                \
  EMU_ATOMIC(atomicMin, T, value < old ? value : old)                                             \
  EMU_ATOMIC(atomicMax, T, value > old ? value : old)                                             \
  EMU_ATOMIC(atomicAnd, T, old & value)                                                           \
  EMU_ATOMIC(atomicOr, T, old | value)                                                            \
  EMU_ATOMIC(atomicXor, T, old ^ value)
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicMin, long long, value < old ? value : old)
EMU_ATOMIC(atomicMax, long long, value > old ? value : old)
EMU_ATOMIC(atomicAdd, float, old + value)
EMU_ATOMIC(atomicAdd, double, old + value)
EMU_ATOMIC(atomicExch, float, value)
EMU_ATOMIC(atomicSub, int, old - value)
EMU_ATOMIC(atomicSub, unsigned, old - value)
EMU_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMU_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)
#undef EMU_ATOMICS
#undef EMU_ATOMIC
#define EMU_CAS(T)                                                                                \
  static inline T atomicCAS(T* address, T expected, T value) {                                    \
    const T old = *address;                                                                       \
    if (old == expected) *address = value;                                                        \
    return old;                                                                                   \
  }
EMU_CAS(int)
EMU_CAS(unsigned)
EMU_CAS(unsigned short)
EMU_CAS(unsigned long long)
#undef EMU_CAS

// -- bits and integers ----------------------------------------------------------------------------
template <typename To, typename From> static inline To emu_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  __builtin_memcpy(&to, &value, sizeof(To));
  return to;
}
static inline float __uint_as_float(unsigned v) { return emu_bits<float>(v); }
static inline float __int_as_float(int v) { return emu_bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return emu_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return emu_bits<int>(v); }
static inline double __longlong_as_double(long long v) { return emu_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return emu_bits<long long>(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (emu_u64)a * b >> 32; }
static inline int __mulhi(int a, int b) { return (long long)a * b >> 32; }
static inline emu_u64 __umul64hi(emu_u64 a, emu_u64 b) {
  return (emu_u64)((unsigned __int128)a * b >> 64);
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(emu_u64 v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((emu_u64)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1u) << (31 - i);
  return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) {
  return (unsigned)((((emu_u64)hi << 32 | lo) << (by & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) {
  return (unsigned)(((emu_u64)hi << 32 | lo) >> (by & 31));
}
template <typename T> static inline T __ldg(const T* p) { return *p; }
template <typename T> static inline T __ldcs(const T* p) { return *p; }
template <typename T> static inline T __ldcg(const T* p) { return *p; }
template <typename T> static inline void __stcs(T* p, T v) { *p = v; }
template <typename T> static inline void __stcg(T* p, T v) { *p = v; }

#define EMU_MINMAX(T)                                                                             \
  static inline T min(T a, T b) { return b < a ? b : a; }                                         \
  static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MINMAX(int)
EMU_MINMAX(unsigned)
EMU_MINMAX(long)
EMU_MINMAX(unsigned long)
EMU_MINMAX(long long)
EMU_MINMAX(unsigned long long)
#undef EMU_MINMAX

// -- mathematics ----------------------------------------------------------------------------------
#define EMU_MATH1(name)                                                                           \
  extern "C" float name##f(float) noexcept;                                                       \
  extern "C" double name(double) noexcept;                                                        \
  static inline float name(float x) { return name##f(x); }
#define EMU_MATH2(name)                                                                           \
  extern "C" float name##f(float, float) noexcept;                                                \
  extern "C" double name(double, double) noexcept;                                                \
  static inline float name(float x, float y) { return name##f(x, y); }
EMU_MATH1(sqrt) EMU_MATH1(exp) EMU_MATH1(exp2) EMU_MATH1(expm1) EMU_MATH1(log) EMU_MATH1(log2)
EMU_MATH1(log10) EMU_MATH1(log1p) EMU_MATH1(sin) EMU_MATH1(cos) EMU_MATH1(tan) EMU_MATH1(asin)
EMU_MATH1(acos) EMU_MATH1(atan) EMU_MATH1(sinh) EMU_MATH1(cosh) EMU_MATH1(tanh) EMU_MATH1(erf)
EMU_MATH1(erfc) EMU_MATH1(fabs) EMU_MATH1(floor) EMU_MATH1(ceil) EMU_MATH1(trunc) EMU_MATH1(rint)
EMU_MATH1(round) EMU_MATH1(nearbyint) EMU_MATH1(cbrt) EMU_MATH1(lgamma) EMU_MATH1(tgamma)
EMU_MATH2(pow) EMU_MATH2(fmod) EMU_MATH2(fmin) EMU_MATH2(fmax) EMU_MATH2(atan2) EMU_MATH2(copysign)
EMU_MATH2(hypot) EMU_MATH2(fdim) EMU_MATH2(nextafter)
#undef EMU_MATH1
#undef EMU_MATH2
extern "C" float fmaf(float, float, float) noexcept;
extern "C" double fma(double, double, double) noexcept;
extern "C" int abs(int) noexcept;
extern "C" int printf(const char*, ...);
extern "C" void sincosf(float, float*, float*) noexcept;
extern "C" void* memcpy(void*, const void*, unsigned long) noexcept;
extern "C" void* memset(void*, int, unsigned long) noexcept;
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline bool isnan(float x) { return __builtin_isnan(x); }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __expf(float x) { return expf(x); }
static inline float __exp10f(float x) { return powf(10.0f, x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline void __sincosf(float x, float* s, float* c) { sincosf(x, s, c); }
static inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * x); }
static inline float cospif(float x) { return (float)cos(3.14159265358979323846 * x); }
static inline void sincospif(float x, float* s, float* c) { *s = sinpif(x); *c = cospif(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __tanhf(float x) { return tanhf(x); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
// CUDA: 0 for a denominator of 2^126 and more.
static inline float __fdividef(float a, float b) {
  return fabsf(b) > 0x1p126f && fabsf(b) <= 0x1.fffffep127f ? a / b * 0.0f : a / b;
}
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }

// -- what the launcher needs of a kernel ----------------------------------------------------------
template <typename T> struct emu_name { static constexpr char kind = 's'; };
#define EMU_NAME(T, k) template <> struct emu_name<T> { static constexpr char kind = k; };
EMU_NAME(bool, 'b') EMU_NAME(char, 'i') EMU_NAME(signed char, 'i') EMU_NAME(unsigned char, 'u')
EMU_NAME(short, 'i') EMU_NAME(unsigned short, 'u') EMU_NAME(int, 'i') EMU_NAME(unsigned, 'u')
EMU_NAME(long, 'i') EMU_NAME(unsigned long, 'u') EMU_NAME(long long, 'i')
EMU_NAME(unsigned long long, 'u') EMU_NAME(float, 'f') EMU_NAME(double, 'f') EMU_NAME(void, 'v')
#undef EMU_NAME
// Kind, size, and of pointers: 1 where what they point at is constant, kind and size of that.
struct emu_parameter { char kind; char constant; char element; unsigned size, element_size; };
template <typename T> struct emu_describe {
  static constexpr emu_parameter value{emu_name<T>::kind, 0, 0, sizeof(T), 0};
};
template <typename T> struct emu_size { static constexpr unsigned value = sizeof(T); };
template <> struct emu_size<void> { static constexpr unsigned value = 1; };
template <typename T> struct emu_describe<T*> {
  static constexpr emu_parameter value{'p', 0, emu_name<T>::kind, 8, emu_size<T>::value};
};
template <typename T> struct emu_describe<const T*> {
  static constexpr emu_parameter value{'p', 1, emu_name<T>::kind, 8, emu_size<T>::value};
};

template <int... I> struct emu_list {};
template <int N, int... I> struct emu_count : emu_count<N - 1, N - 1, I...> {};
template <int... I> struct emu_count<0, I...> { typedef emu_list<I...> type; };

template <auto F> struct emu_kernel;
template <typename... A, void (*F)(A...)> struct emu_kernel<F> {
  static constexpr int size = sizeof...(A);
  static constexpr emu_parameter parameters[size + 1] = {emu_describe<A>::value..., {}};

  template <int... I> static void work(emu_run* run, emu_list<I...>) {
    const unsigned width = run->block.x, height = run->block.y;
    while (run->next < run->count) {
      const unsigned t = run->backwards ? run->count - 1 - run->next : run->next;
      ++run->next;
      run->current = t;
      threadIdx.x = t % width;
      threadIdx.y = t / width % height;
      threadIdx.z = t / width / height;
      F(*(A*)run->args[I]...);
      run->warp_done[t / 32] |= 1u << t % 32;
      ++run->done;
    }
  }
  static void threads(emu_run* run) { work(run, typename emu_count<size>::type()); }
  static void place(const emu_index* block) {
    blockIdx.x = block->x;
    blockIdx.y = block->y;
    blockIdx.z = block->z;
  }
  static int launch(emu_run* run) {
    emu_now = run;
    gridDim = dim3(run->grid.x, run->grid.y, run->grid.z);
    blockDim = dim3(run->block.x, run->block.y, run->block.z);
    run->threads = threads;
    run->place = place;
    return emu_launch(run);
  }
};
