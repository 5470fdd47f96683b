// progressive_fusion on CUDA: the launchers of progressive_fusion.cuh.
#include "launch.h"
#include "progressive_fusion.cuh"

namespace afa {
namespace {

constexpr Checker check{"progressive_fusion"};
constexpr int64_t SPLITS = 256;  // of an image, at most: rows of partial sums that are added up

// The factors of one axis, (K, N, size).
template <class Acc>
struct Factors {
  int64_t size;
  Many<AnyRow> logits;
  Tensor memory;

  Factors(const Launcher& launch, const Tensor& like, const Layout& layout, int64_t size, const Many<AnyRow>& rows)
      : size(size), logits(rows), memory(scratch<Acc>(like, rows.count * layout.batch * size)) {
    launch(progressive_factors<Acc>, blocks_of_pixels(layout.batch, size), layout.batch, size, logits, data());
  }

  Acc* data() const { return data_of<Acc>(memory); }
};

using Read = AnyRow (*)(const Checker&, const char*, const Tensor&, const Layout&);

template <class OptionalTensor>
Many<AnyRow> rows_of_logits(const char* name, const std::vector<OptionalTensor>& tensors, const Layout& layout,
                            Read read) {
  Many<AnyRow> many{};
  many.count = static_cast<int32_t>(tensors.size());
  for (size_t k = 0; k < tensors.size(); ++k) {
    if constexpr (std::is_same_v<OptionalTensor, Tensor>)
      many.each[k] = read(check, name, tensors[k], layout);
    else if (tensors[k])
      many.each[k] = read(check, name, *tensors[k], layout);
  }
  return many;
}

// What forward and backward read.
template <class T>
struct Fusion {
  using Acc = acc_t<T>;
  Layout layout;
  Launcher launch;
  Many<Rows<const T>> x{};
  std::optional<Factors<Acc>> along, across;
  bool packed = true;

  Fusion(const std::vector<Tensor>& features, const std::vector<Tensor>& spatial, const std::vector<Tensor>& channel)
      : layout(check.first("features", features)), launch(check.op, features[0]) {
    STD_TORCH_CHECK(features.size() <= MOST_INPUTS, check.op, ": at most ", MOST_INPUTS, " features, got ",
                    features.size());
    check.count("spatial_logits", spatial.size(), features.size());
    check.count("channel_logits", channel.size(), features.size());
    x.count = static_cast<int32_t>(features.size());
    for (int32_t k = 0; k < x.count; ++k) {
      x.each[k] = rows_of(check.map<const T>("features", features[k], layout), layout);
      packed = packed && aligned(x.each[k], layout);
    }
    const auto a = rows_of_logits("spatial_logits", spatial, layout, any_pixels);
    const auto b = rows_of_logits("channel_logits", channel, layout, any_channels);
    along.emplace(launch, features[0], layout, layout.length(), layout.channels_last ? b : a);
    across.emplace(launch, features[0], layout, layout.rows(), layout.channels_last ? a : b);
  }
};

template <class T>
void forward(const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
             const std::vector<Tensor>& channel, const Tensor& out) {
  const Fusion<T> fusion(features, spatial, channel);
  const Layout& layout = fusion.layout;
  const auto o = rows_of(check.map<T>("out", out, layout), layout);
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>(
      [&](auto packed) {
        fusion.launch(progressive_forward<T, packed>, tiling.blocks(), tiling, fusion.x, fusion.along->data(),
                      fusion.across->data(), o);
      },
      fusion.packed && aligned(o, layout));
}

template <class T, class Acc = acc_t<T>>
void backward(const Tensor& grad, const std::vector<Tensor>& features, const std::vector<Tensor>& spatial,
              const std::vector<Tensor>& channel, const Gradients& grads) {
  if (!any(grads)) return;
  const Fusion<T> fusion(features, spatial, channel);
  const Layout& layout = fusion.layout;
  const int64_t inputs = features.size(), images = inputs * layout.batch;
  const auto g = rows_of(check.map<const T>("grad", grad, layout), layout);
  bool packed = fusion.packed && aligned(g, layout);
  Many<Rows<T>> dx{};
  dx.count = fusion.x.count;
  for (int64_t k = 0; k < inputs; ++k) {
    dx.each[k] = rows_of(check.map<T>("grad of features", grads[k], layout), layout);
    packed = packed && aligned(dx.each[k], layout);
  }
  const Gradients of_spatial(grads.begin() + inputs, grads.begin() + 2 * inputs);
  const Gradients of_channel(grads.begin() + 2 * inputs, grads.end());
  const auto ds = rows_of_logits("grad of spatial_logits", of_spatial, layout, any_pixels);
  const auto dq = rows_of_logits("grad of channel_logits", of_channel, layout, any_channels);

  const Tiling tiling = tiling_of(layout, PACK<T>, SPLITS);
  std::optional<Tensor> along, across;
  if (any(layout.channels_last ? of_channel : of_spatial))
    along = scratch<Acc>(grad, images * tiling.splits * tiling.length);
  if (any(layout.channels_last ? of_spatial : of_channel))
    across = scratch<Acc>(grad, images * tiling.chunks * tiling.rows);
  dispatch_packed<T>(
      [&](auto packed_here) {
        fusion.launch(progressive_backward<T, packed_here>, tiling.blocks(), tiling, g, fusion.x, dx,
                      fusion.along->data(), fusion.across->data(), data_of<Acc>(along), data_of<Acc>(across));
      },
      packed);
  const auto finish = [&](const std::optional<Tensor>& sums, int64_t count, const Factors<Acc>& factors,
                          const Many<AnyRow>& of_logits) {
    if (!sums) return;
    const Tensor totals = scratch<Acc>(grad, images * factors.size);
    fusion.launch.finish(data_of<Acc>(sums), images, count, factors.size,
                         Total<Acc>{data_of<Acc>(totals), factors.size});
    fusion.launch(progressive_logits<Acc>, blocks_of_pixels(layout.batch, factors.size), layout.batch, factors.size,
                  factors.logits, factors.data(), data_of<Acc>(totals), of_logits);
  };
  finish(along, tiling.splits, *fusion.along, layout.channels_last ? dq : ds);
  finish(across, tiling.chunks, *fusion.across, layout.channels_last ? ds : dq);
}

void progressive_fusion_forward(std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                                std::vector<Tensor> channel_logits, Tensor out) {
  dispatch(out.scalar_type(), check.op,
           [&](auto t) { forward<decltype(t)>(features, spatial_logits, channel_logits, out); });
}

void progressive_fusion_backward(Tensor grad, std::vector<Tensor> features, std::vector<Tensor> spatial_logits,
                                 std::vector<Tensor> channel_logits, std::vector<bool> needed,
                                 std::vector<Tensor> grads) {
  const Gradients all = check.spread(grads, needed, 3 * features.size());
  dispatch(grad.scalar_type(), check.op,
           [&](auto t) { backward<decltype(t)>(grad, features, spatial_logits, channel_logits, all); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("progressive_fusion_forward", TORCH_BOX(&afa::progressive_fusion_forward));
  m.impl("progressive_fusion_backward", TORCH_BOX(&afa::progressive_fusion_backward));
}
