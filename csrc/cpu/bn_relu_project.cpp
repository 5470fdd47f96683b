// bn_relu_project on the CPU: logits = sum over C of w r, with y = (z - mean) scale + beta and r = y > 0 ? y : slope y.
//
// Sums over pixels are taken piece by piece in the arithmetic type, and over the pieces in order in float64.
#include "norm.h"
#include "rows.h"
#include "tiles.h"

namespace afa {
namespace {

constexpr Checker check{"bn_relu_project"};
constexpr int64_t ROW = 4096;   // pixels of a channel that are worked on at a time
constexpr int64_t TILE = 1024;  // pixels that are worked on at a time with all their channels, in NCHW
constexpr int64_t BLOCK = 256;  // the same in channels_last, where sums over pixels run one by one

template <class T>
struct Hidden {
  Layout layout;
  Map<const T> map;

  explicit Hidden(const Tensor& hidden) : layout(hidden), map(check.map<const T>("hidden", hidden, layout)) {}

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
  const int64_t channels = layout.channels, size = layout.channels_last ? BLOCK : ROW;
  const int64_t pieces = ceil_div(layout.pixels, size);
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

template <bool leaky, class T, class Acc = acc_t<T>>
void project(const Hidden<T>& hidden, const Norm<Acc>& norm, const Acc* weights, Acc slope, const Map<T>& logits) {
  const int64_t channels = hidden.layout.channels;
  hidden.for_each_tile(hidden.tile() + std::max(hidden.tile(), channels), [&](const Piece& tile, Acc* sums) {
    const int64_t count = tile.count, steps = hidden.layout.channels_last ? channels : count;
    const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, *w = weights, s = slope;
    Acc* buffer = sums + hidden.tile();
    if (hidden.layout.channels_last) {
      for (int64_t p = 0; p < count; ++p) {
        const Acc* row = widened(hidden.map.at(tile.n, 0, tile.first + p), steps, buffer);
        Acc sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < steps; ++c) {
          const Acc y = (row[c] - mean[c]) * scale[c] + beta[c];
          sum += w[c] * rectified<leaky>(y, y, s);
        }
        sums[p] = sum;
      }
    } else {
      std::fill_n(sums, steps, Acc(0));
      for (int64_t c = 0; c < channels; ++c) {
        const Acc* row = widened(hidden.map.at(tile.n, c, tile.first), steps, buffer);
        const Acc mean_c = mean[c], scale_c = scale[c], beta_c = beta[c], w_c = w[c];
#pragma omp simd
        for (int64_t i = 0; i < steps; ++i) {
          const Acc y = (row[i] - mean_c) * scale_c + beta_c;
          sums[i] += w_c * rectified<leaky>(y, y, s);
        }
      }
    }
    T* row = logits.at(tile.n, 0, tile.first);
    for (int64_t i = 0; i < count; ++i) row[i] = static_cast<T>(sums[i]);
  });
}

// Of every channel, over all pixels.
template <bool leaky, class T, class Acc = acc_t<T>>
std::vector<NormSums<double>> sums_over_pixels(const Hidden<T>& hidden, const Map<const T>& grad, const Norm<Acc>& norm,
                                               Acc slope) {
  const int64_t channels = hidden.layout.channels, room = std::max(hidden.tile(), UNROLL * channels);
  std::vector<Acc> parts(3 * hidden.tiles() * channels);
  hidden.for_each_tile(hidden.tile() + room, [&](const Piece& tile, Acc* buffer) {
    const int64_t steps = hidden.layout.channels_last ? channels : tile.count;
    const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, s = slope;
    Acc* __restrict projected = &parts[3 * tile.unit * channels];
    Acc* __restrict passed = projected + channels;
    Acc* __restrict deviations = passed + channels;
    const Acc* g = widened(grad.at(tile.n, 0, tile.first), tile.count, buffer + room);
    if (hidden.layout.channels_last) {
      for_each_pixels(hidden.map, tile.n, tile.first, tile.count, steps, buffer, [&](const auto& pixels, int64_t p) {
        const Acc* gp = g + p;
#pragma GCC ivdep
        for (int64_t c = 0; c < steps; ++c) {
          const Acc m = mean[c], k = scale[c], b = beta[c];
          const NormSums<Acc> sums =
              pixels.sum(c, [=](Acc z, int64_t i) { return norm_sums<leaky>(z, gp[i], m, k, b, s); });
          projected[c] += sums.projected;
          passed[c] += sums.passed;
          deviations[c] += sums.deviations;
        }
      });
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        const Acc* row = widened(hidden.map.at(tile.n, c, tile.first), steps, buffer);
        const Acc mean_c = mean[c], scale_c = scale[c], beta_c = beta[c];
        Acc a = 0, b = 0, d = 0;
#pragma omp simd reduction(+ : a, b, d)
        for (int64_t i = 0; i < steps; ++i) {
          const NormSums<Acc> sums = norm_sums<leaky>(row[i], g[i], mean_c, scale_c, beta_c, s);
          a += sums.projected;
          b += sums.passed;
          d += sums.deviations;
        }
        projected[c] = a, passed[c] = b, deviations[c] = d;
      }
    }
  });
  std::vector<NormSums<double>> sums(channels);
  for (int64_t unit = 0; unit < hidden.tiles(); ++unit) {
    const Acc* part = &parts[3 * unit * channels];
    for (int64_t c = 0; c < channels; ++c)
      sums[c] = sums[c] + NormSums<double>{part[c], part[channels + c], part[2 * channels + c]};
  }
  return sums;
}

// dz = of_grad g' + constant + of_deviation (z - mean); the last two, which come from the statistics, only if `batch`.
template <class Acc>
struct Coefficients {
  std::vector<Acc> of_grad, constant, of_deviation;

