// Adam, AdamW, RMSprop and Adagrad.
#include "optim.cuh"

template <typename T> DEVICE void adam(const uint64* table, int tensors, const float* numbers) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const bool largest = piece.row[STATE + 2] != 0;
  const float rate = n[RATE], root = n[3], keep1 = n[4], take1 = n[5], keep2 = n[6], take2 = n[7];
  const float eps = n[8], shrink = n[9], decay = n[10];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float g, float& m, float& v, float& top) {
    p *= shrink;
    if (decay != 0.0f) g += decay * p;
    m = keep1 * m + take1 * g;
    v = keep2 * v + take2 * (g * g);
    float second = v;
    if (largest) second = top = top >= v || is_nan(top) ? top : v;
    p -= rate * m / (sqrtf(second) / root + eps);
  });
}

template <typename T> DEVICE void rmsprop(const uint64* table, int tensors, const float* numbers) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const bool heavy = piece.row[STATE + 1] != 0, centered = piece.row[STATE + 2] != 0;
  const float lr = n[RATE], keep = n[3], take = n[4], eps = n[5], decay = n[6], momentum = n[7];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float g, float& square, float& m, float& mean) {
    if (decay != 0.0f) g += decay * p;
    square = keep * square + take * (g * g);
    float spread = square;
    if (centered) {
      mean = keep * mean + take * g;
      spread = square - mean * mean;
    }
    float update = g / (sqrtf(spread) + eps);
    if (heavy) update = m = momentum * m + update;
    p -= lr * update;
  });
}

template <typename T> DEVICE void adagrad(const uint64* table, int tensors, const float* numbers) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const float lr = n[RATE], eps = n[3], decay = n[4];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float g, float& sum, float&, float&) {
    if (decay != 0.0f) g += decay * p;
    sum += g * g;
    p -= lr * (g / (sqrtf(sum) + eps));
  });
}

#define DEFINE(T, S) \
  STEP_KERNEL(adam, T, S) \
  STEP_KERNEL(rmsprop, T, S) \
  STEP_KERNEL(adagrad, T, S)
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
