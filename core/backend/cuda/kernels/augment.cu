// Batches of images that lie on the device as bytes (N, H, W, C): gathered by an order, cropped,
// mirrored, cut out, normalised and cast in one pass, each byte read once and each result written
// once. A pixel's value comes from a table that the host makes, so no float is computed here and the
// numbers are the CPU's.
//
// state = {seed, epoch, position, passed}: what an image is drawn with depends on the seed, the epoch
// and the image's number, or its place in the epoch, not on the batch it comes in. The position is
// where in the order the batch begins; a captured graph raises it by `augment_advance`. So many
// images of the epoch were passed over before the order.
#include "random.cuh"

KERNEL(32) augment_set(uint64* state, uint64 seed, uint64 epoch, uint64 passed) {
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    state[0] = seed;
    state[1] = epoch;
    state[2] = 0;
    state[3] = passed;
  }
}

KERNEL(32) augment_advance(uint64* state, uint64 count) {
  if (blockIdx.x == 0 && threadIdx.x == 0) state[2] += count;
}

// Values of a channel: those of the 256 bytes, then of the padding, then of what is cut out.
const int PADDING = 256, CUT_OUT = 257, ROWS = 258;
const int NO_FLIP = 0, RANDOM_FLIP = 1, ALTERNATING_FLIP = 2;

DEVICE uint32 bits_of(float x) { return bits_of_float(x); }
DEVICE uint32 bits_of(float16 x) { return x.bits; }
DEVICE uint32 bits_of(bfloat16 x) { return x.bits; }

DEVICE uint4 packed16(const uint32 (&v)[4]) { return make_uint4(v[0], v[1], v[2], v[3]); }
DEVICE uint4 packed16(const uint32 (&v)[8]) {
  return make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16);
}

// Where the window of one image lies, in its coordinates, and the square that is cut out of the
// result.
struct Window {
  int top, left, hole_top, hole_left;
  bool mirrored;
};

DEVICE Window window_of(const Stream& stream, int64 image, int64 key, int top, uint32 tops,
                        int left, uint32 lefts, int rows, int columns, int flip, uint32 threshold,
                        int hole) {
  const uint4 v = stream.block(key);
  Window w;
  w.top = top + (int)__umulhi(v.x, tops);
  w.left = left + (int)__umulhi(v.y, lefts);
  w.mirrored = flip == RANDOM_FLIP && v.z < threshold;
  if (flip == ALTERNATING_FLIP) {  // the first time at random, from then on every other epoch
    Stream first = stream;
    first.step = 0;
    ++first.site;
    w.mirrored = (first.block(image).x >> 31 ^ (stream.step & 1)) != 0;
  }
  w.hole_top = (int)((v.w >> 16) * (uint32)rows >> 16) - hole / 2;
  w.hole_left = (int)((v.w & 0xFFFFu) * (uint32)columns >> 16) - hole / 2;
  return w;
}

// A coordinate inside of [0, size), mirrored at the borders, or -1.
DEVICE int inside(int at, int size, int reflect) {
  if (at >= 0 && at < size) return at;
  if (!reflect) return -1;
  return at < 0 ? -at : 2 * (size - 1) - at;
}

// One pixel of `channels` values, and zeros up to `lanes`.
template <typename T>
DEVICE void write_pixel(T* to, const T* values, const uint8* from, int row, int channels,
                        int lanes, int vector) {
  const int W = LANES<T>::N;
  if (!vector) {
    for (int c = 0; c < channels; ++c) to[c] = values[(from ? from[c] : row) * channels + c];
    for (int c = channels; c < lanes; ++c) to[c] = from_float<T>(0.0f);
    return;
  }
#pragma unroll 1
  for (int first = 0; first < lanes; first += W) {
    uint32 v[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const int c = first + j;
      v[j] = c < channels ? bits_of(values[(from ? from[c] : row) * channels + c]) : 0u;
    }
    *(uint4*)(to + first) = packed16(v);
  }
}

// A block makes one image at a time. Shared memory: the table.
template <typename T>
DEVICE void augment(const uint8* __restrict__ images, const int64* __restrict__ labels,
                    const int64* __restrict__ order, const uint64* state, uint32 site,
                    const T* __restrict__ table, T* __restrict__ y, int64* __restrict__ classes,
                    T* values, int64 count, int height, int width, int channels, int rows,
                    int columns, int lanes, int vector, int top, uint32 tops, int left,
                    uint32 lefts, int reflect, int flip, uint32 threshold, int hole,
                    int by_place) {
  for (int i = threadIdx.x; i < ROWS * channels; i += blockDim.x) values[i] = table[i];
  __syncthreads();
  const Stream stream = stream_of(state, site);
  const int64 start = (int64)state[2];
  for (int64 n = blockIdx.x; n < count; n += gridDim.x) {
    const int64 image = order[start + n];
    if (threadIdx.x == 0) classes[n] = labels[image];
    const int64 key = by_place ? (int64)state[3] + start + n : image;
    const Window w = window_of(stream, image, key, top, tops, left, lefts, rows, columns, flip,
                               threshold, hole);
    const uint8* picture = images + image * height * width * channels;
    T* to = y + n * rows * columns * lanes;
    for (int p = threadIdx.x; p < rows * columns; p += blockDim.x) {
      const int r = p / columns, c = p % columns;
      const bool cut = r >= w.hole_top && r < w.hole_top + hole && c >= w.hole_left &&
                       c < w.hole_left + hole;
      const int h = inside(w.top + r, height, reflect);
      const int k = inside(w.left + (w.mirrored ? columns - 1 - c : c), width, reflect);
      const uint8* from =
          cut || h < 0 || k < 0 ? (const uint8*)0 : picture + ((int64)h * width + k) * channels;
      write_pixel(to + (int64)p * lanes, values, from, cut ? CUT_OUT : PADDING, channels, lanes,
                  vector);
    }
  }
}

// tops, lefts: how many places the window may begin at, from `top` and `left` on. threshold: of
// 2^32, how often an image is mirrored at random. hole: side of the square that is cut out. by_place:
// draw by the place in the epoch, for orders that repeat images.
// vector: a pixel's `lanes` values are a multiple of 16 bytes.
#define DEFINE(T, S)                                                                              \
  KERNEL(256) augment_##S(const uint8* __restrict__ images, const int64* __restrict__ labels,      \
                          const int64* __restrict__ order, const uint64* state, uint32 site,      \
                          const T* __restrict__ table, T* __restrict__ y,                         \
                          int64* __restrict__ classes, int64 count, int height, int width,        \
                          int channels, int rows, int columns, int lanes, int vector, int top,    \
                          uint32 tops, int left, uint32 lefts, int reflect, int flip,             \
                          uint32 threshold, int hole, int by_place) {                             \
    extern __shared__ uint32 shared[];                                                            \
    augment(images, labels, order, state, site, table, y, classes, (T*)shared, count, height,     \
            width, channels, rows, columns, lanes, vector, top, tops, left, lefts, reflect, flip, \
            threshold, hole, by_place);                                                           \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
