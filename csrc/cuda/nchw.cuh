// The kernel that copies a map from channels_last to NCHW, and back.
//
// What resizes on the fly reads four neighbours of a pixel for each channel. In NCHW they lie side by side for the
// threads of a warp, and what a thread knows of its pixel serves all channels; in channels_last it would be found anew
// for every few of them. The copy is a read and a write.
#pragma once

#include "device.h"

namespace afa {

constexpr int TILE_CHANNELS = 32, TILE_PIXELS = 128;  // of a block

// Calls body(i, j) for this thread's elements of `rows` x `columns`, neighbouring threads having neighbouring columns.
template <class F>
__device__ void for_each_of_tile(uint32_t rows, uint32_t columns, const F& body) {
  const uint32_t down = THREADS / columns, along = THREADS % columns;
  uint32_t i = threadIdx.x / columns, j = threadIdx.x % columns;
#pragma unroll 4
  for (uint32_t element = threadIdx.x; element < rows * columns; element += THREADS) {
    body(i, j);
    i += down;
    j += along;
    if (j >= columns) {
      j -= columns;
      ++i;
    }
  }
}

// Elements are copied as they are: `Bits` has their size. One of the maps is channels_last: that which is written to,
// if it goes `back`.
template <class Bits, bool back>
__global__ void __launch_bounds__(THREADS)
    copy_map(int64_t channels, int64_t pixels, Map<const Bits> from, Map<Bits> to) {
  // Elements of neighbouring channels are in different banks.
  constexpr uint32_t row = TILE_PIXELS + (sizeof(Bits) < 4 ? 4 / sizeof(Bits) : 1);
  AFA_SHARED(Bits, tile, TILE_CHANNELS * row);
  const uint32_t across = (channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
  const uint32_t along = (pixels + TILE_PIXELS - 1) / TILE_PIXELS;
  const int64_t c = static_cast<int64_t>(blockIdx.x % across) * TILE_CHANNELS;
  const int64_t p = static_cast<int64_t>(blockIdx.x / across % along) * TILE_PIXELS, n = blockIdx.x / across / along;
  const uint32_t width = channels - c < TILE_CHANNELS ? channels - c : TILE_CHANNELS;
  const uint32_t length = pixels - p < TILE_PIXELS ? pixels - p : TILE_PIXELS;
  const Bits* source = from.data + n * from.sn + c * from.sc + p * from.sp;
  Bits* target = to.data + n * to.sn + c * to.sc + p * to.sp;
  if constexpr (back) {
    for_each_of_tile(width, length,
                     [&](uint32_t i, uint32_t j) { tile[i * row + j] = __ldg(source + i * from.sc + j); });
    __syncthreads();
    for_each_of_tile(length, width, [&](uint32_t j, uint32_t i) { target[j * to.sp + i] = tile[i * row + j]; });
  } else {
    for_each_of_tile(length, width,
                     [&](uint32_t j, uint32_t i) { tile[i * row + j] = __ldg(source + j * from.sp + i); });
    __syncthreads();
    for_each_of_tile(width, length, [&](uint32_t i, uint32_t j) { target[i * to.sc + j] = tile[i * row + j]; });
  }
}

}  // namespace afa
