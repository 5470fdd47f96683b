// CUDA's execution model on a CPU, for kernels in plain C++: g++ compiles csrc/cuda with it, in place of nvcc.
//
// Every CUDA thread is a fiber; one thread of the system runs them, block after block. What CUDA leaves open is made to
// show: shared memory holds NaN before it is written, arrays in it lie apart in poisoned memory (AddressSanitizer sees
// an index past one), threads of a block run in another order at every turn, a barrier or a shuffle that not all of the
// threads reach is an error, and so is an access of 16 bytes at another address. Under ThreadSanitizer every fiber is a
// thread of its own that nothing orders but barriers: accesses without one are found whether or not they collide.
//
// It shows nothing of time, nor of what nvcc makes of the kernel.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define SIMT_POISON(begin, size) ASAN_POISON_MEMORY_REGION(begin, size)
#define SIMT_UNPOISON(begin, size) ASAN_UNPOISON_MEMORY_REGION(begin, size)
#else
#define SIMT_POISON(begin, size)
#define SIMT_UNPOISON(begin, size)
#endif

#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#define SIMT_TSAN(code) code
#else
#define SIMT_TSAN(code)
#endif
#define SIMT_UNSEEN __attribute__((no_sanitize("thread"), noinline))  // the machinery is no access of the kernel's

#define AFA_CUDA CPU  // what csrc/cuda registers is for CPU tensors here
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define AFA_SHARED(T, name, count) T* const name = simt::shared<T>(__COUNTER__, (count))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr int WARP = 32;
constexpr size_t STACK = 64 << 10, SHARED = 48 << 10, REDZONE = 64;

// Every thread that `needed` counts waits for all the others. `ordered`: what each did before is seen by all after.
struct Barrier {
  int needed = 0, arrived = 0;
  unsigned turn = 0;
  char before[2];  // addresses for ThreadSanitizer, of this turn and the next
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][WARP];
};

struct Fiber {
  ucontext_t context;
  unsigned thread = 0;
  bool done = false;
  const Barrier* waits = nullptr;  // until its turn is another
  unsigned turn = 0;
  void* tsan = nullptr;
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<Fiber> fibers;
  std::vector<char> memory = std::vector<char>(SHARED, '\xff');
  std::vector<std::pair<int, size_t>> arrays;  // by the place in the source, where one begins
  size_t used = REDZONE;
};

// The launch in progress.
struct State {
  ucontext_t main;
  void* main_tsan = nullptr;
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  std::function<void()> body;
  std::string error;
};
inline State state;

SIMT_UNSEEN inline void to_main() {
  SIMT_TSAN(__tsan_switch_to_fiber(state.main_tsan, 1));
  swapcontext(&state.fiber->context, &state.main);
}

[[noreturn]] SIMT_UNSEEN inline void fail(const std::string& reason) {
  state.error = "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ": " + reason;
  for (;;) to_main();
}

SIMT_UNSEEN inline void wait(Barrier& barrier, bool ordered) {
  char* before = &barrier.before[barrier.turn % 2];
  (void)before;
  SIMT_TSAN(if (ordered) __tsan_release(before));
  state.fiber->turn = barrier.turn;
  if (++barrier.arrived == barrier.needed) {
    barrier.arrived = 0;
    ++barrier.turn;
  } else {
    state.fiber->waits = &barrier;
    to_main();
    state.fiber->waits = nullptr;
  }
  SIMT_TSAN(if (ordered) __tsan_acquire(before));
}

SIMT_UNSEEN inline char* array_at(int place, size_t bytes) {
  Block& block = *state.block;
  for (const auto& [known, begin] : block.arrays)
    if (known == place) return &block.memory[begin];
  const size_t begin = block.used;
  block.used += (bytes + REDZONE + 15) / 16 * 16;
  if (block.used > SHARED) fail("more than 48 KiB of shared memory");
  block.arrays.emplace_back(place, begin);
  SIMT_UNPOISON(&block.memory[begin], bytes);
  return &block.memory[begin];
}

