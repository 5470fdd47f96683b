// global_avg_max_pool on the CPU: the mean and the first maximum of every channel, from one read.
#include "pool.h"

namespace afa {
namespace {

constexpr Checker check{"global_avg_max_pool"};

template <class T, class Acc = acc_t<T>>
void forward(const Tensor& x, const Tensor& avg, const Tensor& max, const Tensor& index) {
  const Layout layout(x);
  const int64_t batch = layout.batch, channels = layout.channels, pixels = layout.pixels;
  check.pixels("x", x);
  const auto map = check.map<const T>("x", x, layout);
  const Pooled<T> pooled(check, avg, max, index, batch, channels);
  const int64_t size = layout.channels_last ? CHANNELS_LAST_TILE : TILE;
  Partial<Acc> partial(batch, pixels, size, channels);
  if (layout.channels_last) {
    for_each_tile<Acc>(batch, pixels, size, UNROLL * channels, [&](const Piece& tile, Acc* buffer) {
      const auto channels_of_tile = partial.of_tile(tile.unit);
      channels_of_tile.clear();
      channels_of_tile.add(map, tile.n, tile.first, tile.count, 0, buffer);
    });
  } else {
    const auto row = [&](const Piece& piece, Acc* buffer) {
      return widened(map.at(piece.n, piece.row, piece.first), piece.count, buffer);
    };
    for_each_row<Acc>(layout, size, size,
                      [&](const Piece& piece, Acc* buffer) { partial.reduce_row(piece, row(piece, buffer)); });
    // A maximum is looked for in the one tile of its channel that has it.
    const int64_t grain = ceil_div(WORTH_A_THREAD, size);
    for_each_piece<Acc>(batch, channels, 1, 1, grain, size, [&](const Piece& channel, Acc* buffer) {
      const int64_t first = partial.best(channel.n, channel.row) * size;
      const Piece tile{channel.unit, channel.n, channel.row, first, std::min(size, pixels - first)};
      partial.locate(tile, row(tile, buffer));
    });
  }
  pooled.store(partial);
}

template <class T, class Acc = acc_t<T>>
void backward(const std::optional<Tensor>& grad_avg, const std::optional<Tensor>& grad_max, const Tensor& index,
              const Tensor& grad_x) {
  const Layout layout(grad_x);
  const int64_t batch = layout.batch, channels = layout.channels, pixels = layout.pixels;
  const auto dx = check.map<T>("grad_x", grad_x, layout);
  const int64_t* indices = indices_of(check, index, batch * channels, pixels);
  const T* of_mean = check.flat<const T>("grad_avg", grad_avg, batch * channels);
  const T* of_maximum = check.flat<const T>("grad_max", grad_max, batch * channels);
  back_with_huge_pages(grad_x);
  const auto spread = [&](int64_t i) { return of_mean ? static_cast<Acc>(of_mean[i]) / static_cast<Acc>(pixels) : 0; };
  const auto at_maximum = [&](int64_t i) { return static_cast<T>(spread(i) + static_cast<Acc>(of_maximum[i])); };

  if (layout.channels_last) {
    for_each_tile<T>(batch, pixels, CHANNELS_LAST_TILE, channels, [&](const Piece& tile, T* row) {
      const int64_t first = tile.first, last = first + tile.count;
      for (int64_t c = 0; c < channels; ++c) row[c] = static_cast<T>(spread(tile.n * channels + c));
      for (int64_t p = first; p < last; ++p) std::copy_n(row, channels, dx.at(tile.n, 0, p));
      for (int64_t c = 0; of_maximum && c < channels; ++c) {
        const int64_t i = tile.n * channels + c, p = indices[i];
        if (first <= p && p < last) *dx.at(tile.n, c, p) = at_maximum(i);
      }
    });
  } else {
    const int64_t grain = ceil_div(2 * TILE, std::max<int64_t>(1, pixels));
    for_each_piece<T>(batch, channels, pixels, pixels, grain, 0, [&](const Piece& channel, T*) {
      const int64_t i = channel.n * channels + channel.row;
      T* row = dx.at(channel.n, channel.row, 0);
      std::fill_n(row, pixels, static_cast<T>(spread(i)));
      if (of_maximum) row[indices[i]] = at_maximum(i);
    });
  }
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

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("global_avg_max_pool_forward", TORCH_BOX(&afa::global_avg_max_pool_forward));
  m.impl("global_avg_max_pool_backward", TORCH_BOX(&afa::global_avg_max_pool_backward));
}
