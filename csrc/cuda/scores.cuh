// Where the scores of a pixel come from, a channel at a time: predictions that are rendered, or one map that is
// resized. `at` is what the channels of the pixel share.
#pragma once

#include "render.cuh"

namespace afa {

template <class T, int most>
struct RenderedScores {
  using Acc = acc_t<T>;
  Predictions<T, most> predictions;
  Maps<Acc, most> maps;

  __device__ Rendering<T, most> at(const Spot& spot) const { return {predictions, maps, spot}; }
  __device__ Acc score(const Rendering<T, most>& rendering, const Spot& spot, int64_t c) const {
    return rendering.score(predictions, maps, spot, c);
  }
};

template <class T>
struct ResizedScores {
  using Acc = acc_t<T>;
  Resized<T> logits;

  __device__ Taps<Acc> at(const Spot& spot) const { return logits.taps(spot.y, spot.x); }
  __device__ Acc score(const Taps<Acc>& taps, const Spot& spot, int64_t c) const {
    return logits.value(taps, spot.n, c);
  }
};

}  // namespace afa
