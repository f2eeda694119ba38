// Maximum and average pooling of channels-last arrays (N, D, H, W, C), two dimensions and one being
// D = 1 and H = 1. A thread takes V neighbouring channels of one position, 16 bytes where C allows:
// neighbouring threads read neighbouring memory. Windows that overlap read the caches; memory moves
// every input once. Gradients are gathered: each input asks which windows it lies in, so nothing
// needs atomics or zeroing, and sums have one order.

// Sizes of input and output, window, stride, padding, dilation: 6 groups of (d, h, w).
struct Geometry {
  int in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
};

#define GEOMETRY_ARGUMENTS \
  int id, int ih, int iw, int od, int oh, int ow, int kd, int kh, int kw, int sd, int sh, \
  int sw, int pd, int ph, int pw, int dd, int dh, int dw
#define GEOMETRY \
  {{id, ih, iw}, {od, oh, ow}, {kd, kh, kw}, {sd, sh, sw}, {pd, ph, pw}, {dd, dh, dw}}

// Which position of `size` and which channels work item `item` is; items are fewer than 2^32, as
// their divisions are those of 32 bits (64 take four times as long).
struct Place {
  int64 n;
  int at[3], channel;
};
template <int V> DEVICE Place place_of(uint32 item, const int (&size)[3], int channels) {
  const uint32 groups = channels / V;
  Place p;
  p.channel = item % groups * V;
  item /= groups;
  p.at[2] = item % size[2];
  item /= size[2];
  p.at[1] = item % size[1];
  item /= size[1];
  p.at[0] = item % size[0];
  p.n = item / size[0];
  return p;
}
// Offset of channel `channel` at a position.
DEVICE int64 offset(int64 n, int d, int h, int w, const int (&size)[3], int channels) {
  return (((n * size[0] + d) * size[1] + h) * size[2] + w) * channels;
}

// -- maximum --------------------------------------------------------------------------------------
// V winners at a time: positions in the window, in row-major order, of 1 byte or 4.
template <int V, typename I> DEVICE void load_winners(const I* p, int (&v)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) v[j] = p[j];
}
template <> INLINE void load_winners<8, uint8>(const uint8* p, int (&v)[8]) {
  const uint2 raw = *(const uint2*)p;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v[j] = raw.x >> 8 * j & 0xFF;
    v[j + 4] = raw.y >> 8 * j & 0xFF;
  }
}
template <> INLINE void load_winners<4, uint8>(const uint8* p, int (&v)[4]) {
  const uint32 raw = *(const uint32*)p;
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = raw >> 8 * j & 0xFF;
}
template <int V, typename I> DEVICE void store_winners(I* p, const int (&v)[V]) {
#pragma unroll
  for (int j = 0; j < V; ++j) p[j] = (I)v[j];
}
DEVICE uint32 packed(const int* v) {
  return (uint32)v[0] | (uint32)v[1] << 8 | (uint32)v[2] << 16 | (uint32)v[3] << 24;
}
template <> INLINE void store_winners<8, uint8>(uint8* p, const int (&v)[8]) {
  uint2 raw;
  raw.x = packed(v);
  raw.y = packed(v + 4);
  *(uint2*)p = raw;
}
template <> INLINE void store_winners<4, uint8>(uint8* p, const int (&v)[4]) {
  *(uint32*)p = packed(v);
}

