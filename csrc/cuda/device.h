// What kernels are written with, in CUDA; in the tests g++ compiles the same kernels with tests/simt/simt.hpp.
#pragma once

#include "../common.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define AFA_CUDA CUDA                                          // the dispatch key of what csrc/cuda registers
#define AFA_SHARED(T, name, count) __shared__ T name[(count)]  // an array of the block
#else
#include <simt.hpp>
#endif

namespace afa {

constexpr int THREADS = 256;  // of every block
constexpr int WARP = 32;

// Accesses of 16 bytes, of a uint4: nvcc would store a struct in parts.
template <class T>
constexpr int PACK = 16 / sizeof(T);

template <class T>
struct alignas(16) Pack {
  T values[PACK<T>];
};

// Rows of a map whose elements lie side by side: the pixels of a channel (NCHW), or the channels of a pixel
// (channels_last).
template <class T>
struct Rows {
  T* data;
  int64_t sn, sr;

  __device__ T* at(int64_t n, int64_t r) const { return data + n * sn + r * sr; }
};

// How rows are cut. `lanes` threads, of one warp, work on a row; a block has THREADS / lanes rows at a time, `steps`
// times. A row is cut into `chunks` of lanes * pack elements, the rows of an image into `splits`.
struct Tiling {
  int64_t batch, rows, length;
  int32_t lanes, steps;
  int64_t chunks, splits;

  int64_t blocks() const { return batch * splits * chunks; }
};

// The part of the tiling that is this thread's: elements first, first + step, ... of the rows row, row + at_once, ...
template <bool packed, int pack>
struct Place {
  int64_t n, chunk, split, row, last_row, first;
  int32_t lane, at_once, step;
  int64_t length;

  __device__ explicit Place(const Tiling& t) : length(t.length) {
    const uint32_t block = blockIdx.x, chunks = t.chunks, splits = t.splits;
    chunk = block % chunks;
    split = block / chunks % splits;
    n = block / chunks / splits;
    lane = threadIdx.x & (t.lanes - 1);
    at_once = THREADS / t.lanes;
    const int64_t rows_of_block = static_cast<int64_t>(at_once) * t.steps, first_row = split * rows_of_block;
    row = first_row + threadIdx.x / t.lanes;
    last_row = first_row + rows_of_block < t.rows ? first_row + rows_of_block : t.rows;
    first = chunk * t.lanes * pack + (packed ? lane * pack : lane);
    step = packed ? 1 : t.lanes;
  }

  __device__ int64_t element(int i) const { return first + static_cast<int64_t>(i) * step; }
  // Of a packed row all elements of a thread are inside, or none.
  __device__ bool inside(int i) const { return (packed ? first : element(i)) < length; }
};

// An element that nobody writes to meanwhile.
template <class T>
__device__ acc_t<T> fetch(const T* address) {
  if constexpr (sizeof(T) == 2) {
    const uint16_t bits = __ldg(reinterpret_cast<const uint16_t*>(address));
    T value;
    memcpy(&value, &bits, sizeof bits);
    return static_cast<acc_t<T>>(value);
  } else {
    return __ldg(address);
  }
}

// An address that offsets of 32 bits are added to, with one instruction each. nvcc, if it knew where the address came
// from, would add them to the other offsets first, with four.
template <class T>
__device__ T* as_base(T* address) {
#ifdef __CUDA_ARCH__
  asm("" : "+l"(address));
#endif
  return address;
}

// A number of which nvcc must not keep what is made of it: it is made anew here.
__device__ inline int32_t anew(int32_t number) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(number));
#endif
  return number;
}

// The values of this thread's elements of a row; 0 outside it.
template <bool packed, class T, int pack>
__device__ void load(const T* row, const Place<packed, pack>& place, acc_t<T> (&values)[pack]) {
  if constexpr (packed) {
    uint4 bits{};
    if (place.inside(0)) bits = __ldg(reinterpret_cast<const uint4*>(row + place.first));
    Pack<T> read;
    memcpy(&read, &bits, sizeof bits);
#pragma unroll
    for (int i = 0; i < pack; ++i) values[i] = static_cast<acc_t<T>>(read.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < pack; ++i)
      values[i] = place.inside(i) ? static_cast<acc_t<T>>(row[place.element(i)]) : acc_t<T>(0);
  }
}

// Rows that a thread reads before it uses any: of those that are not packed it reads several elements anyway.
template <bool packed>
constexpr int AHEAD = packed ? 4 : 1;

// Blocks of a multiprocessor that leave a thread the registers for that: for as many as there may be nvcc would read
// one row after the other.
constexpr int READING = 2;

// Calls body(values) for this thread's rows, in order.
template <bool packed, class T, int pack, class F>
__device__ void for_each_row(const Rows<const T>& rows, const Place<packed, pack>& place, const F& body) {
  constexpr int ahead = AHEAD<packed>;
  int64_t row = place.row;
#pragma unroll 1
  for (; row + (ahead - 1) * place.at_once < place.last_row; row += ahead * place.at_once) {
    acc_t<T> values[ahead][pack];
#pragma unroll
    for (int i = 0; i < ahead; ++i) load(rows.at(place.n, row + i * place.at_once), place, values[i]);
#pragma unroll
    for (int i = 0; i < ahead; ++i) body(values[i]);
  }
#pragma unroll 1
  for (; row < place.last_row; row += place.at_once) {
    acc_t<T> values[pack];
    load(rows.at(place.n, row), place, values);
    body(values);
  }
}

