// What the launchers of labels share.
#pragma once

#include "labels.cuh"
#include "render.h"

namespace afa {

inline Labels labels_of(const Checker& check, const Tensor& labels, int64_t pixels) {
  const ScalarType type = labels.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long, check.op,
                  ": unsupported dtype ", static_cast<int>(type));
  check.contiguous("labels", labels, pixels);
  return {labels.data_ptr(), type};
}

}  // namespace afa
