"""PDST Evaluate through the server: the protocol, shards, kills, and what may not be mixed."""

import io

import numpy as np
import pytest
import torch
from graphs import EVALUATE_OPTIONS, add_encoders, add_evaluation, add_sampling, add_tiny, encode
from PIL import Image

from attractor.trainer.concept import Embedding, PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import save_token
from comfy_client import ComfyClient, ExecutionFailed, Graph, Interrupted
from comfy_server import link
from pdst_results import SCORES, results
from pdst_set import picture, write_subject


def token(kind="textual_inversion", seed=0, placeholder="<my-cat>", super_category="cat", **record):
    generator = torch.Generator().manual_seed(seed)
    if kind == "neti":
        subject = NeTIMapper(768, norm_scale=0.4, seed=seed)
    else:
        subject = Embedding(torch.randn(1, 768, generator=generator) * 0.02)
    return PersonalizedToken(placeholder, super_category, kind, 768, subject, record=record)


@pytest.fixture(scope="module")
def base(comfy_server, server_encoders):
    """The server's folders with encoders, tokens and a data set of one subject: 2 test photos, 2 captions each."""
    neti = comfy_server.output / "neti"
    save_token(token(), neti / "pdst-plain.safetensors")
    save_token(token("neti", settings={"method": "neti+"}, step=7), neti / "pdst-neti.safetensors")
    for step in (20, 100):
        save_token(token(seed=step, step=step), neti / "pdst-run" / f"pdst-run-step-{step:06d}.safetensors")
    write_subject(comfy_server.base / "models" / "pdst" / "pets", "cat")
    return comfy_server.base


def add_dataset(graph, folder="pets", captions=2):
    return graph.add("AttractorLoadPDST", folder=f"pdst/{folder}", subjects="all", captions_per_photo=captions)


def evaluation(name, *tokens, folder="pets", clip="clip-tiny", dino="dino-tiny", captions=2, **changes):
    """A graph that evaluates a token; its node."""
    graph = Graph()
    loader = add_tiny(graph, text_width=768)
    inputs = {
        "images_per_caption": 3,
        "sampler": "euler",
        "scheduler": "normal",
        "steps": 1,
        "cfg": 3.0,
        "width": 64,
        "height": 64,
        "batch_size": 2,
        "seed": 5,
        "save_images": True,
        "include_floor": False,
        **changes,
    }
    if tokens:
        inputs["tokens"] = graph.add("AttractorLoadNeTIMapper", file=tokens[0])[0]
    if inputs.get("metrics", True):
        inputs["encoders"] = add_encoders(graph, clip, dino)
    node = add_evaluation(
        graph,
        model=loader[0],
        clip=loader[1],
        vae=loader[2],
        dataset=add_dataset(graph, folder, captions)[0],
        name=name,
        **inputs,
    )
    return graph, node


def evaluate(comfy, name, *tokens, **changes):
    graph, node = evaluation(name, *tokens, **changes)
    return comfy.run(graph, timeout=300)["outputs"][node.id]


def refused(comfy, name, *tokens, **changes):
    """The message with which an evaluation is refused."""
    with pytest.raises(ExecutionFailed) as failed:
        evaluate(comfy, name, *tokens, **changes)
    return failed.value.exception_message


def same_images(base, one, other, entry):
    def read(name):
        root = base / "output" / "pdst" / name / "images" / entry
        return {str(path.relative_to(root)): np.asarray(Image.open(path)) for path in sorted(root.rglob("*.png"))}

    first, second = read(one), read(other)
    assert first.keys() == second.keys() and first
    return all(np.array_equal(first[key], second[key]) for key in first)


NETI, FLOOR = "my-cat-neti+-step-7", "floor-cat"


@pytest.fixture(scope="module")
def single(comfy_server, base):
    """One evaluation of a NeTI token and the floor in one run; what the node showed."""
    shown = evaluate(ComfyClient(comfy_server.url), "single", "pdst-neti.safetensors", include_floor=True)
    return shown, results(base, "single")


