// Rendering a row of the output at a time, at output resolution: what every operation on a rendering shares.
#pragma once

#include "../arithmetic/softmax.h"
#include "bilinear.h"
#include "rows.h"
#include "tiles.h"
#include "weights.h"

namespace afa {

constexpr int64_t ROWS = 16, COLUMNS = 256;  // of the output, in one unit of work

// One map or prediction at its own resolution, read as if it had the output's.
template <class T>
struct Resized {
  using Acc = acc_t<T>;
  Map<const T> map;
  Axis<Acc> rows, columns;
  bool identity;

  Resized(Map<const T> m, int64_t height, int64_t width, int64_t out_height, int64_t out_width)
      : map(m),
        rows(height, out_height),
        columns(width, out_width),
        identity(height == out_height && width == out_width) {}

  int64_t scratch() const { return columns.in + PADDING; }

  // The lower of the two rows that output row y reads; the upper is rows.low[y].
  int64_t bottom(int64_t y) const { return identity ? y : rows.high(y); }

  // out[i] = the value of channel c at output row y, column first + i.
  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, Acc* __restrict scratch,
           Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, c, y * columns.in + first);
      if (map.sp == 1) return widen(source, count, out);
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(source[i * map.sp]);
      return;
    }
    const int64_t from = columns.low[first], length = columns.high(first + count - 1) - from + 1;
    const T* top = map.at(n, c, rows.low[y] * columns.in + from);
    const T* bottom = map.at(n, c, rows.high(y) * columns.in + from);
    const Acc f = rows.fraction[y], not_f = 1 - f;
    const auto blend = [&](int64_t i, int64_t at) {
      scratch[i] = not_f * static_cast<Acc>(top[at]) + f * static_cast<Acc>(bottom[at]);
    };
    if (map.sp == 1)
      for (int64_t i = 0; i < length; ++i) blend(i, i);
    else
      for (int64_t i = 0; i < length; ++i) blend(i, i * map.sp);
    for (int64_t i = length; i < length + PADDING; ++i) scratch[i] = scratch[length - 1];
    resize(columns, first, count, scratch, out);
  }

  // Row j of channel c of a map with pixel stride 1, at the `count` output columns from `first`: in `out`, or where it
  // is. The next row is fetched, which is far in memory.
  const Acc* across(int64_t n, int64_t c, int64_t j, int64_t first, int64_t count, Acc* __restrict scratch,
                    Acc* __restrict out) const {
    const int64_t from = identity ? first : columns.low[first];
    const int64_t length = identity ? count : columns.high(first + count - 1) - from + 1;
    const T* row = map.at(n, c, j * columns.in + from);
    const T* next = j + 1 < rows.in ? row + columns.in : map.at(n, c + 1, from);
    for (int64_t i = 0; i < length; i += LINE / sizeof(T)) prefetch(next + i);
    if (identity) return widened(row, count, out);
    if constexpr (std::is_same_v<T, Acc>) {
      if (from + length + PADDING <= columns.in) {
        resize(columns, first, count, row, out);
        return out;
      }
    }
    widen(row, length, scratch);
    std::fill_n(scratch + length, PADDING, scratch[length - 1]);
    resize(columns, first, count, scratch, out);
    return out;
  }

  // out[c] = the value of channel c at output row y, column x. For maps with channel stride 1.
  void pixel(int64_t n, int64_t channels, int64_t y, int64_t x, Acc* __restrict out) const {
    if (identity) return widen(map.at(n, 0, y * columns.in + x), channels, out);
    const T* top = map.at(n, 0, rows.low[y] * columns.in);
    const T* bottom = map.at(n, 0, rows.high(y) * columns.in);
    const int64_t left = columns.low[x] * map.sp, right = columns.high(x) * map.sp;
    const Acc f = rows.fraction[y], not_f = 1 - f, h = columns.fraction[x], not_h = 1 - h;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = not_h * (not_f * static_cast<Acc>(top[left + c]) + f * static_cast<Acc>(bottom[left + c])) +
               h * (not_f * static_cast<Acc>(top[right + c]) + f * static_cast<Acc>(bottom[right + c]));
  }
};

