// Random numbers: uniform, normal, whole; and the state that all draws read.
#include "random.cuh"

// state = {seed, step}.
KERNEL(32) random_set(uint64* state, uint64 seed, uint64 step) {
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    state[0] = seed;
    state[1] = step;
  }
}

KERNEL(32) random_begin(uint64* state) {
  if (blockIdx.x == 0 && threadIdx.x == 0) ++state[1];
}

// The raw words, as the published test vectors have them: out (blocks, 4).
KERNEL(256) random_words(uint32* __restrict__ out, int64 blocks, const uint32* __restrict__ counters,
                         uint32 key0, uint32 key1) {
  for (int64 i = first_item(); i < blocks; i += item_step()) {
    const uint4 c = ((const uint4*)counters)[i];
    ((uint4*)out)[i] = philox(c, key0, key1);
  }
}

KERNEL(256) random_bits(uint32* __restrict__ out, int64 n, const uint64* state, uint32 site) {
  const Stream stream = stream_of(state, site);
  for (int64 b = first_item(); b * 4 < n; b += item_step()) {
    const uint4 v = stream.block(b);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (b * 4 + j < n) out[b * 4 + j] = word(v, j);
  }
}

// Whole numbers in [low, low + span): the high half of a product, so numbers differ in probability
// by less than 2^-32 of it (two words each, of 64 bits).
KERNEL(256) random_integers(int64* __restrict__ out, int64 n, int64 low, uint64 span,
                            const uint64* state, uint32 site) {
  const Stream stream = stream_of(state, site);
  for (int64 b = first_item(); b * 2 < n; b += item_step()) {
    const uint4 v = stream.block(b);
    const uint64 first = (uint64)v.y << 32 | v.x, second = (uint64)v.w << 32 | v.z;
    out[b * 2] = low + (int64)__umul64hi(first, span);
    if (b * 2 + 1 < n) out[b * 2 + 1] = low + (int64)__umul64hi(second, span);
  }
}

// [0, 1): as many of the highest bits as the type's fraction has, so that 1 is never reached.
template <typename T> struct FRACTION { static const int BITS = 24; };
template <> struct FRACTION<float16> { static const int BITS = 11; };
template <> struct FRACTION<bfloat16> { static const int BITS = 8; };

template <typename T> INLINE float uniform_of(uint32 bits) {
  const int kept = FRACTION<T>::BITS;
  return (float)(bits >> (32 - kept)) * float_of_bits((127u - kept) << 23);
}

// Two normal numbers of two words (Box and Muller 1958): sqrt(-2 ln u) times cosine and sine of
// 2 pi v, with u in (0, 1] and v in [0, 1) of 24 bits each; the largest is 5.77.
DEVICE void normals_of(uint32 a, uint32 b, float& first, float& second) {
  const float u = (float)((a >> 8) + 1u) * float_of_bits((127u - 24) << 23);
  const float v = uniform_of<float>(b);
  const float radius = sqrtf(-2.0f * logf(u));
  float sine, cosine;
  sincospif(2.0f * v, &sine, &cosine);
  first = radius * cosine;
  second = radius * sine;
}

template <typename T>
DEVICE void uniforms(T* out, int64 n, const uint64* state, uint32 site) {
  const Stream stream = stream_of(state, site);
  for (int64 b = first_item(); b * 4 < n; b += item_step()) {
    const uint4 v = stream.block(b);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (b * 4 + j < n) out[b * 4 + j] = from_float<T>(uniform_of<T>(word(v, j)));
  }
}

template <typename T>
DEVICE void normals(T* out, int64 n, const uint64* state, uint32 site) {
  const Stream stream = stream_of(state, site);
  for (int64 b = first_item(); b * 4 < n; b += item_step()) {
    const uint4 v = stream.block(b);
    float z[4];
    normals_of(v.x, v.y, z[0], z[1]);
    normals_of(v.z, v.w, z[2], z[3]);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (b * 4 + j < n) out[b * 4 + j] = from_float<T>(z[j]);
  }
}

#define DEFINE(T, S)                                                                              \
  KERNEL(256) random_uniform_##S(T* __restrict__ out, int64 n, const uint64* state, uint32 site) {  \
    uniforms(out, n, state, site);                                                                \
  }                                                                                               \
  KERNEL(256) random_normal_##S(T* __restrict__ out, int64 n, const uint64* state, uint32 site) {   \
    normals(out, n, state, site);                                                                 \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
