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
  gather(columns, width, sum, Acc(1), out);
}

// dL/dlogits: the maps' gradients gathered to attention resolution, then the backward of the weights or opacities.
template <class Acc>
void logits_backward(const Checker& check, const Tensor& logits, const std::string& phi, const Maps<Acc>& maps,
                     const Acc* map_grads, int64_t out_height, int64_t out_width, const Tensor& grad_logits) {
  const int64_t batch = logits.size(0), scales = logits.size(1), height = logits.size(2), width = logits.size(3);
  const bool identity = height == out_height && width == out_width;
  const Transposed<Acc> rows(Axis<Acc>(height, out_height), identity), columns(Axis<Acc>(width, out_width), identity);
  const AnyMap y(check, "logits", logits, {batch, scales, height, width});
  const AnyMap dy(check, "grad of logits", grad_logits, {batch, scales, height, width});
  const int64_t size = scales * width, scratch = 4 * size + 2 * width + out_width;
  dispatch_phi(check, phi, [&](auto p) {
    using Phi = decltype(p);
    for_each_piece<Acc>(batch, height, width, width, 4, scratch, [&](const Piece& piece, Acc* y_rows) {
      Acc *w_rows = y_rows + size, *t_rows = w_rows + size, *g_rows = t_rows + size;
      Acc *behind = g_rows + size, *depth_sum = behind + width, *sum = depth_sum + width;
      const int64_t n = piece.n, j = piece.row;
      for (int64_t k = 0; k < scales; ++k) {
        y.read_pixels(n, k, j * width, width, y_rows + k * width);
        gather_row(rows, columns, j, width, out_width, map_grads + (n * scales + k) * out_height * out_width, sum,
                   g_rows + k * width);
      }
      if (maps.opacities) {
        for (int64_t i = 0; i < size; ++i)
          g_rows[i] = Phi::backward(y_rows[i], g_rows[i] * exp(-Phi::depth(y_rows[i])));
      } else {
        std::fill_n(behind, width, Acc(0));
        weigh_rows<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, depth_sum);
        weigh_rows_backward<Phi>(scales, maps.opaque_last, width, width, y_rows, w_rows, t_rows, g_rows, behind);
      }
      for (int64_t k = 0; k < scales; ++k) dy.write_pixels(n, k, j * width, width, g_rows + k * width);
    });
  });
}

// The gradient of a prediction, filled row after row by the unit that owns rows [begin, end). At most two neighbouring
// rows are being summed at a time: (channels, output columns), or in channels_last (columns, channels).
// Where the scale has the output's size they may be stored at once instead.
template <class T>
struct OwnedRows {
  using Acc = acc_t<T>;
  const Resized<T>& scale;
  const Transposed<Acc>& columns;
  Map<T> grad;
  bool channels_last;
  int64_t begin, end, next, row_size;
  Acc* sums;
  const Acc* factors = nullptr;  // of the channels, if they have weights of their own too

  bool owns(int64_t row) const { return begin <= row && row < end; }
  Acc* sum(int64_t row) const { return sums + (row & 1) * row_size; }

  // The first output row that one of the owned rows is read by, if that is above y.
  int64_t first_reader(int64_t y) const {
    while (begin < end && y > 0 && scale.bottom(y - 1) >= begin) --y;
    return y;
  }

  // sum[first + i] += share * weighted[i].
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
  void finish(int64_t row, int64_t n, int64_t channels) {
    const int64_t width = scale.columns.in, out_width = scale.columns.out;
    for (; next < std::min(row, end); ++next) {
      Acc* s = sum(next);
      for (int64_t c = 0; c < channels && !channels_last; ++c) {
        const Acc *row = s + c * out_width, factor = factors ? factors[c] : Acc(1);
        if (grad.sp == 1)
          gather(columns, width, row, factor, grad.at(n, c, next * width));
        else
          for (int64_t i = 0; i < width; ++i)
            *grad.at(n, c, next * width + i) = static_cast<T>(factor * gathered(columns, i, row));
      }
      for (int64_t i = 0; i < width && channels_last; ++i, s += channels) {
        for (int64_t c = 0; factors && c < channels; ++c) s[c] *= factors[c];
        narrow(s, channels, grad.at(n, 0, next * width + i));
      }
      std::fill_n(sum(next), row_size, Acc(0));
    }
  }
};

