// Softmax and log-softmax along one axis of a dense array, seen as (outer, dim, inner) in memory.
// inner == 1: a warp or a block per row. Otherwise a thread per (outer, inner), neighbours side by
// side. The second read of a row comes from the caches, so memory moves each element once in and
// once out.

#include "soft.cuh"

DEVICE float soft_value(bool log, float x, Soft s, float log_sum) {
  return log ? (x - s.top) - log_sum : quotient(expf(x - s.top), s.sum);
}

template <int V, typename T>
DEVICE void softmax_rows(const T* __restrict__ x, T* __restrict__ y, int64 rows, int64 dim,
                         int threads, bool log) {
  const Team team = {threads};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const Soft s = row_soft<V>(x + r * dim, dim, team);
    const float log_sum = logf(s.sum);
    for (int64 i = team.rank() * V; i < dim; i += threads * V) {
      float v[V];
      Wide<V>::load(x + r * dim + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = soft_value(log, v[j], s, log_sum);
      Wide<V>::store(y + r * dim + i, v);
    }
  }
}

template <typename T>
DEVICE void softmax_strided(const T* __restrict__ x, T* __restrict__ y, int64 outer, int64 dim,
                            int64 inner, bool log) {
  for (int64 item = first_item(); item < outer * inner; item += item_step()) {
    const int64 start = item / inner * dim * inner + item % inner;
    Soft s = nothing();
    for (int64 i = 0; i < dim; ++i) {
      const float v[1] = {to_float(x[start + i * inner])};
      s = with(s, v);
    }
    const float log_sum = logf(s.sum);
    for (int64 i = 0; i < dim; ++i) {
      const int64 at = start + i * inner;
      y[at] = from_float<T>(soft_value(log, to_float(x[at]), s, log_sum));
    }
  }
}

template <typename T>
DEVICE void softmax(const T* __restrict__ x, T* __restrict__ y, int64 outer, int64 dim,
                    int64 inner, int threads, bool log) {
  const int W = LANES<T>::N;
  const bool vector = aligned16(x) && aligned16(y) && dim % W == 0;
  if (inner != 1) softmax_strided(x, y, outer, dim, inner, log);
  else if (vector) softmax_rows<W>(x, y, outer, dim, threads, log);
  else softmax_rows<1>(x, y, outer, dim, threads, log);
}

// Read 1, written 1. `threads` that share a row: 32 or 256. `log`: log-softmax.
#define SOFTMAX(T, S) \
  KERNEL(256, 4) softmax_forward_##S(const T* x, T* y, int64 outer, int64 dim, int64 inner, \
                                     int threads, int log) { \
    softmax(x, y, outer, dim, inner, threads, log); \
  }
FOR_EACH_FLOAT(SOFTMAX)

// -- gradients ------------------------------------------------------------------------------------
// softmax: grad_y * y - y * sum(grad_y * y);  log-softmax: grad_y - e**y * sum(grad_y).
DEVICE float soft_addend(bool log, float grad_y, float y) {
  return log ? grad_y : grad_y * y;
}
DEVICE float soft_gradient(bool log, float grad_y, float y, float sum) {
  return log ? grad_y - expf(y) * sum : grad_y * y - y * sum;
}

template <int V, typename T>
DEVICE void softmax_backward_rows(const T* __restrict__ grad_y, const T* __restrict__ y,
                                  T* __restrict__ grad_x, int64 rows, int64 dim,
                                  int threads, bool log) {
  const Team team = {threads};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    float g[V], v[V], sum = 0.0f;
    for (int64 i = team.rank() * V; i < dim; i += threads * V) {
      Wide<V>::load(grad_y + r * dim + i, g);
      Wide<V>::load(y + r * dim + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += soft_addend(log, g[j], v[j]);
    }
    sum = team.sum(sum);
    for (int64 i = team.rank() * V; i < dim; i += threads * V) {
      Wide<V>::load(grad_y + r * dim + i, g);
      Wide<V>::load(y + r * dim + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) g[j] = soft_gradient(log, g[j], v[j], sum);
      Wide<V>::store(grad_x + r * dim + i, g);
    }
  }
}

template <typename T>
DEVICE void softmax_backward_strided(const T* __restrict__ grad_y, const T* __restrict__ y,
                                     T* __restrict__ grad_x, int64 outer, int64 dim,
                                     int64 inner, bool log) {
  for (int64 item = first_item(); item < outer * inner; item += item_step()) {
    const int64 start = item / inner * dim * inner + item % inner;
    float sum = 0.0f;
    for (int64 i = 0; i < dim; ++i) {
      const int64 at = start + i * inner;
      sum += soft_addend(log, to_float(grad_y[at]), to_float(y[at]));
    }
    for (int64 i = 0; i < dim; ++i) {
      const int64 at = start + i * inner;
      grad_x[at] = from_float<T>(soft_gradient(log, to_float(grad_y[at]), to_float(y[at]), sum));
    }
  }
}

template <typename T>
DEVICE void softmax_backward(const T* __restrict__ grad_y, const T* __restrict__ y,
                             T* __restrict__ grad_x, int64 outer, int64 dim, int64 inner,
                             int threads, bool log) {
  const int W = LANES<T>::N;
  const bool vector = aligned16(grad_y) && aligned16(y) && aligned16(grad_x) && dim % W == 0;
  if (inner != 1) softmax_backward_strided(grad_y, y, grad_x, outer, dim, inner, log);
  else if (vector) softmax_backward_rows<W>(grad_y, y, grad_x, outer, dim, threads, log);
  else softmax_backward_rows<1>(grad_y, y, grad_x, outer, dim, threads, log);
}

// Read 2, written 1.
#define SOFTMAX_BACKWARD(T, S) \
  KERNEL(256, 4) softmax_backward_##S(const T* grad_y, const T* y, T* grad_x, int64 outer, \
                                      int64 dim, int64 inner, int threads, int log) { \
    softmax_backward(grad_y, y, grad_x, outer, dim, inner, threads, log); \
  }
FOR_EACH_FLOAT(SOFTMAX_BACKWARD)
