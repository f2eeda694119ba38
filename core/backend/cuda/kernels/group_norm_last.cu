// Group normalisation of channels-last x (N, S, C): blocks are (lanes over V channels each, groups
// of threads over positions); the grid is (tiles of channels, chunks of positions, N). Statistics
// are float's. mean, rstd: (N, G). weight, bias: float, (C,), or null. `inner` = S positions;
// `channels` of a group, of the whole array in the moments.

DEVICE float weight_at(const float* weight, int64 i) { return weight ? weight[i] : 1.0f; }

// `Tile` says where a thread stands.
template <int V> struct Tile {
  int64 channel, start, end, image;
  DEVICE Tile<V> here(int64 inner, int64 chunk) {
    Tile<V> t;
    t.channel = (blockIdx.x * (int64)blockDim.x + threadIdx.x) * V;
    t.start = blockIdx.y * chunk + threadIdx.y;
    t.end = smaller(inner, (blockIdx.y + 1) * chunk);
    t.image = blockIdx.z;
    return t;
  }
};

// Mean and sum of squared deviations of two sets of elements (Chan et al. 1979).
struct Moments {
  float count, mean, m2;
};
DEVICE Moments joined(Moments a, Moments b) {
  if (b.count == 0.0f) return a;
  Moments t;
  t.count = a.count + b.count;
  const float delta = b.mean - a.mean, share = b.count / t.count;
  t.mean = a.mean + delta * share;
  t.m2 = a.m2 + b.m2 + delta * delta * a.count * share;
  return t;
}

// partial (N, chunks, 2, C): mean and sum of squared deviations of each channel in a chunk.
template <int V, typename T>
DEVICE void moments_last(const T* __restrict__ x, float* __restrict__ partial, int64 inner,
                         int64 chunk, int channels) {
  __shared__ float means[256 * V], squares[256 * V];
  const Tile<V> t = Tile<V>::here(inner, chunk);
  const int lanes = blockDim.x, groups = blockDim.y, width = lanes * V;
  float mean[V], m2[V];
#pragma unroll
  for (int j = 0; j < V; ++j) mean[j] = m2[j] = 0.0f;
  if (t.channel < channels) {
    float count = 0.0f;
    for (int64 s = t.start; s < t.end; s += groups) {
      float v[V];
      Wide<V>::load(x + (t.image * inner + s) * channels + t.channel, v);
      count += 1.0f;
      const float share = quotient(1.0f, count);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float delta = v[j] - mean[j];
        mean[j] += delta * share;
        m2[j] += delta * (v[j] - mean[j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    means[threadIdx.y * width + threadIdx.x * V + j] = mean[j];
    squares[threadIdx.y * width + threadIdx.x * V + j] = m2[j];
  }
  __syncthreads();
  const int64 length = t.end - blockIdx.y * chunk;
  for (int i = threadIdx.y * lanes + threadIdx.x; i < width; i += lanes * groups) {
    const int64 c = blockIdx.x * (int64)width + i;
    if (c >= channels) continue;
    Moments total = {0.0f, 0.0f, 0.0f};
    for (int group = 0; group < groups; ++group) {
      const int64 own = larger(0, (length - group + groups - 1) / groups);
      const Moments part = {(float)own, means[group * width + i], squares[group * width + i]};
      total = joined(total, part);
    }
    float* to = partial + (t.image * gridDim.y + blockIdx.y) * 2 * channels + c;
    to[0] = total.mean;
    to[channels] = total.m2;
  }
}

// Read 1. `vector`: C and the address allow 16 bytes at a time.
#define GROUP_NORM_LAST_MOMENTS(T, S) \
  KERNEL(256, 4) group_norm_last_moments_##S(const T* x, float* partial, int64 inner, \
                                             int64 chunk, int channels, int vector) { \
    if (vector) moments_last<LANES<T>::N>(x, partial, inner, chunk, channels); \
    else moments_last<1>(x, partial, inner, chunk, channels); \
  }
FOR_EACH_FLOAT(GROUP_NORM_LAST_MOMENTS)

// mean, rstd (N, G) from partial (N, chunks, 2, C): a warp per group.
KERNEL(256, 4)
group_norm_last_statistics(const float* partial, float* mean, float* rstd, int64 rows, int groups,
                           int channels, int64 inner, int64 chunk, int chunks, float eps) {
  const Team team = {WARP};
  const int all = groups * channels;
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const float* own = partial + r / groups * chunks * 2 * all + r % groups * channels;
    Moments total = {0.0f, 0.0f, 0.0f};
    for (int i = team.rank(); i < chunks * channels; i += WARP) {
      const int k = i / channels, c = i % channels;
      const float count = (float)(smaller(inner, (k + 1) * chunk) - k * chunk);
      const float* from = own + (int64)k * 2 * all + c;
      const Moments part = {count, from[0], from[all]};
      total = joined(total, part);
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
      const Moments other = {__shfl_down_sync(ALL_LANES, total.count, step),
                             __shfl_down_sync(ALL_LANES, total.mean, step),
                             __shfl_down_sync(ALL_LANES, total.m2, step)};
      total = joined(total, other);
    }
    if (team.rank() == 0) {
      mean[r] = total.mean;
      rstd[r] = 1.0f / sqrtf(total.m2 / total.count + eps);
    }
  }
}

template <int V, typename T>
DEVICE void apply_last(const T* __restrict__ x, const float* __restrict__ weight,
                       const float* __restrict__ bias, const float* __restrict__ mean,
                       const float* __restrict__ rstd, T* __restrict__ y, int64 inner, int64 chunk,
                       int groups, int channels) {
  const Tile<V> t = Tile<V>::here(inner, chunk);
  const int all = groups * channels;
  if (t.channel >= all) return;
  float m[V], a[V], b[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int64 c = t.channel + j, g = t.image * groups + c / channels;
    m[j] = mean[g];
    a[j] = rstd[g] * weight_at(weight, c);
    b[j] = bias ? bias[c] : 0.0f;
  }
  for (int64 s = t.start; s < t.end; s += blockDim.y) {
    const int64 at = (t.image * inner + s) * all + t.channel;
    float v[V];
    Wide<V>::load(x + at, v);
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = (v[j] - m[j]) * a[j] + b[j];
    Wide<V>::store(y + at, v);
  }
}

// Read 1, written 1; with the moments: read 2, written 1.
#define GROUP_NORM_LAST_FORWARD(T, S) \
  KERNEL(256, 4) group_norm_last_forward_##S(const T* x, const float* weight, const float* bias, \
                                             const float* mean, const float* rstd, T* y, \
                                             int64 inner, int64 chunk, int groups, int channels, \
                                             int vector) { \
    if (vector) \
      apply_last<LANES<T>::N>(x, weight, bias, mean, rstd, y, inner, chunk, groups, channels); \
    else \
      apply_last<1>(x, weight, bias, mean, rstd, y, inner, chunk, groups, channels); \
  }
