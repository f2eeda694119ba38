// Random numbers by Philox4x32-10: a function of a key and a counter, so that any thread computes
// any number without a state of its own (Salmon et al. 2011, "Parallel random numbers: as easy as
// 1, 2, 3").
//
// Key: the seed. Counter: which block of four numbers (64 bits), the device's count of steps (32
// bits), and which call within the step it is ("site", 32 bits). Seed and count of steps lie in
// device memory, `state` = {seed, step}: a captured graph draws other numbers at every replay.

DEVICE uint4 philox(uint4 c, uint32 key0, uint32 key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32 high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    const uint32 high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = make_uint4(high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// What the numbers of one call have in common.
struct Stream {
  uint32 key0, key1, step, site;
  INLINE uint4 block(int64 index) const {
    return philox(make_uint4((uint32)index, (uint32)((uint64)index >> 32), step, site), key0, key1);
  }
};

DEVICE Stream stream_of(const uint64* state, uint32 site) {
  const uint64 seed = state[0];
  Stream stream;
  stream.key0 = (uint32)seed;
  stream.key1 = (uint32)(seed >> 32);
  stream.step = (uint32)state[1];
  stream.site = site;
  return stream;
}

DEVICE uint32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
