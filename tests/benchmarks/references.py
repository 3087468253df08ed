"""How others do it, written plainly: NeTI's text pass a layer and attention, and diffusers' U-Net with the same weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainText:
    """The text encoder as NeTI's `neti_clip_text_encoder.py` runs it: one call a U-Net layer, attention by two products and a
    softmax, and the embedding table trained (its gradients are thrown away by writing the table back after each step)."""

    def __init__(self, text_model: nn.Module, heads: int = 12):
        """text_model: the host's CLIPTextModel_, whose weights are used."""
        self.model, self.heads = text_model, heads
        self.table = nn.Parameter(text_model.embeddings.token_embedding.weight.detach().clone())
        self.before = self.table.detach().clone()

    def hidden_states(self, embeddings: Tensor) -> Tensor:
        size = embeddings.shape[1]
        hidden = embeddings + self.model.embeddings.position_embedding.weight[:size].to(embeddings)
        mask = torch.full((size, size), -torch.inf, device=hidden.device).triu_(1)
        for layer in self.model.encoder.layers:
            hidden = hidden + self._attention(layer.self_attn, layer.layer_norm1(hidden), mask)
            inner = layer.mlp.fc1(layer.layer_norm2(hidden))
            hidden = hidden + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
        return hidden

    def _attention(self, attention: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        count, size, width = x.shape
        q, k, v = (
            part(x).view(count, size, self.heads, -1).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask).softmax(-1)
        return attention.out_proj((weights @ v).transpose(1, 2).reshape(count, size, width))

    def contexts(self, ids: Tensor, position: Tensor, vector: Tensor, bypass: Tensor | None) -> tuple[Tensor, Tensor]:
        """K and V of one U-Net layer: ids (N, S), the token's position (N,), its vector and bypass (N, width)."""
        places = (torch.arange(len(ids), device=ids.device), position)
        hidden = self.hidden_states(F.embedding(ids, self.table).index_put(places, vector))
        k = self.model.final_layer_norm(hidden)
        if bypass is None:
            return k, k
        state = hidden[places]
        moved = state + 0.2 * bypass / bypass.norm(dim=-1, keepdim=True) * state.norm(dim=-1, keepdim=True)
        return k, self.model.final_layer_norm(hidden.index_put(places, moved))

    def restore(self) -> None:
        """What both write after a step: every row of the table but the placeholder's."""
        with torch.no_grad():
            self.table.copy_(self.before)
        self.table.grad = None


class ContextProcessor:
    """Cross-attention of diffusers' U-Net with K and V contexts of its own (NeTI's XTIAttenProc), and its self-attention."""

    def __init__(self, layer: int | None, fused: bool, contexts: dict[str, Tensor]):
        """layer: of the contexts; None for self-attention. fused: torch's scaled dot product instead of two products.
        contexts: `k` and `v`, (layers, N, S, width), set before each call."""
        self.layer, self.fused, self.contexts = layer, fused, contexts

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        count, size, _ = hidden_states.shape
        k = v = hidden_states
        if self.layer is not None:
            k, v = (self.contexts[name][min(self.layer, len(self.contexts[name]) - 1)] for name in ("k", "v"))
        q, k, v = (
            part(x).view(count, -1, attn.heads, attn.to_q.out_features // attn.heads).transpose(1, 2)
            for part, x in ((attn.to_q, hidden_states), (attn.to_k, k.to(hidden_states)), (attn.to_v, v.to(hidden_states)))
        )
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return attn.to_out[0](out.transpose(1, 2).reshape(count, size, -1))


def diffusers_unet(model: nn.Module, fused: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    """diffusers' own SD1.5 U-Net with the host's weights, and the dict that its cross-attentions take contexts from."""
    import comfy.utils
    from diffusers import UNet2DConditionModel

    config, weights = model.model_config.unet_config, model.diffusion_model.state_dict()
    widths = [config["model_channels"] * factor for factor in config["channel_mult"]]
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=widths, cross_attention_dim=config["context_dim"], attention_head_dim=config["num_heads"]
        )
    names = comfy.utils.unet_to_diffusers(config)
    # The very tensors: three full-size copies and what a step takes would not fit into the memory of a small machine.
    unet.load_state_dict({theirs: weights[ours] for theirs, ours in names.items() if ours in weights}, assign=True)
    unet.requires_grad_(False).to(next(iter(weights.values())).dtype)
    contexts: dict[str, Tensor] = {}
    # The order in which the U-Net calls them is NeTI's order of layers.
    order = [
        part for kind in ("down_blocks", "mid_block", "up_blocks") for part in unet.attn_processors if part.startswith(kind)
    ]
    layers = {name: number for number, name in enumerate(name for name in order if "attn2" in name)}
    unet.set_attn_processor({name: ContextProcessor(layers.get(name), fused, contexts) for name in unet.attn_processors})
    return unet, contexts


def diffusers_step(unet: nn.Module, contexts: dict[str, Tensor], schedule: Tensor) -> Callable[..., Tensor]:
    """`loss(latents, noise, timesteps, k, v)` of the noise prediction; schedule: (1000,) alphas_cumprod."""

    def loss(latents: Tensor, noise: Tensor, timesteps: Tensor, k: Tensor, v: Tensor) -> Tensor:
        contexts["k"], contexts["v"] = k, v
        alpha = schedule[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        return F.mse_loss(unet(noisy.to(unet.dtype), timesteps, k[0].to(unet.dtype)).sample.float(), noise)

    return loss
