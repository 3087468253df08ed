"""What a job leaves in the server's memory once it has ended: nothing."""

import time

import pytest
from graphs import add_encoders, add_evaluation, add_photos, add_preview, add_tiny, add_training

from attractor.trainer.concept import PersonalizedToken
from attractor.trainer.mapper import NeTIMapper
from attractor.trainer.token_file import save_token
from comfy_client import ExecutionFailed, Graph, Interrupted
from pdst_set import write_subject


def training(comfy, number, **changes):
    graph = Graph()
    loader = add_tiny(graph)
    images, masks = add_photos(graph, comfy, 2)
    small = {"steps": 2, "sample_every": 2, "sample_steps": 1, "checkpoint_every": 1, "seed": number}
    trained = add_training(graph, loader, images, masks, **{"name": f"memory-{number}", **small, **changes})
    graph.add("PreviewImage", images=trained[1])
    return graph


def dreambooth(comfy, number):
    own = {"class_images": 2, "learning_rate_preset": "custom", "name": f"memory-dreambooth-{number}"}
    return training(comfy, number, method="dreambooth", **own)


def sampling(comfy, number):
    """A prompt with a token, another one each time, on a model that stays loaded."""
    graph = Graph()
    loader = add_tiny(graph, text_width=768)
    token = graph.add("AttractorLoadNeTIMapper", file="memory.safetensors")
    applied = graph.add("AttractorApplyToken", model=loader[0], clip=loader[1], token=token[0])
    add_preview(graph, loader, applied[0], applied[1], f"photo {number} of <memory>")
    return graph


def evaluation(comfy, number):
    graph = Graph()
    loader = add_tiny(graph, text_width=768)
    dataset = graph.add("AttractorLoadPDST", folder="pdst/memory", subjects="all", captions_per_photo=2)
    add_evaluation(
        graph,
        model=loader[0],
        clip=loader[1],
        vae=loader[2],
        dataset=dataset[0],
        encoders=add_encoders(graph),
        tokens=graph.add("AttractorLoadNeTIMapper", file="memory.safetensors")[0],
        name=f"memory-{number}",
        images_per_caption=2,
        save_images=True,
        include_floor=False,
        steps=1,
        width=64,
        height=64,
        seed=number,
    )
    return graph


@pytest.fixture(scope="module")
def files(comfy_server, server_encoders):
    subject = NeTIMapper(768, norm_scale=0.4, seed=0)
    token = PersonalizedToken("<memory>", "cat", "neti", 768, subject, record={})
    save_token(token, comfy_server.output / "neti" / "memory.safetensors")
    write_subject(comfy_server.base / "models" / "pdst" / "memory", "cat")


@pytest.fixture
def leaves_nothing(comfy, files):
    """Carries out three jobs of a kind. What libraries and the host keep is there after the first."""

    def check(carry_out):
        megabytes = []
        for number in range(3):
            carry_out(number)
            megabytes.append(comfy.get("/test/tensor_megabytes"))
        # The server says that a job has ended a moment before it lets go of it, or of the error that ended it.
        deadline = time.monotonic() + 20
        while megabytes[-1] >= megabytes[1] + 1 and time.monotonic() < deadline:
            time.sleep(0.2)
            megabytes.append(comfy.get("/test/tensor_megabytes"))
        assert megabytes[-1] < megabytes[1] + 1, megabytes

    return check


@pytest.mark.parametrize(
    "job", [training, evaluation, *(pytest.param(job, marks=pytest.mark.one_host) for job in (dreambooth, sampling))]
)
def test_a_job_leaves_no_tensors_behind(comfy, leaves_nothing, job):
    leaves_nothing(lambda number: comfy.run(job(comfy, number), timeout=300))


@pytest.mark.one_host
def test_nor_does_a_training_that_was_cancelled(comfy, leaves_nothing):
    def carry_out(number):
        with comfy.listen() as listener:
            prompt = comfy.queue(training(comfy, number, name=f"memory-cancelled-{number}", steps=400))
            listener.wait_for("progress", lambda event: event["max"] == 400 and event["value"] >= 2, timeout=300)
            comfy.interrupt(prompt)
            with pytest.raises(Interrupted):
                comfy.wait(prompt)

    leaves_nothing(carry_out)


@pytest.mark.one_host
def test_nor_does_one_that_failed(comfy, leaves_nothing):
    def carry_out(number):
        too_fast = {"learning_rate_preset": "custom", "learning_rate": 1e30, "name": f"memory-failed-{number}"}
        with pytest.raises(ExecutionFailed, match="learning_rate"):
            comfy.run(training(comfy, number, steps=400, **too_fast), timeout=300)

    leaves_nothing(carry_out)
