// The batch norm and ReLU of bn_relu_conv2d on the CPU; its convolution is ATen's. The convolution gets
// y > 0 ? y : slope y with y = (z - mean) scale + beta.
#include "batch_norm.h"

namespace afa {
namespace {

constexpr Checker check{"bn_relu_conv2d"};

template <bool channels_last, bool leaky, class T, class Acc = acc_t<T>>
void activate(const Hidden<T>& hidden, const Norm<Acc>& norm, Acc slope, const Map<T>& activated, bool streamed) {
  const Layout& layout = hidden.layout;
  for_each_row<Acc>(layout, ROW, 2 * ROW, [&](const Piece& piece, Acc* buffer) {
    const int64_t steps = piece.count, c = channels_last ? piece.first : piece.row;
    const Along<channels_last, Acc> mean(norm.mean + c), scale(&norm.scale[c]), beta(norm.beta + c);
    const Acc *z = widened(layout.at(hidden.map, piece.n, piece.row, piece.first), steps, buffer), s = slope;
    T* out = layout.at(activated, piece.n, piece.row, piece.first);
    Acc* __restrict values = computed_in(out, buffer + ROW, streamed);
    for (int64_t i = 0; i < steps; ++i) {
      const Acc y = (z[i] - mean[i]) * scale[i] + beta[i];
      values[i] = rectified<leaky>(y, y, s);
    }
    store(values, steps, out, streamed);
  });
}

// Of every channel, over all pixels; nothing is projected.
template <bool leaky, class T, class Acc = acc_t<T>>
std::vector<NormSums<double>> sums_over_pixels(const Hidden<T>& hidden, const Map<const T>& grad, const Norm<Acc>& norm,
                                               Acc slope) {
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels, pieces = hidden.pieces(), room = UNROLL * channels;
  std::vector<Acc> parts(2 * layout.batch * pieces * channels);
  if (layout.channels_last) {
    hidden.for_each_tile(2 * room, [&](const Piece& tile, Acc* buffer) {
      const int64_t steps = channels;
      const Acc *mean = norm.mean, *scale = norm.scale.data(), *beta = norm.beta, s = slope;
      Acc* __restrict passed = &parts[2 * tile.unit * steps];
      Acc* __restrict deviations = passed + steps;
      for_each_pixels(hidden.map, tile.n, tile.first, tile.count, steps, buffer, [&](const auto& pixels, int64_t p) {
        const std::decay_t<decltype(pixels)> g(grad, tile.n, tile.first + p, steps, buffer + room);
#pragma GCC ivdep
        for (int64_t c = 0; c < steps; ++c) {
          const Acc m = mean[c], k = scale[c], b = beta[c];
          const NormSums<Acc> sums =
              pixels.sum(c, [&](Acc z, int64_t i) { return norm_sums<leaky>(z, g.rows[i][c], m, k, b, s); });
          passed[c] += sums.passed;
          deviations[c] += sums.deviations;
        }
      });
    });
  } else {
    for_each_row<Acc>(layout, ROW, 2 * ROW, [&](const Piece& piece, Acc* buffer) {
      const int64_t steps = piece.count, c = piece.row;
      const Acc mean = norm.mean[c], scale = norm.scale[c], beta = norm.beta[c], s = slope;
      const Acc* z = widened(hidden.map.at(piece.n, c, piece.first), steps, buffer);
      const Acc* g = widened(grad.at(piece.n, c, piece.first), steps, buffer + ROW);
      Acc passed = 0, deviations = 0;
#pragma omp simd reduction(+ : passed, deviations)
      for (int64_t i = 0; i < steps; ++i) {
        const NormSums<Acc> sums = norm_sums<leaky>(z[i], g[i], mean, scale, beta, s);
        passed += sums.passed;
        deviations += sums.deviations;
      }
      Acc* part = &parts[2 * (piece.n * pieces + piece.first / ROW) * channels + c];
      part[0] = passed, part[channels] = deviations;
    });
  }
  return added_up<false>(parts, channels);
}

template <bool channels_last, bool leaky, bool batch, class T, class Acc = acc_t<T>>
void differentiate(const HiddenGradient<T>& gradient, const Map<const T>& grad) {
  for_each_row<Acc>(gradient.hidden.layout, ROW, 3 * ROW, [&](const Piece& piece, Acc* buffer) {
    const int64_t c = channels_last ? piece.first : piece.row, p = channels_last ? piece.row : piece.first;
    const Acc* g = widened(grad.at(piece.n, c, p), piece.count, buffer);
    gradient.template write<channels_last, leaky, batch>(piece.n, c, p, piece.count, Along<true, Acc>(g), buffer + ROW);
  });
}

void bn_relu_statistics(Tensor hidden, Tensor mean, Tensor variance) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    using Acc = acc_t<decltype(t)>;
    const Hidden<decltype(t)> of(check, hidden);
    const int64_t channels = of.layout.channels;
    statistics(of, check.flat<Acc>("mean", mean, channels), check.flat<Acc>("variance", variance, channels));
  });
}