def test_every_caption_gets_its_images_and_scores(single, base):
    shown, found = single
    assert set(found) == {NETI, FLOOR}
    for entry, name in ((found[NETI], "<my-cat>"), (found[FLOOR], "cat")):
        assert len(entry.records) == entry.header["expected"] == 2 * 2 * 3
        assert [(r["photo"], r["caption"], r["index"]) for r in entry.records] == [
            (f"test-{photo}.png", caption, index) for photo in (1, 2) for caption in (0, 1) for index in range(3)
        ]
        assert entry.records[0]["prompt"] == f"a photo of a {name} on the beach, 1"
        assert len({record["seed"] for record in entry.records}) == 12
        assert all(set(record["scores"]) == SCORES for record in entry.records)
        assert set(entry.header["ceiling"]["cat"]) == SCORES
    assert [r["seed"] for r in found[NETI].records] == [r["seed"] for r in found[FLOOR].records], "pairs share their noise"
    assert found[NETI].header["step"] == 7 and found[NETI].header["token"]["method"] == "neti+"
    folder = base / "output" / "pdst" / "single"
    for record in found[FLOOR].records:
        assert Image.open(folder / record["image"]).size == (64, 64)
    assert all((folder / path).is_file() for path in found[FLOOR].header["subjects"]["cat"]["references"])
    assert "12 images; clip_t " in shown["text"][0] and len(shown["images"]) == 2


def test_an_image_can_be_made_again_by_hand(comfy, single):
    """KSampler with the record's prompt and seed, through stock nodes."""
    record = single[1][NETI].records[5]
    graph = Graph()
    loader = add_tiny(graph, text_width=768)
    loaded = graph.add("AttractorLoadNeTIMapper", file="pdst-neti.safetensors")
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=loaded[0])
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)[0]
    sampled = add_sampling(
        graph,
        applied[0],
        encode(graph, applied[1], record["prompt"]),
        encode(graph, applied[1], ""),
        latent,
        seed=record["seed"],
        steps=1,
        cfg=3.0,
    )
    shown = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[2])[0])
    (again,) = comfy.images(comfy.run(graph), shown)
    original = Image.open(comfy_image(comfy, record))
    assert np.abs(np.asarray(again, dtype=int)[..., :3] - np.asarray(original, dtype=int)).max() <= 1


def comfy_image(comfy, record):
    folder, _, name = record["image"].rpartition("/")
    return io.BytesIO(comfy.view({"filename": name, "subfolder": f"pdst/single/{folder}", "type": "output"}))


def test_three_shards_in_any_order_equal_the_single_run(comfy, base, single):
    for shard in (3, 1, 2):
        evaluate(comfy, "sharded", "pdst-neti.safetensors", include_floor=True, shard=shard, shards=3)
    merged, whole = results(base, "sharded"), single[1]
    for name in (NETI, FLOOR):
        assert merged[name].timeless() == whole[name].timeless()
        assert merged[name].header["ceiling"] == whole[name].header["ceiling"]
        assert same_images(base, "sharded", "single", name)


def test_going_on_makes_nothing_twice_and_further_tokens_join(comfy, base, single):
    path = base / "output" / "pdst" / "single" / f"{NETI}.jsonl"
    before = path.read_bytes()
    shown = evaluate(comfy, "single", "pdst-plain.safetensors")
    assert path.read_bytes() == before
    assert set(results(base, "single")) == {NETI, FLOOR, "my-cat-textual_inversion"}
    assert "my-cat-textual_inversion: 12 images" in shown["text"][0]


def test_every_option_reaches_the_evaluation(comfy, base):
    changed = {
        "sampler": "heun",
        "scheduler": "karras",
        "steps": 2,
        "cfg": 4.5,
        "width": 72,
        "height": 80,
        "batch_size": 3,
        "negative": "blurry",
        "shard": 2,
        "shards": 4,
    }
    assert set(changed) == EVALUATE_OPTIONS
    evaluate(comfy, "options", "pdst-plain.safetensors", images_per_caption=2, metrics=False, **changed)
    (found,) = results(base, "options").values()
    assert {**found.header["settings"], "shard": 2, "shards": 4} == {
        **changed,
        "images_per_caption": 2,
        "seed": 5,
        "metrics": False,
        "max_photos": 0,
        "max_captions": 0,
    }
    assert found.header["shard"] == [2, 4] and [record["number"] for record in found.records] == [2, 3]
    with Image.open(base / "output" / "pdst" / "options" / found.records[0]["image"]) as image:
        assert image.size == (72, 80)