// A row of one scale at output resolution, between two of its own; or a pixel's channels, between those of two pixels.
template <class Acc>
struct Between {
  const Acc *low, *high;
  Acc not_f, f;

  Acc operator()(int64_t i) const { return not_f * low[i] + f * high[i]; }
  Between times(Acc factor) const { return {low, high, not_f * factor, f * factor}; }
};

// Channels of one scale: the two of their rows that were read last, resized to columns of the output. Output rows that
// follow each other mostly lie between the same two.
template <class T>
class Neighbours {
 public:
  using Acc = acc_t<T>;

  static int64_t size(int64_t channels, int64_t columns) { return 2 * channels * columns; }

  // Of at most so many channels and columns: `rows` has room for size() values, and COLUMNS are `zeros`.
  Neighbours(const Resized<T>& scale, int64_t channels, int64_t columns, const Acc* zeros, Acc* rows)
      : scale_(&scale), channels_(channels), columns_(columns), zeros_(zeros), rows_(rows), values_(2 * channels) {}

  // The channels from c and the columns from `first` of image n.
  void begin(int64_t n, int64_t c, int64_t first, int64_t count) {
    n_ = n, c_ = c, first_ = first, count_ = count;
    held_[0] = held_[1] = -1;
  }

  void move_to(int64_t y, Acc* scratch) {
    f_ = scale_->identity ? Acc(0) : scale_->rows.fraction[y];
    top_ = hold(scale_->identity ? y : scale_->rows.low[y], scratch);
    bottom_ = hold(scale_->bottom(y), scratch);
  }

  // Columns from first + i of channel c_ + c at the output row where it is.
  Between<Acc> at(int64_t c = 0, int64_t i = 0) const {
    const Acc *const *values = &values_[2 * c], *top = values[top_] + i;
    if (scale_->identity) return {top, zeros_, 1, 0};  // no part of a neighbour, which may be infinite
    return {top, values[bottom_] + i, 1 - f_, f_};
  }

 private:
  int64_t hold(int64_t j, Acc* scratch) {
    const int64_t slot = j & 1;
    for (int64_t c = 0; c < channels_ && held_[slot] != j; ++c) {
      const int64_t at = 2 * c + slot;
      values_[at] = scale_->across(n_, c_ + c, j, first_, count_, scratch, rows_ + at * columns_);
    }
    held_[slot] = j;
    return slot;
  }

  const Resized<T>* scale_;
  int64_t channels_, columns_;
  const Acc* zeros_;
  Acc* rows_;
  std::vector<const Acc*> values_;
  int64_t n_, c_, first_, count_, held_[2], top_, bottom_;
  Acc f_;
};

constexpr int64_t SPAN = 32;  // pixels of a row in channels_last whose neighbours, of every scale, stay in the cache

// Pixels of one scale along a row of the output, for maps with channel stride 1.
template <class T>
class NeighbourPixels {
 public:
  using Acc = acc_t<T>;

  static int64_t size(int64_t channels) { return (SPAN + 3) * channels; }

  // `buffer` has room for size() values, and a pixel's channels are `zeros`.
  NeighbourPixels(const Resized<T>& scale, int64_t channels, const Acc* zeros, Acc* buffer)
      : scale_(&scale), channels_(channels), zeros_(zeros), buffer_(buffer) {}

