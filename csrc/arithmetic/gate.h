#pragma once

#include "math.h"

namespace afa {

// 1 - sigmoid(z) is sigmoid(-z), which stays accurate where sigmoid(z) rounds to 1.
template <class Acc>
AFA_HD inline Acc sigmoid(Acc z) {
  return Acc(1) / (Acc(1) + exp(-z));
}

}  // namespace afa
