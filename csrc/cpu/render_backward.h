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
// rows are being summed at a time, over output columns, each (channels, width) or (width, channels).
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
      for (int64_t c = 0; c < channels && !channels_last; ++c) {
        const Acc *row = s + c * out_width, factor = factors ? factors[c] : Acc(1);
        if (grad.sp == 1)
          gather(columns, width, row, factor, grad.at(n, c, next * width));
        else
          for (int64_t i = 0; i < width; ++i)
            *grad.at(n, c, next * width + i) = static_cast<T>(factor * gathered(columns, i, row));
      }
      for (int64_t i = 0; i < width && channels_last; ++i) {
        const Acc* h = columns.coefficient.data() + columns.begin[i];
        const int64_t x = columns.first[i];
        for (int64_t c = 0; c < channels; ++c) total[c] = 0;
        for (int64_t q = 0; q < columns.count(i); ++q)
          for (int64_t c = 0; c < channels; ++c) total[c] += h[q] * s[(x + q) * channels + c];
        for (int64_t c = 0; factors && c < channels; ++c) total[c] *= factors[c];
        narrow(total, channels, grad.at(n, 0, next * width + i));
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

  template <class T>
  Given(const Checker& check, const Tensor& g, const Predictions<T>& predictions, int64_t batch)
      : grad(check.map<const O>("grad", g, {batch, predictions.channels, g.size(2), g.size(3)},
                                predictions.channels_last)),
        width(g.size(3)) {}

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc*, Acc* __restrict out) const {
    widen(grad.at(n, c, y * width + first), count, out);
  }
  void pixel(int64_t n, int64_t y, int64_t x, int64_t channels, const Acc*, Acc* __restrict out) const {
    widen(grad.at(n, 0, y * width + x), channels, out);
  }
};

// sums[i] += across * g[i] * value(i); returns the sum of along[i] * g[i] * value(i).
template <class Acc>
Acc sum_products(const Acc* g, const Between<Acc> value, const Acc* along, Acc across, int64_t length,
                 Acc* __restrict sums) {
  Acc total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) {
    const Acc product = g[i] * value(i);
    sums[i] += across * product;
    total += along[i] * product;
  }
  return total;
}

// The sum of g[i] * value(i).
template <class Acc>
Acc sum_products(const Acc* g, const Between<Acc> value, int64_t length) {
  Acc total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < length; ++i) total += g[i] * value(i);
  return total;
}

