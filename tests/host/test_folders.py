"""Lists for the nodes' widgets, and the files and folders that their entries stand for."""

import os
import sys
from pathlib import Path

import folder_paths
import pytest

from attractor.nodes.errors import UserError
from attractor.nodes.host import folders


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """A user's ComfyUI with nothing in it yet."""
    known = {"embeddings": "embeddings", "loras": "loras"}
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    paths = {key: ([str(tmp_path / "models" / name)], {".safetensors"}) for key, name in known.items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", paths)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    for folder in ("models/neti", "models/embeddings", "models/loras", "output/neti", "input"):
        (tmp_path / folder).mkdir(parents=True)
    folders.register()
    return tmp_path


def put(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).touch()


def test_tokens_are_listed_from_three_places_and_found_again(base):
    put(base, "models/neti/a.safetensors", "models/neti/b.pt", "models/neti/notes.txt")
    put(base, "output/neti/run/run.safetensors", "models/embeddings/old/e.safetensors")
    listed = folders.token_files()
    assert listed[0] == folders.NEWEST
    assert set(listed[1:]) == {"a.safetensors", "b.pt", os.path.join("run", "run.safetensors"), "embeddings/old/e.safetensors"}
    for name, place in (
        ("a.safetensors", "models/neti/a.safetensors"),
        ("run/run.safetensors", "output/neti/run/run.safetensors"),
        ("embeddings/old/e.safetensors", "models/embeddings/old/e.safetensors"),
    ):
        assert Path(folders.token_path(name)) == base / place
    for name in ("c.safetensors", "embeddings/", "embeddings", "embeddings/a.safetensors", "", None, 7):
        with pytest.raises(UserError, match="is not in models/neti, output/neti or models/embeddings"):
            folders.token_path(name)


def test_a_file_of_models_neti_is_preferred_and_new_ones_go_there(base):
    put(base, "models/neti/x.safetensors", "output/neti/x.safetensors", "models/neti/embeddings/y.safetensors")
    assert Path(folders.token_path("x.safetensors")) == base / "models/neti/x.safetensors"
    assert folder_paths.get_folder_paths("neti")[0] == str(base / "models" / "neti")
    assert Path(folders.token_path("embeddings/y.safetensors")) == base / "models/neti/embeddings/y.safetensors"


def test_where_files_are_written(base):
    assert folders.output_folder() == base / "output" / "neti"
    assert folders.evaluations_folder() == base / "output" / "pdst"
    assert folders.embeddings_folder() == base / "models" / "embeddings"
    assert folders.loras_folder() == base / "models" / "loras"
    assert folders.new_dataset_path("mine") == base / "models" / "pdst" / "mine"
    assert folders.free_bytes(base / "not" / "there") > 0


@pytest.mark.parametrize("find", [folders.output_path, folders.evaluation_path, folders.new_dataset_path])
def test_a_link_that_leads_out_is_said(base, find):
    (base / "elsewhere").mkdir()
    for folder in ("output/neti", "output/pdst", "models/pdst"):
        (base / folder).mkdir(parents=True, exist_ok=True)
        (base / folder / "out").symlink_to(base / "elsewhere", target_is_directory=True)
    with pytest.raises(UserError, match="name 'out' leads out of the output folder: use a plain name"):
        find("out")


def test_reports(base):
    page = base / "output" / "pdst" / "a" / "b" / "report" / "report.html"
    with pytest.raises(UserError, match="There is no report of 'a/b' under output/pdst. Queue PDST Report"):
        folders.report_page("a/b")
    put(base, str(page.relative_to(base)), "private/report.html")
    assert folders.report_page("a/b") == page and folders.report_name(page) == "a/b"
    assert folders.report_name(base / "private" / "x" / "report" / "report.html") == ""
    (base / "output" / "pdst" / "c").mkdir()
    (base / "output" / "pdst" / "c" / "report").symlink_to(base / "private", target_is_directory=True)
    with pytest.raises(UserError, match="no report of 'c'"):
        folders.report_page("c")


def test_photo_folders(base):
    put(base, "input/top.png", "input/dog/1.png", "input/dog/notes.txt", "input/dog/inner/2.png", "input/3d/x.png")
    put(base, "input/__MACOSX/1.png", "input/dog/@eaDir/1.png")
    listed = folders.picture_folders()
    assert [listed[0], listed[-1]] == [folders.EXAMPLE, "."]
    assert set(listed[1:-1]) == {"dog", "dog/inner"}
    assert folders.pictures_in("dog") == [base / "input" / "dog" / "1.png"]
    assert folders.pictures_in(".") == [base / "input" / "top.png"]
    for folder in ("cat", "dog/1.png", "..", "/", None):
        with pytest.raises(UserError, match="folder: there is no folder .* under ComfyUI's input folder"):
            folders.pictures_in(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are text")
def test_names_in_bytes_that_are_no_utf8_are_not_listed(base):
    strange = os.fsdecode(b"caf\xe9")
    put(base, f"input/{strange}/1.png", f"models/pdst/{strange}/x", f"output/neti/{strange}/x-step-000001.safetensors")
    assert folders.picture_folders() == [folders.EXAMPLE, "."]
    assert folders.dataset_folders(lambda _: True) == [folders.EXAMPLE]
    assert folders.runs() == [folders.NEWEST]


def test_a_fingerprint_changes_with_the_files_and_always_where_there_are_none_to_see(base):
    put(base, "input/dog/1.png", "input/dog/2.png")

    def stamp(folder="dog"):
        return folders.stamps(lambda: folders.pictures_in(folder))

    before = stamp()
    assert stamp() == before
    os.utime(base / "input" / "dog" / "2.png", (1, 1))
    other = stamp()
    assert other != before
    (base / "input" / "dog" / "1.png").write_bytes(b"x")
    os.utime(base / "input" / "dog" / "1.png", (1, 1))
    assert stamp() not in (before, other)
    assert stamp("cat") != stamp("cat")


def test_data_sets(base):
    put(base, "models/pdst/pets/x", "models/pdst/notes/x", "input/pets/x", "input/things/x", "input/a.txt")
    pets = ["pets", "things"]
    listed = folders.dataset_folders(lambda path: path.name in pets)
    assert listed == [folders.EXAMPLE, "pdst/pets", "input/pets", "input/things"]
    assert folders.dataset_path("pdst/pets") == base / "models" / "pdst" / "pets"
    assert folders.dataset_path("input/pets") == base / "input" / "pets"
    more = base / "more"
    folder_paths.folder_names_and_paths["pdst"][0].append(str(more))  # as extra_model_paths.yaml does
    put(base, "more/pets/x", "more/zoo/x")
    pets += ["zoo"]
    assert folders.dataset_folders(lambda path: path.name in pets) == [
        *(folders.EXAMPLE, "pdst/pets", "pdst/zoo", "input/pets", "input/things")
    ]
    assert folders.dataset_path("pdst/pets") == base / "models" / "pdst" / "pets", "the first is shown, and taken"
    assert folders.new_dataset_path("new") == base / "models" / "pdst" / "new"


def test_checkpoints_of_a_run(base):
    put(base, "output/neti/x/x-step-000010.safetensors", "output/neti/x/x-step-000002.safetensors", "output/neti/x/chart.png")
    assert [path.name for path in folders.checkpoint_files("x")] == ["x-step-000002.safetensors", "x-step-000010.safetensors"]
    assert folders.runs() == [folders.NEWEST, "x"]
    with pytest.raises(UserError, match="run: there is no run 'y' in output/neti. Train it first"):
        folders.checkpoint_files("y")
    with pytest.raises(UserError, match="run '../x' cannot be a file name"):
        folders.checkpoint_files("../x")
