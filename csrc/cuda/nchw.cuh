// The kernel that copies a map from channels_last to NCHW, and back.
//
// What resizes on the fly reads four neighbours of a pixel for each channel. In NCHW they lie side by side for the
// threads of a warp, and what a thread knows of its pixel serves all channels; in channels_last it would be found anew
// for every few of them. The copy is a read and a write.
#pragma once

#include "device.h"

namespace afa {

constexpr int TILE_CHANNELS = 32, TILE_PIXELS = 128;                  // of a block
constexpr int TILE_ELEMENTS = TILE_CHANNELS * TILE_PIXELS / THREADS;  // of a thread

// Calls body(i, inside, address, c, p) for the elements of a tile that are this thread's. Neighbouring threads have
// neighbouring channels of a pixel, of which the next is `stride` further, or neighbouring pixels of a channel.
template <bool channels_last, class T, class F>
__device__ void for_each_of_tile(T* data, int64_t stride, int32_t channels, int32_t pixels, const F& body) {
  constexpr int warps = THREADS / WARP, along = channels_last ? 1 : TILE_PIXELS / WARP;
  const int32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  data += warp * stride + lane;
#pragma unroll
  for (int i = 0; i < TILE_ELEMENTS / along; ++i) {
    const int32_t across = warp + warps * i;
#pragma unroll
    for (int j = 0; j < along; ++j) {
      const int32_t c = channels_last ? lane : across, p = channels_last ? across : lane + WARP * j;
      body(i * along + j, c < channels && p < pixels, data + WARP * j, c, p);
    }
    data = as_base(data + warps * stride);
  }
}

// Elements are copied as they are: `Bits` has their size. One of the maps is channels_last: that which is written to,
// if it goes `back`. The blocks of a multiprocessor leave a thread the registers to read all before it stores any.
template <class Bits, bool back>
__global__ void __launch_bounds__(THREADS, 4)
    copy_map(int64_t channels, int64_t pixels, Map<const Bits> from, Map<Bits> to) {
  // Elements of neighbouring channels are in different banks.
  constexpr int row = TILE_PIXELS + (sizeof(Bits) < 4 ? 4 / sizeof(Bits) : 1);
  AFA_SHARED(Bits, tile, TILE_CHANNELS * row);
  const uint32_t across = (channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
  const uint32_t along = (pixels + TILE_PIXELS - 1) / TILE_PIXELS;
  const int64_t c = static_cast<int64_t>(blockIdx.x % across) * TILE_CHANNELS;
  const int64_t p = static_cast<int64_t>(blockIdx.x / across % along) * TILE_PIXELS, n = blockIdx.x / across / along;
  const auto width = static_cast<int32_t>(channels - c < TILE_CHANNELS ? channels - c : TILE_CHANNELS);
  const auto length = static_cast<int32_t>(pixels - p < TILE_PIXELS ? pixels - p : TILE_PIXELS);
  Bits values[TILE_ELEMENTS];
  for_each_of_tile<!back>(from.data + n * from.sn + c * from.sc + p * from.sp, back ? from.sc : from.sp, width, length,
                          [&](int i, bool inside, const Bits* address, int32_t, int32_t) {
                            values[i] = inside ? __ldg(address) : Bits(0);
                          });
  for_each_of_tile<!back>(tile, 0, width, length, [&](int i, bool, const Bits*, int32_t of_c, int32_t of_p) {
    tile[of_c * row + of_p] = values[i];
  });
  __syncthreads();
  for_each_of_tile<back>(to.data + n * to.sn + c * to.sc + p * to.sp, back ? to.sp : to.sc, width, length,
                         [&](int, bool inside, Bits* address, int32_t of_c, int32_t of_p) {
                           if (inside) *address = tile[of_c * row + of_p];
                         });
}

}  // namespace afa
