// scale_space_labels on CUDA: the launcher of scale_space_labels.cuh.
#include "render.h"
#include "scale_space_labels.cuh"

namespace afa {
namespace {

constexpr Checker check{"scale_space_labels"};

void scale_space_labels_forward(std::vector<Tensor> predictions, Tensor logits, std::string phi, bool opaque_last,
                                bool resize_opacities, std::string value, std::vector<Tensor> outputs) {
  STD_TORCH_CHECK(value == "none" || value == "score" || value == "probability", check.op,
                  ": value must be none, score or probability, got ", value);
  check.count("outputs", outputs.size(), value == "none" ? 1 : 2);
  const Tensor& labels = outputs[0];
  const ScalarType type = labels.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long, check.op,
                  ": unsupported dtype ", static_cast<int>(type));
  const Launcher launch(check.op, labels);
  dispatch(check.first("predictions", predictions).scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const int64_t height = labels.size(1), width = labels.size(2), pixels = logits.size(0) * height * width;
    check.contiguous("labels", labels, pixels);
    const auto given = value == "none" ? std::nullopt : std::optional<Tensor>(outputs[1]);
    Acc* values = check.flat<Acc>("values", given, pixels);
    const Inputs<T> inputs(check, predictions, logits.size(0), height, width);
    const Planes<Acc> planes(check, launch, logits, phi, opaque_last, resize_opacities, height, width);
    check_scales(check, inputs, planes);
    const Canvas canvas = inputs.canvas(height, width);
    dispatch_scales(planes.scales, [&](auto most) {
      launch(render_labels<T, most>, blocks_of(canvas, inputs.batch), canvas, inputs.template of<most>(),
             planes.template of<most>(), value == "probability", Labels{labels.data_ptr(), type}, values);
    });
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_labels_forward", TORCH_BOX(&afa::scale_space_labels_forward));
}
