"""The read-only routes: what they tell of a run and of a report, to the panel and to anyone, and what they do not tell."""

import json
import re
import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from graphs import add_photos, add_tiny, add_training

from comfy_client import Graph, Interrupted

pytestmark = pytest.mark.one_host


@pytest.fixture(scope="module")
def runs(comfy_server):
    folder = comfy_server.output / "neti"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ask(comfy, name, route="run"):
    return json.loads(comfy.request(f"/attractor/{route}?name={quote(name)}"))


def refused(comfy, name, route="run"):
    with pytest.raises(urllib.error.HTTPError) as failed:
        comfy.request(f"/attractor/{route}?name={quote(name)}")
    return failed.value.code, failed.value.read().decode()


HOSTILE = [
    *("", " ", "..", "../neti/mine", "a/../../..", "/etc", "C:\\Windows", "a\\..\\b", "a\0b", "%2e%2e/x", "~root", "a//b"),
]


@pytest.mark.parametrize("route", ["run", "report"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_elsewhere_is_refused_without_a_word_of_what_is_there(comfy, comfy_server, route, name):
    code, said = refused(comfy, name, route)
    assert code in (400, 404) and str(comfy_server.base) not in said and "Traceback" not in said


def test_links_out_of_the_output_folder_are_not_followed(comfy, comfy_server, runs):
    secret = comfy_server.base / "secret"
    (secret / "samples").mkdir(parents=True)
    (secret / "report").mkdir()
    (secret / "report" / "report.html").write_text("secret")
    (secret / "curves.json").write_text('{"subject": [4242.0]}')
    (runs / "linked").symlink_to(secret)
    assert refused(comfy, "linked")[0] == 400
    evaluations = comfy_server.output / "pdst"
    evaluations.mkdir(exist_ok=True)
    (evaluations / "linked").symlink_to(secret)
    (evaluations / "part").mkdir()
    (evaluations / "part" / "report").symlink_to(secret / "report")
    assert refused(comfy, "linked", "report")[0] == refused(comfy, "part", "report")[0] == 404
    (runs / "files").mkdir()
    for name in ("curves.json", "samples"):
        (runs / "files" / name).symlink_to(secret / name)
    assert "4242" not in json.dumps(ask(comfy, "files"))


def test_a_run_that_is_not_there_is_none_and_nothing_is_made(comfy, runs):
    assert ask(comfy, "nowhere")["state"] == "none" and not (runs / "nowhere").exists()


FAULTY = {
    "text": "not JSON",
    "list": "[1, 2]",
    "types": '{"state": 1, "text": [], "step": "x"}',
    "endless": '{"state": "done", "text": "' + "x" * 5000 + '", "step": 1, "steps": 1, "kept": 1}',
    "path": '{"state": "done", "text": "", "step": 1, "steps": 1, "kept": 1, "photo": {"file": "../../x.png", "label": ""}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_damaged_record_is_as_good_as_none(comfy, runs, kind):
    folder = runs / f"faulty-{kind}"
    folder.mkdir()
    for name in ("run.json", "curves.json", "scores.json"):
        (folder / name).write_text(FAULTY[kind])
    found = ask(comfy, folder.name)
    assert (found["state"], found["curves"], found["scores"], found["samples"]) == ("none", {}, [], [])


def test_curves_of_any_length_come_as_few_points_that_end_with_the_last(comfy, runs):
    folder = runs / "long"
    folder.mkdir()
    (folder / "run.json").write_text(
        '{"state": "done", "text": "t", "step": 90000, "steps": 90000, "kept": 90000, "other": "not sent"}'
    )
    (folder / "curves.json").write_text(json.dumps({"subject": [1.0] * 90_000, "fixed": [float("nan"), *range(1, 90_000)]}))
    raw = comfy.request("/attractor/run?name=long")
    found = json.loads(raw, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert len(raw) < 50_000 and "other" not in found
    assert found["curves"]["fixed"][-1] == [90_000, 89_999.0] and all(
        2 < len(curve) < 500 for curve in found["curves"].values()
    )


def test_a_run_that_was_killed_is_stopped_and_says_what_is_kept(comfy, runs):
    folder = runs / "killed-run"
    folder.mkdir()
    (folder / "run.json").write_text('{"state": "training", "text": "Step 7", "step": 7, "steps": 20, "kept": 5}')
    (folder / ".lock").touch()  # what a dead process leaves
    found = ask(comfy, "killed-run")
    assert found["state"] == "stopped" and "Step 5 of 20 is kept: queue again to go on" in found["text"]


def test_a_cancelled_run_says_what_is_kept_to_the_node_to_pages_and_later(comfy, runs):
    def graph(steps):
        made = Graph()
        images, masks = add_photos(made, comfy, count=2)
        inputs = {"steps": steps, "method": "textual_inversion+", "resume": True, "prompts_per_step": "one", "sample_steps": 1}
        add_training(made, add_tiny(made), images, masks, name="told", sample_every=2, **inputs)
        return made

    with comfy.listen() as listener:
        prompt = comfy.queue(graph(400))
        listener.wait_for("attractor.run", lambda record: record["name"] == "told" and record["step"] >= 3, timeout=300)
        live = ask(comfy, "told")
        assert (
            live["state"] in ("training", "sampling")
            and len(live["curves"]["contrast_weight"]) >= 3
            and live["seconds_left"] > 0
        )
        comfy.interrupt(prompt)
        with pytest.raises(Interrupted):
            comfy.wait(prompt)
        told = listener.of_type("attractor.run")[-1]
        lines = [message["text"] for message in listener.of_type("text")]
    kept = ask(comfy, "told")
    sentence = f"Cancelled at step {kept['step']} of 400. Kept in output/neti/told: queue again to go on."
    assert (told["state"], told["text"]) == (kept["state"], kept["text"]) == ("cancelled", sentence) and lines[-1] == sentence
    assert kept["samples"][0]["step"] == 2 and kept["photo"]["label"] == "training photo"
    assert {record["state"] for record in listener.of_type("attractor.run")} == {
        "preparing",
        "training",
        "sampling",
        "cancelled",
    }
    with comfy.listen() as listener:
        entry = comfy.run(graph(kept["step"] + 1), timeout=300)
        lines = [message["text"] for message in listener.of_type("text")]
    assert any(f"resumed at step {kept['step']}" in line for line in lines)
    (output,) = [output["text"] for output in entry["outputs"].values() if "text" in output]
    done = ask(comfy, "told")
    assert (done["state"], [done["text"]]) == ("done", output) and "output/neti/told/told.safetensors" in done["text"]


def test_a_report_is_shown_but_runs_nothing(comfy, comfy_server):
    page = comfy_server.output / "pdst" / "planted" / "report" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<script>alert(1)</script>")
    with urllib.request.urlopen(f"{comfy.url}/attractor/report?name=planted") as answer:
        headers, body = answer.headers, answer.read().decode()
    assert headers["Content-Type"].startswith("text/html") and "Content-Disposition" not in headers
    # The tests start the host with --disable-api-nodes, which puts its own rule in place of ours in the headers.
    rule = re.search(
        r'^<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="([^"]*)">', body
    )
    assert "default-src 'none'" in rule[1] and "script-src" not in rule[1]
