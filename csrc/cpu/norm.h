#pragma once

#include <cmath>

#include "../arithmetic/norm.h"
#include "../common.h"

namespace afa {

// y = (z - mean) scale + beta. The parameters and the statistics are rows in the arithmetic type.
template <class Acc>
struct Norm {
  const Acc *gamma, *beta, *mean;
  std::vector<Acc> deviation, scale;  // 1 / sqrt(variance + eps), and gamma times that

  Norm(const Checker& check, const Tensor& weight, const Tensor& bias, const Tensor& mean_row, const Tensor& variance,
       int64_t channels, double eps, bool abs_weight)
      : gamma(check.flat<const Acc>("weight", weight, channels)),
        beta(check.flat<const Acc>("bias", bias, channels)),
        mean(check.flat<const Acc>("mean", mean_row, channels)),
        deviation(channels),
        scale(channels) {
    const Acc* v = check.flat<const Acc>("variance", variance, channels);
    for (int64_t c = 0; c < channels; ++c) {
      const double inverse = inverse_deviation(v[c], eps);
      deviation[c] = static_cast<Acc>(inverse);
      scale[c] = static_cast<Acc>(inverse * norm_weight(gamma[c], eps, abs_weight));
    }
  }
};

}  // namespace afa
