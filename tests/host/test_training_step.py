"""The gradient of a training step, on the host's own U-Net and text encoder (small, random).

What is marked one_host is about how the trainer carries a step out: with the equations right on a host, no matter of which.
"""

import math

import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from small_training import gradient, relative, small_models, small_photos, trainer_of

from attractor.nodes.host.injection import BLOCKS
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet
from attractor.trainer.build import build_trainer
from attractor.trainer.concept import LAYERS, Embedding
from attractor.trainer.conditioning import draw_truncations
from attractor.trainer.dataset import Photos, draw_batch, step_generator
from attractor.trainer.methods import SUBJECT
from attractor.trainer.pools import attractor_name, draw_prompt_rows
from attractor.trainer.schedules import contrast_weight
from test_nodes.tiny_sd15 import NARROW, tiny_clip, tiny_model

METHODS = ("neti+", "textual_inversion+", "neti", "textual_inversion")  # of the others: test_tuning.py


@pytest.fixture(scope="module")
def models():
    return small_models()


@pytest.fixture(scope="module")
def photos():
    return small_photos()


@pytest.fixture(scope="module")
def plain_gradient(models, photos):
    """NeTI+, four U-Net rows at once: what no way of carrying out the step may change."""
    return gradient(trainer_of(models, photos))


def slow_total_loss(trainer):
    """Eq. 4 to 6 written out: one text-encoder pass per sample, prompt and layer, one U-Net call per prompt, one
    graph; contexts enter by the attention modules themselves, found in the order they run."""
    settings, text, unet = trainer.settings, trainer.text, trainer.unet
    generator = step_generator(settings.seed, 0)
    batch = draw_batch(trainer.photos, settings.batch_size, generator)
    rows = draw_prompt_rows(settings, text, batch.photos, generator)
    prompts = [row.prompt for row in rows]
    cuts = nested_dropout_cuts(trainer, prompts, generator)
    layers = LAYERS if settings.kind == "neti" else 1

    def contexts(n):
        found = []
        for layer in range(layers):
            embeddings = text.embed(torch.tensor([prompts[n].ids])).clone()
            bypasses = {}
            for name, position in prompts[n].positions.items():
                concept = trainer.concepts[name]
                if isinstance(concept, Embedding):
                    embeddings[0, position : position + len(concept.vectors)] = concept.vectors
                else:
                    time = batch.timesteps[rows[n].sample].float()[None]
                    vector, bypass = concept(time, torch.tensor([float(layer)]), cuts[name][layer][n])
                    embeddings[0, position] = vector[0]
                    bypasses[position] = bypass[0]
            hidden = text.hidden_states(embeddings)
            k = text.final_layer_norm(hidden)
            moved = hidden.clone()
            for position, bypass in bypasses.items():
                state = hidden[0, position]
                moved[0, position] = state + 0.2 * state.norm() * bypass / bypass.norm()
            found.append((k, text.final_layer_norm(moved)))
        return found * (LAYERS // layers)

    attentions = [m.attn2 for m in modules_in_running_order(unet.model.diffusion_model)]
    all_contexts = [contexts(n) for n in range(len(prompts))]
    total = 0.0
    for prompt, row in enumerate(rows):
        if not row.seen:
            continue
        pool, sample = row.pool, row.sample
        originals = [a.forward for a in attentions]
        for attention, (k, v), forward in zip(attentions, all_contexts[prompt], originals, strict=True):
            attention.forward = lambda x, f=forward, k=k, v=v, **_: f(x, context=k, value=v)
        sigma = unet.model.model_sampling.sigmas[batch.timesteps[sample]]
        noisy = batch.latents[sample] + sigma * batch.noise[sample]
        denoised = unet.model.apply_model(noisy[None], sigma[None], c_crossattn=all_contexts[prompt][0][0])
        for attention in attentions:
            del attention.forward
        predicted = (noisy - denoised[0]) / sigma
        error = batch.noise[sample] - predicted
        mask = torch.ones(1, 16, 16)
        weight = 1.0
        if settings.uses_attractor:
            subject_mask = batch.masks[sample]
            mask = {"subject": subject_mask, "background": 1 - subject_mask, "joint": mask}[pool]
            weight = {
                "subject": settings.subject_weight,
                "background": settings.background_weight,
                "joint": settings.joint_weight,
            }[pool]
        total = total + weight * (mask * error).square().sum() / (4 * mask.square().sum()) / settings.batch_size
        if pool == "subject" and settings.uses_attractor and settings.prior_weight:
            with torch.no_grad():  # the prompt with the plain word at the token's place, by the host's own path
                ids, place = list(prompts[prompt].ids), prompts[prompt].positions[SUBJECT]
                ids[place : place + settings.vectors] = text.tokenize(settings.super_category)
                ids += [text.eos] * (text.length - len(ids))
                plain = text.final_layer_norm(text.hidden_states(text.embed(torch.tensor([ids]))))
                left = unet.model.apply_model(noisy[None], sigma[None], c_crossattn=plain)[0]
            error, mask = (noisy - left) / sigma - predicted, 1 - batch.masks[sample]
            share = (mask * error).square().sum() / (4 * mask.square().sum())
            total = total + settings.prior_weight * share / settings.batch_size
    if settings.uses_contrast:
        total = total + settings.contrast_weight * slow_info_nce(settings, batch, prompts, all_contexts, layers)
    return total


def slow_info_nce(settings, batch, prompts, all_contexts, layers):
    """Eq. 5, pair by pair; the joint prompts come first."""
    total = 0.0
    for layer in range(layers):
        subject, attractor = [], []
        for n, photo in enumerate(batch.photos):
            k = all_contexts[n][layer][0][0]
            last = prompts[n].positions[SUBJECT] + settings.vectors - 1
            subject.append(torch.nn.functional.normalize(k[last], dim=0))
            attractor.append(torch.nn.functional.normalize(k[prompts[n].positions[attractor_name(photo)]], dim=0))
        size = len(subject)
        positive = sum((subject[i] @ subject[j] / settings.tau).exp() for i in range(size) for j in range(size) if i != j)
        negative = sum((subject[i] @ attractor[k] / settings.tau).exp() for i in range(size) for k in range(size))
        total = total - (positive / (positive + negative)).log() / layers
    return total


def nested_dropout_cuts(trainer, prompts, generator):
    """The same draws as the step's, laid out as cuts[name][layer][prompt]."""
    cuts = {}
    drawn = draw_truncations(trainer.concepts, prompts, trainer.layers, trainer.settings.nested_dropout, generator)
    for name in trainer.concepts:
        holders = [n for n, prompt in enumerate(prompts) if name in prompt.positions]
        cuts[name] = [
            {prompt: drawn[name][layer, place].item() if name in drawn else None for place, prompt in enumerate(holders)}
            for layer in range(trainer.layers)
        ]
    return cuts


def modules_in_running_order(unet):
    """Transformer blocks in the order a forward pass reaches them."""
    found, hooks = [], []
    for module in unet.modules():
        if isinstance(module, BasicTransformerBlock):
            hooks.append(module.register_forward_pre_hook(lambda m, _: found.append(m)))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), timesteps=torch.zeros(1), context=torch.zeros(1, 77, NARROW), transformer_options={})
    for hook in hooks:
        hook.remove()
    assert len(found) == len(BLOCKS)
    return found


