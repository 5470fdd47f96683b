// Kernels of a rendering: out[p] = sum_k m_k[p] up(prediction_k)[p], and its gradients. All maps are in NCHW
// (nchw.cuh).
//
// Forward, a thread has a pixel of the output, and of every scale where it reads and what each element is weighed by;
// of its channels it reads several before it uses any. Backward, a thread has a pixel of an input, or of a sum on the
// way there, and collects from what reads it, in order: no two threads write one address.
#pragma once

#include "../arithmetic/bilinear.h"
#include "weights.cuh"

namespace afa {

// An axis of an input that is read as if it had `out` elements.
template <class Acc>
struct Axis {
  int32_t in, out;
  Acc ratio, inverse;  // in / out, and out / in: kernels divide nothing, which would put registers on the stack

  // As source_of, in 32 bits.
  __device__ Source<Acc> source(int32_t o) const {
    const Acc centered = (static_cast<Acc>(o) + Acc(0.5)) * ratio - Acc(0.5);
    const Acc source = centered < 0 ? Acc(0) : centered;
    const auto low = static_cast<int32_t>(source);
    const int32_t inside = low < in ? low : in - 1;
    return {inside, source - static_cast<Acc>(inside)};
  }
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

// Where an output pixel reads in a channel, whose elements 32 bits can count, and what each is weighed by.
template <class Acc>
struct Taps {
  int32_t at[4];
  Acc share[4];

  // Of the upper left, the upper right, the lower left and the lower right one.
  __device__ void set_shares(Acc down, Acc across) {
    const Acc up = 1 - down, back = 1 - across;
    share[0] = up * back;
    share[1] = up * across;
    share[2] = down * back;
    share[3] = down * across;
  }
  template <class F>
  __device__ Acc sum(const F& value) const {
    Acc total = share[0] * value(0);
#pragma unroll
    for (int i = 1; i < 4; ++i) total += share[i] * value(i);
    return total;
  }
};

template <class T>
struct Resized {
  using Acc = acc_t<T>;
  const T* data;
  int64_t sn, sc;
  Resize<Acc> resize;

  __device__ Taps<Acc> taps(int32_t y, int32_t x) const {
    const int32_t width = resize.columns.in;
    Taps<Acc> taps{};
    taps.at[0] = y * width + x;
    if (resize.identity) return taps;
    const Source<Acc> row = resize.rows.source(y), column = resize.columns.source(x);
    const int32_t top = row.low * width, bottom = resize.rows.high(row) * width;
    const int32_t left = column.low, right = resize.columns.high(column);
    taps.at[0] = top + left;
    taps.at[1] = top + right;
    taps.at[2] = bottom + left;
    taps.at[3] = bottom + right;
    taps.set_shares(row.fraction, column.fraction);
    return taps;
  }

  // `count` channels from c on.
  template <int count>
  __device__ void read(const Taps<Acc>& taps, int32_t n, int32_t c, Acc (&values)[count]) const {
    const T* channel = data + n * sn + c * sc;
    if (resize.identity) {
#pragma unroll
      for (int i = 0; i < count; ++i) values[i] = fetch(channel + i * sc + taps.at[0]);
      return;
    }
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const T* plane = as_base(channel + i * sc);
      values[i] = taps.sum([&](int j) { return fetch(plane + taps.at[j]); });
    }
  }
  __device__ Acc read_plane(const Taps<Acc>& taps, int32_t n) const {
    Acc values[1];
    read(taps, n, 0, values);
    return values[0];
  }
};

// The pixels of an output or an input, or of `height` rows of it from `top` on, a thread each. Their channels are
// shared out to `parts` blocks, `of_part` for each.
struct Canvas {
  int32_t height, width, channels, of_part, parts, top;
};

struct Spot {
  int32_t n, first, last;  // the channels are first to last - 1
  int32_t y, x, local;     // `local`: the pixel among those of the canvas
  int64_t p;
  bool inside;

  __device__ explicit Spot(const Canvas& canvas) {
    const uint32_t width = canvas.width, pixels = canvas.height * width, parts = canvas.parts;
    const uint32_t blocks = (pixels + THREADS - 1) / THREADS, block = blockIdx.x / parts;
    n = static_cast<int32_t>(block / blocks);
    first = static_cast<int32_t>(blockIdx.x % parts) * canvas.of_part;
    last = first + canvas.of_part < canvas.channels ? first + canvas.of_part : canvas.channels;
    const uint32_t pixel = block % blocks * THREADS + threadIdx.x;  // of at most 2^31 - 1
    inside = pixel < pixels;
    local = static_cast<int32_t>(inside ? pixel : 0);
    p = local + static_cast<int64_t>(canvas.top) * canvas.width;
    y = canvas.top + static_cast<int32_t>(local / width);
    x = static_cast<int32_t>(local % width);
  }
};

// Calls body(integral_constant, c) for the channels from c on: for `count` of them, which it reads before it uses any,
// as long as there are so many, then for half as many, down to one.
template <int count, class F>
__device__ void for_each_channel(int32_t c, int32_t last, const F& body) {
#pragma unroll 1
  for (; c + count <= last; c += count) body(std::integral_constant<int, count>{}, c);
  if constexpr (count > 1) for_each_channel<count / 2>(c, last, body);
}

// A thread keeps the taps of up to 6 scales in its registers; those of more it finds anew for every few channels.
template <int most>
constexpr bool KEEPS_TAPS = most <= 6;
constexpr int AT_ONCE = 4;  // channels

// Blocks of a multiprocessor, as leave a thread the registers for that.
template <class Acc, int most>
constexpr int SAMPLING = (most <= 1   ? 4
                          : most <= 3 ? 3
                                      : 2) /
                         (sizeof(Acc) == 8 ? 2 : 1);

// What K predictions are weighed by: weights, or opacities that are composited at the output's resolution, in which the
// last scale may be opaque and have no map. `premultiplied` predictions have their opacity in them already.
template <class Acc, int most>
struct Maps {
  Resized<Acc> planes[most];
  int32_t scales;
  bool opacities, opaque_last, premultiplied, alike;  // `alike`: all are of one size

