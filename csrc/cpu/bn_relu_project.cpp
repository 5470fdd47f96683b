// bn_relu_project on the CPU: logits = sum over C of w r, with y = (z - mean) scale + beta and r = y > 0 ? y : slope y.
#include "batch_norm.h"

namespace afa {
namespace {

constexpr Checker check{"bn_relu_project"};

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
    narrow(sums, count, row);
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
    Acc* __restrict passed = &parts[3 * tile.unit * channels];
    Acc* __restrict deviations = passed + channels;
    Acc* __restrict projected = deviations + channels;
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
  return added_up<true>(parts, channels);
}

template <bool channels_last, bool leaky, bool batch, class T, class Acc = acc_t<T>>
void differentiate(const HiddenGradient<T>& gradient, const Map<const T>& grad) {
  const Layout& layout = gradient.hidden.layout;
  if constexpr (channels_last) {
    gradient.hidden.for_each_tile(BLOCK + 2 * layout.channels, [&](const Piece& tile, Acc* buffer) {
      const Acc* g = widened(grad.at(tile.n, 0, tile.first), tile.count, buffer);
      for (int64_t p = 0; p < tile.count; ++p)
        gradient.template write<channels_last, leaky, batch>(tile.n, 0, tile.first + p, layout.channels,
                                                             Along<false, Acc>(g + p), buffer + BLOCK);
    });
  } else {
    for_each_row<Acc>(layout, ROW, 3 * ROW, [&](const Piece& piece, Acc* buffer) {
      const Acc* g = widened(grad.at(piece.n, 0, piece.first), piece.count, buffer);
      gradient.template write<channels_last, leaky, batch>(piece.n, piece.row, piece.first, piece.count,
                                                           Along<true, Acc>(g), buffer + ROW);
    });
  }
}

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& z, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& running_mean,
             const std::optional<Tensor>& running_var, const Tensor& project_weight, double eps,
             double activation_slope, bool abs_weight, const Tensor& logits, const Tensor& mean,
             const Tensor& variance) {
  const Hidden<T> hidden(check, z);
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
  const Hidden<T> hidden(check, z);
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
  for (int64_t c = 0; d_project && c < channels; ++c) d_project[c] = static_cast<Acc>(sums[c].projected);
  const Coefficients<Acc> k(norm, sums, w, abs_weight, hidden.count(), d_weight, d_bias);
  if (!grads[0]) return;
  back_with_huge_pages(*grads[0]);
  const HiddenGradient<T> gradient{hidden, norm, k, slope, dz, streamed(grads[0])};
  dispatch_flags(
      [&](auto channels_last, auto leaky, auto batch) { differentiate<channels_last, leaky, batch>(gradient, g); },
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
