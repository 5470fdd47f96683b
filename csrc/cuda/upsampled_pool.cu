// upsampled_pool on CUDA: the launchers of upsampled_pool.cuh. The weight comes as (2 f, 2 f, C) in the arithmetic
// type.
#include "global_avg_max_pool.h"
#include "upsampled_pool.cuh"
#include "upsampling.h"

namespace afa {
namespace {

constexpr Checker check{"upsampled_pool"};

template <class T>
void forward(const Tensor& deep, const Tensor& weight, const Tensor& avg, const Tensor& max, const Tensor& index) {
  const Layout coarse(deep);
  check.pixels("deep", deep);
  const Upsampled<T> up = upsampled_of<T>(check, deep, weight, coarse);
  const int64_t f = factor_of(check, weight);
  const bool packed = coarse.channels_last && aligned(up, coarse);
  const Launcher launch(check.op, deep);
  pool<T>(check, launch, resized(coarse, f * coarse.height, f * coarse.width), upsampled_pack<T>(packed), avg, max,
          index, [&](const Tiling& tiling, const auto& parts) {
            if (!coarse.channels_last) return launch(upsampled_pool_rows<T>, tiling.blocks(), tiling, up, parts);
            dispatch_packed<T>(
                [&](auto packed) { launch(upsampled_pool_columns<T, packed>, tiling.blocks(), tiling, up, parts); },
                packed);
          });
}

template <class T>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& deep,
              const Tensor& weight, const Tensor& index, const Gradients& grads) {
  const Layout coarse(deep);
  const int64_t f = factor_of(check, weight), size = coarse.batch * coarse.channels;
  const Upsampled<T> up = upsampled_of<T>(check, deep, weight, coarse);
  const PoolUpstream<T> upstream{
      check.flat<const T>("grad_avg", grad_avg, size), check.flat<const T>("grad_max", grad_max, size),
      check.flat<const int64_t>("index", index, size), coarse.channels, static_cast<acc_t<T>>(f * f * coarse.pixels)};
  if (!any(grads)) return;
  collect(check, Launcher(check.op, deep), coarse, up, upstream, true, grads[0], grads[1], deep);
}

void upsampled_pool_forward(Tensor deep, Tensor weight, Tensor avg, Tensor max, Tensor index) {
  dispatch(deep.scalar_type(), check.op, [&](auto t) { forward<decltype(t)>(deep, weight, avg, max, index); });
}

void upsampled_pool_backward(std::optional<Tensor> grad_avg, std::optional<Tensor> grad_max, Tensor deep, Tensor weight,
                             Tensor index, std::vector<bool> needed, std::vector<Tensor> grads) {
  dispatch(deep.scalar_type(), check.op, [&](auto t) {
    backward<decltype(t)>(grad_avg, grad_max, deep, weight, index, check.spread(grads, needed, 2));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("upsampled_pool_forward", TORCH_BOX(&afa::upsampled_pool_forward));
  m.impl("upsampled_pool_backward", TORCH_BOX(&afa::upsampled_pool_backward));
}
