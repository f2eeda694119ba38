// What comes before the step of a group of tensors.
//
// `hyper` has the settings as the user gave them, in double precision and in device memory, where
// they may change between the replays of a captured graph. `optim_prepare` counts the step and makes
// of them the NUMBERS floats of each tensor that its elements are stepped with.
#include "optim.cuh"

KERNEL(32) optim_hyper(double* hyper, double h0, double h1, double h2, double h3, double h4,
                       double h5, double h6, double h7, double h8, double h9) {
  if (blockIdx.x || threadIdx.x) return;
  hyper[0] = h0; hyper[1] = h1; hyper[2] = h2; hyper[3] = h3; hyper[4] = h4;
  hyper[5] = h5; hyper[6] = h6; hyper[7] = h7; hyper[8] = h8; hyper[9] = h9;
}

// hyper: SGD {lr, momentum, dampening, decay}; Adam {lr, beta1, beta2, eps, decay, decoupled, step};
// RMSprop {lr, alpha, eps, decay, momentum}; Adagrad {lr, lr_decay, eps, decay, -, -, step};
// LARS {lr, momentum, decay, trust, eps}; LAMB {lr, beta1, beta2, eps, decay, -, step, low, high};
// averages {decay, or -1 for equal shares, ..., [6] how many}. A row's STEP points at the count of
// its tensor, a float (of averages: an int64 that is only read); without one hyper[6] has the count.
DEVICE void prepare(int kind, const double* hyper, const uint64* row, float* out) {
  const double lr = hyper[0];
  const bool adapts = (row[KIND] & ADAPTS) != 0;
  double t = hyper[6];
  if (kind == AVERAGE) {
    if (row[STEP]) t = (double)*(const int64*)row[STEP];
    out[RATE] = t == 0 ? 0.0f : hyper[0] < 0 ? 1.0f : (float)hyper[0];
    out[3] = t == 0 ? 1.0f : (float)(hyper[0] < 0 ? 1.0 / (t + 1) : 1.0 - hyper[0]);
    out[4] = t != 0 && hyper[0] < 0;
    return;
  }
  if (row[STEP]) {
    float* count = (float*)row[STEP];
    *count += 1.0f;
    t = *count;
  }
  out[RATE] = (float)lr;
  if (kind == SGD) {
    out[3] = (float)hyper[1];
    out[4] = row[STEP] && t == 1 ? 1.0f : (float)(1 - hyper[2]);
    out[5] = (float)hyper[3];
  } else if (kind == ADAM || kind == LAMB) {
    const double first = 1 - pow(hyper[1], t);
    out[3] = (float)sqrt(1 - pow(hyper[2], t));
    out[4] = (float)hyper[1];
    out[5] = (float)(1 - hyper[1]);
    out[6] = (float)hyper[2];
    out[7] = (float)(1 - hyper[2]);
    out[8] = (float)hyper[3];
    if (kind == ADAM) {
      out[RATE] = (float)(lr / first);
      out[9] = hyper[5] != 0 ? (float)(1 - lr * hyper[4]) : 1.0f;
      out[10] = hyper[5] != 0 ? 0.0f : (float)hyper[4];
    } else {
      out[9] = (float)first;
      out[10] = adapts ? (float)hyper[4] : 0.0f;
      out[11] = (float)hyper[7];
      out[12] = (float)hyper[8];
    }
  } else if (kind == RMSPROP) {
    out[3] = (float)hyper[1];
    out[4] = (float)(1 - hyper[1]);
    out[5] = (float)hyper[2];
    out[6] = (float)hyper[3];
    out[7] = (float)hyper[4];
  } else if (kind == ADAGRAD) {
    out[RATE] = (float)(lr / (1 + (t - 1) * hyper[1]));
    out[3] = (float)hyper[2];
    out[4] = (float)hyper[3];
  } else if (kind == LARS) {
    out[3] = (float)hyper[1];
    out[4] = adapts ? (float)hyper[2] : 0.0f;
    out[5] = (float)hyper[3];
    out[6] = (float)hyper[4];
  }
}

// One thread for each tensor. A null `found` or `scale` ({scale, 1 / scale}): none.
KERNEL(128) optim_prepare(const uint64* table, int tensors, int kind, const double* hyper,
                          float sign, const float* found, const float* scale, float* numbers) {
  const int64 i = first_item();
  if (i >= tensors) return;
  float* out = numbers + i * NUMBERS;
  const bool active = !found || *found == 0.0f;
  out[ACTIVE] = active;
  out[FACTOR] = scale ? sign * scale[1] : sign;
  if (active) prepare(kind, hyper, table + i * ROW, out);
}

// The rate of each tensor from its two norms: a block for each.
KERNEL(128) optim_ratio(const uint64* table, int tensors, int kind, const double* partial,
                        float* numbers) {
  const uint64* row = table + (int64)blockIdx.x * ROW;
  float* n = numbers + (int64)blockIdx.x * NUMBERS;
  const int64 chunks = ((int64)row[SIZE] + CHUNK - 1) / CHUNK;
  const double* mine = partial + 2 * (int64)row[FIRST_CHUNK];
  if (n[ACTIVE] == 0.0f || !(row[KIND] & ADAPTS)) return;
  double a = 0, b = 0;
  for (int64 i = threadIdx.x; i < chunks; i += blockDim.x) {
    a += mine[2 * i];
    b += mine[2 * i + 1];
  }
  double size = sqrt(block_sum(a)), other = sqrt(block_sum(b));
  if (threadIdx.x) return;
  if (kind == LAMB) size = size < n[11] ? n[11] : size > n[12] ? n[12] : size;
  if (!(size > 0 && other > 0)) return;
  if (kind == LARS) n[RATE] *= n[5] * size / (other + n[4] * size + n[6]);
  else n[RATE] *= size / other;
}
