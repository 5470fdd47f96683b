// resized_cross_entropy on the CPU. A tile of pixels of one row is resized with all its channels into the first-level
// cache, where its softmax is made. Backward resizes once more, and the gradient of the resized logits exists a row of
// a tile at a time: it is added to the rows of the logits' gradient that the output row reads, as in render_backward.h.
#include "cross_entropy.h"
#include "render_backward.h"

namespace afa {
namespace {

constexpr Checker check{"resized_cross_entropy"};
constexpr int64_t TILE = 128;  // pixels of a row

template <class T>
struct Logits {
  using Acc = acc_t<T>;
  int64_t batch, channels;
  Resized<T> resized;

  Logits(const Tensor& t, int64_t height, int64_t width)
      : batch(t.size(0)), channels(t.size(1)), resized(view(t), t.size(2), t.size(3), height, width) {}

  static Map<const T> view(const Tensor& t) {
    check.pixels("logits", t);
    return check.map<const T>("logits", t, {t.size(0), t.size(1), t.size(2), t.size(3)}, pixel_stride(t) != 1);
  }

  int64_t scratch() const { return channels * TILE + resized.scratch(); }

  // scores[c * TILE + i] = channel c at output row y, column first + i.
  void tile(int64_t n, int64_t y, int64_t first, int64_t count, Acc* scores) const {
    for (int64_t c = 0; c < channels; ++c)
      resized.row(n, c, y, first, count, scores + channels * TILE, scores + c * TILE);
  }
};

template <class T, class Acc = acc_t<T>>
void forward(const Logits<T>& logits, const Classes<Acc>& classes, int64_t height, int64_t width, Acc* losses,
             Acc* lse) {
  const int64_t channels = logits.channels;
  for_each_piece<Acc>(logits.batch, height, width, TILE, 16, logits.scratch(), [&](const Piece& piece, Acc* scores) {
    const int64_t count = piece.count, at = (piece.n * height + piece.row) * width + piece.first;
    Acc best[TILE], total[TILE], smooth[TILE];
    int32_t target[TILE];
    logits.tile(piece.n, piece.row, piece.first, count, scores);
    classes.read(at, count, target);
    for (int64_t i = 0; i < count; ++i) best[i] = scores[i], total[i] = smooth[i] = 0;
    for (int64_t c = 1; c < channels; ++c)
      for (int64_t i = 0; i < count; ++i) best[i] = scores[c * TILE + i] > best[i] ? scores[c * TILE + i] : best[i];
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < count; ++i) total[i] += exp(scores[c * TILE + i] - best[i]);
    for (int64_t c = 0; c < channels && classes.smoothing; ++c)
      for (int64_t i = 0; i < count; ++i) smooth[i] += classes.smoothing[c] * (scores[c * TILE + i] - best[i]);
    for (int64_t i = 0; i < count; ++i) total[i] = log(total[i]);
    for (int64_t i = 0; i < count; ++i) lse[at + i] = best[i] + total[i];
    for (int64_t i = 0; i < count; ++i)
      losses[at + i] = classes.weighted(target[i], total[i] - (scores[std::max(target[i], 0) * TILE + i] - best[i]));
    for (int64_t i = 0; i < count && classes.smoothing; ++i)
      losses[at + i] += target[i] >= 0 ? classes.smoothed * total[i] - smooth[i] : Acc(0);
  });
}

template <class T, class Acc = acc_t<T>>
void backward(const Logits<T>& logits, const Classes<Acc>& classes, int64_t height, int64_t width, const Acc* grad,
              const Acc* lse, const Map<T>& grad_logits) {
  const int64_t channels = logits.channels, row_size = channels * width;
  const Resized<T>& resized = logits.resized;
  const Transposed<Acc> columns(resized.columns, resized.identity);
  const int64_t band_rows = std::max(BAND, 4 * ceil_div(height, resized.rows.in));
  const int64_t scratch = logits.scratch() + 2 * row_size;
  for_each_piece<Acc>(logits.batch, 1, height, band_rows, 1, scratch, [&](const Piece& band, Acc* scores) {
    Acc* sums = scores + logits.scratch();
    std::fill_n(sums, 2 * row_size, Acc(0));
    const int64_t n = band.n, begin_row = band.first, end_row = band.first + band.count;
    const int64_t begin = begin_row == 0 ? 0 : resized.rows.low[begin_row];
    const int64_t end = end_row == height ? resized.rows.in : resized.rows.low[end_row];
    OwnedRows<T> owned{resized, columns, grad_logits, false, begin, end, begin, row_size, sums};
    Acc hit[TILE], factor[TILE], upstream[TILE], g[TILE];
    int32_t target[TILE];
    for (int64_t y = owned.first_reader(begin_row); y < end_row; ++y) {
      owned.finish(resized.rows.low[y], n, channels);
      for (int64_t first = 0; first < width; first += TILE) {
        const int64_t count = std::min(TILE, width - first), at = (n * height + y) * width + first;
        logits.tile(n, y, first, count, scores);
        classes.read(at, count, target);
        for (int64_t i = 0; i < count; ++i) {
          hit[i] = classes.weighted(target[i], grad[at + i]);
          upstream[i] = target[i] == IGNORED ? Acc(0) : grad[at + i];
          factor[i] = classes.smoothing ? hit[i] + classes.smoothed * upstream[i] : hit[i];
        }
        for (int64_t c = 0; c < channels; ++c) {
          const auto channel = static_cast<int32_t>(c);
          const Acc *score = scores + c * TILE, *l = lse + at;
          for (int64_t i = 0; i < count; ++i)
            g[i] = factor[i] * exp(score[i] - l[i]) - (target[i] == channel ? hit[i] : Acc(0));
          for (int64_t i = 0; i < count && classes.smoothing; ++i) g[i] -= classes.smoothing[c] * upstream[i];
          owned.add(y, c * width + first, count, g);
        }
      }
    }
    owned.finish(end, n, channels);
  });
}

void resized_cross_entropy_forward(Tensor logits, Tensor target, std::optional<Tensor> weight,
                                   std::optional<Tensor> smoothing, int64_t ignore_index, Tensor losses, Tensor lse) {
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = losses.size(1), width = losses.size(2), pixels = logits.size(0) * height * width;
    const Classes<Acc> classes(check, target, weight, smoothing, ignore_index, logits.size(1), pixels);
    forward<T>(Logits<T>(logits, height, width), classes, height, width, check.flat<Acc>("losses", losses, pixels),
               check.flat<Acc>("lse", lse, pixels));
  });
}

void resized_cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, std::optional<Tensor> weight,
                                    std::optional<Tensor> smoothing, Tensor lse, int64_t ignore_index,
                                    Tensor grad_logits) {
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = grad.size(1), width = grad.size(2), pixels = logits.size(0) * height * width;
    const Classes<Acc> classes(check, target, weight, smoothing, ignore_index, logits.size(1), pixels);
    const Layout layout(logits);
    backward<T>(Logits<T>(logits, height, width), classes, height, width, check.flat<const Acc>("grad", grad, pixels),
                check.flat<const Acc>("lse", lse, pixels), check.map<T>("grad of logits", grad_logits, layout));
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("resized_cross_entropy_forward", TORCH_BOX(&afa::resized_cross_entropy_forward));
  m.impl("resized_cross_entropy_backward", TORCH_BOX(&afa::resized_cross_entropy_backward));
}
