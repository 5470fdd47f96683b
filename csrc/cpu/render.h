// Rendering a row of the output at a time, at output resolution: what every operation on a rendering shares.
#pragma once

#include <memory>

#include "bilinear.h"
#include "weights.h"

namespace afa {

constexpr int64_t ROWS = 16, COLUMNS = 512;  // of the output, in one unit of work

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

  // out[i] = the value of channel c at output row y, column first + i. For maps with pixel stride 1.
  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, Acc* __restrict scratch,
           Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, c, y * columns.in + first);
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(source[i]);
      return;
    }
    const int64_t from = columns.low[first], length = columns.high(first + count - 1) - from + 1;
    const T* top = map.at(n, c, rows.low[y] * columns.in + from);
    const T* bottom = map.at(n, c, rows.high(y) * columns.in + from);
    const Acc f = rows.fraction[y], not_f = 1 - f;
    for (int64_t i = 0; i < length; ++i)
      scratch[i] = not_f * static_cast<Acc>(top[i]) + f * static_cast<Acc>(bottom[i]);
    for (int64_t i = length; i < length + PADDING; ++i) scratch[i] = scratch[length - 1];
    resize(columns, first, count, scratch, out);
  }

  // out[c] = the value of channel c at output row y, column x. For maps with channel stride 1.
  void pixel(int64_t n, int64_t channels, int64_t y, int64_t x, Acc* __restrict out) const {
    if (identity) {
      const T* source = map.at(n, 0, y * columns.in + x);
      for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<Acc>(source[c]);
      return;
    }
    const T* top = map.at(n, 0, rows.low[y] * columns.in);
    const T* bottom = map.at(n, 0, rows.high(y) * columns.in);
    const int64_t left = columns.low[x] * map.sp, right = columns.high(x) * map.sp;
    const Acc f = rows.fraction[y], not_f = 1 - f, h = columns.fraction[x], not_h = 1 - h;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = not_h * (not_f * static_cast<Acc>(top[left + c]) + f * static_cast<Acc>(bottom[left + c])) +
               h * (not_f * static_cast<Acc>(top[right + c]) + f * static_cast<Acc>(bottom[right + c]));
  }
};

// What K predictions are weighed by at a row of the output: weights; or opacities that are composited there, in which
// the last scale may be opaque and have no map. `premultiplied` predictions have their opacity in them already.
template <class Acc>
struct Maps {
  int64_t batch, scales;
  bool opacities, opaque_last, premultiplied = false;
  std::vector<std::unique_ptr<Acc[]>> data;
  std::vector<Resized<Acc>> resized;  // of each scale that has a map

