// bn_relu_project on CUDA: the launchers of bn_relu_project.cuh. The parameters come in the arithmetic type.
#include "batch_norm.h"
#include "bn_relu_project.cuh"

namespace afa {
namespace {

constexpr Checker check{"bn_relu_project"};
constexpr int64_t ENOUGH = 512;  // blocks; until then those of a small map share its channels

// The map of one channel, (N, 1, H, W), as the rows of the hidden map: all of it in NCHW, else an element of each.
template <class T>
Rows<T> rows_of_pixels(const char* name, const Tensor& t, const Layout& layout) {
  const Map<T> map = check.map<T>(name, t, layout.of_pixels(), false);
  return {map.data, map.sn, layout.channels_last};
}

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& z, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& running_mean,
             const std::optional<Tensor>& running_var, const Tensor& project_weight, double eps,
             double activation_slope, bool abs_weight, const Tensor& logits, const Tensor& mean,
             const Tensor& variance) {
  const Hidden<T> hidden(check, z);
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels;
  const auto* known_mean = check.flat<const Acc>("running_mean", running_mean, channels);
  const auto* known_variance = check.flat<const Acc>("running_var", running_var, channels);
  const auto* w = check.flat<const Acc>("project_weight", project_weight, channels);
  const NormRows<Acc> given(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const auto out = check.map<T>("logits", logits, layout.of_pixels(), false);

  const Launcher launch(check.op, z);
  if (!known_mean || !known_variance) {
    statistics(launch, hidden, z, given.mean, given.variance);
    known_mean = known_variance = nullptr;
  }
  const Tensor scales = scratch<Acc>(z, channels);
  const Norm<Acc> norm = given.norm(launch, activation_slope, data_of<Acc>(scales), known_mean, known_variance);
  if (layout.pixels == 0) return;

  // In channels_last a block reads the norms of its channels before it reads any row, and so has many rows.
  Tiling tiling = tiling_of(layout, PACK<T>, ENOUGH);
  if (!layout.channels_last) tiling = tiling_of(layout, PACK<T>, ceil_div(ENOUGH, layout.batch * tiling.chunks));
  const int64_t count = layout.channels_last ? tiling.chunks : tiling.splits;
  const Tensor memory = scratch<Acc>(z, layout.batch * count * layout.pixels);
  Acc* sums = data_of<Acc>(memory);
  dispatch_packed<T>(
      [&](auto packed) {
        launch(layout.channels_last ? project_columns<T, packed> : project_rows<T, packed>, tiling.blocks(), tiling,
               hidden.rows, norm, w, sums);
      },
      aligned(hidden.rows, layout));
  launch.finish(sums, layout.batch, count, layout.pixels, Logit<T>{out.data, layout.pixels});
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& z, const Tensor& weight, const Tensor& bias,
              const Tensor& project_weight, const Tensor& mean, const Tensor& variance, bool batch_statistics,
              double eps, double activation_slope, bool abs_weight, const Gradients& grads) {
  const Hidden<T> hidden(check, z);
  const Layout& layout = hidden.layout;
  const int64_t channels = layout.channels;
  const auto* w = check.flat<const Acc>("project_weight", project_weight, channels);
  const NormRows<Acc> given(check, weight, bias, mean, variance, channels, eps, abs_weight);
  const auto g = rows_of_pixels<const T>("grad", grad, layout);
  const auto dz = rows_of(check.map<T>("grad of hidden", grads[0], layout), layout);
  const ParameterGradients<Acc> of_parameters{check.flat<Acc>("grad of weight", grads[1], channels),
                                              check.flat<Acc>("grad of bias", grads[2], channels),
                                              check.flat<Acc>("grad of project_weight", grads[3], channels)};

  const Launcher launch(check.op, z);
  const Tensor rows = scratch<Acc>(z, 3 * channels);
  Acc* scale = data_of<Acc>(rows);
  const Norm<Acc> norm = given.norm(launch, activation_slope, scale);
  const bool reads_whole_rows = aligned(hidden.rows, layout) && (layout.channels_last || aligned(g, layout));
  Coefficients<Acc> coefficients{};
  if (batch_statistics) coefficients = {scale + channels, scale + 2 * channels};
  if (grads[1] || grads[2] || grads[3] || batch_statistics) {
    const Tiling tiling = hidden.tiling();
    const int64_t parts = layout.batch * hidden.parts(tiling).count;
    const Tensor memory = scratch<Acc>(z, 3 * parts * channels);
    Acc* sums = data_of<Acc>(memory);
    dispatch_packed<T>(
        [&](auto packed) {
          launch(layout.channels_last ? norm_sums_of_columns<T, packed> : norm_sums_of_rows<T, packed>, tiling.blocks(),
                 tiling, g, hidden.rows, norm, sums);
        },
        reads_whole_rows);
    given.finish(launch, parts, layout.batch * layout.pixels, sums, w, of_parameters, coefficients);
  }
  if (!grads[0]) return;
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>(
      [&](auto packed, auto channels_last) {
        launch(norm_backward<T, packed, channels_last>, tiling.blocks(), tiling, g, hidden.rows,
               Differentials<Acc>{norm, w, coefficients}, dz);
      },
      reads_whole_rows && aligned(dz, layout), layout.channels_last);
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

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("bn_relu_project_forward", TORCH_BOX(&afa::bn_relu_project_forward));
  m.impl("bn_relu_project_backward", TORCH_BOX(&afa::bn_relu_project_backward));
}
