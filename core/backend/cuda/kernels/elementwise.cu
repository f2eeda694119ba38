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

// 1 / (1 + e**-x): e**-x may overflow, to the right result.
DEVICE float sigmoid(float x) { return quotient(1.0f, 1.0f + expf(-x)); }

struct Sigmoid {
  __device__ float operator()(float x) const { return sigmoid(x); }
};
struct SigmoidBackward {
  __device__ float operator()(float grad_y, float y) const { return grad_y * (y * (1.0f - y)); }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};
struct TanhBackward {
  __device__ float operator()(float grad_y, float y) const { return grad_y * (1.0f - y * y); }
};
struct Silu {
  __device__ float operator()(float x) const { return x * sigmoid(x); }
};
struct SiluBackward {
  __device__ float operator()(float grad_y, float x) const {
    const float s = sigmoid(x);
    return grad_y * (s * (1.0f + x * (1.0f - s)));
  }
};

const float SQRT_HALF = 0.70710678118654752f;
const float INV_SQRT_2PI = 0.39894228040143268f;
const float SQRT_2_PI = 0.79788456080286536f;
const float CUBE = 0.044715f;

struct Gelu {
  __device__ float operator()(float x) const { return 0.5f * x * (1.0f + erff(x * SQRT_HALF)); }
};
struct GeluBackward {
  __device__ float operator()(float grad_y, float x) const {
    const float phi = 0.5f * (1.0f + erff(x * SQRT_HALF));
    return grad_y * (phi + x * INV_SQRT_2PI * expf(-0.5f * x * x));
  }
};
// (1 + tanh(u)) / 2 is sigmoid(2u), which costs a third of tanhf.
struct GeluTanh {
  __device__ float operator()(float x) const {
    return x * sigmoid(2.0f * SQRT_2_PI * (x + CUBE * x * x * x));
  }
};
struct GeluTanhBackward {
  __device__ float operator()(float grad_y, float x) const {
    const float s = sigmoid(2.0f * SQRT_2_PI * (x + CUBE * x * x * x));
    const float slope = SQRT_2_PI * (1.0f + 3.0f * CUBE * x * x);
    return grad_y * (s + 2.0f * x * s * (1.0f - s) * slope);
  }
};

// Read 1, written 1.
#define UNARY(NAME, F, T, S) \
  KERNEL(256) NAME##_##S(const T* x, T* y, int64 n) { map1(x, y, n, F()); }
// Read 2, written 1. `kept` is the input or the result of the forward pass.
#define GRADIENT(NAME, F, T, S) \
  KERNEL(256) NAME##_##S(const T* grad_y, const T* kept, T* grad_x, int64 n) { \
    map2(grad_y, kept, grad_x, n, F()); \
  }
#define ACTIVATIONS(T, S) \
  UNARY(sigmoid_forward, Sigmoid, T, S) \
  GRADIENT(sigmoid_backward, SigmoidBackward, T, S) \
  UNARY(tanh_forward, Tanh, T, S) \
  GRADIENT(tanh_backward, TanhBackward, T, S) \
  UNARY(silu_forward, Silu, T, S) \
  GRADIENT(silu_backward, SiluBackward, T, S) \
  UNARY(gelu_forward, Gelu, T, S) \
  GRADIENT(gelu_backward, GeluBackward, T, S) \
  UNARY(gelu_tanh_forward, GeluTanh, T, S) \
  GRADIENT(gelu_tanh_backward, GeluTanhBackward, T, S)
FOR_EACH_FLOAT(ACTIVATIONS)