OWN = "textual_inversion+", 0.7


@pytest.mark.parametrize("method, prior", [*((method, 0.0) for method in METHODS), ("neti+", 0.7), ("textual_inversion+", 0.7)])
def test_gradient_equals_the_slow_reference_of_the_equations(models, photos, method, prior):
    """Textual Inversion with a prior: of a token of three vectors, on captions and templates of one's own as well."""
    own = {"vectors": 3, "templates": "one {} here", "captions": "a {} on a sofa\n\n\n"} if (method, prior) == OWN else {}
    trainer = trainer_of(models, photos, method, prior_weight=prior, subject_weight=2.0, **own)
    fast = gradient(trainer)
    parameters = list(trainer.concepts.parameters())
    grads = torch.autograd.grad(slow_total_loss(trainer), parameters, allow_unused=True)
    slow = torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(parameters, grads, strict=True)])
    assert slow.norm() > 0
    assert relative(fast, slow) < 1e-5


@pytest.mark.one_host
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [SUBJECT, "attractor_0"])
def test_gradient_equals_central_differences(models, photos, method, name):
    trainer = trainer_of(models, photos, method)
    if name not in trainer.concepts:
        return  # this method has no attractor
    gradient(trainer)
    concept = trainer.concepts[name]
    parameters = [p for p in concept.parameters() if p.grad is not None]
    slopes = [p.grad / p.grad.norm().clamp_min(1e-12) for p in parameters]  # the steepest direction
    analytic = sum((p.grad * d).sum() for p, d in zip(parameters, slopes, strict=True)).item()

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, slopes, strict=True):
                p += step * d
        value = slow_total_loss(trainer).item()
        with torch.no_grad():
            for p, d in zip(parameters, slopes, strict=True):
                p -= step * d
        return value

    step = 3e-3
    numeric = (moved(step) - moved(-step)) / (2 * step)
    assert numeric == pytest.approx(analytic, rel=1e-2)


