// scale_space_render on CUDA: the launchers of render.cuh.
#include "render.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_render"};

void scale_space_render_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, Tensor out) {
  const Launcher launch(check.op, out);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    const int64_t height = out.size(2), width = out.size(3);
    const Inputs<T> inputs(check, launch, predictions, logits.size(0), height, width);
    const Planes<acc_t<T>> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    Renderer<T>{check, launch, inputs, planes}.forward(out);
  });
}

void scale_space_render_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, std::string phi,
                                 bool opaque_last, bool resize_opacities, std::vector<bool> needed,
                                 std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + 1);
  const Launcher launch(check.op, grad);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    const int64_t height = grad.size(2), width = grad.size(3);
    const Inputs<T> inputs(check, launch, predictions, logits.size(0), height, width);
    const Planes<acc_t<T>> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    const Renderer<T> renderer{check, launch, inputs, planes};
    const auto map_grads = renderer.backward(grad, predictions, all, all.back().has_value());
    if (all.back()) planes.logits_backward(check, launch, logits, phi, *map_grads, *all.back());
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_render_forward", TORCH_BOX(&afa::scale_space_render_forward));
  m.impl("scale_space_render_backward", TORCH_BOX(&afa::scale_space_render_backward));
}
