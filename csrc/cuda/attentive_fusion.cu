// attentive_fusion on CUDA: the launchers of attentive_fusion.cuh.
#include "attentive_fusion.cuh"
#include "launch.h"

namespace afa {
namespace {

constexpr Checker check{"attentive_fusion"};
constexpr int64_t SPLITS = 256;  // of an image, at most: rows of partial sums that are added up

FusionLogits logits_of(const Tensor& spatial, const Tensor& channel, const Layout& layout) {
  const AnyRow a = any_pixels(check, "spatial_logits", spatial, layout);
  const AnyRow b = any_channels(check, "channel_logits", channel, layout);
  return layout.channels_last ? FusionLogits{b, a, true} : FusionLogits{a, b, false};
}

template <class T>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& spatial, const Tensor& channel,
             const Tensor& out) {
  const Layout layout(shallow);
  const auto x = rows_of(check.map<const T>("shallow", shallow, layout), layout);
  const auto y = rows_of(check.map<const T>("deep", deep, layout), layout);
  const auto o = rows_of(check.map<T>("out", out, layout), layout);
  const FusionLogits logits = logits_of(spatial, channel, layout);
  const Launcher launch(check.op, shallow);
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_flags([&](auto packed) { launch(fusion_forward<T, packed>, tiling.blocks(), tiling, x, y, logits, o); },
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
  const FusionLogits logits = logits_of(spatial, channel, layout);
  const std::optional<AnyRow> ds =
      grads[2] ? std::optional(any_pixels(check, "grad of spatial_logits", *grads[2], layout)) : std::nullopt;
  const std::optional<AnyRow> dq =
      grads[3] ? std::optional(any_channels(check, "grad of channel_logits", *grads[3], layout)) : std::nullopt;
  if (!any(grads)) return;

  const Launcher launch(check.op, shallow);
  const Tiling tiling = tiling_of(layout, PACK<T>, SPLITS);
  const auto &d_along = layout.channels_last ? dq : ds, &d_across = layout.channels_last ? ds : dq;
  std::optional<Tensor> along, across;
  if (d_along) along = scratch<Acc>(shallow, layout.batch * tiling.splits * tiling.length);
  if (d_across) across = scratch<Acc>(shallow, layout.batch * tiling.chunks * tiling.rows);
  Acc *sums_along = data_of<Acc>(along), *sums_across = data_of<Acc>(across);
  dispatch_flags(
      [&](auto packed) {
        launch(fusion_backward<T, packed>, tiling.blocks(), tiling, g, x, y, logits, dx, dy, sums_along, sums_across);
      },
      aligned(g, layout) && aligned(x, layout) && aligned(y, layout) && aligned(dx, layout) && aligned(dy, layout));
  if (d_along)
    launch.finish(sums_along, layout.batch, tiling.splits, tiling.length,
                  FusionLogitsGradient{logits.along, *d_along, layout.channels_last});
  if (d_across)
    launch.finish(sums_across, layout.batch, tiling.chunks, tiling.rows,
                  FusionLogitsGradient{logits.across, *d_across, !layout.channels_last});
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
