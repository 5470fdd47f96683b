"""What a user writes, and what a type checker makes of it: read by pyright and mypy, which tests/integrations runs."""

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import afa_kernels
from afa_kernels.nn import AFADLAUp, AttentiveFusion, MultiScale, ProgressiveFusion, ScaleSpaceRendering, fusing

shallow, deep = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
logits = torch.randn(2, 2, 8, 8)

assert_type(afa_kernels.attentive_fusion(shallow, deep, logits[:, :1], deep[:, :, :1, :1]), Tensor)
assert_type(afa_kernels.global_avg_max_pool(shallow), tuple[Tensor, Tensor])
assert_type(afa_kernels.upsampled_pool(deep, torch.randn(16, 1, 4, 4)), tuple[Tensor, Tensor])
assert_type(afa_kernels.resized_fusion([deep], [logits[:, :1]], [deep[:, :, :1, :1]]), Tensor)
assert_type(afa_kernels.scale_space_weights(logits), tuple[Tensor, Tensor])
assert_type(afa_kernels.scale_space_render([shallow, deep], logits, size=(16, 16), phi="abs"), Tensor)
assert_type(AttentiveFusion(16)(shallow, deep), Tensor)
assert_type(ProgressiveFusion(16)([deep, shallow]), Tensor)
assert_type(AFADLAUp([16, 32], scales=[1, 2])([shallow, torch.randn(2, 32, 4, 4)]), list[Tensor])
assert_type(fusing(AttentiveFusion(16)), dict[str, str | None])
assert_type(afa_kernels.backend_info().chosen, dict[str, str])


class Network(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, image


model = MultiScale(Network(), scales=(0.5, 1.0), head=ScaleSpaceRendering(3)).eval()
assert_type(model(torch.randn(1, 3, 16, 16)), Tensor)
assert_type(model.scales_of(torch.randn(1, 3, 16, 16)), tuple[list[Tensor], list[Tensor]])
