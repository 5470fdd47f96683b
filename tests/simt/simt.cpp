// The fibers of simt.hpp, and what they share. AFA_ADDRESS and AFA_THREAD say which sanitizer the kernels have.
#include "simt.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>

#ifdef AFA_ADDRESS
extern "C" void __asan_poison_memory_region(void const volatile* address, size_t size);
extern "C" void __asan_unpoison_memory_region(void const volatile* address, size_t size);
#define ASAN(code) code
#else
#define ASAN(code)
#endif

#ifdef AFA_THREAD
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#define TSAN(code) code
constexpr bool tsan = true;
#else
#define TSAN(code)
constexpr bool tsan = false;
#endif

namespace simt {
namespace {

constexpr unsigned WARP = 32, UNORDERED = 1;
constexpr size_t STACK = tsan ? 16 << 10 : 64 << 10, SHARED = 48 << 10, REDZONE = 64, ARRAYS = 32;

// Where `needed` threads wait for one another.
struct Barrier {
  unsigned needed = 0, arrived = 0, turn = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t slots[2][WARP];
};

struct Fiber {
  ucontext_t context;
  const Barrier* waits = nullptr;  // until its turn is another
  unsigned turn = 0;
  bool done = false;
  void* tsan = nullptr;
};

// ThreadSanitizer reports a race with what a fiber did as long as the fiber is there, and has room for 8128.
struct Remembered {
  std::deque<void*> fibers;

  void* add() {
    void* created = nullptr;
    TSAN(if (fibers.size() == 7680) forget(); created = __tsan_create_fiber(0); fibers.push_back(created));
    return created;
  }
  void forget() {
    TSAN(__tsan_destroy_fiber(fibers.front()));
    fibers.pop_front();
  }
  ~Remembered() {
    while (!fibers.empty()) forget();
  }
};

// Memory that is given back when the launch has ended.
struct Memory {
  char* begin;
  size_t size;

  explicit Memory(size_t size) : size(size) {
    void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) throw std::runtime_error("simt: no memory");
    begin = static_cast<char*>(found);
  }
  Memory(const Memory&) = delete;
  ~Memory() { munmap(begin, size); }
};

struct Block {
  unsigned index, threads;
  char *stacks, *memory;
  std::unique_ptr<Fiber[]> fibers;
  std::unique_ptr<Warp[]> warps;
  Barrier barrier;
  struct {
    int place;
    size_t begin;
  } arrays[ARRAYS];
  size_t known = 0, used = REDZONE;

  Block(unsigned index, unsigned threads, char* stacks, char* memory)
      : index(index),
        threads(threads),
        stacks(stacks),
        memory(memory),
        fibers(new Fiber[threads]),
        warps(new Warp[(threads + WARP - 1) / WARP]) {
    std::fill_n(memory, SHARED, '\xff');
    ASAN(__asan_poison_memory_region(memory, SHARED));
    barrier.needed = threads;
    for (unsigned i = 0; i < threads; i += WARP) warps[i / WARP].barrier.needed = std::min(WARP, threads - i);
  }
  ~Block() { ASAN(__asan_unpoison_memory_region(memory, SHARED)); }
};

// The launch in progress.
ucontext_t caller;
void* caller_tsan = nullptr;
Block* block = nullptr;
Fiber* fiber = nullptr;
const std::function<void()>* body = nullptr;
std::string error;
char ended;  // for ThreadSanitizer: what happened before the end of a fiber

void give_way() {
  TSAN(__tsan_switch_to_fiber(caller_tsan, UNORDERED));
  swapcontext(&fiber->context, &caller);
}

[[noreturn]] void fail(const std::string& reason) {
  error = "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ": " + reason;
  for (;;) give_way();
}

void wait(Barrier& barrier) {
  fiber->turn = barrier.turn;
  if (++barrier.arrived == barrier.needed) {
    barrier.arrived = 0;
    ++barrier.turn;
    return;
  }
  fiber->waits = &barrier;
  give_way();
  fiber->waits = nullptr;
}

void start() {
  (*body)();
  TSAN(__tsan_release(&ended));
  fiber->done = true;
  give_way();
}

void resume(unsigned thread) {
  fiber = &block->fibers[thread];
  threadIdx = {thread, 0, 0};
  TSAN(__tsan_switch_to_fiber(fiber->tsan, UNORDERED));
  swapcontext(&caller, &fiber->context);
}

// Every fiber runs until it waits or ends, forwards and backwards in turn.
void run_block(Remembered& remembered) {
  const unsigned threads = block->threads;
  blockIdx = {block->index, 0, 0};
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& new_fiber = block->fibers[i];
    getcontext(&new_fiber.context);
    new_fiber.context.uc_stack.ss_sp = block->stacks + i * STACK;
    new_fiber.context.uc_stack.ss_size = STACK;
    makecontext(&new_fiber.context, start, 0);
    new_fiber.tsan = remembered.add();
  }
  unsigned left = threads;
  for (bool backwards = false; left > 0 && error.empty(); backwards = !backwards) {
    bool progress = false;
    for (unsigned k = 0; k < threads && error.empty(); ++k) {
      const unsigned thread = backwards ? threads - 1 - k : k;
      const Fiber& next = block->fibers[thread];
      if (next.done || (next.waits != nullptr && next.waits->turn == next.turn)) continue;
      progress = true;
      resume(thread);
      left -= next.done;
    }
    if (!progress)
      error = "block " + std::to_string(block->index) + ": a barrier or a shuffle that not every thread reaches";
  }
}

}  // namespace

void* shared(int place, size_t bytes) {
  for (size_t i = 0; i < block->known; ++i)
    if (block->arrays[i].place == place) return block->memory + block->arrays[i].begin;
  const size_t begin = block->used;
  block->used += (bytes + REDZONE + 15) / 16 * 16;
  if (block->used > SHARED || block->known == ARRAYS) fail("more than 48 KiB or 32 arrays of shared memory");
  block->arrays[block->known++] = {place, begin};
  ASAN(__asan_unpoison_memory_region(block->memory + begin, bytes));
  return block->memory + begin;
}

void wait_for_block() {
  // The addresses, in this block's memory, stand for what happened before this turn and before the next.
  TSAN(char* before = block->memory + block->barrier.turn % 2; __tsan_release(before));
  wait(block->barrier);
  TSAN(__tsan_acquire(before));
}

// A shuffle orders no access to memory.
uint64_t exchange(uint64_t bits, unsigned mask) {
  Warp& warp = block->warps[threadIdx.x / WARP];
  uint64_t* slots = warp.slots[warp.barrier.turn % 2];
  const unsigned lane = threadIdx.x % WARP;
  slots[lane] = bits;
  wait(warp.barrier);
  return slots[lane ^ mask];
}

void check_alignment(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("16 bytes at an address that 16 does not divide");
}

void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  body = &kernel;
  error.clear();
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  TSAN(caller_tsan = __tsan_get_current_fiber());
  // Blocks have the same memory one after the other, but not where ThreadSanitizer would see them share it.
  const size_t sets = tsan ? blocks : 1;
  Remembered remembered;
  Memory stacks(sets * threads * STACK), memory(sets * SHARED);
  for (unsigned index = 0; index < blocks && error.empty(); ++index) {
    const size_t set = index % sets;
    Block next(index, threads, stacks.begin + set * threads * STACK, memory.begin + set * SHARED);
    block = &next;
    run_block(remembered);
  }
  TSAN(__tsan_acquire(&ended));
  if (!error.empty()) throw std::runtime_error("simt: " + error);
}

}  // namespace simt
