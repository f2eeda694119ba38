// Many tensors in one launch: a table in device memory says where they are and how they are cut into
// chunks, one for each block.
//
// The table: ROW words of 64 bits for each tensor, then one word for each chunk: the tensor's number
// in the upper half, the chunk's number within the tensor in the lower.

const int ROW = 10;      // words of a row
const int CHUNK = 8192;  // elements of a chunk; a multiple of the elements of 16 bytes
// What the words of a row are. COPY is an array of 16-bit floats that gets the parameter, too.
const int PARAM = 0, GRAD = 1, STATE = 2, COPY = 5, STEP = 6, SIZE = 7, FIRST_CHUNK = 8, KIND = 9;
// KIND: the type of the elements (4 float, 2 float16, 3 bfloat16), the type of the copy (the same
// times 16), and whether the rate adapts to the tensor (256).
const uint64 COPY_HALF = 2 * 16, COPY_MASK = 15 * 16, ADAPTS = 256;

struct Piece {
  const uint64* row;
  int64 tensor, begin, end;
  template <typename T> INLINE T* at(int word) const { return (T*)row[word]; }
};

DEVICE Piece piece_of_block(const uint64* table, int tensors) {
  const uint64 word = table[(int64)tensors * ROW + blockIdx.x];
  Piece piece;
  piece.tensor = (int64)(word >> 32);
  piece.row = table + piece.tensor * ROW;
  piece.begin = (int64)(word & 0xFFFFFFFFu) * CHUNK;
  piece.end = smaller(piece.begin + CHUNK, (int64)piece.row[SIZE]);
  return piece;
}

DEVICE double warp_sum(double v) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) v += __shfl_xor_sync(ALL_LANES, v, step);
  return v;
}

// As block_sum of floats.
DEVICE double block_sum(double v) {
  __shared__ double parts[WARP];
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  v = warp_sum(v);
  __syncthreads();
  if (lane == 0) parts[warp] = v;
  __syncthreads();
  return warp_sum(lane < (int)blockDim.x / WARP ? parts[lane] : 0.0);
}

DEVICE bool is_finite(float x) { return (bits_of_float(x) & 0x7F800000u) != 0x7F800000u; }
