// SGD, and averages of parameters over training.
#include "optim.cuh"

template <typename T>
DEVICE void sgd(const uint64* table, int tensors, const float* numbers, int nesterov) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  if (n[ACTIVE] == 0.0f) return;
  const bool heavy = piece.row[STATE] != 0;
  const float lr = n[RATE], momentum = n[3], share = n[4], decay = n[5];
  step_piece<T>(piece, n[FACTOR], [=](float& p, float g, float& m, float&, float&) {
    float update = decay != 0.0f ? g + decay * p : g;
    if (heavy) {
      m = momentum * m + share * update;
      update = nesterov ? update + momentum * m : m;
    }
    p -= lr * update;
  });
}

// param = average of all that grad has been: keep * param + share * grad, or a step towards grad.
template <typename T> DEVICE void average(const uint64* table, int tensors, const float* numbers) {
  const Piece piece = piece_of_block(table, tensors);
  const float* n = numbers + piece.tensor * NUMBERS;
  const float keep = n[RATE], share = n[3];
  const bool towards = n[4] != 0.0f;
  step_piece<T>(piece, 1.0f, [=](float& p, float g, float&, float&, float&) {
    p = towards ? p + (g - p) * share : keep == 0.0f ? share * g : keep * p + share * g;
  });
}

#define DEFINE(T, S) \
  NESTEROV_KERNEL(sgd, T, S) \
  STEP_KERNEL(average, T, S)
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
