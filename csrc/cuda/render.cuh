// Kernels of a rendering: out[p] = sum_k m_k[p] up(prediction_k)[p], and its gradients.
//
// Forward, a thread has a pixel of the output, and of every scale where it reads and with which fractions. Backward, a
// thread has a pixel of an input and collects from the outputs that read it, in order: no two threads write one
// address. Where channels lie side by side, neighbouring threads have neighbouring channels of a pixel.
#pragma once

#include "../arithmetic/bilinear.h"
#include "weights.cuh"

namespace afa {

// An axis of an input that is read as if it had `out` elements.
template <class Acc>
struct Axis {
  int32_t in, out;
  Acc ratio, inverse;  // in / out, and out / in: kernels divide nothing, which would put registers on the stack

  __device__ Source<Acc> source(int32_t o) const { return source_of<Acc>(o, ratio, in); }
  __device__ int32_t high(const Source<Acc>& s) const { return in != out && s.low + 1 < in ? s.low + 1 : s.low; }

  // Of the outputs first to last are all that read element i; `share` says how much, if any does.
  __host__ __device__ int32_t first(int32_t i) const {
    const Acc o = (static_cast<Acc>(i) - Acc(0.5)) * inverse - Acc(1.5);
    return i == 0 || o < 0 ? 0 : static_cast<int32_t>(o);
  }
  __host__ __device__ int32_t last(int32_t i) const {
    const Acc o = (static_cast<Acc>(i) + Acc(1.5)) * inverse + Acc(1.5);
    return i == in - 1 || o > out - 1 ? out - 1 : static_cast<int32_t>(o);
  }
  __device__ bool share(int32_t o, int32_t i, Acc& coefficient) const {
    const Source<Acc> s = source(o);
    const bool low = s.low == i, top = high(s) == i;
    coefficient = (low ? 1 - s.fraction : Acc(0)) + (top ? s.fraction : Acc(0));
    return low || top;
  }
};

// Both axes of an input; one of the output's size is read as it is.
template <class Acc>
struct Resize {
  Axis<Acc> rows, columns;
  bool identity;
};

// Where an output pixel reads, in elements from the channel's first, and with which fractions.
template <class Acc>
struct Taps {
  int64_t at, right, below;
  Acc across, down;
};

template <class T>
struct Resized {
  using Acc = acc_t<T>;
  const T* data;
  int64_t sn, sc, sp;
  Resize<Acc> resize;

  __device__ Taps<Acc> taps(int32_t y, int32_t x) const {
    const int64_t width = resize.columns.in;
    if (resize.identity) return {(y * width + x) * sp, 0, 0, 0, 0};
    const Source<Acc> row = resize.rows.source(y), column = resize.columns.source(x);
    return {(row.low * width + column.low) * sp, (resize.columns.high(column) - column.low) * sp,
            (resize.rows.high(row) - row.low) * width * sp, column.fraction, row.fraction};
  }

  __device__ Acc value(const Taps<Acc>& taps, int64_t n, int64_t c) const {
    const T* top = data + n * sn + c * sc + taps.at;
    if (resize.identity) return static_cast<Acc>(*top);
    const T* bottom = top + taps.below;
    const Acc left = (1 - taps.down) * static_cast<Acc>(top[0]) + taps.down * static_cast<Acc>(bottom[0]);
    const Acc right =
        (1 - taps.down) * static_cast<Acc>(top[taps.right]) + taps.down * static_cast<Acc>(bottom[taps.right]);
    return (1 - taps.across) * left + taps.across * right;
  }
};

// The pixels of an output or an input, or of `height` rows of it from `top` on: a group of `lanes` threads for each, of
// which every one has some channels.
struct Canvas {
  int32_t height, width, lanes;
  int64_t channels;
  int32_t top = 0;
};

struct Spot {
  int64_t n;
  int32_t y, x, lane;
  int64_t p, part;  // of `parts` blocks that share their pixels
  bool inside;

