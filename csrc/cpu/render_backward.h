// The backward of a rendering: from dL/d rendered, which is read or computed a row at a time and nowhere stored whole,
// to the gradients of the predictions and of the logits.
//
// A unit of work is a band of output rows of one image. It finds what reaches the maps of its rows, and it owns the
// rows of every prediction that begin in its band: it renders as many rows above its own as those are read by. So no
// two threads write one address, and every sum has a fixed order.
#pragma once

#include "render.h"

namespace afa {

constexpr int64_t BAND = 64;  // output rows, or four of the coarsest prediction if that is more

// One row of the transpose of a resize: row j of the input from `grads`, the (rows.out, columns.out) of the output.
template <class Acc>
void gather_row(const Transposed<Acc>& rows, const Transposed<Acc>& columns, int64_t j, int64_t width,
                int64_t out_width, const Acc* grads, Acc* __restrict sum, Acc* __restrict out) {
  grads += rows.first[j] * out_width;
  for (int64_t i = 0; i < out_width; ++i) sum[i] = 0;
  for (int64_t r = 0; r < rows.count(j); ++r, grads += out_width) {
    const Acc v = rows.coefficient[rows.begin[j] + r];
    for (int64_t i = 0; i < out_width; ++i) sum[i] += v * grads[i];
  }
  for (int64_t i = 0; i < width; ++i) {
    const Acc *h = columns.coefficient.data() + columns.begin[i], *s = sum + columns.first[i];
    Acc total = 0;
    for (int64_t x = 0; x < columns.count(i); ++x) total += h[x] * s[x];
    out[i] = total;
  }
}

// dL/dlogits: the maps' gradients gathered to attention resolution, then the backward of the weights or opacities.
template <class Acc>
void logits_backward(const Tensor& logits, const std::string& phi, const Maps<Acc>& maps, const Acc* map_grads,
                     int64_t out_height, int64_t out_width, const Tensor& grad_logits) {
  const int64_t batch = logits.size(0), scales = logits.size(1), height = logits.size(2), width = logits.size(3);
  const bool identity = height == out_height && width == out_width;
  const Transposed<Acc> rows(Axis<Acc>(height, out_height), identity), columns(Axis<Acc>(width, out_width), identity);
  const AnyMap y(logits, "logits"), dy(grad_logits, "grad_logits");
  torch::stable::parallel_for(0, batch * height, 4, [&](int64_t begin, int64_t end) {
    std::vector<Acc> scratch((4 * scales + 2) * width + out_width);
    Acc *y_rows = scratch.data(), *w_rows = y_rows + scales * width, *t_rows = w_rows + scales * width;
    Acc *g_rows = t_rows + scales * width, *behind = g_rows + scales * width, *depth_sum = behind + width;
    Acc* sum = depth_sum + width;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / height, j = unit % height;
      for (int64_t k = 0; k < scales; ++k) y.read_pixels(n, k, j * width, width, y_rows + k * width);
      dispatch_phi(phi, [&](auto p) {
        using Phi = decltype(p);
        vectorized([&] {
          for (int64_t k = 0; k < scales; ++k)
            gather_row(rows, columns, j, width, out_width, map_grads + (n * scales + k) * out_height * out_width, sum,
                       g_rows + k * width);
          if (maps.opacities) {
            for (int64_t i = 0; i < scales * width; ++i)
              g_rows[i] = Phi::backward(y_rows[i], g_rows[i] * exp(-Phi::depth(y_rows[i])));
          } else {
            for (int64_t i = 0; i < width; ++i) behind[i] = 0;
            composite_rows<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, depth_sum);
            composite_rows_backward<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, g_rows,
                                         behind);
          }
        });
      });
      for (int64_t k = 0; k < scales; ++k) dy.write_pixels(n, k, j * width, width, g_rows + k * width);
    }
  });
}

// The gradient of a prediction, filled row after row by the unit that owns rows [begin, end). At most two neighbouring
// rows are being summed at a time, over output columns, each (channels, width) or (width, channels) as the layout is.
template <class T>
struct OwnedRows {
  using Acc = acc_t<T>;
  const Resized<T>& scale;
  const Transposed<Acc>& columns;
  Map<T> grad;
  bool planar;
  int64_t begin, end, next, row_size;
  Acc* sums;

  bool owns(int64_t row) const { return begin <= row && row < end; }
  Acc* sum(int64_t row) const { return sums + (row & 1) * row_size; }

  // The first output row that one of the owned rows is read by, if that is above y.
  int64_t first_reader(int64_t y) const {
    while (begin < end && y > 0 && scale.bottom(y - 1) >= begin) --y;
    return y;
  }

