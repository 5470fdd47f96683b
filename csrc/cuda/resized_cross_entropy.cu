// resized_cross_entropy on CUDA: the launchers of cross_entropy.cuh over a resized map. The gradient of what is resized
// is stored for a band of rows at a time.
#include "cross_entropy.h"
#include "scores.h"

namespace afa {
namespace {

constexpr Checker check{"resized_cross_entropy"};

void resized_cross_entropy_forward(Tensor logits, Tensor target, std::optional<Tensor> weight,
                                   std::optional<Tensor> smoothing, int64_t ignore_index, Tensor losses, Tensor lse) {
  const Launcher launch(check.op, losses);
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Layout layout(logits);
    const int64_t height = losses.size(1), width = losses.size(2), pixels = layout.batch * height * width;
    const auto input = resized_input<T>(check, launch, logits, height, width);
    const auto classes = target_of<Acc>(check, target, weight, smoothing, ignore_index, layout.channels, pixels);
    Acc *loss_of = check.flat<Acc>("losses", losses, pixels), *lse_of = check.flat<Acc>("lse", lse, pixels);
    const Canvas canvas = canvas_of(layout.channels, height, width);
    launch(cross_entropy_forward<ResizedScores<T>>, blocks_of(canvas, layout.batch), canvas,
           ResizedScores<T>{input.resized}, classes, loss_of, lse_of);
  });
}

void resized_cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, std::optional<Tensor> weight,
                                    std::optional<Tensor> smoothing, Tensor lse, int64_t ignore_index,
                                    Tensor grad_logits) {
  const Launcher launch(check.op, grad);
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Layout layout(logits);
    const int64_t height = grad.size(1), width = grad.size(2), pixels = layout.batch * height * width;
    const auto input = resized_input<T>(check, launch, logits, height, width);
    const CrossEntropy<Acc> gradient{
        target_of<Acc>(check, target, weight, smoothing, ignore_index, layout.channels, pixels),
        check.flat<const Acc>("grad", grad, pixels), check.flat<const Acc>("lse", lse, pixels), height * width};
    const InNchw<T> dx(check, "grad of logits", grad_logits, layout.shape());
    const Gather<T> gather{launch, grad, layout.batch, layout.channels, width, input.resized.resize, {}, dx.map};
    gather.bands(height, [&](const Canvas& canvas, const Map<Acc>& band) {
      launch(gradient_rows<ResizedScores<T>, CrossEntropy<Acc>>, blocks_of(canvas, layout.batch), canvas,
             ResizedScores<T>{input.resized}, gradient, band);
    });
    dx.copy_out(launch);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("resized_cross_entropy_forward", TORCH_BOX(&afa::resized_cross_entropy_forward));
  m.impl("resized_cross_entropy_backward", TORCH_BOX(&afa::resized_cross_entropy_backward));
}
