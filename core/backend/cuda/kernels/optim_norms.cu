// LARS and LAMB: sums of squares per chunk, a rate per tensor (`optim_ratio`), then the step.
#include "optim.cuh"

DEVICE void store_squares(double a, double b, double* partial) {
  a = block_sum(a);
  b = block_sum(b);
  if (threadIdx.x == 0) {
    partial[2 * (int64)blockIdx.x] = a;
    partial[2 * (int64)blockIdx.x + 1] = b;
  }
}

// LARS looks at parameter and gradient; elements one by one, as nothing is written.
template <typename T>
DEVICE void lars_norms(const uint64* table, int tensors, const float* numbers, double* partial) {
  const Piece piece = piece_of_block(table, tensors);
  const float factor = numbers[piece.tensor * NUMBERS + FACTOR];
  const T *param = piece.at<const T>(PARAM), *grad = piece.at<const T>(GRAD);
  double a = 0, b = 0;
  for (int64 i = piece.begin + threadIdx.x; i < piece.end; i += blockDim.x) {
    const double p = to_float(param[i]), g = to_float(grad[i]) * factor;
    a += p * p;
    b += g * g;
  }
  store_squares(a, b, partial);
}

DEVICE float lamb_update(float p, float m, float v, const float* n) {
  const float update = m / n[9] / (sqrtf(v) / n[3] + n[8]);
  return n[10] != 0.0f ? update + n[10] * p : update;
}

template <typename T>
DEVICE void lamb_norms(const uint64* table, int tensors, const float* numbers, double* partial) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  T *first = piece.at<T>(STATE), *second = piece.at<T>(STATE + 1);
  const T *param = piece.at<const T>(PARAM), *grad = piece.at<const T>(GRAD);
  double a = 0, b = 0;
  for (int64 i = piece.begin + threadIdx.x; i < piece.end; i += blockDim.x) {
    const float p = to_float(param[i]), g = to_float(grad[i]) * n[FACTOR];
    const float m = n[4] * to_float(first[i]) + n[5] * g;
    const float v = n[6] * to_float(second[i]) + n[7] * (g * g);
    first[i] = from_float<T>(m);
    second[i] = from_float<T>(v);
    const double update = lamb_update(p, to_float(first[i]), to_float(second[i]), n);
    a += (double)p * p;
    b += update * update;
  }
  store_squares(a, b, partial);
}

template <typename T>
DEVICE void lars(const uint64* table, int tensors, const float* numbers, int nesterov) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const float lr = n[RATE], momentum = n[3], decay = n[4];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float g, float& m, float&, float&) {
    if (decay != 0.0f) g += decay * p;
    const float update = lr * g;
    m = momentum * m + update;
    p -= nesterov ? update + momentum * m : m;
  });
}

template <typename T> DEVICE void lamb(const uint64* table, int tensors, const float* numbers) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const float rate = n[RATE];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float, float& m, float& v, float&) {
    p -= rate * lamb_update(p, m, v, n);
  });
}

#define DEFINE(T, S) \
  NORMS_KERNEL(lars_norms, T, S) \
  NORMS_KERNEL(lamb_norms, T, S) \
  NESTEROV_KERNEL(lars, T, S) \
  STEP_KERNEL(lamb, T, S)
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