  __device__ Spot(const Canvas& canvas, int64_t parts = 1) {
    const uint32_t pixels = static_cast<uint32_t>(canvas.height) * canvas.width, of_block = THREADS / canvas.lanes;
    const uint32_t blocks = (pixels + of_block - 1) / of_block, block = blockIdx.x / static_cast<uint32_t>(parts);
    part = blockIdx.x % static_cast<uint32_t>(parts);
    n = block / blocks;
    const uint32_t pixel = block % blocks * of_block + threadIdx.x / canvas.lanes;
    lane = threadIdx.x % canvas.lanes;
    inside = pixel < pixels;
    const uint32_t width = canvas.width, at = canvas.top * width + (inside ? pixel : 0);  // an image has no more
    p = at;
    y = static_cast<int32_t>(at / width);
    x = static_cast<int32_t>(at % width);
  }
};

// What K predictions are weighed by: weights, or opacities that are composited at the output's resolution, in which the
// last scale may be opaque and have no map. `premultiplied` predictions have their opacity in them already.
template <class Acc, int most>
struct Maps {
  Resized<Acc> planes[most];
  int32_t scales;
  bool opacities, opaque_last, premultiplied;

  __device__ bool opaque(int k) const { return opacities && opaque_last && k == scales - 1; }

  // The planes at an output pixel, and what they make of it.
  __device__ void read(const Spot& spot, Acc (&values)[most]) const {
#pragma unroll
    for (int k = 0; k < most; ++k) {
      values[k] = 0;
      if (k >= scales) continue;
      values[k] = opaque(k) ? Acc(1) : planes[k].value(planes[k].taps(spot.y, spot.x), spot.n, 0);
    }
  }
  __device__ void composite(const Acc (&values)[most], Acc (&weights)[most]) const {
    Acc transmittance = 1;
#pragma unroll
    for (int k = 0; k < most; ++k) {
      weights[k] = values[k];
      if (opacities && k < scales) weights[k] = afa::composite(values[k], premultiplied, transmittance);
    }
  }
  // dL/dw_k becomes the gradient of the planes' values.
  __device__ void composite_backward(const Acc (&values)[most], Acc (&grads)[most]) const {
    if (!opacities) return;
    Acc through[most], transmittance = 1, behind = 0;
#pragma unroll
    for (int k = 0; k < most; ++k) {
      through[k] = transmittance;
      if (k < scales) transmittance *= 1 - values[k];
    }
#pragma unroll
    for (int k = most - 1; k >= 0; --k) {
      if (k >= scales) continue;
      const Acc grad = afa::composite_backward(grads[k], values[k], premultiplied, through[k], behind);
      grads[k] = opaque(k) ? Acc(0) : grad;
    }
  }
};

template <class T, int most>
struct Predictions {
  using Acc = acc_t<T>;
  Resized<T> scales[most];
};

// The rendering of a pixel, a channel at a time.
template <class T, int most>
struct Rendering {
  using Acc = acc_t<T>;
  Taps<Acc> taps[most];
  Acc values[most], weights[most];

  __device__ Rendering(const Predictions<T, most>& predictions, const Maps<Acc, most>& maps, const Spot& spot) {
    maps.read(spot, values);
    maps.composite(values, weights);
#pragma unroll
    for (int k = 0; k < most; ++k) taps[k] = k < maps.scales ? predictions.scales[k].taps(spot.y, spot.x) : Taps<Acc>{};
  }

