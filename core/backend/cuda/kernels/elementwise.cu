// Elementwise kernels on dense arrays seen as vectors in memory order. All are bound by memory:
// every input is read once and the result written once, 16 bytes per thread and access.

struct Relu {
  __device__ float operator()(float x) const { return x <= 0.0f ? 0.0f : x; }  // NaN stays
};
struct ReluBackward {
  __device__ float operator()(float grad_y, float y) const { return y > 0.0f ? grad_y : 0.0f; }
};
struct AddRelu {
  __device__ float operator()(float a, float b) const { return Relu()(a + b); }
};

// Bytes per element: read 1, written 1 (in units of the type's size).
#define RELU_FORWARD(T, S) \
  KERNEL(256) relu_forward_##S(const T* x, T* y, int64 n) { map1(x, y, n, Relu()); }
FOR_EACH_FLOAT(RELU_FORWARD)

// Read 2, written 1. y is the result of the forward pass.
#define RELU_BACKWARD(T, S) \
  KERNEL(256) relu_backward_##S(const T* grad_y, const T* y, T* grad_x, int64 n) { \
    map2(grad_y, y, grad_x, n, ReluBackward()); \
  }
FOR_EACH_FLOAT(RELU_BACKWARD)

// Read 2, written 1.
#define ADD_RELU_FORWARD(T, S) \
  KERNEL(256) add_relu_forward_##S(const T* a, const T* b, T* y, int64 n) { \
    map2(a, b, y, n, AddRelu()); \
  }
FOR_EACH_FLOAT(ADD_RELU_FORWARD)