def test_another_setting_token_or_model_is_not_mixed_in(comfy, base):
    save_token(token(seed=1), base / "output" / "neti" / "pdst-changing.safetensors")
    evaluate(comfy, "strict", "pdst-changing.safetensors", images_per_caption=1, metrics=False)
    path = base / "output" / "pdst" / "strict" / "my-cat-textual_inversion.jsonl"
    before = path.read_bytes()
    quick = {"images_per_caption": 1, "metrics": False}
    assert "setting steps was 1, is 2" in refused(comfy, "strict", "pdst-changing.safetensors", steps=2, **quick)
    assert "setting sampler was 'euler', is 'heun'" in refused(
        comfy, "strict", "pdst-changing.safetensors", sampler="heun", **quick
    )
    said = refused(comfy, "strict", "pdst-neti.safetensors", seed=6, **quick)
    assert "setting seed was 5, is 6" in said and "token" not in said, "another token may join, another seed may not"
    assert "shards was 1, is 2" in refused(comfy, "strict", "pdst-changing.safetensors", shards=2, **quick)
    save_token(token(seed=2), base / "output" / "neti" / "pdst-changing.safetensors")
    said = refused(comfy, "strict", "pdst-changing.safetensors", **quick)
    assert "- token has changed" in said and "start_over" in said
    assert path.read_bytes() == before
    evaluate(comfy, "strict", "pdst-changing.safetensors", start_over=True, **quick)
    assert path.read_bytes() != before and len(results(base, "strict")["my-cat-textual_inversion"].records) == 4


def test_the_same_graph_queued_again_makes_what_is_missing(comfy, base):
    """The host must not take its word for what is on disk."""
    quick = {"images_per_caption": 1, "metrics": False}
    path = base / "output" / "pdst" / "again" / "my-cat-textual_inversion.jsonl"
    evaluate(comfy, "again", "pdst-plain.safetensors", **quick)
    path.unlink()
    for _ in range(2):
        evaluate(comfy, "again", "pdst-plain.safetensors", **quick)
        assert path.is_file()
        path.unlink()
    times = set()
    for _ in range(2):
        evaluate(comfy, "again", "pdst-plain.safetensors", start_over=True, **quick)
        times.add(path.stat().st_mtime_ns)
    assert len(times) == 2, "start_over begins anew each time"


def test_a_changed_caption_file_or_photo_is_noticed(comfy, base):
    write_subject(base / "models" / "pdst" / "changing", "cat", test=1, seed=3)
    test = base / "models" / "pdst" / "changing" / "cat" / "test"
    quick = {"images_per_caption": 1, "metrics": False, "folder": "changing"}
    evaluate(comfy, "files", "pdst-plain.safetensors", **quick)
    (test / "test-1.txt").write_text("a {} in the rain\na {} in the snow\n")
    assert "captions cat/test-1.png has changed" in refused(comfy, "files", "pdst-plain.safetensors", **quick)
    (test / "test-1.txt").write_text("a photo of a {} on the beach, 1\na photo of a {} in the snow, 1\n")
    evaluate(comfy, "files", "pdst-plain.safetensors", **quick)
    with Image.open(test / "test-1.png") as photo:
        photo.rotate(1).save(test / "test-1.png")
    assert "photo cat/test/test-1.png has changed" in refused(comfy, "files", "pdst-plain.safetensors", **quick)


