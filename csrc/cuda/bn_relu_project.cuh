// Kernels of bn_relu_project: logits = sum over C of w r, with y = (z - mean) scale + beta and r = y > 0 ? y : slope y.
//
// Channels are rows (NCHW) or lie along them (channels_last). Sums over channels are taken of a part in the arithmetic
// type, and over the parts, in order, in float64.
#pragma once

#include "batch_norm.cuh"

namespace afa {

// Channels are rows: sums[n][split][pixel] gets the sum of w r over a block's.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) project_rows(Tiling tiling, Rows<const T> z, Norm<Acc> norm,
                                                        const Acc* __restrict__ weights, Acc* __restrict__ sums) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  Acc of_pixels[pack] = {};
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc values[pack];
    load(z.at(place.n, row), place, values);
    const NormOfChannel<Acc> of = norm.at(row);
    const Acc weight = weights[row];
#pragma unroll
    for (int i = 0; i < pack; ++i) of_pixels[i] += weight * of.rectify(values[i]);
  }
  store_sums_of_rows(of_pixels, place, tiling, sums);
}

// Channels lie along the rows: sums[n][chunk][pixel] gets the sum of w r over a chunk of them.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, READING)
    project_columns(Tiling tiling, Rows<const T> z, Norm<Acc> norm, const Acc* __restrict__ weights,
                    Acc* __restrict__ sums) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  NormOfChannel<Acc> of[pack];
  Acc along[pack];
  read_norms(norm, place, of);
#pragma unroll
  for (int i = 0; i < pack; ++i) along[i] = place.inside(i) ? weights[place.element(i)] : Acc(0);
  constexpr int ahead = AHEAD<packed>;
  for (int32_t step = 0; step < tiling.steps; step += ahead) {  // every thread takes part in the sums over its warp
    Acc values[ahead][pack];
    const int64_t first = place.row + static_cast<int64_t>(step) * place.at_once;
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const int64_t row = first + j * place.at_once;
      load(z.at(place.n, row < place.last_row ? row : place.last_row - 1), place, values[j]);
    }
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const int64_t row = first + j * place.at_once;
      Acc of_pixel = 0;
#pragma unroll
      for (int i = 0; i < pack; ++i) of_pixel += along[i] * of[i].rectify(values[j][i]);
      of_pixel = sum_over(of_pixel, tiling.lanes);
      if (row < place.last_row && place.lane == 0)
        sums[(place.n * tiling.chunks + place.chunk) * tiling.rows + row] = of_pixel;
    }
  }
}

// The logit of a pixel.
template <class T>
struct Logit {
  T* data;
  int64_t pixels;

  template <class Acc>
  __device__ void operator()(int64_t n, int64_t p, Acc total) const {
    data[n * pixels + p] = static_cast<T>(total);
  }
};

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    norm_sums_of_rows(Tiling tiling, Rows<const T> g, Rows<const T> z, Norm<Acc> norm, Acc* __restrict__ sums) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  Acc along[pack];
  load(g.at(place.n, 0), place, along);
  sums_of_rows<true>(tiling, place, z, norm, sums, [&](int64_t, Acc(&gs)[pack]) {
#pragma unroll
    for (int i = 0; i < pack; ++i) gs[i] = along[i];
  });
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    norm_sums_of_columns(Tiling tiling, Rows<const T> g, Rows<const T> z, Norm<Acc> norm, Acc* __restrict__ sums) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  sums_of_columns<true>(tiling, place, z, norm, sums, [&](int64_t row, Acc(&gs)[pack]) {
    const Acc grad = static_cast<Acc>(*g.at(place.n, row));
#pragma unroll
    for (int i = 0; i < pack; ++i) gs[i] = grad;
  });
}

// Of g, what lies along a row is read once.
template <class T, bool packed, bool channels_last, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    norm_backward(Tiling tiling, Rows<const T> g, Rows<const T> z, Differentials<Acc> differentials, Rows<T> dz) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  Acc along[channels_last ? 1 : pack];
  if constexpr (!channels_last) load(g.at(place.n, 0), place, along);
  differentiate<channels_last>(place, z, differentials, dz, [&](int64_t row, Acc(&gs)[pack]) {
    if constexpr (channels_last) along[0] = static_cast<Acc>(*g.at(place.n, row));
#pragma unroll
    for (int i = 0; i < pack; ++i) gs[i] = along[channels_last ? 0 : i];
  });
}

}  // namespace afa
