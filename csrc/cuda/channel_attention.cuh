// Kernels of channel_attention: logits = W2 (r(max) + r(avg)), with r(v) = leaky ReLU of the batch norm of W1 v.
//
// A warp computes a dot product. By statistics of the batch, and in backward, a block computes a hidden unit in all
// images: W1 v of both branches, sums of these over the images, then what follows from the sums.
#pragma once

#include "../arithmetic/norm.h"
#include "device.h"

namespace afa {

constexpr int WARPS = THREADS / WARP;  // of a block

// The norm of a unit: y = (z - mean) scale + beta, scale = gamma deviation.
template <class Acc>
struct UnitNorm {
  Acc mean, deviation, scale, beta, slope;

  // `value` as the leaky ReLU of y lets it through.
  __device__ Acc rectify(Acc y, Acc value) const {
    return slope == 0 ? rectified<false>(y, value, slope) : rectified<true>(y, value, slope);
  }
  __device__ Acc y(Acc z) const { return (z - mean) * scale + beta; }
  __device__ Acc activation(Acc z) const { return rectify(y(z), y(z)); }
};

template <class Acc>
struct AttentionNorm {
  const Acc *weight, *bias;
  double eps;
  Acc slope;
  bool abs_weight;

  __device__ UnitNorm<Acc> at(int64_t m, Acc mean, Acc variance) const {
    const double deviation = inverse_deviation(variance, eps);
    return {mean, static_cast<Acc>(deviation), static_cast<Acc>(deviation * norm_weight(weight[m], eps, abs_weight)),
            bias[m], slope};
  }
};

// Of the branch of the maximum, and of that of the average.
template <class Acc>
struct Branches {
  Acc max, avg;
};

template <class T>
struct Pooled {
  const T *avg, *max;
  int64_t batch, inputs;
};

// W1 v of an image, a row of W1: every thread of a warp gets it.
template <class T, class Acc = acc_t<T>>
__device__ Branches<Acc> hidden_of(const Pooled<T>& pooled, const Acc* __restrict__ row, int64_t n) {
  Branches<Acc> sums{};
  for (int64_t c = threadIdx.x % WARP; c < pooled.inputs; c += WARP) {
    sums.avg += row[c] * static_cast<Acc>(pooled.avg[n * pooled.inputs + c]);
    sums.max += row[c] * static_cast<Acc>(pooled.max[n * pooled.inputs + c]);
  }
  return {sum_over(sums.max, WARP), sum_over(sums.avg, WARP)};
}

// The number of `width` numbers of an image that this warp computes.
struct Dot {
  int64_t n, i;
  bool first;  // thread of the warp

  __device__ explicit Dot(int64_t width) : first(threadIdx.x % WARP == 0) {
    const int64_t warp = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
    n = warp / width;
    i = warp % width;
  }
};

// In evaluation mode: units[n][m] = r(max) + r(avg) at hidden unit m.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_hidden(Pooled<T> pooled, int64_t hidden, const Acc* __restrict__ w1, AttentionNorm<Acc> norm,
                     const Acc* __restrict__ mean, const Acc* __restrict__ variance, Acc* __restrict__ units) {
  const Dot dot(hidden);
  if (dot.n >= pooled.batch) return;  // a whole warp
  const Branches<Acc> z = hidden_of(pooled, w1 + dot.i * pooled.inputs, dot.n);
  const UnitNorm<Acc> of = norm.at(dot.i, mean[dot.i], variance[dot.i]);
  if (dot.first) units[dot.n * hidden + dot.i] = of.activation(z.max) + of.activation(z.avg);
}

template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_logits(int64_t batch, int64_t hidden, int64_t outputs, const Acc* __restrict__ units,
                     const Acc* __restrict__ w2, T* __restrict__ logits) {
  const Dot dot(outputs);
  if (dot.n >= batch) return;  // a whole warp
  Acc sum = 0;
  for (int64_t m = threadIdx.x % WARP; m < hidden; m += WARP) sum += w2[dot.i * hidden + m] * units[dot.n * hidden + m];
  sum = sum_over(sum, WARP);
  if (dot.first) logits[dot.n * outputs + dot.i] = static_cast<T>(sum);
}

