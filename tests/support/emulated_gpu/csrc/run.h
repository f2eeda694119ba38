// What a compiled kernel and the runtime that runs its threads share. See runtime.cpp.
#pragma once

typedef unsigned long long emu_u64;

struct emu_index { unsigned x, y, z; };

// What a lane of a warp exchanges, and with whom.
enum emu_exchange { EMU_SHUFFLE, EMU_BALLOT, EMU_SYNC, EMU_ADD, EMU_MIN, EMU_MAX };
enum emu_vote { EMU_COUNT, EMU_AND, EMU_OR };

// One launch. `next` threads of the block at hand have been started; the function `threads` starts
// the others one after the other, in loops, until one of them has to wait. `backwards`: blocks and
// threads come in the opposite order.
struct emu_run {
  void (*threads)(emu_run*);
  void (*place)(const emu_index* block);
  void** args;
  emu_index grid, block;
  unsigned count, next, current, done, backwards;
  unsigned warp_done[32];  // lanes that have left the kernel
  char* dynamic_shared;
  emu_u64 dynamic_bytes;
  char* error;  // 1,024 characters
};

#pragma GCC visibility push(default)
extern "C" {
int emu_launch(emu_run* run);
unsigned emu_barrier(emu_run* run, emu_vote vote, unsigned value);
emu_u64 emu_warp(emu_run* run, emu_exchange what, unsigned mask, emu_u64 value, unsigned source);
void emu_fail(emu_run* run, const char* why);
}
#pragma GCC visibility pop
