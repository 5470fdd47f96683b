"""DLA, the backbone of the official networks, in its ten variants. State dicts as there, and almost as in timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afa_kernels.nn import folding


@dataclass(frozen=True)
class Variant:
    depths: tuple[int, int, int, int]  # of the trees of levels 2 to 5
    channels: tuple[int, int, int, int, int, int]  # of levels 0 to 5
    block: str  # "basic", "bottleneck", "x32" or "x64"
    residual_root: bool = False


SMALL, LARGE = (16, 32, 64, 64, 128, 256), (16, 32, 128, 256, 512, 1024)
VARIANTS = {
    "dla34": Variant((1, 2, 2, 1), (16, 32, 64, 128, 256, 512), "basic"),
    "dla46_c": Variant((1, 2, 2, 1), SMALL, "bottleneck"),
    "dla46x_c": Variant((1, 2, 2, 1), SMALL, "x32"),
    "dla60x_c": Variant((1, 2, 3, 1), SMALL, "x32"),
    "dla60": Variant((1, 2, 3, 1), LARGE, "bottleneck"),
    "dla60x": Variant((1, 2, 3, 1), LARGE, "x32"),
    "dla102": Variant((1, 3, 4, 1), LARGE, "bottleneck", residual_root=True),
    "dla102x": Variant((1, 3, 4, 1), LARGE, "x32", residual_root=True),
    "dla102x2": Variant((1, 3, 4, 1), LARGE, "x64", residual_root=True),
    "dla169": Variant((2, 3, 5, 1), LARGE, "bottleneck", residual_root=True),
}


class BasicBlock(nn.Module):
    """Two convolutions of 3x3 and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(outputs)
        self.conv2: nn.Conv2d = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = folding.several(x, (self.conv1, self.bn1), (self.conv2, self.bn2))
        return (out + (x if residual is None else residual)).relu_()


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 with groups, and 1x1, and a residual."""

    def __init__(self, inputs: int, outputs: int, stride: int, width: int, groups: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.conv2: nn.Conv2d = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.conv3: nn.Conv2d = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3: nn.BatchNorm2d = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = folding.several(x, (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3))
        return (out + (x if residual is None else residual)).relu_()


def block_of(kind: str, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    if kind == "basic":
        return BasicBlock(inputs, outputs, stride)
    width, groups = {"bottleneck": (outputs // 2, 1), "x32": (outputs, 32), "x64": (2 * outputs, 64)}[kind]
    return Bottleneck(inputs, outputs, stride, width, groups)


class Root(nn.Module):
    """What a tree's blocks and its children are joined by; `residual` adds the first of them."""

    def __init__(self, inputs: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.conv: nn.Conv2d = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(outputs)
        self.residual = residual

    def forward(self, children: Sequence[Tensor]) -> Tensor:
        joined = torch.cat(list(children), 1)
        if not self.residual:
            return folding.convolved(joined, self.conv, self.bn, rectify=True)
        return (folding.convolved(joined, self.conv, self.bn, rectify=False) + children[0]).relu_()


class Tree(nn.Module):
    """Two blocks and their root, or, deeper, two trees of which the second has the root of both.

    Args:
        depth: of trees within trees, at least 1.
        level_root: whether the input takes part in the root.
        joined: channels of the children that come from outside, 0 for none.
    """

    def __init__(
        self,
        depth: int,
        kind: str,
        inputs: int,
        outputs: int,
        stride: int = 1,
        level_root: bool = False,
        joined: int = 0,
        residual_root: bool = False,
    ) -> None:
        super().__init__()
        self.stride: int = stride
        self.level_root: bool = level_root
        joined += inputs if level_root else 0
        if depth == 1:
            self.tree1: nn.Module = block_of(kind, inputs, outputs, stride)
            self.tree2: nn.Module = block_of(kind, outputs, outputs)
            self.root: Root = Root(2 * outputs + joined, outputs, residual_root)
        else:
            self.tree1 = Tree(depth - 1, kind, inputs, outputs, stride, residual_root=residual_root)
            self.tree2 = Tree(depth - 1, kind, outputs, outputs, joined=outputs + joined, residual_root=residual_root)
        self.deep: bool = depth > 1
        self.project: nn.Module = nn.Identity()
        if inputs != outputs:  # of a deep tree it is never used: the tree within has its own
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, children: Sequence[Tensor] = ()) -> Tensor:
        pooled = F.max_pool2d(x, self.stride, self.stride) if self.stride > 1 and self.needs_pooled() else x
        children = [*children, pooled] if self.level_root else list(children)
        if self.deep:
            one = self.tree1(x)
            return self.tree2(one, [*children, one])
        one = self.tree1(x, folding.sequence(self.project, pooled))
        return self.root([self.tree2(one), one, *children])

    def needs_pooled(self) -> bool:
        return self.level_root or not self.deep


