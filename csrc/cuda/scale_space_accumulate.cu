// scale_space_accumulate on CUDA: the launcher of scale_space_accumulate.cuh.
#include "render.h"
#include "scale_space_accumulate.cuh"

namespace afa {
namespace {

constexpr Checker check{"scale_space_accumulate"};

void scale_space_accumulate_forward(Tensor rendered, std::optional<Tensor> transmittance, Tensor prediction,
                                    Tensor weight, bool first) {
  const Launcher launch(check.op, rendered);
  dispatch(prediction.scalar_type(), check.op, [&](auto t) {
    using T = decltype(t);
    using Acc = acc_t<T>;
    const Layout layout(rendered);
    const int64_t batch = layout.batch, channels = layout.channels, height = layout.height, width = layout.width;
    const InNchw<Acc> into(check, "rendered", rendered, layout.shape());
    Acc* through = check.flat<Acc>("transmittance", transmittance, batch * layout.pixels);
    check.pixels("prediction", prediction);
    check.pixels("weight", weight);
    const Input<T> input(check, launch, "prediction", prediction,
                         {batch, channels, prediction.size(2), prediction.size(3)}, height, width);
    const Input<Acc> plane(check, launch, "weight", weight, {batch, 1, weight.size(2), weight.size(3)}, height, width);
    const Canvas canvas = canvas_of(channels, height, width);
    if (!first) into.copy_in(launch);
    launch(accumulate<T>, blocks_of(canvas, batch), canvas, input.resized, plane.resized, first, into.map, through);
    into.copy_out(launch);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_accumulate_forward", TORCH_BOX(&afa::scale_space_accumulate_forward));
}