FOR_EACH_FLOAT(GROUP_NORM_LAST_FORWARD)

// partial (N, chunks, 2, C): sums of grad_y * n and of grad_y over the positions of a chunk.
template <int V, typename T>
DEVICE void sums_last(const T* __restrict__ grad_y, const T* __restrict__ x,
                      const float* __restrict__ mean, const float* __restrict__ rstd,
                      float* __restrict__ partial, int64 inner, int64 chunk, int groups,
                      int channels) {
  __shared__ float weights[256 * V], biases[256 * V];
  const Tile<V> t = Tile<V>::here(inner, chunk);
  const int lanes = blockDim.x, rows = blockDim.y, width = lanes * V, all = groups * channels;
  float weight[V], bias[V], m[V], scale[V];
#pragma unroll
  for (int j = 0; j < V; ++j) weight[j] = bias[j] = 0.0f;
  if (t.channel < all) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const int64 g = t.image * groups + (t.channel + j) / channels;
      m[j] = mean[g];
      scale[j] = rstd[g];
    }
    for (int64 s = t.start; s < t.end; s += rows) {
      const int64 at = (t.image * inner + s) * all + t.channel;
      float g[V], v[V];
      Wide<V>::load(grad_y + at, g);
      Wide<V>::load(x + at, v);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        weight[j] += g[j] * ((v[j] - m[j]) * scale[j]);
        bias[j] += g[j];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    weights[threadIdx.y * width + threadIdx.x * V + j] = weight[j];
    biases[threadIdx.y * width + threadIdx.x * V + j] = bias[j];
  }
  __syncthreads();
  for (int i = threadIdx.y * lanes + threadIdx.x; i < width; i += lanes * rows) {
    const int64 c = blockIdx.x * (int64)width + i;
    if (c >= all) continue;
    float w = 0.0f, b = 0.0f;
    for (int row = 0; row < rows; ++row) {
      w += weights[row * width + i];
      b += biases[row * width + i];
    }
    float* to = partial + (t.image * gridDim.y + blockIdx.y) * 2 * all + c;
    to[0] = w;
    to[all] = b;
  }
}

