// channel_attention on the CPU, in evaluation mode: logits = W2 (r(max) + r(avg)), with r(v) = leaky ReLU of the batch
// norm of W1 v. The parameters come in the arithmetic type.
#include "norm.h"
#include "rows.h"
#include "tiles.h"

namespace afa {
namespace {

constexpr Checker check{"channel_attention"};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& avg, const Tensor& max, const Tensor& conv1_weight, const Tensor& weight, const Tensor& bias,
             const Tensor& running_mean, const Tensor& running_var, const Tensor& conv2_weight, double eps,
             double activation_slope, bool abs_weight, const Tensor& logits) {
  const int64_t batch = logits.size(0), hidden = conv1_weight.size(0), inputs = conv1_weight.size(1);
  const int64_t outputs = conv2_weight.size(0);
  const auto* w1 = check.flat<const Acc>("conv1_weight", conv1_weight, hidden * inputs);
  const auto* w2 = check.flat<const Acc>("conv2_weight", conv2_weight, outputs * hidden);
  const auto* a = check.flat<const T>("avg", avg, batch * inputs);
  const auto* b = check.flat<const T>("max", max, batch * inputs);
  auto* out = check.flat<T>("logits", logits, batch * outputs);
  const Norm<Acc> norm(check, weight, bias, running_mean, running_var, hidden, eps, abs_weight);
  const auto slope = static_cast<Acc>(activation_slope);
  const auto rectify = [slope](Acc y) {
    return slope == 0 ? rectified<false>(y, y, slope) : rectified<true>(y, y, slope);
  };
  for_each_piece<Acc>(batch, 1, 1, 1, 1, 2 * inputs + hidden, [&](const Piece& image, Acc* buffer) {
    const int64_t n = image.n, steps = inputs, size = hidden;
    const Acc* of_avg = widened(a + n * steps, steps, buffer);
    const Acc* of_max = widened(b + n * steps, steps, buffer + steps);
    Acc* units = buffer + 2 * steps;
    for (int64_t m = 0; m < size; ++m) {
      const Acc* w = w1 + m * steps;
      Acc y_avg = 0, y_max = 0;
#pragma omp simd reduction(+ : y_avg, y_max)
      for (int64_t c = 0; c < steps; ++c) {
        y_avg += w[c] * of_avg[c];
        y_max += w[c] * of_max[c];
      }
      y_avg = (y_avg - norm.mean[m]) * norm.scale[m] + norm.beta[m];
      y_max = (y_max - norm.mean[m]) * norm.scale[m] + norm.beta[m];
      units[m] = rectify(y_max) + rectify(y_avg);
    }
    for (int64_t o = 0; o < outputs; ++o) {
      const Acc* w = w2 + o * size;
      Acc sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t m = 0; m < size; ++m) sum += w[m] * units[m];
      out[n * outputs + o] = static_cast<T>(sum);
    }
  });
}

void channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                               Tensor running_mean, Tensor running_var, Tensor conv2_weight, double eps,
                               double activation_slope, bool abs_weight, Tensor logits) {
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    forward<decltype(t)>(avg, max, conv1_weight, weight, bias, running_mean, running_var, conv2_weight, eps,
                         activation_slope, abs_weight, logits);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("channel_attention_forward", TORCH_BOX(&afa::channel_attention_forward));
}