@pytest.mark.one_host
@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_micro_batches_do_not_change_the_gradient(models, photos, plain_gradient, micro_batch):
    assert relative(gradient(trainer_of(models, photos), micro_batch), plain_gradient) < 1e-5


@pytest.mark.one_host
def test_micro_batches_do_not_change_the_gradient_with_a_prior(models, photos):
    trainer = trainer_of(models, photos, "textual_inversion+", prior_weight=2.0)
    assert relative(gradient(trainer, 2), gradient(trainer, 9)) < 1e-5


@pytest.mark.one_host
def test_without_prior_weight_nothing_of_a_step_changes(models, photos, plain_gradient):
    """Bit for bit, and with one the random draws stay the same: only the new loss comes in."""
    assert torch.equal(gradient(trainer_of(models, photos, prior_weight=0.0)), plain_gradient)
    (bucket,) = photos.buckets
    covered = Photos.of(bucket.latents, torch.ones_like(bucket.masks))  # nothing is outside the mask
    assert torch.equal(gradient(trainer_of(models, covered, prior_weight=3.0)), gradient(trainer_of(models, covered)))


def test_a_token_that_is_the_plain_word_loses_nothing_to_the_prior(models, photos):
    """Textual Inversion starts as the super-category's word: the target is what the model predicts for it, not the noise."""
    trainer = trainer_of(models, photos, "textual_inversion+", prior_weight=1.0, batch_size=2)
    assert trainer.step().losses["prior"] < 1e-9
    assert trainer.step().losses["prior"] > 1e-9, "the token has moved away from the word"


@pytest.mark.one_host
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("text_chunk", [7, 1000])
def test_neither_text_chunks_nor_recomputing_changes_the_gradient(models, photos, plain_gradient, text_chunk, recompute):
    trainer = trainer_of(models, photos, text_chunk=text_chunk)
    trainer.recompute_text = recompute
    assert relative(gradient(trainer), plain_gradient) < 1e-5


@pytest.mark.one_host
def test_loss_scale_does_not_change_the_gradient(models, photos, plain_gradient):
    trainer = trainer_of(models, photos)
    trainer.unet.loss_scale = 2.0**12
    try:
        assert relative(gradient(trainer), plain_gradient) < 1e-5
    finally:
        trainer.unet.loss_scale = 1.0


def test_gradient_checkpointing_changes_nothing_and_every_layer_sees_its_own_context_again(models, photos, plain_gradient):
    unet = HostUNet(tiny_model(seed=1, context=NARROW))
    unet.model.requires_grad_(False)
    seen = []
    for block in modules_in_running_order(unet.model.diffusion_model):
        block.attn2.to_k.register_forward_pre_hook(lambda m, x, i=block: seen.append((i, x[0].detach().clone())))
    unet.checkpointing = 1
    trainer = build_trainer(trainer_of(models, photos).settings, photos, models[1], unet)
    seen.clear()
    assert relative(gradient(trainer, micro_batch=9), plain_gradient) < 1e-5
    first, again = seen[:LAYERS], seen[LAYERS:]
    assert len(again) == LAYERS, "the blocks were not recomputed"
    for block, context in again:
        (original,) = (c for b, c in first if b is block)
        assert torch.equal(context, original)
    assert not torch.allclose(first[0][1], first[1][1]), "layers would be indistinguishable"