  // To `count` columns from `first` of output row y of image n.
  void move_to(int64_t n, int64_t y, int64_t first, int64_t count) {
    const Axis<Acc>& columns = scale_->columns;
    const bool lie_between = !scale_->identity && columns.in <= columns.out;
    first_ = first, from_ = lie_between ? columns.low[first] : first;
    pixels_ = buffer_, stride_ = channels_;
    const auto row = [&](int64_t j) {
      return [=, this](int64_t x) { return scale_->map.at(n, 0, j * scale_->columns.in + x); };
    };
    if (lie_between) {
      const Acc f = scale_->rows.fraction[y];
      const auto top = row(scale_->rows.low[y]), bottom = row(scale_->rows.high(y));
      for (int64_t x = from_; x <= columns.high(first + count - 1); ++x) {
        Acc* __restrict blended = buffer_ + (x - from_) * channels_;
        const Acc* low = widened(top(x), channels_, blended);
        const Acc* high = widened(bottom(x), channels_, buffer_ + (SPAN + 2) * channels_);
#pragma GCC ivdep
        for (int64_t c = 0; c < channels_; ++c) blended[c] = (1 - f) * low[c] + f * high[c];
      }
    } else if (std::is_same_v<T, Acc> && scale_->identity) {
      pixels_ = reinterpret_cast<const Acc*>(row(y)(first)), stride_ = scale_->map.sp;
    } else {
      for (int64_t i = 0; i < count; ++i) scale_->pixel(n, channels_, y, first + i, buffer_ + i * channels_);
    }
  }

  // The channels of output column x.
  Between<Acc> at(int64_t x) const {
    const Axis<Acc>& columns = scale_->columns;
    if (scale_->identity || columns.in > columns.out) return {pixels_ + (x - first_) * stride_, zeros_, 1, 0};
    const Acc f = columns.fraction[x];
    return {pixels_ + (columns.low[x] - from_) * stride_, pixels_ + (columns.high(x) - from_) * stride_, 1 - f, f};
  }

 private:
  const Resized<T>* scale_;
  int64_t channels_;
  const Acc *zeros_, *pixels_;
  Acc* buffer_;
  int64_t first_, from_, stride_;
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

// Those of several scales, of which `rows` has room for all.
template <class T, class Acc = acc_t<T>>
std::vector<Neighbours<T>> neighbours_of(const std::vector<Resized<T>>& scales, int64_t channels, int64_t columns,
                                         const Acc* zeros, Acc* rows) {
  std::vector<Neighbours<T>> all;
  for (const Resized<T>& scale : scales) {
    all.emplace_back(scale, channels, columns, zeros, rows);
    rows += Neighbours<T>::size(channels, columns);
  }
  return all;
}

#if defined(__x86_64__) && defined(__GNUC__)

// `vectors` times sixteen elements of what is below, of which the last sixteen may be outside.
template <int vectors, bool weighted, class O>
AFA_TARGET_AVX512 inline void sum_weighted_at(__mmask16 inside, const Between<float>* rows, size_t scales,
                                              const float* weights, int64_t stride, int64_t i, bool stream, O* sum) {
  __m512 sums[vectors] = {};
  for (size_t k = 0; k < scales; ++k) {
    const Between<float> row = rows[k];
    const __m512 f = _mm512_set1_ps(row.f), not_f = _mm512_set1_ps(row.not_f);
    for (int j = 0; j < vectors; ++j) {
      const int64_t at = i + 16 * j;
      const __m512 low = _mm512_mul_ps(not_f, load_lanes(inside, row.low + at));
      const __m512 value = _mm512_fmadd_ps(f, load_lanes(inside, row.high + at), low);
      if constexpr (weighted)
        sums[j] = _mm512_fmadd_ps(load_lanes(inside, weights + k * stride + at), value, sums[j]);
      else
        sums[j] = _mm512_add_ps(value, sums[j]);
    }
  }
  for (int j = 0; j < vectors; ++j) store_lanes(inside, stream, sums[j], sum + i + 16 * j);
}
template <bool weighted, class O>
[[gnu::noinline]] AFA_TARGET_AVX512 void sum_weighted_avx512(const Between<float>* rows, size_t scales,
                                                             const float* weights, int64_t stride, int64_t length,
                                                             bool stream, O* sum) {
  constexpr int vectors = 4;  // whose sums stay in registers
  int64_t i = 0;
  for (; i + 16 * vectors <= length; i += 16 * vectors)
    sum_weighted_at<vectors, weighted>(0xffff, rows, scales, weights, stride, i, stream, sum);
  for (; i < length; i += 16)
    sum_weighted_at<1, weighted>(first_lanes(length - i), rows, scales, weights, stride, i, stream, sum);
}
template <class O>
void sum_weighted_avx512(const std::vector<Between<float>>& rows, const float* weights, int64_t stride, int64_t length,
                         bool stream, O* sum) {
  if (weights)
    sum_weighted_avx512<true>(rows.data(), rows.size(), weights, stride, length, stream, sum);
  else
    sum_weighted_avx512<false>(rows.data(), rows.size(), nullptr, 0, length, stream, sum);
}

#endif

// sum[i] = or, but for the first, += term(i).
template <class Acc, class F>
inline void add_row(bool first, int64_t length, const F& term, Acc* __restrict sum) {
  if (first)
    for (int64_t i = 0; i < length; ++i) sum[i] = term(i);
  else
    for (int64_t i = 0; i < length; ++i) sum[i] += term(i);
}

// sum[i] = the sum over the scales of weights[k * stride + i] * rows[k](i), or of these alone if the weights are null.
template <class Acc>
void sum_weighted(const std::vector<Between<Acc>>& rows, const Acc* weights, int64_t stride, int64_t length,
                  Acc* __restrict sum) {
#if defined(__x86_64__) && defined(__GNUC__)
  if constexpr (std::is_same_v<Acc, float>)
    if (isa() == Isa::avx512) return sum_weighted_avx512(rows, weights, stride, length, false, sum);
#endif
  for (size_t k = 0; k < rows.size(); ++k) {
    const Between<Acc> row = rows[k];
    const Acc* w = weights + k * stride;
    if (weights)
      add_row(k == 0, length, [=](int64_t i) { return w[i] * row(i); }, sum);
    else
      add_row(k == 0, length, row, sum);
  }
}

// What K predictions are weighed by at a row of the output: weights; or opacities that are composited there, in which
// the last scale may be opaque and have no map. `premultiplied` predictions have their opacity in them already.
template <class Acc>
struct Maps {
  int64_t batch, scales;
  bool opacities, opaque_last, premultiplied = false;
  std::vector<std::unique_ptr<Acc[]>> data;
  std::vector<Resized<Acc>> resized;  // of each scale that has a map

