// What the launchers of the cross-entropies share.
#pragma once

#include "cross_entropy.cuh"
#include "render.h"

namespace afa {

template <class Acc>
Target<Acc> target_of(const Checker& check, const Tensor& target, const std::optional<Tensor>& weight,
                      const std::optional<Tensor>& smoothing, int64_t ignore_index, int64_t channels, int64_t pixels) {
  const ScalarType type = target.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long, check.op,
                  ": target has an unsupported dtype ", static_cast<int>(type));
  check.contiguous("target", target, pixels);
  return {target.data_ptr(),
          type,
          ignore_index,
          channels,
          check.flat<const Acc>("weight", weight, channels),
          check.flat<const Acc>("smoothing", smoothing, channels + 1)};
}

}  // namespace afa
