"""SAM2: the same masks as the libraries' own predictors make, with either of them; files that are not SAM2 are refused."""

import gc
import json
import shutil

import comfy.model_management as mm
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attractor.nodes.errors import UserError
from attractor.nodes.host.managed import resolve_dtype
from attractor.nodes.masking.boxes import Box
from attractor.nodes.masking.sam import load_sam2
from attractor.nodes.masking.sam_checkpoint import _official_config
from attractor.nodes.pretrained.model_files import SAM2, native_classes
from test_nodes.live_tensors import tensor_megabytes

BOXES = [Box(10, 20, 50, 30), Box(60.5, 5, 30.25, 70), Box(0, 0, 120, 90)]
CORNERS = [[10, 20, 60, 50], [60.5, 5, 90.75, 75], [0, 0, 120, 90]]


def picture(height=90, width=120, seed=0):
    """(H, W, 3) in 0..1 with blobs of colour, exactly representable in 8 bits."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((1, 3, 5, 5), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].movedim(0, -1)
    return (smooth * 255).round() / 255


def load(folder, name, dtype=torch.float32):
    return load_sam2(folder / "sam2" / name, dtype)


def ask(sam2, image, boxes, threshold=0.0):
    with torch.inference_mode():  # as the host runs nodes
        return sam2.masks(image, boxes, threshold)


@pytest.fixture(scope="module")
def package(vision_models):
    return load(vision_models, "tiny.pt")


@pytest.fixture(scope="module")
def converted(vision_models):
    return load(vision_models, "tiny-converted")


@pytest.fixture(scope="module")
def small(vision_models):
    return load(vision_models, "tiny")


def test_masks_are_those_of_the_sam2_packages_own_predictor(package, vision_models):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    model = instantiate(OmegaConf.load(vision_models / "sam2" / "tiny.yaml").model, _recursive_=True).eval()
    model.load_state_dict(torch.load(vision_models / "sam2" / "tiny.pt", weights_only=True)["model"])
    predictor = SAM2ImagePredictor(model)
    image = picture()
    predictor.set_image((image * 255).round().byte().numpy())
    masks, scores = ask(package, image, BOXES)
    assert masks.shape == (3, 90, 120) and masks.dtype == torch.float32 and 0.01 < masks.mean() < 0.99
    for mask, score, corners in zip(masks, scores, CORNERS, strict=True):
        offered, predicted_iou, _ = predictor.predict(box=np.array(corners), multimask_output=True)
        assert score == predicted_iou.max()
        assert (mask.numpy() == offered[predicted_iou.argmax()]).all()


def test_masks_are_those_of_transformers_own_processor(small, vision_models):
    from transformers import Sam2Model, Sam2Processor

    folder = vision_models / "sam2" / "tiny"
    model, processor = Sam2Model.from_pretrained(folder).eval(), Sam2Processor.from_pretrained(folder)
    image = picture()
    inputs = processor(images=(image * 255).round().byte().numpy(), input_boxes=[CORNERS], return_tensors="pt")
    with torch.inference_mode():
        out = model(**inputs, multimask_output=True)
    offered = processor.post_process_masks(out.pred_masks, inputs["original_sizes"])[0]  # (box, 3, H, W)
    masks, scores = ask(small, image, BOXES)
    assert 0.01 < masks.mean() < 0.99 and not torch.equal(masks[0], masks[1])
    for i in range(len(BOXES)):
        best = out.iou_scores[0, i].argmax()
        assert scores[i] == out.iou_scores[0, i, best]
        assert torch.equal(masks[i].bool(), offered[i, best].bool())


def test_both_libraries_give_the_same_masks_for_the_same_weights(package, converted):
    """Exact where neither has to scale the picture: they round differently there, by half an 8-bit step."""
    image = picture(1024, 1024)
    boxes = [Box(100, 200, 500, 300), Box(600.5, 50, 300, 700)]
    (by_package, iou), (by_transformers, other_iou) = ask(package, image, boxes), ask(converted, image, boxes)
    assert 0.01 < by_package.mean() < 0.99
    assert (by_package != by_transformers).float().mean() < 1e-5
    torch.testing.assert_close(iou, other_iou, atol=1e-5, rtol=0)
    image, boxes = picture(), BOXES
    (by_package, iou), (by_transformers, other_iou) = ask(package, image, boxes), ask(converted, image, boxes)
    assert (by_package != by_transformers).float().mean() < 0.01
    torch.testing.assert_close(iou, other_iou, atol=1e-3, rtol=0)


def test_a_folder_that_transformers_4_saved_is_whole(converted, vision_models, tmp_path):
    """It holds the positional embedding once, where transformers 5 looks for it twice."""
    folder = shutil.copytree(vision_models / "sam2" / "tiny-converted", tmp_path / "saved by 4")
    weights = load_file(folder / "model.safetensors")
    weights.pop("prompt_encoder.shared_embedding.positional_embedding", None)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    masks, _ = ask(load_sam2(folder, torch.float32), picture(), BOXES)
    assert torch.equal(masks, ask(converted, picture(), BOXES)[0])


@pytest.mark.parametrize("backend", ["package", "small"])
def test_a_box_is_masked_alone_as_among_others_and_every_call_alike(backend, request):
    sam2, image = request.getfixturevalue(backend), picture()
    masks, scores = ask(sam2, image, BOXES)
    again, again_scores = ask(sam2, image, BOXES)
    assert torch.equal(masks, again) and torch.equal(scores, again_scores)
    alone, score = ask(sam2, image, BOXES[1:2])
    assert (alone[0] != masks[1]).float().mean() < 1e-3
    torch.testing.assert_close(score, scores[1:2], atol=1e-5, rtol=0)
    other, _ = ask(sam2, picture(seed=5), BOXES)
    assert not torch.equal(other, masks), "the picture does not matter"


@pytest.mark.parametrize("backend", ["package", "small"])
def test_a_higher_threshold_only_takes_away(backend, request):
    sam2, image = request.getfixturevalue(backend), picture()
    low, middle, high = (ask(sam2, image, BOXES[:1], threshold)[0].bool() for threshold in (-0.2, 0.0, 0.2))
    assert (high <= middle).all() and (middle <= low).all()
    assert high.sum() < low.sum()


@pytest.mark.parametrize("backend", ["package", "small"])
def test_no_box_and_odd_sizes(backend, request):
    sam2 = request.getfixturevalue(backend)
    masks, scores = ask(sam2, picture(), [])
    assert masks.shape == (0, 90, 120) and scores.shape == (0,)
    for size in ((1, 40), (3, 3), (300, 17)):
        masks, _ = ask(sam2, picture(*size), [Box(0, 0, size[1], size[0])])
        assert masks.shape == (1, *size)


@pytest.mark.parametrize("name", ["tiny.pt", "tiny"])
def test_half_precision_changes_little(name, vision_models, request):
    image = picture()
    masks, scores = ask(request.getfixturevalue("package" if name == "tiny.pt" else "small"), image, BOXES)
    half_masks, half_scores = ask(load(vision_models, name, torch.bfloat16), image, BOXES)
    assert half_masks.dtype == half_scores.dtype == torch.float32
    assert (masks != half_masks).float().mean() < 0.25  # random weights: most logits are near 0
    torch.testing.assert_close(half_scores, scores, atol=0.02, rtol=0)
    assert not torch.equal(half_scores, scores), "bfloat16 was not used"


def test_dtype_is_the_devices_best_or_the_users():
    assert resolve_dtype("auto", (torch.bfloat16, torch.float16)) == torch.float32  # the tests run on a CPU
    assert resolve_dtype("float16", (torch.bfloat16,)) == torch.float16


@pytest.mark.parametrize("name", ["tiny.pt", "tiny"])
def test_the_host_can_take_the_model_away_and_nothing_else_stays(name, vision_models):
    """What a call leaves behind is the weights, in the host's own list of loaded models."""
    mm.unload_all_models()
    sam2 = load(vision_models, name)
    ask(sam2, picture(), BOXES)  # what the libraries keep from their first call on
    gc.collect()

    loaded = [m for m in mm.current_loaded_models if m.model is sam2._managed._patcher]
    assert len(loaded) == 1 and loaded[0].model_memory() > 10**6
    before = tensor_megabytes()
    for seed in range(3):
        ask(sam2, picture(seed=seed), BOXES)
    assert tensor_megabytes() <= before + 0.1
    assert len([m for m in mm.current_loaded_models if m.model is sam2._managed._patcher]) == 1
    mm.unload_all_models()
    assert not mm.current_loaded_models
    masks, _ = ask(sam2, picture(), BOXES)  # and comes back when it is wanted
    assert masks.any()
    del sam2, loaded
    gc.collect()
    mm.cleanup_models()
    assert not mm.current_loaded_models, "a model nobody holds stays loaded"