  // Weights or opacities of logits (N, K, h, w), made at their resolution.
  Maps(const Tensor& logits, const std::string& phi, bool last, bool resize_opacities, int64_t out_height,
       int64_t out_width)
      : batch(logits.size(0)), scales(logits.size(1)), opacities(resize_opacities), opaque_last(last) {
    const int64_t height = logits.size(2), width = logits.size(3);
    data.emplace_back(new Acc[batch * scales * height * width]);
    Acc* values = data[0].get();
    const AnyMap y(logits, "logits");
    torch::stable::parallel_for(0, batch * height, 8, [&](int64_t begin, int64_t end) {
      std::vector<Acc> scratch((3 * scales + 1) * width);
      Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * width, *t_rows = w_rows + scales * width;
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / height, row = unit % height;
        for (int64_t k = 0; k < scales; ++k) y.read_pixels(n, k, row * width, width, y_rows + k * width);
        dispatch_phi(phi, [&](auto p) {
          using Phi = decltype(p);
          vectorized([&] {
            if (opacities) {
              for (int64_t i = 0; i < scales * width; ++i) w_rows[i] = -expm1(-Phi::depth(y_rows[i]));
            } else {
              composite_rows<Phi>(scales, opaque_last, width, width, y_rows, w_rows, t_rows, t_rows + scales * width);
            }
          });
        });
        for (int64_t k = 0; k < scales; ++k)
          std::copy_n(w_rows + k * width, width, values + ((n * scales + k) * height + row) * width);
      }
    });
    for (int64_t k = 0; k < scales - (opacities && opaque_last); ++k) {
      const Map<const Acc> map{values + k * height * width, scales * height * width, height * width, 1};
      resized.emplace_back(map, height, width, out_height, out_width);
    }
  }

  // Opacities (N, 1, h_k, w_k) at a resolution of their own, of all scales but the last, which is opaque.
  Maps(const std::vector<Tensor>& attentions, int64_t batch_size, bool multiplied, int64_t out_height,
       int64_t out_width)
      : batch(batch_size),
        scales(attentions.size() + 1),
        opacities(true),
        opaque_last(true),
        premultiplied(multiplied) {
    for (const Tensor& attention : attentions) {
      const int64_t height = attention.size(2), width = attention.size(3), pixels = height * width;
      const AnyMap map(attention, "attentions");
      data.emplace_back(new Acc[batch * pixels]);
      for (int64_t n = 0; n < batch; ++n) map.read_pixels(n, 0, 0, pixels, data.back().get() + n * pixels);
      resized.emplace_back(Map<const Acc>{data.back().get(), pixels, pixels, 1}, height, width, out_height, out_width);
    }
  }

  // Of each scale `count` values of an output row, a scale's every COLUMNS.
  void rows(int64_t n, int64_t y, int64_t first, int64_t count, Acc* source, Acc* out) const {
    for (const Resized<Acc>& map : resized) {
      map.row(n, 0, y, first, count, source, out);
      out += COLUMNS;
    }
  }

  // T alpha_k (T if premultiplied) and T (1 - alpha_k), in place: rows of opacities become rows of weights.
  void composite(int64_t count, Acc* __restrict rows, Acc* __restrict transmittance) const {
    if (!opacities) return;
    for (int64_t i = 0; i < count; ++i) transmittance[i] = 1;
    for (int64_t k = 0; k < scales; ++k, rows += COLUMNS) {
      const bool opaque = opaque_last && k == scales - 1;
      for (int64_t i = 0; i < count; ++i) {
        const Acc alpha = opaque ? Acc(1) : rows[i];
        rows[i] = premultiplied ? transmittance[i] : transmittance[i] * alpha;
        transmittance[i] *= 1 - alpha;
      }
    }
  }

  // Given dL/dw_k in `grads`, dL/dalpha_k = T_k (G_k - S_{k+1}), S_k = alpha_k G_k + (1 - alpha_k) S_{k+1}, in place;
  // if premultiplied, without the G_k and with S_k = G_k + (1 - alpha_k) S_{k+1}. `alphas` and `behind` are used up.
  void composite_backward(int64_t count, Acc* __restrict alphas, Acc* __restrict grads, Acc* __restrict through,
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
        const Acc alpha = opaque ? Acc(1) : alphas[k * COLUMNS + i], upstream = grads[k * COLUMNS + i];
        const Acc own = premultiplied ? Acc(0) : upstream, seen = premultiplied ? upstream : alpha * upstream;
        grads[k * COLUMNS + i] = opaque ? Acc(0) : through[k * COLUMNS + i] * (own - behind[i]);
        behind[i] = seen + (1 - alpha) * behind[i];
      }
    }
  }
};

template <class T>
std::vector<Resized<T>> resize_all(const std::vector<Tensor>& predictions, int64_t height, int64_t width) {
  std::vector<Resized<T>> all;
  for (const Tensor& p : predictions)
    all.emplace_back(as_map<const T>(p, "predictions"), p.size(2), p.size(3), height, width);
  return all;
}

// The longest row of inputs that resizing needs room for.
template <class T>
int64_t widest(const std::vector<Resized<T>>& scales, const Maps<acc_t<T>>& maps) {
  int64_t longest = 0;
  for (const auto& r : scales) longest = std::max(longest, r.scratch());
  for (const auto& r : maps.resized) longest = std::max(longest, r.scratch());
  return longest;
}

