#pragma once

#include "math.h"

namespace afa {

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