// Read 2.
#define GROUP_NORM_LAST_SUMS(T, S) \
  KERNEL(256, 4) group_norm_last_sums_##S(const T* grad_y, const T* x, const float* mean, \
                                          const float* rstd, float* partial, int64 inner, \
                                          int64 chunk, int groups, int channels, int vector) { \
    if (vector) \
      sums_last<LANES<T>::N>(grad_y, x, mean, rstd, partial, inner, chunk, groups, channels); \
    else \
      sums_last<1>(grad_y, x, mean, rstd, partial, inner, chunk, groups, channels); \
  }
FOR_EACH_FLOAT(GROUP_NORM_LAST_SUMS)

// means (N, 2, G): of grad_y * weight * n and of grad_y * weight over a group, from sums (N, 2, C);
// a warp per group.
KERNEL(256, 4)
group_norm_last_means(const float* sums, const float* weight, float* means, int64 rows, int groups,
                      int channels, int64 inner) {
  const Team team = {WARP};
  const int all = groups * channels;
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const int first = (int)(r % groups) * channels;
    const float* own = sums + r / groups * 2 * all + first;
    float a = 0.0f, b = 0.0f;
    for (int c = team.rank(); c < channels; c += WARP) {
      b += own[c] * weight_at(weight, first + c);
      a += own[c + all] * weight_at(weight, first + c);
    }
    const float size = (float)(channels * inner);
    a = team.sum(a) / size;
    b = team.sum(b) / size;
    if (team.rank() == 0) {
      const int64 to = r / groups * 2 * groups + r % groups;
      means[to] = b;
      means[to + groups] = a;
    }
  }
}

template <int V, typename T>
DEVICE void backward_last(const T* __restrict__ grad_y, const T* __restrict__ x,
                          const float* __restrict__ weight, const float* __restrict__ mean,
                          const float* __restrict__ rstd, const float* __restrict__ means,
                          T* __restrict__ grad_x, int64 inner, int64 chunk, int groups,
                          int channels) {
  const Tile<V> t = Tile<V>::here(inner, chunk);
  const int all = groups * channels;
  if (t.channel >= all) return;
  // grad_x = grad_y * w - x * slope - shift, with what belongs to the channel taken together.
  float m[V], w[V], slope[V], shift[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int64 c = t.channel + j, g = c / channels, row = t.image * groups + g;
    const float* own = means + t.image * 2 * groups + g;
    const float scale = rstd[row];
    m[j] = mean[row];
    w[j] = weight_at(weight, c) * scale;
    slope[j] = own[0] * scale * scale;
    shift[j] = own[groups] * scale;
  }
  for (int64 s = t.start; s < t.end; s += blockDim.y) {
    const int64 at = (t.image * inner + s) * all + t.channel;
    float g[V], v[V];
    Wide<V>::load(grad_y + at, g);
    Wide<V>::load(x + at, v);
#pragma unroll
    for (int j = 0; j < V; ++j) g[j] = g[j] * w[j] - (v[j] - m[j]) * slope[j] - shift[j];
    Wide<V>::store(grad_x + at, g);
  }
}

// Read 2, written 1.
#define GROUP_NORM_LAST_BACKWARD(T, S) \
  KERNEL(256, 4) group_norm_last_backward_##S(const T* grad_y, const T* x, const float* weight, \
                                              const float* mean, const float* rstd, \
                                              const float* means, T* grad_x, int64 inner, \
                                              int64 chunk, int groups, int channels, \
                                              int vector) { \
    if (vector) \
      backward_last<LANES<T>::N>(grad_y, x, weight, mean, rstd, means, grad_x, inner, chunk, \
                                 groups, channels); \
    else \
      backward_last<1>(grad_y, x, weight, mean, rstd, means, grad_x, inner, chunk, groups, \
                       channels); \
  }
FOR_EACH_FLOAT(GROUP_NORM_LAST_BACKWARD)
