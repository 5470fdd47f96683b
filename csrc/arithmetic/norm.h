// A batch norm, its statistics, and the leaky ReLU that follows it: y = (z - mean) scale + beta, r = y > 0 ? y : slope
// y.
#pragma once

#include <cmath>

#include "math.h"

namespace afa {

// The two factors of `scale`: 1 / sqrt(variance + eps), and gamma, or |gamma| + eps as InPlaceABN has it.
AFA_HD inline double inverse_deviation(double variance, double eps) {
  return 1 / std::sqrt(variance + eps);
}
AFA_HD inline double norm_weight(double gamma, double eps, bool abs_weight) {
  return abs_weight ? std::abs(gamma) + eps : gamma;
}

// `value` where y > 0, else slope * value. ReLU lets NaN through and gives 0 for infinity, as PyTorch's.
template <bool leaky, class Acc>
AFA_HD inline Acc rectified(Acc y, Acc value, Acc slope) {
  if constexpr (leaky) return y > 0 ? value : slope * value;
  return y <= 0 ? Acc(0) : value;
}

// Sums over pixels, of which a channel's gradients are made: of g r, of g' and of g' (z - mean), with g the gradient of
// the projection and g' = y > 0 ? g : slope g.
template <class Acc>
struct NormSums {
  Acc projected, passed, deviations;

  AFA_HD NormSums operator+(const NormSums& other) const {
    return {projected + other.projected, passed + other.passed, deviations + other.deviations};
  }
};

template <bool leaky, class Acc>
AFA_HD inline NormSums<Acc> norm_sums(Acc z, Acc grad, Acc mean, Acc scale, Acc beta, Acc slope) {
  const Acc deviation = z - mean, y = deviation * scale + beta, passed = rectified<leaky>(y, grad, slope);
  return {grad * rectified<leaky>(y, y, slope), passed, passed * deviation};
}

// Count, mean and sum of squared deviations of what was added, merged by Chan's formula.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  AFA_HD void add(double new_count, double new_mean, double new_squares) {
    const double total = count + new_count, delta = new_mean - mean;
    mean += delta * new_count / total;
    squares += new_squares + delta * delta * count * new_count / total;
    count = total;
  }

  // Values of which the deviations from `center` have these sums, plain and squared.
  AFA_HD void add_deviations(double new_count, double center, double sum, double sum_of_squares) {
    add(new_count, center + sum / new_count, sum_of_squares - sum * sum / new_count);
  }
};

}  // namespace afa
