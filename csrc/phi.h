// The phi of a name, which an operation is called with.
#pragma once

#include "arithmetic/phi.h"
#include "common.h"

namespace afa {

// Calls body(Phi{}) for the phi of that name.
template <class F>
void dispatch_phi(const Checker& check, const std::string& phi, const F& body) {
  if (phi == "abs") return body(Abs{});
  if (phi == "relu") return body(Relu{});
  if (phi == "softplus") return body(Softplus{});
  if (phi == "exp") return body(Exp{});
  STD_TORCH_CHECK(false, check.op, ": phi must be abs, relu, softplus or exp, got ", phi);
}

}  // namespace afa
