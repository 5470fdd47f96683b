// CUDA's execution model on a CPU, for kernels in plain C++: g++ compiles csrc/cuda with it, in place of nvcc.
//
// Every CUDA thread is a fiber; one thread of the system runs them, block after block. What CUDA leaves open is made to
// show: shared memory holds NaN before it is written, arrays in it lie apart in poisoned memory (AddressSanitizer sees
// an index past one), threads of a block run in another order at every turn, a barrier or a shuffle that not all of the
// threads reach is an error, and so is an access of 16 bytes at an address that 16 does not divide. Under
// ThreadSanitizer every fiber is a thread of its own, which nothing but barriers orders: accesses without one are found
// whether or not they collide.
//
// It shows nothing of time, nor of what nvcc makes of a kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define AFA_CUDA CPU  // what csrc/cuda registers is for CPU tensors here
#define AFA_SHARED(T, name, count) T* const name = static_cast<T*>(simt::shared(__COUNTER__, (count) * sizeof(T)))
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

// The machinery (simt.cpp) is compiled without sanitizers: none of it is an access of a kernel's.
void* shared(int place, size_t bytes);            // the block's array of this place in the source
void wait_for_block();                            // __syncthreads
uint64_t exchange(uint64_t bits, unsigned mask);  // what the lane that differs in the bits of `mask` gives
void check_alignment(const void* address);        // of 16 bytes
void run(unsigned blocks, unsigned threads, const std::function<void()>& body);

template <class... Parameters, class... Arguments>
void launch(unsigned blocks, unsigned threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  const std::tuple<Parameters...> given(arguments...);
  run(blocks, threads, [&] { std::apply(kernel, given); });
}

}  // namespace simt

inline void __syncthreads() {
  simt::wait_for_block();
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = simt::exchange(bits, mask);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

inline uint4 __ldg(const uint4* address) {
  simt::check_alignment(address);
  return *address;
}

inline void __stcs(uint4* address, uint4 value) {
  simt::check_alignment(address);
  *address = value;
}
