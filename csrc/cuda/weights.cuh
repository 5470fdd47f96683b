// Scale-space compositing of K logits of a pixel, all of them in registers.
#pragma once

#include "../arithmetic/composite.h"
#include "../arithmetic/phi.h"
#include "device.h"

namespace afa {

constexpr int MOST_SCALES = 16;

// The phi of a name, chosen when a kernel runs: every thread takes the same branch. It is chosen outside of the loops
// over the scales, as nvcc does not unroll a loop with all of them in it, and what it indexes would lie in memory.
struct AnyPhi {
  enum Kind { abs, relu, softplus, exp } kind;

  // y becomes the depths.
  template <class Acc, int most>
  __device__ void depths(Acc (&y)[most]) const {
    dispatch([&](auto phi) {
#pragma unroll
      for (int k = 0; k < most; ++k) y[k] = decltype(phi)::depth(y[k]);
    });
  }
  // The gradients of the depths become those of y.
  template <class Acc, int most>
  __device__ void backward(const Acc (&y)[most], Acc (&grads)[most]) const {
    dispatch([&](auto phi) {
#pragma unroll
      for (int k = 0; k < most; ++k) grads[k] = decltype(phi)::backward(y[k], grads[k]);
    });
  }

 private:
  template <class F>
  __device__ void dispatch(const F& body) const {
    switch (kind) {
      case abs: return body(Abs{});
      case relu: return body(Relu{});
      case softplus: return body(Softplus{});
      default: return body(Exp{});
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

// Room for `most` scales; a loop over it is unrolled, so that nothing of it lies in memory. Such loops choose values
// and do not branch: of `if (k == scale) x[k] = 0` nvcc makes an index, and x lies in memory.
template <class Acc, int most>
struct Weights {
  Acc weight[most], after[most];  // w_k, and T_{k+1}, what scale k lets through
  Acc left;                       // what the last one lets through

  __device__ Weights(const Compositing& c, const Acc (&y)[most]) {
    Acc depths[most], depth_sum = 0, transmittance = 1;
#pragma unroll
    for (int k = 0; k < most; ++k) depths[k] = y[k];
    c.phi.depths(depths);
#pragma unroll
    for (int k = 0; k < most; ++k) {
      const bool there = k < c.scales, opaque = c.opaque(k);
      const Acc before = transmittance, weighed = weigh(depths[k], depth_sum, transmittance);
      transmittance = !there ? before : opaque ? Acc(0) : transmittance;
      weight[k] = !there ? Acc(0) : opaque ? before : weighed;
      after[k] = transmittance;
    }
    left = transmittance;
  }
};

// grads[k] = dL/dw_k, 0 where there is no scale, becomes dL/dy_k; `behind` begins with T_{K+1} dL/dT_{K+1}.
template <class Acc, int most>
__device__ void logits_backward(const Compositing& c, const Acc (&y)[most], const Weights<Acc, most>& weights,
                                Acc behind, Acc (&grads)[most]) {
#pragma unroll
  for (int k = most - 1; k >= 0; --k) grads[k] = weigh_backward(grads[k], weights.weight[k], weights.after[k], behind);
  c.phi.backward(y, grads);
#pragma unroll
  for (int k = 0; k < most; ++k) grads[k] = c.opaque(k) ? Acc(0) : grads[k];
}

template <class Acc, int most>
__device__ void read_scales(const Compositing& c, const AnyMap& map, const Pixel& at, Acc (&values)[most]) {
#pragma unroll
  for (int k = 0; k < most; ++k) values[k] = k < c.scales ? map.read<Acc>(at.n, k, at.p) : Acc(0);
}

}  // namespace afa
