"""The scores are those of independent computations on the same weights, from the photo's pixels on."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from attractor.nodes.evaluation.encoders import EvaluationEncoders, _exact, load_clip, load_dino
from attractor.nodes.evaluation.metrics import SCORES, references, score
from attractor.nodes.evaluation.preprocessing import CLIP_NORM, IMAGENET_NORM

pytestmark = pytest.mark.one_host

TOLERANCE = 1e-5
SIZES = [(64, 64), (45, 80), (97, 40), (32, 32), (20, 24), (211, 130)]  # height, width: squares, odd, upscaled
PROMPTS = ["a photo of a dog", "dog on the beach, at dawn", "A  MUG in the grass!", "a dog", "ein Hund 🐶", "grass " * 40]
FOLDER = Path(os.environ.get("ATTRACTOR_TRANSFORMERS_4", ""))


def pictures(seed=0):
    """Photos with blocks and noise: what a resize filter or a crop does to them shows."""
    rng = np.random.default_rng(seed)
    found = []
    for height, width in SIZES:
        blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
        found.append((blocks + rng.integers(-20, 20, (height, width, 3))).clip(0, 255).astype(np.uint8))
    return found


def as_images(array):
    return torch.from_numpy(array.copy()).float()[None] / 255


@pytest.fixture(scope="module")
def folder(small_encoders):
    return small_encoders / "evaluation"


@pytest.fixture(scope="module")
def encoders(folder):
    return EvaluationEncoders(load_clip(folder / "clip-tiny"), load_dino(folder / "dino-tiny"))


def pillow_processor(resize, crop, norm):
    """transformers' own, the one that resizes by Pillow (the only one in transformers 4)."""
    make = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    size = {"size": {"shortest_edge": resize}, "crop_size": {"height": crop, "width": crop}}
    return make(**size, image_mean=norm[0], image_std=norm[1])


def normal(features):
    return features / features.norm(dim=-1, keepdim=True)


def clip_features(folder, arrays):
    """Straight from transformers' CLIPModel: its vision model's pooled output and projection."""
    model = transformers.CLIPModel.from_pretrained(folder / "clip-tiny").train(False)
    process = pillow_processor(32, 32, CLIP_NORM)
    with torch.no_grad():
        pooled = [model.vision_model(**process(Image.fromarray(a), return_tensors="pt")).pooler_output for a in arrays]
        return normal(model.visual_projection(torch.cat(pooled)))


def dino_pixels(arrays):
    process = pillow_processor(37, 32, IMAGENET_NORM)  # 32 * 256 / 224
    return torch.cat([process(Image.fromarray(a), return_tensors="pt")["pixel_values"] for a in arrays])


def as_tensor(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def clip_score_by_torchmetrics(folder, array, prompt):
    from torchmetrics.functional.multimodal import clip_score

    class Tensors(transformers.CLIPModel):
        """What torchmetrics 1.9 expects: tensors, as transformers 4 gives."""

        def get_image_features(self, *inputs):
            return as_tensor(super().get_image_features(*inputs))

        def get_text_features(self, *inputs):
            return as_tensor(super().get_text_features(*inputs))

    def parts():
        tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder / "clip-tiny")
        processor = transformers.CLIPProcessor(pillow_processor(32, 32, CLIP_NORM), tokenizer)
        return Tensors.from_pretrained(folder / "clip-tiny").train(False), processor

    return clip_score(torch.from_numpy(array).movedim(-1, 0), prompt, parts).item() / 100


def test_what_the_host_has_turned_off_stays_off_while_encoding():
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=False, deterministic=True, allow_tf32=True), _exact():
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == (False, True, False)


def test_clip_t_is_torchmetrics_clip_score(encoders, folder):
    compared = 0
    for array, prompt in zip(pictures(), PROMPTS[:5], strict=False):
        for text in (prompt, "a photo of a mug"):
            own = (encoders.clip.image(as_images(array)) @ encoders.clip_text([text]).T).item()
            assert max(own, 0) == pytest.approx(clip_score_by_torchmetrics(folder, array, text), abs=TOLERANCE)
            compared += own > 0.01  # torchmetrics has nothing below 0
    assert compared >= 4, compared


def test_a_text_too_long_is_cut_at_the_models_length(encoders, folder):
    model = transformers.CLIPModel.from_pretrained(folder / "clip-tiny").train(False)
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder / "clip-tiny")
    ids = tokenizer("grass " * 40)["input_ids"]
    cut = torch.tensor([[*ids[:23], ids[-1]]])
    with torch.no_grad():
        wanted = normal(model.text_projection(model.text_model(input_ids=cut).pooler_output))
    assert torch.allclose(encoders.clip_text(["grass " * 40]), wanted, atol=TOLERANCE)


