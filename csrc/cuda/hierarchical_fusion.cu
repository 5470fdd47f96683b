// hierarchical_fusion on CUDA: predictions composited by opacities, each resized to the output from a resolution of its
// own, of which the last is opaque. The launchers of render.cuh.
#include "render.h"

namespace afa {
namespace {

constexpr Checker check{"hierarchical_fusion"};

void hierarchical_fusion_forward(std::vector<Tensor> predictions, std::vector<Tensor> attentions, bool premultiplied,
                                 Tensor out) {
  const Launcher launch(check.op, out);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    const int64_t height = out.size(2), width = out.size(3);
    const Inputs<T> inputs(check, launch, predictions, out.size(0), height, width);
    const Planes<acc_t<T>> planes(check, launch, attentions, out, premultiplied, height, width);
    Renderer<T>{check, launch, inputs, planes}.forward(out);
  });
}

void hierarchical_fusion_backward(Tensor grad, std::vector<Tensor> predictions, std::vector<Tensor> attentions,
                                  bool premultiplied, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + attentions.size());
  const Gradients of_attentions(all.begin() + predictions.size(), all.end());
  const Launcher launch(check.op, grad);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(2), width = grad.size(3), pixels = height * width;
    const Inputs<T> inputs(check, launch, predictions, grad.size(0), height, width);
    const Planes<Acc> planes(check, launch, attentions, grad, premultiplied, height, width);
    const Renderer<T> renderer{check, launch, inputs, planes};
    const auto map_grads = renderer.backward(grad, predictions, all, any(of_attentions));
    for (size_t k = 0; k < attentions.size(); ++k) {
      if (!of_attentions[k]) continue;
      const Tensor& t = attentions[k];
      const AnyMap d = any_map(check, "grad of attentions", *of_attentions[k], {inputs.batch, 1, t.size(2), t.size(3)});
      launch(gather_plane<Acc>, blocks_of_pixels(inputs.batch, t.size(2) * t.size(3)), planes.planes[k].resize,
             data_of<Acc>(map_grads) + k * pixels, planes.scales * pixels, d);
    }
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("hierarchical_fusion_forward", TORCH_BOX(&afa::hierarchical_fusion_forward));
  m.impl("hierarchical_fusion_backward", TORCH_BOX(&afa::hierarchical_fusion_backward));
}