def test_a_broken_data_set_is_said_whole_before_anything_is_made(comfy, base):
    folder = write_subject(base / "models" / "pdst" / "broken", "cat", test=3, seed=4)
    (folder / "test" / "test-1.txt").write_text("a cat\n")
    (folder / "test" / "test-2.png").write_bytes(b"no picture")
    Image.open(folder / "train" / "train-1.png").convert("RGB").resize((192, 144)).save(folder / "test" / "test-3.jpg")
    (folder / "test" / "test-3.png").unlink()
    (folder / "meta.json").unlink()
    said = refused(comfy, "broken", "pdst-plain.safetensors", folder="broken")
    for part in (
        "has 5 problems",
        "meta.json is missing",
        "1 captions; 2 are required",
        "has no {}",
        "cannot be read",
        "test-3.jpg is the same picture as train/train-1.png",
    ):
        assert part in said, said
    assert not (base / "output" / "pdst" / "broken").exists()


def test_wrong_wiring_is_said_at_once(comfy, base):
    graph, node = evaluation("../out", "pdst-plain.safetensors", shard=3, shards=2, pairs="<you> = cat")
    inputs = graph.prompt[node.id]["inputs"]
    applied = graph.add("AttractorApplyToken", model=inputs["model"], clip=inputs["clip"], token=inputs["tokens"])
    del inputs["encoders"]
    inputs["clip"] = applied[1]
    with pytest.raises(ExecutionFailed) as failed:
        comfy.run(graph)
    said = failed.value.exception_message
    for part in ("name '../out'", "clip: <my-cat> is applied to it already", "encoders: ", "shard is 3 of 2", "'<you>'"):
        assert part in said, said


def test_checkpoints_of_a_run_are_evaluated_side_by_side(comfy, base):
    graph, node = evaluation("steps", images_per_caption=1, metrics=False, save_images=False)
    loaded = graph.add("AttractorLoadTokenCheckpoints", run="pdst-run", steps="")
    graph.prompt[node.id]["inputs"]["tokens"] = loaded[0]
    entry = comfy.run(graph, timeout=300)
    assert entry["outputs"][loaded.id]["text"] == ["step 20, step 100"]
    found = results(base, "steps")
    assert {name: entry.header["step"] for name, entry in found.items()} == {
        "my-cat-textual_inversion-step-20": 20,
        "my-cat-textual_inversion-step-100": 100,
    }
    assert all(record["image"] is None and record["scores"] == {} for entry in found.values() for record in entry.records)
    graph = Graph()
    loaded = graph.add("AttractorLoadTokenCheckpoints", run="pdst-run", steps="100, 50")
    graph.add("AttractorSaveToken", token=loaded[0], name="none")
    with pytest.raises(ExecutionFailed, match="no checkpoint of step 50. It has: 20, 100"):
        comfy.run(graph)


def test_cancel_keeps_every_batch_and_shows_what_is_made(comfy, base):
    graph, _ = evaluation("cancelled", "pdst-plain.safetensors", images_per_caption=100, metrics=False)
    with comfy.listen() as listener:
        prompt_id = comfy.queue(graph)
        listener.wait_for("progress", lambda event: event["max"] == 400 and event["value"] >= 4, timeout=300)
        comfy.interrupt(prompt_id)
        with pytest.raises(Interrupted):
            comfy.wait(prompt_id)
    assert listener.of_type("preview") and any("image 4 of 400" in message["text"] for message in listener.of_type("text"))
    made = results(base, "cancelled")["my-cat-textual_inversion"].records
    assert 4 <= len(made) < 400 and len(made) % 2 == 0
    assert all((base / "output" / "pdst" / "cancelled" / record["image"]).is_file() for record in made)


