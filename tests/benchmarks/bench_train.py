"""A training step against how it is done elsewhere; `dev.py bench train [--methods ...] [--batch 1] [--size full]`.

Ours: `Trainer.step`, the whole of it. Theirs, written out in references.py on diffusers' own U-Net with the same weights:
NeTI's step (VAE encoding, a text pass a layer, three prompts of NeTI+ as one batch) with torch's fused attention and with two
products as published, and for Textual Inversion the step of diffusers' example (VAE encoding, text encoder with a trained
table that is written back, AdamW on the table). The noise predictions of both U-Nets are compared first.
"""

import os
import sys
from collections.abc import Callable

from sides import Clock, makers, measure, options, start_host, write

UNET_TFLOP, TRUNK_TFLOP, SEQUENCE_TFLOP = 1.669, 0.042, 0.0268  # at 64 x 64 latents, forward and backward; counted


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--methods", nargs="+", default=["neti", "neti+", "textual_inversion"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sides", nargs="*", default=["fused", "plain"], help="of theirs")
    parser.add_argument(
        "--their-precision", choices=("same", "float32"), default="same", help="NeTI trains in float32 by default"
    )
    parser.add_argument("--their-rows", type=int, default=0, help="through their U-Net at once, where all do not fit; 0: all")
    parser.add_argument("--card-gb", type=float, default=0, help="on CUDA: as on a card of so many GB")
    parser.add_argument("--micro-batch", type=int, default=0, help="0: what fits")
    parser.add_argument("--compile", action="store_true", help="and ours with the setting compile")
    parser.add_argument("--profile", action="store_true", help="where the time of a step of ours goes, and nothing else")
    arguments = parser.parse_args()
    start_host(arguments.cpu)
    sys.path.append(os.environ["DIFFUSERS_PATH"])
    import comfy.model_management as mm

    rows, facts = [], {"device": mm.get_torch_device_name(mm.get_torch_device()), "batch": arguments.batch}
    if arguments.card_gb:
        limit_memory(arguments.card_gb * 1e9)
    models = Models(arguments.size, arguments.their_precision)
    facts["precision"] = f"U-Net {models.unet.model.get_dtype_inference()}, text {models.text.compute_dtype}"
    if not arguments.only:
        facts["matrix rate TFLOP/s"] = round(Clock().matrix_rate(models.unet.model.get_dtype_inference()), 3)
        if arguments.sides:
            facts["noise predictions agree to"] = models.agreement()
    for method in arguments.methods:
        sides, trainer = step_sides(models, method, arguments)
        if arguments.profile:
            rows += profile(f"{method} step", sides["ours"])
            continue
        pools = len(trainer.settings.loss_weights)
        floor = arguments.batch * (
            pools * UNET_TFLOP - (pools - 1) * TRUNK_TFLOP + max(pools, 1) * trainer.layers * SEQUENCE_TFLOP
        )
        floors = dict.fromkeys(sides, floor) if arguments.size == "full" else None
        rows += measure(f"{method} step, theirs in {models.their_dtype}", sides, arguments, floors)
        facts[f"{method} plan"] = (
            f"text_chunk {trainer.text_chunk}, micro_batch {trainer.micro_batch}, recompute text {trainer.recompute_text}, "
            + (f"checkpointing {models.unet.checkpointing}")
        )
        mm.soft_empty_cache()
    kind = "profile" if arguments.profile else arguments.their_precision
    write(f"train_{arguments.size}_{arguments.batch}_{kind}", rows, facts)
    return 0


# Kinds of work by words in torch's names of operators; the first that fits.
WORK = {
    "attention": ("attention",),
    "convolutions": ("conv",),
    "matrix products": ("mm", "bmm", "linear", "matmul"),
    "norms": ("norm",),
    "copies": ("copy", "cat", "contiguous", "clone", "fill", "zero"),
    "element by element": ("",),
}


