#pragma once

#include <memory>

#include "../common.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace afa {

template <class T>
std::unique_ptr<T[]> uninitialized(int64_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

// Fetches the line of what will be read.
inline void prefetch([[maybe_unused]] const void* address) {
#ifdef __GNUC__
  __builtin_prefetch(address);
  asm volatile("");  // without an effect that GCC knows it drops calls of functions that only fetch
#endif
}

// A fresh output costs a page fault for every 4 KiB, which is most of the time of a one-pass kernel. The kernel is
// about to write all of it, so ask for 2 MiB pages; a system that has none ignores the request.
inline void back_with_huge_pages(const Tensor& output) {
#ifdef __linux__
  constexpr uintptr_t page = 4096, least = 4 << 20;
  const auto begin = reinterpret_cast<uintptr_t>(output.data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t last = (begin + output.numel() * output.element_size()) / page * page;
  if (last > first && last - first >= least) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace afa
