// What the launchers of attentive_fusion and upsampled_fusion share.
#pragma once

#include "attentive_fusion.cuh"
#include "launch.h"

namespace afa {

constexpr int64_t FUSION_SPLITS = 256;  // of an image, at most: rows of partial sums that are added up

inline FusionLogits fusion_logits(const Checker& check, const Tensor& spatial, const Tensor& channel,
                                  const Layout& layout) {
  const AnyRow a = any_pixels(check, "spatial_logits", spatial, layout);
  const AnyRow b = any_channels(check, "channel_logits", channel, layout);
  return layout.channels_last ? FusionLogits{b, a, true} : FusionLogits{a, b, false};
}

// The sums that the gradients of the logits are made of, where these are needed.
template <class Acc>
class FusionSums {
  const Layout& layout_;
  const Tiling& tiling_;
  std::optional<AnyRow> d_along_, d_across_;
  std::optional<Tensor> along_, across_;

 public:
  FusionSums(const Checker& check, const Tensor& like, const Layout& layout, const Tiling& tiling,
             const std::optional<Tensor>& grad_spatial, const std::optional<Tensor>& grad_channel)
      : layout_(layout), tiling_(tiling) {
    auto &a = layout.channels_last ? d_across_ : d_along_, &b = layout.channels_last ? d_along_ : d_across_;
    if (grad_spatial) a = any_pixels(check, "grad of spatial_logits", *grad_spatial, layout);
    if (grad_channel) b = any_channels(check, "grad of channel_logits", *grad_channel, layout);
    if (d_along_) along_ = scratch<Acc>(like, layout.batch * tiling.splits * tiling.length);
    if (d_across_) across_ = scratch<Acc>(like, layout.batch * tiling.chunks * tiling.rows);
  }

  Acc* along() const { return data_of<Acc>(along_); }
  Acc* across() const { return data_of<Acc>(across_); }

  void finish(const Launcher& launch, const FusionLogits& logits) const {
    if (d_along_)
      launch.finish(along(), layout_.batch, tiling_.splits, tiling_.length,
                    FusionLogitsGradient{logits.along, *d_along_, layout_.channels_last});
    if (d_across_)
      launch.finish(across(), layout_.batch, tiling_.chunks, tiling_.rows,
                    FusionLogitsGradient{logits.across, *d_across_, !layout_.channels_last});
  }
};

}  // namespace afa
