// Rendering a row of the output at a time, at output resolution: what every operation on a rendering shares.
#pragma once

#include "../arithmetic/softmax.h"
#include "resized_pixels.h"
#include "resized_rows.h"
#include "tiles.h"
#include "weights.h"

namespace afa {

constexpr int64_t ROWS = 16, COLUMNS = 256;  // of the output, in one unit of work

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

// What a rendering has of the columns of a channel: rows to be summed, each element by its weight, `stride` after that
// of the scale before. Where that is summed already, as in channels_last of a span of pixels, the rows are null.
template <class Acc>
struct Rendered {
  const std::vector<Between<Acc>>* rows;
  const Acc* weights;
  int64_t stride, length;
  Acc* buffer;

  const Acc* values() const {
    if (rows) sum_weighted(*rows, weights, stride, length, buffer);
    return buffer;
  }

  // In a row of the output, or past the cache.
  template <class O>
  void store(bool stream, O* out) const {
#if defined(__x86_64__) && defined(__GNUC__)
    if constexpr (std::is_same_v<Acc, float>) {
      const bool whole_lines = reinterpret_cast<uintptr_t>(out) % LINE == 0 && length * sizeof(O) % LINE == 0;
      if (isa() == Isa::avx512 && (!stream || whole_lines) && rows)
        return sum_weighted_avx512(*rows, weights, stride, length, stream, out);
    }
#endif
    if (stream)
      stream_row(values(), length, out);
    else
      narrow(values(), length, out);
  }
};

// The rendering of (batch, height, width) pixels, which is nowhere stored: some columns of a row are handed to
// emit(seen, n, y, first column, columns, c, rendered) a channel at a time, in order. `seen` is a Seen of these
// columns, not initialized, for what is kept of them. Or in channels_last `as_stored`, all channels of each pixel at
// once.
template <class Seen, bool as_stored, class P, class F>
void render(const P& predictions, const Maps<acc_t<typename P::Element>>& maps, int64_t height, int64_t width,
            const F& emit) {
  using T = typename P::Element;
  using Acc = acc_t<T>;
  const int64_t channels = predictions.channels, scales = maps.scales, of_maps = scales * COLUMNS;
  const bool channels_last = predictions.channels_last;
  const int64_t scratch_row = widest(predictions, maps), result_row = std::max(COLUMNS, channels);
  const int64_t sum_size = channels_last ? SPAN * channels : COLUMNS;
  const int64_t held =
      scales * std::max(Neighbours<T>::size(1, COLUMNS), channels_last ? NeighbourPixels<T>::size(channels) : 0);
  const int64_t size = ROWS * of_maps + scratch_row + 2 * result_row + 2 * sum_size + held;
  for_each_piece<Acc>(maps.batch, ceil_div(height, ROWS), width, COLUMNS, 1, size, [&](const Piece& piece, Acc* m) {
    Acc *value = m + ROWS * of_maps, *zeros = value + result_row, *free = zeros + result_row, *sum = free + held;
    Acc *by_channel = sum + sum_size, *source = by_channel + sum_size;
    const int64_t n = piece.n, first = piece.first, count = piece.count;
    const int64_t begin = piece.row * ROWS, end = std::min(height, begin + ROWS);
    const auto seen = uninitialized<Seen>(ROWS);
    std::fill_n(zeros, result_row, Acc(0));
    auto of_weights = neighbours_of(maps.resized, 1, COLUMNS, zeros, free);
    for (auto& of : of_weights) of.begin(n, 0, first, count, begin, end);
    for (int64_t y = begin; y < end; ++y) {
      maps.rows(of_weights, y, 0, count, source, m + (y - begin) * of_maps);
      maps.composite(count, m + (y - begin) * of_maps, value);
    }
    if (channels_last) {
      auto of_scales = neighbour_pixels_of(predictions.scales, channels, zeros, free);
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t i = 0; i < count; i += SPAN) {
          const int64_t pixels = std::min(SPAN, count - i), x = first + i;
          for (auto& of : of_scales) of.move_to(n, y, x, pixels);
          sum_pixels(of_scales, m + (y - begin) * of_maps + i, COLUMNS, predictions.factors_of(n, 0), channels, x,
                     pixels, sum);
          if constexpr (as_stored) {
            emit(seen[y - begin], n, y, x, pixels, 0, Rendered<Acc>{nullptr, nullptr, 0, pixels * channels, sum});
          } else {
            transpose(pixels, channels, sum, by_channel);
            for (int64_t c = 0; c < channels; ++c)
              emit(seen[y - begin], n, y, x, pixels, c,
                   Rendered<Acc>{nullptr, nullptr, 0, pixels, by_channel + c * pixels});
          }
        }
      }
      return;
    }
    auto of_scales = neighbours_of(predictions.scales, 1, COLUMNS, zeros, free);
    std::vector<Between<Acc>> rows(scales);
    for (int64_t c = 0; c < channels; ++c) {
      for (auto& of : of_scales) of.begin(n, c, first, count, begin, end);
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t k = 0; k < scales; ++k) {
          of_scales[k].move_to(y, source);
          const Acc* factors = predictions.factors_of(n, k);
          rows[k] = factors ? of_scales[k].at().times(factors[c]) : of_scales[k].at();
        }
        emit(seen[y - begin], n, y, first, count, c,
             Rendered<Acc>{&rows, m + (y - begin) * of_maps, COLUMNS, count, sum});
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
  STD_TORCH_CHECK(!channels_last || o.sp == predictions.channels || height * width == 1, check.op,
                  ": out must have no gaps");
  const bool stream =
      channels_last ? streamed(out, SPAN * predictions.channels, false) : streamed(out, from_registers<O>());
  back_with_huge_pages(out);
  struct Nothing {};
  const auto emit = [&](Nothing&, int64_t n, int64_t y, int64_t first, int64_t, int64_t c,
                        const Rendered<acc_t<T>>& rendered) { rendered.store(stream, o.at(n, c, y * width + first)); };
  render<Nothing, true>(predictions, maps, height, width, emit);
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
