// Kernels of scale_space_weights: a thread composites one pixel.
#pragma once

#include "weights.cuh"

namespace afa {

template <class Acc, int most>
__global__ void __launch_bounds__(THREADS) weights_forward(Compositing c, AnyMap logits, AnyMap weights, AnyMap left) {
  const Pixel at(c.pixels);
  if (at.p >= c.pixels) return;
  Acc y[most];
  read_scales(c, logits, at, y);
  const Weights<Acc, most> found(c, y);
#pragma unroll
  for (int k = 0; k < most; ++k)
    if (k < c.scales) weights.write(at.n, k, at.p, found.weight[k]);
  left.write(at.n, 0, at.p, found.left);
}

// Gradients that are not there have no data.
template <class Acc, int most>
__global__ void __launch_bounds__(THREADS)
    weights_backward(Compositing c, AnyMap grad_weights, AnyMap grad_left, AnyMap logits, AnyMap grad_logits) {
  const Pixel at(c.pixels);
  if (at.p >= c.pixels) return;
  Acc y[most], grads[most] = {}, behind = 0;
  read_scales(c, logits, at, y);
  if (grad_weights.pointer.data != nullptr) read_scales(c, grad_weights, at, grads);
  const Weights<Acc, most> found(c, y);
  if (grad_left.pointer.data != nullptr) behind = grad_left.read<Acc>(at.n, 0, at.p) * found.left;
  logits_backward(c, y, found, behind, grads);
#pragma unroll
  for (int k = 0; k < most; ++k)
    if (k < c.scales) grad_logits.write(at.n, k, at.p, grads[k]);
}

}  // namespace afa