def test_clip_features_of_images_are_transformers_own(encoders, folder):
    arrays = pictures()
    wanted = clip_features(folder, arrays)
    own = torch.cat([encoders.clip.image(as_images(a)) for a in arrays])
    assert own.shape == (6, 40) and own.dtype == torch.float32
    assert (own - wanted).abs().max() < TOLERANCE
    assert (wanted @ wanted.T).min() < 0.9, "the pictures look alike to this model: nothing was compared"


def test_dino_features_are_transformers_and_timms(encoders, folder):
    from timm.models.vision_transformer import VisionTransformer

    model = transformers.ViTModel.from_pretrained(folder / "dino-tiny", add_pooling_layer=False).train(False)
    pixels = dino_pixels(pictures())
    with torch.no_grad():
        by_transformers = normal(model(pixel_values=pixels).last_hidden_state[:, 0])
    timms = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=0,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-12),
    ).train(False)
    timms.load_state_dict(timm_weights(folder / "dino-tiny"))
    with torch.no_grad():
        by_timm = normal(timms(pixels))
    own = torch.cat([encoders.dino.image(as_images(a)) for a in pictures()])
    assert (own - by_transformers).abs().max() < TOLERANCE
    assert (own - by_timm).abs().max() < TOLERANCE
    assert (own @ own.T).min() < 0.9