@pytest.mark.one_host
def test_one_prompt_a_sample_is_an_unbiased_estimate_of_all_three(models, photos):
    """Over every way the pools can be drawn, the weighted mean of the estimates is the full loss."""
    trainer = trainer_of(models, photos, "textual_inversion+", contrast_weight=0.0, subject_weight=2.0)
    one = trainer_of(
        models, photos, "textual_inversion+", contrast_weight=0.0, subject_weight=2.0, prompts_per_step="one", prior_weight=0.5
    )
    totals, prior = {"subject": 0.0, "background": 0.0, "joint": 0.0}, 0.0
    for step in range(400):
        generator = step_generator(0, step)
        batch = draw_batch(photos, 3, generator)
        rows = [row for row in draw_prompt_rows(one.settings, one.text, batch.photos, generator) if row.seen]
        assert sorted(row.sample for row in rows) == [0, 1, 2]
        for row in rows:
            totals[row.pool] += row.weight / 400
            prior += row.prior / 400
    assert prior == pytest.approx(0.5, rel=0.15)
    for pool, weight in trainer.settings.loss_weights.items():
        assert totals[pool] == pytest.approx(weight, rel=0.15)


@pytest.mark.one_host
@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_fixed_batch_loss_and_every_term_it_minimises(models, photos, method):
    """The full objective on one frozen draw, before and after a few steps on that draw."""
    trainer = trainer_of(models, photos, method, learning_rate=2e-2, nested_dropout=0.0, batch_size=2)

    def losses():
        generator = step_generator(3, "frozen")
        batch = draw_batch(photos, 2, generator)
        trainer.optimizer.zero_grad()
        return trainer.backward(batch, generator)[0]

    before = losses()
    for _ in range(6):
        losses()
        trainer.optimizer.step()
    after = losses()
    assert set(after) == set(trainer.settings.loss_weights) | ({"contrast"} if trainer.settings.uses_contrast else set())
    for name in after:
        assert after[name] < before[name], name


def test_contrast_weight_follows_its_schedule(models, photos):
    trainer = trainer_of(models, photos, "textual_inversion+", contrast_schedule="linear", steps=3)
    weights = [result.contrast_weight for result in trainer.run()]
    assert weights == [pytest.approx(0.1 * contrast_weight("linear", step, 3)) for step in range(3)]


def test_without_attractor_nothing_is_masked_and_only_the_subject_prompt_is_seen(models, photos):
    """Plain Textual Inversion and NeTI: the masks and the attractor's settings have no influence."""
    for method in ("neti", "textual_inversion"):
        trainer = trainer_of(models, photos, method)
        assert list(trainer.concepts) == [SUBJECT]
        (bucket,) = photos.buckets
        other_masks = Photos.of(bucket.latents, 1 - bucket.masks)
        changed = trainer_of(models, other_masks, method, background_weight=9.0, contrast_weight=5.0, tau=0.5, prior_weight=3.0)
        assert torch.equal(gradient(trainer), gradient(changed))


def test_a_cancel_while_the_fixed_batch_is_looked_at_leaves_a_whole_step(models, photos, monkeypatch):
    """Curves of another length than the run made a state that could not be resumed."""
    trainer = trainer_of(models, photos, fixed_loss_every=1)

    def cancelled():
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "fixed_loss", cancelled)
    with pytest.raises(KeyboardInterrupt):
        trainer.step()
    assert trainer.step_count == 1
    assert {len(curve) for curve in trainer.curves.values()} == {1} and math.isnan(trainer.curves["fixed"][0])


def test_what_comes_before_the_first_cross_attention_runs_once_for_the_prompts_of_one_sample(photos):
    unet, text = HostUNet(tiny_model(seed=1, context=NARROW)), HostTextEncoder(tiny_clip(seed=1, width=NARROW))
    unet.model.requires_grad_(False)
    seen = []
    blocks = unet.model.diffusion_model.input_blocks
    for module in (blocks[1][0].out_layers[0], blocks[1][1].transformer_blocks[0].attn1.to_q):
        module.register_forward_pre_hook(lambda m, x: seen.append(len(x[0])))
    later = []
    blocks[1][1].transformer_blocks[0].attn2.to_q.register_forward_pre_hook(lambda m, x: later.append(len(x[0])))
    k, v = (torch.randn(LAYERS, 5, text.length, text.width) for _ in range(2))
    sample = torch.tensor([0, 1, 0, 2, 1])
    noisy, times = torch.randn(3, 4, 16, 16)[sample], torch.tensor([100, 500, 900])[sample]
    alone = unet.predict_noise(noisy, times, k, v)
    seen.clear(), later.clear()
    together = unet.predict_noise(noisy, times, k, v, sample.tolist())
    assert seen == [3, 3], "three samples; five prompts"
    assert later == [5]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