def test_official_sizes_are_told_by_their_weights(package, tmp_path):
    """Each official configuration is built from what the package says; its weights lead back to it."""
    from pathlib import Path

    import sam2
    from omegaconf import OmegaConf

    configs = sorted((Path(sam2.__path__[0]) / "configs").glob("sam2*/sam2*_hiera_*.yaml"))
    configs = [c for c in configs if c.parent.name in ("sam2", "sam2.1")]
    assert len(configs) == 8
    for config in configs:
        trunk = OmegaConf.load(config).model.image_encoder.trunk
        width, blocks = trunk.get("embed_dim", 96), sum(trunk.get("stages", (2, 3, 16, 3)))
        weights = {f"image_encoder.trunk.blocks.{i}.norm1.weight": None for i in range(blocks)}
        weights["image_encoder.trunk.patch_embed.proj.weight"] = torch.zeros(width, 3, 7, 7)
        if config.parent.name == "sam2.1":
            weights["no_obj_embed_spatial"] = None
        assert _official_config(tmp_path / "renamed.pt", weights) == f"{config.parent.name}/{config.name}"


def test_an_official_checkpoint_needs_no_configuration(tmp_path):
    """The smallest official architecture, in full, by the package's own configuration."""
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    torch.save({"model": model.state_dict()}, tmp_path / "my download (1).pt")
    save_file(model.state_dict(), tmp_path / "my download (2).safetensors")
    for file in ("my download (1).pt", "my download (2).safetensors"):
        loaded = load_sam2(tmp_path / file, torch.float32)._managed.module
        assert type(loaded) is type(model) and str(loaded) == str(model)
        for name, value in model.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])


