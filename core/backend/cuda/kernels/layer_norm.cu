// Layer normalisation of a dense matrix: each row of `cols` elements by its own mean and variance,
// by a warp or a block. Statistics are float's and computed in two passes, as a single pass over
// x and x**2 cancels; the later reads of a row come from the caches. weight and bias: float,
// (cols,), or null. Without an array for the means (null) nothing is subtracted, and the scale is one
// over the root of the mean square: RMS normalisation (Zhang & Sennrich 2019).

template <int V, typename T>
DEVICE void normalise(const T* __restrict__ x, const float* __restrict__ weight,
                      const float* __restrict__ bias, T* __restrict__ y,
                      float* __restrict__ mean, float* __restrict__ rstd, int64 rows, int64 cols,
                      float eps, int threads) {
  const Team team = {threads};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const T* row = x + r * cols;
    float v[V], w[V], b[V], sum = 0.0f, m = 0.0f;
    if (mean) {
#pragma unroll 2
      for (int64 i = team.rank() * V; i < cols; i += threads * V) {
        Wide<V>::load(row + i, v);
#pragma unroll
        for (int j = 0; j < V; ++j) sum += v[j];
      }
      m = team.sum(sum) / (float)cols;
      sum = 0.0f;
    }
#pragma unroll 2
    for (int64 i = team.rank() * V; i < cols; i += threads * V) {
      Wide<V>::load(row + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += (v[j] - m) * (v[j] - m);
    }
    const float scale = 1.0f / sqrtf(team.sum(sum) / (float)cols + eps);
    for (int64 i = team.rank() * V; i < cols; i += threads * V) {
      Wide<V>::load(row + i, v);
      load_floats<V>(weight ? weight + i : weight, 1.0f, w);
      load_floats<V>(bias ? bias + i : bias, 0.0f, b);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = (v[j] - m) * scale * w[j] + b[j];
      Wide<V>::store(y + r * cols + i, v);
    }
    if (team.rank() == 0) {
      if (mean) mean[r] = m;
      rstd[r] = scale;
    }
  }
}

// Read 1, written 1. `threads` that share a row: 32 or 256.
#define LAYER_NORM_FORWARD(T, S) \
  KERNEL(256, 4) layer_norm_forward_##S(const T* x, const float* weight, const float* bias, \
                                        T* y, float* mean, float* rstd, int64 rows, int64 cols, \
                                        float eps, int threads) { \
    const bool vector = aligned16(x) && aligned16(y) && aligned16(weight) && aligned16(bias) && \
                        cols % LANES<T>::N == 0; \
    if (vector) normalise<LANES<T>::N>(x, weight, bias, y, mean, rstd, rows, cols, eps, threads); \
    else normalise<1>(x, weight, bias, y, mean, rstd, rows, cols, eps, threads); \
  }
FOR_EACH_FLOAT(LAYER_NORM_FORWARD)

// With g = grad_y * weight and n = (x - mean) * rstd: (g - mean(g) - n * mean(g * n)) * rstd, where
// mean(g) is 0 if there are no means.
template <int V, typename T>
DEVICE void normalise_backward(const T* __restrict__ grad_y, const T* __restrict__ x,
                               const float* __restrict__ weight, const float* __restrict__ mean,
                               const float* __restrict__ rstd, T* __restrict__ grad_x, int64 rows,
                               int64 cols, int threads) {
  const Team team = {threads};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const float m = mean ? mean[r] : 0.0f, scale = rstd[r];
    float g[V], v[V], w[V], sum = 0.0f, along = 0.0f;
    for (int64 i = team.rank() * V; i < cols; i += threads * V) {
      Wide<V>::load(grad_y + r * cols + i, g);
      Wide<V>::load(x + r * cols + i, v);
      load_floats<V>(weight ? weight + i : weight, 1.0f, w);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float inner = g[j] * w[j];
        sum += inner;
        along += inner * ((v[j] - m) * scale);
      }
    }
    sum = mean ? team.sum(sum) / (float)cols : 0.0f;
    along = team.sum(along) / (float)cols;
    for (int64 i = team.rank() * V; i < cols; i += threads * V) {
      Wide<V>::load(grad_y + r * cols + i, g);
      Wide<V>::load(x + r * cols + i, v);
      load_floats<V>(weight ? weight + i : weight, 1.0f, w);
#pragma unroll
      for (int j = 0; j < V; ++j)
        g[j] = (g[j] * w[j] - sum - (v[j] - m) * scale * along) * scale;
      Wide<V>::store(grad_x + r * cols + i, g);
    }
  }
}

