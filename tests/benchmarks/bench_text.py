"""Text conditioning of a NeTI+ step against NeTI's way; `dev.py bench text [--samples 1] [--size full] [--repeats 3] [--cpu]`.

Contexts of every sample's three prompts at all 16 layers, forward and backward, with tokens at the templates' own places. Ours:
one batch, what stands before the first token once. Theirs: a text pass a layer (`references.PlainText`). Both give the same
contexts and gradients, which is checked first.
"""

import sys

from sides import Clock, makers, measure, options, start_host, write

SEQUENCE_TFLOP = 0.0268  # forward and backward of one sequence, counted (facts of the paper's method: see docs/performance.md)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--samples", type=int, default=1, help="of a batch: 48 sequences each")
    parser.add_argument("--by-layer", action="store_true", help="their gradient after each layer: all at once may not fit")
    arguments = parser.parse_args()
    start_host(arguments.cpu)
    import comfy.model_management as mm
    import torch
    from references import PlainText

    from attractor.nodes.host.memory import text_chunk_for
    from attractor.nodes.host.text_encoder import HostTextEncoder
    from attractor.trainer.concept import LAYERS
    from attractor.trainer.conditioning import TokenRows, encode_layers
    from attractor.trainer.pools import draw_prompt_rows
    from attractor.trainer.settings import TrainingSettings

    _, make_clip = makers(arguments.size)
    clip = make_clip()
    clip.cond_stage_model.requires_grad_(False)
    mm.load_models_gpu([clip.patcher], force_full_load=True)
    text = HostTextEncoder(clip)
    text.use_half_precision()
    own = {"batch_size": arguments.samples, "prompts_per_step": "all"}
    settings = TrainingSettings(placeholder="<x>", super_category="cat", **own)
    rows = draw_prompt_rows(settings, text, [0] * arguments.samples, torch.Generator().manual_seed(0))
    ids = torch.tensor([row.prompt.ids for row in rows], device=text.device)
    position = torch.tensor([min(row.prompt.positions.values()) for row in rows], device=text.device)
    count, generator = len(rows), torch.Generator().manual_seed(1)
    vectors, bypass, grad_k, grad_v = (
        torch.randn(shape, generator=generator).mul(scale).to(text.device)
        for shape, scale in (
            ((LAYERS * count, text.width), 0.02),
            ((LAYERS * count, text.width), 1.0),
            ((LAYERS, count, text.length, text.width), 1e-3),
            ((LAYERS, count, text.length, text.width), 1e-3),
        )
    )
    leaves = [vectors.requires_grad_(), bypass.requires_grad_()]
    places = torch.arange(LAYERS * count, device=text.device), position.repeat(LAYERS)
    chunk = text_chunk_for(text.device)

    def ours() -> list[torch.Tensor]:
        tokens = [TokenRows(*places, vectors, bypass)]
        contexts = encode_layers(text, text.embed(ids), LAYERS, tokens, chunk)
        return list(torch.autograd.grad(contexts, leaves, (grad_k, grad_v)))

    plain = PlainText(text._model)

    def theirs_by_layer() -> list[torch.Tensor]:
        parts = []
        for layer in range(LAYERS):
            part = slice(layer * count, (layer + 1) * count)
            contexts = plain.contexts(ids, position, vectors[part], bypass[part])
            parts.append(torch.autograd.grad(contexts, [*leaves, plain.table], (grad_k[layer], grad_v[layer])))
        plain.restore()
        return [sum(grads) for grads in zip(*parts, strict=True)][:2]

    def theirs() -> list[torch.Tensor]:
        if arguments.by_layer:
            return theirs_by_layer()
        contexts, grads = [], []
        for layer in range(LAYERS):
            part = slice(layer * count, (layer + 1) * count)
            contexts += plain.contexts(ids, position, vectors[part], bypass[part])
            grads += [grad_k[layer], grad_v[layer]]
        found = torch.autograd.grad(contexts, [*leaves, plain.table], grads)
        plain.restore()
        return list(found[:2])

    sequences = LAYERS * count
    facts = {
        "sequences": sequences,
        "device": mm.get_torch_device_name(mm.get_torch_device()),
        "precision": str(text.compute_dtype),
    }
    if not arguments.only:
        worst = max(((a - b).norm() / b.norm()).item() for a, b in zip(ours(), theirs(), strict=True))
        facts["gradients agree to"] = f"{worst:.1e}"
        clock = Clock()
        facts["matrix rate TFLOP/s"] = round(clock.matrix_rate(text.compute_dtype), 3)
    floor = SEQUENCE_TFLOP * sequences if arguments.size == "full" else 0.0
    sides = {"ours": ours, "a pass a layer (NeTI)": theirs}
    rows_found = measure(f"text, {sequences} sequences", sides, arguments, dict.fromkeys(sides, floor))
    write(f"text_{arguments.size}_{sequences}", rows_found, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
