// Sums over rows or columns of a dense matrix (rows, cols), in float and in an order that depends
// on the shape alone. Every element is read once; the partial sums are few.

// Sums of columns over chunks of rows. A block is (lanes, groups): a lane has V neighbouring
// columns and a group every groups-th row of the chunk, so that a warp reads whole lines. The
// groups' sums meet in shared memory. Grid: (tiles of columns, chunks of rows).
template <int V, typename T>
DEVICE void sum_columns(const T* __restrict__ x, float* __restrict__ partial, int64 rows,
                        int64 cols, int64 chunk) {
  __shared__ float sums[256 * V];
  const int lanes = blockDim.x, groups = blockDim.y;
  const int64 col = (blockIdx.x * (int64)lanes + threadIdx.x) * V;
  const int64 end = smaller(rows, (blockIdx.y + 1) * chunk);
  float total[V];
#pragma unroll
  for (int j = 0; j < V; ++j) total[j] = 0.0f;
  if (col < cols) {
#pragma unroll 4
    for (int64 r = blockIdx.y * chunk + threadIdx.y; r < end; r += groups) {
      float v[V];
      Wide<V>::load(x + r * cols + col, v);
#pragma unroll
      for (int j = 0; j < V; ++j) total[j] += v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < V; ++j) sums[(threadIdx.y * lanes + threadIdx.x) * V + j] = total[j];
  __syncthreads();
  const int width = lanes * V;
  for (int i = threadIdx.y * lanes + threadIdx.x; i < width; i += lanes * groups) {
    const int64 c = blockIdx.x * (int64)width + i;
    if (c >= cols) continue;
    float sum = 0.0f;
    for (int g = 0; g < groups; ++g) sum += sums[g * width + i];
    partial[blockIdx.y * cols + c] = sum;
  }
}

// Read 1. `vector`: cols and the address allow 16 bytes at a time. partial: (chunks, cols).
#define SUM_COLUMNS(T, S) \
  KERNEL(256, 4) sum_columns_##S(const T* x, float* partial, int64 rows, int64 cols, \
                                 int64 chunk, int vector) { \
    if (vector) sum_columns<LANES<T>::N>(x, partial, rows, cols, chunk); \
    else sum_columns<1>(x, partial, rows, cols, chunk); \
  }
FOR_EACH_FLOAT(SUM_COLUMNS)

// out[b, c] = sum of partial[b, :, c]: the second stage, for `batch` matrices (blockIdx.y). Blocks
// are (32 columns, 8 groups of chunks).
template <typename T>
DEVICE void finish_columns(const float* __restrict__ partial, T* __restrict__ out, int64 chunks,
                           int64 cols) {
  __shared__ float sums[8][WARP + 1];
  const int64 c = blockIdx.x * (int64)WARP + threadIdx.x;
  partial += blockIdx.y * chunks * cols;
  float total = 0.0f;
  if (c < cols)
    for (int64 r = threadIdx.y; r < chunks; r += 8) total += partial[r * cols + c];
  sums[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  total = 0.0f;
  for (int g = 0; g < 8; ++g) total += sums[g][threadIdx.x];
  out[blockIdx.y * cols + c] = from_float<T>(total);
}

// Reads 4 bytes per partial sum.
#define FINISH_COLUMNS(T, S) \
  KERNEL(256, 4) finish_columns_##S(const float* partial, T* out, int64 chunks, int64 cols) { \
    finish_columns(partial, out, chunks, cols); \
  }
FOR_EACH_FLOAT(FINISH_COLUMNS)

template <int V, typename T>
DEVICE void sum_rows(const T* __restrict__ x, float* __restrict__ out, int64 rows, int64 cols,
                     int threads) {
  const Team team = {threads};
  for (int64 r = team.first(); r < rows; r += team.step()) {
    float total = 0.0f;
#pragma unroll 4
    for (int64 i = team.rank() * V; i < cols; i += threads * V) {
      float v[V];
      Wide<V>::load(x + r * cols + i, v);
#pragma unroll
      for (int j = 0; j < V; ++j) total += v[j];
    }
    total = team.sum(total);
    if (team.rank() == 0) out[r] = total;
  }
}

// Read 1. `threads` that share a row: 32 or 256.
#define SUM_ROWS(T, S) \
  KERNEL(256, 4) sum_rows_##S(const T* x, float* out, int64 rows, int64 cols, int threads) { \
    const bool vector = aligned16(x) && cols % LANES<T>::N == 0; \
    if (vector) sum_rows<LANES<T>::N>(x, out, rows, cols, threads); \
    else sum_rows<1>(x, out, rows, cols, threads); \
  }
FOR_EACH_FLOAT(SUM_ROWS)
