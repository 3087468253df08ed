"""The losses of the paper: masked denoising (Eq. 4) and InfoNCE between subject and attractors (Eq. 5)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor, mean: str = "mask") -> Tensor:
    """Eq. 4, || M * target - M * prediction ||^2, per sample.

    Args:
        prediction, target: (B, C, h, w) noise.
        mask: (B, 1, h, w) in 0..1; all ones gives the plain loss L_joint.
        mean: `mask` divides by the mask's own square sum, so that a constant error e gives e^2 whatever the
            subject's size; `all` divides by the number of elements.

    Returns:
        (B,) float32.
    """
    error = mask.float() * (target.float() - prediction.float())
    total = error.square().flatten(1).sum(1)
    if mean == "all":
        return total / error[0].numel()
    return total / (error.shape[1] * mask.float().square().flatten(1).sum(1)).clamp_min(1e-6)


def info_nce(subject: Tensor, attractor: Tensor, tau: float, normalize: bool = True) -> Tensor:
    """Eq. 5 on contextual embeddings, averaged over layers.

    -log[ P / (P + N) ], P = sum over i != j of exp(v_i . v_j / tau), N = sum over i, k of exp(v_i . A_k / tau):
    one log around the two sums.

    Args:
        subject, attractor: (L, B, D) text-encoder outputs at v* and at A*, for L layers (1 for plain
            embeddings) and the B samples of a batch.
        normalize: compare directions (L2-normalised vectors).

    Returns:
        scalar, float32.

    Raises:
        ValueError: fewer than two samples leave no positive pair.
    """
    size = subject.shape[1]
    if size < 2:
        raise ValueError("InfoNCE compares the samples of a batch: batch_size must be 2 or more.")
    subject, attractor = subject.float(), attractor.float()
    if normalize:
        subject, attractor = F.normalize(subject, dim=-1), F.normalize(attractor, dim=-1)
    other = ~torch.eye(size, dtype=torch.bool, device=subject.device)
    positive = (subject @ subject.mT / tau)[:, other]  # (L, B(B-1))
    negative = (subject @ attractor.mT / tau).flatten(1)  # (L, B*B)
    every = torch.cat([positive, negative], dim=1)
    return (every.logsumexp(1) - positive.logsumexp(1)).mean()
