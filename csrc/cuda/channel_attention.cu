// channel_attention on CUDA: the launchers of channel_attention.cuh. The parameters come in the arithmetic type, and so
// do their gradients.
#include "channel_attention.cuh"
#include "launch.h"

namespace afa {
namespace {

constexpr Checker check{"channel_attention"};

// What every launch takes, checked.
template <class T>
struct Attention {
  using Acc = acc_t<T>;
  int64_t batch, inputs, hidden, outputs;
  const Acc *w1, *w2;
  Pooled<T> pooled;
  AttentionNorm<Acc> norm;

  Attention(const Tensor& avg, const Tensor& max, const Tensor& conv1_weight, const Tensor& weight, const Tensor& bias,
            const Tensor& conv2_weight, double eps, double activation_slope, bool abs_weight)
      : batch(avg.size(0)),
        inputs(conv1_weight.size(1)),
        hidden(conv1_weight.size(0)),
        outputs(conv2_weight.size(0)),
        w1(check.flat<const Acc>("conv1_weight", conv1_weight, hidden * inputs)),
        w2(check.flat<const Acc>("conv2_weight", conv2_weight, outputs * hidden)),
        pooled{check.flat<const T>("avg", avg, batch * inputs), check.flat<const T>("max", max, batch * inputs), batch,
               inputs},
        norm{check.flat<const Acc>("weight", weight, hidden), check.flat<const Acc>("bias", bias, hidden), eps,
             static_cast<Acc>(activation_slope), abs_weight} {}

  void logits(const Launcher& launch, const Acc* units, T* out) const {
    launch(attention_logits<T>, ceil_div(batch * outputs, WARPS), batch, hidden, outputs, units, w2, out);
  }
};

void channel_attention_forward(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                               Tensor running_mean, Tensor running_var, Tensor conv2_weight, double eps,
                               double activation_slope, bool abs_weight, Tensor logits) {
  const Launcher launch(check.op, logits);
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    const auto* mean = check.flat<const Acc>("running_mean", running_mean, of.hidden);
    const auto* variance = check.flat<const Acc>("running_var", running_var, of.hidden);
    auto* out = check.flat<T>("logits", logits, of.batch * of.outputs);
    const Tensor memory = scratch<Acc>(logits, of.batch * of.hidden);
    Acc* units = data_of<Acc>(memory);
    if (of.hidden > 0)
      launch(attention_hidden<T>, ceil_div(of.batch * of.hidden, WARPS), of.pooled, of.hidden, of.w1, of.norm, mean,
             variance, units);
    of.logits(launch, units, out);
  });
}

void channel_attention_by_batch(Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight, Tensor bias,
                                Tensor conv2_weight, double eps, double activation_slope, bool abs_weight,
                                Tensor logits, Tensor mean, Tensor variance) {
  const Launcher launch(check.op, logits);
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    auto* out = check.flat<T>("logits", logits, of.batch * of.outputs);
    auto* m = check.flat<Acc>("mean", mean, 2 * of.hidden);
    auto* v = check.flat<Acc>("variance", variance, 2 * of.hidden);
    const Tensor memory = scratch<Acc>(logits, 3 * of.batch * of.hidden);
    Acc *units = data_of<Acc>(memory), *z = units + of.batch * of.hidden;
    launch(attention_units<T>, of.hidden, of.pooled, of.hidden, of.w1, of.norm, z, units, m, v);
    of.logits(launch, units, out);
  });
}

void channel_attention_differentiate(Tensor grad, Tensor avg, Tensor max, Tensor conv1_weight, Tensor weight,
                                     Tensor bias, Tensor mean, Tensor variance, Tensor conv2_weight,
                                     bool batch_statistics, double eps, double activation_slope, bool abs_weight,
                                     std::vector<bool> needed, std::vector<Tensor> grads) {
  const Launcher launch(check.op, grad);
  dispatch(avg.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Attention<T> of(avg, max, conv1_weight, weight, bias, conv2_weight, eps, activation_slope, abs_weight);
    const int64_t statistics = batch_statistics ? 2 * of.hidden : of.hidden, all = of.batch * of.hidden;
    const auto* m = check.flat<const Acc>("mean", mean, statistics);
    const auto* v = check.flat<const Acc>("variance", variance, statistics);
    const auto* g = check.flat<const T>("grad", grad, of.batch * of.outputs);
    const Gradients wanted = check.spread(grads, needed, 6);
    AttentionGradients<T> products{check.flat<T>("grad of avg", wanted[0], of.batch * of.inputs),
                                   check.flat<T>("grad of max", wanted[1], of.batch * of.inputs),
                                   check.flat<Acc>("grad of conv1_weight", wanted[2], of.hidden * of.inputs),
                                   check.flat<Acc>("grad of conv2_weight", wanted[5], of.outputs * of.hidden),
                                   0,
                                   0,
                                   0};
    auto* d_weight = check.flat<Acc>("grad of weight", wanted[3], of.hidden);
    auto* d_bias = check.flat<Acc>("grad of bias", wanted[4], of.hidden);
    if (products.avg || products.max) products.of_pooled = of.batch * of.inputs;
    if (products.conv1) products.of_conv1 = of.hidden * of.inputs;
    if (products.conv2) products.of_conv2 = of.outputs * of.hidden;

    const Tensor memory = scratch<Acc>(grad, 6 * all);
    Acc *rows = data_of<Acc>(memory), *units = products.conv2 ? rows + 3 * all : nullptr;
    Acc* grad_hidden = products.of_pooled + products.of_conv1 > 0 ? rows + 4 * all : nullptr;
    launch(attention_units_backward<T>, of.hidden, of.pooled, of.hidden, of.outputs, g, of.w1, of.w2, of.norm, m, v,
           batch_statistics, rows, units, grad_hidden, d_weight, d_bias);
    const int64_t elements = products.of_pooled + products.of_conv1 + products.of_conv2;
    if (elements > 0)
      launch(attention_products<T>, ceil_div(elements, THREADS), of.pooled, of.hidden, of.outputs, g, of.w1, units,
             grad_hidden, products);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("channel_attention_forward", TORCH_BOX(&afa::channel_attention_forward));
  m.impl("channel_attention_by_batch", TORCH_BOX(&afa::channel_attention_by_batch));
  m.impl("channel_attention_differentiate", TORCH_BOX(&afa::channel_attention_differentiate));
}
