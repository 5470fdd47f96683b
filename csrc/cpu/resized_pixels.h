// Pixels of resized maps in channels_last, a span of an output row at a time: the channels of a pixel are few, so that
// a loop over them is short, and one over a span's pixels is not.
#pragma once

#include "resized.h"

namespace afa {

constexpr int64_t SPAN = 32;  // pixels whose neighbours, of every scale, stay in the cache

// Pixels of one scale along a row of the output, for maps with channel stride 1.
template <class T>
class NeighbourPixels {
 public:
  using Acc = acc_t<T>;

  static int64_t size(int64_t channels) { return 2 * (SPAN + 2) * channels; }

  // `buffer` has room for size() values, and a pixel's channels are `zeros`.
  NeighbourPixels(const Resized<T>& scale, int64_t channels, const Acc* zeros, Acc* buffer)
      : scale_(&scale), channels_(channels), zeros_(zeros), buffer_(buffer) {}

  // To `count` columns from `first` of output row y of image n.
  void move_to(int64_t n, int64_t y, int64_t first, int64_t count) {
    const Axis<Acc>& columns = scale_->columns;
    lie_between_ = !scale_->identity && columns.in <= columns.out;
    low_ = columns.low.data(), fraction_ = columns.fraction.data();
    from_ = lie_between_ ? low_[first] : first;
    last_ = columns.in == columns.out ? 0 : columns.in - 1;  // of the same width none has a part of its neighbour
    pixels_ = buffer_, stride_ = channels_;
    if (lie_between_) {
      const int64_t pixels = columns.high(first + count - 1) - from_ + 1;
      if (scale_->map.sp == channels_) return blend(n, y, 0, pixels);
      for (int64_t i = 0; i < pixels; ++i) blend(n, y, i, 1);
    } else if (std::is_same_v<T, Acc> && scale_->identity) {
      pixels_ = reinterpret_cast<const Acc*>(scale_->map.at(n, 0, y * columns.in + first)), stride_ = scale_->map.sp;
    } else {
      for (int64_t i = 0; i < count; ++i) scale_->pixel(n, channels_, y, first + i, buffer_ + i * channels_);
    }
  }

  // The channels of output column x.
  Between<Acc> at(int64_t x) const {
    if (!lie_between_) return {pixels_ + (x - from_) * stride_, zeros_, 1, 0};
    const Acc f = fraction_[x], *low = pixels_ + (low_[x] - from_) * stride_;
    return {low, low_[x] < last_ ? low + stride_ : low, 1 - f, f};
  }

 private:
  // `count` pixels from from_ + i, which lie one after the other, between the two rows beside output row y.
  void blend(int64_t n, int64_t y, int64_t i, int64_t count) {
    const Axis<Acc>& rows = scale_->rows;
    const int64_t width = scale_->columns.in, at = from_ + i, length = count * channels_;
    Acc* __restrict blended = buffer_ + i * channels_;
    const Acc* low = widened(scale_->map.at(n, 0, rows.low[y] * width + at), length, blended);
    const Acc* high =
        widened(scale_->map.at(n, 0, rows.high(y) * width + at), length, buffer_ + (SPAN + 2) * channels_);
    const Acc f = rows.fraction[y];
#pragma GCC ivdep
    for (int64_t c = 0; c < length; ++c) blended[c] = (1 - f) * low[c] + f * high[c];
  }