// dL/d rendered, as it is given.
template <class O, class Acc>
struct Given {
  static constexpr bool of_scores = false;
  Map<const O> grad;
  int64_t width;

  template <class T>
  Given(const Checker& check, const Tensor& g, const Predictions<T>& predictions, int64_t batch)
      : grad(check.map<const O>("grad", g, {batch, predictions.channels, g.size(2), g.size(3)},
                                predictions.channels_last)),
        width(g.size(3)) {}

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc*, Acc* __restrict out) const {
    widen(grad.at(n, c, y * width + first), count, out);
  }
  // The channels of pixels, one after the other.
  void pixels(int64_t n, int64_t y, int64_t x, int64_t count, int64_t channels, Acc* __restrict out) const {
    if (grad.sp == channels) return widen(grad.at(n, 0, y * width + x), count * channels, out);
    for (int64_t i = 0; i < count; ++i) widen(grad.at(n, 0, y * width + x + i), channels, out + i * channels);
  }
};

// `gradient` gives dL/d rendered: row(n, c, y, first, count, scores, out) of a channel's columns; with
// Gradient::of_scores it computes it from the rendered scores, else it has pixels() for channels_last too. Fills the
// gradients of the predictions that are needed, `map_grads`, (N, K, height, width), if it is not null, and those of the
// factors, to which it adds, (N, K, C).
template <class Gradient, class P, class Acc = acc_t<typename P::Element>>
void render_backward(const Checker& check, const Gradient& gradient, const P& predictions, const Maps<Acc>& maps,
                     int64_t height, int64_t width, const Gradients& grads, Acc* map_grads,
                     std::vector<double>* factor_grads = nullptr) {
  using T = typename P::Element;
  constexpr bool computed = Gradient::of_scores;
  const bool channels_last = predictions.channels_last;
  const int64_t channels = predictions.channels, scales = maps.scales;

  struct Needed {
    int64_t k;
    Map<T> grad;
    Transposed<Acc> columns;
  };
  std::vector<Needed> needed;
  int64_t band_rows = BAND;
  for (int64_t k = 0; k < scales; ++k) {
    if (!grads[k]) continue;
    const Resized<T>& scale = predictions.scales[k];
    const auto map = check.map<T>("grad of predictions", *grads[k],
                                  {maps.batch, channels, scale.rows.in, scale.columns.in}, channels_last);
    needed.push_back({k, map, Transposed<Acc>(scale.columns, scale.identity)});
    band_rows = std::max(band_rows, 4 * ceil_div(height, scale.rows.in));
  }
  const bool sums_needed = map_grads || factor_grads, need_values = sums_needed || computed;
  int64_t longest = width;  // row of the output or of a prediction
  for (const Needed& of : needed) longest = std::max(longest, predictions.scales[of.k].columns.in);
  const int64_t row_size = channels * longest, owned = needed.size();
  const int64_t scratch_row = widest(predictions, maps), zero_row = std::max(COLUMNS, channels);
  const int64_t value_row = channels_last ? SPAN * channels : COLUMNS;
  const int64_t weighted_size = channels_last ? (ceil_div(SPAN * longest, width) + 2) * channels : COLUMNS;
  const int64_t of_neighbours =
      channels_last ? NeighbourPixels<T>::size(channels) : Neighbours<T>::size(channels, width);
  const int64_t of_rows = need_values ? scales * of_neighbours : 0;
  const int64_t of_maps = scales * Neighbours<Acc>::size(1, width);
  const int64_t of_factors = predictions.factors_of(0, 0) ? scales * channels : 0;
  const int64_t scratch = (4 * scales + 2) * COLUMNS + scratch_row + 3 * value_row + zero_row + weighted_size +
                          2 * owned * row_size + of_rows + of_maps + of_factors;
  std::vector<Acc> factor_sums(maps.batch * ceil_div(height, band_rows) * of_factors);

  for_each_piece<Acc>(maps.batch, 1, height, band_rows, 1, scratch, [&](const Piece& band, Acc* weights) {
    Acc *alphas = weights + scales * COLUMNS, *map_sums = alphas + scales * COLUMNS;
    Acc *through = map_sums + scales * COLUMNS, *behind = through + (scales + 1) * COLUMNS, *scores = behind + COLUMNS;
    Acc *g = scores + value_row, *by_channel = g + value_row, *zeros = by_channel + value_row;
    Acc *weighted = zeros + zero_row, *free = weighted + weighted_size, *sums = free + of_maps + of_rows;
    Acc *of_piece = sums + 2 * owned * row_size, *source = of_piece + of_factors;
    std::fill_n(zeros, zero_row, Acc(0));
    std::fill_n(sums, 2 * owned * row_size, Acc(0));

    const int64_t n = band.n, begin_row = band.first, end_row = band.first + band.count;
    std::vector<OwnedRows<T>> rows;
    int64_t first_row = begin_row;
    for (int64_t i = 0; i < owned; ++i) {
      const Resized<T>& scale = predictions.scales[needed[i].k];
      const int64_t begin = begin_row == 0 ? 0 : scale.rows.low[begin_row];
      const int64_t end = end_row == height ? scale.rows.in : scale.rows.low[end_row];
      rows.push_back({scale, needed[i].columns, needed[i].grad, channels_last, begin, end, begin, row_size,
                      sums + 2 * i * row_size, predictions.factors_of(n, needed[i].k)});
      first_row = std::min(first_row, rows.back().first_reader(begin_row));
    }
    auto of_weights = neighbours_of(maps.resized, 1, width, zeros, free);
    for (auto& of : of_weights) of.begin(n, 0, 0, width, first_row, end_row);
    std::vector<Neighbours<T>> of_scales;
    std::vector<NeighbourPixels<T>> pixels_of_scales;
    std::vector<Between<Acc>> between(scales);
    if (need_values && channels_last)
      pixels_of_scales = neighbour_pixels_of(predictions.scales, channels, zeros, free + of_maps);
    else if (need_values)
      of_scales = neighbours_of(predictions.scales, channels, width, zeros, free + of_maps);
    for (auto& of : of_scales) of.begin(n, 0, 0, width, first_row, end_row);
    for (int64_t y = first_row; y < end_row; ++y) {
      for (OwnedRows<T>& owner : rows)
        if (!owner.scale.identity) owner.finish(owner.scale.rows.low[y], n, channels);
      for (auto& of : of_scales) of.move_to(y, source);
      for (int64_t first = 0; first < width; first += COLUMNS) {
        const int64_t count = std::min(COLUMNS, width - first);
        maps.rows(of_weights, y, first, count, source, weights);
        if (maps.opacities) std::copy_n(weights, scales * COLUMNS, alphas);
        maps.composite(count, weights, through);
        std::fill_n(map_sums, scales * COLUMNS, Acc(0));
        std::fill_n(of_piece, of_factors, Acc(0));
        for (int64_t r = 0; r < count && channels_last; r += SPAN) {
          const int64_t pixels = std::min(SPAN, count - r), x = first + r;
          for (auto& of : pixels_of_scales) of.move_to(n, y, x, pixels);
          if constexpr (computed) {
            sum_pixels(pixels_of_scales, weights + r, COLUMNS, predictions.factors_of(n, 0), channels, x, pixels, g);
            transpose(pixels, channels, g, scores);
            for (int64_t c = 0; c < channels; ++c)
              gradient.row(n, c, y, x, pixels, scores + c * pixels, by_channel + c * pixels);
            transpose(channels, pixels, by_channel, g);
          } else {
            gradient.pixels(n, y, x, pixels, channels, g);
          }
          for (int64_t k = 0; k < scales && sums_needed; ++k)
            dot_pixels(pixels_of_scales[k], weights + k * COLUMNS + r, predictions.factors_of(n, k), g, channels, x,
                       pixels, map_sums + k * COLUMNS + r, of_piece + k * channels);
          for (int64_t i = 0; i < owned; ++i) {
            const OwnedRows<T>& owner = rows[i];
            const Axis<Acc>& columns = owner.scale.columns;
            const Acc* w = weights + needed[i].k * COLUMNS + r;
            if (!owner.scale.identity) {
              const int64_t from = columns.low[x], length = (columns.high(x + pixels - 1) - from + 1) * channels;
              std::fill_n(weighted, length, Acc(0));
              scatter_pixels(columns, w, g, channels, x, pixels, weighted);
              owner.add(y, from * channels, length, weighted);
            } else if (y >= begin_row) {
              for (int64_t p = 0; p < pixels; ++p) {
                for (int64_t c = 0; c < channels; ++c) weighted[c] = w[p] * g[p * channels + c];
                for (int64_t c = 0; owner.factors && c < channels; ++c) weighted[c] *= owner.factors[c];
                narrow(weighted, channels, owner.grad.at(n, 0, y * width + x + p));
              }
            }
          }
        }
        for (int64_t c = 0; c < channels && !channels_last; ++c) {
          for (int64_t k = 0; k < scales && need_values; ++k) between[k] = of_scales[k].at(c, first);
          if (computed) sum_weighted(between, weights, COLUMNS, count, scores);
          gradient.row(n, c, y, first, count, scores, g);
          for (int64_t k = 0; k < scales && sums_needed; ++k) {
            const Between<Acc> value = between[k];
            const Acc *factors = predictions.factors_of(n, k), *w = weights + k * COLUMNS;
            Acc* __restrict sum = map_sums + k * COLUMNS;
            if (factors)
              of_piece[k * channels + c] = sum_products(g, value, w, factors[c], count, sum);
            else
              for (int64_t i = 0; i < count; ++i) sum[i] += g[i] * value(i);
          }
          for (int64_t i = 0; i < owned; ++i) {
            const OwnedRows<T>& owner = rows[i];
            const Acc* w = weights + needed[i].k * COLUMNS;
            Acc* __restrict result = weighted;
            for (int64_t x = 0; x < count; ++x) result[x] = g[x] * w[x];
            if (!owner.scale.identity) {
              owner.add(y, c * width + first, count, weighted);
            } else if (y >= begin_row) {
              for (int64_t x = 0; owner.factors && x < count; ++x) weighted[x] *= owner.factors[c];
              narrow(weighted, count, owner.grad.at(n, c, y * width + first));
            }
          }
        }
        if (y < begin_row) continue;
        for (int64_t i = 0; factor_grads && i < of_factors; ++i) factor_sums[band.unit * of_factors + i] += of_piece[i];
        if (map_grads) {
          if (maps.opacities) maps.composite_backward(count, alphas, map_sums, through, behind);
          for (int64_t k = 0; k < scales; ++k)
            std::copy_n(map_sums + k * COLUMNS, count, map_grads + ((n * scales + k) * height + y) * width + first);
        }
      }
    }
    for (OwnedRows<T>& owner : rows)
      if (!owner.scale.identity) owner.finish(owner.end, n, channels);
  });
  const int64_t of_image = ceil_div(height, band_rows) * of_factors;
  for (int64_t at = 0; factor_grads && at < maps.batch * of_image; ++at)
    (*factor_grads)[at / of_image * of_factors + at % of_factors] += factor_sums[at];
}

// The same where the maps are made of logits, whose gradient is the last of `grads`.
template <class T, class Gradient>
void render_backward(const Checker& check, const Gradient& gradient, const Predictions<T>& predictions,
                     const Maps<acc_t<T>>& maps, const Tensor& logits, const std::string& phi, int64_t height,
                     int64_t width, const Gradients& grads) {
  const auto& of_logits = grads.back();
  const auto map_grads = uninitialized<acc_t<T>>(of_logits ? maps.batch * maps.scales * height * width : 0);
  render_backward(check, gradient, predictions, maps, height, width, grads, of_logits ? map_grads.get() : nullptr);
  if (of_logits) logits_backward(check, logits, phi, maps, map_grads.get(), height, width, *of_logits);
}

}  // namespace afa
