// channel_attention on CUDA, in evaluation mode: the launchers of channel_attention.cuh. The parameters come in the
// arithmetic type.
#include "channel_attention.cuh"
#include "launch.h"

namespace afa {
namespace {

constexpr Checker check{"channel_attention"};

void channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                               Tensor running_mean, Tensor running_var, Tensor conv2_weight, double eps,
                               double activation_slope, bool abs_weight, Tensor logits) {
  const Launcher launch(check.op, logits);
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t batch = logits.size(0), hidden = conv1_weight.size(0), inputs = conv1_weight.size(1);
    const int64_t outputs = conv2_weight.size(0), at_once = THREADS / WARP;
    const auto* w1 = check.flat<const Acc>("conv1_weight", conv1_weight, hidden * inputs);
    const auto* w2 = check.flat<const Acc>("conv2_weight", conv2_weight, outputs * hidden);
    const auto* a = check.flat<const T>("avg", avg, batch * inputs);
    const auto* b = check.flat<const T>("max", max, batch * inputs);
    auto* out = check.flat<T>("logits", logits, batch * outputs);
    const AttentionNorm<Acc> norm{check.flat<const Acc>("weight", weight, hidden),
                                  check.flat<const Acc>("bias", bias, hidden),
                                  check.flat<const Acc>("running_mean", running_mean, hidden),
                                  check.flat<const Acc>("running_var", running_var, hidden),
                                  eps,
                                  static_cast<Acc>(activation_slope),
                                  abs_weight};
    const Tensor memory = scratch<Acc>(logits, batch * hidden);
    Acc* units = data_of<Acc>(memory);
    if (hidden > 0)
      launch(attention_hidden<T>, ceil_div(batch * hidden, at_once), batch, inputs, hidden, a, b, w1, norm, units);
    launch(attention_logits<T>, ceil_div(batch * outputs, at_once), batch, hidden, outputs, units, w2, out);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("channel_attention_forward", TORCH_BOX(&afa::channel_attention_forward));
}
