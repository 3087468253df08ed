"""The server, the client and the small models work, with the host's stock nodes alone."""

import pytest
from PIL import Image

from comfy_client import ExecutionFailed, Graph, GraphRejected, Interrupted


def sampling_graph(loader_class, steps=2, **loader_inputs):
    """Text to image; the graph and its SaveImage node."""
    graph = Graph()
    loader = graph.add(loader_class, **loader_inputs)
    sampled = graph.add(
        "KSampler",
        model=loader[0],
        positive=graph.add("CLIPTextEncode", text="a photo of a dog", clip=loader[1])[0],
        negative=graph.add("CLIPTextEncode", text="", clip=loader[1])[0],
        latent_image=graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)[0],
        seed=1,
        steps=steps,
        cfg=7.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    image = graph.add("VAEDecode", samples=sampled[0], vae=loader[2])
    return graph, graph.add("SaveImage", images=image[0], filename_prefix="harness")


def assert_is_a_picture(image):
    assert image.size == (64, 64)
    assert all(low < high for low, high in image.convert("RGB").getextrema()), "a blank image"


def test_small_checkpoint_samples_an_image(comfy, small_checkpoint):
    graph, save = sampling_graph("CheckpointLoaderSimple", ckpt_name=small_checkpoint.name)
    assert_is_a_picture(comfy.images(comfy.run(graph), save)[0])


def test_tiny_sd15_samples_an_image_and_says_so_on_the_websocket(comfy):
    graph, save = sampling_graph("TestTinySD15", steps=3, seed=0, width=64, text_layers=2)
    with comfy.listen() as listener:
        entry = comfy.run(graph)
        end = listener.wait_for("execution_success")
    assert_is_a_picture(comfy.images(entry, save)[0])
    assert end["prompt_id"] in entry["prompt"]
    assert [event["value"] for event in listener.of_type("progress") if event["max"] == 3][-1] == 3


def test_unknown_node_class_is_reported_as_rejected(comfy):
    graph, _ = sampling_graph("NoSuchNode")
    with pytest.raises(GraphRejected):
        comfy.queue(graph)


def test_failing_node_is_reported_with_its_message(comfy, comfy_server):
    (comfy_server.input / "broken.png").write_bytes(b"not a picture")
    graph = Graph()
    graph.add("PreviewImage", images=graph.add("LoadImage", image="broken.png")[0])
    with pytest.raises(ExecutionFailed) as failure:
        comfy.run(graph)
    assert failure.value.node_type == "LoadImage"
    assert failure.value.exception_message


def test_uploaded_image_comes_back_unchanged(comfy):
    picture = Image.radial_gradient("L").convert("RGB")
    graph = Graph()
    name = comfy.upload_image(picture, "gradient.png")
    preview = graph.add("PreviewImage", images=graph.add("LoadImage", image=name)[0])
    assert comfy.images(comfy.run(graph), preview)[0].tobytes() == picture.tobytes()


def test_interrupt_ends_a_running_graph(comfy):
    graph, _ = sampling_graph("TestTinySD15", steps=2000, seed=0, width=64, text_layers=2)
    with comfy.listen() as listener:
        prompt_id = comfy.queue(graph)
        listener.wait_for("progress")
        comfy.interrupt(prompt_id)
        with pytest.raises(Interrupted):
            comfy.wait(prompt_id)
