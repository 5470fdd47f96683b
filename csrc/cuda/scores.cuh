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

  static constexpr int at_once = AT_ONCE, blocks = SAMPLING<Acc, most>;

  __device__ Rendering<T, most> at(const Spot& spot) const { return {predictions, maps, spot}; }
  template <int count>
  __device__ void read(const Rendering<T, most>& rendering, int32_t n, int32_t c, Acc (&scores)[count]) const {
    rendering.scores(predictions, maps, n, c, scores);
  }
};

template <class T>
struct ResizedScores {
  using Acc = acc_t<T>;
  Resized<T> logits;

  static constexpr int at_once = AT_ONCE, blocks = SAMPLING<Acc, 1>;

  __device__ Taps<Acc> at(const Spot& spot) const { return logits.taps(spot.y, spot.x); }
  template <int count>
  __device__ void read(const Taps<Acc>& taps, int32_t n, int32_t c, Acc (&scores)[count]) const {
    logits.read(taps, n, c, scores);
  }
};

// dL/d score of the rows of `canvas`, computed from the scores.
template <class Scores, class Gradient, class Acc = typename Scores::Acc>
__global__ void __launch_bounds__(THREADS, Scores::blocks)
    gradient_rows(Canvas canvas, Scores scores, Gradient gradient, Map<Acc> rows) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const auto shared = scores.at(spot);
  const auto grad_of = gradient.of(spot.n, spot.p);
  for_each_channel<Scores::at_once>(spot.first, spot.last, [&](auto count, int32_t c) {
    Acc read[count];
    scores.read(shared, spot.n, c, read);
    Acc* channel = rows.data + spot.n * rows.sn + c * rows.sc;
#pragma unroll
    for (int i = 0; i < count; ++i) channel[i * rows.sc + spot.local] = grad_of(c + i, read[i]);
  });
}

}  // namespace afa
