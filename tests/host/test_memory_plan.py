"""How much of a step is done at once: planned from the free memory, less of it where that runs out, and the same gradient."""

import pytest
from small_training import gradient, relative, small_models, small_photos, trainer_of

from attractor.nodes.errors import UserError
from attractor.nodes.host import memory
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from attractor.trainer.concept import LAYERS
from attractor.trainer.dataset import step_generator
from attractor.trainer.pools import draw_prompt_rows
from test_nodes.live_tensors import tensor_megabytes
from test_nodes.tiny_sd15 import NARROW, tiny_clip, tiny_model


@pytest.fixture(scope="module")
def models():
    return small_models()


@pytest.fixture(scope="module")
def photos():
    return small_photos()


@pytest.fixture(scope="module")
def plain_gradient(models, photos):
    """Of a step that nothing was planned for."""
    return gradient(trainer_of(models, photos))


@pytest.mark.one_host
@pytest.mark.parametrize("megabytes", [10_000, 60, 1])
def test_the_plan_fits_the_memory_and_changes_no_gradient(models, photos, plain_gradient, monkeypatch, megabytes):
    monkeypatch.setattr(memory, "_memory", lambda _device: megabytes * 1e6)
    unet, text = models
    trainer = trainer_of(models, photos, text_chunk=0)
    try:
        memory.plan_memory(trainer, unet, text)
        plan = trainer.recompute_text, trainer.micro_batch, unet.checkpointing
        assert plan == {10_000: (False, 8, 0), 60: (True, 7, 1), 1: (True, 1, 2)}[megabytes]
        assert relative(gradient(trainer, trainer.micro_batch), plain_gradient) < 1e-5
    finally:
        unet.checkpointing = 0


@pytest.mark.one_host
def test_the_plan_counts_the_prompts_that_a_step_has(models, photos, monkeypatch):
    """At most two of a sample go through the text encoder with one through the U-Net, and three with all three."""
    unet, text = models
    plans = {}
    two, one = (memory._bytes_kept(text.device, lambda n=n: memory._sequences(text, n)) for n in (2, 1))
    room = 2.5 * 3 * LAYERS * (two - one) / (0.9 * memory.TEXT_SHARE)  # for two and a half prompts of each of the three samples
    monkeypatch.setattr(memory, "_memory", lambda _device: room)
    for prompts in ("one", "all"):
        trainer = trainer_of(models, photos, text_chunk=0, prompts_per_step=prompts)
        rows = draw_prompt_rows(trainer.settings, text, [0, 1, 2], step_generator(0, 0))
        most_seen, most_encoded = (3 * count for count in trainer.settings.most_prompts)
        assert sum(row.seen for row in rows) <= most_seen and len(rows) <= most_encoded
        memory.plan_memory(trainer, unet, text)
        plans[prompts] = trainer.recompute_text, trainer.micro_batch
        unet.checkpointing = 0
    assert plans["all"][0] and not plans["one"][0]
    assert plans["one"][1] == 3


@pytest.mark.one_host
def test_the_plan_leaves_no_memory_behind(photos):
    own = HostUNet(tiny_model(seed=1, context=NARROW)), HostTextEncoder(tiny_clip(seed=1, width=NARROW))
    own[0].model.requires_grad_(False)
    trainer = trainer_of(own, photos, text_chunk=0)
    before = tensor_megabytes()
    memory.plan_memory(trainer, *own)
    assert tensor_megabytes() < before + 0.1


def test_out_of_memory_is_met_step_by_step_and_ends_in_a_sentence(models, photos):
    unet, _ = models
    trainer = trainer_of(models, photos, text_chunk=0)
    trainer.micro_batch, trainer.text_chunk = 4, 512
    tried = []
    try:
        with pytest.raises(UserError, match="too little memory even for one image"):
            while True:
                memory.shrink(unet, trainer, MemoryError())
                tried.append((trainer.micro_batch, trainer.recompute_text, trainer.text_chunk, unet.checkpointing))
        assert len(set(tried)) == len(tried), "each attempt needs less than the one before"
        assert tried[-1] == (1, True, 4, 2)
    finally:
        unet.checkpointing = 0
