# ruff: noqa: E402  (what the examples need may be missing)
"""The examples' training: a killed run comes to the numbers of an unbroken one; bad files are named; scores are right.

On synthetic data of a few pixels.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

for module in ("scipy", "skimage", "h5py", "matplotlib", "tifffile", "tqdm"):
    pytest.importorskip(module, reason="the examples need the extra: pip install afa_kernels[demo]")

import numpy as np
from PIL import Image

from examples import tables, training
from examples.boundary_detection import bsds
from examples.boundary_detection import fusions as boundary_fusions
from examples.boundary_detection import train as boundaries
from examples.boundary_detection.fusions import FUSIONS, load_head
from examples.boundary_detection.scales import Scales
from examples.segmentation import camvid, espnet, nuclei
from examples.segmentation import scales as segmentation_scales
from examples.segmentation import train as segmentation
from examples.segmentation.demo import spatial_attention
from examples.segmentation.network import LEVELS, NucleiNet

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.once

SEGMENTATION_RUN = """
import os, signal, sys
from pathlib import Path
import numpy as np
from examples.segmentation import train
from examples.segmentation.nuclei import Picture

kill_at, checkpoint = int(sys.argv[1]), Path(sys.argv[2])
random = np.random.default_rng(0)
pictures = [Picture("a", random.random((40, 40), np.float32), (random.random((40, 40)) > 0.5).astype(np.int32))]
settings = train.settings_of("afa", "afa", 3, Path("synthetic"), 12, pictures)
settings |= {"crop": 16, "batch": 2, "checkpoint_every": 3}
batch_at = train.batch_at

def batch_or_death(step, *arguments):
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch_at(step, *arguments)

train.batch_at = batch_or_death
train.train_network(pictures, settings, checkpoint)
"""

BOUNDARY_RUN = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from examples.boundary_detection import train
from examples.boundary_detection.bsds import Photograph
from examples.boundary_detection.scales import Scales

kill_at, checkpoint = int(sys.argv[1]), Path(sys.argv[2])
random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
photographs, seen = [], []
for name in "abc":
    photographs.append(Photograph(name, np.zeros((12, 16, 3), np.uint8), random.random((2, 12, 16)) > 0.8))
    predictions = [torch.rand(1, 1, h, w, generator=generator) for h, w in ((6, 8), (12, 16))]
    seen.append(Scales(predictions, [torch.randn(1, 5, 6, 8, generator=generator) for _ in range(2)], (12, 16)))
settings = train.settings_of("ssr", 3, (0.5, 1.0), photographs) | {"steps": 12, "checkpoint_every": 3}
loss_of, step = train.loss_of, -1

def loss_or_death(*arguments):
    global step
    step += 1
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss_of(*arguments)

train.loss_of = loss_or_death
train.train(train.build("ssr", 3, (0.5, 1.0)), photographs, seen, settings, checkpoint)
"""


def python(code: str, kill_at: int, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, str(kill_at), str(checkpoint)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("code", [SEGMENTATION_RUN, BOUNDARY_RUN], ids=["segmentation", "boundary_detection"])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, code: str) -> None:
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    assert python(code, -1, whole).returncode == 0
    assert python(code, 7, broken).returncode == -signal.SIGKILL
    assert len(torch.load(broken, weights_only=True)["losses"]) == 6, "the last checkpoint before step 7"
    again = python(code, -1, broken)
    assert again.returncode == 0, again.stderr
    assert "goes on at step 6 of 12" in again.stderr
    a, b = (torch.load(path, weights_only=True) for path in (whole, broken))
    assert a["losses"] == b["losses"] and len(a["losses"]) == 12
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])


