// channel_attention on the CPU, in evaluation mode: logits = W2 (r(max) + r(avg)), with r(v) = leaky ReLU of the batch
// norm of W1 v. The parameters come in the arithmetic type.
#include <cmath>

#include "../common.h"

namespace afa {
namespace {

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& avg, const Tensor& max, const Tensor& conv1_weight, const Tensor& weight, const Tensor& bias,
             const Tensor& running_mean, const Tensor& running_var, const Tensor& conv2_weight, double eps, Acc slope,
             bool abs_weight, Tensor& logits) {
  const int64_t inputs = conv1_weight.size(1), hidden = conv1_weight.size(0), outputs = conv2_weight.size(0);
  const auto row = [](const Tensor& t) { return static_cast<const Acc*>(t.data_ptr()); };
  const Acc *w1 = row(conv1_weight), *w2 = row(conv2_weight);
  std::vector<Acc> scale(hidden), shift(hidden);
  for (int64_t m = 0; m < hidden; ++m) {
    const Acc gamma = abs_weight ? std::abs(row(weight)[m]) + static_cast<Acc>(eps) : row(weight)[m];
    scale[m] = static_cast<Acc>(gamma / std::sqrt(static_cast<double>(row(running_var)[m]) + eps));
    shift[m] = row(bias)[m];
  }
  const Acc* mean = row(running_mean);
  const auto* a = static_cast<const T*>(avg.data_ptr());
  const auto* b = static_cast<const T*>(max.data_ptr());
  auto* out = static_cast<T*>(logits.data_ptr());
  torch::stable::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<Acc> buffers(2 * inputs), units(hidden);
    for (int64_t n = begin; n < end; ++n) {
      vectorized([&] {
        const int64_t steps = inputs, size = hidden;
        const Acc* of_avg = widened(a + n * steps, steps, buffers.data());
        const Acc* of_max = widened(b + n * steps, steps, buffers.data() + steps);
        for (int64_t m = 0; m < size; ++m) {
          const Acc* w = w1 + m * steps;
          Acc y_avg = 0, y_max = 0;
#pragma omp simd reduction(+ : y_avg, y_max)
          for (int64_t c = 0; c < steps; ++c) {
            y_avg += w[c] * of_avg[c];
            y_max += w[c] * of_max[c];
          }
          y_avg = (y_avg - mean[m]) * scale[m] + shift[m];
          y_max = (y_max - mean[m]) * scale[m] + shift[m];
          // Infinity through ReLU, whose slope is 0, must not become NaN, and NaN must stay.
          const auto rectified = [&](Acc y) { return y <= 0 ? (slope == 0 ? Acc(0) : slope * y) : y; };
          units[m] = rectified(y_max) + rectified(y_avg);
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
  });
}

void channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                               Tensor running_mean, Tensor running_var, Tensor conv2_weight, double eps,
                               double activation_slope, bool abs_weight, Tensor logits) {
  dispatch(avg.scalar_type(), "channel_attention", [&](auto t) {
    forward<decltype(t)>(avg, max, conv1_weight, weight, bias, running_mean, running_var, conv2_weight, eps,
                         static_cast<acc_t<decltype(t)>>(activation_slope), abs_weight, logits);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("channel_attention_forward", TORCH_BOX(&afa::channel_attention_forward));
}
