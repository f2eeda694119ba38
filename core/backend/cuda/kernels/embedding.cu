// Rows of a table by index, and the gradient of the table: sums of the rows of equal index, each in
// the order of their positions, so that every run gives the same bits.

// out[i] = table[indices[i]], rows of so many bytes; NaN for an index that the table does not have.
KERNEL(256) embedding_rows(const uint8* __restrict__ table, const int64* __restrict__ indices,
                           uint8* __restrict__ out, int64 n, int64 row_bytes, int64 rows) {
  const bool wide = row_bytes % 16 == 0 && aligned16(table) && aligned16(out);
  const int64 step = wide ? 16 : 2, parts = row_bytes / step;
  for (int64 i = first_item(); i < n * parts; i += item_step()) {
    const int64 row = indices[i / parts], offset = i % parts * step;
    const bool there = row >= 0 && row < rows;
    const uint8* source = table + row * row_bytes + offset;
    uint8* target = out + i / parts * row_bytes + offset;
    if (wide) {
      *(uint4*)target = there ? *(const uint4*)source : make_uint4(~0u, ~0u, ~0u, ~0u);
    } else {
      *(unsigned short*)target = there ? *(const unsigned short*)source : 0xFFFFu;
    }
  }
}

// Which position has the same index next (-1: none), and whether a position is the first with its
// index; by comparing all with all, which is the quickest way for few and needs no sort.
KERNEL(256) embedding_links(const int64* __restrict__ indices, int64 n, int64* __restrict__ next,
                            uint8* __restrict__ first) {
  __shared__ int64 tile[256];
  const int64 i = blockIdx.x * (int64)256 + threadIdx.x;
  const int64 mine = i < n ? indices[i] : -1;
  int64 following = -1;
  bool earlier = false;
  for (int64 start = 0; start < n; start += 256) {
    __syncthreads();
    if (start + threadIdx.x < n) tile[threadIdx.x] = indices[start + threadIdx.x];
    __syncthreads();
    const int count = (int)smaller(256, n - start);
    for (int j = 0; j < count; ++j) {
      const int64 other = start + j;
      const bool same = tile[j] == mine;
      earlier = earlier || (same && other < i);
      if (same && other > i && following < 0) following = other;
    }
  }
  if (i < n) {
    next[i] = following;
    first[i] = !earlier;
  }
}

// The same from the positions sorted by index, equal ones in their order.
KERNEL(256) embedding_links_sorted(const int64* __restrict__ indices,
                                   const int64* __restrict__ order, int64 n,
                                   int64* __restrict__ next, uint8* __restrict__ first) {
  for (int64 k = first_item(); k < n; k += item_step()) {
    const int64 i = order[k], mine = indices[i];
    next[i] = k + 1 < n && indices[order[k + 1]] == mine ? order[k + 1] : -1;
    first[i] = k == 0 || indices[order[k - 1]] != mine;
  }
}

// Add up the rows of grad that follow each first position; a block for each position, 128 threads.
template <typename T>
DEVICE void sums(const T* __restrict__ grad, const int64* __restrict__ indices,
                 const int64* __restrict__ next, const uint8* __restrict__ first,
                 T* __restrict__ out, int64 cols, int64 rows, int64 padding, int by_frequency) {
  const int64 begin = blockIdx.x, row = indices[begin];
  if (!first[begin] || row == padding || row < 0 || row >= rows) return;
  for (int64 c = threadIdx.x; c < cols; c += blockDim.x) {
    float sum = 0.0f;
    int64 count = 0;
    for (int64 i = begin; i >= 0; i = next[i], ++count) sum += to_float(grad[i * cols + c]);
    out[row * cols + c] = from_float<T>(by_frequency ? sum / (float)count : sum);
  }
}

#define DEFINE(T, S)                                                                              \
  KERNEL(128) embedding_sums_##S(                                                                 \
      const T* __restrict__ grad, const int64* __restrict__ indices,                              \
      const int64* __restrict__ next, const uint8* __restrict__ first, T* __restrict__ out,       \
      int64 cols, int64 rows, int64 padding, int by_frequency) {                                  \
    sums(grad, indices, next, first, out, cols, rows, padding, by_frequency);                     \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
