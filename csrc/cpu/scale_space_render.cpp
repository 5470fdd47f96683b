// scale_space_render on the CPU: out[p] = sum_k m_k[p] up(pred_k)[p], bilinear at output resolution.
//
// m_k is the k-th weight, resized ("weights"), or what compositing the resized opacities gives ("opacities"). Only the
// K maps at attention resolution are stored; everything else is resized a row at a time: vertically over the inputs of
// the row, then horizontally.
#include "render_backward.h"

namespace afa {
namespace {

void scale_space_render_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, Tensor out) {
  dispatch_types(predictions.at(0).scalar_type(), out.scalar_type(), "scale_space_render", [&](auto t, auto o) {
    using T = decltype(t);
    const Maps<acc_t<T>> maps(logits, phi, opaque_last, resize_opacities, out.size(2), out.size(3));
    render_to<T, decltype(o)>(predictions, maps, out);
  });
}

void scale_space_render_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, std::string phi,
                                 bool opaque_last, bool resize_opacities, std::vector<bool> needed,
                                 std::vector<Tensor> grads) {
  const Gradients all = spread("scale_space_render", grads, needed, predictions.size() + 1);
  dispatch_types(predictions.at(0).scalar_type(), grad.scalar_type(), "scale_space_render", [&](auto t, auto o) {
    using T = decltype(t);
    using O = decltype(o);
    const int64_t height = grad.size(2), width = grad.size(3);
    render_backward<T>(Given<O, acc_t<T>>{as_map<const O>(grad, "grad"), width}, predictions, logits, phi, opaque_last,
                       resize_opacities, height, width, all);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_render_forward", TORCH_BOX(&afa::scale_space_render_forward));
  m.impl("scale_space_render_backward", TORCH_BOX(&afa::scale_space_render_backward));
}