class DLA(nn.Module):
    """Deep layer aggregation: feature maps at strides 1, 2, 4, 8, 16 and 32 of the image.

    Args:
        name: "dla34", "dla46_c", "dla46x_c", "dla60x_c", "dla60", "dla60x", "dla102", "dla102x", "dla102x2" or
            "dla169".
        first_level: the first to be returned; the networks for segmentation have no use for level 0.

    Takes images (N, 3, H, W), H and W multiples of 32, and returns the list of the levels. `channels` and `reductions`
    tell of the levels returned. The state dict is the official one; `load_timm` takes timm's weights.

    Source: Yu et al., "Deep Layer Aggregation", CVPR 2018, arXiv 1707.06484.

    >>> import torch
    >>> from afa_kernels.models import DLA
    >>> [tuple(level.shape[1:]) for level in DLA("dla34").eval()(torch.randn(1, 3, 32, 64))]
    [(16, 32, 64), (32, 16, 32), (64, 8, 16), (128, 4, 8), (256, 2, 4), (512, 1, 2)]
    """

    def __init__(self, name: str = "dla34", first_level: int = 0) -> None:
        super().__init__()
        if name not in VARIANTS:
            raise ValueError(f"name must be one of {', '.join(VARIANTS)}, got {name!r}")
        if first_level not in range(6):
            raise ValueError(f"first_level must be from 0 to 5, got {first_level!r}")
        variant = VARIANTS[name]
        self.name: str = name
        self.first_level: int = first_level
        channels = variant.channels
        self.channels: tuple[int, ...] = channels[first_level:]
        self.reductions: tuple[int, ...] = tuple(1 << i for i in range(first_level, 6))
        self.base_layer: nn.Sequential = convolution(3, channels[0], 7)
        self.level0: nn.Sequential = convolution(channels[0], channels[0], 3)
        self.level1: nn.Sequential = convolution(channels[0], channels[1], 3, stride=2)
        for i, depth in enumerate(variant.depths, 2):
            tree = Tree(
                depth, variant.block, channels[i - 1], channels[i], 2, i > 2, residual_root=variant.residual_root
            )
            setattr(self, f"level{i}", tree)
        # Of ImageNet's classes; in every state dict, and not used here.
        self.fc: nn.Conv2d = nn.Conv2d(channels[5], 1000, 1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.fc:
                nn.init.normal_(module.weight, 0, (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)

    def forward(self, image: Tensor) -> list[Tensor]:
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"image must have the shape (N, 3, H, W), got {tuple(image.shape)}")
        if image.shape[2] % 32 or image.shape[3] % 32:
            raise ValueError(
                f"image must have a height and a width that are multiples of 32, got {image.shape[2]} x "
                f"{image.shape[3]}"
            )
        stem, levels = [self.base_layer, self.level0, self.level1], []
        if self.first_level == 0:
            levels.append(folding.sequence(self.level0, folding.sequence(self.base_layer, image)))
            levels.append(folding.sequence(self.level1, levels[0]))
        else:
            levels.append(folding.sequences(stem, image))
        for i in range(2, 6):
            levels.append(getattr(self, f"level{i}")(levels[-1]))
        return levels[max(self.first_level - 1, 0) :]

    def load_timm(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the state dict of timm's model of the same name, with or without its classifier.

        timm has no projections in the trees of more than one level, where the official code has some whose result
        nobody uses: these stay as they are. Everything else must be there.

            model.load_timm(timm.create_model("dla34", pretrained=True).state_dict())

        Raises:
            RuntimeError: an entry is missing, unknown or of another shape; nothing is loaded then.
        """
        kept = {key: t for key, t in self.state_dict().items() if key not in state_dict and self._may_lack(key)}
        check_entries(self, {**state_dict, **kept})
        self.load_state_dict({**state_dict, **kept})

    def _may_lack(self, key: str) -> bool:
        path, _, rest = key.partition("project.")
        tree = self.get_submodule(path.removesuffix(".")) if rest else None
        return key.startswith("fc.") or (isinstance(tree, Tree) and tree.deep)

    def to_timm(self) -> dict[str, Tensor]:
        """The state dict for timm's model of the same name."""
        return {key: t for key, t in self.state_dict().items() if key.startswith("fc.") or not self._may_lack(key)}


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def check_entries(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Raise where `state_dict` is not exactly that of `module`, before anything of it is copied."""
    own = module.state_dict()
    wrong = [f"{key} is missing" for key in own if key not in state_dict]
    wrong += [f"{key} is unknown" for key in state_dict if key not in own]
    for key, value in own.items():
        if key in state_dict and state_dict[key].shape != value.shape:
            wrong.append(f"{key} has the shape {tuple(state_dict[key].shape)}, not {tuple(value.shape)}")
    if wrong:
        raise RuntimeError(
            f"the state dict is not that of this {type(module).__name__}: {'; '.join(wrong[:5])}"
            + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