def test_a_persons_photos_become_a_data_set_with_captions_that_loads(comfy, base, vision_models):
    """Split, draft, edit, load; by Florence-2 and by text."""
    link(vision_models / "florence2" / "tiny", base / "models" / "florence2" / "tiny")
    photos = base / "input" / "my cat"
    photos.mkdir(parents=True, exist_ok=True)
    for i in range(1, 8):
        picture(500 + i).save(photos / f"img-{i}.jpg")
    settings = {
        "photos": "my cat",
        "dataset": "mine",
        "subject": "my-cat",
        "super_category": "cat",
        "kind": "living",
        "train_photos": 5,
        "order": "shuffled",
        "seed": 1,
    }

    def split(**changes):
        graph = Graph()
        node = graph.add("AttractorSplitSubjectPhotos", **{**settings, **changes})
        return comfy.run(graph)["outputs"][node.id]["text"][0]

    assert split().startswith("mine/my-cat was made.")
    folder = base / "models" / "pdst" / "mine" / "my-cat"
    train, test = (sorted(path.name for path in (folder / part).iterdir()) for part in ("train", "test"))
    assert len(train) == 5 and len(test) == 2 and set(train) | set(test) == {f"img-{i}.jpg" for i in range(1, 8)}
    (folder / "test" / "notes.txt").write_text("a caption that belongs to no photo yet")
    (folder / "test" / "notes.txt").unlink()
    assert "already exists, split like this" in split(seed=1, source="")
    with pytest.raises(ExecutionFailed, match="another split"):
        split(order="by name")
    with pytest.raises(ExecutionFailed, match="train_photos is 7 of 7"):
        split(subject="b", train_photos=7)

    def draft(**wired):
        graph = Graph()
        if "texts" not in wired:
            wired["florence2"] = graph.add("AttractorLoadFlorence2", model="florence2/tiny", download_if_missing=False)[0]
        else:
            wired["texts"] = graph.add("PrimitiveStringMultiline", value=wired["texts"])[0]
        node = graph.add(
            "AttractorMakePDSTCaptions",
            folder="pdst/mine",
            subject="my-cat",
            subject_words="cat, dog",
            captions_per_photo=3,
            replace_edited=False,
            **wired,
        )
        return comfy.run(graph)["outputs"][node.id]["text"][0]

    said = draft()
    assert said.startswith("2 caption files written")
    for name in test:
        assert (folder / "test" / name).with_suffix(".txt").read_text().splitlines()[0].count("{}") == 1
    (folder / "test" / test[0]).with_suffix(".txt").write_text("a {} as I want it\n")
    said = draft(texts="a cat here\nthe sofa\n\na black cat there\ntwo cats")
    assert "1 caption files written, 1 edited by hand and kept" in said
    assert "describes the subject (black)" in said and "still names the subject (cat)" in said
    assert (folder / "test" / test[0]).with_suffix(".txt").read_text() == "a {} as I want it\n"
    (folder / "test" / test[1]).with_suffix(".txt").write_text("the {} there\n")
    graph = Graph()
    loaded = graph.add("AttractorLoadPDST", folder="pdst/mine", subjects="my-cat", captions_per_photo=1, longest_side=48)
    shown = [graph.add("PreviewImage", images=loaded[slot]) for slot in (1, 3)]
    entry = comfy.run(graph)
    assert entry["outputs"][loaded.id]["text"] == ["my-cat: cat, living, 5 to train, 2 held back, 2 captions"]
    assert [[image.size for image in comfy.images(entry, node)] for node in shown] == [[(48, 36)] * 5, [(48, 36)] * 2]


@pytest.mark.one_host
def test_killed_in_the_middle_and_resumed_equals_the_uninterrupted_run(comfy_server, base, single):
    comfy = ComfyClient(comfy_server.url)
    graph, _ = evaluation("killed", "pdst-neti.safetensors", include_floor=True)
    with comfy.listen() as listener:
        comfy.queue(graph)
        listener.wait_for("progress", lambda event: event["max"] == 24 and event["value"] >= 3, timeout=300)
        comfy_server.kill()
    path = base / "output" / "pdst" / "killed" / f"{NETI}.jsonl"
    done = len(path.read_text().splitlines()) - 1
    assert 3 <= done < 12, "the kill came too late to show anything"
    with open(path, "ab") as file:  # a kill may also leave this
        file.write(b'{"number": 99, "subj')
    comfy_server.start()
    evaluate(ComfyClient(comfy_server.url), "killed", "pdst-neti.safetensors", include_floor=True)
    resumed = results(base, "killed")
    for name in (NETI, FLOOR):
        assert resumed[name].timeless() == single[1][name].timeless()
        assert same_images(base, "killed", "single", name)
