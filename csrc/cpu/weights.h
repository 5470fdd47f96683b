// Scale-space compositing of K logits per pixel: the weights w_i = (1 - exp(-d_i)) T_i with T_i = exp(-sum_{j<i} d_j).
#pragma once

#include "../arithmetic/composite.h"
#include "../phi.h"

namespace afa {

// Rows of `count` pixels: row k of `logits`, `weights` and `transmittance` begins at k * stride; transmittance row k is
// T_{k+1}, what scale k lets through. With `opaque_last` the last scale lets nothing through: w_K = T_K.
template <class Phi, class Acc>
void weigh_rows(int64_t scales, bool opaque_last, int64_t stride, int64_t count, const Acc* logits,
                Acc* __restrict weights, Acc* __restrict transmittance, Acc* __restrict depth_sum) {
  for (int64_t i = 0; i < count; ++i) depth_sum[i] = 0;
  for (int64_t k = 0; k < scales; ++k) {
    const Acc* y = logits + k * stride;
    Acc *w = weights + k * stride, *after = transmittance + k * stride;
    const Acc* before = after - stride;  // not read by the first scale, which nothing occludes
    const bool first = k == 0, opaque = opaque_last && k == scales - 1;
    for (int64_t i = 0; i < count && opaque; ++i) {
      w[i] = first ? Acc(1) : before[i];
      after[i] = 0;
    }
    for (int64_t i = 0; i < count && !opaque; ++i) {
      Acc through = first ? Acc(1) : before[i];
      w[i] = weigh(Phi::depth(y[i]), depth_sum[i], through);
      after[i] = through;
    }
  }
}

// dL/dy_i = phi'(y_i) (T_{i+1} G_i - sum_{j>i} w_j G_j - T_{K+1} G_T). `grads` holds the G_i and receives dL/dy_i;
// `behind` is a row of T_{K+1} G_T and is used up; `weights` and `transmittance` come from weigh_rows.
template <class Phi, class Acc>
void weigh_rows_backward(int64_t scales, bool opaque_last, int64_t stride, int64_t count, const Acc* logits,
                         const Acc* weights, const Acc* transmittance, Acc* __restrict grads, Acc* __restrict behind) {
  for (int64_t k = scales - 1; k >= 0; --k) {
    const Acc *y = logits + k * stride, *w = weights + k * stride, *after = transmittance + k * stride;
    Acc* g = grads + k * stride;
    const bool opaque = opaque_last && k == scales - 1;
    for (int64_t i = 0; i < count; ++i) {
      const Acc of_depth = weigh_backward(g[i], w[i], after[i], behind[i]);
      g[i] = opaque ? Acc(0) : Phi::backward(y[i], of_depth);
    }
  }
}

}  // namespace afa
