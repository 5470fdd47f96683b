// Kernels of upsampled_pool: those of global_avg_max_pool over a map that is upsampled, and its gradients.
#pragma once

#include "global_avg_max_pool.cuh"
#include "upsampling.cuh"

namespace afa {

template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) upsampled_pool_rows(Tiling tiling, Upsampled<T> up, Parts<Acc> parts) {
  const Place<false, UPSAMPLED<T, false>> place(tiling);
  const UpsampledPixels<T, false> rows(up, place);
  pool_along(tiling, place, parts, [&](int64_t row, Acc(&values)[UPSAMPLED<T, false>]) { rows.read(row, values); });
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, READING)
    upsampled_pool_columns(Tiling tiling, Upsampled<T> up, Parts<Acc> parts) {
  const Place<packed, UPSAMPLED<T, packed>> place(tiling);
  const UpsampledChannels<T, packed> rows(up, place);
  pool_across(tiling, place, parts, [&](const auto& body) {
    for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
      Acc values[UPSAMPLED<T, packed>];
      rows.read(row, values);
      body(values);
    }
  });
}

// The gradient of the upsampled map. Gradients that are not there are null.
template <class T>
struct PoolUpstream {
  using Acc = acc_t<T>;
  const T *grad_avg, *grad_max;
  const int64_t* index;
  int64_t channels;
  Acc pixels;

  struct OfChannel {
    Acc everywhere, largest;
    int64_t index;

    __device__ Acc operator()(int32_t p) const { return p == index ? everywhere + largest : everywhere; }
  };
  __device__ OfChannel of_channel(int64_t n, int64_t c) const {
    const int64_t at = n * channels + c;
    return {grad_avg != nullptr ? fetch(grad_avg + at) / pixels : Acc(0),
            grad_max != nullptr ? fetch(grad_max + at) : Acc(0), grad_max != nullptr ? index[at] : -1};
  }

  template <int pack>
  struct OfChannels {
    OfChannel each[pack];

    __device__ void read(int32_t p, Acc (&values)[pack]) const {
#pragma unroll
      for (int i = 0; i < pack; ++i) values[i] = each[i](p);
    }
  };
  template <bool packed, int pack>
  __device__ OfChannels<pack> of_channels(const Place<packed, pack>& place) const {
    OfChannels<pack> result;
#pragma unroll
    for (int i = 0; i < pack; ++i)
      result.each[i] = place.inside(i) ? of_channel(place.n, place.element(i)) : OfChannel{0, 0, -1};
    return result;
  }

  __device__ Acc scale(int64_t, int64_t) const { return 1; }
};

}  // namespace afa
