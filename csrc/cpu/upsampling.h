// The depthwise transposed convolution that upsamples a map f = 2, 4 or 8 times, a row or a pixel at a time, and its
// transpose. The upsampled map is stored nowhere.
#pragma once

#include "rows.h"
#include "tiles.h"

namespace afa {

// Along an axis, output f m + q is made of input m, which is `near` and always there, by tap q + f/2, and of a
// neighbour, which is `far` and may be outside, by another tap: of m - 1 in the first half of the phases q, else of
// m + 1.
struct UpsampledAxis {
  int64_t size, factor;  // of the input

  struct Taps {
    int64_t near, far, near_tap, far_tap;
  };

  bool has(int64_t i) const { return 0 <= i && i < size; }
  bool reaches(int64_t i, int64_t tap) const {
    const int64_t output = factor * i - factor / 2 + tap;
    return 0 <= output && output < factor * size;
  }
  int64_t near_tap(int64_t phase) const { return phase + factor / 2; }
  int64_t far_tap(int64_t phase) const { return phase < factor / 2 ? phase + 3 * factor / 2 : phase - factor / 2; }
  int64_t step(int64_t phase) const { return phase < factor / 2 ? -1 : 1; }  // from the near input to the far one

  Taps taps(int64_t output) const {
    const int64_t near = output / factor, phase = output % factor;
    return {near, near + step(phase), near_tap(phase), far_tap(phase)};
  }

  // Calls body(i, tap) for the inputs i of an output, one or two.
  template <class F>
  void for_each_input(int64_t output, const F& body) const {
    const Taps t = taps(output);
    body(t.near, t.near_tap);
    if (has(t.far)) body(t.far, t.far_tap);
  }
};

// Calls body with the factor as a constant.
template <class F>
inline void with_factor(int64_t factor, const F& body) {
  if (factor == 2) return body(std::integral_constant<int, 2>{});
  if (factor == 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, 8>{});
}

// The weights (2f, 2f, C) and the sizes of both maps.
template <class Acc>
struct Upsampling {
  const Acc* weight;
  int64_t channels, factor, taps;  // taps of all weights of a channel
  UpsampledAxis rows, columns;

  Upsampling(const Checker& check, const Tensor& weight, const Tensor& deep)
      : channels(deep.size(1)),
        factor(weight.size(0) / 2),
        taps(4 * factor * factor),
        rows{deep.size(2), factor},
        columns{deep.size(3), factor} {
    const auto sizes = weight.sizes();
    STD_TORCH_CHECK(sizes.size() == 3 && sizes[0] == sizes[1] && sizes[0] % 2 == 0 && sizes[2] == channels &&
                        (factor == 2 || factor == 4 || factor == 8),
                    check.op, ": weight must have shape (2 f, 2 f, ", channels, ") with f = 2, 4 or 8");
    this->weight = check.flat<const Acc>("weight", weight, taps * channels);
  }

  int64_t height() const { return factor * rows.size; }
  int64_t width() const { return factor * columns.size; }
  int64_t taps_of_row() const { return 2 * factor; }
  // Of all channels; the taps are counted row by row.
  const Acc* tap(int64_t i) const { return &weight[i * channels]; }

