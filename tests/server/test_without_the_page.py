"""What the README says of running without the page: its lines work as they stand. And the host serves the translations."""

import json
import re
import subprocess
import time
import urllib.request

from photographs import cat_photos

from comfy_client import Graph
from source_files import ROOT

ADDRESS = "http://127.0.0.1:8188"


def line(part):
    """The README's line for a shell of Linux that has this part."""
    lines = re.findall(r"^    (curl .+)$|^\| Linux, macOS \| `(.+)` \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    return next(filter(lambda found: part in found, ("".join(found) for found in lines)))


def shell(command, comfy, folder):
    command = command.replace(ADDRESS, comfy.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_the_lines_of_the_readme_upload_run_ask_and_fetch(comfy, tmp_path):
    (photo, _), *_ = cat_photos(1, 64)
    photo.save(tmp_path / "photo-1.jpg")
    answer = json.loads(shell(line("/upload/image").replace("my-dog", "readme-photos"), comfy, tmp_path))
    assert answer["subfolder"] == "readme-photos"
    graph = Graph()
    images = graph.add("AttractorLoadSubjectImages", folder="readme-photos", alpha="ignored", unreadable_files="stop")
    graph.add("SaveImage", images=images[0], filename_prefix="readme/picture")
    (tmp_path / "workflows" / "api").mkdir(parents=True)
    (tmp_path / "workflows" / "api" / "1_train_textual_inversion.json").write_text(json.dumps(graph.prompt))
    prompt = json.loads(shell(line("/prompt"), comfy, tmp_path))["prompt_id"]
    ask, until = line("/history/").replace("PROMPT_ID", prompt), time.monotonic() + 60
    while not (history := json.loads(shell(ask, comfy, tmp_path))):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert history[prompt]["status"]["status_str"] == "success"
    said = [text for output in history[prompt]["outputs"].values() for text in output.get("text", [])]
    assert any("photo-1.jpg" in text for text in said)
    (picture,) = (found for output in history[prompt]["outputs"].values() for found in output.get("images", []))
    fetch = line("/view?").replace("NAME", picture["filename"]).replace("FOLDER", picture["subfolder"])
    shell(fetch, comfy, tmp_path)
    assert (tmp_path / "image.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(shell(line("/attractor/run"), comfy, tmp_path))["name"] == "my-monster"


def test_the_host_serves_every_language(comfy):
    with urllib.request.urlopen(f"{comfy.url}/i18n") as answer:
        served = json.load(answer)
    for language in ("en", "zh"):
        for file in ("nodeDefs", "main"):
            ours = json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))
            there = served[language]["nodeDefs"] if file == "nodeDefs" else served[language]
            assert ours and all(there[key] == ours[key] for key in ours)
