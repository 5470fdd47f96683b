// scale_space_cross_entropy on CUDA: the launchers of cross_entropy.cuh over a rendering.
#include "cross_entropy.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_cross_entropy"};

void scale_space_cross_entropy_forward(std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                       std::optional<Tensor> weight, std::optional<Tensor> smoothing,
                                       int64_t ignore_index, std::string phi, bool opaque_last, bool resize_opacities,
                                       Tensor losses, Tensor lse) {
  const Launcher launch(check.op, losses);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = losses.size(1), width = losses.size(2), pixels = logits.size(0) * height * width;
    const Inputs<T> inputs(check, launch, predictions, logits.size(0), height, width);
    const Planes<Acc> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    check_scales(check, inputs, planes);
    const auto classes = target_of<Acc>(check, target, weight, smoothing, ignore_index, inputs.channels, pixels);
    Acc *loss_of = check.flat<Acc>("losses", losses, pixels), *lse_of = check.flat<Acc>("lse", lse, pixels);
    const Canvas canvas = canvas_of(inputs.channels, height, width);
    dispatch_scales<T>(planes.scales, [&](auto most) {
      using Scores = RenderedScores<T, most>;
      launch(cross_entropy_forward<Scores>, blocks_of(canvas, inputs.batch), canvas,
             Scores{inputs.template of<most>(), planes.template of<most>()}, classes, loss_of, lse_of);
    });
  });
}

void scale_space_cross_entropy_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, Tensor target,
                                        std::optional<Tensor> weight, std::optional<Tensor> smoothing, Tensor lse,
                                        int64_t ignore_index, std::string phi, bool opaque_last, bool resize_opacities,
                                        std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + 1);
  const Launcher launch(check.op, grad);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(1), width = grad.size(2), pixels = logits.size(0) * height * width;
    const Inputs<T> inputs(check, launch, predictions, logits.size(0), height, width);
    const Planes<Acc> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    const CrossEntropy<Acc> gradient{
        target_of<Acc>(check, target, weight, smoothing, ignore_index, inputs.channels, pixels),
        check.flat<const Acc>("grad", grad, pixels), check.flat<const Acc>("lse", lse, pixels), height * width};
    const auto map_grads = render_backward_of_scores(check, launch, gradient, grad, height, width, inputs, planes,
                                                     predictions, all, all.back().has_value());
    if (all.back()) planes.logits_backward(check, launch, logits, phi, *map_grads, *all.back());
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_cross_entropy_forward", TORCH_BOX(&afa::scale_space_cross_entropy_forward));
  m.impl("scale_space_cross_entropy_backward", TORCH_BOX(&afa::scale_space_cross_entropy_backward));
}
