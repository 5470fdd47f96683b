// resized_labels on CUDA: the launcher of labels.cuh over a resized map.
#include "labels.h"
#include "scores.h"

namespace afa {
namespace {

constexpr Checker check{"resized_labels"};

void resized_labels_forward(Tensor logits, Tensor labels) {
  const Launcher launch(check.op, labels);
  dispatch(logits.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    const Layout layout(logits);
    const int64_t height = labels.size(1), width = labels.size(2);
    const auto input = resized_input<T>(check, launch, logits, height, width);
    const Labels found = labels_of(check, labels, layout.batch * height * width);
    const Canvas canvas = canvas_of(layout.channels, height, width);
    acc_t<T>* const no_values = nullptr;
    launch(most_likely<ResizedScores<T>>, blocks_of(canvas, layout.batch), canvas, ResizedScores<T>{input.resized},
           false, found, no_values);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("resized_labels_forward", TORCH_BOX(&afa::resized_labels_forward));
}