// `gradient` gives dL/d rendered: row(n, c, y, first, count, scores, out) of a channel's columns, or with channels_last
// pixel(n, y, x, channels, scores, out). With Gradient::of_scores it computes it from the rendered scores. Fills the
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
  const int64_t row_size = channels * width, owned = needed.size();
  const int64_t scratch_row = widest(predictions, maps), value_row = std::max(COLUMNS, channels);
  const int64_t weighted_size = channels_last ? COLUMNS * channels : COLUMNS;
  const int64_t of_neighbours =
      channels_last ? NeighbourPixels<T>::size(channels) : Neighbours<T>::size(channels, width);
  const int64_t of_rows = need_values ? scales * of_neighbours : 0;
  const int64_t of_maps = scales * Neighbours<Acc>::size(1, width);
  const int64_t of_factors = predictions.factors_of(0, 0) ? scales * channels : 0;
  const int64_t scratch = (4 * scales + 2) * COLUMNS + scratch_row + 4 * value_row + owned * weighted_size +
                          2 * owned * row_size + of_rows + of_maps + of_factors;
  std::vector<Acc> factor_sums(maps.batch * ceil_div(height, band_rows) * of_factors);

  for_each_piece<Acc>(maps.batch, 1, height, band_rows, 1, scratch, [&](const Piece& band, Acc* weights) {
    Acc *alphas = weights + scales * COLUMNS, *map_sums = alphas + scales * COLUMNS;
    Acc *through = map_sums + scales * COLUMNS, *behind = through + (scales + 1) * COLUMNS, *source = behind + COLUMNS;
    Acc *scores = source + scratch_row, *g = scores + value_row, *total = g + value_row, *zeros = total + value_row;
    Acc *weighted = zeros + value_row, *sums = weighted + owned * weighted_size;
    Acc *of_piece = sums + 2 * owned * row_size, *free = of_piece + of_factors;
    std::fill_n(zeros, value_row, Acc(0));
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
    for (auto& of : of_weights) of.begin(n, 0, 0, width);
    std::vector<Neighbours<T>> of_scales;
    std::vector<NeighbourPixels<T>> pixels_of_scales;
    std::vector<Between<Acc>> between(scales), weighed(scales);
    if (need_values && channels_last)
      pixels_of_scales = neighbour_pixels_of(predictions.scales, channels, zeros, free + of_maps);
    else if (need_values)
      of_scales = neighbours_of(predictions.scales, channels, width, zeros, free + of_maps);
    for (auto& of : of_scales) of.begin(n, 0, 0, width);
    for (int64_t y = first_row; y < end_row; ++y) {
      for (OwnedRows<T>& owner : rows)
        if (!owner.scale.identity) owner.finish(owner.scale.rows.low[y], n, channels, total);
      for (auto& of : of_scales) of.move_to(y, source);
      for (int64_t first = 0; first < width; first += COLUMNS) {
        const int64_t count = std::min(COLUMNS, width - first);
        maps.rows(of_weights, y, first, count, source, weights);
        if (maps.opacities) std::copy_n(weights, scales * COLUMNS, alphas);
        maps.composite(count, weights, through);
        std::fill_n(map_sums, scales * COLUMNS, Acc(0));
        std::fill_n(of_piece, of_factors, Acc(0));
        const int64_t outer = channels_last ? count : channels, length = channels_last ? channels : count;
        for (int64_t r = 0; r < outer; ++r) {
          const auto weight_of = [&](int64_t k) { return weights + k * COLUMNS + (channels_last ? r : 0); };
          for (int64_t k = 0; k < scales && need_values; ++k) {
            if (channels_last) {
              if (r % SPAN == 0) pixels_of_scales[k].move_to(n, y, first + r, std::min(SPAN, count - r));
              between[k] = pixels_of_scales[k].at(first + r);
            } else {
              between[k] = of_scales[k].at(r, first);
            }
          }
          if (channels_last) {
            for (int64_t k = 0; k < scales && computed; ++k) weighed[k] = between[k].times(*weight_of(k));
            if (computed) sum_weighted<Acc>(weighed, nullptr, 0, length, scores);
            gradient.pixel(n, y, first + r, channels, scores, g);
          } else {
            if (computed) sum_weighted(between, weights, COLUMNS, length, scores);
            gradient.row(n, r, y, first, count, scores, g);
          }
          for (int64_t k = 0; k < scales && sums_needed; ++k) {
            const Between<Acc> value = between[k];
            const Acc* factors = predictions.factors_of(n, k);
            Acc* __restrict sum = map_sums + k * COLUMNS;
            if (channels_last && factors)
              sum[r] = sum_products(g, value, factors, *weight_of(k), length, of_piece + k * channels);
            else if (channels_last)
              sum[r] = sum_products(g, value, length);
            else if (factors)
              of_piece[k * channels + r] = sum_products(g, value, weight_of(k), factors[r], length, sum);
            else
              for (int64_t i = 0; i < length; ++i) sum[i] += g[i] * value(i);
          }
          for (int64_t i = 0; i < owned; ++i) {
            const Acc *w = weight_of(needed[i].k), *factors = predictions.factors_of(n, needed[i].k);
            Acc* __restrict result = weighted + (channels_last ? (i * COLUMNS + r) * channels : 0);
            for (int64_t x = 0; x < length; ++x) result[x] = g[x] * w[channels_last ? 0 : x];
            if (!rows[i].scale.identity) {
              if (!channels_last) rows[i].add(y, r * width + first, length, result);
            } else if (y >= begin_row) {
              for (int64_t x = 0; factors && x < length; ++x) result[x] *= factors[channels_last ? x : r];
              const int64_t at = y * width + first;
              narrow(result, length, channels_last ? rows[i].grad.at(n, 0, at + r) : rows[i].grad.at(n, r, at));
            }
          }
        }
        for (int64_t i = 0; i < owned && channels_last; ++i)
          if (!rows[i].scale.identity)
            rows[i].add(y, first * channels, count * channels, weighted + i * COLUMNS * channels);
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
      if (!owner.scale.identity) owner.finish(owner.end, n, channels, total);
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
