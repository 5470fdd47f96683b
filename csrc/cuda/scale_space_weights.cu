// scale_space_weights on CUDA: the launchers of scale_space_weights.cuh.
#include "scale_space_weights.cuh"
#include "weights.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_weights"};

void scale_space_weights_forward(Tensor logits, std::string phi, bool opaque_last, Tensor weights,
                                 Tensor transmittance) {
  const Layout layout(logits);
  const Compositing c = compositing_of(check, layout, phi, opaque_last);
  const AnyMap y = any_map(check, "logits", logits, layout.shape());
  const AnyMap w = any_map(check, "weights", weights, layout.shape());
  const AnyMap t = any_map(check, "transmittance", transmittance, layout.of_pixels());
  const Launcher launch(check.op, logits);
  dispatch_accumulate(logits.scalar_type(), check.op, [&](auto acc) {
    dispatch_scales<decltype(acc)>(c.scales, [&](auto most) {
      launch(weights_forward<decltype(acc), most>, blocks_of_pixels(layout.batch, layout.pixels), c, y, w, t);
    });
  });
}

void scale_space_weights_backward(std::optional<Tensor> grad_weights, std::optional<Tensor> grad_transmittance,
                                  Tensor logits, std::string phi, bool opaque_last, Tensor grad_logits) {
  const Layout layout(logits);
  const Compositing c = compositing_of(check, layout, phi, opaque_last);
  const AnyMap dw = any_map(check, "grad_weights", grad_weights, layout.shape());
  const AnyMap dt = any_map(check, "grad_transmittance", grad_transmittance, layout.of_pixels());
  const AnyMap y = any_map(check, "logits", logits, layout.shape());
  const AnyMap dy = any_map(check, "grad_logits", grad_logits, layout.shape());
  const Launcher launch(check.op, logits);
  dispatch_accumulate(logits.scalar_type(), check.op, [&](auto acc) {
    dispatch_scales<decltype(acc)>(c.scales, [&](auto most) {
      launch(weights_backward<decltype(acc), most>, blocks_of_pixels(layout.batch, layout.pixels), c, dw, dt, y, dy);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_weights_forward", TORCH_BOX(&afa::scale_space_weights_forward));
  m.impl("scale_space_weights_backward", TORCH_BOX(&afa::scale_space_weights_backward));
}
