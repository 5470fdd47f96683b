// hierarchical_fusion on the CPU: predictions composited by opacities, each resized to the output from a resolution of
// its own, of which the last is opaque.
#include <algorithm>

#include "render_backward.h"

namespace afa {
namespace {

// dL/d attention_k, (N, 1, h, w), from that at output resolution, plane k of (N, K, H, W).
template <class Acc>
void attention_backward(const Acc* map_grads, int64_t scales, int64_t k, int64_t out_height, int64_t out_width,
                        const Tensor& grad_attention) {
  const int64_t batch = grad_attention.size(0), height = grad_attention.size(2), width = grad_attention.size(3);
  const bool identity = height == out_height && width == out_width;
  const Transposed<Acc> rows(Axis<Acc>(height, out_height), identity), columns(Axis<Acc>(width, out_width), identity);
  const AnyMap d(grad_attention, "grad_attentions");
  torch::stable::parallel_for(0, batch * height, 8, [&](int64_t begin, int64_t end) {
    std::vector<Acc> scratch(out_width + width);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / height, j = unit % height;
      const Acc* plane = map_grads + (n * scales + k) * out_height * out_width;
      Acc* row = scratch.data() + out_width;
      vectorized([&] { gather_row(rows, columns, j, width, out_width, plane, scratch.data(), row); });
      d.write_pixels(n, 0, j * width, width, row);
    }
  });
}

void hierarchical_fusion_forward(std::vector<Tensor> predictions, std::vector<Tensor> attentions, bool premultiplied,
                                 Tensor out) {
  dispatch_types(predictions.at(0).scalar_type(), out.scalar_type(), "hierarchical_fusion", [&](auto t, auto o) {
    using T = decltype(t);
    const Maps<acc_t<T>> maps(attentions, out.size(0), premultiplied, out.size(2), out.size(3));
    render_to<T, decltype(o)>(predictions, maps, out);
  });
}

void hierarchical_fusion_backward(Tensor grad, std::vector<Tensor> predictions, std::vector<Tensor> attentions,
                                  bool premultiplied, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = spread("hierarchical_fusion", grads, needed, predictions.size() + attentions.size());
  const Gradients of_predictions(all.begin(), all.begin() + predictions.size());
  const Gradients of_attentions(all.begin() + predictions.size(), all.end());
  dispatch_types(predictions.at(0).scalar_type(), grad.scalar_type(), "hierarchical_fusion", [&](auto t, auto o) {
    using T = decltype(t);
    using O = decltype(o);
    using Acc = acc_t<T>;
    const int64_t batch = grad.size(0), height = grad.size(2), width = grad.size(3);
    const int64_t scales = static_cast<int64_t>(predictions.size());
    const Maps<Acc> maps(attentions, batch, premultiplied, height, width);
    const std::unique_ptr<Acc[]> map_grads(any(of_attentions) ? new Acc[batch * scales * height * width] : nullptr);
    render_backward<T>(Given<O, Acc>{as_map<const O>(grad, "grad"), width}, predictions, maps, height, width,
                       of_predictions, map_grads.get());
    for (int64_t k = 0; k + 1 < scales; ++k)
      if (of_attentions[k]) attention_backward(map_grads.get(), scales, k, height, width, *of_attentions[k]);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("hierarchical_fusion_forward", TORCH_BOX(&afa::hierarchical_fusion_forward));
  m.impl("hierarchical_fusion_backward", TORCH_BOX(&afa::hierarchical_fusion_backward));
}
