// scale_space_render on the CPU: out[p] = sum_k m_k[p] up(pred_k)[p], bilinear at output resolution.
//
// m_k is the k-th weight, resized ("weights"), or what compositing the resized opacities gives ("opacities"). Only the
// K maps at attention resolution are stored; everything else is resized a row at a time: a row of the input
// horizontally, which is kept while output rows lie beside it, and then two such rows vertically.
#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_render"};

void scale_space_render_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, Tensor out) {
  dispatch_types(check, predictions, out, [&](auto t, auto o) {
    using T = decltype(t);
    const Maps<acc_t<T>> maps(check, logits, phi, opaque_last, resize_opacities, out.size(2), out.size(3));
    render_to<T, decltype(o)>(check, predictions, maps, out);
  });
}

void scale_space_render_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, std::string phi,
                                 bool opaque_last, bool resize_opacities, std::vector<bool> needed,
                                 std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + 1);
  dispatch_types(check, predictions, grad, [&](auto t, auto o) {
    using T = decltype(t);
    const int64_t height = grad.size(2), width = grad.size(3);
    const Maps<acc_t<T>> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
    const Predictions<T> scales(check, predictions, maps, height, width);
    const Given<decltype(o), acc_t<T>> given(check, grad, scales, maps.batch);
    render_backward(check, given, scales, maps, logits, phi, height, width, all);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_render_forward", TORCH_BOX(&afa::scale_space_render_forward));
  m.impl("scale_space_render_backward", TORCH_BOX(&afa::scale_space_render_backward));
}
