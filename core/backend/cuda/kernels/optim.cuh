// What optimizer steps share: float32 arithmetic on many tensors in one launch, rounded once when
// stored.
#include "tensors.cuh"

const int NUMBERS = 16;
const int ACTIVE = 0;  // 0: gradients were not finite, the step is skipped
const int FACTOR = 1;  // what gradients are multiplied by: sign and loss scale
const int RATE = 2;

const int SGD = 0, ADAM = 1, RMSPROP = 2, ADAGRAD = 3, LARS = 4, LAMB = 5, AVERAGE = 6;

// f(p, g, a, b, c) changes one element of the parameter and of up to three states.
template <typename T, int V, typename F>
DEVICE void span(const Piece& piece, int64 begin, int64 end, float factor, F f) {
  T* param = piece.at<T>(PARAM);
  const T* grad = piece.at<const T>(GRAD);
  T *first = piece.at<T>(STATE), *second = piece.at<T>(STATE + 1), *third = piece.at<T>(STATE + 2);
  void* copy = piece.at<void>(COPY);
  const bool halves = (piece.row[KIND] & COPY_MASK) == COPY_HALF;
  for (int64 i = begin + threadIdx.x * V; i < end; i += blockDim.x * V) {
    float p[V], g[V], a[V] = {}, b[V] = {}, c[V] = {};
    Wide<V>::load(param + i, p);
    Wide<V>::load(grad + i, g);
    if (first) Wide<V>::load(first + i, a);
    if (second) Wide<V>::load(second + i, b);
    if (third) Wide<V>::load(third + i, c);
#pragma unroll
    for (int j = 0; j < V; ++j) f(p[j], g[j] * factor, a[j], b[j], c[j]);
    Wide<V>::store(param + i, p);
    if (first) Wide<V>::store(first + i, a);
    if (second) Wide<V>::store(second + i, b);
    if (third) Wide<V>::store(third + i, c);
    if (copy) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if (halves) ((float16*)copy)[i + j] = from_float<float16>(p[j]);
        else ((bfloat16*)copy)[i + j] = from_float<bfloat16>(p[j]);
      }
    }
  }
}

template <typename T, typename F>
DEVICE void step_piece(const Piece& piece, float factor, F f) {
  const int W = LANES<T>::N;
  int64 done = piece.begin;
  bool wide = true;
#pragma unroll
  for (int word = PARAM; word < COPY; ++word) wide = wide && (piece.row[word] & 15) == 0;
  if (wide) {
    done = piece.begin + (piece.end - piece.begin) / W * W;
    span<T, W>(piece, piece.begin, done, factor, f);
  }
  span<T, 1>(piece, done, piece.end, factor, f);
}

#define STEP_KERNEL(name, T, S)                                                                   \
  KERNEL(256) name##_step_##S(const uint64* table, int tensors, const float* numbers) {           \
    name<T>(table, tensors, numbers);                                                             \
  }
#define NESTEROV_KERNEL(name, T, S)                                                               \
  KERNEL(256) name##_step_##S(const uint64* table, int tensors, const float* numbers,             \
                              int nesterov) {                                                     \
    name<T>(table, tensors, numbers, nesterov);                                                   \
  }
#define NORMS_KERNEL(name, T, S)                                                                  \
  KERNEL(256) name##_##S(const uint64* table, int tensors, const float* numbers,                  \
                         double* partial) {                                                       \
    name<T>(table, tensors, numbers, partial);                                                    \
  }
