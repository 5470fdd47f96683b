#pragma once

#include "math.h"

namespace afa {

// 1 - sigmoid(z) is sigmoid(-z), which stays accurate where sigmoid(z) rounds to 1.
template <class Acc>
AFA_HD inline Acc sigmoid(Acc z) {
  return Acc(1) / (Acc(1) + exp(-z));
}

// sigmoid(z) and sigmoid(-z), of one exponential and one division.
template <class Acc>
struct Gates {
  Acc open, shut;

  Gates() = default;
  AFA_HD explicit Gates(Acc z) {
    const Acc small = exp(z < 0 ? z : -z), near_one = Acc(1) / (Acc(1) + small);
    open = z < 0 ? small * near_one : near_one;
    shut = z < 0 ? near_one : small * near_one;
  }
};

}  // namespace afa
