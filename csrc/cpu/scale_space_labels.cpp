// scale_space_labels on the CPU: the channel with the largest rendered score, and its score or its probability. The
// rendering itself is nowhere stored; of each pixel the largest score so far is, and the sum of exp(score - largest).
#include "render.h"

namespace afa {
namespace {

// What is known of a pixel after some of its channels, in ascending order. The first of equals wins; NaN beats all.
template <class Acc>
inline void take(Acc value, int32_t channel, Acc& best, int32_t& label) {
  const bool better = (value > best) | ((value != value) & (best == best));
  best = better ? value : best;
  label = better ? channel : label;
}

// The same, and `total`, the sum of exp(value - best).
template <class Acc>
inline void take(Acc value, int32_t channel, Acc& best, int32_t& label, Acc& total) {
  Acc largest = best;
  add_exp(value, largest, total);
  take(value, channel, best, label);
}

template <class T, class L, class O>
void forward(const std::vector<Tensor>& predictions, const Tensor& logits, const std::string& phi, bool opaque_last,
             bool resize_opacities, bool probability, const Tensor& labels, const std::optional<Tensor>& values) {
  using Acc = acc_t<T>;
  const int64_t channels = predictions[0].size(1), height = labels.size(1), width = labels.size(2);
  const Maps<Acc> maps(logits, phi, opaque_last, resize_opacities, height, width);
  const std::vector<Resized<T>> scales = resize_all<T>(predictions, height, width);
  const bool planar = scales[0].map.sp == 1;
  auto* label_of = static_cast<L*>(labels.data_ptr());
  O* value_of = values ? static_cast<O*>(values->data_ptr()) : nullptr;

  // A piece of a row, whose channels one thread sees one after the other.
  struct Piece {
    Acc best[COLUMNS], total[COLUMNS];
    int32_t label[COLUMNS];
  };
  render(scales, maps, channels, height, width, planar,
         [&](int64_t n, int64_t y, int64_t first, int64_t count, int64_t r, const Acc* scores) {
           thread_local Piece piece;
           Acc *best = piece.best, *total = piece.total;
           int32_t* label = piece.label;
           if (planar && r == 0) {
             for (int64_t i = 0; i < count; ++i) best[i] = scores[i], total[i] = 1, label[i] = 0;
           } else if (planar && probability) {
             for (int64_t i = 0; i < count; ++i) take(scores[i], static_cast<int32_t>(r), best[i], label[i], total[i]);
           } else if (planar) {
             for (int64_t i = 0; i < count; ++i) take(scores[i], static_cast<int32_t>(r), best[i], label[i]);
           } else {
             best[r] = scores[0], total[r] = 1, label[r] = 0;
             for (int32_t c = 1; c < channels; ++c) {
               if (probability)
                 take(scores[c], c, best[r], label[r], total[r]);
               else
                 take(scores[c], c, best[r], label[r]);
             }
           }
           if (r + 1 < (planar ? channels : count)) return;
           const int64_t at = (n * height + y) * width + first;
           for (int64_t i = 0; i < count; ++i) label_of[at + i] = static_cast<L>(label[i]);
           if (!value_of) return;
           for (int64_t i = 0; i < count; ++i) value_of[at + i] = static_cast<O>(probability ? 1 / total[i] : best[i]);
         });
}

template <class F>
void dispatch_labels(ScalarType dtype, const F& body) {
  switch (dtype) {
    case ScalarType::Byte: return body(uint8_t{});
    case ScalarType::Int: return body(int32_t{});
    case ScalarType::Long: return body(int64_t{});
    default: STD_TORCH_CHECK(false, "scale_space_labels: unsupported dtype ", static_cast<int>(dtype));
  }
}

void scale_space_labels_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, std::string value, std::vector<Tensor> outputs) {
  STD_TORCH_CHECK(value == "none" || value == "score" || value == "probability",
                  "scale_space_labels: value must be none, score or probability, got ", value);
  STD_TORCH_CHECK(outputs.size() == (value == "none" ? 1 : 2), "scale_space_labels: outputs must be the labels",
                  value == "none" ? "" : " and the values", ", got ", outputs.size());
  const Tensor labels = outputs[0];
  const std::optional<Tensor> values = value == "none" ? std::nullopt : std::optional<Tensor>(outputs[1]);
  dispatch(predictions.at(0).scalar_type(), "scale_space_labels", [&](auto t) {
    dispatch_labels(labels.scalar_type(), [&](auto l) {
      forward<decltype(t), decltype(l), acc_t<decltype(t)>>(predictions, logits, phi, opaque_last, resize_opacities,
                                                            value == "probability", labels, values);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, CPU, m) {
  m.impl("scale_space_labels_forward", TORCH_BOX(&afa::scale_space_labels_forward));
}