  // Calls body(k, i, j, tap) for the inputs (i, j) of an output, at most four of k = 0, 1, 2 and 3.
  template <class F>
  void for_each_input(int64_t row, int64_t column, const F& body) const {
    const UpsampledAxis::Taps r = rows.taps(row), c = columns.taps(column);
    for (int k = 0; k < 4; ++k) {
      const int64_t i = k < 2 ? r.near : r.far, j = k % 2 == 0 ? c.near : c.far;
      const int64_t tap = (k < 2 ? r.near_tap : r.far_tap) * 2 * factor + (k % 2 == 0 ? c.near_tap : c.far_tap);
      if (rows.has(i) && columns.has(j)) body(k, i, j, tap);
    }
  }
};

// The gradient of the weight, (C, 1, 2f, 2f) of any type and strides, of sums (4 f^2, C).
template <class Acc>
void store_weight(const Checker& check, const Upsampling<Acc>& up, const std::vector<double>& sums, const Tensor& t) {
  const int64_t size = 2 * up.factor;
  check.shape("grad of weight", t, {up.channels, 1, size, size});
  dispatch(t.scalar_type(), check.op, [&](auto type) {
    auto* data = static_cast<decltype(type)*>(t.data_ptr());
    for (int64_t row = 0; row < size; ++row)
      for (int64_t column = 0; column < size; ++column)
        for (int64_t c = 0; c < up.channels; ++c)
          data[c * t.stride(0) + row * t.stride(2) + column * t.stride(3)] =
              static_cast<decltype(type)>(sums[(row * size + column) * up.channels + c]);
  });
}

// The weights of a row of outputs, of the row near to it and of the far one.
template <class Acc>
struct RowWeights {
  const Acc *near, *far;
};

// out[f m + q] of the near and the far row of inputs.
template <int f, class Acc>
inline void upsample_row(const Acc* near, const Acc* far, RowWeights<Acc> weights, int64_t width, Acc* __restrict out) {
  const Acc *wn = weights.near, *wf = weights.far;
#pragma GCC ivdep
  for (int64_t m = 1; m < width - 1; ++m) {
#pragma GCC unroll 8
    for (int q = 0; q < f; ++q) {
      const int64_t from = q < f / 2 ? m - 1 : m + 1;
      const int tap = q + f / 2, side = q < f / 2 ? q + 3 * f / 2 : q - f / 2;
      out[f * m + q] = (wn[tap] * near[m] + wn[side] * near[from]) + (wf[tap] * far[m] + wf[side] * far[from]);
    }
  }
  const UpsampledAxis axis{width, f};
  for (int64_t m = 0; m < width; m += std::max<int64_t>(1, width - 1)) {
    for (int64_t q = 0; q < f; ++q) {
      const int64_t from = m + axis.step(q), tap = axis.near_tap(q), side = axis.far_tap(q);
      Acc value = wn[tap] * near[m] + wf[tap] * far[m];
      if (axis.has(from)) value += wn[side] * near[from] + wf[side] * far[from];
      out[f * m + q] = value;
    }
  }
}

// The rows of upsampled channels of NCHW, those of a channel from the first on.
template <class T>
class UpsampledRows {
 public:
  using Acc = acc_t<T>;

  static int64_t scratch(const Upsampling<Acc>& up) { return up.taps + 2 * up.factor + 3 * up.columns.size; }

  UpsampledRows(const Upsampling<Acc>& up, const Map<const T>& deep, Acc* scratch)
      : up_(up), deep_(deep), weights_(scratch), no_weights_(scratch + up.taps), no_row_(no_weights_ + 2 * up.factor) {
    std::fill_n(no_weights_, 2 * up.factor + up.columns.size, Acc(0));
  }

  void start(int64_t n, int64_t c) {
    n_ = n, c_ = c;
    at_[0] = at_[1] = -1;
    for (int64_t i = 0; i < up_.taps; ++i) weights_[i] = up_.weight[i * up_.channels + c];
  }

  // The weights of the taps of a row.
  const Acc* weights(int64_t tap) const { return weights_ + tap * 2 * up_.factor; }

  // Row i of the inputs. It is there until row i + 2, or i - 2, is asked for.
  const Acc* input(int64_t i) {
    const int64_t slot = i & 1, width = up_.columns.size;
    if (at_[slot] != i) {
      at_[slot] = i;
      rows_[slot] = widened(deep_.at(n_, c_, i * width), width, no_row_ + (1 + slot) * width);
    }
    return rows_[slot];
  }

  // A far row outside the map has neither values nor weights: a weight may be infinite.
  void row(int64_t output, Acc* out) {
    const UpsampledAxis::Taps taps = up_.rows.taps(output);
    const bool inside = up_.rows.has(taps.far);
    const Acc *near = input(taps.near), *far = inside ? input(taps.far) : no_row_;
    const RowWeights<Acc> both{weights(taps.near_tap), inside ? weights(taps.far_tap) : no_weights_};
    with_factor(up_.factor, [&](auto f) { upsample_row<f>(near, far, both, up_.columns.size, out); });
  }

