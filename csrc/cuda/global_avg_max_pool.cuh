// Kernels of global_avg_max_pool: the mean and the first maximum of every channel, from one read.
#pragma once

#include <limits>

#include "device.h"

namespace afa {

// Of some pixels of a channel: the sum, and the first of the largest; a NaN is larger than all, and the last of them
// counts. The merge of two is the same in any order.
template <class Acc>
struct Pooled {
  Acc sum, largest;
  int64_t index;

  __device__ static Pooled none() { return {0, -std::numeric_limits<Acc>::infinity(), INT64_MAX}; }

  __device__ void take(Acc value, int64_t at) {
    const bool nan = value != value, nan_here = largest != largest;
    const bool better = nan_here ? nan && at > index : nan || value > largest || (value == largest && at < index);
    largest = better ? value : largest;
    index = better ? at : index;
  }
  __device__ void merge(const Pooled& other) {
    sum += other.sum;
    if (other.index != INT64_MAX) take(other.largest, other.index);
  }
};

// parts[n][count][channel], as three arrays.
template <class Acc>
struct Parts {
  Acc *sums, *largest;
  int64_t* indices;

  __device__ Pooled<Acc> read(int64_t i) const { return {sums[i], largest[i], indices[i]}; }
  __device__ void write(int64_t i, const Pooled<Acc>& pooled) const {
    sums[i] = pooled.sum;
    largest[i] = pooled.largest;
    indices[i] = pooled.index;
  }
};

// Channels are the rows (NCHW): a part is a chunk of one. read(row, values) gives a thread's elements of a row.
template <bool packed, int pack, class Acc, class Read>
__device__ void pool_along(const Tiling& tiling, const Place<packed, pack>& place, const Parts<Acc>& parts,
                           const Read& read) {
  for (int32_t step = 0; step < tiling.steps; ++step) {
    const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
    const bool inside = row < place.last_row;  // every thread takes part in the shuffles
    auto pooled = Pooled<Acc>::none();
    if (inside) {
      Acc values[pack];
      read(row, values);
#pragma unroll
      for (int i = 0; i < pack; ++i) {
        pooled.sum += values[i];
        if (place.inside(i)) pooled.take(values[i], place.element(i));
      }
    }
    for (int32_t d = tiling.lanes / 2; d > 0; d /= 2)
      pooled.merge({__shfl_xor_sync(0xffffffffu, pooled.sum, d), __shfl_xor_sync(0xffffffffu, pooled.largest, d),
                    __shfl_xor_sync(0xffffffffu, pooled.index, d)});
    if (inside && place.lane == 0) parts.write((place.n * tiling.chunks + place.chunk) * tiling.rows + row, pooled);
  }
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) pool_rows(Tiling tiling, Rows<const T> x, Parts<Acc> parts) {
  const Place<packed, PACK<T>> place(tiling);
  pool_along(tiling, place, parts,
             [&](int64_t row, Acc(&values)[PACK<T>]) { load(x.at(place.n, row), place, values); });
}

// Merges what the threads of a block have, each with that of every `apart`-th one, and leaves it to the first of them.
template <class Acc>
__device__ void merge_in_block(Pooled<Acc>& pooled, int32_t apart, Pooled<Acc>* shared) {
  for (int32_t d = THREADS / 2; d >= apart; d /= 2) {
    shared[threadIdx.x] = pooled;
    __syncthreads();
    if (threadIdx.x < d) pooled.merge(shared[threadIdx.x + d]);
    __syncthreads();
  }
}

// Channels are along the rows (channels_last): a part is a split of the pixels. for_each(body) calls body(values) for a
// thread's rows, in order.
template <bool packed, int pack, class Acc, class ForEach>
__device__ void pool_across(const Tiling& tiling, const Place<packed, pack>& place, const Parts<Acc>& parts,
                            const ForEach& for_each) {
  Acc sums[pack] = {}, largest[pack] = {};
  int32_t found[pack] = {}, step = 0;  // the step of the largest: an index would take twice the registers
  for_each([&](const Acc(&values)[pack]) {
#pragma unroll
    for (int i = 0; i < pack; ++i) {
      const bool better = step == 0 || values[i] > largest[i] || values[i] != values[i];
      sums[i] += values[i];
      largest[i] = better ? values[i] : largest[i];
      found[i] = better ? step : found[i];
    }
    ++step;
  });
  AFA_SHARED(Pooled<Acc>, shared, THREADS);
#pragma unroll
  for (int i = 0; i < pack; ++i) {
    auto pooled = Pooled<Acc>::none();
    if (step > 0) pooled = {sums[i], largest[i], place.row + static_cast<int64_t>(found[i]) * place.at_once};
    merge_in_block(pooled, tiling.lanes, shared);
    if (threadIdx.x < tiling.lanes && place.inside(i))
      parts.write((place.n * tiling.splits + place.split) * tiling.length + place.element(i), pooled);
  }
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, READING) pool_columns(Tiling tiling, Rows<const T> x, Parts<Acc> parts) {
  const Place<packed, PACK<T>> place(tiling);
  pool_across(tiling, place, parts, [&](const auto& body) { for_each_row(x, place, body); });
}

constexpr int FINISHED = 8;  // channels of a block that merges parts: 32 neighbouring bytes of float32

// Merges the `count` parts of each of FINISHED channels of an image, THREADS / FINISHED at a time.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    pool_finish(Parts<Acc> parts, int64_t count, int64_t channels, int64_t pixels, T* __restrict__ avg,
                T* __restrict__ max, int64_t* __restrict__ index) {
  AFA_SHARED(Pooled<Acc>, shared, THREADS);
  AFA_SHARED(double, sums, THREADS);
  const uint32_t blocks = (channels + FINISHED - 1) / FINISHED;
  const int64_t n = blockIdx.x / blocks;
  const int64_t c = static_cast<int64_t>(blockIdx.x % blocks) * FINISHED + threadIdx.x % FINISHED;
  auto pooled = Pooled<Acc>::none();
  double sum = 0;
  constexpr int32_t apart = THREADS / FINISHED, ahead = AHEAD<true>;
  for (int64_t k = threadIdx.x / FINISHED; k < count && c < channels; k += ahead * apart) {
    Pooled<Acc> read[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int64_t part = k + i * apart;
      read[i] = part < count ? parts.read((n * count + part) * channels + c) : Pooled<Acc>::none();
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      sum += read[i].sum;
      pooled.merge(read[i]);
    }
  }
  merge_in_block(pooled, FINISHED, shared);
  for (int32_t d = THREADS / 2; d >= FINISHED; d /= 2) {
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < d) sum += sums[threadIdx.x + d];
    __syncthreads();
  }
  if (threadIdx.x >= FINISHED || c >= channels) return;
  avg[n * channels + c] = static_cast<T>(static_cast<Acc>(sum / static_cast<double>(pixels)));
  max[n * channels + c] = static_cast<T>(pooled.largest);
  index[n * channels + c] = pooled.index;
}

// Gradients that are not there are null.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    pool_backward(Tiling tiling, bool channels_last, const T* __restrict__ grad_avg, const T* __restrict__ grad_max,
                  const int64_t* __restrict__ index, Rows<T> dx) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  const int64_t channels = channels_last ? tiling.length : tiling.rows;
  const auto pixels = static_cast<Acc>(channels_last ? tiling.rows : tiling.length);
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc values[pack];
#pragma unroll
    for (int i = 0; i < pack; ++i) {
      const int64_t element = place.element(i), p = channels_last ? row : element;
      const int64_t at = place.n * channels + (channels_last ? element : row);
      values[i] = 0;
      if (!place.inside(i)) continue;
      if (grad_avg != nullptr) values[i] = static_cast<Acc>(grad_avg[at]) / pixels;
      if (grad_max != nullptr && index[at] == p) values[i] += static_cast<Acc>(grad_max[at]);
    }
    store(dx.at(place.n, row), place, values);
  }
}

}  // namespace afa
