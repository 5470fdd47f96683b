// scale_space_labels on CUDA: the launcher of labels.cuh over a rendering.
#include "labels.h"

namespace afa {
namespace {

constexpr Checker check{"scale_space_labels"};

void scale_space_labels_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, std::string value, std::vector<Tensor> outputs) {
  STD_TORCH_CHECK(value == "none" || value == "score" || value == "probability", check.op,
                  ": value must be none, score or probability, got ", value);
  check.count("outputs", outputs.size(), value == "none" ? 1 : 2);
  const Tensor& labels = outputs[0];
  const Launcher launch(check.op, labels);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = labels.size(1), width = labels.size(2), pixels = logits.size(0) * height * width;
    const Labels found = labels_of(check, labels, pixels);
    const auto given = value == "none" ? std::nullopt : std::optional<Tensor>(outputs[1]);
    Acc* values = check.flat<Acc>("values", given, pixels);
    const Inputs<T> inputs(check, launch, predictions, logits.size(0), height, width);
    const Planes<Acc> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    check_scales(check, inputs, planes);
    const Canvas canvas = canvas_of(inputs.channels, height, width);
    dispatch_scales<T>(planes.scales, [&](auto most) {
      using Scores = RenderedScores<T, most>;
      launch(most_likely<Scores>, blocks_of(canvas, inputs.batch), canvas,
             Scores{inputs.template of<most>(), planes.template of<most>()}, value == "probability", found, values);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_labels_forward", TORCH_BOX(&afa::scale_space_labels_forward));
}