def timm_weights(folder):
    """A ViT of transformers' files (the names on disk, the same in 4 and 5) under timm's names."""
    from safetensors.torch import load_file

    weights = {name.removeprefix("vit."): value for name, value in load_file(folder / "model.safetensors").items()}
    embeddings = "embeddings."
    found = {
        "cls_token": weights[embeddings + "cls_token"],
        "pos_embed": weights[embeddings + "position_embeddings"],
        "patch_embed.proj.weight": weights[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": weights[embeddings + "patch_embeddings.projection.bias"],
        "norm.weight": weights["layernorm.weight"],
        "norm.bias": weights["layernorm.bias"],
    }
    for i in range(2):
        layer = f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{layer}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
            for own, theirs in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                found[f"blocks.{i}.{own}.{kind}"] = weights[f"{layer}{theirs}.{kind}"]
    return found


def test_dinov2_sees_no_more_than_224_pixels_and_its_own_patches(folder):
    encoder = load_dino(folder / "dinov2-tiny")
    model = transformers.Dinov2Model.from_pretrained(folder / "dinov2-tiny").train(False)
    process = pillow_processor(32, 28, IMAGENET_NORM)
    for array in pictures():
        with torch.no_grad():
            wanted = model(**process(Image.fromarray(array), return_tensors="pt")).last_hidden_state[:, 0]
        assert (encoder.image(as_images(array)) - normal(wanted)).abs().max() < TOLERANCE


def test_an_images_score_does_not_depend_on_what_else_is_in_its_batch(encoders):
    """Bit for bit: shards and resumed runs must give the numbers of a single run."""
    batch = torch.cat([as_images(pictures(seed)[0]) for seed in range(5)])
    for encode in (encoders.clip.image, encoders.dino.image):
        assert torch.equal(encode(batch)[3:4], encode(batch[3:4]))
    assert torch.equal(encoders.clip_text(PROMPTS)[2:3], load_clip_anew(encoders).text(PROMPTS[2:3]))


def load_clip_anew(encoders):
    encoders.clip._known.clear()
    return encoders.clip


def test_an_image_scores_the_same_from_memory_and_from_its_file(encoders, tmp_path):
    image = torch.rand(1, 50, 70, 3, generator=torch.Generator().manual_seed(1))
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(tmp_path / "x.png")
    read = as_images(np.asarray(Image.open(tmp_path / "x.png")))
    assert torch.equal(encoders.clip.image(image), encoders.clip.image(read))


# --- the scorer ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    path: Path
    captions: tuple


@dataclass(frozen=True)
class Subject:
    name: str
    super_category: str
    train: tuple
    test: tuple


CAPTIONS = ("a photo of a {}", "{} on the beach", "the {} in grass")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    paths = {}
    for kind, seed, count in (("train", 1, 4), ("test", 2, 3)):
        paths[kind] = [folder / f"{kind}-{i}.png" for i in range(count)]
        for path, array in zip(paths[kind], pictures(seed), strict=False):
            Image.fromarray(array).save(path)
    test = tuple(Photo(path, CAPTIONS[: i + 1]) for i, path in enumerate(paths["test"]))
    return Subject("rex", "dog", tuple(paths["train"]), test)


def test_every_score_is_the_cosine_that_its_definition_says(encoders, folder, subject):
    found = references(subject, encoders)
    arrays = [pictures(3)[0], pictures(4)[0], pictures(5)[0]]
    places, prompts = [2, 0, 2], ["a photo of a dog", "dog on the beach", "the dog in grass"]
    scores = score(torch.cat([as_images(a) for a in arrays]), prompts, found, places, encoders)
    assert tuple(scores) == SCORES and all(len(values) == 3 for values in scores.values())

    generated = clip_features(folder, arrays)
    test, train = clip_features(folder, pictures(2)[:3]), clip_features(folder, pictures(1)[:4])
    texts = encoders.clip_text(prompts)  # compared with torchmetrics above
    model = transformers.ViTModel.from_pretrained(folder / "dino-tiny", add_pooling_layer=False).train(False)
    with torch.no_grad():
        groups = (arrays, pictures(2)[:3], pictures(1)[:4])
        dino, dino_test, dino_train = (normal(model(pixel_values=dino_pixels(a)).last_hidden_state[:, 0]) for a in groups)
    for i, place in enumerate(places):
        wanted = {
            "clip_t": generated[i] @ texts[i],
            "clip_i": generated[i] @ test[place],
            "dino": dino[i] @ dino_test[place],
            "clip_i_train": (generated[i] @ train.T).mean(),
            "dino_train": (dino[i] @ dino_train.T).mean(),
        }
        for name, value in wanted.items():
            assert scores[name][i] == pytest.approx(value.item(), abs=TOLERANCE), name
    assert len({round(value, 5) for values in scores.values() for value in values}) == 15, "scores that cannot be told apart"


def test_the_ceiling_is_real_against_real(encoders, folder, subject):
    ceiling = references(subject, encoders).ceiling
    test, train = clip_features(folder, pictures(2)[:3]), clip_features(folder, pictures(1)[:4])
    for name, features in (("clip_i", test), ("clip_i_train", train)):
        pairs = [(features[i] @ features[j]).item() for i, j in combinations(range(len(features)), 2)]
        assert ceiling[name] == pytest.approx(np.mean(pairs), abs=TOLERANCE)
    of_captions = [
        (test[i] @ encoders.clip_text([caption.replace("{}", "dog")])[0]).item()
        for i in range(3)
        for caption in CAPTIONS[: i + 1]
    ]
    assert ceiling["clip_t"] == pytest.approx(np.mean(of_captions), abs=TOLERANCE)
    assert set(ceiling) == set(SCORES) and json.dumps(ceiling)


def test_one_photo_has_no_ceiling_among_themselves(encoders, subject):
    alone = Subject("rex", "dog", subject.train[:1], subject.test[:1])
    ceiling = references(alone, encoders).ceiling
    assert ceiling["clip_i"] is ceiling["dino"] is ceiling["dino_train"] is None and -1 < ceiling["clip_t"] < 1


@pytest.mark.parametrize("kept, names", [("clip", ("clip_t", "clip_i", "clip_i_train")), ("dino", ("dino", "dino_train"))])
def test_without_an_encoder_its_scores_are_left_out(encoders, subject, kept, names):
    some = EvaluationEncoders(**{kept: getattr(encoders, kept)})
    found = references(subject, some)
    assert tuple(score(as_images(pictures(3)[0]), ["a dog"], found, [0], some)) == names == tuple(found.ceiling)
    assert set(some.describe()) == {kept}


def test_images_without_a_prompt_or_photo_each_are_refused(encoders, subject):
    with pytest.raises(ValueError, match="not one each"):
        score(as_images(pictures()[0]), ["a", "b"], references(subject, encoders), [0], encoders)


# --- transformers 4 --------------------------------------------------------------------------------


def test_features_are_those_that_another_transformers_gave():
    """Run by the test below, in a process with the older transformers."""
    given = os.environ.get("ATTRACTOR_FEATURES")
    if not given:
        pytest.skip("no features of another transformers to compare with")
    given = json.loads(Path(given).read_text())
    folder = Path(given["folder"])
    assert transformers.__version__.startswith("4.") and given["version"] != transformers.__version__
    for name, features in all_features(folder).items():
        assert np.abs(np.array(features) - np.array(given[name])).max() < TOLERANCE, name


def all_features(folder):
    encoders = EvaluationEncoders(load_clip(folder / "clip-tiny"), load_dino(folder / "dino-tiny"))
    second = load_dino(folder / "dinov2-tiny")
    images = [as_images(a) for a in pictures()]
    return {
        "text": encoders.clip_text(PROMPTS).tolist(),
        "clip": [encoders.clip.image(i).tolist() for i in images],
        "dino": [encoders.dino.image(i).tolist() for i in images],
        "dinov2": [second.image(i).tolist() for i in images],
    }


@pytest.mark.skipif(not (FOLDER / "transformers").is_dir(), reason="ATTRACTOR_TRANSFORMERS_4: no folder with transformers 4")
def test_all_of_this_holds_in_transformers_4_too(folder, tmp_path):
    features = tmp_path / "features.json"
    content = {**all_features(folder), "folder": str(folder), "version": transformers.__version__}
    features.write_text(json.dumps(content))
    env = {**os.environ, "PYTHONPATH": str(FOLDER), "ATTRACTOR_FEATURES": str(features)}
    del env["ATTRACTOR_TRANSFORMERS_4"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 skipped" in done.stdout and "no folder with transformers 4" in done.stdout, done.stdout
