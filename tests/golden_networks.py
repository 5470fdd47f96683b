"""The networks as the checker of their recorded values calls them: the interface of the official code.

python tests/golden/networks/check_networks.py tests/golden_networks.py
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from afa_kernels import models

NETWORKS = {
    "dla_seg": models.DLASegmentation,
    "afa_dla_seg": models.AFASegmentation,
    "afa_dla_seg_ssr": models.AFASegmentationSSR,
    "afa_dla_seg_hma": models.AFASegmentationHMA,
    "afa_dla_ocr_seg_ssr": models.AFAOCRSegmentationSSR,
}
RENAMED = {"n_scales_training": "training_scales", "n_scales_inference": "scales"}


def build(name: str, base_name: str = "dla34", criterion: Any = None, **options: Any) -> nn.Module:
    if name == "dla":
        return models.DLA(base_name)
    options = {RENAMED.get(key, key): value for key, value in options.items() if value is not None}
    network = NETWORKS[name](
        models.DLA(base_name, first_level=1),
        criterion=criterion,
        auxiliary_criterion=lambda scores, targets: criterion(scores, targets, do_rmi=False),
        **options,
    )

    def forward(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if network.training:
            return network.losses(batch["images"], batch["gts"])
        return {"pred": type(network).forward(network, batch["images"])}

    network.forward = forward  # type: ignore[method-assign]
    return network