// The first maximum of each window wins, and a NaN wins over numbers.
template <int V, typename T, typename I>
DEVICE void max_forward(const T* __restrict__ x, T* __restrict__ y, I* __restrict__ winners,
                        uint32 items, int channels, const Geometry& g) {
  for (uint32 item = first_item(); item < items; item += item_step()) {
    const Place p = place_of<V>(item, g.out, channels);
    float best[V];
    int winner[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      best[j] = -INF;
      winner[j] = -1;
    }
    int tap = 0;
#pragma unroll 1
    for (int a = 0; a < g.kernel[0]; ++a) {
      const int d = p.at[0] * g.stride[0] - g.padding[0] + a * g.dilation[0];
#pragma unroll 1
      for (int b = 0; b < g.kernel[1]; ++b) {
        const int h = p.at[1] * g.stride[1] - g.padding[1] + b * g.dilation[1];
#pragma unroll 2
        for (int c = 0; c < g.kernel[2]; ++c, ++tap) {
          const int w = p.at[2] * g.stride[2] - g.padding[2] + c * g.dilation[2];
          if (d < 0 || d >= g.in[0] || h < 0 || h >= g.in[1] || w < 0 || w >= g.in[2]) continue;
          float v[V];
          Wide<V>::load(x + offset(p.n, d, h, w, g.in, channels) + p.channel, v);
#pragma unroll
          for (int j = 0; j < V; ++j) {
            if (winner[j] < 0 || v[j] > best[j] || (is_nan(v[j]) && !is_nan(best[j]))) {
              best[j] = v[j];
              winner[j] = tap;
            }
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) winner[j] = winner[j] < 0 ? 0 : winner[j];
    const int64 to = offset(p.n, p.at[0], p.at[1], p.at[2], g.out, channels) + p.channel;
    Wide<V>::store(y + to, best);
    store_winners<V>(winners + to, winner);
  }
}

// The windows [first, last] of one dimension that position `at` lies in, dilation apart.
struct Windows {
  int first, last;
};
DEVICE Windows windows_over(int at, int k, const Geometry& g) {
  const int shifted = at + g.padding[k];
  const int before = shifted - (g.kernel[k] - 1) * g.dilation[k];
  Windows w;
  w.first = before <= 0 ? 0 : (before + g.stride[k] - 1) / g.stride[k];
  w.last = shifted / g.stride[k];
  if (w.last >= g.out[k]) w.last = g.out[k] - 1;
  return w;
}
// Which tap of window `o` lies on position `at`, or -1.
DEVICE int tap_of(int at, int o, int k, const Geometry& g) {
  const int reach = at + g.padding[k] - o * g.stride[k];
  if (g.dilation[k] == 1) return reach;
  return reach % g.dilation[k] ? -1 : reach / g.dilation[k];
}

// Windows are asked in the order of their taps on this position, from the last to the first.
template <int V, typename T, typename I>
DEVICE void max_backward(const T* __restrict__ grad_y, const I* __restrict__ winners,
                         T* __restrict__ grad_x, uint32 items, int channels, const Geometry& g) {
  for (uint32 item = first_item(); item < items; item += item_step()) {
    const Place p = place_of<V>(item, g.in, channels);
    const Windows ds = windows_over(p.at[0], 0, g), hs = windows_over(p.at[1], 1, g),
                  ws = windows_over(p.at[2], 2, g);
    float sum[V];
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = 0.0f;
#pragma unroll 1
    for (int d = ds.last; d >= ds.first; --d) {
      const int a = tap_of(p.at[0], d, 0, g);
      if (a < 0) continue;
#pragma unroll 1
      for (int h = hs.last; h >= hs.first; --h) {
        const int b = tap_of(p.at[1], h, 1, g);
        if (b < 0) continue;
#pragma unroll 1
        for (int w = ws.last; w >= ws.first; --w) {
          const int c = tap_of(p.at[2], w, 2, g);
          if (c < 0) continue;
          const int tap = (a * g.kernel[1] + b) * g.kernel[2] + c;
          const int64 from = offset(p.n, d, h, w, g.out, channels) + p.channel;
          float v[V];
          int winner[V];
          Wide<V>::load(grad_y + from, v);
          load_winners<V>(winners + from, winner);
#pragma unroll
          for (int j = 0; j < V; ++j) sum[j] += winner[j] == tap ? v[j] : 0.0f;
        }
      }
    }
    const int64 to = offset(p.n, p.at[0], p.at[1], p.at[2], g.in, channels) + p.channel;
    Wide<V>::store(grad_x + to, sum);
  }
}

// Forward: read 1 input, written 1 output and 1 byte per output. Backward: the reverse. `vector`: C
// and the addresses allow 16 bytes at a time.
#define MAX_POOL(T, S) \
  KERNEL(256, 4) max_pool_forward_##S(const T* x, T* y, uint8* winners, int64 items, \
                                      int channels, int vector, GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    if (vector) max_forward<LANES<T>::N>(x, y, winners, items, channels, g); \
    else max_forward<1>(x, y, winners, items, channels, g); \
  } \
  KERNEL(256, 4) max_pool_backward_##S(const T* grad_y, const uint8* winners, T* grad_x, \
                                       int64 items, int channels, int vector, \
                                       GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    if (vector) max_backward<LANES<T>::N>(grad_y, winners, grad_x, items, channels, g); \
    else max_backward<1>(grad_y, winners, grad_x, items, channels, g); \
  }
FOR_EACH_FLOAT(MAX_POOL)

// Windows of more than 256 elements: winners of 4 bytes, one channel per thread.
#define MAX_POOL_LARGE(T, S) \
  KERNEL(256, 4) max_pool_large_forward_##S(const T* x, T* y, int* winners, int64 items, \
                                            int channels, GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    max_forward<1>(x, y, winners, items, channels, g); \
  } \
  KERNEL(256, 4) max_pool_large_backward_##S(const T* grad_y, const int* winners, T* grad_x, \
                                             int64 items, int channels, GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    max_backward<1>(grad_y, winners, grad_x, items, channels, g); \
  }
