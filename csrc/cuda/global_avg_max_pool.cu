// global_avg_max_pool on CUDA: the launchers of global_avg_max_pool.cuh.
#include "global_avg_max_pool.h"

namespace afa {
namespace {

constexpr Checker check{"global_avg_max_pool"};

template <class T>
void forward(const Tensor& x, const Tensor& avg, const Tensor& max, const Tensor& index) {
  const Layout layout(x);
  check.pixels("x", x);
  const auto rows = rows_of(check.map<const T>("x", x, layout), layout);
  const Launcher launch(check.op, x);
  pool<T>(check, launch, layout, PACK<T>, avg, max, index, [&](const Tiling& tiling, const auto& parts) {
    dispatch_packed<T>(
        [&](auto packed) {
          launch(layout.channels_last ? pool_columns<T, packed> : pool_rows<T, packed>, tiling.blocks(), tiling, rows,
                 parts);
        },
        aligned(rows, layout));
  });
}

template <class T>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& index,
              const Tensor& grad_x) {
  const Layout layout(grad_x);
  const int64_t size = layout.batch * layout.channels;
  const auto dx = rows_of(check.map<T>("grad_x", grad_x, layout), layout);
  const auto* indices = check.flat<const int64_t>("index", index, size);
  const T* of_mean = check.flat<const T>("grad_avg", grad_avg, size);
  const T* of_maximum = check.flat<const T>("grad_max", grad_max, size);
  const Launcher launch(check.op, grad_x);
  const Tiling tiling = tiling_of(layout, PACK<T>);
  dispatch_packed<T>(
      [&](auto packed) {
        launch(pool_backward<T, packed>, tiling.blocks(), tiling, layout.channels_last, of_mean, of_maximum, indices,
               dx);
      },
      aligned(dx, layout));
}

void global_avg_max_pool_forward(Tensor x, Tensor avg, Tensor max, Tensor index) {
  dispatch(x.scalar_type(), check.op, [&](auto t) { forward<decltype(t)>(x, avg, max, index); });
}

void global_avg_max_pool_backward(std::optional<Tensor> grad_avg, std::optional<Tensor> grad_max, Tensor index,
                                  Tensor grad_x) {
  dispatch(grad_x.scalar_type(), check.op, [&](auto t) { backward<decltype(t)>(grad_avg, grad_max, index, grad_x); });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("global_avg_max_pool_forward", TORCH_BOX(&afa::global_avg_max_pool_forward));
  m.impl("global_avg_max_pool_backward", TORCH_BOX(&afa::global_avg_max_pool_backward));
}