  // Weights or opacities of logits (N, K, h, w), made at their resolution.
  Maps(const Checker& check, const Tensor& logits, const std::string& phi, bool last, bool resize_opacities,
       int64_t out_height, int64_t out_width)
      : batch(logits.size(0)), scales(logits.size(1)), opacities(resize_opacities), opaque_last(last) {
    const int64_t height = logits.size(2), width = logits.size(3);
    check.pixels("logits", logits);
    data.push_back(uninitialized<Acc>(batch * scales * height * width));
    Acc* values = data[0].get();
    const AnyMap y(check, "logits", logits, {batch, scales, height, width});
    dispatch_phi(check, phi, [&](auto p) {
      using Phi = decltype(p);
      const int64_t size = scales * width;
      for_each_piece<Acc>(batch, height, width, width, 8, 3 * size + width, [&](const Piece& row, Acc* y_rows) {
        Acc *w_rows = y_rows + size, *t_rows = w_rows + size;
        for (int64_t k = 0; k < scales; ++k) y.read_pixels(row.n, k, row.row * width, width, y_rows + k * width);
        if (opacities) {
          for (int64_t i = 0; i < size; ++i) w_rows[i] = opacity(Phi::depth(y_rows[i]));
        } else {
          weigh_rows<Phi>(scales, opaque_last, width, width, y_rows, w_rows, t_rows, t_rows + size);
        }
        for (int64_t k = 0; k < scales; ++k)
          std::copy_n(w_rows + k * width, width, values + ((row.n * scales + k) * height + row.row) * width);
      });
    });
    for (int64_t k = 0; k < scales - (opacities && opaque_last); ++k) {
      const Map<const Acc> map{values + k * height * width, scales * height * width, height * width, 1};
      resized.emplace_back(map, height, width, out_height, out_width);
    }
  }

