// Scale-space compositing of K logits per pixel: the weights w_i = (1 - exp(-d_i)) T_i with T_i = exp(-sum_{j<i} d_j).
#pragma once

#include <string>

#include "../common.h"

namespace afa {

// The optical depth d = phi(y) >= 0, and the gradient of y given that of d. A NaN passes every comparison unchanged.
struct Abs {
  template <class Acc>
  static Acc depth(Acc y) {
    return y < 0 ? -y : y;
  }
  template <class Acc>
  static Acc backward(Acc y, Acc grad) {
    return grad * (y > 0 ? Acc(1) : y < 0 ? Acc(-1) : y);
  }
};
struct Relu {
  template <class Acc>
  static Acc depth(Acc y) {
    return y < 0 ? Acc(0) : y;
  }
  template <class Acc>
  static Acc backward(Acc y, Acc grad) {
    return y <= 0 ? Acc(0) : grad;
  }
};
struct Softplus {
  template <class Acc>
  static Acc depth(Acc y) {
    return std::log1p(exp(-Abs::depth(y))) + Relu::depth(y);
  }
  template <class Acc>
  static Acc backward(Acc y, Acc grad) {
    return grad * sigmoid(y);
  }
};
// The exponent ends at 80, where exp(-d) is long 0: d stays finite.
struct Exp {
  template <class Acc>
  static Acc depth(Acc y) {
    return exp(y > 80 ? Acc(80) : y);
  }
  template <class Acc>
  static Acc backward(Acc y, Acc grad) {
    return y <= 80 ? grad * exp(y) : Acc(0);
  }
};

// Calls body(Phi{}) for the phi of that name.
template <class F>
void dispatch_phi(const std::string& phi, const F& body) {
  if (phi == "abs") return body(Abs{});
  if (phi == "relu") return body(Relu{});
  if (phi == "softplus") return body(Softplus{});
  if (phi == "exp") return body(Exp{});
  STD_TORCH_CHECK(false, "phi must be abs, relu, softplus or exp, got ", phi);
}

// Rows of `count` pixels: row k of `logits`, `weights` and `transmittance` begins at k * stride; transmittance row k is
// T_{k+1}, what scale k lets through. With `opaque_last` the last scale lets nothing through: w_K = T_K.
template <class Phi, class Acc>
void composite_rows(int64_t scales, bool opaque_last, int64_t stride, int64_t count, const Acc* logits,
                    Acc* __restrict weights, Acc* __restrict transmittance, Acc* __restrict depth_sum) {
  for (int64_t i = 0; i < count; ++i) depth_sum[i] = 0;
  for (int64_t k = 0; k < scales; ++k) {
    const Acc* y = logits + k * stride;
    Acc *w = weights + k * stride, *through = transmittance + k * stride;
    const Acc* before = through - stride;  // not read by the first scale, which nothing occludes
    const bool first = k == 0, opaque = opaque_last && k == scales - 1;
    if (opaque) {
      for (int64_t i = 0; i < count; ++i) {
        w[i] = first ? Acc(1) : before[i];
        through[i] = 0;
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const Acc depth = Phi::depth(y[i]);
        depth_sum[i] += depth;
        w[i] = -expm1(-depth) * (first ? Acc(1) : before[i]);
        through[i] = exp(-depth_sum[i]);
      }
    }
  }
}

// dL/dy_i = phi'(y_i) (T_{i+1} G_i - sum_{j>i} w_j G_j - T_{K+1} G_T). `grads` holds the G_i and receives dL/dy_i;
// `behind` is a row of T_{K+1} G_T and is used up; `weights` and `transmittance` come from composite_rows.
template <class Phi, class Acc>
void composite_rows_backward(int64_t scales, bool opaque_last, int64_t stride, int64_t count, const Acc* logits,
                             const Acc* weights, const Acc* transmittance, Acc* __restrict grads,
                             Acc* __restrict behind) {
  for (int64_t k = scales - 1; k >= 0; --k) {
    const Acc *y = logits + k * stride, *w = weights + k * stride, *through = transmittance + k * stride;
    Acc* g = grads + k * stride;
    const bool opaque = opaque_last && k == scales - 1;
    for (int64_t i = 0; i < count; ++i) {
      const Acc upstream = g[i];
      g[i] = opaque ? Acc(0) : Phi::backward(y[i], through[i] * upstream - behind[i]);
      behind[i] += w[i] * upstream;
    }
  }
}

}  // namespace afa
