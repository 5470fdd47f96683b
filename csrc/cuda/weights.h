// What the launchers of everything that is composited share.
#pragma once

#include "../phi.h"
#include "launch.h"
#include "weights.cuh"

namespace afa {

inline Compositing compositing_of(const Checker& check, const Layout& layout, const std::string& phi,
                                  bool opaque_last) {
  STD_TORCH_CHECK(layout.channels > 0 && layout.channels <= MOST_SCALES, check.op, ": logits must have 1 to ",
                  MOST_SCALES, " scales, got ", layout.channels);
  Compositing c{layout.pixels, static_cast<int32_t>(layout.channels), {AnyPhi::abs}, opaque_last};
  dispatch_phi(check, phi, [&](auto p) {
    using Phi = decltype(p);
    c.phi.kind = std::is_same_v<Phi, Abs>        ? AnyPhi::abs
                 : std::is_same_v<Phi, Relu>     ? AnyPhi::relu
                 : std::is_same_v<Phi, Softplus> ? AnyPhi::softplus
                                                 : AnyPhi::exp;
  });
  return c;
}

// Calls body(integral_constant) for the room that so many scales take: in float64, for the size of the library, the
// most.
template <class T, class F>
void dispatch_scales(int64_t scales, const F& body) {
  if constexpr (sizeof(T) < sizeof(double)) {
    if (scales <= 3) return body(std::integral_constant<int, 3>{});
    if (scales <= 6) return body(std::integral_constant<int, 6>{});
  }
  body(std::integral_constant<int, MOST_SCALES>{});
}

}  // namespace afa