  // Opacities (N, 1, h_k, w_k) at a resolution of their own, of all scales but the last, which is opaque.
  Maps(const Checker& check, const std::vector<Tensor>& attentions, int64_t batch_size, bool multiplied,
       int64_t out_height, int64_t out_width)
      : batch(batch_size),
        scales(attentions.size() + 1),
        opacities(true),
        opaque_last(true),
        premultiplied(multiplied) {
    for (const Tensor& attention : attentions) {
      const int64_t height = attention.size(2), width = attention.size(3), pixels = height * width;
      check.pixels("attentions", attention);
      const AnyMap map(check, "attentions", attention, {batch, 1, height, width});
      data.push_back(uninitialized<Acc>(batch * pixels));
      for (int64_t n = 0; n < batch; ++n) map.read_pixels(n, 0, 0, pixels, data.back().get() + n * pixels);
      resized.emplace_back(Map<const Acc>{data.back().get(), pixels, pixels, 1}, height, width, out_height, out_width);
    }
  }

  // Weights of every pixel of the output, (N, K, H, W), that are kept elsewhere.
  Maps(const Acc* weights, int64_t batch_size, int64_t inputs, int64_t out_height, int64_t out_width)
      : batch(batch_size), scales(inputs), opacities(false), opaque_last(false) {
    const int64_t pixels = out_height * out_width;
    for (int64_t k = 0; k < scales; ++k) {
      const Map<const Acc> map{weights + k * pixels, scales * pixels, pixels, 1};
      resized.emplace_back(map, out_height, out_width, out_height, out_width);
    }
  }

  // Of each scale `count` values of output row y, a scale's every COLUMNS; i counts the columns of the neighbours.
  static void rows(std::vector<Neighbours<Acc>>& maps, int64_t y, int64_t i, int64_t count, Acc* source,
                   Acc* __restrict out) {
    for (Neighbours<Acc>& map : maps) {
      map.move_to(y, source);
      const Between<Acc> row = map.at(0, i);
      for (int64_t x = 0; x < count; ++x) out[x] = row(x);
      out += COLUMNS;
    }
  }

  // Rows of opacities become rows of weights.
  void composite(int64_t count, Acc* __restrict rows, Acc* __restrict transmittance) const {
    if (!opacities) return;
    for (int64_t i = 0; i < count; ++i) transmittance[i] = 1;
    for (int64_t k = 0; k < scales; ++k, rows += COLUMNS) {
      const bool opaque = opaque_last && k == scales - 1;
      for (int64_t i = 0; i < count; ++i)
        rows[i] = afa::composite(opaque ? Acc(1) : rows[i], premultiplied, transmittance[i]);
    }
  }

  // dL/dw_k in `grads` becomes dL/dalpha_k. `through`, K + 1 rows, and `behind` are scratch.
  void composite_backward(int64_t count, const Acc* alphas, Acc* __restrict grads, Acc* __restrict through,
                          Acc* __restrict behind) const {
    for (int64_t i = 0; i < count; ++i) {
      through[i] = 1;
      behind[i] = 0;
    }
    for (int64_t k = 0; k < scales; ++k)
      for (int64_t i = 0; i < count; ++i) {  // through row k is T_k
        const Acc alpha = opaque_last && k == scales - 1 ? Acc(1) : alphas[k * COLUMNS + i];
        through[(k + 1) * COLUMNS + i] = through[k * COLUMNS + i] * (1 - alpha);
      }
    for (int64_t k = scales - 1; k >= 0; --k) {
      const bool opaque = opaque_last && k == scales - 1;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = k * COLUMNS + i;
        const Acc alpha = opaque ? Acc(1) : alphas[at];
        const Acc grad = afa::composite_backward(grads[at], alpha, premultiplied, through[at], behind[i]);
        grads[at] = opaque ? Acc(0) : grad;
      }
    }
  }
};

// The predictions (N, C, h_k, w_k), one for each of the maps, all channels_last or all NCHW.
template <class T>
struct Predictions {
  using Element = T;
  int64_t channels;
  bool channels_last;
  std::vector<Resized<T>> scales;

