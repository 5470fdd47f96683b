// Softmax and argmax over values that come one at a time.
#pragma once

#include <cstdint>

#include "math.h"

namespace afa {

// One more term of log(sum exp): `total` is the sum of exp(value - best) over the values so far, of which `best` is the
// largest. Equal infinities differ by nothing.
template <class Acc>
AFA_HD inline void add_exp(Acc value, Acc& best, Acc& total) {
  const Acc difference = value == best ? Acc(0) : value - best;
  const Acc share = exp(difference > 0 ? -difference : difference);
  total = difference > 0 ? total * share + 1 : total + share;
  best = difference > 0 ? value : best;
}

// The first of the largest so far; NaN beats all.
template <class Acc>
AFA_HD inline void take_largest(Acc value, int32_t at, Acc& best, int32_t& found) {
  const bool better = (value > best) | ((value != value) & (best == best));
  best = better ? value : best;
  found = better ? at : found;
}

}  // namespace afa
