// scale_space_labels on the CPU: the channel with the largest rendered score, and its score or its probability. The
// rendering itself is nowhere stored; of each pixel the largest score so far is, and the sum of exp(score - largest).
#include "labels.h"
#include "render.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_labels"};

// The softmax and the argmax of what was taken so far.
template <class Acc>
inline void take(Acc value, int32_t channel, Acc& best, int32_t& label, Acc& total) {
  Acc largest = best;
  add_exp(value, largest, total);
  take_largest(value, channel, best, label);
}

template <class T, class L, class Acc = acc_t<T>>
void forward(const std::vector<Tensor>& tensors, const Tensor& logits, const std::string& phi, bool opaque_last,
             bool resize_opacities, bool probability, const Tensor& labels, const std::optional<Tensor>& values) {
  const int64_t height = labels.size(1), width = labels.size(2);
  const Maps<Acc> maps(check, logits, phi, opaque_last, resize_opacities, height, width);
  const Predictions<T> predictions(check, tensors, maps, height, width);
  const int64_t channels = predictions.channels, pixels = maps.batch * height * width;
  auto* label_of = check.flat<L>("labels", labels, pixels);
  Acc* value_of = check.flat<Acc>("values", values, pixels);

  // What is kept of some pixels, whose channels are seen one after the other.
  struct Seen {
    Acc best[COLUMNS], total[COLUMNS];
    int32_t label[COLUMNS];
  };
  const auto emit = [&](Seen& seen, int64_t n, int64_t y, int64_t first, int64_t count, int64_t c,
                        const Rendered<Acc>& rendered) {
    const Acc* scores = rendered.values();
    Acc *best = seen.best, *total = seen.total;
    int32_t* label = seen.label;
    if (c == 0) {
      for (int64_t i = 0; i < count; ++i) best[i] = scores[i], total[i] = 1, label[i] = 0;
    } else if (probability) {
      for (int64_t i = 0; i < count; ++i) take(scores[i], static_cast<int32_t>(c), best[i], label[i], total[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) take_largest(scores[i], static_cast<int32_t>(c), best[i], label[i]);
    }
    if (c + 1 < channels) return;
    const int64_t at = (n * height + y) * width + first;
    for (int64_t i = 0; i < count; ++i) label_of[at + i] = static_cast<L>(label[i]);
    for (int64_t i = 0; i < count && value_of; ++i) {
      const bool infinite = std::abs(best[i]) == std::numeric_limits<Acc>::infinity();
      const Acc softmax = infinite ? std::numeric_limits<Acc>::quiet_NaN() : 1 / total[i];
      value_of[at + i] = probability ? softmax : best[i];
    }
  };
  render<Seen, false>(predictions, maps, height, width, emit);
}

void scale_space_labels_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, std::string value, std::vector<Tensor> outputs) {
  STD_TORCH_CHECK(value == "none" || value == "score" || value == "probability", check.op,
                  ": value must be none, score or probability, got ", value);
  check.count("outputs", outputs.size(), value == "none" ? 1 : 2);
  const auto values = value == "none" ? std::nullopt : std::optional<Tensor>(outputs[1]);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    dispatch_labels(outputs[0].scalar_type(), check.op, [&](auto l) {
      forward<decltype(t), decltype(l)>(predictions, logits, phi, opaque_last, resize_opacities, value == "probability",
                                        outputs[0], values);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_labels_forward", TORCH_BOX(&afa::scale_space_labels_forward));
}