  explicit Coefficients(int64_t channels) : of_grad(channels), constant(channels), of_deviation(channels) {}
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

template <bool channels_last, bool leaky, bool batch, class T, class Acc = acc_t<T>>
void differentiate(const Hidden<T>& hidden, const Map<const T>& grad, const Norm<Acc>& norm, Acc slope,
                   const Coefficients<Acc>& k, const Map<T>& grad_hidden, bool stream) {
  using OfChannel = Along<channels_last, Acc>;
  // The `steps` elements from channel c and pixel p on, along channels or along pixels; g is of the pixel or pixels.
  const auto row = [&](int64_t n, int64_t c, int64_t p, int64_t steps, Along<!channels_last, Acc> g, Acc* buffer) {
    const OfChannel mean(norm.mean + c), scale(&norm.scale[c]), beta(norm.beta + c), of_grad(&k.of_grad[c]);
    const OfChannel constant(&k.constant[c]), of_deviation(&k.of_deviation[c]);
    const Acc *z = widened(hidden.map.at(n, c, p), steps, buffer), s = slope;
    T* out = grad_hidden.at(n, c, p);
    Acc* __restrict values = computed_in(out, buffer + steps, stream);
    for (int64_t i = 0; i < steps; ++i) {
      const Acc deviation = z[i] - mean[i], passed = rectified<leaky>(deviation * scale[i] + beta[i], g[i], s);
      values[i] = batch ? of_grad[i] * passed + (constant[i] + of_deviation[i] * deviation) : of_grad[i] * passed;
    }
    store(values, steps, out, stream);
  };
  const Layout& layout = hidden.layout;
  if constexpr (channels_last) {
    hidden.for_each_tile(BLOCK + 2 * layout.channels, [&](const Piece& tile, Acc* buffer) {
      const Acc* g = widened(grad.at(tile.n, 0, tile.first), tile.count, buffer);
      for (int64_t p = 0; p < tile.count; ++p)
        row(tile.n, 0, tile.first + p, layout.channels, Along<false, Acc>(g + p), buffer + BLOCK);
    });
  } else {
    for_each_row<Acc>(layout, ROW, 3 * ROW, [&](const Piece& piece, Acc* buffer) {
      const Acc* g = widened(grad.at(piece.n, 0, piece.first), piece.count, buffer);
      row(piece.n, piece.row, piece.first, piece.count, Along<true, Acc>(g), buffer + ROW);
    });
  }
}

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& z, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& running_mean,
             const std::optional<Tensor>& running_var, const Tensor& project_weight, double eps,
             double activation_slope, bool abs_weight, const Tensor& logits, const Tensor& mean,
             const Tensor& variance) {
  const Hidden<T> hidden(z);
  const int64_t channels = hidden.layout.channels;
  Acc *m = check.flat<Acc>("mean", mean, channels), *v = check.flat<Acc>("variance", variance, channels);
  if (running_mean && running_var) {
    std::copy_n(check.flat<const Acc>("running_mean", running_mean, channels), channels, m);
    std::copy_n(check.flat<const Acc>("running_var", running_var, channels), channels, v);
  } else {
    statistics(hidden, m, v);
  }
  const Norm<Acc> norm(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const Acc* w = check.flat<const Acc>("project_weight", project_weight, channels);
  const auto out = check.map<T>("logits", logits, hidden.layout.of_pixels(), false);
  dispatch_flags([&](auto leaky) { project<leaky>(hidden, norm, w, static_cast<Acc>(activation_slope), out); },
                 activation_slope != 0);
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& z, const Tensor& weight, const Tensor& bias,
              const Tensor& project_weight, const Tensor& mean, const Tensor& variance, bool batch_statistics,
              double eps, double activation_slope, bool abs_weight, const Gradients& grads) {
  const auto slope = static_cast<Acc>(activation_slope);
  const Hidden<T> hidden(z);
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels;
  const Norm<Acc> norm(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const Acc* w = check.flat<const Acc>("project_weight", project_weight, channels);
  const auto g = check.map<const T>("grad", grad, layout.of_pixels(), false);
  const auto dz = check.map<T>("grad of hidden", grads[0], layout);
  Acc* d_weight = check.flat<Acc>("grad of weight", grads[1], channels);
  Acc* d_bias = check.flat<Acc>("grad of bias", grads[2], channels);
  Acc* d_project = check.flat<Acc>("grad of project_weight", grads[3], channels);

  std::vector<NormSums<double>> sums(channels);
  if (d_weight || d_bias || d_project || batch_statistics)
    dispatch_flags([&](auto leaky) { sums = sums_over_pixels<leaky>(hidden, g, norm, slope); }, slope != 0);
  Coefficients<Acc> k(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double deviation = norm.deviation[c], scale = norm.scale[c], gamma = norm.gamma[c];
    const double of_beta = w[c] * sums[c].passed, of_gamma = w[c] * sums[c].deviations * deviation;
    const double of_weight = !abs_weight || gamma > 0 ? of_gamma : gamma < 0 ? -of_gamma : 0;
    if (d_weight) d_weight[c] = static_cast<Acc>(of_weight);
    if (d_bias) d_bias[c] = static_cast<Acc>(of_beta);
    if (d_project) d_project[c] = static_cast<Acc>(sums[c].projected);
    k.of_grad[c] = static_cast<Acc>(scale * w[c]);
    k.constant[c] = static_cast<Acc>(-scale * of_beta / hidden.count());
    k.of_deviation[c] = static_cast<Acc>(-scale * deviation * of_gamma / hidden.count());
  }
  if (!grads[0]) return;
  back_with_huge_pages(*grads[0]);
  dispatch_flags(
      [&](auto channels_last, auto leaky, auto batch) {
        differentiate<channels_last, leaky, batch>(hidden, g, norm, slope, k, dz, streamed(grads[0]));
      },
      layout.channels_last, slope != 0, batch_statistics);
}

void bn_relu_project_forward(Tensor hidden, Tensor weight, Tensor bias, std::optional<Tensor> running_mean,
                             std::optional<Tensor> running_var, Tensor project_weight, double eps,
                             double activation_slope, bool abs_weight, Tensor logits, Tensor mean, Tensor variance) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    forward<decltype(t)>(hidden, weight, bias, running_mean, running_var, project_weight, eps, activation_slope,
                         abs_weight, logits, mean, variance);
  });
}

void bn_relu_project_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor bias, Tensor project_weight,
                              Tensor mean, Tensor variance, bool batch_statistics, double eps, double activation_slope,
                              bool abs_weight, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, hidden, weight, bias, project_weight, mean, variance, batch_statistics, eps,
                          activation_slope, abs_weight, check.spread(grads, needed, 4));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("bn_relu_project_forward", TORCH_BOX(&afa::bn_relu_project_forward));
  m.impl("bn_relu_project_backward", TORCH_BOX(&afa::bn_relu_project_backward));
}