// The sum over the threads of a block, in order of their warps, which all of them get.
template <class Acc>
__device__ Acc sum_over_block(Acc value) {
  AFA_SHARED(Acc, shared, WARPS);
  value = sum_over(value, WARP);
  __syncthreads();  // the last sum has been read
  if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = value;
  __syncthreads();
  Acc total = 0;
  for (int warp = 0; warp < WARPS; ++warp) total += shared[warp];
  return total;
}

// Mean and biased variance of `batch` values, of which every thread has every THREADS-th.
template <class Acc>
__device__ UnitNorm<Acc> norm_of_batch(const AttentionNorm<Acc>& norm, int64_t m, const Acc* values, int64_t batch,
                                       Acc* mean, Acc* variance) {
  Acc sum = 0, squares = 0;
  for (int64_t n = threadIdx.x; n < batch; n += THREADS) sum += values[n];
  const Acc center = sum_over_block(sum) / batch;
  for (int64_t n = threadIdx.x; n < batch; n += THREADS) squares += (values[n] - center) * (values[n] - center);
  squares = sum_over_block(squares) / batch;
  if (threadIdx.x == 0) *mean = center, *variance = squares;
  return norm.at(m, center, squares);
}

// By statistics of the batch, which it writes, (2, hidden), of the maximum first; z has room for 2 rows of a unit.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_units(Pooled<T> pooled, int64_t hidden, const Acc* __restrict__ w1, AttentionNorm<Acc> norm,
                    Acc* __restrict__ z, Acc* __restrict__ units, Acc* __restrict__ mean, Acc* __restrict__ variance) {
  const int64_t m = blockIdx.x, batch = pooled.batch;
  Acc *z_max = z + 2 * m * batch, *z_avg = z_max + batch;
  for (int64_t n = threadIdx.x / WARP; n < batch; n += WARPS) {
    const Branches<Acc> of_image = hidden_of(pooled, w1 + m * pooled.inputs, n);
    if (threadIdx.x % WARP == 0) z_max[n] = of_image.max, z_avg[n] = of_image.avg;
  }
  __syncthreads();
  const UnitNorm<Acc> of_max = norm_of_batch(norm, m, z_max, batch, mean + m, variance + m);
  const UnitNorm<Acc> of_avg = norm_of_batch(norm, m, z_avg, batch, mean + hidden + m, variance + hidden + m);
  for (int64_t n = threadIdx.x; n < batch; n += THREADS)
    units[n * hidden + m] = of_max.activation(z_max[n]) + of_avg.activation(z_avg[n]);
}

// What the gradient of a unit's z is made of, for one branch: of the gradient of y, and of what its statistics add.
template <class Acc>
struct UnitGradient {
  UnitNorm<Acc> norm;
  Acc of_beta, of_gamma;  // the gradients of beta and gamma by this branch

  __device__ UnitGradient(const UnitNorm<Acc>& norm, const Acc* z, const Acc* grad, int64_t batch) : norm(norm) {
    Acc passed = 0, deviations = 0;
    for (int64_t n = threadIdx.x; n < batch; n += THREADS) {
      const Acc of_y = norm.rectify(norm.y(z[n]), grad[n]);
      passed += of_y;
      deviations += of_y * (z[n] - norm.mean);
    }
    of_beta = sum_over_block(passed);
    of_gamma = sum_over_block(deviations) * norm.deviation;
  }

  __device__ Acc operator()(Acc z, Acc grad, Acc share) const {  // of an image in the batch
    return norm.scale *
           (norm.rectify(norm.y(z), grad) - of_beta * share - (z - norm.mean) * norm.deviation * (of_gamma * share));
  }
  // With statistics that are constant.
  __device__ Acc operator()(Acc z, Acc grad) const { return norm.scale * norm.rectify(norm.y(z), grad); }
};

