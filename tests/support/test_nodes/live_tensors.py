"""How much memory tensors hold in this process, which does not depend on what the C library keeps for later."""

import gc

import torch


def tensor_megabytes() -> float:
    """Of all storages that something still holds; those that several tensors share count once."""
    gc.collect()
    real = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]  # none of torch.compile's
    storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in real)}
    return sum(storages.values()) / 2**20