def test_a_configuration_can_build_nothing_but_sam2(vision_models, tmp_path):
    shutil.copy(vision_models / "sam2" / "tiny.pt", tmp_path)
    text = (vision_models / "sam2" / "tiny.yaml").read_text()
    marker = tmp_path / "ran"
    for evil in ("os.mkdir", "sam2.modeling.sam2_base.torch.hub.os.mkdir", "${oc.env:HOME}", "sam2.build_sam.build_sam2"):
        (tmp_path / "tiny.yaml").write_text(f"{text}  evil:\n    _target_: {evil}\n    path: {marker}\n")
        with pytest.raises(UserError, match="not a part of SAM2"):
            load_sam2(tmp_path / "tiny.pt", torch.float32)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["- 1\n", "models: 1\n", "model: 1\n", ""])
def test_a_configuration_that_describes_no_model_is_said_to_be_none(text, vision_models, tmp_path):
    shutil.copy(vision_models / "sam2" / "tiny.pt", tmp_path)
    (tmp_path / "tiny.yaml").write_text(text)
    with pytest.raises(UserError, match="tiny.yaml describes no model"):
        load_sam2(tmp_path / "tiny.pt", torch.float32)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_safetensors_file_is_read_as_the_pt_is(dtype, package, vision_models, tmp_path):
    """As other packs' downloads are: the official names, without the "model" around them, in 32 or 16 bits."""
    weights = torch.load(vision_models / "sam2" / "tiny.pt", weights_only=True)["model"]
    shutil.copy(vision_models / "sam2" / "tiny.yaml", tmp_path / "renamed.yaml")
    save_file({name: value.to(dtype) for name, value in weights.items()}, tmp_path / "renamed.safetensors")
    sam2 = load_sam2(tmp_path / "renamed.safetensors", torch.float32)
    assert all(value.dtype == torch.float32 for value in sam2._managed.module.state_dict().values())
    masks, scores = ask(sam2, picture(), BOXES)
    expected, expected_scores = ask(package, picture(), BOXES)
    if dtype == torch.float32:
        assert torch.equal(masks, expected) and torch.equal(scores, expected_scores)
    assert (masks != expected).float().mean() < 0.02
    torch.testing.assert_close(scores, expected_scores, atol=1e-3, rtol=0)