template <class T>
T* shared(int place, size_t count) {
  return reinterpret_cast<T*>(array_at(place, count * sizeof(T)));
}

SIMT_UNSEEN inline uint64_t exchange(uint64_t bits, int from) {
  Warp& warp = state.block->warps[threadIdx.x / WARP];
  uint64_t* slots = warp.slots[warp.barrier.turn % 2];
  slots[threadIdx.x % WARP] = bits;
  wait(warp.barrier, false);
  return slots[from];
}

SIMT_UNSEEN inline void run_fiber() {
  state.body();
  SIMT_TSAN(__tsan_release(&state));
  state.fiber->done = true;
  to_main();
}

SIMT_UNSEEN inline void resume(Fiber& fiber) {
  state.fiber = &fiber;
  threadIdx = {fiber.thread, 0, 0};
  SIMT_TSAN(__tsan_switch_to_fiber(fiber.tsan, 1));
  swapcontext(&state.main, &fiber.context);
}

// Every fiber runs until it waits or ends, forwards and backwards in turn.
SIMT_UNSEEN inline void run_block(unsigned index, unsigned threads, char* stacks) {
  Block block;
  SIMT_POISON(block.memory.data(), SHARED);
  block.barrier.needed = threads;
  block.warps.resize((threads + WARP - 1) / WARP);
  for (size_t i = 0; i < block.warps.size(); ++i)
    block.warps[i].barrier.needed = std::min<int>(WARP, threads - i * WARP);
  block.fibers.resize(threads);
  state.block = &block;
  blockIdx = {index, 0, 0};
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.thread = i;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + i * STACK;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(run_fiber), 0);
    SIMT_TSAN(fiber.tsan = __tsan_create_fiber(0));
  }
  unsigned left = threads;
  for (bool backwards = false; left > 0 && state.error.empty(); backwards = !backwards) {
    bool progress = false;
    for (unsigned k = 0; k < threads && state.error.empty(); ++k) {
      Fiber& fiber = block.fibers[backwards ? threads - 1 - k : k];
      if (fiber.done || (fiber.waits != nullptr && fiber.waits->turn == fiber.turn)) continue;
      progress = true;
      resume(fiber);
      left -= fiber.done;
    }
    if (!progress && state.error.empty())
      state.error = "block " + std::to_string(index) + ": a barrier or a shuffle that not every thread reaches";
  }
  SIMT_TSAN(for (Fiber& fiber : block.fibers) __tsan_destroy_fiber(fiber.tsan));
  SIMT_UNPOISON(block.memory.data(), SHARED);
}

template <class... Parameters, class... Arguments>
void launch(unsigned blocks, unsigned threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const std::tuple<Parameters...> given(arguments...);
  state.body = [&] { std::apply(kernel, given); };
  state.error.clear();
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  SIMT_TSAN(state.main_tsan = __tsan_get_current_fiber());
  // Under ThreadSanitizer no two fibers of a launch have the same stack, whose accesses nothing would order.
  const size_t of_block = threads * STACK;
  size_t sets = 1;
  SIMT_TSAN(sets = blocks);
  void* stacks = mmap(nullptr, sets * of_block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) throw std::runtime_error("simt: no memory for the stacks");
  for (unsigned index = 0; index < blocks && state.error.empty(); ++index)
    run_block(index, threads, static_cast<char*>(stacks) + index % sets * of_block);
  SIMT_TSAN(__tsan_acquire(&state));
  munmap(stacks, sets * of_block);
  if (!state.error.empty()) throw std::runtime_error("simt: " + state.error);
}

inline void check_alignment(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("an access of 16 bytes at an address that 16 does not divide");
}

}  // namespace simt

inline void __syncthreads() {
  simt::wait(simt::state.block->barrier, true);
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = simt::exchange(bits, (threadIdx.x % simt::WARP) ^ mask);
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint4 __ldg(const uint4* address) {
  simt::check_alignment(address);
  return *address;
}

inline void __stcs(uint4* address, uint4 value) {
  simt::check_alignment(address);
  *address = value;
}
