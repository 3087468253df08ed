"""A text encoder and a U-Net of a few lines, for tests of the trainer without a host."""

from contextlib import contextmanager

import torch


class ToyText:
    """Words are their lengths; a state is the mean of what came before."""

    width, bos, eos, length = 8, 1, 0, 24
    device = torch.device("cpu")
    table = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))

    def tokenize(self, text):
        return [2 + len(word) for word in text.split()]

    def embed(self, ids):
        return self.table[ids]

    def read(self, embeddings):
        return self.hidden_states(embeddings), [(embeddings, embeddings)]

    def hidden_states(self, embeddings, past=None):
        start = past[0][0].shape[1] if past else 0
        whole = torch.cat([past[0][0], embeddings], dim=1) if past else embeddings
        return self.states(whole)[:, start:]

    def states(self, embeddings):
        return embeddings.cumsum(1) / torch.arange(1, embeddings.shape[1] + 1)[:, None]

    def final_layer_norm(self, hidden):
        return torch.nn.functional.layer_norm(hidden, (self.width,))


class ToyUNet:
    """Noise that depends on both contexts of every layer."""

    device, loss_scale = torch.device("cpu"), 1.0
    mixing = torch.eye(4)  # of the channels: what methods that tune the U-Net learn

    def tunable(self, learns):
        return {"mixing.weight": self.mixing}

    @contextmanager
    def tuned(self, tensors, detach_start=False):
        own, self.mixing = self.mixing, tensors["mixing.weight"]
        yield
        self.mixing = own

    def add_noise(self, latents, noise, timesteps):
        return latents + noise * (timesteps / 1000)[:, None, None, None]

    def predict_noise(self, noisy, timesteps, context_k, context_v, samples):
        layers = torch.arange(1.0, len(context_k) + 1)[:, None, None, None]
        signal = ((context_k.tanh() + context_v.sin()) * layers).mean((0, 2))
        mixed = (self.mixing @ (noisy * signal[:, :4, None, None]).flatten(2)).view_as(noisy)
        return mixed + signal[:, 4:, None, None]
