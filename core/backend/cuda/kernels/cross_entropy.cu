// Cross-entropy of logits x (outer, dim, inner) in memory with class indices target (outer, inner),
// label smoothing, weights of classes and an index that is ignored. Source of the formulas: PyTorch
// manual, CrossEntropyLoss.
//
// The loss of an element with target t, where log p = x - top - log(sum e**(x - top)):
//   (1 - smoothing) w[t] (-log p[t]) + smoothing / dim * sum_c w[c] (-log p[c])
// An ignored target gives loss and gradient 0. A target outside 0..dim-1 gives NaN: nothing can be
// raised from here, and no memory outside of the row is read.
//
// Forward: one kernel over the logits, which leaves partial sums per block, and one over those.
// Backward: one kernel. So the logits are read twice and their gradient is written once.

#include "soft.cuh"

struct Settings {
  const float* weight;  // (dim,) or null
  int64 ignore_index;
  float smoothing;
};

DEVICE float weight_of(const Settings& set, int64 c) { return set.weight ? set.weight[c] : 1.0f; }
DEVICE bool outside(int64 t, int64 dim) { return t < 0 || t >= dim; }

// Sums of a thread over its elements.
struct Totals {
  float loss, weight;
};

// Note the loss of one element; `spread` is sum_c w[c] (-log p[c]).
DEVICE void note(Totals& totals, const Settings& set, int64 t, int64 dim, float log_p,
                 float spread, float* losses, int64 item) {
  float loss = 0.0f;
  if (t != set.ignore_index) {
    const float w = outside(t, dim) ? float_of_bits(0x7FC00000u) : weight_of(set, t);
    loss = w * -log_p;
    if (set.smoothing > 0.0f)
      loss = (1.0f - set.smoothing) * loss + set.smoothing / (float)dim * spread;
    totals.loss += loss;
    totals.weight += w;
  }
  if (losses) losses[item] = loss;
}

template <typename T>
DEVICE Totals forward_rows(const T* __restrict__ x, const int64* __restrict__ target, Settings set,
                           float* __restrict__ stats, float* __restrict__ losses, int64 rows,
                           int64 dim, bool vector, int threads) {
  const int W = LANES<T>::N;
  const Team team = {threads};
  Totals totals = {0.0f, 0.0f};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const T* row = x + r * dim;
    const Soft s = vector ? row_soft<W>(row, dim, team) : row_soft<1>(row, dim, team);
    const float log_sum = logf(s.sum);
    float spread = 0.0f;
    if (set.smoothing > 0.0f) {
      for (int64 i = team.rank(); i < dim; i += threads)
        spread += weight_of(set, i) * -((to_float(row[i]) - s.top) - log_sum);
      spread = team.sum(spread);
    }
    if (team.rank() == 0) {
      const int64 t = target[r];
      const float own = outside(t, dim) ? 0.0f : to_float(row[t]);
      stats[r] = s.top;
      stats[rows + r] = log_sum;
      note(totals, set, t, dim, (own - s.top) - log_sum, spread, losses, r);
    }
  }
  return totals;
}

template <typename T>
DEVICE Totals forward_strided(const T* __restrict__ x, const int64* __restrict__ target,
                              Settings set, float* __restrict__ stats, float* __restrict__ losses,
                              int64 items, int64 dim, int64 inner) {
  Totals totals = {0.0f, 0.0f};
  for (int64 item = first_item(); item < items; item += item_step()) {
    const T* row = x + item / inner * dim * inner + item % inner;
    Soft s = nothing();
    for (int64 i = 0; i < dim; ++i) {
      const float v[1] = {to_float(row[i * inner])};
      s = with(s, v);
    }
    const float log_sum = logf(s.sum);
    float spread = 0.0f;
    if (set.smoothing > 0.0f)
      for (int64 i = 0; i < dim; ++i)
        spread += weight_of(set, i) * -((to_float(row[i * inner]) - s.top) - log_sum);
    const int64 t = target[item];
    const float own = outside(t, dim) ? 0.0f : to_float(row[t * inner]);
    stats[item] = s.top;
    stats[items + item] = log_sum;
    note(totals, set, t, dim, (own - s.top) - log_sum, spread, losses, item);
  }
  return totals;
}

// Read 1. stats: (2, outer * inner), top and log of the sum. losses: one per element, or null.
// partial: (blocks, 2), the sums of losses and of weights. `threads` that share a row: 32 or 256.
#define CROSS_ENTROPY_FORWARD(T, S) \
  KERNEL(256, 4) cross_entropy_forward_##S(const T* x, const int64* target, const float* weight, \
                                           float* stats, float* losses, float* partial, \
                                           int64 outer, int64 dim, int64 inner, int threads, \
                                           int64 ignore_index, float smoothing) { \
    const Settings set = {weight, ignore_index, smoothing}; \
    const bool vector = aligned16(x) && dim % LANES<T>::N == 0; \
    Totals totals; \
    if (inner != 1) \
      totals = forward_strided(x, target, set, stats, losses, outer * inner, dim, inner); \
    else \
      totals = forward_rows(x, target, set, stats, losses, outer, dim, vector, threads); \
    const float loss = block_sum(totals.loss), sum = block_sum(totals.weight); \
    if (threadIdx.x == 0) { \
      partial[2 * blockIdx.x] = loss; \
      partial[2 * blockIdx.x + 1] = sum; \
    } \
  }
FOR_EACH_FLOAT(CROSS_ENTROPY_FORWARD)