def profile(name: str, step: Callable[[], object]) -> list[dict]:
    """Seconds of a step by kind of work, of operators themselves and not of what they call; and the FLOPs that torch counts."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler
    from torch.utils.flop_counter import FlopCounterMode

    cuda = Clock().cuda
    with FlopCounterMode(display=False) as counter:
        step()
    counted = counter.get_flop_counts()["Global"].items()
    with profiler(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        step()
    rows = []
    events = [
        (event.key, event.self_device_time_total if cuda else event.self_cpu_time_total) for event in found.key_averages()
    ]
    whole = sum(time for _, time in events)
    for kind in WORK:
        time = sum(time for operator, time in events if _kind_of(operator) == kind)
        work = sum(flops for operator, flops in counted if _kind_of(str(operator)) == kind) / 1e12
        row = {"what": name, "work": kind, "s": round(time / 1e6, 3), "share": f"{time / whole:.0%}"}
        rows.append({**row, "TFLOP": round(work, 3), "TFLOP/s": round(work / time * 1e6, 3)} if work else row)
    return rows


def _kind_of(operator: str) -> str:
    return next(kind for kind, words in WORK.items() if any(word in operator.lower() for word in words))


def limit_memory(size: float) -> None:
    """Let no more than `size` bytes of the GPU be used, and let the plan see no more."""
    import torch

    import attractor.nodes.host.memory as memory

    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    memory._memory = lambda _device: size - torch.cuda.memory_allocated()


class Models:
    """The host's models, opened for training, and diffusers' U-Nets and VAE."""

    def __init__(self, size: str, their_precision: str = "same"):
        import comfy.model_management as mm
        import torch

        from attractor.nodes.host.memory import load_for_training
        from attractor.nodes.host.text_encoder import HostTextEncoder
        from attractor.nodes.host.unet import HostUNet

        full = size == "full"
        model, clip = (make() for make in makers(size))
        for part in (model.model, clip.cond_stage_model):
            part.requires_grad_(False)
        self.device, self.pixels = mm.get_torch_device(), 512 if full else 128
        self.unet, self.text = HostUNet(model), HostTextEncoder(clip)
        self.text.use_half_precision()
        load_for_training(self.unet, self.text)
        self.model, self.full = model.model, full
        self.generator = torch.Generator().manual_seed(0)
        self.schedule = (1 / (self.model.model_sampling.sigmas.double() ** 2 + 1)).float().to(self.device)
        self._others: dict = {}
        self.their_dtype = torch.float32 if their_precision == "float32" else self.unet.model.get_dtype_inference()

    def other(self, fused: bool) -> tuple:
        """diffusers' U-Net, its contexts, and its VAE."""
        from diffusers import AutoencoderKL
        from references import diffusers_unet

        if "vae" not in self._others:
            levels = (128, 256, 512, 512) if self.full else (32, 32, 32, 32)
            kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
            vae = AutoencoderKL(block_out_channels=levels, layers_per_block=2, latent_channels=4, **kinds)
            self._others["vae"] = vae.requires_grad_(False).to(self.device, self.their_dtype)
        if fused not in self._others:
            unet, contexts = diffusers_unet(self.model, fused)
            self._others[fused] = unet.to(self.device, self.their_dtype), contexts
        return *self._others[fused], self._others["vae"]

    def agreement(self) -> str:
        """Relative difference of the two U-Nets' noise predictions from one z_t and contexts of 16 layers."""
        import torch

        k, v = (torch.randn(16, 2, 77, 768, generator=self.generator).to(self.device) for _ in range(2))
        side = self.pixels // 8
        latents, noise = (torch.randn(2, 4, side, side, generator=self.generator).to(self.device) for _ in range(2))
        times = torch.tensor([300, 700], device=self.device)
        with torch.no_grad():
            ours = self.unet.predict_noise(self.unet.add_noise(latents, noise, times), times, k, v, [0, 1])
            unet, contexts, _ = self.other(True)
            contexts["k"], contexts["v"] = k, v
            alpha = self.schedule[times].view(-1, 1, 1, 1)
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            theirs = unet(noisy.to(unet.dtype), times, k[0].to(unet.dtype)).sample.float()
        return f"{((ours - theirs).norm() / theirs.norm()).item():.1e}"