 private:
  const Upsampling<Acc>& up_;
  const Map<const T>& deep_;
  Acc *weights_, *no_weights_, *no_row_;
  int64_t n_ = 0, c_ = 0, at_[2] = {-1, -1};
  const Acc* rows_[2] = {nullptr, nullptr};
};

// A row of outputs, phase by phase: phases[q * width + m] = row[f m + q].
template <class Acc>
inline void deinterleave(const Acc* row, int64_t width, int64_t factor, Acc* __restrict phases) {
  with_factor(factor, [&](auto f) {
#pragma GCC ivdep
    for (int64_t m = 0; m < width; ++m)
      for (int q = 0; q < f; ++q) phases[q * width + m] = row[f * m + q];
  });
}

// What a row of outputs, whose gradient is given phase by phase, adds to the gradients of a row of inputs, and to those
// of the weights between the two rows.
template <class Acc>
inline void collect_row(const UpsampledAxis& axis, const Acc* phases, const Acc* weights, const Acc* input,
                        Acc* d_input, Acc* d_weights) {
  const int64_t width = axis.size;
  for (int64_t q = 0; q < axis.factor; ++q) {
    const int64_t step = axis.step(q), near = axis.near_tap(q), far = axis.far_tap(q);
    const Acc *of_near = phases + q * width, *of_far = of_near - step;  // input j is far from output j - step
    const Acc near_weight = weights[near], far_weight = weights[far];
    const int64_t first = step < 0 ? 0 : 1, last = first + width - 1, alone = step < 0 ? width - 1 : 0;
    Acc near_sum = 0, far_sum = 0;
#pragma omp simd reduction(+ : near_sum, far_sum)
    for (int64_t j = first; j < last; ++j) {
      d_input[j] += near_weight * of_near[j] + far_weight * of_far[j];
      near_sum += of_near[j] * input[j];
      far_sum += of_far[j] * input[j];
    }
    d_input[alone] += near_weight * of_near[alone];
    d_weights[near] += near_sum + of_near[alone] * input[alone];
    d_weights[far] += far_sum;
  }
}

// A pixel of channels_last, upsampled: the sum of up to four inputs times their weights. In the place of one that is
// outside the map there are zeros.
template <class Acc>
struct UpsampledPixel {
  const Acc *inputs[4], *weights[4];

  void store(int64_t channels, Acc* row) const {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) row[c] = (*this)[c];
  }

  Acc operator[](int64_t c) const {
    return (weights[0][c] * inputs[0][c] + weights[1][c] * inputs[1][c]) +
           (weights[2][c] * inputs[2][c] + weights[3][c] * inputs[3][c]);
  }
};

// What a pixel of outputs adds to the gradients of one of its inputs, and of the weights between the two.
template <class Acc>
inline void collect_pixel(int64_t channels, const Acc* grad, const Acc* weights, const Acc* input, Acc* d_input,
                          Acc* d_weights) {
#pragma GCC ivdep
  for (int64_t c = 0; c < channels; ++c) {
    d_input[c] += weights[c] * grad[c];
    d_weights[c] += input[c] * grad[c];
  }
}

// The pixels of channels_last, best in the order of memory.
template <class T>
class UpsampledPixels {
 public:
  using Acc = acc_t<T>;

  static int64_t scratch(const Upsampling<Acc>& up) { return 5 * up.channels; }

  UpsampledPixels(const Upsampling<Acc>& up, const Map<const T>& deep, int64_t n, Acc* scratch)
      : up_(up), deep_(deep), n_(n), zeros_(scratch) {
    std::fill_n(zeros_, up.channels, Acc(0));
  }

  // Its inputs are there until another pixel is asked for.
  UpsampledPixel<Acc> pixel(int64_t row, int64_t column) {
    UpsampledPixel<Acc> result{{zeros_, zeros_, zeros_, zeros_}, {zeros_, zeros_, zeros_, zeros_}};
    up_.for_each_input(row, column, [&](int k, int64_t i, int64_t j, int64_t tap) {
      result.inputs[k] = input(i, j);
      result.weights[k] = up_.tap(tap);
    });
    return result;
  }

 private:
  const Acc* input(int64_t i, int64_t j) {
    const int64_t slot = (i & 1) * 2 + (j & 1), at = i * up_.columns.size + j;
    if (at_[slot] != at) {
      at_[slot] = at;
      pixels_[slot] = widened(deep_.at(n_, 0, at), up_.channels, zeros_ + (1 + slot) * up_.channels);
    }
    return pixels_[slot];
  }

  const Upsampling<Acc>& up_;
  const Map<const T>& deep_;
  int64_t n_, at_[4] = {-1, -1, -1, -1};
  Acc* zeros_;
  const Acc* pixels_[4] = {};
};

}  // namespace afa