void bn_relu_activate(Tensor hidden, Tensor weight, Tensor bias, Tensor mean, Tensor variance, double eps,
                      double activation_slope, bool abs_weight, Tensor activated) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Hidden<T> of(check, hidden);
    const Norm<Acc> norm(check, weight, bias, mean, variance, of.layout.channels, eps, abs_weight);
    const auto out = check.map<T>("activated", activated, of.layout);
    back_with_huge_pages(activated);
    dispatch_flags(
        [&](auto channels_last, auto leaky) {
          activate<channels_last, leaky>(of, norm, static_cast<Acc>(activation_slope), out, streamed(activated));
        },
        of.layout.channels_last, activation_slope != 0);
  });
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad_activated, const Tensor& z, const Tensor& weight, const Tensor& bias,
              const Tensor& mean, const Tensor& variance, bool batch_statistics, double eps, double activation_slope,
              bool abs_weight, const Gradients& grads) {
  const auto slope = static_cast<Acc>(activation_slope);
  const Hidden<T> hidden(check, z);
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels;
  const Norm<Acc> norm(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const auto g = check.map<const T>("grad_activated", grad_activated, layout);
  const auto dz = check.map<T>("grad of hidden", grads[0], layout);
  Acc* d_weight = check.flat<Acc>("grad of weight", grads[1], channels);
  Acc* d_bias = check.flat<Acc>("grad of bias", grads[2], channels);

  std::vector<NormSums<double>> sums(channels);
  if (d_weight || d_bias || batch_statistics)
    dispatch_flags([&](auto leaky) { sums = sums_over_pixels<leaky>(hidden, g, norm, slope); }, slope != 0);
  const Coefficients<Acc> k(norm, sums, nullptr, abs_weight, hidden.count(), d_weight, d_bias);
  if (!grads[0]) return;
  back_with_huge_pages(*grads[0]);
  const HiddenGradient<T> gradient{hidden, norm, k, slope, dz, streamed(grads[0])};
  dispatch_flags(
      [&](auto channels_last, auto leaky, auto batch) { differentiate<channels_last, leaky, batch>(gradient, g); },
      layout.channels_last, slope != 0, batch_statistics);
}

void bn_relu_differentiate(Tensor grad_activated, Tensor hidden, Tensor weight, Tensor bias, Tensor mean,
                           Tensor variance, bool batch_statistics, double eps, double activation_slope, bool abs_weight,
                           std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad_activated, hidden, weight, bias, mean, variance, batch_statistics, eps, activation_slope,
                          abs_weight, check.spread(grads, needed, 3));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("bn_relu_statistics", TORCH_BOX(&afa::bn_relu_statistics));
  m.impl("bn_relu_activate", TORCH_BOX(&afa::bn_relu_activate));
  m.impl("bn_relu_differentiate", TORCH_BOX(&afa::bn_relu_differentiate));
}
