"""The toy world's model in the real host: the pack trains on it."""

from graphs import add_photos, add_training

from comfy_client import Graph


def test_the_pack_trains_on_it(comfy, comfy_server):
    graph = Graph()
    images, masks = add_photos(graph, comfy, count=2)
    add_training(graph, graph.add("TestToyWorld"), images, masks, name="on-the-toy-world", super_category="monster", steps=2)
    comfy.run(graph, timeout=300)
    assert (comfy_server.output / "neti" / "on-the-toy-world" / "on-the-toy-world.safetensors").exists()
