#pragma once
#include <memory>

#include "../common.h"

namespace afa {

// sigmoid(z) and 1 - sigmoid(z) = sigmoid(-z), which stays accurate where sigmoid(z) rounds to 1.
template <class Acc>
struct Gate {
  std::unique_ptr<Acc[]> open, shut;

  explicit Gate(int64_t size) : open(new Acc[size]), shut(new Acc[size]) {}

  // The logits were read into `open`.
  void activate(int64_t first, int64_t count) {
    vectorized([&] {
      Acc* __restrict o = &open[first];
      Acc* __restrict s = &shut[first];
      for (int64_t i = 0; i < count; ++i) {
        const Acc z = o[i];
        o[i] = sigmoid(z);
        s[i] = sigmoid(-z);
      }
    });
  }
};

}  // namespace afa