// One block: loss = sum of losses / total, where total is the sum of weights if `mean`, else 1.
#define CROSS_ENTROPY_FINISH(T, S) \
  KERNEL(256, 4) cross_entropy_finish_##S(const float* partial, T* loss, float* total, \
                                          int blocks, int mean) { \
    float losses = 0.0f, weights = 0.0f; \
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) { \
      losses += partial[2 * i]; \
      weights += partial[2 * i + 1]; \
    } \
    losses = block_sum(losses); \
    weights = block_sum(weights); \
    if (threadIdx.x != 0) return; \
    const float divisor = mean ? weights : 1.0f; \
    *total = divisor; \
    *loss = from_float<T>(losses / divisor); \
  }
FOR_EACH_FLOAT(CROSS_ENTROPY_FINISH)

// -- gradient -------------------------------------------------------------------------------------
// scale * (p[c] * A - (c == t) w[t] (1 - smoothing) - w[c] smoothing / dim), where
// A = w[t] (1 - smoothing) + smoothing / dim * sum of w, and scale = grad_y / total.
struct Row {
  float top, log_sum, scale, hit, all;
  int64 t;
  bool ignored;
};

DEVICE Row row_of(const Settings& set, int64 t, int64 dim, float top, float log_sum, float scale,
                  float sum_of_weights) {
  Row row = {top, log_sum, scale, 0.0f, 0.0f, t, t == set.ignore_index};
  if (row.ignored) return row;
  const float w = outside(t, dim) ? float_of_bits(0x7FC00000u) : weight_of(set, t);
  row.hit = w * (1.0f - set.smoothing);
  row.all = row.hit + set.smoothing / (float)dim * sum_of_weights;
  return row;
}

DEVICE float gradient(const Settings& set, const Row& row, float x, int64 c, int64 dim) {
  if (row.ignored) return 0.0f;
  float g = expf((x - row.top) - row.log_sum) * row.all;
  if (c == row.t) g -= row.hit;
  if (set.smoothing > 0.0f) g -= set.smoothing / (float)dim * weight_of(set, c);
  return row.scale * g;
}

// The sum of all weights, in every thread of the block.
DEVICE float sum_of_weights(const Settings& set, int64 dim) {
  if (!set.weight) return (float)dim;
  float sum = 0.0f;
  if (set.smoothing > 0.0f)
    for (int64 c = threadIdx.x; c < dim; c += blockDim.x) sum += set.weight[c];
  return block_sum(sum);
}

template <int V, typename T>
DEVICE void backward_rows(const T* __restrict__ x, const int64* __restrict__ target, Settings set,
                          const float* __restrict__ stats, const float* __restrict__ total,
                          const T* __restrict__ grad_y, T* __restrict__ grad_x, int64 rows,
                          int64 dim, int threads, int per_row, float weights) {
  const Team team = {threads};
  const float divisor = *total;
  for (int64 r = team.first(); r < rows; r += team.step()) {
    const float scale = to_float(grad_y[per_row ? r : 0]) / divisor;
    const Row row = row_of(set, target[r], dim, stats[r], stats[rows + r], scale, weights);
    for (int64 i = team.rank() * V; i < dim; i += threads * V) {
      float v[V];
      Wide<V>::load(x + r * dim + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) v[j] = gradient(set, row, v[j], i + j, dim);
      Wide<V>::store(grad_x + r * dim + i, v);
    }
  }
}

template <typename T>
DEVICE void backward_strided(const T* __restrict__ x, const int64* __restrict__ target,
                             Settings set, const float* __restrict__ stats,
                             const float* __restrict__ total, const T* __restrict__ grad_y,
                             T* __restrict__ grad_x, int64 items, int64 dim, int64 inner,
                             int per_row, float weights) {
  const float divisor = *total;
  for (int64 item = first_item(); item < items; item += item_step()) {
    const float scale = to_float(grad_y[per_row ? item : 0]) / divisor;
    const Row row =
        row_of(set, target[item], dim, stats[item], stats[items + item], scale, weights);
    const int64 start = item / inner * dim * inner + item % inner;
    for (int64 c = 0; c < dim; ++c) {
      const int64 at = start + c * inner;
      grad_x[at] = from_float<T>(gradient(set, row, to_float(x[at]), c, dim));
    }
  }
}

// Read 1, written 1. grad_y: one number, or one per element if `per_row`.
#define CROSS_ENTROPY_BACKWARD(T, S) \
  KERNEL(256, 4) cross_entropy_backward_##S(const T* x, const int64* target, \
                                            const float* weight, const float* stats, \
                                            const float* total, const T* grad_y, T* grad_x, \
                                            int64 outer, int64 dim, int64 inner, int threads, \
                                            int64 ignore_index, float smoothing, int per_row) { \
    const Settings set = {weight, ignore_index, smoothing}; \
    const float sum = sum_of_weights(set, dim); \
    const int W = LANES<T>::N; \
    const bool vector = aligned16(x) && aligned16(grad_x) && dim % W == 0; \
    if (inner != 1) \
      backward_strided(x, target, set, stats, total, grad_y, grad_x, outer * inner, dim, inner, \
                       per_row, sum); \
    else if (vector) \
      backward_rows<W>(x, target, set, stats, total, grad_y, grad_x, outer, dim, threads, \
                       per_row, sum); \
    else \
      backward_rows<1>(x, target, set, stats, total, grad_y, grad_x, outer, dim, threads, \
                       per_row, sum); \
  }
FOR_EACH_FLOAT(CROSS_ENTROPY_BACKWARD)
