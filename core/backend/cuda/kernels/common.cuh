// What all kernels share. It stands before every file of kernels, without any #include, so that
// NVRTC needs no headers. A host compiler (g++ with a shim for threadIdx and the like) takes the
// same text; `__CUDACC__` tells which one reads it.
//
// Conventions
// * Storage types: float, float16, bfloat16. Arithmetic is float's; a result is rounded once, to
//   the nearest even.
// * Sizes and offsets are int64 (tensors may have more than 2^31 elements).
// * Sums are taken in an order that depends on shapes alone: the same bits in every run. No kernel
//   adds floats by atomics.
// * KERNEL(threads) or KERNEL(threads, blocks) begins a kernel: its largest block, and how many of
//   them must find room on a multiprocessor, which bounds the registers.

typedef long long int64;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef unsigned char uint8;

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

#define INLINE __device__ __forceinline__
#define DEVICE static INLINE
#define KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)

// M(type, suffix) for every floating type that kernels serve; the suffix is the NumPy name's. TYPES
// says which types are wanted (1 float, 2 float16, 4 bfloat16): a program mostly uses one or two.
#ifndef TYPES
#define TYPES 7
#endif
#if TYPES & 1
#define IF_FLOAT(code) code
#else
#define IF_FLOAT(code)
#endif
#if TYPES & 2
#define IF_FLOAT16(code) code
#else
#define IF_FLOAT16(code)
#endif
#if TYPES & 4
#define IF_BFLOAT16(code) code
#else
#define IF_BFLOAT16(code)
#endif
#define FOR_EACH_FLOAT(M) \
  IF_FLOAT(M(float, f4)) IF_FLOAT16(M(float16, f2)) IF_BFLOAT16(M(bfloat16, b2))

// -- bits -----------------------------------------------------------------------------------------
#ifdef __CUDACC__
DEVICE float float_of_bits(uint32 bits) { return __uint_as_float(bits); }
DEVICE uint32 bits_of_float(float value) { return __float_as_uint(value); }
#else
DEVICE float float_of_bits(uint32 bits) { float f; __builtin_memcpy(&f, &bits, 4); return f; }
DEVICE uint32 bits_of_float(float value) { uint32 b; __builtin_memcpy(&b, &value, 4); return b; }
#endif
#define INF float_of_bits(0x7F800000u)

