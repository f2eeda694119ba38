// Gradients of many tensors in one launch: loss scaling, and clipping by the norm of all.
#include "tensors.cuh"

template <typename T, int V, typename F>
DEVICE void each(T* g, int64 begin, int64 end, bool writes, F f) {
  for (int64 i = begin + threadIdx.x * V; i < end; i += blockDim.x * V) {
    float v[V];
    Wide<V>::load(g + i, v);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = f(v[j]);
    if (writes) Wide<V>::store(g + i, v);
  }
}

template <typename T, typename F> DEVICE void each_gradient(const Piece& piece, bool writes, F f) {
  const int W = LANES<T>::N;
  T* g = piece.at<T>(GRAD);
  int64 done = piece.begin;
  if (aligned16(g)) {
    done = piece.begin + (piece.end - piece.begin) / W * W;
    each<T, W>(g, piece.begin, done, writes, f);
  }
  each<T, 1>(g, done, piece.end, writes, f);
}

// found = 1 where a gradient is not finite; with `writes` all are divided by the scale, of which
// `scale` has the inverse, too.
template <typename T>
DEVICE void unscale(const uint64* table, int tensors, const float* scale, float* found, int writes) {
  const Piece piece = piece_of_block(table, tensors);
  const float inverse = scale[1];
  uint32 largest = 0;  // exponent: all ones in what is not finite
  each_gradient<T>(piece, writes, [&](float g) {
    const uint32 exponent = bits_of_float(g) & 0x7F800000u;
    largest = largest > exponent ? largest : exponent;
    return g * inverse;
  });
  if (largest == 0x7F800000u) *found = 1.0f;  // whoever writes writes the same
}

// The sum of the squares of a chunk, of factor * gradient.
template <typename T>
DEVICE void squares(const uint64* table, int tensors, double* partial) {
  double sum = 0;
  each_gradient<T>(piece_of_block(table, tensors), false, [&](float g) {
    sum += (double)g * g;
    return g;
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// g = g * coefficient unless that is 1 or more; NaN goes on, so that it shows in the gradients.
template <typename T>
DEVICE void clip(const uint64* table, int tensors, const float* coefficient) {
  const float factor = *coefficient;
  if (factor >= 1.0f) return;
  each_gradient<T>(piece_of_block(table, tensors), true, [=](float g) { return g * factor; });
}

#define DEFINE(T, S)                                                                              \
  KERNEL(256) grads_unscale_##S(const uint64* table, int tensors, const float* scale,             \
                                float* found, int writes) {                                       \
    unscale<T>(table, tensors, scale, found, writes);                                             \
  }                                                                                               \
  KERNEL(256) grads_squares_##S(const uint64* table, int tensors, double* partial) {              \
    squares<T>(table, tensors, partial);                                                          \
  }                                                                                               \
  KERNEL(256) grads_clip_##S(const uint64* table, int tensors, const float* coefficient) {        \
    clip<T>(table, tensors, coefficient);                                                         \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE

// out = {norm, min(1, most / (norm + 1e-6))} from the sums of squares; one block.
KERNEL(256) grads_norm(const double* partial, int64 n, float most, float* out) {
  double sum = 0;
  for (int64 i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    const double norm = sqrt(sum), factor = most / (norm + 1e-6);
    out[0] = (float)norm;
    out[1] = factor >= 1.0 ? 1.0f : (float)factor;
  }
}

// The end of an iteration with loss scaling: found (n) says for each optimizer whether it met a
// gradient that was not finite; they begin the next iteration at 0. scale = {scale, 1 / scale}.
KERNEL(32) scale_update(float* scale, int* tracker, float* found, int n, float growth,
                        float backoff, int interval) {
  if (blockIdx.x || threadIdx.x) return;
  bool any = false;
  for (int i = 0; i < n; ++i) {
    any = any || found[i] != 0.0f;
    found[i] = 0.0f;
  }
  if (any) {
    scale[0] *= backoff;
    *tracker = 0;
  } else if (++*tracker == interval) {
    const float grown = scale[0] * growth;
    if (is_finite(grown)) scale[0] = grown;
    *tracker = 0;
  }
  scale[1] = 1.0f / scale[0];
}