  const Resized<T>* scale_;
  int64_t channels_;
  const Acc *zeros_, *pixels_;
  Acc* buffer_;
  const int32_t* low_;
  const Acc* fraction_;
  int64_t from_, last_, stride_;
  bool lie_between_;
};

// Those of several scales, of which `buffer` has room for all.
template <class T, class Acc = acc_t<T>>
std::vector<NeighbourPixels<T>> neighbour_pixels_of(const std::vector<Resized<T>>& scales, int64_t channels,
                                                    const Acc* zeros, Acc* buffer) {
  std::vector<NeighbourPixels<T>> all;
  for (const Resized<T>& scale : scales) {
    all.emplace_back(scale, channels, zeros, buffer);
    buffer += NeighbourPixels<T>::size(channels);
  }
  return all;
}

#if defined(__x86_64__) && defined(__GNUC__)

// Calls of[vectors - 1](inside, c, arguments...) for channels from c on, so many times sixteen of them, which stay in
// registers; of the last sixteen there are those `inside`.
template <class F, class... Arguments>
void for_each_lanes(const std::array<F*, 4>& of, int64_t channels, const Arguments&... arguments) {
  for (int64_t c = 0; c < channels; c += 64) {
    const int64_t vectors = std::min<int64_t>(ceil_div(channels - c, 16), 4);
    of[vectors - 1](first_lanes(channels - c - 16 * (vectors - 1)), c, arguments...);
  }
}

template <int vectors, bool factored, class T>
AFA_TARGET_AVX512 void sum_lanes(__mmask16 inside, int64_t c, const std::vector<NeighbourPixels<T>>& scales,
                                 const float* weights, int64_t stride, const float* factors, int64_t channels,
                                 int64_t x, int64_t count, float* sums) {
  for (int64_t i = 0; i < count; ++i) {
    __m512 total[vectors] = {};
    for (size_t k = 0; k < scales.size(); ++k) {
      const Between<float> pixel = scales[k].at(x + i).times(weights[k * stride + i]);
      const __m512 f = _mm512_set1_ps(pixel.f), not_f = _mm512_set1_ps(pixel.not_f);
      for (int v = 0; v < vectors; ++v) {
        const __mmask16 lanes = v + 1 < vectors ? 0xffff : inside;
        const int64_t at = c + 16 * v;
        const __m512 low = load_lanes(lanes, pixel.low + at), high = load_lanes(lanes, pixel.high + at);
        if constexpr (factored) {
          const __m512 value = _mm512_fmadd_ps(f, high, _mm512_mul_ps(not_f, low));
          total[v] = _mm512_fmadd_ps(load_lanes(lanes, factors + k * channels + at), value, total[v]);
        } else {
          total[v] = _mm512_fmadd_ps(f, high, _mm512_fmadd_ps(not_f, low, total[v]));
        }
      }
    }
    for (int v = 0; v < vectors; ++v)
      store_lanes(v + 1 < vectors ? 0xffff : inside, false, total[v], sums + i * channels + c + 16 * v);
  }
}
template <bool factored, class T>
void sum_pixels_avx512(const std::vector<NeighbourPixels<T>>& scales, const float* weights, int64_t stride,
                       const float* factors, int64_t channels, int64_t x, int64_t count, float* sums) {
  for_each_lanes(std::array{sum_lanes<1, factored, T>, sum_lanes<2, factored, T>, sum_lanes<3, factored, T>,
                            sum_lanes<4, factored, T>},
                 channels, scales, weights, stride, factors, channels, x, count, sums);
}

template <bool factored, class T>
[[gnu::noinline]] AFA_TARGET_AVX512 void dot_pixels_avx512(const NeighbourPixels<T>& scale, const float* weights,
                                                           const float* factors, const float* grads, int64_t channels,
                                                           int64_t x, int64_t count, float* of_pixels,
                                                           float* of_channels) {
  for (int64_t i = 0; i < count; ++i, grads += channels) {
    const Between<float> pixel = scale.at(x + i);
    const __m512 f = _mm512_set1_ps(pixel.f), not_f = _mm512_set1_ps(pixel.not_f), w = _mm512_set1_ps(weights[i]);
    __m512 total = _mm512_setzero_ps();
    for (int64_t c = 0; c < channels; c += 16) {
      const __mmask16 inside = first_lanes(channels - c);
      const __m512 low = _mm512_mul_ps(not_f, load_lanes(inside, pixel.low + c));
      const __m512 value = _mm512_fmadd_ps(f, load_lanes(inside, pixel.high + c), low),
                   g = load_lanes(inside, grads + c);
      if constexpr (factored) {
        const __m512 product = _mm512_mul_ps(g, value);
        total = _mm512_fmadd_ps(load_lanes(inside, factors + c), product, total);
        const __m512 sum = _mm512_fmadd_ps(w, product, load_lanes(inside, of_channels + c));
        store_lanes(inside, false, sum, of_channels + c);
      } else {
        total = _mm512_fmadd_ps(g, value, total);
      }
    }
    of_pixels[i] = _mm512_reduce_add_ps(total);
  }
}

template <int vectors>
AFA_TARGET_AVX512 inline void add_lanes(__mmask16 inside, const __m512* values, float* sum) {
  for (int v = 0; v < vectors; ++v, sum += 16) {
    const __mmask16 lanes = v + 1 < vectors ? 0xffff : inside;
    store_lanes(lanes, false, _mm512_add_ps(values[v], load_lanes(lanes, sum)), sum);
  }
}

// What pixels give to the input columns that they lie between stays in registers until the next lies beyond.
template <int vectors>
AFA_TARGET_AVX512 void scatter_lanes(__mmask16 inside, int64_t c, const Axis<float>& columns, const float* weights,
                                     const float* grads, int64_t channels, int64_t x, int64_t count, float* sums) {
  const int32_t *lows = columns.low.data() + x, from = lows[0];
  const float* fraction = columns.fraction.data() + x;
  const bool lie_between = columns.in != columns.out;
  __m512 of_low[vectors] = {}, of_high[vectors] = {};
  int32_t low = from;
  sums += c, grads += c;
  for (int64_t i = 0; i < count; ++i) {
    if (lows[i] != low) {
      add_lanes<vectors>(inside, of_low, sums + (low - from) * channels);
      if (lows[i] != low + 1) add_lanes<vectors>(inside, of_high, sums + (low + 1 - from) * channels);
      for (int v = 0; v < vectors; ++v) {
        of_low[v] = lows[i] == low + 1 ? of_high[v] : _mm512_setzero_ps();
        of_high[v] = _mm512_setzero_ps();
      }
      low = lows[i];
    }
    const __m512 f = _mm512_set1_ps(fraction[i] * weights[i]), not_f = _mm512_set1_ps((1 - fraction[i]) * weights[i]);
    for (int v = 0; v < vectors; ++v) {
      const __m512 g = load_lanes(v + 1 < vectors ? 0xffff : inside, grads + i * channels + 16 * v);
      of_low[v] = _mm512_fmadd_ps(not_f, g, of_low[v]);
      if (lie_between) of_high[v] = _mm512_fmadd_ps(f, g, of_high[v]);
    }
  }
  add_lanes<vectors>(inside, of_low, sums + (low - from) * channels);
  if (lie_between) add_lanes<vectors>(inside, of_high, sums + (columns.high(x + count - 1) - from) * channels);
}

#endif

// Channel c of pixel i of a span, sums[i * channels + c]: the sum over the scales of what they have at output column
// x + i, by the pixel's weights[k * stride + i], and by the channel's factors[k * channels + c] unless they are null.
template <class T, class Acc = acc_t<T>>
void sum_pixels(const std::vector<NeighbourPixels<T>>& scales, const Acc* weights, int64_t stride, const Acc* factors,
                int64_t channels, int64_t x, int64_t count, Acc* sums) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512)
      return (factors ? sum_pixels_avx512<true, T> : sum_pixels_avx512<false, T>)(scales, weights, stride, factors,
                                                                                  channels, x, count, sums);
