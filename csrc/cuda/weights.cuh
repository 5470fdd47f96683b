// Scale-space compositing of K logits of a pixel, all of them in registers.
#pragma once

#include "../arithmetic/composite.h"
#include "../arithmetic/phi.h"
#include "device.h"

namespace afa {

constexpr int MOST_SCALES = 16;

// The phi of a name, chosen when a kernel runs: every thread takes the same branch.
struct AnyPhi {
  enum Kind { abs, relu, softplus, exp } kind;

  template <class Acc>
  __device__ Acc depth(Acc y) const {
    switch (kind) {
      case abs: return Abs::depth(y);
      case relu: return Relu::depth(y);
      case softplus: return Softplus::depth(y);
      default: return Exp::depth(y);
    }
  }
  template <class Acc>
  __device__ Acc backward(Acc y, Acc grad) const {
    switch (kind) {
      case abs: return Abs::backward(y, grad);
      case relu: return Relu::backward(y, grad);
      case softplus: return Softplus::backward(y, grad);
      default: return Exp::backward(y, grad);
    }
  }
};

// What logits are made of, at every pixel: `scales` of them, of which the last may be opaque.
struct Compositing {
  int64_t pixels;
  int32_t scales;
  AnyPhi phi;
  bool opaque_last;

  __device__ bool opaque(int k) const { return opaque_last && k == scales - 1; }
};

// Room for `most` scales; a loop over it is unrolled, so that nothing of it lies in memory.
template <class Acc, int most>
struct Weights {
  Acc weight[most], after[most];  // w_k, and T_{k+1}, what scale k lets through

  __device__ Weights(const Compositing& c, const Acc (&y)[most]) {
    Acc depth_sum = 0, transmittance = 1;
#pragma unroll
    for (int k = 0; k < most; ++k) {
      weight[k] = after[k] = 0;
      if (k >= c.scales) continue;
      if (c.opaque(k)) {
        weight[k] = transmittance;
        transmittance = 0;
      } else {
        weight[k] = weigh(c.phi.depth(y[k]), depth_sum, transmittance);
      }
      after[k] = transmittance;
    }
  }
};

// grads[k] = dL/dw_k becomes dL/dy_k; `behind` begins with T_{K+1} dL/dT_{K+1}.
template <class Acc, int most>
__device__ void logits_backward(const Compositing& c, const Acc (&y)[most], const Weights<Acc, most>& weights,
                                Acc behind, Acc (&grads)[most]) {
#pragma unroll
  for (int k = most - 1; k >= 0; --k) {
    if (k >= c.scales) continue;
    const Acc of_depth = weigh_backward(grads[k], weights.weight[k], weights.after[k], behind);
    grads[k] = c.opaque(k) ? Acc(0) : c.phi.backward(y[k], of_depth);
  }
}

template <class Acc, int most>
__device__ void read_scales(const Compositing& c, const AnyMap& map, const Pixel& at, Acc (&values)[most]) {
#pragma unroll
  for (int k = 0; k < most; ++k) values[k] = k < c.scales ? map.read<Acc>(at.n, k, at.p) : Acc(0);
}

}  // namespace afa