// visit(n, y, first column, columns, scratch) for every piece of a row of a (batch, height, width) output, in parallel;
// `scratch` is a buffer of `size` values of the thread's own.
template <class Acc, class F>
void for_each_row(int64_t batch, int64_t height, int64_t width, int64_t size, const F& visit) {
  const int64_t bands = ceil_div(height, ROWS), pieces = ceil_div(width, COLUMNS);
  torch::stable::parallel_for(0, batch * bands * pieces, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Acc[]> scratch(new Acc[size]);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / (bands * pieces), band = unit / pieces % bands, first = unit % pieces * COLUMNS;
      const int64_t last_row = std::min(height, (band + 1) * ROWS);
      vectorized([&] {
        for (int64_t y = band * ROWS; y < last_row; ++y)
          visit(n, y, first, std::min(COLUMNS, width - first), scratch.get());
      });
    }
  });
}

// One more term of log(sum exp): `total` is the sum of exp(value - best) over the values so far, of which `best` is the
// largest. Equal infinities differ by nothing.
template <class Acc>
inline void add_exp(Acc value, Acc& best, Acc& total) {
  const Acc difference = value == best ? Acc(0) : value - best;
  const Acc share = exp(difference > 0 ? -difference : difference);
  total = difference > 0 ? total * share + 1 : total + share;
  best = difference > 0 ? value : best;
}

// The rendering of (batch, height, width) pixels and `channels`, which is nowhere stored: for every piece of a row it
// is handed to emit(n, y, first column, columns, r, values), with channels_last the channels of pixel first + r,
// otherwise the columns of channel r, in ascending order of r.
template <class T, class F>
void render(const std::vector<Resized<T>>& scales, const Maps<acc_t<T>>& maps, int64_t channels, int64_t height,
            int64_t width, bool planar, const F& emit) {
  using Acc = acc_t<T>;
  const int64_t scratch_row = widest(scales, maps), result_row = std::max(COLUMNS, channels);
  const int64_t size = maps.scales * COLUMNS + scratch_row + 2 * result_row;

  for_each_row<Acc>(
      maps.batch, height, width, size, [&](int64_t n, int64_t y, int64_t first, int64_t count, Acc* scratch) {
        Acc *m = scratch, *source = m + maps.scales * COLUMNS, *value = source + scratch_row, *sum = value + result_row;
        maps.rows(n, y, first, count, source, m);
        maps.composite(count, m, value);
        const int64_t rows = planar ? channels : count, length = planar ? count : channels;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < length; ++i) sum[i] = 0;
          for (int64_t k = 0; k < maps.scales; ++k) {
            const Acc* weight = m + k * COLUMNS;
            if (planar) {
              scales[k].row(n, r, y, first, count, source, value);
              for (int64_t i = 0; i < length; ++i) sum[i] += weight[i] * value[i];
            } else {
              scales[k].pixel(n, channels, y, first + r, value);
              for (int64_t i = 0; i < length; ++i) sum[i] += weight[r] * value[i];
            }
          }
          emit(n, y, first, count, r, sum);
        }
      });
}

// The same stored in `out`, (batch, channels, height, width), whose memory format is that of the first prediction.
template <class T, class O>
void render_to(const std::vector<Tensor>& predictions, const Maps<acc_t<T>>& maps, const Tensor& out) {
  const int64_t channels = out.size(1), height = out.size(2), width = out.size(3);
  const auto o = as_map<O>(out, "out");
  const std::vector<Resized<T>> scales = resize_all<T>(predictions, height, width);
  const bool planar = scales[0].map.sp == 1;  // not out's: of one pixel, it looks planar in either format
  back_with_huge_pages(out);
  render(scales, maps, channels, height, width, planar,
         [&](int64_t n, int64_t y, int64_t first, int64_t count, int64_t r, const acc_t<T>* values) {
           O* __restrict row = o.at(n, planar ? r : 0, y * width + first + (planar ? 0 : r));
           for (int64_t i = 0; i < (planar ? count : channels); ++i) row[i] = static_cast<O>(values[i]);
         });
}

// Calls body(T{}, O{}) with the element types of the predictions and of the rendering, which is T or float32.
template <class F>
void dispatch_types(ScalarType predictions, ScalarType rendering, const char* op, const F& body) {
  dispatch(predictions, op, [&](auto t) {
    if (rendering == predictions) return body(t, t);
    STD_TORCH_CHECK(rendering == ScalarType::Float, op, ": the result must be float32 or as predictions");
    if constexpr (!std::is_same_v<decltype(t), double>) body(t, float{});
  });
}

}  // namespace afa
