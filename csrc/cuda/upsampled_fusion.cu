// upsampled_fusion on CUDA: the launchers of upsampled_fusion.cuh. The weight comes as (2 f, 2 f, C) in the arithmetic
// type.
#include "attentive_fusion.h"
#include "upsampled_fusion.cuh"
#include "upsampling.h"

namespace afa {
namespace {

constexpr Checker check{"upsampled_fusion"};

// What forward and backward read.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  Layout fine, coarse;
  Launcher launch;
  Rows<const T> x;
  Upsampled<T> up;
  FusionLogits logits;
  Tensor spatial_factors, channel_factors;
  bool packed;  // but for the results

  Fusion(const Tensor& shallow, const Tensor& deep, const Tensor& weight, const Tensor& spatial, const Tensor& channel)
      : fine(shallow),
        coarse(fine),
        launch(check.op, shallow),
        logits(fusion_logits(check, spatial, channel, fine)),
        spatial_factors(scratch<Acc>(shallow, 2 * fine.batch * fine.pixels)),
        channel_factors(scratch<Acc>(shallow, 2 * fine.batch * fine.channels)) {
    const int64_t f = factor_of(check, weight);
    coarse = resized(fine, fine.height / f, fine.width / f);
    const Layout upsampled = resized(coarse, f * coarse.height, f * coarse.width);
    up = upsampled_of<T>(check, deep, weight, coarse);
    x = rows_of(check.map<const T>("shallow", shallow, upsampled), fine);
    packed = aligned(x, fine) && (!fine.channels_last || aligned(up, coarse));
    make_factors(fine.pixels, fine.channels_last ? logits.across : logits.along, false, of_pixels());
    make_factors(fine.channels, fine.channels_last ? logits.along : logits.across, true, of_channels());
  }

  Gates<Acc>* of_pixels() const { return static_cast<Gates<Acc>*>(spatial_factors.data_ptr()); }
  Gates<Acc>* of_channels() const { return static_cast<Gates<Acc>*>(channel_factors.data_ptr()); }

  void make_factors(int64_t size, const AnyRow& of, bool reversed, Gates<Acc>* to) const {
    launch(fusion_factors<Acc>, blocks_of_pixels(fine.batch, size), size, of, reversed, to);
  }
  FusionFactors<Acc> factors() const {
    return {fine.channels_last ? of_channels() : of_pixels(), fine.channels_last ? of_pixels() : of_channels(),
            fine.length(), fine.rows()};
  }
};

template <class T>
void forward(const Tensor& shallow, const Tensor& deep, const Tensor& weight, const Tensor& spatial,
             const Tensor& channel, const Tensor& out) {
  const Fusion<T> fusion(shallow, deep, weight, spatial, channel);
  const Layout& fine = fusion.fine;
  const auto o = rows_of(check.map<T>("out", out, fine), fine);
  const bool packed = fusion.packed && aligned(o, fine);
  const Tiling tiling = tiling_of(fine, upsampled_pack<T>(packed));
  dispatch_packed<T>(
      [&](auto packed, auto channels_last) {
        fusion.launch(upsampled_forward<T, packed, channels_last>, tiling.blocks(), tiling, fusion.x, fusion.up,
                      fusion.factors(), o);
      },
      packed, fine.channels_last);
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const Tensor& shallow, const Tensor& deep, const Tensor& weight,
              const Tensor& spatial, const Tensor& channel, const Gradients& grads) {
  if (!any(grads)) return;
  const Fusion<T> fusion(shallow, deep, weight, spatial, channel);
  const Layout& fine = fusion.fine;
  const auto g = rows_of(check.map<const T>("grad", grad, fine), fine);
  if (grads[0] || grads[3] || grads[4]) {
    const auto dx = rows_of(check.map<T>("grad of shallow", grads[0], fine), fine);
    const bool packed = fusion.packed && aligned(g, fine) && aligned(dx, fine);
    const Tiling tiling = tiling_of(fine, upsampled_pack<T>(packed), FUSION_SPLITS);
    const FusionSums<Acc> sums(check, shallow, fine, tiling, grads[3], grads[4]);
    dispatch_packed<T>(
        [&](auto packed, auto channels_last) {
          fusion.launch(upsampled_backward<T, packed, channels_last>, tiling.blocks(), tiling, g, fusion.x, fusion.up,
                        fusion.factors(), dx, sums.along(), sums.across());
        },
        packed, fine.channels_last);
    sums.finish(fusion.launch, fusion.logits);
  }
  if (grads[1] || grads[2]) {
    const FusionUpstream<T> upstream{g, fusion.of_pixels(), fusion.of_channels(), fine.pixels, fine.channels};
    collect(check, fusion.launch, fusion.coarse, fusion.up, upstream, aligned(g, fine), grads[1], grads[2], shallow);
  }
}

void upsampled_fusion_forward(Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits, Tensor channel_logits,
                              Tensor out) {
  dispatch(shallow.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(shallow, deep, weight, spatial_logits, channel_logits, out); });
}

void upsampled_fusion_backward(Tensor grad, Tensor shallow, Tensor deep, Tensor weight, Tensor spatial_logits,
                               Tensor channel_logits, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(shallow.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad, shallow, deep, weight, spatial_logits, channel_logits, check.spread(grads, needed, 5));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("upsampled_fusion_forward", TORCH_BOX(&afa::upsampled_fusion_forward));
  m.impl("upsampled_fusion_backward", TORCH_BOX(&afa::upsampled_fusion_backward));
}
