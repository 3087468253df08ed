"""Memory on the device for training: what is loaded, how much runs at once, and what to do when memory runs out."""

import gc
import logging
from collections.abc import Callable

import comfy.model_management as mm
import torch
from torch import Tensor

from ...trainer.loop import Trainer
from ..errors import UserError
from .text_encoder import HostTextEncoder
from .unet import HostUNet

is_out_of_memory = mm.is_oom if hasattr(mm, "is_oom") else lambda error: isinstance(error, mm.OOM_EXCEPTION)
CPU_ROWS = 8  # U-Net rows at once: more are no faster on a CPU
CPU_CHUNK, GPU_CHUNK = 16, 512  # text-encoder sequences at once: what stays in a CPU's cache; what fills a GPU
# Shares of the free memory: what the text encoder's activations may take before they are recomputed; what they take then.
TEXT_SHARE, RECOMPUTED_SHARE = 0.35, 0.15


def load_for_training(unet: HostUNet, text: HostTextEncoder) -> None:
    """Load both copies whole onto their devices and unload everything else: a VAE or encoders that were used in between
    would take memory that the micro-batch was planned with."""
    for patcher in (unet.patcher, text.patcher):  # what was moved while the host sampled in inference mode
        drop_inference_tensors(patcher.model)
    own = [loaded for loaded in mm.current_loaded_models if loaded.model in (unet.patcher, text.patcher)]
    mm.free_memory(1e30, unet.device, keep_loaded=own)
    mm.load_models_gpu([unet.patcher, text.patcher], memory_required=2 * 1024**3, force_full_load=True)
    unet.patcher.pre_run()


def plan_memory(trainer: Trainer, unet: HostUNet, text: HostTextEncoder) -> None:
    """Set what the settings leave to the machine, from the free memory and from what one row is measured to need.

    A starting point: a step that runs out of memory is tried again with less (`shrink`).

    unet, text: the trainer's, loaded.
    """
    settings, free = trainer.settings, 0.9 * _memory(unet.device)
    prompts, encoded = (count * settings.batch_size for count in settings.most_prompts)
    # Of two sequences and of one: what is kept once, such as weights in another precision, is not in the difference.
    sequence = max(
        1, _bytes_kept(text.device, lambda: _sequences(text, 2)) - _bytes_kept(text.device, lambda: _sequences(text, 1))
    )
    everything = encoded * trainer.layers * sequence
    trainer.recompute_text = everything > TEXT_SHARE * free
    suits = text_chunk_for(text.device)
    if trainer.recompute_text:
        suits = max(4, min(suits, int(RECOMPUTED_SHARE * free / sequence)))
        everything = suits * sequence
    trainer.text_chunk = settings.text_chunk or suits
    free -= everything
    fits = 0
    for level in {"auto": (0, 1, 2), "on": (1, 2), "off": (0,)}[settings.gradient_checkpointing]:
        unet.checkpointing = level
        try:
            fits = int(free / _bytes_kept(unet.device, lambda: one_row(unet, text, trainer.photos.largest_size)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fits = 0
        if fits >= min(prompts, 2):
            break
    at_most = min(prompts, CPU_ROWS) if unet.device.type == "cpu" else prompts
    trainer.micro_batch = settings.micro_batch or max(1, min(at_most, fits))


def text_chunk_for(device: torch.device) -> int:
    """Text-encoder sequences at once where memory does not matter."""
    return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK


def _memory(device: torch.device) -> float:
    """Bytes to plan with. On a CPU half of what is built in, so that the plan, and with it rounding, is the same each time."""
    return mm.get_total_memory(device) / 2 if device.type == "cpu" else mm.get_free_memory(device)


def _sequences(text: HostTextEncoder, count: int) -> tuple[Tensor, Tensor]:
    vectors = torch.zeros(count, text.length, text.width, device=text.device, requires_grad=True)
    return text.hidden_states(vectors), vectors


def one_row(unet: HostUNet, text: HostTextEncoder, latent_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A prediction for one photo, and the contexts that it is differentiated by."""
    context = torch.zeros(1, 1, text.length, text.width, device=unet.device, requires_grad=True)
    latents = torch.zeros(1, 4, *latent_size, device=unet.device)
    return unet.predict_noise(latents, torch.tensor([500], device=unet.device), context, context), context


def _bytes_kept(device: torch.device, run: Callable[[], tuple[Tensor, Tensor]]) -> int:
    """Bytes that a forward and backward pass takes. run: gives the output and what it is differentiated by.

    On CUDA it is the peak as measured. Elsewhere it is what autograd keeps for the backward pass, and a third more for what
    comes and goes.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        output, source = run()
        torch.autograd.grad(output.float().sum(), source)
        return max(1, torch.cuda.max_memory_allocated(device) - before)
    kept: dict[int, torch.UntypedStorage] = {}

    def count(tensor: Tensor) -> None:  # giving the tensor back would make circles that nothing frees, with the model in them
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
        run()
    return max(1, sum(storage.nbytes() for storage in kept.values()) * 4 // 3)


def shrink(unet: HostUNet, trainer: Trainer, error: Exception) -> None:
    """Make the next attempt at a step need less memory. unet: the trainer's.

    Raises:
        UserError: there is nothing left to reduce.
    """
    gc.collect()
    mm.soft_empty_cache()
    if trainer.micro_batch > 1:
        trainer.micro_batch //= 2
    elif not trainer.recompute_text:
        trainer.recompute_text, trainer.text_chunk = True, min(trainer.text_chunk, 64)
    elif trainer.text_chunk > 4:
        trainer.text_chunk //= 2
    elif unet.checkpointing < 2:
        unet.checkpointing += 1
    else:
        raise UserError(
            "The GPU has too little memory even for one image at a time with gradient checkpointing: "
            "lower resolution, or close other programs that use the GPU."
        ) from error
    logging.warning(
        "Out of memory: going on with micro_batch %d, text encoder recomputed: %s, gradient checkpointing: %s.",
        trainer.micro_batch,
        "yes" if trainer.recompute_text else "no",
        ("off", "attention", "attention and residual blocks")[unet.checkpointing],
    )


def drop_inference_tensors(module: torch.nn.Module) -> None:
    """Replace inference tensors, which autograd cannot save, by ordinary copies."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()