SETTINGS = {"name": "afa", "seed": 0}


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    training.save(path, {"settings": SETTINGS, "model": {}})
    before = path.read_bytes()

    def fails(content: object, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        training.save(path, {"settings": SETTINGS, "model": {"more": torch.zeros(3)}})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_is_not_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    training.save(path, {"settings": SETTINGS, "model": {}})
    with pytest.raises(ValueError, match=r"x\.pt is of another run: name is 'afa' there, 'sum' here"):
        training.load(path, {**SETTINGS, "name": "sum"})
    with pytest.raises(ValueError, match=r"x\.pt is no checkpoint of these scripts: it has no optimizer"):
        training.load(path, SETTINGS, ("model", "optimizer"))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint .*x\.pt cannot be read"):
            training.load(path, SETTINGS)
        assert path.read_bytes() == content, "nothing is written over"


def test_what_was_made_for_other_settings_is_made_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "folder" / "x.json", []

    def make() -> dict[str, int]:
        calls.append(1)
        return {"made": len(calls)}

    results = [training.remembered(path, {"seed": seed}, make) for seed in (0, 0, 1, 1)]
    assert [r["made"] for r in results] == [1, 1, 2, 2] and list(path.parent.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    settings = {**SETTINGS, "steps": 3, "rate": 0.1, "weight_decay": 0.0, "checkpoint_every": 1}
    with pytest.raises(ValueError, match="the loss of step 0 is nan"):
        training.optimise(model, lambda step: model.weight.sum() * float("nan"), settings, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    "main",
    [boundaries.main, segmentation.main, segmentation_scales.main],
    ids=["boundary_detection", "segmentation", "scales"],
)
def test_without_data_it_says_where_that_comes_from(main: Callable[[list[str]], None]) -> None:
    with pytest.raises(SystemExit, match=r"--data PATH is needed.*https://"):
        main([])


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PHOTOGRAPH = png(np.zeros((8, 10, 3), np.uint8), "JPEG")
DRAWN = png(255 * np.eye(8, 10, dtype=np.uint8))


def test_photographs_are_read_with_all_their_boundaries(tmp_path: Path) -> None:
    files = {"images/a.jpg": PHOTOGRAPH, "boundaries/a_0.png": DRAWN, "boundaries/a_1.png": DRAWN}
    (photograph,) = bsds.read_bsds(zipped(tmp_path / "x.zip", files))
    assert photograph.name == "a" and photograph.image.shape == (8, 10, 3)
    assert np.array_equal(photograph.boundaries, np.stack(2 * [np.eye(8, 10, dtype=bool)]))


@pytest.mark.parametrize(
    "files, reason",
    [
        ({}, r"x\.zip has no images/"),
        ({"images/a.jpg": PHOTOGRAPH}, r"images/a\.jpg but no boundaries/a_0\.png"),
        ({"images/a.jpg": PHOTOGRAPH[:50], "boundaries/a_0.png": DRAWN}, r"images/a\.jpg in .*x\.zip cannot be read"),
        (
            {"images/a.jpg": PHOTOGRAPH, "boundaries/a_0.png": png(np.zeros((3, 3), np.uint8))},
            r"is \(3, 3\), its image",
        ),
    ],
)
def test_bad_photographs_are_named(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bsds.read_bsds(zipped(tmp_path / "x.zip", files))


@pytest.mark.parametrize("read", [bsds.read_bsds, nuclei.read_tiles])
def test_a_truncated_zip_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = zipped(tmp_path / "x.zip", {"images/a.jpg": PHOTOGRAPH})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"x\.zip cannot be read as a zip .*https://"):
        read(path)


@pytest.mark.parametrize(
    "files, reason",
    [
        ({}, r"x\.zip has no \*_mask\.png"),
        ({"0_mask.png": DRAWN}, r"0\.png in .*x\.zip cannot be read"),
        ({"0.png": png(np.zeros((3, 3), np.uint8)), "0_mask.png": DRAWN}, r"is \(3, 3\), 0_mask\.png \(8, 10\)"),
    ],
)
def test_bad_tiles_are_named(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        nuclei.read_tiles(zipped(tmp_path / "x.zip", files))


def test_the_drawn_boundary_itself_scores_best() -> None:
    people = np.zeros((2, 40, 50), bool)
    people[:, 20, 6:44] = True
    perfect, beside, empty = np.where(people[0], 0.9, 0), np.roll(0.9 * people[0], 12, axis=0), np.zeros((40, 50))
    scored = {
        name: bsds.scores([bsds.count_fast(ridges, people)])
        for name, ridges in (("perfect", perfect), ("beside", beside), ("empty", empty))
    }
    assert scored["perfect"]["ods"] == scored["perfect"]["ois"] == pytest.approx(100)
    assert scored["beside"]["ods"] == scored["empty"]["ods"] == 0
    near = bsds.scores(
        [bsds.count_fast(np.roll(perfect, 9, axis=1)[:, :], people)]
    )  # 9 of 38 pixels lie behind the end
    assert 70 < near["ods"] < 90


def test_ois_takes_the_best_threshold_of_each_image() -> None:
    people = np.zeros((1, 40, 50), bool)
    people[:, 20, 6:44] = True
    strong, weak = np.where(people[0], 0.9, 0), np.where(people[0], 0.3, 0)
    strong[5, 6:44], weak[5, 6:44] = 0.5, 0.1  # where nobody drew: right of the one is wrong of the other
    scored = bsds.scores([bsds.count_fast(strong, people), bsds.count_fast(weak, people)])
    assert scored["ois"] == pytest.approx(100) and scored["ods"] < 90


def test_suppression_leaves_a_ridge_a_pixel_wide() -> None:
    y = np.arange(40)[:, None] - 20
    ridges = bsds.suppressed(np.exp(-(y**2) / 18) * np.ones((40, 50)))
    assert (ridges[:, 10:40] > 0).sum() == 30 and (ridges[20, 10:40] == 1).all()


def test_the_exact_matching_agrees_where_nothing_is_shared() -> None:
    pytest.importorskip("pyEdgeEval._lib", reason="pyedgeeval is not installed")
    people = np.zeros((2, 400, 300), bool)
    people[0, 200, 40:260] = people[1, 201, 40:250] = True
    ridges = np.where(people[0], 0.9, 0)
    thresholds = np.array([0.5])
    fast, exact = (f(ridges, people, thresholds) for f in (bsds.count_fast, bsds.count_exact))
    for field in ("drawn", "found", "predicted", "right"):
        assert getattr(exact, field) == pytest.approx(getattr(fast, field), rel=0.03)


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_gives_probabilities_and_learns(name: str) -> None:
    torch.manual_seed(0)
    scales, size = (0.5, 1.0, 1.5), (12, 16)
    predictions = [torch.rand(1, 1, h, w) for h, w in ((6, 8), (12, 16), (18, 24))]
    fusion = boundaries.build(name, 0, scales)
    fused = fusion(Scales(predictions, [torch.randn(1, 5, 6, 8) for _ in scales], size))
    assert fused.shape == (1, 1, *size) and fused.min() >= 0 and fused.max() <= 1
    if list(fusion.parameters()):
        fused.sum().backward()
        last = fusion.get_parameter("head.final.0.weight").grad
        assert last is not None and last.abs().sum() > 0


def test_the_shipped_models_are_small_and_load() -> None:
    head, model = load_head(), segmentation.load_model()
    assert boundary_fusions.HEAD.stat().st_size < 200_000 and segmentation.MODEL.stat().st_size < 400_000
    assert head.logits(torch.randn(1, 5, 6, 8)).shape == (1, 1, 6, 8)
    assert model.labels(torch.rand(1, 1, 40, 50)).shape == (1, 40, 50)


def test_a_model_of_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    found = torch.load(segmentation.MODEL, weights_only=True)
    training.save(path, found | {"settings": found["settings"] | {"levels": "sum"}})
    with pytest.raises(ValueError, match=r"x\.pt is no model of this script: .*fusions"):
        segmentation.load_model(path)


def test_the_attention_shown_is_that_of_every_fusion() -> None:
    torch.manual_seed(0)
    network = NucleiNet("afa").eval()
    found = spatial_attention(network, torch.rand(1, 1, 32, 48))
    assert list(found) == ["4x6", "8x12", "16x24"]
    assert all(a.min() >= 0 and a.max() <= 1 and a.shape[1] == 1 for a in found.values())
    assert not any(m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.__name__)
def test_the_tables_of_the_documentation_are_those_of_the_records(table: Callable[[], str]) -> None:
    assert table() in (ROOT / "docs" / "training.md").read_text(), "python -m examples.tables prints it"


def test_boundaries_between_nuclei_are_where_two_are_near() -> None:
    drawn = np.zeros((12, 24), np.int32)
    drawn[2:10, 1:8], drawn[2:10, 8:15], drawn[2:10, 19:] = 1, 2, 3
    classes = nuclei.classes_of(drawn)
    assert set(np.unique(classes[2:10, 6:10])) == {2} and classes[5, 3] == 1 and classes[5, 16] == 0
    assert nuclei.f_of_nuclei(nuclei.nuclei_of(classes), drawn) == 100
    assert nuclei.f_of_nuclei(nuclei.nuclei_of((drawn > 0).astype(np.int64)), drawn) < 70, "touching ones are one"


def test_ious_are_of_each_class() -> None:
    target, labels = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    assert nuclei.ious(nuclei.confusion(labels, target)).tolist() == pytest.approx([100 / 3, 200 / 3, 50])


@pytest.mark.parametrize("levels", LEVELS)
def test_every_fusion_of_levels_has_gradients_everywhere(levels: str) -> None:
    torch.manual_seed(0)
    network = NucleiNet(levels)
    scores, _ = network(torch.randn(2, 1, 33, 48))  # no multiple of the strides
    assert scores.shape == (2, 3, 17, 24)
    scores.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_quiet_fusion_begins_as_the_sum() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 8, 6, 7), torch.randn(2, 8, 6, 7)
    fusion = LEVELS["afa_quiet"](8).eval()
    torch.testing.assert_close(fusion(x, y), fusion.get_submodule("node")(x + y))


def test_batches_depend_on_seed_and_step_alone() -> None:
    random = np.random.default_rng(0)
    pictures = [nuclei.Picture("a", random.random((40, 40), np.float32), np.zeros((40, 40), np.int32))]
    settings = {"seed": 0, "steps": 9, "crop": 16, "batch": 2}
    one, same = (segmentation.batch_at(4, settings, pictures)[0] for _ in range(2))
    assert torch.equal(one, same) and not torch.equal(one, segmentation.batch_at(5, settings, pictures)[0])


INDICES = np.array([[0, 3], [10, camvid.VOID]], np.uint8)
COLOURS = np.array([[[128, 128, 128], [128, 0, 192]], [[192, 0, 192], [0, 0, 0]]], np.uint8)


def camvid_folder(path: Path, labels: dict[str, bytes], image: bytes | None = None) -> Path:
    """A training and a test split with these label images, and an image for each."""
    for split in ("train", "test"):
        for name, content in labels.items():
            for folder, pixels in (
                (split, image or png(np.full((40, 80, 3), 90, np.uint8))),
                (f"{split}annot", content),
            ):
                (path / folder).mkdir(parents=True, exist_ok=True)
                (path / folder / name).write_bytes(pixels)
    return path


def enlarged(labels: np.ndarray) -> bytes:
    return png(labels.repeat(20, 0).repeat(40, 1))


def test_scenes_are_read_by_number_and_by_colour_from_a_folder_and_a_zip(tmp_path: Path) -> None:
    """The classes' numbers and CamVid's own colours mean the same; an image of half the size is resized."""
    labels = {"a.png": enlarged(INDICES), "b.png": enlarged(COLOURS)}
    folder = camvid_folder(tmp_path / "camvid", labels, png(np.full((20, 40, 3), 90, np.uint8)))
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.png")}
    for data in (folder, zipped(tmp_path / "x.zip", files)):
        a, b = camvid.read_split(data, "test")
        assert a.name == "a" and a.image.shape == (40, 80, 3) and (a.image == 90).all()
        assert np.array_equal(a.target, b.target)
        assert np.array_equal(a.target[::20, ::40], INDICES)
    assert set(camvid.CLASS_OF.values()) == set(range(camvid.VOID + 1)) and len(camvid.CLASS_OF) == 32


@pytest.mark.parametrize(
    "labels, reason",
    [
        (None, r"has no folder train\. .*https://"),
        ({}, r"train of .* has no images that end in \.png or \.jpg"),
        ({"a.png": b"no image"}, r"trainannot/a\.png of .* cannot be read"),
        ({"a.png": enlarged(INDICES + 1)}, r"trainannot/a\.png of .* classes from 0 to 10 or 11 for void, got 12"),
        ({"a.png": enlarged(COLOURS + 1)}, r"trainannot/a\.png of .* colours of CamVid's 32 classes, got #010101"),
        ({"a.png": png(INDICES)}, r"trainannot/a\.png of .* is 2 x 2, its image 80 x 40 pixels"),
    ],
)
def test_bad_scenes_are_named(tmp_path: Path, labels: dict[str, bytes] | None, reason: str) -> None:
    if labels is not None:
        for folder in ("train", "trainannot"):
            (tmp_path / folder).mkdir()
        camvid_folder(tmp_path, labels)
    with pytest.raises(ValueError, match=reason):
        camvid.read_split(tmp_path, "train")


def test_a_scene_without_labels_is_named(tmp_path: Path) -> None:
    camvid_folder(tmp_path, {"a.png": enlarged(INDICES)})
    (tmp_path / "train" / "b.png").write_bytes(enlarged(INDICES))
    with pytest.raises(ValueError, match=r"has b in train but not in trainannot"):
        camvid.read_split(tmp_path, "train")


def test_scales_of_a_frozen_network_are_fused_and_scored(tmp_path: Path) -> None:
    """On a folder of two scenes, of weights that nobody trained: heads alone change, every class and way is scored."""
    data, weights = camvid_folder(tmp_path / "camvid", {"a.png": enlarged(INDICES)}), tmp_path / "weights.pth"
    torch.manual_seed(0)
    state = espnet.ESPNet(12, (0.4,) * 3, (0.3,) * 3).state_dict()
    torch.save(state, weights)
    given = ["--data", str(data), "--weights", str(weights), "--output", str(tmp_path / "out"), "--steps", "2"]
    segmentation_scales.main([*given, "--record", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert [row["scales"] for row in record["rows"]] == ["single", "mean", "hma", "ssr"]
    assert all(set(camvid.CLASSES) < set(row) and 0 <= row["miou"] <= 100 for row in record["rows"])
    kept = torch.load(tmp_path / "out" / "espnet_seed0.pt", weights_only=True)["model"]
    assert all(torch.equal(kept[f"ways.ssr.network.{name}"], x) for name, x in state.items())
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(SystemExit, match=r"weights\.pth cannot be read as ESPNet's: .*https://"):
        segmentation_scales.main(given)


def test_the_fusions_of_one_run_are_those_of_multi_scale() -> None:
    torch.manual_seed(0)
    network = espnet.ESPNet(12, (0.4,) * 3, (0.3,) * 3).eval().requires_grad_(False)
    fusions = segmentation_scales.Fusions(network, (0.8, 1.0, 1.6)).eval()
    image = torch.rand(1, 3, 50, 70)  # no multiple of the strides
    with torch.no_grad():
        for way, fused in fusions(image).items():
            torch.testing.assert_close(fused, fusions.ways[way](image))