FOR_EACH_FLOAT(MAX_POOL_LARGE)

// -- average --------------------------------------------------------------------------------------
// Elements that window `o` of dimension k counts: within the padding, or within the input.
DEVICE int counted(int o, int k, const Geometry& g, int include_pad) {
  int start = o * g.stride[k] - g.padding[k];
  int end = start + g.kernel[k];
  const int limit = g.in[k] + (include_pad ? g.padding[k] : 0);
  if (end > limit) end = limit;
  if (!include_pad && start < 0) start = 0;
  return end - start;
}

// What each element of window (d, h, w) has of its mean.
DEVICE float share_of(int d, int h, int w, const Geometry& g, int include_pad) {
  return 1.0f / ((float)counted(d, 0, g, include_pad) * (float)counted(h, 1, g, include_pad) *
                 (float)counted(w, 2, g, include_pad));
}

template <int V, typename T>
DEVICE void avg_forward(const T* __restrict__ x, T* __restrict__ y, uint32 items, int channels,
                        int include_pad, const Geometry& g) {
  for (uint32 item = first_item(); item < items; item += item_step()) {
    const Place p = place_of<V>(item, g.out, channels);
    float sum[V];
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = 0.0f;
#pragma unroll 1
    for (int a = 0; a < g.kernel[0]; ++a) {
      const int d = p.at[0] * g.stride[0] - g.padding[0] + a;
#pragma unroll 1
      for (int b = 0; b < g.kernel[1]; ++b) {
        const int h = p.at[1] * g.stride[1] - g.padding[1] + b;
        if (d < 0 || d >= g.in[0] || h < 0 || h >= g.in[1]) continue;
#pragma unroll 2
        for (int c = 0; c < g.kernel[2]; ++c) {
          const int w = p.at[2] * g.stride[2] - g.padding[2] + c;
          if (w < 0 || w >= g.in[2]) continue;
          float v[V];
          Wide<V>::load(x + offset(p.n, d, h, w, g.in, channels) + p.channel, v);
#pragma unroll
          for (int j = 0; j < V; ++j) sum[j] += v[j];
        }
      }
    }
    const float share = share_of(p.at[0], p.at[1], p.at[2], g, include_pad);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] *= share;
    const int64 to = offset(p.n, p.at[0], p.at[1], p.at[2], g.out, channels) + p.channel;
    Wide<V>::store(y + to, sum);
  }
}

