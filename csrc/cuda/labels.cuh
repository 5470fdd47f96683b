// The kernel of labels: the channel with the largest score, where scores are nowhere stored, and its score or its
// probability.
#pragma once

#include <limits>

#include "../arithmetic/softmax.h"
#include "scores.cuh"

namespace afa {

// Of some channels the first with the largest score, NaN being the largest; and, for its probability, the sum
// of exp(score - largest).
template <class Acc>
struct Best {
  Acc score = -std::numeric_limits<Acc>::infinity(), total = 0;
  int32_t label = INT32_MAX;  // of no channel

  __device__ void take(Acc value, int32_t channel, bool probability) {
    Acc largest = score;
    if (probability) add_exp(value, largest, total);
    const bool better = label == INT32_MAX || value > score || (value != value && score == score);
    score = better ? value : score;
    label = better ? channel : label;
  }
};

// A label of the type that was asked for.
struct Labels {
  void* data;
  ScalarType dtype;

  __device__ void write(int64_t i, int32_t label) const {
    switch (dtype) {
      case ScalarType::Byte: static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(label); break;
      case ScalarType::Int: static_cast<int32_t*>(data)[i] = label; break;
      default: static_cast<int64_t*>(data)[i] = label;
    }
  }
};

// `values` may be null; else it gets scores, or probabilities.
template <class Scores, class Acc = typename Scores::Acc>
__global__ void __launch_bounds__(THREADS, Scores::blocks)
    most_likely(Canvas canvas, Scores scores, bool probability, Labels labels, Acc* __restrict__ values) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const auto shared = scores.at(spot);
  Best<Acc> best;
  for_each_channel<Scores::at_once>(spot.first, spot.last, [&](auto count, int32_t c) {
    Acc read[count];
    scores.read(shared, spot.n, c, read);
#pragma unroll
    for (int i = 0; i < count; ++i) best.take(read[i], c + i, probability);
  });
  const int64_t at = static_cast<int64_t>(spot.n) * canvas.height * canvas.width + spot.p;
  labels.write(at, best.label);
  if (values != nullptr) values[at] = probability ? 1 / best.total : best.score;
}

}  // namespace afa