def step_sides(models: Models, method: str, arguments) -> tuple[dict, object]:
    """Ours and theirs of one method."""
    import torch

    from attractor.nodes.host.memory import plan_memory
    from attractor.trainer.build import build_trainer
    from attractor.trainer.dataset import Photos
    from attractor.trainer.settings import TrainingSettings

    side = models.pixels // 8
    settings = TrainingSettings(
        method=method,
        batch_size=arguments.batch,
        steps=100_000,
        placeholder="<x>",
        super_category="cat",
        prompts_per_step="all",  # as theirs
        fixed_loss_every=100_000,
        micro_batch=arguments.micro_batch,
        contrast_weight=0.0 if arguments.batch == 1 else 0.1,
    )
    photos = Photos.of(
        torch.randn(1, 5, 4, side, side, generator=models.generator),
        torch.rand(1, 5, 1, side, side, generator=models.generator),
    )
    trainer = build_trainer(settings, photos, models.text, models.unet)
    plan_memory(trainer, models.unet, models.text)
    trainer.step()  # the first evaluates the fixed batch
    sides = {"ours": trainer.step}
    if arguments.compile:
        sides |= with_and_without_compiling(models, trainer)
    for kind in arguments.sides:
        name = "diffusers' example" if method == "textual_inversion" else "NeTI's way"
        sides[f"{name}, {kind} attention"] = their_step(models, trainer, kind == "fused", arguments.their_rows)
    return sides, trainer


def with_and_without_compiling(models: Models, trainer) -> dict:
    """Our step twice: the U-Net's parts run as they are, and compiled."""
    from attractor.nodes.host.compiling import compile_parts

    why = compile_parts(models.unet, models.text, trainer.photos.largest_size)
    assert not why, f"torch cannot compile here: {why}"
    parts = [part for part in models.model.diffusion_model.modules() if part._compiled_call_impl is not None]
    compiled = [part._compiled_call_impl for part in parts]

    def step(calls: list) -> None:
        for part, call in zip(parts, calls, strict=True):
            part._compiled_call_impl = call
        trainer.step()

    return {"ours": lambda: step([None] * len(parts)), "ours, compiled": lambda: step(compiled)}


def their_step(models: Models, trainer, fused: bool, rows_at_once: int = 0):
    import torch
    from references import PlainText, diffusers_step

    from attractor.trainer.concept import represent
    from attractor.trainer.methods import SUBJECT
    from attractor.trainer.pools import draw_prompt_rows

    settings, device = trainer.settings, models.device
    made: list = []  # the other U-Net is built when the side first runs, so that a process of ours alone never holds it

    def step() -> None:
        if not made:
            unet, contexts, vae = models.other(fused)
            plain = PlainText(models.text._model)
            concepts = {name: trainer.concepts[name] for name in trainer.concepts}
            learnt = [plain.table] if settings.kind == "textual_inversion" else list(trainer.concepts.parameters())
            optimizer = torch.optim.AdamW(learnt, lr=1e-9)
            made.append((diffusers_step(unet, contexts, models.schedule), vae, plain, concepts, optimizer))
        loss_of, vae, plain, concepts, optimizer = made[0]
        batch = settings.batch_size
        pixels = torch.rand(batch, 3, models.pixels, models.pixels, device=device, dtype=vae.dtype) * 2 - 1
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample().float() * 0.18215
        times = torch.randint(1000, (batch,), device=device)
        rows = draw_prompt_rows(settings, models.text, [0] * batch, torch.Generator().manual_seed(0))
        ids = torch.tensor([row.prompt.ids for row in rows], device=device)
        owner = torch.tensor([row.sample for row in rows], device=device)
        names = [SUBJECT if SUBJECT in row.prompt.positions else next(iter(row.prompt.positions)) for row in rows]
        position = torch.tensor([row.prompt.positions[name] for row, name in zip(rows, names, strict=True)], device=device)
        found = []
        for layer in range(trainer.layers):
            vectors, bypasses = [], []
            for n, name in enumerate(names):
                vector, bypass, _ = represent(
                    concepts[name], times[owner[n]].float()[None], torch.tensor([float(layer)], device=device)
                )
                vectors.append(vector[0, 0])
                bypasses.append(bypass)
            bypass = torch.cat(bypasses) if bypasses[0] is not None else None
            found.append(plain.contexts(ids, position, torch.stack(vectors), bypass))
        k, v = (torch.stack(part) for part in zip(*found, strict=True))
        noise = torch.randn_like(latents)
        leaves = [context.detach().requires_grad_() for context in (k, v)]
        for part in torch.arange(len(rows), device=device).split(rows_at_once or len(rows)):
            own = owner[part]
            loss = loss_of(latents[own], noise[own], times[own], *(leaf[:, part] for leaf in leaves))
            (loss * len(part) / len(rows)).backward()
        torch.autograd.backward([k, v], [leaf.grad for leaf in leaves])
        optimizer.step()
        optimizer.zero_grad()
        plain.restore()

    return step


if __name__ == "__main__":
    sys.exit(main())
