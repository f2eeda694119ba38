// What cuDNN leaves of batch norm: inference, vectors of statistics, and the bias of a product.

DEVICE float rectified(float x, int relu) { return relu && x <= 0.0f ? 0.0f : x; }  // NaN stays

// y = (x - mean) / sqrt(var + eps) * scale + shift for n elements of channels-last x, V at a time.
template <int V, typename T>
DEVICE void normalise(const T* __restrict__ x, const float* __restrict__ scale,
                      const float* __restrict__ shift, const float* __restrict__ mean,
                      const float* __restrict__ var, T* __restrict__ y, float eps, int64 n,
                      int channels, int relu) {
  for (int64 i = first_item() * V; i < n; i += item_step() * V) {
    const int first = (int)(i % channels);
    float v[V];
    Wide<V>::load(x + i, v);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const int c = first + j;
      const float factor = rsqrtf(var[c] + eps) * scale[c];
      v[j] = rectified((v[j] - mean[c]) * factor + shift[c], relu);
    }
    Wide<V>::store(y + i, v);
  }
}

// Read 1, written 1; the vectors come from the caches.
#define BATCH_NORM_INFERENCE(T, S) \
  KERNEL(256) batch_norm_inference_##S(const T* x, const float* scale, const float* shift, \
                                       const float* mean, const float* var, T* y, float eps, \
                                       int64 n, int channels, int relu) { \
    const int W = LANES<T>::N; \
    if (channels % W == 0 && aligned16(x) && aligned16(y)) \
      normalise<W>(x, scale, shift, mean, var, y, eps, n, channels, relu); \
    else \
      normalise<1>(x, scale, shift, mean, var, y, eps, n, channels, relu); \
  }
FOR_EACH_FLOAT(BATCH_NORM_INFERENCE)

// y[r, c] += bias[c], then ReLU if asked, in place. Read 1, written 1.
#define ADD_BIAS(T, S) \
  KERNEL(256) add_bias_##S(T* y, const T* bias, int64 n, int64 cols, int relu) { \
    for (int64 i = first_item(); i < n; i += item_step()) \
      y[i] = from_float<T>(rectified(to_float(y[i]) + to_float(bias[i % cols]), relu)); \
  }
FOR_EACH_FLOAT(ADD_BIAS)

// The biased variance of each channel from 1 / sqrt(variance + eps), which is what cuDNN gives.
KERNEL(256) batch_norm_variance(const float* rstd, float* var, float eps, int64 n) {
  for (int64 i = first_item(); i < n; i += item_step()) {
    const float v = 1.0f / (rstd[i] * rstd[i]) - eps;
    var[i] = v < 0.0f ? 0.0f : v;  // NaN stays
  }
}

// Running statistics move towards those of a batch; `unbiased` is count / (count - 1).
KERNEL(256) batch_norm_running(float* running_mean, float* running_var, const float* mean,
                               const float* var, float momentum, float unbiased, int64 n) {
  for (int64 i = first_item(); i < n; i += item_step()) {
    running_mean[i] = running_mean[i] * (1.0f - momentum) + momentum * mean[i];
    running_var[i] = running_var[i] * (1.0f - momentum) + momentum * (var[i] * unbiased);
  }
}