template <int V, typename T>
DEVICE void avg_backward(const T* __restrict__ grad_y, T* __restrict__ grad_x, uint32 items,
                         int channels, int include_pad, const Geometry& g) {
  for (uint32 item = first_item(); item < items; item += item_step()) {
    const Place p = place_of<V>(item, g.in, channels);
    const Windows ds = windows_over(p.at[0], 0, g), hs = windows_over(p.at[1], 1, g),
                  ws = windows_over(p.at[2], 2, g);
    float sum[V];
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = 0.0f;
#pragma unroll 1
    for (int d = ds.last; d >= ds.first; --d) {
#pragma unroll 1
      for (int h = hs.last; h >= hs.first; --h) {
#pragma unroll 1
        for (int w = ws.last; w >= ws.first; --w) {
          const float share = share_of(d, h, w, g, include_pad);
          float v[V];
          Wide<V>::load(grad_y + offset(p.n, d, h, w, g.out, channels) + p.channel, v);
#pragma unroll
          for (int j = 0; j < V; ++j) sum[j] += v[j] * share;
        }
      }
    }
    const int64 to = offset(p.n, p.at[0], p.at[1], p.at[2], g.in, channels) + p.channel;
    Wide<V>::store(grad_x + to, sum);
  }
}

// Forward: read 1 input, written 1 output. Backward: the reverse.
#define AVG_POOL(T, S) \
  KERNEL(256, 4) avg_pool_forward_##S(const T* x, T* y, int64 items, int channels, int vector, \
                                      int include_pad, GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    if (vector) avg_forward<LANES<T>::N>(x, y, items, channels, include_pad, g); \
    else avg_forward<1>(x, y, items, channels, include_pad, g); \
  } \
  KERNEL(256, 4) avg_pool_backward_##S(const T* grad_y, T* grad_x, int64 items, int channels, \
                                       int vector, int include_pad, GEOMETRY_ARGUMENTS) { \
    const Geometry g = GEOMETRY; \
    if (vector) avg_backward<LANES<T>::N>(grad_y, grad_x, items, channels, include_pad, g); \
    else avg_backward<1>(grad_y, grad_x, items, channels, include_pad, g); \
  }
FOR_EACH_FLOAT(AVG_POOL)

// The mean over a whole plane of (N, positions, C) to (N, C), where one thread per channel group
// would read too long by itself: a block has (lanes, groups), a group every groups-th position, and
// the groups' sums meet in shared memory in a fixed order. Grid: (tiles of channels, N).
template <int V, typename T>
DEVICE void mean_forward(const T* __restrict__ x, T* __restrict__ y, int64 positions,
                         int64 channels) {
  __shared__ float sums[256 * V];
  const int lanes = blockDim.x, groups = blockDim.y, width = lanes * V;
  const int64 channel = (blockIdx.x * (int64)lanes + threadIdx.x) * V;
  float total[V];
#pragma unroll
  for (int j = 0; j < V; ++j) total[j] = 0.0f;
  if (channel < channels) {
#pragma unroll 4
    for (int64 r = threadIdx.y; r < positions; r += groups) {
      float v[V];
      Wide<V>::load(x + (blockIdx.y * positions + r) * channels + channel, v);
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] += v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sums[threadIdx.y * width + threadIdx.x * V + j] = total[j];
  __syncthreads();
  for (int i = threadIdx.y * lanes + threadIdx.x; i < width; i += lanes * groups) {
    const int64 c = blockIdx.x * (int64)width + i;
    if (c >= channels) continue;
    float sum = 0.0f;
    for (int group = 0; group < groups; ++group) sum += sums[group * width + i];
    y[blockIdx.y * channels + c] = from_float<T>(sum / (float)positions);
  }
}

// Read 1.
#define MEAN_POOL(T, S) \
  KERNEL(256, 4) mean_pool_forward_##S(const T* x, T* y, int64 positions, int64 channels, \
                                       int vector) { \
    if (vector) mean_forward<LANES<T>::N>(x, y, positions, channels); \
    else mean_forward<1>(x, y, positions, channels); \
  }
FOR_EACH_FLOAT(MEAN_POOL)
