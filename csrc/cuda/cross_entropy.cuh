// Kernels of the cross-entropies of scores that are nowhere stored, of a pixel with the target t:
//
//   weight_t (lse - r_t) + sum_c smoothing_c (lse - r_c)        lse = log(sum_c exp(r_c))
//
// The forward keeps lse; the backward computes the scores once more.
#pragma once

#include <limits>

#include "../arithmetic/softmax.h"
#include "scores.cuh"

namespace afa {

constexpr int64_t IGNORED = -1, WRONG = -2;  // targets that are no class

// The class of a pixel, and what each class weighs in the loss.
template <class Acc>
struct Target {
  const void* data;
  ScalarType dtype;
  int64_t ignore_index, channels;
  const Acc *weight, *smoothing;  // null for 1, and for 0; the last of the smoothing is the sum of the others

  __device__ int64_t at(int64_t i) const {
    const int64_t t = dtype == ScalarType::Byte  ? static_cast<const uint8_t*>(data)[i]
                      : dtype == ScalarType::Int ? static_cast<const int32_t*>(data)[i]
                                                 : static_cast<const int64_t*>(data)[i];
    return t == ignore_index ? IGNORED : t >= 0 && t < channels ? t : WRONG;
  }

  // `value` times the weight of class t, NaN if that is no class; 0 where the pixel is ignored, whatever the value.
  __device__ Acc weighted(int64_t t, Acc value) const {
    if (t >= 0) return weight != nullptr ? weight[t] * value : value;
    return t == IGNORED ? Acc(0) : std::numeric_limits<Acc>::quiet_NaN();
  }
};

template <class Scores, class Acc = typename Scores::Acc>
__global__ void __launch_bounds__(THREADS, Scores::blocks)
    cross_entropy_forward(Canvas canvas, Scores scores, Target<Acc> target, Acc* __restrict__ losses,
                          Acc* __restrict__ lse) {
  const Spot spot(canvas);
  if (!spot.inside) return;
  const auto shared = scores.at(spot);
  const int64_t at = static_cast<int64_t>(spot.n) * canvas.height * canvas.width + spot.p, t = target.at(at);
  Acc best = -std::numeric_limits<Acc>::infinity(), total = 0, score_of_target = 0, smooth = 0;
  for_each_channel<Scores::at_once>(spot.first, spot.last, [&](auto count, int32_t c) {
    Acc read[count];
    scores.read(shared, spot.n, c, read);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      add_exp(read[i], best, total);
      if (c + i == t) score_of_target = read[i];
      if (target.smoothing != nullptr) smooth += target.smoothing[c + i] * read[i];
    }
  });
  const bool infinite = best == std::numeric_limits<Acc>::infinity();  // such a score has no softmax
  const Acc value = infinite ? std::numeric_limits<Acc>::quiet_NaN() : best + std::log(total);
  const bool smoothed = target.smoothing != nullptr && t >= 0;
  lse[at] = value;
  losses[at] = target.weighted(t, value - score_of_target) +
               (smoothed ? target.smoothing[target.channels] * value - smooth : Acc(0));
}

// The gradient of a pixel's scores: dL/d loss (weight_t (softmax - onehot) + smoothed softmax - smoothing).
template <class Acc>
struct ScoreGradient {
  const Acc* smoothing;
  int64_t target;
  Acc weighted, upstream, smoothed, lse;

  __device__ Acc operator()(int32_t c, Acc score) const {
    const Acc softmax = exp(score - lse), grad = weighted * (softmax - (c == target ? Acc(1) : Acc(0)));
    return smoothing != nullptr ? grad + upstream * (smoothed * softmax - smoothing[c]) : grad;
  }
};

template <class Acc>
struct CrossEntropy {
  static constexpr bool of_scores = true;
  Target<Acc> target;
  const Acc *grad, *lse;
  int64_t pixels;

  __device__ ScoreGradient<Acc> of(int32_t n, int64_t p) const {
    const int64_t i = n * pixels + p, t = target.at(i);
    const Acc upstream = t == IGNORED ? Acc(0) : grad[i];
    const Acc smoothed = target.smoothing != nullptr ? target.smoothing[target.channels] : Acc(0);
    return {target.smoothing, t, target.weighted(t, grad[i]), upstream, smoothed, lse[i]};
  }
};

}  // namespace afa