def unfit_checkpoints(tmp_path, vision_models):
    """(file, what the error has to say)"""
    whole = (vision_models / "sam2" / "tiny.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html><html>401</html>")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model": RunsCode(tmp_path / "ran")}, tmp_path / "evil.pt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "lora.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    weights = torch.load(vision_models / "sam2" / "tiny.pt", weights_only=True)["model"]
    torch.save({"model": weights}, tmp_path / "sizeless.pt")
    shutil.copy(vision_models / "sam2" / "tiny.yaml", tmp_path / "short.yaml")
    torch.save({"model": {k: v for k, v in weights.items() if "mask_decoder" not in k}}, tmp_path / "short.pt")
    save_file(weights, tmp_path / "sizeless.safetensors")
    save_file({"lora_unet.down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "sizeless.safetensors").read_bytes()[:-99])
    shutil.copy(tmp_path / "short.pt", tmp_path / "really a pt.safetensors")
    shutil.copy(vision_models / "sam2" / "tiny-converted" / "model.safetensors", tmp_path / "part of a folder.safetensors")
    unreadable = ("cut.pt", "page.pt", "empty.pt", "evil.pt", "cut.safetensors", "really a pt.safetensors")
    return {
        **{name: "cannot be read as plain tensors" for name in unreadable},
        **{name: "not a SAM2 checkpoint" for name in ("lora.pt", "list.pt", "lora.safetensors")},
        **{name: "does not have an official size" for name in ("sizeless.pt", "sizeless.safetensors")},
        "part of a folder.safetensors": "weights of a converted folder.*with the .json files",
        "short.pt": "damaged",
    }


def test_every_unfit_checkpoint_is_said_to_be_and_none_is_run(tmp_path, vision_models):
    for name, words in unfit_checkpoints(tmp_path, vision_models).items():
        with pytest.raises(UserError, match=words) as refused:
            load_sam2(tmp_path / name, torch.float32)
        assert name in str(refused.value) and "weights_only" not in str(refused.value)
        assert len(str(refused.value)) < 500
    assert not (tmp_path / "ran").exists()


def test_every_unfit_folder_is_said_to_be(tmp_path, vision_models):
    def copy(name):
        return shutil.copytree(vision_models / "sam2" / "tiny", tmp_path / name)

    weights = load_file(vision_models / "sam2" / "tiny" / "model.safetensors")
    cut = copy("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (copy("no weights") / "model.safetensors").unlink()
    short = {k: v for k, v in weights.items() if "mask_decoder" not in k}
    save_file(short, copy("short") / "model.safetensors", {"format": "pt"})
    wide = {k: torch.cat([v, v]) if k.endswith("mask_tokens.weight") else v for k, v in weights.items()}
    save_file(wide, copy("other shape") / "model.safetensors", {"format": "pt"})
    for file in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "cut" / file).unlink(missing_ok=True)
    broken = copy("broken config") / "config.json"
    broken.write_text(json.dumps({**json.loads(broken.read_text()), "vision_config": {"hidden_size": "wide"}}))
    for name in ("cut", "no weights", "short", "other shape", "broken config"):
        with pytest.raises(UserError, match="damaged or not a SAM2 model") as refused:
            load_sam2(tmp_path / name, torch.float32)
        assert name in str(refused.value) and "Download it again" in str(refused.value)


def test_a_transformers_without_the_classes_is_named():
    assert native_classes(SAM2, "Sam2Model")[0].__name__ == "Sam2Model"
    with pytest.raises(UserError, match=r"needs transformers 4\.56 or newer, and \d.*is installed.*install -U transformers"):
        native_classes(SAM2, "Sam2Model", "NotYetWritten")