  __device__ bool opaque(int k) const { return opacities && opaque_last && k == scales - 1; }

  // The planes at an output pixel, and what they make of it.
  __device__ void read(const Spot& spot, Acc (&values)[most]) const {
    Taps<Acc> taps{};
#pragma unroll
    for (int k = 0; k < most; ++k) {
      values[k] = 1;
      if (k >= scales || opaque(k)) continue;
      if (k == 0 || !alike) taps = planes[k].taps(spot.y, spot.x);
      values[k] = planes[k].read_plane(taps, spot.n);
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

// The rendering of a pixel, some channels at a time.
template <class T, int most>
struct Rendering {
  using Acc = acc_t<T>;
  int32_t y, x;
  Taps<Acc> kept[KEEPS_TAPS<most> ? most : 1];
  Acc values[most], weights[most];

  __device__ Rendering(const Predictions<T, most>& predictions, const Maps<Acc, most>& maps, const Spot& spot)
      : y(spot.y), x(spot.x) {
    maps.read(spot, values);
    maps.composite(values, weights);
    if constexpr (KEEPS_TAPS<most>)
#pragma unroll
      for (int k = 0; k < most; ++k) kept[k] = k < maps.scales ? predictions.scales[k].taps(y, x) : Taps<Acc>{};
  }

  // Scale k of some channels.
  template <int count>
  __device__ void read(const Predictions<T, most>& predictions, int k, int32_t n, int32_t c,
                       Acc (&of_scale)[count]) const {
    const Resized<T>& scale = predictions.scales[k];
    if constexpr (KEEPS_TAPS<most>)
      scale.read(kept[k], n, c, of_scale);
    else
      scale.read(scale.taps(anew(y), anew(x)), anew(n), c, of_scale);
  }

  template <int count>
  __device__ void scores(const Predictions<T, most>& predictions, const Maps<Acc, most>& maps, int32_t n, int32_t c,
                         Acc (&sums)[count]) const {
#pragma unroll
    for (int i = 0; i < count; ++i) sums[i] = 0;
#pragma unroll
    for (int k = 0; k < most; ++k) {
      if (k >= maps.scales) continue;
      Acc of_scale[count];
      read(predictions, k, n, c, of_scale);
#pragma unroll
      for (int i = 0; i < count; ++i) sums[i] += weights[k] * of_scale[i];
    }
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

template <class T, int most, class Out>
__global__ void __launch_bounds__(THREADS, SAMPLING<acc_t<T>, most>)
    render_forward(Canvas canvas, Predictions<T, most> predictions, Maps<acc_t<T>, most> maps, Map<Out> out) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const Rendering<T, most> rendering(predictions, maps, spot);
  for_each_channel<AT_ONCE>(spot.first, spot.last, [&](auto count, int32_t c) {
    acc_t<T> scores[count];
    rendering.scores(predictions, maps, spot.n, c, scores);
    Out* channel = out.data + spot.n * out.sn + c * out.sc;
#pragma unroll
    for (int i = 0; i < count; ++i) channel[i * out.sc + spot.p] = static_cast<Out>(scores[i]);
  });
}

// dL/d rendered, as it is given.
template <class G>
struct Given {
  using Acc = acc_t<G>;
  static constexpr bool of_scores = false;
  Map<const G> grad;

  struct OfPixel {
    const G* pixel;
    int64_t sc;

    __device__ Acc operator()(int32_t c, Acc) const { return fetch(pixel + c * sc); }
  };
  __device__ OfPixel of(int32_t n, int64_t p) const { return {grad.data + n * grad.sn + p, grad.sc}; }
};

// What reaches the maps at every output pixel, to map_grads[n][k][p], and what the predictions are weighed by there, to
// weights[n][k][p]. Either may be null.
template <class T, int most, class Gradient, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, SAMPLING<Acc, most>)
    render_backward_maps(Canvas canvas, Predictions<T, most> predictions, Maps<Acc, most> maps, Gradient gradient,
                         Acc* __restrict__ weights, Acc* __restrict__ map_grads) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const Rendering<T, most> rendering(predictions, maps, spot);
  Acc sums[most] = {};
  if (map_grads != nullptr) {
    const auto grad_of = gradient.of(spot.n, spot.p);
    for_each_channel<AT_ONCE / 2>(spot.first, spot.last, [&](auto count, int32_t c) {
      Acc grads[count] = {};
      if constexpr (Gradient::of_scores) rendering.scores(predictions, maps, spot.n, c, grads);
#pragma unroll
      for (int i = 0; i < count; ++i) grads[i] = grad_of(c + i, grads[i]);
#pragma unroll
      for (int k = 0; k < most; ++k) {
        if (k >= maps.scales) continue;
        Acc values[count];
        rendering.read(predictions, k, spot.n, c, values);
#pragma unroll
        for (int i = 0; i < count; ++i) sums[k] += grads[i] * values[i];
      }
    });
    maps.composite_backward(rendering.values, sums);
  }
  const int64_t pixels = static_cast<int64_t>(canvas.height) * canvas.width;
#pragma unroll
  for (int k = 0; k < most; ++k) {
    if (k >= maps.scales) continue;
    const int64_t at = (spot.n * maps.scales + k) * pixels + spot.p;
    if (weights != nullptr) weights[at] = rendering.weights[k];
    if (map_grads != nullptr) map_grads[at] = sums[k];
  }
}

// The gradient of a prediction has two passes: down the columns, from the output's rows to the prediction's, and along
// these rows. What a thread finds out about an axis serves GATHERED channels, all of which it reads before it uses any.
constexpr int GATHERED = 8;

// Blocks of a multiprocessor that leave a thread the registers for these: for as many as there may be nvcc would read
// one channel after the other.
template <class Acc>
constexpr int GATHERING = sizeof(Acc) == 8 ? 2 : 4;

template <int count, class T, class Acc>
__device__ void add_gathered(const T* channel, int64_t sc, Acc weight, Acc (&sums)[count]) {
  Acc values[count];
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = fetch(channel + i * sc);
#pragma unroll
  for (int i = 0; i < count; ++i) sums[i] += weight * values[i];
}

template <int count, class T, class Acc>
__device__ void store_gathered(const Acc (&sums)[count], T* channel, int64_t sc) {
#pragma unroll
  for (int i = 0; i < count; ++i) channel[i * sc] = static_cast<T>(sums[i]);
}

// What dL/d rendered is multiplied by at every pixel, data[n * sn + p]; 1 if there is no data.
template <class Acc>
struct PixelWeights {
  const Acc* data;
  int64_t sn;
};

// Down the columns of dL/d rendered, which begins at pixel `origin`. A thread has a row of the prediction and a column
// of the output. `out` begins where the canvas does.
template <class G, class Out, class Acc = acc_t<G>>
__global__ void __launch_bounds__(THREADS, GATHERING<Acc>)
    gather_down(Canvas canvas, Resize<Acc> resize, Map<const G> grad, int32_t origin, PixelWeights<Acc> weights,
                Map<Out> out) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const Acc* weight = weights.data + spot.n * weights.sn;
  const int32_t first = resize.identity ? spot.y : resize.rows.first(spot.y);
  const int32_t last = resize.identity ? spot.y : resize.rows.last(spot.y);
  for_each_channel<GATHERED>(spot.first, spot.last, [&](auto count, int32_t c) {
    const G* channel = grad.data + spot.n * grad.sn + c * grad.sc;
    Acc sums[count] = {};
#pragma unroll 1
    for (int32_t row = first; row <= last; ++row) {
      Acc down = 1;
      if (!resize.identity && !resize.rows.share(row, spot.y, down)) continue;
      const int32_t p = row * canvas.width + spot.x;
      if (weights.data != nullptr) down *= fetch(weight + p);
      add_gathered(channel + (p - origin), grad.sc, down, sums);
    }
    store_gathered(sums, out.data + spot.n * out.sn + c * out.sc + spot.local, out.sc);
  });
}

// Along the rows of what the first pass has left, (N, C, rows, columns.out). A thread has a pixel of the prediction.
// Both maps begin where the canvas does.
template <class T, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS, GATHERING<Acc>)
    gather_along(Canvas canvas, Axis<Acc> columns, Map<const Acc> sums, Map<T> dx) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const int64_t row = static_cast<int64_t>(spot.y - canvas.top) * columns.out;
  const int32_t first = columns.first(spot.x), last = columns.last(spot.x);
  for_each_channel<GATHERED>(spot.first, spot.last, [&](auto count, int32_t c) {
    const Acc* channel = sums.data + spot.n * sums.sn + c * sums.sc + row;
    Acc totals[count] = {};
#pragma unroll 1
    for (int32_t column = first; column <= last; ++column) {
      Acc across;
      if (columns.share(column, spot.x, across)) add_gathered(channel + column, sums.sc, across, totals);
    }
    store_gathered(totals, dx.data + spot.n * dx.sn + c * dx.sc + spot.local, dx.sc);
  });
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
