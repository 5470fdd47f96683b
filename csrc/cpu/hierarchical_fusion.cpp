// hierarchical_fusion on the CPU: predictions composited by opacities, each resized to the output from a resolution of
// its own, of which the last is opaque.
#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"hierarchical_fusion"};

// dL/d attention_k, (N, 1, h, w), from that at output resolution, plane k of (N, K, H, W).
template <class Acc>
void attention_backward(const Acc* map_grads, int64_t scales, int64_t k, int64_t out_height, int64_t out_width,
                        const Tensor& attention, const Tensor& grad_attention) {
  const int64_t batch = attention.size(0), height = attention.size(2), width = attention.size(3);
  const bool identity = height == out_height && width == out_width;
  const Transposed<Acc> rows(Axis<Acc>(height, out_height), identity), columns(Axis<Acc>(width, out_width), identity);
  const AnyMap d(check, "grad of attentions", grad_attention, {batch, 1, height, width});
  for_each_piece<Acc>(batch, height, width, width, 8, out_width + width, [&](const Piece& piece, Acc* sum) {
    const Acc* plane = map_grads + (piece.n * scales + k) * out_height * out_width;
    Acc* row = sum + out_width;
    gather_row(rows, columns, piece.row, width, out_width, plane, sum, row);
    d.write_pixels(piece.n, 0, piece.row * width, width, row);
  });
}

void hierarchical_fusion_forward(std::vector<Tensor> predictions, std::vector<Tensor> attentions, bool premultiplied,
                                 Tensor out) {
  dispatch_types(check, predictions, out, [&](auto t, auto o) {
    using T = decltype(t);
    const Maps<acc_t<T>> maps(check, attentions, out.size(0), premultiplied, out.size(2), out.size(3));
    render_to<T, decltype(o)>(check, predictions, maps, out);
  });
}

void hierarchical_fusion_backward(Tensor grad, std::vector<Tensor> predictions, std::vector<Tensor> attentions,
                                  bool premultiplied, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, predictions.size() + attentions.size());
  const Gradients of_attentions(all.begin() + predictions.size(), all.end());
  dispatch_types(check, predictions, grad, [&](auto t, auto o) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(2), width = grad.size(3);
    const Maps<Acc> maps(check, attentions, grad.size(0), premultiplied, height, width);
    const Predictions<T> scales(check, predictions, maps, height, width);
    const Given<decltype(o), Acc> given(check, grad, scales, maps.batch);
    const bool wanted = any(of_attentions);
    const auto map_grads = uninitialized<Acc>(wanted ? maps.batch * maps.scales * height * width : 0);
    render_backward(check, given, scales, maps, height, width, all, wanted ? map_grads.get() : nullptr);
    for (size_t k = 0; k < attentions.size(); ++k)
      if (of_attentions[k])
        attention_backward(map_grads.get(), maps.scales, k, height, width, attentions[k], *of_attentions[k]);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("hierarchical_fusion_forward", TORCH_BOX(&afa::hierarchical_fusion_forward));
  m.impl("hierarchical_fusion_backward", TORCH_BOX(&afa::hierarchical_fusion_backward));
}
