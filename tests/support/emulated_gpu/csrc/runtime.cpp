// Runs the threads of a kernel, block after block, as fibers of one thread of the host.
//
// One fiber runs threads one after the other in a plain loop (`emu_run::threads`), so a kernel
// without barriers costs what its loops cost. A thread that has to wait at a barrier or for its
// warp keeps its fiber; the threads after it go on in a new one. When nobody can run and not all
// are done, some threads wait for others that will never come: that is reported, not waited for.
#include "run.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

namespace {

const unsigned THREADS = 1024, STACK = 128 << 10, PAGE = 4096;

enum State : char { RUNNING, AT_BARRIER, IN_WARP };

struct Lane {
  emu_u64 value, result;
  unsigned mask, source, fiber;
  emu_exchange what;
  State state;
};

Lane lanes[THREADS];
char* stacks;
void* pointers[THREADS + 1];  // of suspended fibers; the last is who called emu_launch
unsigned fibers, running;
unsigned ready[THREADS + 1], ready_head, ready_count;  // a ring of fibers that may go on
unsigned arrived, votes;
unsigned warp_waiting[THREADS / 32];  // lanes that wait for others of their warp
emu_run* now;
sigjmp_buf broken;
thread_local volatile sig_atomic_t launching;

extern "C" void emu_switch(void** from, void* to);
#if !defined(__x86_64__)
#error "runtime.cpp switches stacks by hand on x86-64 only"
#endif
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

void go(unsigned fiber) {
  const unsigned from = running;
  running = fiber;
  if (from != fiber) emu_switch(&pointers[from], pointers[fiber]);
}

void back() { go(THREADS); }

unsigned next_ready() {
  const unsigned fiber = ready[ready_head];
  ready_head = (ready_head + 1) % (THREADS + 1);
  --ready_count;
  return fiber;
}

[[noreturn]] void fiber_body() {
  for (;;) {
    now->threads(now);
    if (ready_count) go(next_ready());  // and never comes back: all threads are started
    back();
  }
}

void fresh(unsigned fiber) {
  char* top = stacks + (size_t)(fiber + 1) * STACK - 64;
  void** stack = (void**)((unsigned long)top & ~15ul);
  *--stack = nullptr;             // keeps the alignment of a called function
  *--stack = (void*)fiber_body;   // where `ret` of emu_switch goes
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  pointers[fiber] = stack;
}

void wake(unsigned t) {
  lanes[t].state = RUNNING;
  ready[(ready_head + ready_count++) % (THREADS + 1)] = lanes[t].fiber;
}

// The fiber of this thread stops; others go on, and at last it does.
void wait_for_others() {
  if (now->next < now->count) {
    fresh(fibers);
    go(fibers++);
  } else if (ready_count) {
    go(next_ready());
  } else {
    back();
  }
}

void where(emu_run* run, unsigned t, char* text, size_t size) {
  const unsigned w = run->block.x, h = run->block.y;
  snprintf(text, size, "thread (%u, %u, %u)", t % w, t / w % h, t / w / h);
}

// Why nobody can run.
void stuck(emu_run* run) {
  unsigned barrier = 0, warp = 0, at_barrier = 0, in_warp = 0;
  for (unsigned t = 0; t < run->count; ++t) {
    if (lanes[t].state == AT_BARRIER && !barrier++) at_barrier = t;
    if (lanes[t].state == IN_WARP && !warp++) in_warp = t;
  }
  char one[64], two[64];
  where(run, at_barrier, one, sizeof one);
  where(run, in_warp, two, sizeof two);
  if (barrier && !warp)
    snprintf(run->error, 1024,
             "__syncthreads() was reached by %u of %u threads of a block (the first: %s); the "
             "other %u have left the kernel: a GPU may hang here",
             barrier, run->count, one, run->done);
  else
    snprintf(run->error, 1024,
             "%u threads of a block wait for lanes of their warp that will never come (the first: "
             "%s, mask 0x%08x), %u wait at __syncthreads(), %u of %u have left the kernel: a GPU "
             "hangs here",
             warp, two, lanes[in_warp].mask, barrier, run->done, run->count);
}

void handler(int signal, siginfo_t* info, void*) {
  if (!launching) {  // not ours: again, with what happens by default
    ::signal(signal, SIG_DFL);
    return;
  }
  char at[64];
  where(now, now->current, at, sizeof at);
  if (signal == SIGSEGV || signal == SIGBUS)
    snprintf(now->error, 1024, "illegal memory access at %p (or a stack of more than %u KiB) in %s",
             info->si_addr, (STACK - PAGE) >> 10, at);
  else
    snprintf(now->error, 1024,
             "misaligned address, index outside of an array, bad shift or division by zero in %s",
             at);
  siglongjmp(broken, 1);
}

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
struct sigaction before[4];
char signal_stack[64 << 10];
stack_t stack_before;

void catch_faults() {
  stack_t stack = {};
  stack.ss_sp = signal_stack;
  stack.ss_size = sizeof signal_stack;
  sigaltstack(&stack, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &action, &before[i]);
  launching = 1;
}

void release_faults() {
  launching = 0;
  for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

// If the lanes that the mask of thread t names are all here or gone, gives them values; they may go
// on. `is_running` says that t itself is the one that runs.
void settle(emu_run* run, unsigned t, bool is_running) {
  const unsigned warp = t / 32 * 32, mask = lanes[t].mask;
  const unsigned here = mask & warp_waiting[t / 32];
  unsigned expected = mask & ~run->warp_done[t / 32];
  if (run->count - warp < 32) expected &= (1u << (run->count - warp)) - 1;
  if (here != expected) return;
  emu_u64 ballot = 0, sum = 0, least = ~0ull, most = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (here >> i & 1) {
      const Lane& lane = lanes[warp + i];
      if (lane.mask != mask || lane.what != lanes[t].what)
        return emu_fail(run, "lanes of a warp meet in different calls or with different masks");
      ballot |= (lane.value & 1) << i;
      sum += lane.value;
      if (lane.value < least) least = lane.value;
      if (lane.value > most) most = lane.value;
    }
  for (unsigned i = 0; i < 32; ++i)
    if (here >> i & 1) {
      Lane& lane = lanes[warp + i];
      switch (lane.what) {
        case EMU_SHUFFLE:
          if (!(here >> lane.source & 1)) {
            snprintf(run->error, 1024,
                     "lane %u of a warp reads lane %u in a shuffle, which has left the kernel, "
                     "does not exist or is not in the mask 0x%08x", i, lane.source, mask);
            return back();
          }
          lane.result = lanes[warp + lane.source].value;
          break;
        case EMU_BALLOT: lane.result = ballot; break;
        case EMU_ADD: lane.result = sum; break;
        case EMU_MIN: lane.result = least; break;
        case EMU_MAX: lane.result = most; break;
        case EMU_SYNC: break;
      }
    }
  warp_waiting[t / 32] &= ~here;
  for (unsigned i = 0; i < 32; ++i)
    if (here >> i & 1 && !(is_running && warp + i == t)) wake(warp + i);
  if (is_running) lanes[t].state = RUNNING;
}

bool one_block(emu_run* run) {
  run->next = run->done = 0;
  memset(run->warp_done, 0, sizeof run->warp_done);
  memset(warp_waiting, 0, sizeof warp_waiting);
  for (unsigned t = 0; t < run->count; ++t) lanes[t].state = RUNNING;
  fibers = ready_count = arrived = votes = 0;
  if (run->dynamic_bytes) memset(run->dynamic_shared, 0xFF, run->dynamic_bytes);
  fresh(fibers++);
  running = THREADS;
  go(0);
  while (!run->error[0] && run->done < run->count) {
    for (unsigned t = 0; t < run->count; ++t)  // lanes may wait for some that have left since
      if (lanes[t].state == IN_WARP) settle(run, t, false);
    if (!ready_count && !run->error[0]) stuck(run);
    if (!run->error[0]) go(next_ready());
  }
  return !run->error[0];
}

}  // namespace

extern "C" {

void emu_fail(emu_run* run, const char* why) {
  char at[64];
  where(run, run->current, at, sizeof at);
  snprintf(run->error, 1024, "%s in %s", why, at);
  back();
}

unsigned emu_barrier(emu_run* run, emu_vote vote, unsigned value) {
  Lane& lane = lanes[run->current];
  if (!arrived) votes = vote == EMU_AND;
  votes = vote == EMU_COUNT ? votes + value : vote == EMU_AND ? votes & value : votes | value;
  if (++arrived < run->count) {
    lane.state = AT_BARRIER;
    lane.fiber = running;
    wait_for_others();
    return (unsigned)lane.result;
  }
  const unsigned result = votes;
  arrived = 0;
  for (unsigned t = 0; t < run->count; ++t)
    if (lanes[t].state == AT_BARRIER) {
      lanes[t].result = result;
      wake(t);
    }
  return result;
}

emu_u64 emu_warp(emu_run* run, emu_exchange what, unsigned mask, emu_u64 value, unsigned source) {
  const unsigned t = run->current;
  Lane& lane = lanes[t];
  if (!(mask >> t % 32 & 1)) emu_fail(run, "the mask of a warp's call does not name its caller");
  lane.value = value;
  lane.mask = mask;
  lane.source = source;
  lane.what = what;
  lane.fiber = running;
  lane.state = IN_WARP;
  warp_waiting[t / 32] |= 1u << t % 32;
  settle(run, t, true);
  if (lane.state == IN_WARP) wait_for_others();
  return lane.result;
}

int emu_launch(emu_run* run) {
  if (!stacks) {
    stacks = (char*)mmap(nullptr, (size_t)THREADS * STACK, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) {
      stacks = nullptr;
      snprintf(run->error, 1024, "no memory for stacks");
      return 1;
    }
    for (unsigned i = 0; i < THREADS; ++i) mprotect(stacks + (size_t)i * STACK, PAGE, PROT_NONE);
  }
  now = run;
  run->error[0] = 0;
  catch_faults();
  if (!sigsetjmp(broken, 0)) {
    const emu_u64 w = run->grid.x, h = run->grid.y, blocks = w * h * run->grid.z;
    bool good = true;
    for (emu_u64 i = 0; good && i < blocks; ++i) {
      const emu_u64 at = run->backwards ? blocks - 1 - i : i;
      const emu_index b = {(unsigned)(at % w), (unsigned)(at / w % h), (unsigned)(at / w / h)};
      run->place(&b);
      good = one_block(run);
      if (!good) {
        const size_t end = strlen(run->error);
        snprintf(run->error + end, 1024 - end, "; block (%u, %u, %u)", b.x, b.y, b.z);
      }
    }
  }
  release_faults();
  return run->error[0] != 0;
}
}