// Read 2, written 1.
#define LAYER_NORM_BACKWARD(T, S) \
  KERNEL(256, 4) layer_norm_backward_##S(const T* grad_y, const T* x, const float* weight, \
                                         const float* mean, const float* rstd, T* grad_x, \
                                         int64 rows, int64 cols, int threads) { \
    const bool vector = aligned16(grad_y) && aligned16(x) && aligned16(grad_x) && \
                        aligned16(weight) && cols % LANES<T>::N == 0; \
    if (vector) normalise_backward<LANES<T>::N>(grad_y, x, weight, mean, rstd, grad_x, rows, \
        cols, threads); \
    else normalise_backward<1>(grad_y, x, weight, mean, rstd, grad_x, rows, cols, threads); \
  }
FOR_EACH_FLOAT(LAYER_NORM_BACKWARD)

// Sums of columns over chunks of rows, as `sum_columns` in sums.cu: of grad_y * n and of grad_y.
// partial: (chunks, 2, cols).
template <int V, typename T>
DEVICE void weight_gradients(const T* __restrict__ grad_y, const T* __restrict__ x,
                             const float* __restrict__ mean, const float* __restrict__ rstd,
                             float* __restrict__ partial, int64 rows, int64 cols, int64 chunk) {
  __shared__ float sums[2][256 * V];
  const int lanes = blockDim.x, groups = blockDim.y, width = lanes * V;
  const int64 col = (blockIdx.x * (int64)lanes + threadIdx.x) * V;
  const int64 end = smaller(rows, (blockIdx.y + 1) * chunk);
  float weight[V], bias[V];
#pragma unroll
  for (int j = 0; j < V; ++j) weight[j] = bias[j] = 0.0f;
  if (col < cols) {
    for (int64 r = blockIdx.y * chunk + threadIdx.y; r < end; r += groups) {
      const float m = mean ? mean[r] : 0.0f, scale = rstd[r];
      float g[V], v[V];
      Wide<V>::load(grad_y + r * cols + col, g);
      Wide<V>::load(x + r * cols + col, v);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        weight[j] += g[j] * ((v[j] - m) * scale);
        bias[j] += g[j];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    sums[0][threadIdx.y * width + threadIdx.x * V + j] = weight[j];
    sums[1][threadIdx.y * width + threadIdx.x * V + j] = bias[j];
  }
  __syncthreads();
  for (int i = threadIdx.y * lanes + threadIdx.x; i < 2 * width; i += lanes * groups) {
    const int which = i / width, at = i % width;
    const int64 c = blockIdx.x * (int64)width + at;
    if (c >= cols) continue;
    float sum = 0.0f;
    for (int group = 0; group < groups; ++group) sum += sums[which][group * width + at];
    partial[(blockIdx.y * 2 + which) * cols + c] = sum;
  }
}

// Read 2.
#define LAYER_NORM_WEIGHTS(T, S) \
  KERNEL(256, 4) layer_norm_weights_##S(const T* grad_y, const T* x, const float* mean, \
                                        const float* rstd, float* partial, int64 rows, \
                                        int64 cols, int64 chunk, int vector) { \
    if (vector) \
      weight_gradients<LANES<T>::N>(grad_y, x, mean, rstd, partial, rows, cols, chunk); \
    else \
      weight_gradients<1>(grad_y, x, mean, rstd, partial, rows, cols, chunk); \
  }
FOR_EACH_FLOAT(LAYER_NORM_WEIGHTS)
