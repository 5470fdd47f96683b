// What the launchers over one resized map share.
#pragma once

#include "render.h"
#include "scores.cuh"

namespace afa {

template <class T>
Input<T> resized_input(const Checker& check, const Launcher& launch, const Tensor& logits, int64_t height,
                       int64_t width) {
  check.pixels("logits", logits);
  return {check, launch, "logits", logits, Layout(logits).shape(), height, width};
}

}  // namespace afa