  Predictions(const Checker& check, const std::vector<Tensor>& tensors, const Maps<acc_t<T>>& maps, int64_t height,
              int64_t width)
      : channels(check.first("predictions", tensors).size(1)),
        channels_last(std::any_of(tensors.begin(), tensors.end(), [](const auto& t) { return pixel_stride(t) != 1; })) {
    check.count("predictions", tensors.size(), maps.scales);
    for (const Tensor& t : tensors) {
      check.pixels("predictions", t);
      scales.emplace_back(
          check.map<const T>("predictions", t, {maps.batch, channels, t.size(2), t.size(3)}, channels_last), t.size(2),
          t.size(3), height, width);
    }
  }

  // What the channels of scale k of image n are multiplied by: nothing.
  const acc_t<T>* factors_of(int64_t, int64_t) const { return nullptr; }
};

// The same with a factor of every channel, (N, K, C). A type of its own, as all others shall have no code for it.
template <class T>
struct FactoredPredictions : Predictions<T> {
  const acc_t<T>* factors;

  FactoredPredictions(const Checker& check, const std::vector<Tensor>& tensors, const Maps<acc_t<T>>& maps,
                      int64_t height, int64_t width, const acc_t<T>* factors)
      : Predictions<T>(check, tensors, maps, height, width), factors(factors) {}

  const acc_t<T>* factors_of(int64_t n, int64_t k) const {
    return factors + (n * static_cast<int64_t>(this->scales.size()) + k) * this->channels;
  }
};

// The longest row of inputs that resizing needs room for.
template <class T>
int64_t widest(const Predictions<T>& predictions, const Maps<acc_t<T>>& maps) {
  int64_t longest = 0;
  for (const auto& r : predictions.scales) longest = std::max(longest, r.scratch());
  for (const auto& r : maps.resized) longest = std::max(longest, r.scratch());
  return longest;
}

// What a rendering has of the columns of a channel, or in channels_last of the channels of a pixel: rows to be summed,
// a weight of each element `stride` after that of the scale before, if there are weights.
template <class Acc>
struct Rendered {
  const std::vector<Between<Acc>>& rows;
  const Acc* weights;
  int64_t stride, length;
  Acc* buffer;

  const Acc* values() const {
    sum_weighted(rows, weights, stride, length, buffer);
    return buffer;
  }

  // In a row of the output, or past the cache.
  template <class O>
  void store(bool stream, O* out) const {
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (std::is_same_v<Acc, float>) {
      const bool whole_lines = reinterpret_cast<uintptr_t>(out) % LINE == 0 && length * sizeof(O) % LINE == 0;
      if (isa() == Isa::avx512 && (!stream || whole_lines))
        return sum_weighted_avx512(rows, weights, stride, length, stream, out);
    }
#endif
    if (stream)
      stream_row(values(), length, out);
    else
      narrow(values(), length, out);
  }
};

