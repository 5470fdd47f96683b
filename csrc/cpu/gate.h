#pragma once

#include "../arithmetic/gate.h"
#include "rows.h"
#include "tiles.h"

namespace afa {

// sigmoid(z) and sigmoid(-z) of many values.
template <class Acc>
struct Gate {
  std::unique_ptr<Acc[]> open, shut;

  explicit Gate(int64_t size) : open(uninitialized<Acc>(size)), shut(uninitialized<Acc>(size)) {}

  // The logits were read into `open`.
  void activate(int64_t first, int64_t count) {
    Acc* __restrict o = &open[first];
    Acc* __restrict s = &shut[first];
    for (int64_t i = 0; i < count; ++i) {
      const Acc z = o[i];
      o[i] = sigmoid(z);
      s[i] = sigmoid(-z);
    }
  }
};

}  // namespace afa
