// Kernels of scale_space_cross_entropy: -u_t log_softmax(rendered)_t of every pixel. The forward keeps log(sum exp) of
// a pixel; the backward renders once more.
#pragma once

#include <limits>

#include "../arithmetic/softmax.h"
#include "render.cuh"

namespace afa {

constexpr int64_t IGNORED = -1, WRONG = -2;  // targets that are no class

// The class of a pixel, and the weight that it has.
template <class Acc>
struct Target {
  const void* data;
  ScalarType dtype;
  int64_t ignore_index, channels;
  const Acc* weight;  // of a class; or null

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

template <class T, int most, class Acc = acc_t<T>>
__global__ void __launch_bounds__(THREADS)
    cross_entropy_forward(Canvas canvas, Predictions<T, most> predictions, Maps<Acc, most> maps, Target<Acc> target,
                          Acc* __restrict__ losses, Acc* __restrict__ lse) {
  const Spot spot(canvas);
  const Rendering<T, most> rendering(predictions, maps, spot);
  const int64_t at = spot.n * canvas.height * canvas.width + spot.p;
  const int64_t t = spot.inside ? target.at(at) : IGNORED;
  Acc best = -std::numeric_limits<Acc>::infinity(), total = 0, score_of_target = 0;
  for (int64_t c = spot.lane; c < canvas.channels && spot.inside; c += canvas.lanes) {
    const Acc score = rendering.score(predictions, maps, spot, c);
    add_exp(score, best, total);
    if (c == t) score_of_target = score;
  }
  for (int32_t d = canvas.lanes / 2; d > 0; d /= 2) {
    const Acc other = __shfl_xor_sync(0xffffffffu, best, d), other_total = __shfl_xor_sync(0xffffffffu, total, d);
    const Acc difference = best == other ? Acc(0) : best - other;  // equal infinities differ by nothing
    const Acc share = exp(difference > 0 ? -difference : difference);
    total = difference > 0 ? total + share * other_total : share * total + other_total;
    best = difference > 0 ? best : other;
  }
  score_of_target = sum_over(score_of_target, canvas.lanes);  // one thread has it
  if (!spot.inside || spot.lane != 0) return;
  const bool infinite = best == std::numeric_limits<Acc>::infinity();  // such a score has no softmax
  const Acc value = infinite ? std::numeric_limits<Acc>::quiet_NaN() : best + std::log(total);
  lse[at] = value;
  losses[at] = target.weighted(t, value - score_of_target);
}

// dL/d rendered = dL/d loss u_t (softmax - onehot).
template <class Acc>
struct CrossEntropy {
  static constexpr bool of_scores = true;
  Target<Acc> target;
  const Acc *grad, *lse;
  int64_t pixels;

  __device__ Acc at(const Spot& spot, int64_t c, Acc score) const {
    const int64_t i = spot.n * pixels + spot.p, t = target.at(i);
    return target.weighted(t, grad[i]) * (exp(score - lse[i]) - (t == c ? Acc(1) : Acc(0)));
  }
};

}  // namespace afa
