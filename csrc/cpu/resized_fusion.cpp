// resized_fusion on the CPU: out = sum_k A_k B_k up(F_k) with the A_k and B_k of progressive_fusion.cpp.
//
// It is a rendering: of features whose channels have the factors B_k, by weights A_k of every pixel.
#include "factor.h"
#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"resized_fusion"};

// What forward and backward read, and the sizes of the result, which `like` has.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  Layout layout;
  int64_t inputs;
  Factor<Acc> a, b;
  Maps<Acc> maps;
  FactoredPredictions<T> features;

  Fusion(const Tensor& like, const std::vector<Tensor>& maps_of_features, const std::vector<Tensor>& spatial,
         const std::vector<Tensor>& channel)
      : layout(like),
        inputs(maps_of_features.size()),
        a(check, layout, spatial, Of::pixels, "spatial_logits"),
        b(check, layout, channel, Of::channels, "channel_logits"),
        maps(a.weights(0, 0), layout.batch, spatial.size(), layout.height, layout.width),
        features(check, maps_of_features, maps, layout.height, layout.width, b.weights(0, 0)) {
    check.count("channel_logits", channel.size(), inputs);
  }
};

template <class T>
void backward(const Tensor& grad, const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
              const std::vector<Tensor>& channel, const Gradients& grads) {
  using Acc = acc_t<T>;
  const Fusion<T> fusion(grad, features, spatial, channel);
  const Layout& layout = fusion.layout;
  const int64_t inputs = fusion.inputs, channels = layout.channels, pixels = layout.pixels;
  std::vector<std::optional<AnyMap>> ds, dq;
  for (int64_t k = 0; k < inputs; ++k) {
    ds.push_back(optional_map(check, "grad of spatial_logits", grads[inputs + k], fusion.a.shape));
    dq.push_back(optional_map(check, "grad of channel_logits", grads[2 * inputs + k], fusion.b.shape));
  }
  const auto given = [](const auto& d) { return d.has_value(); };
  const bool spatial_needed = std::any_of(ds.begin(), ds.end(), given);
  const bool channel_needed = std::any_of(dq.begin(), dq.end(), given);
  const auto of_pixels = uninitialized<Acc>(spatial_needed ? layout.batch * inputs * pixels : 0);
  std::vector<double> of_channels(layout.batch * inputs * channels);
  const Given<T, Acc> upstream(check, grad, fusion.features, layout.batch);
  render_backward(check, upstream, fusion.features, fusion.maps, layout.height, layout.width, grads,
                  spatial_needed ? of_pixels.get() : nullptr, channel_needed ? &of_channels : nullptr);
  if (spatial_needed) {
    constexpr int64_t length = 2048;
    for_each_tile<Acc>(layout.batch, pixels, length, length, [&](const Piece& tile, Acc* before) {
      Acc* sums = &of_pixels[tile.n * inputs * pixels + tile.first];
      fusion.a.write_gradients(tile.n, tile.first, tile.count, sums, pixels, before, ds);
    });
  }
  std::vector<double> before(channels);
  for (int64_t n = 0; n < layout.batch && channel_needed; ++n)
    fusion.b.write_gradients(n, 0, channels, &of_channels[n * inputs * channels], channels, before.data(), dq);
}

void resized_fusion_forward(std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                            std::vector<Tensor> channel_logits, Tensor out) {
  dispatch(out.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    const Fusion<T> fusion(out, features, spatial_logits, channel_logits);
    render_to<T>(check, fusion.features, fusion.maps, out);
  });
}

void resized_fusion_backward(Tensor grad, std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                             std::vector<Tensor> channel_logits, std::vector<bool> needed, std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, 3 * features.size());
  dispatch(grad.scalar_type(), check.op,
           [&](auto t) { backward<decltype(t)>(grad, features, spatial_logits, channel_logits, all); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("resized_fusion_forward", TORCH_BOX(&afa::resized_fusion_forward));
  m.impl("resized_fusion_backward", TORCH_BOX(&afa::resized_fusion_backward));
}
