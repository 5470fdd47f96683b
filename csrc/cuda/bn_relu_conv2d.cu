// The batch norm and ReLU of bn_relu_conv2d on CUDA: the launchers of bn_relu_conv2d.cuh. The parameters come in the
// arithmetic type.
#include "batch_norm.h"
#include "bn_relu_conv2d.cuh"

namespace afa {
namespace {

constexpr Checker check{"bn_relu_conv2d"};

void bn_relu_statistics(Tensor hidden, Tensor mean, Tensor variance) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    using Acc = acc_t<decltype(t)>;
    const Hidden<decltype(t)> of(check, hidden);
    const int64_t channels = of.layout.channels;
    auto* m = check.flat<Acc>("mean", mean, channels);
    auto* v = check.flat<Acc>("variance", variance, channels);
    statistics(Launcher(check.op, hidden), of, hidden, m, v);
  });
}

template <class T, class Acc = acc_t<T>>
void activate_map(const Tensor& z, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& variance,
                  double eps, double activation_slope, bool abs_weight, const Tensor& activated) {
  const Hidden<T> hidden(check, z);
  const Layout& layout = hidden.layout;
  const NormRows<Acc> given(check, weight, bias, mean, variance, layout.channels, eps, abs_weight);
  const auto out = rows_of(check.map<T>("activated", activated, layout), layout);

  const Launcher launch(check.op, z);
  const Tensor scales = scratch<Acc>(z, layout.channels);
  const Norm<Acc> norm = given.norm(launch, activation_slope, data_of<Acc>(scales));
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>(
      [&](auto packed, auto channels_last) {
        launch(activate<T, packed, channels_last>, tiling.blocks(), tiling, hidden.rows, norm, out);
      },
      aligned(hidden.rows, layout) && aligned(out, layout), layout.channels_last);
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad_activated, const Tensor& z, const Tensor& weight, const Tensor& bias,
              const Tensor& mean, const Tensor& variance, bool batch_statistics, double eps, double activation_slope,
              bool abs_weight, const Gradients& grads) {
  const Hidden<T> hidden(check, z);
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels;
  const NormRows<Acc> given(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const auto g = rows_of(check.map<const T>("grad_activated", grad_activated, layout), layout);
  const auto dz = rows_of(check.map<T>("grad of hidden", grads[0], layout), layout);
  const ParameterGradients<Acc> of_parameters{check.flat<Acc>("grad of weight", grads[1], channels),
                                              check.flat<Acc>("grad of bias", grads[2], channels), nullptr};

  const Launcher launch(check.op, z);
  const Tensor rows = scratch<Acc>(z, 3 * channels);
  Acc* scale = data_of<Acc>(rows);
  const Norm<Acc> norm = given.norm(launch, activation_slope, scale);
  const Acc* const weights = nullptr;
  Coefficients<Acc> coefficients{};
  if (batch_statistics) coefficients = {scale + channels, scale + 2 * channels};
  const bool reads_whole_rows = aligned(hidden.rows, layout) && aligned(g, layout);
  if (grads[1] || grads[2] || batch_statistics) {
    const Tiling tiling = hidden.tiling();
    const int64_t parts = layout.batch * hidden.parts(tiling).count;
    const Tensor memory = scratch<Acc>(z, 2 * parts * channels);
    Acc* sums = data_of<Acc>(memory);
    dispatch_packed<T>(
        [&](auto packed) {
          launch(layout.channels_last ? activated_sums_of_columns<T, packed> : activated_sums_of_rows<T, packed>,
                 tiling.blocks(), tiling, g, hidden.rows, norm, sums);
        },
        reads_whole_rows);
    given.finish(launch, parts, layout.batch * layout.pixels, sums, weights, of_parameters, coefficients);
  }
  if (!grads[0]) return;
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>(
      [&](auto packed, auto channels_last) {
        launch(activated_backward<T, packed, channels_last>, tiling.blocks(), tiling, g, hidden.rows,
               Differentials<Acc>{norm, weights, coefficients}, dz);
      },
      reads_whole_rows && aligned(dz, layout), layout.channels_last);
}

void bn_relu_activate(Tensor hidden, Tensor weight, Tensor bias, Tensor mean, Tensor variance, double eps,
                      double activation_slope, bool abs_weight, Tensor activated) {
  dispatch(hidden.scalar_type(), check.op, [&](auto t) {
    activate_map<decltype(t)>(hidden, weight, bias, mean, variance, eps, activation_slope, abs_weight, activated);
  });
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

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("bn_relu_statistics", TORCH_BOX(&afa::bn_relu_statistics));
  m.impl("bn_relu_activate", TORCH_BOX(&afa::bn_relu_activate));
  m.impl("bn_relu_differentiate", TORCH_BOX(&afa::bn_relu_differentiate));
}
