// Batches of images from a data set that lies in device memory: gathered by index, cropped, flipped,
// cut out and normalised in one pass.
#include "random.cuh"

// What is done to each image.
struct Plan {
  int height, width, channels, padded_channels;
  int pad;       // cropped at random from the image padded by so many pixels
  int reflect;   // 1: padding mirrors the image; 0: zeros (before normalising)
  int flip;      // 0 never, 1 at random, 2 alternating: by the image's number and the epoch
  int cutout;    // side of the square that is set to the mean; 0: none
};

DEVICE int mirrored(int i, int n) { return i < 0 ? -i : i >= n ? 2 * n - 2 - i : i; }

// A whole number below `n` of 32 random bits.
DEVICE int below(uint32 bits, int n) { return (int)__umulhi(bits, (uint32)n); }

DEVICE uint32 hashed(uint32 x) {  // Wellons' lowbias32: whether an image is flipped in even epochs
  x ^= x >> 16; x *= 0x7FEB352Du; x ^= x >> 15; x *= 0x846CA68Bu; x ^= x >> 16;
  return x;
}

// position = {epoch, number of the batch}. Image k of the batch is order[batch * size + k].
// scale, shift: per channel, out = value * scale + shift.
template <typename T>
DEVICE void batch(const uint8* __restrict__ images, const int64* __restrict__ labels,
                  const int64* __restrict__ order, const int64* position, T* __restrict__ out,
                  int64* __restrict__ targets, int64 n, int64 size, int64 total,
                  const float* scale, const float* shift, uint64 seed, Plan plan) {
  const int64 epoch = position[0], first = position[1] * size;
  const int64 area = (int64)plan.height * plan.width;
  for (int64 i = first_item(); i < n * area; i += item_step()) {
    const int64 k = i / area;
    const int y = (int)(i % area) / plan.width, x = (int)(i % area) % plan.width;
    const int64 place = first + k < total ? first + k : total - 1;
    const int64 image = order[place];
    if (i % area == 0 && targets) targets[k] = labels[image];
    const uint4 draws = philox(make_uint4((uint32)place, (uint32)(place >> 32), (uint32)epoch, 0u),
                               (uint32)seed, (uint32)(seed >> 32));
    bool flipped = plan.flip == 1 && draws.x >> 31;
    if (plan.flip == 2) flipped = (hashed((uint32)image + (uint32)seed) + (uint32)epoch) & 1u;
    int from_y = y, from_x = flipped ? plan.width - 1 - x : x;
    if (plan.pad) {
      from_y += below(draws.y, 2 * plan.pad + 1) - plan.pad;
      from_x += below(draws.z, 2 * plan.pad + 1) - plan.pad;
    }
    if (plan.reflect) {
      from_y = mirrored(from_y, plan.height);
      from_x = mirrored(from_x, plan.width);
    }
    const bool inside =
        from_y >= 0 && from_y < plan.height && from_x >= 0 && from_x < plan.width;
    bool cut = false;
    if (plan.cutout) {
      const int top = below(draws.w << 16, plan.height) - plan.cutout / 2;
      const int left = below(draws.w & 0xFFFF0000u, plan.width) - plan.cutout / 2;
      cut = y >= top && y < top + plan.cutout && x >= left && x < left + plan.cutout;
    }
    const uint8* source = images + ((image * plan.height + from_y) * plan.width + from_x) *
                                       plan.channels;
    T* target = out + i * plan.padded_channels;
    for (int c = 0; c < plan.padded_channels; ++c) {
      float value = 0.0f;
      if (c < plan.channels && !cut)
        value = (inside ? (float)source[c] : 0.0f) * scale[c] + shift[c];
      target[c] = from_float<T>(value);
    }
  }
}

#define DEFINE(T, S)                                                                              \
  KERNEL(256) image_batch_##S(                                                                    \
      const uint8* __restrict__ images, const int64* __restrict__ labels,                         \
      const int64* __restrict__ order, const int64* position, T* __restrict__ out,                \
      int64* __restrict__ targets, int64 n, int64 size, int64 total, const float* scale,          \
      const float* shift, uint64 seed, int height, int width, int channels,                       \
      int padded_channels, int pad, int reflect, int flip, int cutout) {                          \
    const Plan plan = {height, width, channels, padded_channels, pad, reflect, flip, cutout};     \
    batch(images, labels, order, position, out, targets, n, size, total, scale, shift, seed,      \
          plan);                                                                                  \
  }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE

// position = {epoch, number of the batch}: the next batch.
KERNEL(32) next_batch(int64* position) {
  if (blockIdx.x == 0 && threadIdx.x == 0) ++position[1];
}
