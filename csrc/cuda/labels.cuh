// The kernel of labels: the channel with the largest score, where scores are nowhere stored, and its score or its
// probability.
#pragma once

#include <limits>

#include "../arithmetic/softmax.h"
#include "scores.cuh"

namespace afa {

// Of some channels the first with the largest score, NaN being the largest; and the sum of exp(score - largest).
template <class Acc>
struct Best {
  Acc score = -std::numeric_limits<Acc>::infinity(), total = 0;
  int32_t label = INT32_MAX;  // of no channel

  __device__ void take(Acc value, int32_t channel) {
    Acc largest = score;
    add_exp(value, largest, total);
    const bool better = label == INT32_MAX || value > score || (value != value && score == score);
    score = better ? value : score;
    label = better ? channel : label;
  }

  // The same whichever of the two comes first.
  __device__ void merge(const Best& other) {
    if (other.label == INT32_MAX) return;
    const bool nan = score != score, other_nan = other.score != other.score;
    const bool earlier = other.label < label;
    const bool better =
        label == INT32_MAX ||
        (nan || other_nan ? other_nan && (!nan || earlier) : other.score > score || (other.score == score && earlier));
    const Acc difference = score == other.score ? Acc(0) : score - other.score;  // equal infinities differ by nothing
    const Acc share = exp(difference > 0 ? -difference : difference);
    total = difference > 0 ? total + share * other.total : share * total + other.total;
    score = better ? other.score : score;
    label = better ? other.label : label;
  }
};

template <class Acc>
__device__ Best<Acc> best_of(Best<Acc> best, int32_t lanes) {
  for (int32_t d = lanes / 2; d > 0; d /= 2) {
    Best<Acc> other;
    other.score = __shfl_xor_sync(0xffffffffu, best.score, d);
    other.total = __shfl_xor_sync(0xffffffffu, best.total, d);
    other.label = __shfl_xor_sync(0xffffffffu, best.label, d);
    best.merge(other);
  }
  return best;
}

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
__global__ void __launch_bounds__(THREADS)
    most_likely(Canvas canvas, Scores scores, bool probability, Labels labels, Acc* __restrict__ values) {
  const Spot spot(canvas);
  const auto shared = scores.at(spot);
  Best<Acc> best;
  for (int64_t c = spot.lane; c < canvas.channels && spot.inside; c += canvas.lanes)
    best.take(scores.score(shared, spot, c), static_cast<int32_t>(c));
  best = best_of(best, canvas.lanes);
  if (!spot.inside || spot.lane != 0) return;
  const int64_t at = spot.n * canvas.height * canvas.width + spot.p;
  labels.write(at, best.label);
  if (values != nullptr) values[at] = probability ? 1 / best.total : best.score;
}

}  // namespace afa
