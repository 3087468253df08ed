"""What is evaluated (tokens, checkpoints of a token, the floor), and on which subject."""

import hashlib
import json
import re
from dataclasses import dataclass

from ...trainer.concept import PersonalizedToken
from .pdst import Dataset, Subject

FLOOR = "floor"


@dataclass(frozen=True, eq=False)
class Entry:
    """A token, or with token None the floor: the super-category's plain word. label: also its file's name."""

    label: str
    token: PersonalizedToken | None
    subject: Subject
    identity: str = ""

    @property
    def step(self) -> int | None:
        step = self.token and self.token.record.get("step")
        return step if isinstance(step, int) else None

    @property
    def name_in_prompt(self) -> str:
        return self.token.placeholder if self.token else self.subject.super_category

    def describe(self) -> dict | None:
        """The token for a results file's header; None for the floor."""
        if self.token is None:
            return None
        token = self.token
        return {
            "placeholder": token.placeholder,
            "super_category": token.super_category,
            "kind": token.kind,
            "method": method_of(token),
            "width": token.width,
            "run": run_of(token),
            "schedule": schedule_of(token),
        }


def method_of(token: PersonalizedToken) -> str:
    """The method the token was trained with; if its file does not say, its kind."""
    settings = token.record.get("settings")
    return settings.get("method", token.kind) if isinstance(settings, dict) else token.kind


def schedule_of(token: PersonalizedToken) -> str | None:
    """How the contrast's weight grew in the training; None without attractors, or if the token's file does not say."""
    settings = token.record.get("settings")
    schedule = settings.get("contrast_schedule") if isinstance(settings, dict) and method_of(token).endswith("+") else None
    return schedule if isinstance(schedule, str) else None