// The rendering of (batch, height, width) pixels, which is nowhere stored: every span is handed to
// emit(seen, n, y, first column, columns, r, rendered), with channels_last the channels of pixel first + r, otherwise
// the columns of channel r, in ascending order of r. `seen` is a Seen of the span, not initialized, for what is kept of
// it.
template <class Seen, class P, class F>
void render(const P& predictions, const Maps<acc_t<typename P::Element>>& maps, int64_t height, int64_t width,
            const F& emit) {
  using T = typename P::Element;
  using Acc = acc_t<T>;
  const int64_t channels = predictions.channels, scales = maps.scales, of_maps = scales * COLUMNS;
  const int64_t scratch_row = widest(predictions, maps), result_row = std::max(COLUMNS, channels);
  const int64_t held = scales * std::max(Neighbours<T>::size(1, COLUMNS),
                                         predictions.channels_last ? NeighbourPixels<T>::size(channels) : 0);
  const int64_t size = ROWS * of_maps + scratch_row + 3 * result_row + held;
  for_each_piece<Acc>(maps.batch, ceil_div(height, ROWS), width, COLUMNS, 1, size, [&](const Piece& piece, Acc* m) {
    Acc *source = m + ROWS * of_maps, *value = source + scratch_row, *sum = value + result_row;
    Acc *zeros = sum + result_row, *free = zeros + result_row;
    const int64_t n = piece.n, first = piece.first, count = piece.count;
    const int64_t begin = piece.row * ROWS, end = std::min(height, begin + ROWS);
    const auto seen = uninitialized<Seen>(ROWS);
    std::fill_n(zeros, result_row, Acc(0));
    auto of_weights = neighbours_of(maps.resized, 1, COLUMNS, zeros, free);
    for (auto& of : of_weights) of.begin(n, 0, first, count);
    for (int64_t y = begin; y < end; ++y) {
      maps.rows(of_weights, y, 0, count, source, m + (y - begin) * of_maps);
      maps.composite(count, m + (y - begin) * of_maps, value);
    }
    std::vector<Between<Acc>> rows(scales);
    if (predictions.channels_last) {
      auto of_scales = neighbour_pixels_of(predictions.scales, channels, zeros, free);
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t k = 0; k < scales; ++k) {
            if (r % SPAN == 0) of_scales[k].move_to(n, y, first + r, std::min(SPAN, count - r));
            rows[k] = of_scales[k].at(first + r).times(m[(y - begin) * of_maps + k * COLUMNS + r]);
          }
          emit(seen[y - begin], n, y, first, count, r,
               Rendered<Acc>{rows, predictions.factors_of(n, 0), channels, channels, sum});
        }
      }
      return;
    }
    auto of_scales = neighbours_of(predictions.scales, 1, COLUMNS, zeros, free);
    for (int64_t c = 0; c < channels; ++c) {
      for (auto& of : of_scales) of.begin(n, c, first, count);
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t k = 0; k < scales; ++k) {
          of_scales[k].move_to(y, source);
          const Acc* factors = predictions.factors_of(n, k);
          rows[k] = factors ? of_scales[k].at().times(factors[c]) : of_scales[k].at();
        }
        emit(seen[y - begin], n, y, first, count, c,
             Rendered<Acc>{rows, m + (y - begin) * of_maps, COLUMNS, count, sum});
      }
    }
  });
}

// The same stored in `out`, (batch, channels, height, width), in the order of the predictions.
template <class O, class P>
void render_to(const Checker& check, const P& predictions, const Maps<acc_t<typename P::Element>>& maps,
               const Tensor& out) {
  using T = typename P::Element;
  const int64_t height = out.size(2), width = out.size(3);
  const bool channels_last = predictions.channels_last;
  const auto o = check.map<O>("out", out, {maps.batch, predictions.channels, height, width}, channels_last);
  const bool stream = streamed(out, from_registers<O>());
  back_with_huge_pages(out);
  struct Nothing {};
  const auto emit = [&](Nothing&, int64_t n, int64_t y, int64_t first, int64_t, int64_t r,
                        const Rendered<acc_t<T>>& rendered) {
    const int64_t at = y * width + first;
    rendered.store(stream, channels_last ? o.at(n, 0, at + r) : o.at(n, r, at));
  };
  render<Nothing>(predictions, maps, height, width, emit);
}
template <class T, class O>
void render_to(const Checker& check, const std::vector<Tensor>& tensors, const Maps<acc_t<T>>& maps,
               const Tensor& out) {
  const Predictions<T> predictions(check, tensors, maps, out.size(2), out.size(3));
  render_to<O>(check, predictions, maps, out);
}

// Calls body(T{}, O{}) with the element types of the predictions and of the rendering, which is T or float32.
template <class F>
void dispatch_types(const Checker& check, const std::vector<Tensor>& predictions, const Tensor& rendering,
                    const F& body) {
  const ScalarType type = check.first("predictions", predictions).scalar_type();
  dispatch(type, check.op, [&](auto t) {
    if (rendering.scalar_type() == type) return body(t, t);
    STD_TORCH_CHECK(rendering.scalar_type() == ScalarType::Float, check.op,
                    ": the rendering must be float32 or as predictions");
    if constexpr (!std::is_same_v<decltype(t), double>) body(t, float{});
  });
}

}  // namespace afa