  __device__ Acc score(const Predictions<T, most>& predictions, const Maps<Acc, most>& maps, const Spot& spot,
                       int64_t c) const {
    Acc sum = 0;
#pragma unroll
    for (int k = 0; k < most; ++k)
      if (k < maps.scales) sum += weights[k] * predictions.scales[k].value(taps[k], spot.n, c);
    return sum;
  }
};

// At attention resolution: the weights or the opacities of logits, to planes[n][k][p].
template <class Acc, int most>
__global__ void __launch_bounds__(THREADS)
    make_planes(Compositing c, bool opacities, AnyMap logits, Acc* __restrict__ planes) {
  const Pixel at(c.pixels);
  if (at.p >= c.pixels) return;
  Acc y[most];
  read_scales(c, logits, at, y);
  const Weights<Acc, most> found(c, y);
  c.phi.depths(y);
#pragma unroll
  for (int k = 0; k < most; ++k)
    if (k < c.scales) planes[(at.n * c.scales + k) * c.pixels + at.p] = opacities ? opacity(y[k]) : found.weight[k];
}

// A map of any type, (N, 1, h, w), as a plane.
template <class Acc>
__global__ void __launch_bounds__(THREADS) copy_plane(int64_t pixels, AnyMap map, Acc* __restrict__ plane) {
  const Pixel at(pixels);
  if (at.p < pixels) plane[at.n * pixels + at.p] = map.read<Acc>(at.n, 0, at.p);
}

// A thread has a pixel of `canvas` and every `lanes`-th of its channels from part * channels_of_part on.
template <class T, int most>
__global__ void __launch_bounds__(THREADS)
    render_forward(Canvas canvas, int64_t parts, Predictions<T, most> predictions, Maps<acc_t<T>, most> maps,
                   AnyMap out) {
  const Spot spot(canvas, parts);
  if (!spot.inside) return;
  const Rendering<T, most> rendering(predictions, maps, spot);
  for (int64_t c = spot.part * canvas.lanes + spot.lane; c < canvas.channels; c += parts * canvas.lanes)
    out.write(spot.n, c, spot.p, rendering.score(predictions, maps, spot, c));
}

// dL/d rendered, as it is given.
template <class Acc>
struct Given {
  static constexpr bool of_scores = false;
  AnyMap grad;

  __device__ Acc at(const Spot& spot, int64_t c, Acc) const { return grad.read<Acc>(spot.n, c, spot.p); }
};

// What reaches the maps at every output pixel, to map_grads[n][k][p], and what the predictions are weighed by there, to
// weights[n][k][p]. Either may be null.
template <class T, int most, class Gradient, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    render_backward_maps(Canvas canvas, Predictions<T, most> predictions, Maps<Acc, most> maps, Gradient gradient,
                         Acc* __restrict__ weights, Acc* __restrict__ map_grads) {
  const Spot spot(canvas);
  const Rendering<T, most> rendering(predictions, maps, spot);
  Acc sums[most] = {};
  if (map_grads != nullptr && spot.inside)
    for (int64_t c = spot.lane; c < canvas.channels; c += canvas.lanes) {
      const Acc score = Gradient::of_scores ? rendering.score(predictions, maps, spot, c) : Acc(0);
      const Acc grad = gradient.at(spot, c, score);
#pragma unroll
      for (int k = 0; k < most; ++k)
        if (k < maps.scales) sums[k] += grad * predictions.scales[k].value(rendering.taps[k], spot.n, c);
    }
#pragma unroll
  for (int k = 0; k < most; ++k) sums[k] = sum_over(sums[k], canvas.lanes);
  maps.composite_backward(rendering.values, sums);
  if (!spot.inside || spot.lane != 0) return;
  const int64_t pixels = static_cast<int64_t>(canvas.height) * canvas.width;
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (k >= maps.scales) continue;
    const int64_t at = (spot.n * maps.scales + k) * pixels + spot.p;
    if (weights != nullptr) weights[at] = rendering.weights[k];
    if (map_grads != nullptr) map_grads[at] = sums[k];
  }
}

// dL/d rendered of the rows of `canvas`, computed from the rendered scores.
template <class T, int most, class Gradient, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS) gradient_rows(Canvas canvas, Predictions<T, most> predictions,
                                                         Maps<Acc, most> maps, Gradient gradient, AnyMap rows) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const Rendering<T, most> rendering(predictions, maps, spot);
  const int64_t p = spot.p - static_cast<int64_t>(canvas.top) * canvas.width;
  for (int64_t c = spot.lane; c < canvas.channels; c += canvas.lanes)
    rows.write(spot.n, c, p, gradient.at(spot, c, rendering.score(predictions, maps, spot, c)));
}

// Calls body(p, coefficient) for every output pixel p that reads pixel (y, x) of an input, in order.
template <class Acc, class F>
__device__ void for_each_reader(const Resize<Acc>& resize, int32_t y, int32_t x, const F& body) {
  const int64_t width = resize.columns.out;
  if (resize.identity) return body(y * width + x, Acc(1));
  const int32_t last_row = resize.rows.last(y), first = resize.columns.first(x), last = resize.columns.last(x);
  for (int32_t row = resize.rows.first(y); row <= last_row; ++row) {
    Acc down, across;
    if (!resize.rows.share(row, y, down)) continue;
    for (int32_t column = first; column <= last; ++column)
      if (resize.columns.share(column, x, across)) body(row * width + column, down * across);
  }
}

