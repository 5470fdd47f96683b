// Kernels of progressive_fusion: out = sum_k A_k B_k F_k with A_k = a_k prod_{j>k} (1-a_j) at every pixel and
// B_k = b_k prod_{j>k} (1-b_j) at every channel, a_k and b_k the sigmoids of the logits.
//
// The factors A and B are made first, in memory of their own; the weight of an element is one of along the row times
// one of across the rows, as in attentive_fusion.cuh.
#pragma once

#include "../arithmetic/gate.h"
#include "device.h"

namespace afa {

constexpr int MOST_INPUTS = 16;

template <class Each>
struct Many {
  Each each[MOST_INPUTS];
  int32_t count;
};

// factors[k][n][i], of the logits of one axis, which has `size` values. A thread has one of them.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    progressive_factors(int64_t batch, int64_t size, Many<AnyRow> logits, Acc* __restrict__ factors) {
  const Pixel at(size);
  if (at.p >= size) return;
  Acc left = 1;
  for (int k = logits.count - 1; k >= 0; --k) {
    const Gates<Acc> gates(logits.each[k].read<Acc>(at.n, at.p));
    factors[(k * batch + at.n) * size + at.p] = gates.open * left;
    left *= gates.shut;
  }
}

// Of input k, this thread's factors along the row.
template <class T, bool packed, class Acc = acc_t<T>>
__device__ void read_factors(const Acc* factors, const Tiling& tiling, const Place<packed, PACK<T>>& place, int k,
                             Acc (&along)[PACK<T>]) {
  const Acc* row = factors + (k * tiling.batch + place.n) * tiling.length;
#pragma unroll
  for (int i = 0; i < PACK<T>; ++i) along[i] = place.inside(i) ? row[place.element(i)] : Acc(0);
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    progressive_forward(Tiling tiling, Many<Rows<const T>> x, const Acc* __restrict__ factors_along,
                        const Acc* __restrict__ factors_across, Rows<T> out) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc sums[pack] = {};
    for (int k = 0; k < x.count; ++k) {
      Acc values[pack], along[pack];
      load(x.each[k].at(place.n, row), place, values);
      read_factors<T>(factors_along, tiling, place, k, along);
      const Acc across = factors_across[(k * tiling.batch + place.n) * tiling.rows + row];
#pragma unroll
      for (int i = 0; i < pack; ++i) sums[i] += along[i] * across * values[i];
    }
    store(out.at(place.n, row), place, sums);
  }
}

// sums_along[k][n][split][i] gets the sum over a block's rows of across g x_k, sums_across[k][n][chunk][row] the sum
// over a chunk of along g x_k. What is not needed is null. The inputs come one after the other: a block's part of g is
// in the cache after the first.
template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    progressive_backward(Tiling tiling, Rows<const T> g, Many<Rows<const T>> x, Many<Rows<T>> dx,
                         const Acc* __restrict__ factors_along, const Acc* __restrict__ factors_across,
                         Acc* __restrict__ sums_along, Acc* __restrict__ sums_across) {
  constexpr int pack = PACK<T>;
  const Place<packed, pack> place(tiling);
  const bool of_logits = sums_along != nullptr || sums_across != nullptr;
  for (int k = 0; k < x.count; ++k) {
    if (!of_logits && dx.each[k].data == nullptr) continue;
    Acc along[pack], of_rows[pack] = {};
    read_factors<T>(factors_along, tiling, place, k, along);
    for (int32_t step = 0; step < tiling.steps; ++step) {
      const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
      const bool inside = row < place.last_row;  // every thread takes part in the sum over its warp
      Acc of_row = 0;
      if (inside) {
        Acc gs[pack];
        load(g.at(place.n, row), place, gs);
        const Acc across = factors_across[(k * tiling.batch + place.n) * tiling.rows + row];
        if (of_logits) {
          Acc xs[pack];
          load(x.each[k].at(place.n, row), place, xs);
#pragma unroll
          for (int i = 0; i < pack; ++i) {
            const Acc gx = gs[i] * xs[i];
            of_rows[i] += across * gx;
            of_row += along[i] * gx;
          }
        }
        if (dx.each[k].data != nullptr) {
#pragma unroll
          for (int i = 0; i < pack; ++i) gs[i] *= along[i] * across;
          store(dx.each[k].at(place.n, row), place, gs);
        }
      }
      if (sums_across == nullptr) continue;
      of_row = sum_over(of_row, tiling.lanes);
      if (inside && place.lane == 0)
        sums_across[((k * tiling.batch + place.n) * tiling.chunks + place.chunk) * tiling.rows + row] = of_row;
    }
    if (sums_along == nullptr) continue;
    store_sums_of_rows(of_rows, place, tiling, sums_along + k * tiling.batch * tiling.splits * tiling.length);
    __syncthreads();  // before the next input's sums
  }
}

// Of `finish_sums`: totals[n][i], n of all inputs' images.
template <class Acc>
struct Total {
  Acc* totals;
  int64_t width;

  __device__ void operator()(int64_t n, int64_t i, Acc total) const { totals[n * width + i] = total; }
};

// From the gradients of the factors, totals[k][n][i], those of the logits: with S_k = A_k dA_k it is
// (1-a_k) S_k - a_k sum_{j<k} S_j, in which nothing is divided. Those that are not needed have no data.
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    progressive_logits(int64_t batch, int64_t size, Many<AnyRow> logits, const Acc* __restrict__ factors,
                       const Acc* __restrict__ totals, Many<AnyRow> grads) {
  const Pixel at(size);
  if (at.p >= size) return;
  Acc before = 0;
  for (int k = 0; k < logits.count; ++k) {
    const int64_t i = (k * batch + at.n) * size + at.p;
    const Gates<Acc> gates(logits.each[k].read<Acc>(at.n, at.p));
    const Acc sum = factors[i] * totals[i];
    if (grads.each[k].pointer.data != nullptr) grads.each[k].write(at.n, at.p, gates.shut * sum - gates.open * before);
    before += sum;
  }
}

}  // namespace afa
