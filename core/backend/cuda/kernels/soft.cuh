// The largest value of a row and the sum of e**(x - top), in one pass over it (Milakov & Gimelshein
// 2018, "Online normalizer calculation for softmax").

// Largest value so far, and the sum of e**(x - top).
struct Soft {
  float top, sum;
};
DEVICE Soft nothing() {
  Soft s;
  s.top = -INF;
  s.sum = 0.0f;
  return s;
}
// -inf adds nothing; NaN and +inf make the sum NaN, as they do in x - max(x).
template <int V> DEVICE Soft with(Soft s, const float (&x)[V]) {
  Soft t;
  t.top = s.top;
#pragma unroll
  for (int j = 0; j < V; ++j) t.top = fmaxf(t.top, x[j]);
  t.sum = s.sum * (s.top == t.top ? 1.0f : expf(s.top - t.top));
#pragma unroll
  for (int j = 0; j < V; ++j) t.sum += x[j] == -INF ? 0.0f : expf(x[j] - t.top);
  return t;
}
DEVICE Soft merged(Soft a, Soft b) {
  Soft t;
  t.top = fmaxf(a.top, b.top);
  t.sum = a.sum * (a.top == t.top ? 1.0f : expf(a.top - t.top)) +
          b.sum * (b.top == t.top ? 1.0f : expf(b.top - t.top));
  return t;
}
DEVICE Soft warp_merged(Soft s) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) {
    Soft other;
    other.top = __shfl_xor_sync(ALL_LANES, s.top, step);
    other.sum = __shfl_xor_sync(ALL_LANES, s.sum, step);
    // Both partners merge in the same order, so that they get the same bits.
    s = (threadIdx.x & step) ? merged(other, s) : merged(s, other);
  }
  return s;
}
DEVICE Soft block_merged(Soft s) {
  __shared__ float tops[WARP], sums[WARP];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  s = warp_merged(s);
  __syncthreads();
  if (lane == 0) {
    tops[warp] = s.top;
    sums[warp] = s.sum;
  }
  __syncthreads();
  s = nothing();
  if (lane < TEAM_BLOCK / WARP) {
    s.top = tops[lane];
    s.sum = sums[lane];
  }
  return warp_merged(s);
}

// top and sum of a row, in all threads of the team.
template <int V, typename T>
DEVICE Soft row_soft(const T* __restrict__ row, int64 dim, const Team& team) {
  Soft s = nothing();
#pragma unroll 2
  for (int64 i = team.rank() * V; i < dim; i += team.threads * V) {
    float v[V];
    Wide<V>::load(row + i, v);
    s = with(s, v);
  }
  return team.threads == WARP ? warp_merged(s) : block_merged(s);
}
