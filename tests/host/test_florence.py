"""Florence-2: the boxes of transformers' own processor and generation, the same each time; unsuitable files are refused."""

import gc
import json
import shutil

import comfy.model_management as mm
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from attractor.nodes.errors import UserError
from attractor.nodes.masking.boxes import Box
from attractor.nodes.masking.florence import load_florence2
from attractor.nodes.pretrained.model_files import FLORENCE2, native_classes

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"


def pixels(seed, height=90, width=120):
    return np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8).repeat(height // 3, 0).repeat(width // 3, 1)


def ground(florence2, image, phrase="the dog"):
    with torch.inference_mode():  # as the host runs nodes
        return florence2.ground(torch.from_numpy(image).float() / 255, phrase)


def load(folder, name="tiny", dtype=torch.float32):
    return load_florence2(folder / "florence2" / name, dtype)


@pytest.fixture(scope="module")
def florence2(vision_models):
    return load(vision_models)


@pytest.mark.parametrize("phrase", ["the dog", "a red mug, and the cat"])
def test_boxes_are_those_of_transformers_own_processor_and_generation(florence2, vision_models, phrase):
    from transformers import AutoProcessor, Florence2ForConditionalGeneration

    folder = vision_models / "florence2" / "tiny"
    model, processor = Florence2ForConditionalGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    for seed in range(3):
        inputs = processor(text=TASK + phrase, images=Image.fromarray(pixels(seed)), return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=1024, num_beams=3, do_sample=False)
        answer = processor.batch_decode(ids, skip_special_tokens=False)[0]
        wanted = processor.post_process_generation(answer, task=TASK, image_size=(120, 90))[TASK]
        found = ground(florence2, pixels(seed), phrase)
        corners = [[d.box.x, d.box.y, d.box.x + d.box.width, d.box.y + d.box.height] for d in found]
        assert len(found) == 2 and corners == wanted["bboxes"]
        assert [d.label for d in found] == wanted["labels"]


def test_the_same_photo_gives_the_same_boxes_and_another_gives_others(florence2):
    first = ground(florence2, pixels(0))
    torch.manual_seed(99)
    assert ground(florence2, pixels(0)) == first
    assert any(ground(florence2, pixels(seed)) != first for seed in range(1, 6))


def test_boxes_are_in_pixels_of_the_image_whatever_its_size(florence2):
    """The same picture at three times the size: three times the box, but for the whole pixel that Florence-2 rounds to."""
    small, large = ground(florence2, pixels(1)), ground(florence2, pixels(1).repeat(3, 0).repeat(3, 1))
    for one, three in zip(small, large, strict=True):
        assert np.allclose(np.array(three.box), 3 * np.array(one.box), atol=6)
        assert three.box.x + three.box.width <= 360 and three.box.y + three.box.height <= 270


def test_florence_gives_no_score(florence2):
    assert all(detection.score is None for detection in ground(florence2, pixels(0)))


def test_nothing_found_is_an_empty_list(vision_models):
    assert ground(load(vision_models, "tiny-blind"), pixels(0)) == []


def test_boxes_turned_inside_out_or_off_the_image_are_left_out(florence2, monkeypatch):
    """What the model may say and no image has; the parsing is transformers' own."""
    answer = "</s><s>dog<loc_100><loc_100><loc_500><loc_500><loc_800><loc_100><loc_300><loc_500><loc_7><loc_7><loc_7></s>"
    monkeypatch.setattr(florence2._processor, "batch_decode", lambda ids, skip_special_tokens: [answer])
    assert [detection.box for detection in ground(florence2, pixels(0))] == [Box(12, 9, 48, 36)]


@pytest.mark.parametrize("phrase", ["Hund 🐶 und Katze", "the big brown dog " * 5, "{input} {x}"])
def test_any_words_can_be_asked_for(florence2, phrase):
    assert len(ground(florence2, pixels(0), phrase)) == 2


@pytest.mark.parametrize("phrase, words", [("<OD>", "plain words"), ("dog <loc_5>", "plain words"), ("dog" * 500, "few words")])
def test_a_phrase_that_is_none_is_refused(florence2, phrase, words):
    with pytest.raises(UserError, match=f"phrase: .*{words}"):
        ground(florence2, pixels(0), phrase)


def test_half_precision_is_used(vision_models):
    half = load(vision_models, dtype=torch.bfloat16)
    assert half._managed.module.dtype == torch.bfloat16
    assert len(ground(half, pixels(0))) == 2


def test_the_host_can_take_the_model_away(vision_models):
    mm.unload_all_models()
    florence2 = load(vision_models)
    first = ground(florence2, pixels(0))
    assert [m.model for m in mm.current_loaded_models] == [florence2._managed._patcher]
    assert mm.current_loaded_models[0].model_memory() > 10**6
    mm.unload_all_models()
    assert not mm.current_loaded_models
    assert ground(florence2, pixels(0)) == first
    del florence2
    gc.collect()
    mm.cleanup_models()
    assert not mm.current_loaded_models, "a model nobody holds stays loaded"


def copy(vision_models, target):
    return shutil.copytree(vision_models / "florence2" / "tiny", target)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_older_format_is_refused_without_running_its_code(vision_models, tmp_path):
    """As microsoft/Florence-2-base looks on disk, and a copy of it without its Python files."""
    remote = copy(vision_models, tmp_path / "Florence-2-base")
    names = {"AutoConfig": "configuration_florence2.Florence2Config", "AutoModelForCausalLM": "modeling_florence2.Florence2"}
    change_config(remote, auto_map=names)
    for module in ("configuration_florence2", "modeling_florence2", "processing_florence2"):
        (remote / f"{module}.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    bare = copy(vision_models, tmp_path / "bare")
    change_config(bare, text_config={"model_type": "florence2_language"})
    for folder in (remote, bare):
        with pytest.raises(UserError, match="older format.*never runs.*florence-community/Florence-2-base"):
            load_florence2(folder, torch.float32)
    late = copy(vision_models, tmp_path / "late")  # asked for by the processor instead of the model
    for path in late.glob("*process*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoProcessor": "p.P"}}))
    (late / "p.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    try:
        load_florence2(late, torch.float32)
    except UserError as refused:
        assert "late" in str(refused)
    assert not (tmp_path / "ran").exists()


def test_every_unfit_folder_is_said_to_be(tmp_path, vision_models):
    weights = load_file(vision_models / "florence2" / "tiny" / "model.safetensors")
    cut = copy(vision_models, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:5000])
    (copy(vision_models, tmp_path / "no weights") / "model.safetensors").unlink()
    wordless = copy(vision_models, tmp_path / "no words")
    for name in ("tokenizer.json", "vocab.json", "added_tokens.json"):  # the latter two by transformers 4
        (wordless / name).unlink(missing_ok=True)
    short = {name: value for name, value in weights.items() if "vision_tower" not in name}
    save_file(short, copy(vision_models, tmp_path / "short") / "model.safetensors", {"format": "pt"})
    wide = {name: torch.cat([v, v]) if name.endswith("embed_positions.weight") else v for name, v in weights.items()}
    save_file(wide, copy(vision_models, tmp_path / "other shape") / "model.safetensors", {"format": "pt"})
    change_config(copy(vision_models, tmp_path / "broken config"), vision_config={"depths": "deep"})
    for name in ("cut", "no weights", "no words", "short", "other shape", "broken config"):
        with pytest.raises(UserError, match="damaged or not a Florence-2 model") as refused:
            load_florence2(tmp_path / name, torch.float32)
        assert name in str(refused.value) and "Download it again" in str(refused.value) and len(str(refused.value)) < 500


def test_a_pickled_checkpoint_is_not_opened(tmp_path, vision_models):
    folder = copy(vision_models, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="damaged or not a Florence-2 model"):
        load_florence2(folder, torch.float32)


def test_a_transformers_without_the_classes_is_named():
    assert len(native_classes(FLORENCE2, "Florence2ForConditionalGeneration", "Florence2Processor")) == 2
    with pytest.raises(UserError, match=r"Florence-2 needs transformers 4\.56 or newer, and \d.* is installed"):
        native_classes(FLORENCE2, "Florence9")