  // sum += share * weight[i] * values[i], at output column or, with channels_last, at output channel first + i.
  void add(int64_t row, Acc share, int64_t first, int64_t count, const Acc* weighted) const {
    Acc* __restrict s = sum(row) + first;
    for (int64_t i = 0; i < count; ++i) s[i] += share * weighted[i];
  }
  void add(int64_t y, int64_t first, int64_t count, const Acc* weighted) const {
    const int64_t top = scale.rows.low[y], bottom = scale.bottom(y);
    const Acc f = scale.rows.fraction[y];
    if (owns(top)) add(top, scale.identity ? Acc(1) : 1 - f, first, count, weighted);
    if (owns(bottom) && !scale.identity) add(bottom, f, first, count, weighted);
  }

  // Write the rows before `row`, whose readers have all been seen, gathering their columns.
  void finish(int64_t row, int64_t n, int64_t channels, Acc* total) {
    const int64_t width = scale.columns.in, out_width = scale.columns.out;
    for (; next < std::min(row, end); ++next) {
      Acc* s = sum(next);
      for (int64_t o = 0; o < (planar ? channels : 1); ++o) {
        for (int64_t i = 0; i < width; ++i) {
          const Acc* h = columns.coefficient.data() + columns.begin[i];
          const int64_t x = columns.first[i], count = columns.count(i);
          T* result = grad.at(n, o, next * width + i);
          if (planar) {
            Acc value = 0;
            for (int64_t q = 0; q < count; ++q) value += h[q] * s[o * out_width + x + q];
            *result = static_cast<T>(value);
          } else {
            for (int64_t c = 0; c < channels; ++c) total[c] = 0;
            for (int64_t q = 0; q < count; ++q)
              for (int64_t c = 0; c < channels; ++c) total[c] += h[q] * s[(x + q) * channels + c];
            for (int64_t c = 0; c < channels; ++c) result[c] = static_cast<T>(total[c]);
          }
        }
      }
      std::fill_n(s, row_size, Acc(0));
    }
  }
};

// dL/d rendered, as it is given.
template <class O, class Acc>
struct Given {
  static constexpr bool of_scores = false;
  Map<const O> grad;
  int64_t width;

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc*, Acc* __restrict out) const {
    const O* g = grad.at(n, c, y * width + first);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(g[i]);
  }
  void pixel(int64_t n, int64_t y, int64_t x, int64_t channels, const Acc*, Acc* __restrict out) const {
    const O* g = grad.at(n, 0, y * width + x);
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<Acc>(g[c]);
  }
};

