// resized_labels on the CPU: the channel with the largest resized logit, of which a row of a tile exists at a time.
#include "labels.h"
#include "render.h"

namespace afa {
namespace {

constexpr Checker check{"resized_labels"};

template <class T, class L, class Acc = acc_t<T>>
void forward(const Tensor& logits, const Tensor& labels) {
  const Layout layout(logits);
  const int64_t height = labels.size(1), width = labels.size(2), channels = layout.channels;
  check.pixels("logits", logits);
  const Resized<T> resized(check.map<const T>("logits", logits, layout), layout.height, layout.width, height, width);
  L* out = check.flat<L>("labels", labels, layout.batch * height * width);
  for_each_piece<Acc>(layout.batch, height, width, COLUMNS, ROWS, resized.scratch(),
                      [&](const Piece& piece, Acc* scratch) {
                        Acc scores[COLUMNS], best[COLUMNS];
                        int32_t label[COLUMNS];
                        const int64_t n = piece.n, y = piece.row, first = piece.first, count = piece.count;
                        resized.row(n, 0, y, first, count, scratch, best);
                        std::fill_n(label, count, 0);
                        for (int32_t c = 1; c < channels; ++c) {
                          resized.row(n, c, y, first, count, scratch, scores);
                          for (int64_t i = 0; i < count; ++i) take_largest(scores[i], c, best[i], label[i]);
                        }
                        L* row = out + (n * height + y) * width + first;
                        for (int64_t i = 0; i < count; ++i) row[i] = static_cast<L>(label[i]);
                      });
}

void resized_labels_forward(Tensor logits, Tensor labels) {
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    dispatch_labels(labels.scalar_type(), check.op, [&](auto l) { forward<decltype(t), decltype(l)>(logits, labels); });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("resized_labels_forward", TORCH_BOX(&afa::resized_labels_forward));
}
