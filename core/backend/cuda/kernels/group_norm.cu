// Group normalisation of x (N, C, S) as it lies in memory, where a group is one stretch: a team (a
// warp or a block) per group or plane. Statistics are float's. mean, rstd: (N, G). weight, bias:
// float, (C,), or null. `inner` = S positions; `channels` of a group.

DEVICE float weight_at(const float* weight, int64 i) { return weight ? weight[i] : 1.0f; }

// V neighbours have one channel: V divides `inner`. A group has fewer than 2^32 elements.
template <int V, typename T>
DEVICE void forward_plain(const T* __restrict__ x, const float* __restrict__ weight,
                          const float* __restrict__ bias, T* __restrict__ y,
                          float* __restrict__ mean, float* __restrict__ rstd, int64 rows,
                          int groups, int channels, uint32 inner, float eps,
                          int threads) {
  const Team team = {threads};
  const int64 size = (int64)channels * inner;
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const T* row = x + r * size;
    float v[V], sum = 0.0f;
    for (int64 i = team.rank() * V; i < size; i += threads * V) {
      Wide<V>::load(row + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += v[j];
    }
    const float m = team.sum(sum) / (float)size;
    sum = 0.0f;
    for (int64 i = team.rank() * V; i < size; i += threads * V) {
      Wide<V>::load(row + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum += (v[j] - m) * (v[j] - m);
    }
    const float scale = 1.0f / sqrtf(team.sum(sum) / (float)size + eps);
    const int first = (int)(r % groups) * channels;
    for (int64 i = team.rank() * V; i < size; i += threads * V) {
      const int c = first + (uint32)i / inner;
      const float a = scale * weight_at(weight, c), b = bias ? bias[c] : 0.0f;
      Wide<V>::load(row + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = (v[j] - m) * a + b;
      Wide<V>::store(y + r * size + i, v);
    }
    if (team.rank() == 0) {
      mean[r] = m;
      rstd[r] = scale;
    }
  }
}

// Read 1, written 1. rows = N * groups; `channels` of a group.
#define GROUP_NORM_FORWARD(T, S) \
  KERNEL(256, 4) group_norm_forward_##S(const T* x, const float* weight, const float* bias, \
                                        T* y, float* mean, float* rstd, int64 rows, int groups, \
                                        int channels, int inner, float eps, int threads) { \
    const bool vector = aligned16(x) && aligned16(y) && inner % LANES<T>::N == 0; \
    if (vector) \
      forward_plain<LANES<T>::N>(x, weight, bias, y, mean, rstd, rows, groups, channels, inner, \
                                 eps, threads); \
    else \
      forward_plain<1>(x, weight, bias, y, mean, rstd, rows, groups, channels, inner, eps, \
                       threads); \
  }
FOR_EACH_FLOAT(GROUP_NORM_FORWARD)

// sums (N, 2, C): of grad_y * n and of grad_y over the positions, with n = (x - mean) * rstd.
template <int V, typename T>
DEVICE void sums_plain(const T* __restrict__ grad_y, const T* __restrict__ x,
                       const float* __restrict__ mean, const float* __restrict__ rstd,
                       float* __restrict__ sums, int64 planes, int groups, int channels,
                       int64 inner, int threads) {
  const Team team = {threads};
  const int all = groups * channels;
  for (int64 r = team.first(); r < planes; r += team.step()) {
    const float m = mean[r / channels], scale = rstd[r / channels];
    float g[V], v[V], weight = 0.0f, bias = 0.0f;
    for (int64 i = team.rank() * V; i < inner; i += threads * V) {
      Wide<V>::load(grad_y + r * inner + i, g);
      Wide<V>::load(x + r * inner + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        weight += g[j] * ((v[j] - m) * scale);
        bias += g[j];
      }
    }
    weight = team.sum(weight);
    bias = team.sum(bias);
    if (team.rank() == 0) {
      const int64 to = r / all * 2 * all + r % all;
      sums[to] = weight;
      sums[to + all] = bias;
    }
  }
}

// Read 2. planes = N * C.
#define GROUP_NORM_SUMS(T, S) \
  KERNEL(256, 4) group_norm_sums_##S(const T* grad_y, const T* x, const float* mean, \
                                     const float* rstd, float* sums, int64 planes, int groups, \
                                     int channels, int inner, int threads) { \
    const bool vector = aligned16(grad_y) && aligned16(x) && inner % LANES<T>::N == 0; \
    if (vector) \
      sums_plain<LANES<T>::N>(grad_y, x, mean, rstd, sums, planes, groups, channels, inner, \
                              threads); \
    else \
      sums_plain<1>(grad_y, x, mean, rstd, sums, planes, groups, channels, inner, threads); \
  }
FOR_EACH_FLOAT(GROUP_NORM_SUMS)

// (grad_y * weight - a - n * b) * rstd, with the means a of grad_y * weight and b of
// grad_y * weight * n over the group, which follow from the sums of its channels.
template <int V, typename T>
DEVICE void backward_plain(const T* __restrict__ grad_y, const T* __restrict__ x,
                           const float* __restrict__ weight, const float* __restrict__ mean,
                           const float* __restrict__ rstd, const float* __restrict__ sums,
                           T* __restrict__ grad_x, int64 rows, int groups, int channels,
                           uint32 inner, int threads) {
  const Team team = {threads};
  const int64 size = (int64)channels * inner;
  const int all = groups * channels;
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const float m = mean[r], scale = rstd[r];
    const int first = (int)(r % groups) * channels;
    const float* own = sums + r / groups * 2 * all + first;
    float a = 0.0f, b = 0.0f;
    for (int c = team.rank(); c < channels; c += threads) {
      b += own[c] * weight_at(weight, first + c);
      a += own[c + all] * weight_at(weight, first + c);
    }
    a = team.sum(a) / (float)size;
    b = team.sum(b) / (float)size;
    for (int64 i = team.rank() * V; i < size; i += threads * V) {
      const float w = weight_at(weight, first + (uint32)i / inner);
      float g[V], v[V];
      Wide<V>::load(grad_y + r * size + i, g);
      Wide<V>::load(x + r * size + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) g[j] = (g[j] * w - a - (v[j] - m) * scale * b) * scale;
      Wide<V>::store(grad_x + r * size + i, g);
    }
  }
}

// Read 2, written 1.
#define GROUP_NORM_BACKWARD(T, S) \
  KERNEL(256, 4) group_norm_backward_##S(const T* grad_y, const T* x, const float* weight, \
                                         const float* mean, const float* rstd, \
                                         const float* sums, T* grad_x, int64 rows, int groups, \
                                         int channels, int inner, int threads) { \
    const bool vector = aligned16(grad_y) && aligned16(x) && aligned16(grad_x) && \
                        inner % LANES<T>::N == 0; \
    if (vector) \
      backward_plain<LANES<T>::N>(grad_y, x, weight, mean, rstd, sums, grad_x, rows, groups, \
                                  channels, inner, threads); \
    else \
      backward_plain<1>(grad_y, x, weight, mean, rstd, sums, grad_x, rows, groups, channels, \
                        inner, threads); \
  }
FOR_EACH_FLOAT(GROUP_NORM_BACKWARD)
