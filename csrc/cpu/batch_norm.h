// What the operations with a batch norm of a map share: its statistics, and the gradient of the map.
//
// Sums over pixels are taken piece by piece in the arithmetic type, and over the pieces in order in float64.
#pragma once

#include "norm.h"
#include "rows.h"
#include "tiles.h"

namespace afa {

constexpr int64_t ROW = 4096;   // pixels of a channel that are worked on at a time
constexpr int64_t TILE = 1024;  // pixels that are worked on at a time with all their channels, in NCHW
constexpr int64_t BLOCK = 256;  // the same in channels_last, where sums over pixels run one by one

template <class T>
struct Hidden {
  Layout layout;
  Map<const T> map;

  Hidden(const Checker& check, const Tensor& hidden)
      : layout(hidden), map(check.map<const T>("hidden", hidden, layout)) {}

  // In sums over pixels: those of a piece, and how many pieces an image has.
  int64_t size() const { return layout.channels_last ? BLOCK : ROW; }
  int64_t pieces() const { return ceil_div(layout.pixels, size()); }

  int64_t tile() const { return layout.channels_last ? BLOCK : TILE; }
  int64_t tiles() const { return layout.batch * ceil_div(layout.pixels, tile()); }
  double count() const { return static_cast<double>(layout.batch * layout.pixels); }

  template <class F>
  void for_each_tile(int64_t scratch, const F& body) const {
    afa::for_each_tile<acc_t<T>>(layout.batch, layout.pixels, tile(), scratch, body);
  }
};

// The mean and the variance of every channel. Of a piece, `parts` holds the mean and the sums of the deviations from it
// and of their squares, each a row of channels.
template <class T, class Acc = acc_t<T>>
void statistics(const Hidden<T>& hidden, Acc* mean, Acc* variance) {
  struct Deviations {
    Acc sum, squares;
    Deviations operator+(const Deviations& other) const { return {sum + other.sum, squares + other.squares}; }
  };
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels, size = hidden.size(), pieces = hidden.pieces();
  std::vector<Acc> parts(3 * layout.batch * pieces * channels);
  if (layout.channels_last) {
    hidden.for_each_tile(UNROLL * channels, [&](const Piece& tile, Acc* buffer) {
      const int64_t steps = channels, count = tile.count;
      Acc* __restrict center = &parts[3 * tile.unit * steps];
      Acc* __restrict sum = center + steps;
      Acc* __restrict squares = sum + steps;
      for_each_pixels(hidden.map, tile.n, tile.first, count, steps, buffer, [&](const auto& pixels, int64_t) {
#pragma GCC ivdep
        for (int64_t c = 0; c < steps; ++c) center[c] += pixels.sum(c);
      });
      for (int64_t c = 0; c < steps; ++c) center[c] /= count;
      for_each_pixels(hidden.map, tile.n, tile.first, count, steps, buffer, [&](const auto& pixels, int64_t) {
#pragma GCC ivdep
        for (int64_t c = 0; c < steps; ++c) {
          const Acc m = center[c];
          const Deviations d = pixels.sum(c, [m](Acc z, int64_t) { return Deviations{z - m, (z - m) * (z - m)}; });
          sum[c] += d.sum;
          squares[c] += d.squares;
        }
      });
    });
  } else {
    for_each_row<Acc>(layout, ROW, ROW, [&](const Piece& piece, Acc* buffer) {
      const int64_t steps = piece.count;
      const Acc* row = widened(hidden.map.at(piece.n, piece.row, piece.first), steps, buffer);
      Acc total = 0, sum = 0, squares = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < steps; ++i) total += row[i];
      const Acc center = total / steps;
#pragma omp simd reduction(+ : sum, squares)
      for (int64_t i = 0; i < steps; ++i) {
        const Acc d = row[i] - center;
        sum += d;
        squares += d * d;
      }
      Acc* part = &parts[3 * (piece.n * pieces + piece.first / ROW) * channels + piece.row];
      part[0] = center, part[channels] = sum, part[2 * channels] = squares;
    });
  }
  std::vector<Moments> moments(channels);
  for (int64_t unit = 0; unit < layout.batch * pieces; ++unit) {
    const auto count = static_cast<double>(std::min(size, layout.pixels - unit % pieces * size));
    const Acc* part = &parts[3 * unit * channels];
    for (int64_t c = 0; c < channels; ++c)
      moments[c].add_deviations(count, part[c], part[channels + c], part[2 * channels + c]);
  }
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = static_cast<Acc>(moments[c].mean);
    variance[c] = static_cast<Acc>(moments[c].squares / moments[c].count);
  }
}

