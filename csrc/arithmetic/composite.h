// One scale of a pixel, composited front to back; its gradient, back to front. T is the transmittance of what is in
// front of the scale, and `behind` is what the scales behind it contribute to the gradient.
#pragma once

#include "math.h"

namespace afa {

template <class Acc>
AFA_HD inline Acc opacity(Acc depth) {
  return -expm1(-depth);
}

// Returns w = (1 - exp(-d)) T.
template <class Acc>
AFA_HD inline Acc weigh(Acc depth, Acc& depth_sum, Acc& transmittance) {
  const Acc weight = opacity(depth) * transmittance;
  depth_sum += depth;
  transmittance = exp(-depth_sum);
  return weight;
}

// Returns dL/dd = exp(-d) T G - sum_{j>i} w_j G_j, given G = dL/dw and `after` = exp(-d) T.
template <class Acc>
AFA_HD inline Acc weigh_backward(Acc grad, Acc weight, Acc after, Acc& behind) {
  const Acc of_depth = after * grad - behind;
  behind += weight * grad;
  return of_depth;
}

// Returns what weighs a prediction: T alpha, or T if it is premultiplied by its alpha.
template <class Acc>
AFA_HD inline Acc composite(Acc alpha, bool premultiplied, Acc& transmittance) {
  const Acc weight = premultiplied ? transmittance : transmittance * alpha;
  transmittance *= 1 - alpha;
  return weight;
}

// Returns dL/dalpha = T (G - S_{i+1}) with S_i = alpha G + (1 - alpha) S_{i+1}; if premultiplied it is -T S_{i+1} with
// S_i = G + (1 - alpha) S_{i+1}.
template <class Acc>
AFA_HD inline Acc composite_backward(Acc grad, Acc alpha, bool premultiplied, Acc transmittance, Acc& behind) {
  const Acc of_alpha = transmittance * ((premultiplied ? Acc(0) : grad) - behind);
  behind = (premultiplied ? grad : alpha * grad) + (1 - alpha) * behind;
  return of_alpha;
}

}  // namespace afa