// `gradient` gives dL/d rendered: row(n, c, y, first, count, scores, out) of a channel's columns, or with channels_last
// pixel(n, y, x, channels, scores, out). With Gradient::of_scores it computes it from the rendered scores. Fills the
// gradients of the predictions that are needed, and `map_grads`, (N, K, height, width), if it is not null.
template <class T, class Gradient>
void render_backward(const Gradient& gradient, const std::vector<Tensor>& predictions, const Maps<acc_t<T>>& maps,
                     int64_t height, int64_t width, const Gradients& grad_predictions, acc_t<T>* map_grads) {
  using Acc = acc_t<T>;
  const std::vector<Resized<T>> scales = resize_all<T>(predictions, height, width);
  const bool planar = scales[0].map.sp == 1;
  const int64_t channels = predictions[0].size(1), count_maps = maps.scales;

  std::vector<Transposed<Acc>> transposed;
  std::vector<int64_t> needed_scales;
  int64_t band_rows = BAND;
  for (int64_t k = 0; k < count_maps; ++k) {
    if (!grad_predictions[k]) continue;
    needed_scales.push_back(k);
    transposed.emplace_back(scales[k].columns, scales[k].identity);
    band_rows = std::max(band_rows, 4 * ceil_div(height, scales[k].rows.in));
  }
  const bool need_values = map_grads || Gradient::of_scores;
  const int64_t bands = ceil_div(height, band_rows), row_size = channels * width, owned = needed_scales.size();
  const int64_t scratch_row = widest(scales, maps), value_row = std::max(COLUMNS, channels);
  const int64_t weighted_size = planar ? COLUMNS : COLUMNS * channels;

  torch::stable::parallel_for(0, maps.batch * bands, 1, [&](int64_t first_unit, int64_t last_unit) {
    std::vector<Acc> buffer((4 * count_maps + 2) * COLUMNS + scratch_row + (count_maps + 3) * value_row +
                            owned * weighted_size + 2 * owned * row_size);
    Acc *weights = buffer.data(), *alphas = weights + count_maps * COLUMNS, *grads = alphas + count_maps * COLUMNS;
    Acc *through = grads + count_maps * COLUMNS, *behind = through + (count_maps + 1) * COLUMNS;
    Acc *source = behind + COLUMNS, *values = source + scratch_row, *scores = values + count_maps * value_row;
    Acc *g = scores + value_row, *total = g + value_row, *weighted = total + value_row;
    Acc* sums = weighted + owned * weighted_size;

    for (int64_t unit = first_unit; unit < last_unit; ++unit) {
      const int64_t n = unit / bands, band = unit % bands;
      const int64_t begin_row = band * band_rows, end_row = std::min(height, begin_row + band_rows);
      std::vector<OwnedRows<T>> rows;
      int64_t first_row = begin_row;
      for (int64_t i = 0; i < owned; ++i) {
        const Resized<T>& scale = scales[needed_scales[i]];
        const int64_t begin = band == 0 ? 0 : scale.rows.low[begin_row];
        const int64_t end = end_row == height ? scale.rows.in : scale.rows.low[end_row];
        rows.push_back({scale, transposed[i], as_map<T>(grad_predictions[needed_scales[i]], "grad_predictions"), planar,
                        begin, end, begin, row_size, sums + 2 * i * row_size});
        first_row = std::min(first_row, rows.back().first_reader(begin_row));
      }
      vectorized([&] {
        for (int64_t y = first_row; y < end_row; ++y) {
          for (OwnedRows<T>& owner : rows) owner.finish(owner.scale.rows.low[y], n, channels, total);
          for (int64_t first = 0; first < width; first += COLUMNS) {
            const int64_t count = std::min(COLUMNS, width - first);
            maps.rows(n, y, first, count, source, weights);
            if (maps.opacities) std::copy_n(weights, count_maps * COLUMNS, alphas);
            maps.composite(count, weights, through);
            std::fill_n(grads, count_maps * COLUMNS, Acc(0));
            const int64_t outer = planar ? channels : count, length = planar ? count : channels;
            for (int64_t r = 0; r < outer; ++r) {
              for (int64_t k = 0; k < count_maps && need_values; ++k) {
                if (planar)
                  scales[k].row(n, r, y, first, count, source, values + k * value_row);
                else
                  scales[k].pixel(n, channels, y, first + r, values + k * value_row);
              }
              if (Gradient::of_scores) {
                for (int64_t i = 0; i < length; ++i) scores[i] = 0;
                for (int64_t k = 0; k < count_maps; ++k) {
                  const Acc *w = weights + k * COLUMNS, *value = values + k * value_row;
                  if (planar)
                    for (int64_t i = 0; i < length; ++i) scores[i] += w[i] * value[i];
                  else
                    for (int64_t i = 0; i < length; ++i) scores[i] += w[r] * value[i];
                }
              }
              if (planar)
                gradient.row(n, r, y, first, count, scores, g);
              else
                gradient.pixel(n, y, first + r, channels, scores, g);
              if (map_grads) {
                for (int64_t k = 0; k < count_maps; ++k) {
                  const Acc* value = values + k * value_row;
                  Acc* sum = grads + k * COLUMNS;
                  if (planar) {
                    for (int64_t i = 0; i < length; ++i) sum[i] += g[i] * value[i];
                  } else {
                    for (int64_t i = 0; i < length; ++i) sum[r] += g[i] * value[i];
                  }
                }
              }
              for (int64_t i = 0; i < owned; ++i) {
                const Acc* w = weights + needed_scales[i] * COLUMNS;
                Acc* product = weighted + (planar ? 0 : (i * COLUMNS + r) * channels);
                if (planar) {
                  for (int64_t x = 0; x < length; ++x) product[x] = w[x] * g[x];
                  rows[i].add(y, r * width + first, length, product);
                } else {
                  for (int64_t x = 0; x < length; ++x) product[x] = w[r] * g[x];
                }
              }
            }
            for (int64_t i = 0; i < owned && !planar; ++i)
              rows[i].add(y, first * channels, count * channels, weighted + i * COLUMNS * channels);
            if (map_grads && y >= begin_row) {
              if (maps.opacities) maps.composite_backward(count, alphas, grads, through, behind);
              for (int64_t k = 0; k < count_maps; ++k)
                std::copy_n(grads + k * COLUMNS, count,
                            map_grads + ((n * count_maps + k) * height + y) * width + first);
            }
          }
        }
        for (OwnedRows<T>& owner : rows) owner.finish(owner.end, n, channels, total);
      });
    }
  });
}

// The same where the maps are made of logits, whose gradient is the last of `grads`.
template <class T, class Gradient>
void render_backward(const Gradient& gradient, const std::vector<Tensor>& predictions, const Tensor& logits,
                     const std::string& phi, bool opaque_last, bool resize_opacities, int64_t height, int64_t width,
                     Gradients grads) {
  const std::optional<Tensor> grad_logits = grads.back();
  grads.pop_back();
  using Acc = acc_t<T>;
  const Maps<Acc> maps(logits, phi, opaque_last, resize_opacities, height, width);
  const std::unique_ptr<Acc[]> map_grads(grad_logits ? new Acc[maps.batch * maps.scales * height * width] : nullptr);
  render_backward<T>(gradient, predictions, maps, height, width, grads, map_grads.get());
  if (grad_logits) logits_backward(logits, phi, maps, map_grads.get(), height, width, *grad_logits);
}

}  // namespace afa
