// attentive_fusion on CUDA: the launchers of attentive_fusion.cuh.
#include "attentive_fusion.h"

namespace afa {
namespace {

constexpr Checker check{"attentive_fusion"};

template <class T>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel,
             const Tensor& out) {
  const Layout layout(shallow);
  const auto x = rows_of(check.map<const T>("shallow", shallow, layout), layout);
  const auto y = rows_of(check.map<const T>("deep", deep, layout), layout);
  const auto o = rows_of(check.map<T>("out", out, layout), layout);
  const FusionLogits logits = fusion_logits(check, spatial, channel, layout);
  const Launcher launch(check.op, shallow);
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>([&](auto packed) { launch(fusion_forward<T, packed>, tiling.blocks(), tiling, x, y, logits, o); },
                     aligned(x, layout) && aligned(y, layout) && aligned(o, layout));
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& spatial,
              const Tensor& channel, const Gradients& grads) {
  const Layout layout(shallow);
  const auto g = rows_of(check.map<const T>("grad", grad, layout), layout);
  const auto x = rows_of(check.map<const T>("shallow", shallow, layout), layout);
  const auto y = rows_of(check.map<const T>("deep", deep, layout), layout);
  const auto dx = rows_of(check.map<T>("grad of shallow", grads[0], layout), layout);
  const auto dy = rows_of(check.map<T>("grad of deep", grads[1], layout), layout);
  const FusionLogits logits = fusion_logits(check, spatial, channel, layout);
  if (!any(grads)) return;

  const Launcher launch(check.op, shallow);
  const Tiling tiling = tiling_of(layout, PACK<T>, FUSION_SPLITS);
  const FusionSums<Acc> sums(check, shallow, layout, tiling, grads[2], grads[3]);
  dispatch_packed<T>(
      [&](auto packed) {
        launch(fusion_backward<T, packed>, tiling.blocks(), tiling, g, x, y, logits, dx, dy, sums.along(),
               sums.across());
      },
      aligned(g, layout) && aligned(x, layout) && aligned(y, layout) && aligned(dx, layout) && aligned(dy, layout));
  sums.finish(launch, logits);
}

void attentive_fusion_forward(Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits, Tensor out) {
  dispatch(shallow.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(shallow, deep, spatial_logits, channel_logits, out); });
}

void attentive_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor spatial_logits, Tensor channel_logits,
                               std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, spatial_logits, channel_logits, check.spread(grads, needed, 4));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("attentive_fusion_forward", TORCH_BOX(&afa::attentive_fusion_forward));
  m.impl("attentive_fusion_backward", TORCH_BOX(&afa::attentive_fusion_backward));
}