def run_of(token: PersonalizedToken) -> str | None:
    """A hash that all checkpoints of one training run share; None if the token's file does not say."""
    settings, inputs = (token.record.get(name) for name in ("settings", "identity"))
    if not isinstance(settings, dict):
        return None
    same = {name: value for name, value in settings.items() if name != "steps"}  # a training may be extended
    text = json.dumps([same, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def make_entries(
    tokens: list[PersonalizedToken],
    identities: list[str],
    dataset: Dataset,
    pairs: str,
    labels: str,
    floor: bool,
    known: frozenset[tuple[str, str]] = frozenset(),
) -> tuple[list[Entry], list[str]]:
    """Entries in the order of the tokens, then the floors of their subjects; and what is wrong with the inputs.

    identities: of the tokens. pairs: lines `<placeholder> = subject`. labels: one line per token, or "".
    known: label and identity of the tokens that this evaluation already has; they keep their labels.
    """
    paired, problems = pair(tokens, dataset, pairs)
    names, wrong = _labels(tokens, identities, labels, known)
    problems += wrong
    if not tokens and not floor:
        problems.append(
            "tokens: none are wired and include_floor is off: there is nothing to evaluate. Wire tokens, or turn "
            "include_floor on."
        )
    if problems:
        return [], problems
    entries: dict[tuple[str, str], Entry] = {}
    for token, identity, subject, label in zip(tokens, identities, paired, names, strict=True):
        entries.setdefault((identity, subject.name), Entry(label, token, subject, identity))  # the same token twice counts once
    floors = []
    if floor:  # one per subject, so that tokens of other subjects can be added later
        used = {subject.name for subject in paired} if tokens else {subject.name for subject in dataset.subjects}
        floors = [Entry(_floor_label(s.name), None, s) for s in dataset.subjects if s.name in used]
    return [*entries.values(), *floors], []


def misfits(entries: list[Entry]) -> list[str]:
    """A line for each token whose subject has another super-category than the token was trained with."""
    return list(
        dict.fromkeys(
            f"Check this: {entry.token.placeholder} was trained as {entry.token.super_category!r}, but {entry.subject.name} is "
            f"{entry.subject.super_category!r}. clip_t uses the latter."
            for entry in entries
            if entry.token is not None
            and entry.token.super_category
            and entry.token.super_category.strip().lower() != entry.subject.super_category.lower()
        )
    )


def pair(tokens: list[PersonalizedToken], dataset: Dataset, pairs: str) -> tuple[list[Subject], list[str]]:
    """Each token's subject, and what is wrong.

    The subject that `pairs` says; else the only one of the data set; else the one named like the placeholder; else the
    only one of the token's super-category.
    """
    said, problems = _parse(pairs, tokens, dataset)
    found = []
    for token in tokens:
        subject = said.get(token.placeholder) or _guess(token, dataset)
        if subject is None:
            names = ", ".join(s.name for s in dataset.subjects)
            problem = (
                f"pairs: which subject is {token.placeholder} ({token.super_category or 'no super-category'})? Neither its "
                f"name nor its super-category tells. Write {token.placeholder} = subject. Subjects: {names}."
            )
            problems += [problem] if problem not in problems else []
        else:
            found.append(subject)
    return found, problems


def _parse(pairs: str, tokens: list[PersonalizedToken], dataset: Dataset) -> tuple[dict[str, Subject], list[str]]:
    subjects = {subject.name: subject for subject in dataset.subjects}
    known = {token.placeholder for token in tokens}
    said, problems = {}, []
    for line in filter(None, (line.strip() for line in pairs.splitlines())):
        placeholder, equals, name = (part.strip() for part in line.partition("="))
        if not equals:
            problems.append(f"pairs: {line!r} has no =. Write one line per token, such as <my-dog> = dog-1.")
        elif placeholder not in known:
            problems.append(f"pairs: no token is called {placeholder!r}. Wired tokens: {', '.join(sorted(known)) or 'none'}.")
        elif name not in subjects:
            problems.append(f"pairs: the loaded data set has no subject {name!r}. It has: {', '.join(subjects)}.")
        else:
            said[placeholder] = subjects[name]
    return said, problems


def _guess(token: PersonalizedToken, dataset: Dataset) -> Subject | None:
    if len(dataset.subjects) == 1:
        return dataset.subjects[0]
    named = [s for s in dataset.subjects if _plain(s.name) in (_plain(token.placeholder), _plain(token.placeholder, "my"))]
    alike = [s for s in dataset.subjects if token.super_category and s.super_category == token.super_category]
    for candidates in (named, alike):
        if len(candidates) == 1:
            return candidates[0]
    return None


def _plain(name: str, without: str = "") -> str:
    """Letters and digits only; `<my-dog>` -> mydog, or dog without "my"."""
    return re.sub(r"[\W_]+", "", name.lower()).removeprefix(without)


def _labels(
    tokens: list[PersonalizedToken], identities: list[str], typed: str, known: frozenset[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """A label for each token. It does not depend on the order of the tokens, and known tokens keep theirs in any case."""
    lines = [line.strip() for line in typed.splitlines() if line.strip()]
    if lines:
        problems = []
        if len(lines) != len(tokens):
            problems.append(
                f"labels: there are {len(tokens)} tokens and {len(lines)} labels. Write one line per token, or none."
            )
        if len(set(lines)) < len(lines):
            problems.append("labels: two are the same: give each token its own.")
        problems += [
            f"labels: {line!r} cannot be a file name: use letters, digits, spaces and . _ + - ({FLOOR} is taken)."
            for line in lines
            if not re.fullmatch(r"\w[\w .+-]*", line) or line.startswith(FLOOR) or "-shard-" in line
        ]
        return lines, problems
    labels = [_label(token) for token in tokens]
    different = {label: {i for i, other in zip(identities, labels, strict=True) if other == label} for label in labels}
    found = []
    for label, identity in zip(labels, identities, strict=True):
        own = f"{label}-{identity[:6]}"
        apart = (own, identity) in known or ((label, identity) not in known and len(different[label]) > 1)
        found.append(own if apart else label)
    return found, []


def _floor_label(subject: str) -> str:
    plain = re.sub(r"[^\w .+-]+|-shard-", "-", subject)
    return f"{FLOOR}-{plain}" + ("" if plain == subject else f"-{hashlib.sha256(subject.encode()).hexdigest()[:6]}")


def _label(token: PersonalizedToken) -> str:
    name = re.sub(r"[^\w.+-]+", "-", token.placeholder).strip("-.") or "token"
    step = token.record.get("step")
    return f"{name}-{method_of(token)}" + (f"-step-{step}" if isinstance(step, int) else "")
