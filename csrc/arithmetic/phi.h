// The optical depth d = phi(y) >= 0, and the gradient of y given that of d. A NaN passes every comparison unchanged.
#pragma once

#include "gate.h"

namespace afa {

struct Abs {
  template <class Acc>
  AFA_HD static Acc depth(Acc y) {
    return y < 0 ? -y : y;
  }
  template <class Acc>
  AFA_HD static Acc backward(Acc y, Acc grad) {
    return grad * (y > 0 ? Acc(1) : y < 0 ? Acc(-1) : y);  // an infinite grad at 0 is NaN, as PyTorch's
  }
};

struct Relu {
  template <class Acc>
  AFA_HD static Acc depth(Acc y) {
    return y < 0 ? Acc(0) : y;
  }
  template <class Acc>
  AFA_HD static Acc backward(Acc y, Acc grad) {
    return y <= 0 ? Acc(0) : grad;
  }
};

struct Softplus {
  template <class Acc>
  AFA_HD static Acc depth(Acc y) {
    return log1p(exp(-Abs::depth(y))) + Relu::depth(y);
  }
  template <class Acc>
  AFA_HD static Acc backward(Acc y, Acc grad) {
    return grad * sigmoid(y);
  }
};

// The exponent ends at 80, where exp(-d) is long 0: d stays finite.
struct Exp {
  template <class Acc>
  AFA_HD static Acc depth(Acc y) {
    return exp(y > 80 ? Acc(80) : y);
  }
  template <class Acc>
  AFA_HD static Acc backward(Acc y, Acc grad) {
    return y <= 80 ? grad * exp(y) : Acc(0);
  }
};

}  // namespace afa
