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
    check.type("rendered", rendered, torch::headeronly::CppTypeToScalarType<Acc>::value);
    const AnyMap out = any_map(check, "rendered", rendered, layout.shape());
    Acc* through = check.flat<Acc>("transmittance", transmittance, batch * layout.pixels);
    const Inputs<T> input(check, {prediction}, batch, height, width);
    check.count("prediction's channels", input.channels, channels);
    check.pixels("weight", weight);
    const auto map = check.map<const Acc>("weight", weight, {batch, 1, weight.size(2), weight.size(3)}, false);
    const auto resize = resize_of<Acc>(check, weight.size(2), weight.size(3), height, width);
    const Canvas canvas = input.canvas(height, width);
    launch(accumulate<T>, blocks_of(canvas, batch), canvas, input.scales[0],
           Resized<Acc>{map.data, map.sn, map.sc, map.sp, resize}, first, out, through);
  });
}

}  // namespace
}  // namespace afa

STABLE_TORCH_LIBRARY_IMPL(afa_native, AFA_CUDA, m) {
  m.impl("scale_space_accumulate_forward", TORCH_BOX(&afa::scale_space_accumulate_forward));
}
