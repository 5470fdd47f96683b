// What the launchers over one resized map share.
#pragma once

#include "render.h"
#include "scores.cuh"

namespace afa {

template <class T>
ResizedScores<T> resized_scores(const Checker& check, const Tensor& logits, const Layout& layout, int64_t height,
                                int64_t width) {
  check.pixels("logits", logits);
  const auto map = check.map<const T>("logits", logits, layout);
  return {{map.data, map.sn, map.sc, map.sp, resize_of<acc_t<T>>(check, layout.height, layout.width, height, width)}};
}

}  // namespace afa
