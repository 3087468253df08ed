"""One evaluation: checks what is on disk, continues from there, and saves every batch as soon as it is made."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..host.folders import below
from ..host.memory import is_out_of_memory
from ..host.progress import Progress
from ..host.sampling import MakeImages
from ..pictures import BadPicture, beside, opened, to_picture
from .encoders import EvaluationEncoders
from .entries import Entry
from .header import differs, header_differences, make_header, read_header, subject_identity
from .image_files import keep_photos, photo_copy, pixels_hash, save_image
from .metrics import References, mean_scores, references, score
from .pdst import SLOT, Subject
from .plan import Shot, make_batches, make_plan, prompt_for, shard_of
from .preprocessing import in_8_bits
from .results import ResultsFile, file_name, read_records, writing

PREVIEW_SECONDS = 2.0
_SAMPLES = 12


@dataclass(frozen=True)
class Setup:
    """What holds for every entry of an evaluation.

    settings: what the user set and the results depend on, as the header has it (`options.recorded`). models: hashes by name.
    shard: 1 is the first of `shards`. made_with: versions and device, which the header tells.
    """

    settings: dict
    models: dict[str, str]
    shard: int = 1
    shards: int = 1
    save_images: bool = True
    start_over: bool = False
    made_with: dict[str, str] = field(default_factory=dict)


@dataclass
class _Part:
    """An entry, its file in this shard, and its records so far."""

    entry: Entry
    file: ResultsFile
    records: list[dict] = field(default_factory=list)


class Evaluation:
    """Entries evaluated in one folder, `output/pdst/<name>`."""

    def __init__(
        self,
        folder: Path,
        entries: list[Entry],
        encoders: EvaluationEncoders | None,
        setup: Setup,
        make_maker: Callable[[Entry], MakeImages],
        keep: Callable[[dict], bool] = lambda record: True,
    ):
        """encoders None: no scores. make_maker(entry): returns what makes images from prompts and seeds.

        keep(record): whether an image of earlier is still the one that would be made now.
        """
        self.folder, self.setup, self._encoders, self._make_maker, self._keep = folder, setup, encoders, make_maker, keep
        self._references: dict[str, References] = {}
        self._subjects = {entry.subject.name: entry.subject for entry in entries}
        self._hashes = {name: subject_identity(subject) for name, subject in self._subjects.items()}
        together = [entry.label for entry in entries]
        self._parts = [self._part(entry, together) for entry in entries]
        self._carried = 0.0  # seconds spent on the last batch after its record was written
        self._first: dict[str, Image.Image] = {}

    def _part(self, entry: Entry, together: list[str]) -> _Part:
        setup = self.setup
        shots = make_plan((entry.subject,), setup.settings["images_per_caption"], setup.settings["seed"])
        batches = shard_of(make_batches(shots, setup.settings.get("batch_size", 1)), setup.shard, setup.shards)
        header = make_header(
            self.folder.name,
            entry,
            setup.settings,
            {**setup.models, **self._hashes[entry.subject.name]},
            self._encoders,
            (setup.shard, setup.shards),
            len(shots),
            together,
            setup.made_with,
        )
        path = self.folder / file_name(entry.label, setup.shard, setup.shards)
        return _Part(entry, ResultsFile(path, header, batches))

    # -- before any work -------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare with everything in the folder; with `start_over`, delete what does not match.

        Raises:
            UserError: what does not match, and the remedy.
        """
        own = {part.file.path: part for part in self._parts}
        problems = []
        for path in sorted(self.folder.glob("*.jsonl")) if self.folder.is_dir() else []:
            if self.setup.start_over and path in own:
                path.unlink()
                continue
            header = read_header(path)
            if header is None or not read_records(path)[0]:
                continue
            differences = self._differences(header, own.get(path))
            if differences and self.setup.start_over:
                path.unlink()
            elif differences:
                problems.append(differs(path, differences))
        if problems:
            raise UserError("\n".join(problems))

    def _differences(self, header: dict, own: _Part | None) -> list[str]:
        """Why an existing file does not belong to this evaluation."""
        if own is not None:
            return header_differences(header, own.file.header)
        found = []
        for part in self._parts:
            new = part.file.header
            if header["entry"] == new["entry"]:
                if header["shard"][1] != new["shard"][1]:
                    found.append(f"shards was {header['shard'][1]}, is {new['shard'][1]}")
                found += header_differences(header, new)
            else:
                found += header_differences(header, new, alone=False)
        return list(dict.fromkeys(found))

    def open(self, progress: Progress) -> None:
        """Read existing results, and encode the photos that images are compared with.

        Raises:
            Interrupted: the user cancelled.
            UserError: as `ResultsFile.open`.
        """
        with writing(self.folder.name):
            self.folder.mkdir(parents=True, exist_ok=True)
        for part in self._parts:
            subject = part.entry.subject

            def begin(header: dict, subject: Subject = subject) -> None:
                progress.text(f"reading the photos of {subject.name}")
                progress.update(self.done)
                keep_photos(self.folder, subject)
                header["ceiling"][subject.name] = self._real(subject, self._encoders).ceiling if self._encoders else {}

            part.records = part.file.open(begin, self._keep)
            keep_photos(self.folder, subject, missing=True)  # for example of shards that were merged without them

    def _real(self, subject: Subject, encoders: EvaluationEncoders) -> References:
        if subject.name not in self._references:
            self._references[subject.name] = references(subject, encoders)
        return self._references[subject.name]

    # -- the work --------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Images of this shard, the finished ones included."""
        return self.done + sum(len(batch) for part in self._parts for batch in part.file.left)

    @property
    def done(self) -> int:
        return sum(len(part.records) for part in self._parts)

    def run(self, progress: Progress) -> None:
        """Make the missing images.

        Raises:
            Interrupted: the user cancelled; every batch so far is on disk.
            UserError: a file could not be written, memory ran out, or an image contains NaN.
        """
        total, before, started, last_preview = self.total, self.done, time.monotonic(), 0.0
        progress.update(before)
        for number, part in enumerate(self._parts, 1):
            if not part.file.left:
                continue
            maker = self._make_maker(part.entry)
            for batch in part.file.left:
                images = self._batch(part, maker, batch)
                left = time.monotonic()
                pace = (self.done - before) / (left - started)
                preview = None
                if left - last_preview > PREVIEW_SECONDS or self.done == total:
                    last_preview = left
                    preview = self._preview(part.entry.subject, batch[-1], to_picture(images[-1:]))
                progress.text(self._status(number, part, total, pace))
                progress.update(self.done, preview)
                self._carried += time.monotonic() - left

    def _batch(self, part: _Part, maker: MakeImages, batch: list[Shot]) -> Tensor:
        """Sample, score and write one batch; its images."""
        started = time.monotonic()
        subject = part.entry.subject
        prompts = [prompt_for(shot.text, part.entry.name_in_prompt) for shot in batch]
        images = _sample(maker, prompts, [shot.seed for shot in batch], part.entry.label)
        own_graph = part.entry.made_by is not None
        sampled = started if own_graph else time.monotonic()
        scores = self._scores(images, batch, subject)
        files = self._save(images, batch, part.entry) if self.setup.save_images else [None] * len(batch)
        spent = time.monotonic() - sampled + self._carried
        records = [
            {
                "number": shot.number,
                "subject": shot.subject,
                "photo": subject.test[shot.photo].path.name,
                "caption": shot.caption,
                "text": shot.text,
                "prompt": prompt,
                "index": shot.index,
                "seed": shot.seed,
                "scores": {name: values[i] for name, values in scores.items()},
                "image": files[i],
                "seconds_sampling": round((sampled - started) / len(batch), 4),
                "seconds_other": round(spent / len(batch), 4),
                **({"pixels": pixels_hash(images[i])} if own_graph else {}),
            }
            for i, (shot, prompt) in enumerate(zip(batch, prompts, strict=True))
        ]
        wrote = time.monotonic()
        part.file.add(records)
        part.records += records
        self._first.setdefault(part.entry.label, to_picture(images[:1]))
        self._carried = time.monotonic() - wrote
        return images

    def _scores(self, images: Tensor, batch: list[Shot], subject: Subject) -> dict[str, list[float]]:
        if self._encoders is None:
            return {}
        plain = [shot.text.replace(SLOT, subject.super_category) for shot in batch]
        return score(images, plain, self._real(subject, self._encoders), [shot.photo for shot in batch], self._encoders)

    def _save(self, images: Tensor, batch: list[Shot], entry: Entry) -> list[str]:
        pairs = zip(images, batch, strict=True)
        return [save_image(self.folder, image, entry.label, entry.subject, shot) for image, shot in pairs]

    # -- what is shown ---------------------------------------------------------------------------------

    def _status(self, number: int, part: _Part, total: int, pace: float) -> str:
        left = int((total - self.done) / pace) if pace else 0
        means = " · ".join(f"{name} {value:.3f}" for name, value in _means(part.records).items())
        return (
            f"{part.entry.label} ({number} of {len(self._parts)}) · image {self.done} of {total}"
            + (f" · {means}" if means else "")
            + f" · {pace:.2f} images/s · {left // 60}:{left % 60:02d} left"
        )

    def _preview(self, subject: Subject, shot: Shot, image: Image.Image) -> Image.Image:
        """The image beside the photo whose caption it was made of; alone, if somebody has damaged the copy of that."""
        try:
            return beside(photo_copy(self.folder, subject, shot), image)
        except BadPicture:
            return image

    def summary(self) -> str:
        """A line for each entry: images and mean scores."""
        shard = f", shard {self.setup.shard} of {self.setup.shards}" if self.setup.shards > 1 else ""
        lines = [f"{self.folder.name}{shard}"]
        for part in self._parts:
            means = ", ".join(f"{name} {value:.4f}" for name, value in _means(part.records).items())
            lines.append(f"{part.entry.label}: {len(part.records)} images" + (f"; {means}" if means else ""))
        spent = [
            sum(record[key] for part in self._parts for record in part.records) for key in ("seconds_sampling", "seconds_other")
        ]
        if spent[0]:
            lines.append(f"time: {sum(spent):.0f} s, {spent[1] / sum(spent):.1%} of it spent on anything but sampling")
        return "\n".join(lines)

    def samples(self) -> list[Image.Image]:
        """The first image of each entry, a dozen at most; a resumed entry that saved no images has none."""
        found = []
        for part in self._parts[:_SAMPLES]:
            saved = next((below(self.folder, record["image"]) for record in part.records if record["image"]), None)
            if part.entry.label in self._first:
                found.append(self._first[part.entry.label])
            elif saved is not None and os.path.exists(saved):
                with suppress(BadPicture), opened(saved) as file:
                    found.append(file.convert("RGB"))
        return found


def _sample(maker: MakeImages, prompts: list[str], seeds: list[int], label: str) -> Tensor:
    """Images (n, H, W, 3) in steps of 1/255: what is scored is what is saved."""
    try:
        images = maker(prompts, seeds)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"batch_size: there is not enough memory for {len(prompts)} images at once. Lower batch_size on PDST Evaluate "
            "Options, and if some images are already there, use another name: images of another batch size differ slightly."
        ) from error
    return in_8_bits(images, label)


def _means(records: list[dict]) -> dict[str, float]:
    return mean_scores([record["scores"] for record in records])
