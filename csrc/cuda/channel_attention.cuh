// Kernels of channel_attention in evaluation mode: logits = W2 (r(max) + r(avg)), with r(v) = leaky ReLU of the batch
// norm of W1 v. A warp computes one number of an image, a dot product.
#pragma once

#include "../arithmetic/norm.h"
#include "device.h"

namespace afa {

template <class Acc>
struct AttentionNorm {
  const Acc *weight, *bias, *mean, *var;
  double eps;
  Acc slope;
  bool abs_weight;

  __device__ Acc operator()(Acc z, int64_t m) const {
    const double scale = inverse_deviation(var[m], eps) * norm_weight(weight[m], eps, abs_weight);
    const Acc y = (z - mean[m]) * static_cast<Acc>(scale) + bias[m];
    return slope == 0 ? rectified<false>(y, y, slope) : rectified<true>(y, y, slope);
  }
};

// The number that this warp computes, out[n][i] of `width` numbers.
struct Dot {
  int64_t n, i;
  int32_t lane;
  bool inside;

  __device__ Dot(int64_t batch, int64_t width) : lane(threadIdx.x % WARP) {
    const int64_t warp = static_cast<int64_t>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    n = warp / width;
    i = warp % width;
    inside = n < batch;
  }
};

// units[n][m] = r(max) + r(avg) at hidden unit m.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_hidden(int64_t batch, int64_t inputs, int64_t hidden, const T* __restrict__ avg,
                     const T* __restrict__ max, const Acc* __restrict__ w1, AttentionNorm<Acc> norm,
                     Acc* __restrict__ units) {
  const Dot dot(batch, hidden);
  Acc of_avg = 0, of_max = 0;
  for (int64_t c = dot.lane; c < inputs && dot.inside; c += WARP) {
    of_avg += w1[dot.i * inputs + c] * static_cast<Acc>(avg[dot.n * inputs + c]);
    of_max += w1[dot.i * inputs + c] * static_cast<Acc>(max[dot.n * inputs + c]);
  }
  of_avg = sum_over(of_avg, WARP);
  of_max = sum_over(of_max, WARP);
  if (dot.inside && dot.lane == 0) units[dot.n * hidden + dot.i] = norm(of_max, dot.i) + norm(of_avg, dot.i);
}

template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_logits(int64_t batch, int64_t hidden, int64_t outputs, const Acc* __restrict__ units,
                     const Acc* __restrict__ w2, T* __restrict__ logits) {
  const Dot dot(batch, outputs);
  Acc sum = 0;
  for (int64_t m = dot.lane; m < hidden && dot.inside; m += WARP)
    sum += w2[dot.i * hidden + m] * units[dot.n * hidden + m];
  sum = sum_over(sum, WARP);
  if (dot.inside && dot.lane == 0) logits[dot.n * outputs + dot.i] = static_cast<T>(sum);
}

}  // namespace afa
