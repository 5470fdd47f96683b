// scale_space_render on the CPU: out[p] = sum_k m_k[p] up(pred_k)[p], bilinear at output resolution.
//
// m_k is the k-th weight, resized ("weights"), or what compositing the resized opacities gives ("opacities"). Only the
// K maps at attention resolution are stored; everything else is resized a row at a time: vertically over the inputs of
// the row, then horizontally.
#include "render_backward.h"

namespace afa {
namespace {

template <class T, class O>
void forward(const std::vector<Tensor>& predictions, const Tensor& logits, const std::string& phi, bool opaque_last,
             bool resize_opacities, const Tensor& out) {
  using Acc = acc_t<T>;
  const int64_t channels = out.size(1), height = out.size(2), width = out.size(3);
  const Maps<Acc> maps(logits, phi, opaque_last, resize_opacities);
  const auto o = as_map<O>(out, "out");
  const bool planar = o.sp == 1;
  back_with_huge_pages(out);
  render(resize_all<T>(predictions, height, width), maps, channels, height, width, planar,
         [&](int64_t n, int64_t y, int64_t first, int64_t count, int64_t r, const Acc* values) {
           O* __restrict row = o.at(n, planar ? r : 0, y * width + first + (planar ? 0 : r));
           for (int64_t i = 0; i < (planar ? count : channels); ++i) row[i] = static_cast<O>(values[i]);
         });
}

// dL/d rendered, as it is given.
template <class O, class Acc>
struct Given {
  static constexpr bool of_scores = false;
  Map<const O> grad;
  int64_t width;

  void row(int64_t n, int64_t c, int64_t y, int64_t first, int64_t count, const Acc*, Acc* __restrict out) const {
    const O* g = grad.at(n, c, y * width + first);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<Acc>(g[i]);
  }
  void pixel(int64_t n, int64_t y, int64_t x, int64_t channels, const Acc*, Acc* __restrict out) const {
    const O* g = grad.at(n, 0, y * width + x);
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<Acc>(g[c]);
  }
};

// Calls body(T{}, O{}) with the element types of the predictions and of the rendering, which is T or float32.
template <class F>
void dispatch_types(ScalarType predictions, ScalarType rendering, const F& body) {
  dispatch(predictions, "scale_space_render", [&](auto t) {
    if (rendering == predictions) return body(t, t);
    STD_TORCH_CHECK(rendering == ScalarType::Float, "scale_space_render: the result must be float32 or as predictions");
    if constexpr (!std::is_same_v<decltype(t), double>) body(t, float{});
  });
}

void scale_space_render_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, Tensor out) {
  dispatch_types(predictions.at(0).scalar_type(), out.scalar_type(), [&](auto t, auto o) {
    forward<decltype(t), decltype(o)>(predictions, logits, phi, opaque_last, resize_opacities, out);
  });
}

void scale_space_render_backward(Tensor grad, std::vector<Tensor> predictions, Tensor logits, std::string phi,
                                 bool opaque_last, bool resize_opacities, std::vector<Tensor> grad_predictions,
                                 std::vector<bool> needed, std::optional<Tensor> grad_logits) {
  dispatch_types(predictions.at(0).scalar_type(), grad.scalar_type(), [&](auto t, auto o) {
    using T = decltype(t);
    using O = decltype(o);
    const int64_t height = grad.size(2), width = grad.size(3);
    render_backward<T>(Given<O, acc_t<T>>{as_map<const O>(grad, "grad"), width}, predictions, logits, phi, opaque_last,
                       resize_opacities, height, width, grad_predictions, needed, grad_logits);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_render_forward", TORCH_BOX(&afa::scale_space_render_forward));
  m.impl("scale_space_render_backward", TORCH_BOX(&afa::scale_space_render_backward));
}
