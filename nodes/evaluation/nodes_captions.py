"""Make PDST Captions: drafts for the held-out photos."""

from pathlib import Path

from comfy_api.latest import io

from ...trainer.reading import BadFile
from ..errors import UserError
from ..host import folders
from ..host.progress import Progress, said
from ..link_types import Florence2Type
from .captions import Captioner, from_florence, from_texts, photos_to_caption, stamp, words_of, write_drafts
from .nodes_dataset import CATEGORY, folder_input, known_folder
from .pdst import brief, pictures, subject_folder


class MakePDSTCaptions(io.ComfyNode):
    """Drafts the captions of a subject's test photos, to be edited by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AttractorMakePDSTCaptions",
            display_name="Make PDST Captions",
            category=CATEGORY,
            description="Writes a text file of captions for each held-out photo, with {} in place of the subject, and lists "
            "the captions to check. Edit the files by hand: edited files are not overwritten unless you ask for it.",
            search_aliases=["caption", "describe photos", "florence2 caption"],
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                folder_input(to_write=True),
                io.String.Input("subject", default="my-dog", tooltip="The subject's folder in the data set."),
                io.String.Input(
                    "subject_words",
                    default="dog, puppy",
                    tooltip="Words that captions use for the subject, separated by commas; they become {}. Florence-2 may "
                    "call the same dog dog, puppy or animal: list them all.",
                ),
                io.Int.Input(
                    "captions_per_photo",
                    default=10,
                    min=1,
                    max=30,
                    tooltip="How many captions Florence-2 drafts (paper: 10). It may find fewer different ones: write the "
                    "rest by hand.",
                ),
                io.Boolean.Input(
                    "replace_edited",
                    default=False,
                    tooltip="Also overwrite caption files that were written or changed by hand.",
                ),
                Florence2Type.Input("florence2", optional=True, tooltip="From Load Florence-2. Not needed if texts is wired."),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="Captions from another source, in the order of the photos' names: a list with one text per photo, "
                    "or one text with a blank line between photos. One caption per line.",
                ),
            ],
            outputs=[
                io.String.Output("captions", tooltip="All captions as they are now in the files."),
                io.String.Output("to_check", tooltip="What to check, one line each; empty if there is nothing."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | list[str]) -> bool | str:
        return known_folder(_one(folder), to_write=True)

    @classmethod
    def fingerprint_inputs(cls, folder: str | list[str], subject: str | list[str], **_: object) -> str:
        photos: list[Path] = []

        def found() -> list[Path]:
            test = subject_folder(folders.dataset_path(_one(folder)), _one(subject).strip()) / "test"
            photos.extend(pictures(test) if test.is_dir() else [])
            return photos

        return repr((folders.stamps(found), [stamp(photo) for photo in photos]))

    @classmethod
    def execute(
        cls,
        folder: list[str],
        subject: list[str],
        subject_words: list[str],
        captions_per_photo: list[int],
        replace_edited: list[bool],
        florence2: list[Captioner | None] | None = None,
        texts: list[str] | None = None,
    ) -> io.NodeOutput:
        root, name, count = folders.dataset_path(folder[0], to_write=True), subject[0].strip(), captions_per_photo[0]
        words = words_of(subject_words[0])
        photos = photos_to_caption(root, name)
        progress = Progress(len(photos), cls.hidden.unique_id)
        try:
            if texts is not None:
                drafts = from_texts(texts, photos)
            else:
                drafts = from_florence(florence2, photos, count, replace_edited[0], progress)
            done = write_drafts(root / name, photos, drafts, words, replace_edited[0])
        except BadFile as error:
            raise UserError(f"subject: {name}/test/{error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"folder: captions in {folder[0]}/{name} could not be read or written ({brief(error)}). Free some space, or "
                "save the files as UTF-8 text."
            ) from error
        progress.update(len(photos))
        captions = "\n\n".join("\n".join([draft.photo.name, *draft.captions]) for draft in done)
        to_check = "\n".join(flag for draft in done for flag in draft.flags)
        kept = [draft.photo.name for draft in done if draft.kept]
        shown = [f"{len(done) - len(kept)} caption files written" + (f", {len(kept)} edited by hand and kept" if kept else "")]
        fewer = [f"{draft.photo.name} has {len(draft.captions)}" for draft in done if len(draft.captions) < count]
        if fewer:
            shown.append(f"fewer than {count} captions: {', '.join(fewer)}")
        return io.NodeOutput(captions, to_check, ui=said("\n".join([*shown, *filter(None, [to_check])])))


def _one(value: str | list[str]) -> str:
    """An input that comes as a list where the node runs, and by itself where it is checked; "" if it is wired."""
    return value if isinstance(value, str) else (value or [""])[0] or ""