// Over the parts in order: each has three rows of channels, or two without what is projected.
template <bool projected, class Acc>
std::vector<NormSums<double>> added_up(const std::vector<Acc>& parts, int64_t channels) {
  constexpr int64_t rows = projected ? 3 : 2;
  std::vector<NormSums<double>> sums(channels);
  for (const Acc* part = parts.data(); part != parts.data() + parts.size(); part += rows * channels)
    for (int64_t c = 0; c < channels; ++c)
      sums[c] = sums[c] + NormSums<double>{projected ? part[2 * channels + c] : 0, part[c], part[channels + c]};
  return sums;
}

// dz = of_grad g' + constant + of_deviation (z - mean), rows of a value a channel; the last two come from the
// statistics.
template <class Acc>
struct Coefficients {
  std::vector<Acc> of_grad, constant, of_deviation;

  // Of the sums over `count` pixels; g' is times the channel's weight, if there are `weights`. Writes the gradients of
  // gamma and beta, where they are needed.
  Coefficients(const Norm<Acc>& norm, const std::vector<NormSums<double>>& sums, const Acc* weights, bool abs_weight,
               double count, Acc* d_gamma, Acc* d_beta)
      : of_grad(sums.size()), constant(sums.size()), of_deviation(sums.size()) {
    for (size_t c = 0; c < sums.size(); ++c) {
      const double deviation = norm.deviation[c], scale = norm.scale[c], gamma = norm.gamma[c];
      const double weight = weights ? weights[c] : 1;
      const double of_beta = weight * sums[c].passed, of_gamma = weight * sums[c].deviations * deviation;
      const double of_weight = !abs_weight || gamma > 0 ? of_gamma : gamma < 0 ? -of_gamma : 0;
      if (d_gamma) d_gamma[c] = static_cast<Acc>(of_weight);
      if (d_beta) d_beta[c] = static_cast<Acc>(of_beta);
      of_grad[c] = static_cast<Acc>(scale * weight);
      constant[c] = static_cast<Acc>(-scale * of_beta / count);
      of_deviation[c] = static_cast<Acc>(-scale * deviation * of_gamma / count);
    }
  }
};

// A value that varies along a row, or is the same for all of it.
template <bool varies, class Acc>
struct Along {
  std::conditional_t<varies, const Acc*, Acc> value;

  explicit Along(const Acc* first) : value{} {
    if constexpr (varies)
      value = first;
    else
      value = *first;
  }
  Acc operator[](int64_t i) const {
    if constexpr (varies)
      return value[i];
    else
      return value;
  }
};

template <class T, class Acc = acc_t<T>>
struct HiddenGradient {
  const Hidden<T>& hidden;
  const Norm<Acc>& norm;
  const Coefficients<Acc>& coefficients;
  Acc slope;
  Map<T> map;
  bool streamed;

  // Writes the `steps` elements from channel c and pixel p on, along channels or along pixels; g is that of each. The
  // statistics are functions of z only if they are those of the `batch`.
  template <bool channels_last, bool leaky, bool batch, class G>
  void write(int64_t n, int64_t c, int64_t p, int64_t steps, const G& g, Acc* buffer) const {
    using OfChannel = Along<channels_last, Acc>;
    const OfChannel mean(norm.mean + c), scale(&norm.scale[c]), beta(norm.beta + c), of_grad(&coefficients.of_grad[c]);
    const OfChannel constant(&coefficients.constant[c]), of_deviation(&coefficients.of_deviation[c]);
    const Acc *z = widened(hidden.map.at(n, c, p), steps, buffer), s = slope;
    T* out = map.at(n, c, p);
    Acc* __restrict values = computed_in(out, buffer + steps, streamed);
    for (int64_t i = 0; i < steps; ++i) {
      const Acc deviation = z[i] - mean[i], passed = rectified<leaky>(deviation * scale[i] + beta[i], g[i], s);
      values[i] = batch ? of_grad[i] * passed + (constant[i] + of_deviation[i] * deviation) : of_grad[i] * passed;
    }
    store(values, steps, out, streamed);
  }
};

}  // namespace afa