constexpr int GATHERED = 8;  // channels of a thread

// The gradient of prediction k, of dL/d rendered from pixel `origin` on. A thread has a pixel of it, of `canvas`, and
// GATHERED of its channels.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    gather(Canvas canvas, int64_t parts, Resize<Acc> resize, AnyMap grad, int64_t origin,
           const Acc* __restrict__ weights, int64_t weights_n, Map<T> dx) {
  const Spot spot(canvas, parts);
  if (!spot.inside) return;
  const int64_t first = spot.part * canvas.lanes * GATHERED + spot.lane;
  Acc sums[GATHERED] = {};
  for_each_reader(resize, spot.y, spot.x, [&](int64_t p, Acc coefficient) {
    const Acc weight = coefficient * weights[spot.n * weights_n + p];
#pragma unroll
    for (int i = 0; i < GATHERED; ++i) {
      const int64_t c = first + i * canvas.lanes;
      if (c < canvas.channels) sums[i] += weight * grad.read<Acc>(spot.n, c, p - origin);
    }
  });
#pragma unroll
  for (int i = 0; i < GATHERED; ++i) {
    const int64_t c = first + i * canvas.lanes;
    if (c < canvas.channels) dx.data[spot.n * dx.sn + c * dx.sc + spot.p * dx.sp] = static_cast<T>(sums[i]);
  }
}

// The gradient of the logits, from map_grads[n][k][p] at the output's resolution. A thread has a pixel of the logits.
template <class Acc, int most>
__global__ void __launch_bounds__(THREADS)
    gather_logits(Compositing c, bool opacities, Resize<Acc> resize, const Acc* __restrict__ map_grads, AnyMap logits,
                  AnyMap grad_logits) {
  const Pixel at(c.pixels);
  if (at.p >= c.pixels) return;
  const int64_t pixels = static_cast<int64_t>(resize.rows.out) * resize.columns.out;
  Acc y[most], grads[most] = {};
  read_scales(c, logits, at, y);
  for_each_reader(resize, static_cast<int32_t>(at.p / resize.columns.in),
                  static_cast<int32_t>(at.p % resize.columns.in), [&](int64_t p, Acc coefficient) {
#pragma unroll
                    for (int k = 0; k < most; ++k)
                      if (k < c.scales) grads[k] += coefficient * map_grads[(at.n * c.scales + k) * pixels + p];
                  });
  if (opacities) {
    Acc depths[most];
#pragma unroll
    for (int k = 0; k < most; ++k) depths[k] = y[k];
    c.phi.depths(depths);
#pragma unroll
    for (int k = 0; k < most; ++k) grads[k] *= exp(-depths[k]);
    c.phi.backward(y, grads);
  } else {
    logits_backward(c, y, Weights<Acc, most>(c, y), Acc(0), grads);
  }
#pragma unroll
  for (int k = 0; k < most; ++k)
    if (k < c.scales) grad_logits.write(at.n, k, at.p, grads[k]);
}

// The gradient of a map (N, 1, h, w), from plane k of map_grads[n][k][p].
template <class Acc>
__global__ void __launch_bounds__(THREADS)
    gather_plane(Resize<Acc> resize, const Acc* __restrict__ map_grads, int64_t map_grads_n, AnyMap grad) {
  const int64_t pixels = static_cast<int64_t>(resize.rows.in) * resize.columns.in;
  const Pixel at(pixels);
  if (at.p >= pixels) return;
  Acc sum = 0;
  for_each_reader(resize, static_cast<int32_t>(at.p / resize.columns.in),
                  static_cast<int32_t>(at.p % resize.columns.in),
                  [&](int64_t p, Acc coefficient) { sum += coefficient * map_grads[at.n * map_grads_n + p]; });
  grad.write(at.n, 0, at.p, sum);
}

}  // namespace afa
