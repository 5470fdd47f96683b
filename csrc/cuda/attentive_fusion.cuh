// Kernels of attentive_fusion: out = a (1-b) x + (1-a) b y with a = sigmoid(spatial), b = sigmoid(channel).
//
// Every coefficient is a product of a value along the row and a value across the rows, so one kernel serves both
// layouts: x's is x_along[i] * x_across[row], y's likewise. In NCHW a is along and b is across, in channels_last b and
// a.
#pragma once

#include "../arithmetic/gate.h"
#include "device.h"

namespace afa {

// The logits of a along and of b across, or of b along and of a across.
struct FusionLogits {
  AnyRow along, across;
  bool channels_last;

  // x's factor and y's, of which a is as it is and b is reversed.
  template <class Acc>
  __device__ Gates<Acc> factors_along(int64_t n, int64_t i) const {
    const Acc z = along.read<Acc>(n, i);
    return Gates<Acc>(channels_last ? -z : z);
  }
  template <class Acc>
  __device__ Gates<Acc> factors_across(int64_t n, int64_t row) const {
    const Acc z = across.read<Acc>(n, row);
    return Gates<Acc>(channels_last ? z : -z);
  }
};

template <class Acc, bool packed, int pack, class Logits>
__device__ void read_factors(const Logits& logits, const Place<packed, pack>& place, Gates<Acc> (&along)[pack]) {
#pragma unroll
  for (int i = 0; i < pack; ++i)
    along[i] = place.inside(i) ? logits.template factors_along<Acc>(place.n, place.element(i)) : Gates<Acc>{};
}

// out of the rows of x, and of those of y that read(row, values) gives.
template <class T, bool packed, int pack, class Logits, class Read, class Acc = acc_t<T>>
__device__ void fuse(const Place<packed, pack>& place, const Rows<const T>& x, const Logits& logits, const Rows<T>& out,
                     const Read& read) {
  Gates<Acc> along[pack];
  read_factors(logits, place, along);
  for (int64_t row = place.row; row < place.last_row; row += place.at_once) {
    Acc xs[pack], ys[pack];
    load(x.at(place.n, row), place, xs);
    read(row, ys);
    const Gates<Acc> across = logits.template factors_across<Acc>(place.n, row);
#pragma unroll
    for (int i = 0; i < pack; ++i) xs[i] = along[i].open * across.open * xs[i] + along[i].shut * across.shut * ys[i];
    store(out.at(place.n, row), place, xs);
  }
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    fusion_forward(Tiling tiling, Rows<const T> x, Rows<const T> y, FusionLogits logits, Rows<T> out) {
  const Place<packed, PACK<T>> place(tiling);
  fuse(place, x, logits, out, [&](int64_t row, Acc(&ys)[PACK<T>]) { load(y.at(place.n, row), place, ys); });
}

// sums_along[n][split][i] gets the sum over a block's rows of x_across g x - y_across g y, sums_across[n][chunk][row]
// the sum over a chunk of x_along g x - y_along g y. What is not needed is null.
template <class T, bool packed, int pack, class Logits, class Read, class Acc = acc_t<T>>
__device__ void fuse_backward(const Tiling& tiling, const Place<packed, pack>& place, const Rows<const T>& g,
                              const Rows<const T>& x, const Logits& logits, const Rows<T>& dx, const Rows<T>& dy,
                              Acc* sums_along, Acc* sums_across, const Read& read) {
  const bool of_logits = sums_along != nullptr || sums_across != nullptr;
  Gates<Acc> along[pack];
  read_factors(logits, place, along);
  Acc of_rows[pack] = {};
  for (int32_t step = 0; step < tiling.steps; ++step) {
    const int64_t row = place.row + static_cast<int64_t>(step) * place.at_once;
    const bool inside = row < place.last_row;  // every thread takes part in the sum over its warp
    Acc of_row = 0;
    if (inside) {
      Acc gs[pack], xs[pack], ys[pack];
      load(g.at(place.n, row), place, gs);
      if (of_logits) {
        load(x.at(place.n, row), place, xs);
        read(row, ys);
      }
      const Gates<Acc> across = logits.template factors_across<Acc>(place.n, row);
      if (of_logits) {
#pragma unroll
        for (int i = 0; i < pack; ++i) {
          const Acc gx = gs[i] * xs[i], gy = gs[i] * ys[i];
          of_rows[i] += across.open * gx - across.shut * gy;
          of_row += along[i].open * gx - along[i].shut * gy;
        }
      }
      if (dx.data != nullptr) {
#pragma unroll
        for (int i = 0; i < pack; ++i) xs[i] = along[i].open * across.open * gs[i];
        store(dx.at(place.n, row), place, xs);
      }
      if (dy.data != nullptr) {
#pragma unroll
        for (int i = 0; i < pack; ++i) ys[i] = along[i].shut * across.shut * gs[i];
        store(dy.at(place.n, row), place, ys);
      }
    }
    if (sums_across == nullptr) continue;
    of_row = sum_over(of_row, tiling.lanes);
    if (inside && place.lane == 0) sums_across[(place.n * tiling.chunks + place.chunk) * tiling.rows + row] = of_row;
  }
  if (sums_along != nullptr) store_sums_of_rows(of_rows, place, tiling, sums_along);
}

template <class T, bool packed, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    fusion_backward(Tiling tiling, Rows<const T> g, Rows<const T> x, Rows<const T> y, FusionLogits logits, Rows<T> dx,
                    Rows<T> dy, Acc* __restrict__ sums_along, Acc* __restrict__ sums_across) {
  const Place<packed, PACK<T>> place(tiling);
  fuse_backward(tiling, place, g, x, logits, dx, dy, sums_along, sums_across,
                [&](int64_t row, Acc(&ys)[PACK<T>]) { load(y.at(place.n, row), place, ys); });
}

// The gradient of a logit z: the sum times sigmoid(z) sigmoid(-z), with the sign of its factor.
struct FusionLogitsGradient {
  AnyRow logits, grad;
  bool reversed;

  template <class Acc>
  __device__ void operator()(int64_t n, int64_t i, Acc total) const {
    const Gates<Acc> gates(logits.read<Acc>(n, i));
    const Acc derivative = gates.open * gates.shut;
    grad.write(n, i, (reversed ? -derivative : derivative) * total);
  }
};

}  // namespace afa