// -- float16, bfloat16 and float ------------------------------------------------------------------
#ifdef __CUDACC__
DEVICE float half_to_float(uint32 bits) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)bits));
  return f;
}
// Two values in one register, the first in the lower half: one instruction for both.
DEVICE uint32 floats_to_halves(float low, float high) {
  uint32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
DEVICE uint32 floats_to_bfloats(float low, float high) {
  uint32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
DEVICE uint32 float_to_half(float value) { return floats_to_halves(value, 0.0f) & 0xFFFFu; }
DEVICE uint32 float_to_bfloat(float value) { return floats_to_bfloats(value, 0.0f) & 0xFFFFu; }
#else
DEVICE float half_to_float(uint32 bits) {
  uint32 sign = (bits & 0x8000u) << 16, rest = bits & 0x7FFFu;
  if (rest >= 0x7C00u) return float_of_bits(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
  float size = rest < 0x400u ? (float)rest * 0x1p-24f : float_of_bits((rest << 13) + 0x38000000u);
  return sign ? -size : size;
}
DEVICE uint32 float_to_half(float value) {
  uint32 bits = bits_of_float(value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
  if (rest > 0x7F800000u) return 0x7FFFu;  // NaN, as the GPU spells it
  if (rest >= 0x477FF000u) return sign | 0x7C00u;  // 65520 and more round to infinity
  if (rest < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the rounded steps of 2^-24
    float steps = float_of_bits(rest) + 0.5f;
    return sign | (bits_of_float(steps) - 0x3F000000u);
  }
  return sign | (rest - 0x38000000u + 0xFFFu + (rest >> 13 & 1u)) >> 13;
}
DEVICE uint32 float_to_bfloat(float value) {
  uint32 bits = bits_of_float(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFu;
  return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}
DEVICE uint32 floats_to_halves(float low, float high) {
  return float_to_half(low) | float_to_half(high) << 16;
}
DEVICE uint32 floats_to_bfloats(float low, float high) {
  return float_to_bfloat(low) | float_to_bfloat(high) << 16;
}
#endif

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(float16 x) { return half_to_float(x.bits); }
DEVICE float to_float(bfloat16 x) { return float_of_bits((uint32)x.bits << 16); }

template <typename T> INLINE T from_float(float x);
template <> INLINE float from_float<float>(float x) { return x; }
template <> INLINE float16 from_float<float16>(float x) {
  float16 y;
  y.bits = (unsigned short)float_to_half(x);
  return y;
}
template <> INLINE bfloat16 from_float<bfloat16>(float x) {
  bfloat16 y;
  y.bits = (unsigned short)float_to_bfloat(x);
  return y;
}

// -- 16 bytes at a time ---------------------------------------------------------------------------
// LANES<T>::N values make 16 bytes, the widest access of a thread. Addresses must be multiples
// of 16.
template <typename T> struct LANES { static const int N = 16 / sizeof(T); };

DEVICE bool aligned16(const void* p) { return ((uint64)p & 15) == 0; }

DEVICE void unpack(const uint4& raw, float (&v)[4]) {
  v[0] = float_of_bits(raw.x); v[1] = float_of_bits(raw.y);
  v[2] = float_of_bits(raw.z); v[3] = float_of_bits(raw.w);
}
DEVICE void load16(const float* p, float (&v)[4]) { unpack(*(const uint4*)p, v); }
DEVICE void load16(const float16* p, float (&v)[8]) {
  uint4 raw = *(const uint4*)p;
  const uint32 pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v[2 * j] = half_to_float(pairs[j] & 0xFFFFu);
    v[2 * j + 1] = half_to_float(pairs[j] >> 16);
  }
}
DEVICE void load16(const bfloat16* p, float (&v)[8]) {
  uint4 raw = *(const uint4*)p;
  const uint32 pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v[2 * j] = float_of_bits(pairs[j] << 16);
    v[2 * j + 1] = float_of_bits(pairs[j] & 0xFFFF0000u);
  }
}
DEVICE void store16(float* p, const float (&v)[4]) {
  uint4 raw;
  raw.x = bits_of_float(v[0]); raw.y = bits_of_float(v[1]);
  raw.z = bits_of_float(v[2]); raw.w = bits_of_float(v[3]);
  *(uint4*)p = raw;
}
DEVICE void store16(float16* p, const float (&v)[8]) {
  uint4 raw;
  raw.x = floats_to_halves(v[0], v[1]); raw.y = floats_to_halves(v[2], v[3]);
  raw.z = floats_to_halves(v[4], v[5]); raw.w = floats_to_halves(v[6], v[7]);
  *(uint4*)p = raw;
}
DEVICE void store16(bfloat16* p, const float (&v)[8]) {
  uint4 raw;
  raw.x = floats_to_bfloats(v[0], v[1]); raw.y = floats_to_bfloats(v[2], v[3]);
  raw.z = floats_to_bfloats(v[4], v[5]); raw.w = floats_to_bfloats(v[6], v[7]);
  *(uint4*)p = raw;
}

// V values at p, where V is 1 or LANES<T>::N.
template <int V> struct Wide {
  template <typename T> DEVICE void load(const T* p, float (&v)[V]) { load16(p, v); }
  template <typename T> DEVICE void store(T* p, const float (&v)[V]) { store16(p, v); }
};
template <> struct Wide<1> {
  template <typename T> DEVICE void load(const T* p, float (&v)[1]) { v[0] = to_float(*p); }
  template <typename T> DEVICE void store(T* p, const float (&v)[1]) { *p = from_float<T>(v[0]); }
};

// V floats of parameters at p, or `otherwise` where there are none.
template <int V> DEVICE void load_floats(const float* p, float otherwise, float (&v)[V]) {
  if (!p) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = otherwise;
  } else if (V % 4 == 0) {
#pragma unroll
    for (int j = 0; j + 4 <= V; j += 4) {
      const uint4 raw = *(const uint4*)(p + j);
      v[j] = float_of_bits(raw.x);
      v[j + 1] = float_of_bits(raw.y);
      v[j + 2] = float_of_bits(raw.z);
      v[j + 3] = float_of_bits(raw.w);
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = p[j];
  }
}

// -- work of one thread ---------------------------------------------------------------------------
// Grid-stride loop: for (int64 i = first_item(); i < n; i += item_step()).
DEVICE int64 first_item() { return blockIdx.x * (int64)blockDim.x + threadIdx.x; }
DEVICE int64 item_step() { return gridDim.x * (int64)blockDim.x; }

// y[i] = f(a[i]) for n elements, 16 bytes at a time where all addresses allow it.
template <typename T, typename F>
DEVICE void map1(const T* __restrict__ a, T* __restrict__ y, int64 n, F f) {
  const int W = LANES<T>::N;
  int64 done = 0;
  if (aligned16(a) && aligned16(y)) {
    done = n / W * W;
    for (int64 i = first_item() * W; i < done; i += item_step() * W) {
      float u[W];
      load16(a + i, u);
#pragma unroll
      for (int j = 0; j < W; ++j) u[j] = f(u[j]);
      store16(y + i, u);
    }
  }
  for (int64 i = done + first_item(); i < n; i += item_step())
    y[i] = from_float<T>(f(to_float(a[i])));
}

// y[i] = f(a[i], b[i]) likewise.
template <typename T, typename F>
DEVICE void map2(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ y, int64 n,
                 F f) {
  const int W = LANES<T>::N;
  int64 done = 0;
  if (aligned16(a) && aligned16(b) && aligned16(y)) {
    done = n / W * W;
    for (int64 i = first_item() * W; i < done; i += item_step() * W) {
      float u[W], v[W];
      load16(a + i, u);
      load16(b + i, v);
#pragma unroll
      for (int j = 0; j < W; ++j) u[j] = f(u[j], v[j]);
      store16(y + i, u);
    }
  }
  for (int64 i = done + first_item(); i < n; i += item_step())
    y[i] = from_float<T>(f(to_float(a[i]), to_float(b[i])));
}

// -- arithmetic -----------------------------------------------------------------------------------
// a / b within 2 units in the last place; 0 where b is beyond 2^126.
DEVICE float quotient(float a, float b) {
#ifdef __CUDACC__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}
DEVICE bool is_nan(float x) { return x != x; }
DEVICE int64 smaller(int64 a, int64 b) { return a < b ? a : b; }
DEVICE int64 larger(int64 a, int64 b) { return a > b ? a : b; }

// -- sums over threads ----------------------------------------------------------------------------
const uint32 ALL_LANES = 0xFFFFFFFFu;
const int WARP = 32;

// The sum over the warp, in every lane of it.
DEVICE float warp_sum(float v) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(ALL_LANES, v, step);
  return v;
}

// The sum over the block (a multiple of 32 threads, one-dimensional), in every thread of it. May be
// called again at once: the first barrier keeps the calls apart.
DEVICE float block_sum(float v) {
  __shared__ float parts[WARP];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) parts[warp] = v;
  __syncthreads();
  return warp_sum(lane < (int)blockDim.x / WARP ? parts[lane] : 0.0f);
}

// A row of an array is the work of a team of `threads` = 32 (a warp) or 256 (a block) threads; blocks
// have 256. `for (int64 r = team.first(); r < rows; r += team.step())` is the same for all threads of
// a team, so that they may exchange values inside of it.
const int TEAM_BLOCK = 256;

struct Team {
  int threads;
  INLINE int rank() const { return threadIdx.x & (threads - 1); }
  INLINE int rows() const { return threads == WARP ? TEAM_BLOCK / WARP : 1; }  // of a block at once
  INLINE int64 first() const {
    return blockIdx.x * (int64)rows() + (threads == WARP ? threadIdx.x / WARP : 0);
  }
  INLINE int64 step() const { return gridDim.x * (int64)rows(); }
  INLINE float sum(float v) const { return threads == WARP ? warp_sum(v) : block_sum(v); }
};
