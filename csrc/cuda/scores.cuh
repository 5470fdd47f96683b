// Where the scores of a pixel come from, some channels at a time: predictions that are rendered, or one map that is
// resized. `at` is what the channels of the pixel share.
#pragma once

#include "render.cuh"

namespace afa {

template <class T, int most>
struct RenderedScores {
  using Acc = acc_t<T>;
  Predictions<T, most> predictions;
  Maps<Acc, most> maps;

  static constexpr int at_once = AT_ONCE<most>;

  __device__ Rendering<T, most> at(const Spot& spot) const { return {predictions, maps, spot}; }
  template <int count>
  __device__ void read(const Rendering<T, most>& rendering, int64_t n, int64_t c, Acc (&scores)[count]) const {
    rendering.scores(predictions, maps, n, c, scores);
  }
};

template <class T>
struct ResizedScores {
  using Acc = acc_t<T>;
  Resized<T> logits;

  static constexpr int at_once = AT_ONCE<1>;

  __device__ Taps<Acc> at(const Spot& spot) const { return logits.taps(spot.y, spot.x); }
  template <int count>
  __device__ void read(const Taps<Acc>& taps, int64_t n, int64_t c, Acc (&scores)[count]) const {
    logits.read(taps, n, c, scores);
  }
};

}  // namespace afa
