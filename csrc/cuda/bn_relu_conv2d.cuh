// Kernels of bn_relu_conv2d, whose convolution is ATen's: it gets r = y > 0 ? y : slope y with y = (z - mean) scale +
// beta.
#pragma once

#include "batch_norm.cuh"

namespace afa {

template <class T, bool packed, bool channels_last, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) activate(Tiling tiling, Rows<const T> z, Norm<Acc> norm, Rows<T> activated) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  NormOfChannel<Acc> of[channels_last ? pack : 1];
  if constexpr (channels_last) read_norms(norm, place, of);
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc values[pack];
    load(z.at(place.n, row), place, values);
    if constexpr (!channels_last) of[0] = norm.at(row);
#pragma unroll
    for (int i = 0; i < pack; ++i) values[i] = of[channels_last ? i : 0].rectify(values[i]);
    store(activated.at(place.n, row), place, values);
  }
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    activated_sums_of_rows(Tiling tiling, Rows<const T> g, Rows<const T> z, Norm<Acc> norm, Acc* __restrict__ sums) {
  const Place<packed, PACK<T>> place(tiling);
  sums_of_rows<false>(tiling, place, z, norm, sums,
                      [&](int64_t row, Acc(&gs)[PACK<T>]) { load(g.at(place.n, row), place, gs); });
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    activated_sums_of_columns(Tiling tiling, Rows<const T> g, Rows<const T> z, Norm<Acc> norm, Acc* __restrict__ sums) {
  const Place<packed, PACK<T>> place(tiling);
  sums_of_columns<false>(tiling, place, z, norm, sums,
                         [&](int64_t row, Acc(&gs)[PACK<T>]) { load(g.at(place.n, row), place, gs); });
}

template <class T, bool packed, bool channels_last, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    activated_backward(Tiling tiling, Rows<const T> g, Rows<const T> z, Differentials<Acc> differentials, Rows<T> dz) {
  const Place<packed, PACK<T>> place(tiling);
  differentiate<channels_last>(place, z, differentials, dz,
                               [&](int64_t row, Acc(&gs)[PACK<T>]) { load(g.at(place.n, row), place, gs); });
}

}  // namespace afa