template <bool packed, class T, int pack>
__device__ void store(T* row, const Place<packed, pack>& place, const acc_t<T> (&values)[pack]) {
  if constexpr (packed) {
    Pack<T> written;
#pragma unroll
    for (int i = 0; i < pack; ++i) written.values[i] = static_cast<T>(values[i]);
    uint4 bits;
    memcpy(&bits, &written, sizeof bits);
    if (place.inside(0)) __stcs(reinterpret_cast<uint4*>(row + place.first), bits);
  } else {
#pragma unroll
    for (int i = 0; i < pack; ++i)
      if (place.inside(i)) row[place.element(i)] = static_cast<T>(values[i]);
  }
}

// A value of whatever element type, as of logits: read as Acc, written from it.
struct AnyPointer {
  void* data;
  ScalarType dtype;

  template <class Acc>
  __device__ Acc read(int64_t i) const {
    switch (dtype) {
      case ScalarType::Float: return static_cast<Acc>(static_cast<const float*>(data)[i]);
      case ScalarType::Double: return static_cast<Acc>(static_cast<const double*>(data)[i]);
      case ScalarType::Half: return static_cast<Acc>(static_cast<float>(static_cast<const Half*>(data)[i]));
      default: return static_cast<Acc>(static_cast<float>(static_cast<const BFloat16*>(data)[i]));
    }
  }
  template <class Acc>
  __device__ void write(int64_t i, Acc value) const {
    switch (dtype) {
      case ScalarType::Float: static_cast<float*>(data)[i] = static_cast<float>(value); break;
      case ScalarType::Double: static_cast<double*>(data)[i] = static_cast<double>(value); break;
      case ScalarType::Half: static_cast<Half*>(data)[i] = static_cast<Half>(static_cast<float>(value)); break;
      default: static_cast<BFloat16*>(data)[i] = static_cast<BFloat16>(static_cast<float>(value));
    }
  }
};

// Element (n, i) of a map with one value a pixel, or one a channel.
struct AnyRow {
  AnyPointer pointer;
  int64_t sn, si;

  template <class Acc>
  __device__ Acc read(int64_t n, int64_t i) const {
    return pointer.read<Acc>(n * sn + i * si);
  }
  template <class Acc>
  __device__ void write(int64_t n, int64_t i, Acc value) const {
    pointer.write(n * sn + i * si, value);
  }
};

// Element (n, c, p) of a map of any element type.
struct AnyMap {
  AnyPointer pointer;
  int64_t sn, sc, sp;

  template <class Acc>
  __device__ Acc read(int64_t n, int64_t c, int64_t p) const {
    return pointer.read<Acc>(n * sn + c * sc + p * sp);
  }
  template <class Acc>
  __device__ void write(int64_t n, int64_t c, int64_t p, Acc value) const {
    pointer.write(n * sn + c * sc + p * sp, value);
  }
};

// Pixel p of image n, a thread each; the last block of an image has threads past its end.
struct Pixel {
  int64_t n, p;

  __device__ explicit Pixel(int64_t pixels) {
    const uint32_t blocks = (pixels + THREADS - 1) / THREADS;
    n = blockIdx.x / blocks;
    p = static_cast<int64_t>(blockIdx.x % blocks) * THREADS + threadIdx.x;
  }
};

// The sum over `lanes` neighbouring threads of a warp, all of which call it.
template <class Acc>
__device__ Acc sum_over(Acc value, int32_t lanes) {
  for (int32_t d = lanes / 2; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
  return value;
}

// Of a thread's sums over its rows those over the block's, to sums[n][split][element]; added to what is there, if it
// has `more` of them.
template <bool packed, int pack, class Acc>
__device__ void store_sums_of_rows(const Acc (&sums)[pack], const Place<packed, pack>& place, const Tiling& tiling,
                                   Acc* __restrict__ out, bool more = false) {
  AFA_SHARED(Acc, shared, THREADS * pack);
#pragma unroll
  for (int i = 0; i < pack; ++i) shared[i * THREADS + threadIdx.x] = sums[i];
  __syncthreads();
  for (int k = threadIdx.x; k < tiling.lanes * pack; k += THREADS) {
    const int lane = k % tiling.lanes, i = k / tiling.lanes;
    Acc total = 0;
    for (int other = lane; other < THREADS; other += tiling.lanes) total += shared[i * THREADS + other];
    const int64_t element = place.chunk * tiling.lanes * pack + (packed ? lane * pack + i : i * tiling.lanes + lane);
    const int64_t at = (place.n * tiling.splits + place.split) * tiling.length + element;
    if (element < tiling.length) out[at] = more ? out[at] + total : total;
  }
}

// Adds up `count` rows of `width` sums of each image, in order, and calls finish(n, i, total). `columns` divides
// THREADS: the columns of a block, of which each has THREADS / columns threads.
template <class Acc, class F>
__global__ void __launch_bounds__(THREADS)
    finish_sums(const Acc* __restrict__ sums, int64_t count, int64_t width, int32_t columns, F finish) {
  AFA_SHARED(double, shared, THREADS);
  const uint32_t blocks = (width + columns - 1) / columns;
  const int64_t n = blockIdx.x / blocks,
                i = blockIdx.x % blocks * static_cast<int64_t>(columns) + threadIdx.x % columns;
  const int32_t apart = THREADS / columns;
  double total = 0;
  if (i < width)
    for (int64_t k = threadIdx.x / columns; k < count; k += apart) total += sums[(n * count + k) * width + i];
  shared[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x >= columns || i >= width) return;
  for (int32_t other = threadIdx.x + columns; other < THREADS; other += columns) total += shared[other];
  finish(n, i, static_cast<Acc>(total));
}

}  // namespace afa