// What is not null is written: the gradients of gamma and beta, the activations, and the gradients of z, [2][n][m], of
// the maximum first. `rows` has room for 3 rows of a unit. The statistics are those of a batch, or (hidden,).
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_units_backward(Pooled<T> pooled, int64_t hidden, int64_t outputs, const T* __restrict__ grad,
                             const Acc* __restrict__ w1, const Acc* __restrict__ w2, AttentionNorm<Acc> norm,
                             const Acc* __restrict__ mean, const Acc* __restrict__ variance, bool batch_statistics,
                             Acc* __restrict__ rows, Acc* __restrict__ units, Acc* __restrict__ grad_hidden,
                             Acc* __restrict__ grad_weight, Acc* __restrict__ grad_bias) {
  const int64_t m = blockIdx.x, batch = pooled.batch;
  Acc *z_max = rows + 3 * m * batch, *z_avg = z_max + batch, *g = z_avg + batch;
  for (int64_t n = threadIdx.x / WARP; n < batch; n += WARPS) {
    const Branches<Acc> of_image = hidden_of(pooled, w1 + m * pooled.inputs, n);
    Acc sum = 0;
#pragma unroll 2
    for (int64_t o = threadIdx.x % WARP; o < outputs; o += WARP)
      sum += w2[o * hidden + m] * static_cast<Acc>(grad[n * outputs + o]);
    sum = sum_over(sum, WARP);
    if (threadIdx.x % WARP == 0) z_max[n] = of_image.max, z_avg[n] = of_image.avg, g[n] = sum;
  }
  AFA_SHARED(UnitNorm<Acc>, norms, 2);
  if (threadIdx.x < 2) {
    const int64_t at = threadIdx.x == 1 && batch_statistics ? hidden + m : m;
    norms[threadIdx.x] = norm.at(m, mean[at], variance[at]);
  }
  __syncthreads();
  const UnitGradient<Acc> of_max(norms[0], z_max, g, batch), of_avg(norms[1], z_avg, g, batch);
  if (threadIdx.x == 0) {
    const Acc gamma = norm.weight[m], of_gamma = of_max.of_gamma + of_avg.of_gamma;
    if (grad_weight) grad_weight[m] = !norm.abs_weight || gamma > 0 ? of_gamma : gamma < 0 ? -of_gamma : 0;
    if (grad_bias) grad_bias[m] = of_max.of_beta + of_avg.of_beta;
  }
  const Acc share = 1 / static_cast<Acc>(batch);
  for (int64_t n = threadIdx.x; n < batch; n += THREADS) {
    if (units) units[n * hidden + m] = of_max.norm.activation(z_max[n]) + of_avg.norm.activation(z_avg[n]);
    if (!grad_hidden) continue;
    grad_hidden[n * hidden + m] = batch_statistics ? of_max(z_max[n], g[n], share) : of_max(z_max[n], g[n]);
    grad_hidden[(batch + n) * hidden + m] = batch_statistics ? of_avg(z_avg[n], g[n], share) : of_avg(z_avg[n], g[n]);
  }
}

// The gradients of avg, max and both weights, of what is above. A thread computes an element of those that are not
// null; avg and max are one.
template <class T, class Acc = acc_t<T>>
struct AttentionGradients {
  T *avg, *max;
  Acc *conv1, *conv2;
  int64_t of_pooled, of_conv1, of_conv2;  // elements
};

template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    attention_products(Pooled<T> pooled, int64_t hidden, int64_t outputs, const T* __restrict__ grad,
                       const Acc* __restrict__ w1, const Acc* __restrict__ units, const Acc* __restrict__ grad_hidden,
                       AttentionGradients<T> grads) {
  const int64_t batch = pooled.batch, inputs = pooled.inputs;
  const Acc *of_max = grad_hidden, *of_avg = grad_hidden + batch * hidden;
  int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (i < grads.of_pooled) {
    const int64_t n = i / inputs, c = i % inputs;
    Branches<Acc> sums{};
    for (int64_t m = 0; m < hidden; ++m) {
      sums.max += w1[m * inputs + c] * of_max[n * hidden + m];
      sums.avg += w1[m * inputs + c] * of_avg[n * hidden + m];
    }
    if (grads.max) grads.max[i] = static_cast<T>(sums.max);
    if (grads.avg) grads.avg[i] = static_cast<T>(sums.avg);
    return;
  }
  i -= grads.of_pooled;
  Acc sum = 0;
  if (i < grads.of_conv1) {
    const int64_t m = i / inputs, c = i % inputs;
    for (int64_t n = 0; n < batch; ++n)
      sum += of_max[n * hidden + m] * static_cast<Acc>(pooled.max[n * inputs + c]) +
             of_avg[n * hidden + m] * static_cast<Acc>(pooled.avg[n * inputs + c]);
    grads.conv1[i] = sum;
    return;
  }
  i -= grads.of_conv1;
  if (i >= grads.of_conv2) return;
  const int64_t o = i / hidden, m = i % hidden;
  for (int64_t n = 0; n < batch; ++n) sum += static_cast<Acc>(grad[n * outputs + o]) * units[n * hidden + m];
  grads.conv2[i] = sum;
}

}  // namespace afa