#endif
  for (int64_t i = 0; i < count; ++i, sums += channels) {
    for (size_t k = 0; k < scales.size(); ++k) {
      const Between<Acc> pixel = scales[k].at(x + i).times(weights[k * stride + i]);
      const Acc* of_scale = factors + k * channels;
      if (factors)
        add_row(k == 0, channels, [=](int64_t c) { return of_scale[c] * pixel(c); }, sums);
      else
        add_row(k == 0, channels, pixel, sums);
    }
  }
}

// Of the span's `grads` times what one scale has there: of_pixels[i] = the sum over the channels, each by its factor,
// and of_channels[c] += that over the pixels, each by its weight, unless there are no factors.
template <class T, class Acc = acc_t<T>>
void dot_pixels(const NeighbourPixels<T>& scale, const Acc* weights, const Acc* factors, const Acc* grads,
                int64_t channels, int64_t x, int64_t count, Acc* of_pixels, Acc* of_channels) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512)
      return (factors ? dot_pixels_avx512<true, T> : dot_pixels_avx512<false, T>)(scale, weights, factors, grads,
                                                                                  channels, x, count, of_pixels,
                                                                                  of_channels);
#endif
  for (int64_t i = 0; i < count; ++i, grads += channels) {
    const Between<Acc> pixel = scale.at(x + i);
    of_pixels[i] = factors ? sum_products(grads, pixel, factors, weights[i], channels, of_channels)
                           : sum_products(grads, pixel, channels);
  }
}

// The transpose of resizing along a row: sums[j * channels + c], of input column j from that which output column x
// reads first, += what the span's `grads`, each by its pixel's weight, give it.
template <class Acc>
void scatter_pixels(const Axis<Acc>& columns, const Acc* weights, const Acc* grads, int64_t channels, int64_t x,
                    int64_t count, Acc* sums) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512)
      return for_each_lanes(std::array{scatter_lanes<1>, scatter_lanes<2>, scatter_lanes<3>, scatter_lanes<4>},
                            channels, columns, weights, grads, channels, x, count, sums);
#endif
  const int64_t from = columns.low[x];
  for (int64_t i = 0; i < count; ++i, grads += channels) {
    const Acc f = columns.fraction[x + i];
    add_weighted((1 - f) * weights[i], channels, grads, sums + (columns.low[x + i] - from) * channels);
    add_weighted(f * weights[i], channels, grads, sums + (columns.high(x + i) - from) * channels);
  }
}

// to[j * rows + i] = from[i * columns + j].
template <class Acc>
void transpose(int64_t rows, int64_t columns, const Acc* from, Acc* __restrict to) {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) to[j * rows + i] = from[i * columns + j];
}

}  // namespace afa
