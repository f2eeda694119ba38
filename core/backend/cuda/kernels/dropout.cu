// Dropout, forward and backward alike: which elements stay is computed from the key of the call,
// never stored, so nothing is moved but x and y.
#include "random.cuh"

// Element i of memory belongs to the unit that is drawn for: itself, or its (sample, channel) plane.
// Every unit takes 16 of the 128 bits of a block, so p is met to within 2^-17, as on the CPU.
struct Units {
  bool planes;
  int64 channels, inner, outer;
  INLINE int64 of(int64 i) const {
    return planes ? i / outer * channels + i / inner % channels : i;
  }
};

DEVICE bool kept(const Stream& stream, int64 unit, uint32 threshold) {
  const uint4 v = stream.block(unit >> 3);
  const uint32 pair = word(v, (int)(unit >> 1 & 3));
  return (unit & 1 ? pair >> 16 : pair & 0xFFFFu) >= threshold;
}

// y = x * scale where the unit stays, else 0. Eight elements share one block of random bits.
template <typename T>
DEVICE void dropout(const T* __restrict__ x, T* __restrict__ y, int64 n, uint32 threshold,
                    float scale, const uint64* state, uint32 site, Units units) {
  const Stream stream = stream_of(state, site);
  const int W = LANES<T>::N;
  int64 done = 0;
  if (!units.planes && aligned16(x) && aligned16(y)) {
    done = n / 8 * 8;
    for (int64 b = first_item(); b * 8 < done; b += item_step()) {
      const uint4 v = stream.block(b);
#pragma unroll
      for (int part = 0; part < 8 / W; ++part) {
        float u[W];
        load16(x + b * 8 + part * W, u);
#pragma unroll
        for (int j = 0; j < W; ++j) {
          const int unit = part * W + j;
          const uint32 pair = word(v, unit >> 1), bits = unit & 1 ? pair >> 16 : pair & 0xFFFFu;
          u[j] = bits >= threshold ? u[j] * scale : 0.0f;
        }
        store16(y + b * 8 + part * W, u);
      }
    }
  }
  for (int64 i = done + first_item(); i < n; i += item_step())
    y[i] = from_float<T>(kept(stream, units.of(i), threshold) ? to_float(x[i]) * scale : 0.0f);
}

// channels: 0 draws for every element; else for planes, where element i of memory has the sample
// i / outer and the channel i / inner % channels.
#define DEFINE(T, S)                                                                              \
  KERNEL(256) dropout_##S(const T* __restrict__ x, T* __restrict__ y, int64 n, uint32 threshold,   \
                          float scale, const uint64* state, uint32 site, int64 channels,          \
                          int64 inner, int64 outer) {                                             \
    Units units = {channels != 0, channels, inner, outer};                                        \
    dropout(x, y, n, threshold, scale, state, site, units);                                       \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
