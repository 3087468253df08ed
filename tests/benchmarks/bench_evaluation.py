"""How much of an evaluation's time is not sampling; `dev.py bench evaluation [--images 5] [--setting NAME=VALUE ...]`.

SD1.5, CLIP ViT-B/32 and DINO ViT-S/16 of their real sizes with random weights (time does not depend on them), through the
real server at the nodes' default settings, for a NeTI token and the unlearned floor. Budget (DESIGN section 10): 5 %.
Sampling is everything until the image is there, the VAE's decoding included. The rest is what a clock around the node says
more: scores, files, hashes of models, photos that are encoded once. On a CPU fewer sampling steps do (`--setting steps=3`): the
share that is printed is then above that of the default.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
BUDGET = 0.05


def write_encoders(folder: Path) -> None:
    """CLIP ViT-B/32 and DINO ViT-S/16 of the real sizes, unless they are there."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, ViTConfig, ViTModel

    from small_encoders import write_tokenizer

    clip, dino = folder / "clip-vit-base-patch32", folder / "dino-vits16"
    if not (clip / "config.json").exists():
        clip.mkdir(parents=True, exist_ok=True)
        size = write_tokenizer(clip)
        marks = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
        CLIPModel(CLIPConfig(text_config=marks)).save_pretrained(clip)  # the defaults are ViT-B/32's
        AutoTokenizer.from_pretrained(clip).save_pretrained(clip)
    if not (dino / "config.json").exists():
        sizes = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
        ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(dino)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5, help="images of the one caption")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of PDST Evaluate or its options")
    arguments = parser.parse_args()

    import shutil

    import torch
    from graphs import add_evaluation

    from comfy_client import ComfyClient, Graph
    from comfy_server import ComfyServer
    from pdst_set import write_subject

    spec = importlib.util.spec_from_file_location("attractor", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["attractor"] = importlib.util.module_from_spec(spec)  # the trainer's part of it, without the host
    from attractor.trainer.concept import PersonalizedToken
    from attractor.trainer.mapper import NeTIMapper
    from attractor.trainer.token_file import save_token

    base = ROOT / ".dev" / "bench"
    write_encoders(base / "models" / "evaluation")
    for old in (base / "models" / "pdst", base / "output" / "pdst"):
        shutil.rmtree(old, ignore_errors=True)
    write_subject(base / "models" / "pdst" / "bench", "cat", test=1, captions=1)
    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "support" / "test_nodes"}
    options = [] if torch.accelerator.is_available() else ["--cpu"]
    with ComfyServer(os.environ["COMFYUI_PATH"], base, packs, options=options) as server:
        comfy = ComfyClient(server.url)
        save_token(
            PersonalizedToken("<bench>", "cat", "neti", 768, NeTIMapper(768, norm_scale=0.4, seed=0)),
            base / "output" / "neti" / "bench.safetensors",
        )
        defaults = {
            name: value[1]["default"]
            for name, value in comfy.object_info()["AttractorPDSTEvaluate"]["input"]["required"].items()
            if len(value) > 1 and "default" in value[1]
        }

        def evaluate(name, **settings):
            """Seconds that the server took, and the node's text."""
            graph = Graph()
            loader = graph.add("TestFullSizeSD15")
            dataset = graph.add("AttractorLoadPDST", folder="pdst/bench", subjects="all", captions_per_photo=1)
            encoders = graph.add(
                "AttractorLoadEvaluationEncoders",
                clip="evaluation/clip-vit-base-patch32",
                dino="evaluation/dino-vits16",
                download_if_missing=False,
            )
            token = graph.add("AttractorLoadNeTIMapper", file="bench.safetensors")
            node = add_evaluation(
                graph,
                model=loader[0],
                clip=loader[1],
                vae=loader[2],
                dataset=dataset[0],
                encoders=encoders[0],
                tokens=token[0],
                **{**defaults, "name": name, **settings},
            )
            entry = comfy.run(graph, timeout=6 * 3600)
            stamps = {kind: message["timestamp"] for kind, message in entry["status"]["messages"]}
            return (stamps["execution_success"] - stamps["execution_start"]) / 1000, entry["outputs"][node.id]["text"]

        evaluate("loading", images_per_caption=1, steps=1, include_floor=False)  # from here on the loaders are cached
        seconds, text = evaluate(
            "bench", images_per_caption=arguments.images, **dict(setting.split("=", 1) for setting in arguments.setting)
        )
    print(*text, sep="\n")
    return report(base / "output" / "pdst" / "bench", seconds)


def report(folder: Path, seconds: float) -> int:
    """Print sampling against the rest; 1 where the budget is exceeded. seconds: of all together."""
    import json

    records = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    sampling, other = (sum(record[key] for record in records) for key in ("seconds_sampling", "seconds_other"))
    share, each = (seconds - sampling) / seconds, len(records)
    print(
        f"{each} images in {seconds:.1f} s: {sampling / each:.2f} s an image for sampling; {other / each:.3f} s an image and "
        f"{seconds - sampling - other:.1f} s once for everything else: {share:.2%} (budget {BUDGET:.0%})"
    )
    return int(share > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
