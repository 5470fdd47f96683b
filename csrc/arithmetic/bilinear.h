#pragma once

#include <cstdint>

#include "math.h"

namespace afa {

// An output lies between the inputs `low` and `low` + 1 (at the end: the last one twice), `fraction` of the way.
template <class Acc>
struct Source {
  int32_t low;
  Acc fraction;
};

// As torch.nn.functional.interpolate(mode="bilinear", align_corners=False); scale is in / out.
template <class Acc>
AFA_HD inline Source<Acc> source_of(int64_t i, Acc scale, int64_t in) {
  const Acc centered = (static_cast<Acc>(i) + Acc(0.5)) * scale - Acc(0.5);
  const Acc source = centered < 0 ? Acc(0) : centered;
  const auto low = static_cast<int64_t>(source);
  const auto inside = static_cast<int32_t>(low < in ? low : in - 1);
  return {inside, source - static_cast<Acc>(inside)};
}

}  // namespace afa
