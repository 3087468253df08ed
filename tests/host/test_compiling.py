"""torch.compile of the U-Net's parts: the same gradients, or training without it."""

import shutil

import comfy.model_management as mm
import pytest
import torch
import torch._inductor.config as inductor
from in_process import narrow_models

from attractor.nodes.host.compiling import compile_parts
from attractor.nodes.host.memory import one_row
from attractor.nodes.host.progress import Interrupted
from attractor.nodes.host.text_encoder import HostTextEncoder
from attractor.nodes.host.unet import HostUNet

pytestmark = pytest.mark.one_host


@pytest.fixture
def models():
    model, clip = narrow_models()
    yield HostUNet(model), HostTextEncoder(clip)
    torch._dynamo.reset()


def gradient(models, size=(16, 16)):
    """Of a prediction, for its contexts."""
    torch.manual_seed(0)
    predicted, context = one_row(*models, size)
    return torch.autograd.grad(predicted.square().sum(), context)[0]


def compiled_parts(unet):
    return [module for module in unet.model.diffusion_model.modules() if module._compiled_call_impl is not None]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch needs a C++ compiler")
def test_gradients_are_those_of_the_model_as_it_was(models):
    plain = [gradient(models), gradient(models, (24, 16))]
    assert compile_parts(*models, (16, 16)) == ""
    assert compiled_parts(models[0]), "nothing is compiled"
    for before, after in zip(plain, (gradient(models), gradient(models, (24, 16))), strict=True):
        assert before.abs().max() > 0
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * before.abs().max().item())
    with torch.inference_mode():  # as samples are made in between
        one_row(*models, (16, 16))


def test_a_cancel_while_it_compiles_is_a_cancel(models):
    mm.interrupt_current_processing()
    try:
        with pytest.raises(Interrupted):
            compile_parts(*models, (16, 16))
    finally:
        mm.interrupt_current_processing(False)


def test_where_torch_cannot_compile_all_is_as_it_was(models, monkeypatch):
    before = gradient(models)
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    assert compile_parts(*models, (16, 16))
    assert not compiled_parts(models[0])
    assert gradient(models).equal(before)
