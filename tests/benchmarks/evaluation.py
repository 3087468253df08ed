"""How much of an evaluation's time is not sampling; `dev.py bench evaluation [--images 5] [--setting NAME=VALUE ...]`.

SD1.5, CLIP ViT-B/32 and DINO ViT-S/16 of their real sizes with random weights (time does not depend on them), through the
real server at the node's default settings. Budget (DESIGN section 10): 5 %. Sampling is everything until the image is
there, the VAE's decoding included; the rest is scores, files and bookkeeping.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]
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
    parser.add_argument("--images", type=int, default=5, help="images a caption, of two captions")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of PDST Evaluate")
    arguments = parser.parse_args()

    import shutil

    import torch

    from comfy_client import ComfyClient, Graph
    from comfy_server import ComfyServer
    from pdst_set import write_subject

    base = ROOT / ".dev" / "bench"
    write_encoders(base / "models" / "evaluation")
    for old in (base / "models" / "pdst", base / "output" / "pdst"):
        shutil.rmtree(old, ignore_errors=True)
    write_subject(base / "models" / "pdst" / "bench", "cat", test=1, captions=2)
    packs = {"attractor": ROOT, "attractor_test_nodes": ROOT / "tests" / "test_nodes"}
    options = [] if torch.accelerator.is_available() else ["--cpu"]
    with ComfyServer(os.environ["COMFYUI_PATH"], base, packs, options=options) as server:
        comfy, graph = ComfyClient(server.url), Graph()
        loader = graph.add("TestFullSizeSD15")
        dataset = graph.add("AttractorLoadPDST", folder="pdst/bench", subjects="all", captions_per_photo=2)
        encoders = graph.add("AttractorLoadEvaluationEncoders", clip="evaluation/clip-vit-base-patch32",
                             dino="evaluation/dino-vits16", download_if_missing=False)
        settings = {name: value[1]["default"] for name, value in
                    comfy.object_info()["AttractorPDSTEvaluate"]["input"]["required"].items()
                    if len(value) > 1 and "default" in value[1]}
        settings |= {"name": "bench", "images_per_caption": arguments.images, "include_floor": True}
        settings |= dict(setting.split("=", 1) for setting in arguments.setting)
        node = graph.add("AttractorPDSTEvaluate", model=loader[0], clip=loader[1], vae=loader[2], dataset=dataset[0],
                         encoders=encoders[0], **settings)
        entry = comfy.run(graph, timeout=6 * 3600)
    print(*entry["outputs"][node.id]["text"], sep="\n")
    return report(base / "output" / "pdst" / "bench")


def report(folder: Path) -> int:
    """Print sampling against the rest, an image and in all; 1 where the budget is exceeded."""
    import json

    records = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    sampling, other = (sum(record[key] for record in records) / len(records) for key in ("seconds_sampling", "seconds_other"))
    share = other / (sampling + other)
    print(f"{len(records)} images: {sampling:.2f} s an image for sampling, {other:.3f} s for everything else: {share:.2%} "
          f"(budget {BUDGET:.0%})")
    return int(share > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
