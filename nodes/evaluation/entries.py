"""What is evaluated (tokens, checkpoints of a token, trigger phrases, the floor), and on which subject."""

import hashlib
import json
import re
from dataclasses import dataclass

from ...trainer.concept import PersonalizedToken
from .pdst import Dataset, Subject
from .triggers import phrase_identity, read_triggers

FLOOR, TRIGGER, OWN_GRAPH = "floor", "trigger", "own graph"
_LONGEST_NAME = 60  # characters of a trigger phrase in its label


@dataclass(frozen=True, eq=False)
class Entry:
    """A token; or a trigger phrase, without one; or the floor, with neither: the super-category's plain word.

    label: also its file's name. method: of a phrase, as the report names and groups it. made_by: where the images do not come
    from the host's sampler here but from a graph of the user's: what the user says of it.
    """

    label: str
    token: PersonalizedToken | None
    subject: Subject
    identity: str = ""
    phrase: str | None = None
    method: str = TRIGGER
    made_by: str | None = None

    @property
    def step(self) -> int | None:
        step = self.token and self.token.record.get("step")
        return step if isinstance(step, int) else None

    @property
    def name_in_prompt(self) -> str:
        return self.token.placeholder if self.token else self.phrase or self.subject.super_category

    def door(self) -> dict:
        """What a results file's header has besides, if there is no token."""
        if self.phrase is None:
            return {}
        return {"trigger": self.phrase, **({} if self.made_by is None else {"own_graph": self.made_by})}

    def describe(self) -> dict | None:
        """The token for a results file's header, or what stands in for one; None for the floor."""
        if self.phrase is not None:
            named = {"placeholder": self.phrase, "super_category": self.subject.super_category}
            kind = TRIGGER if self.made_by is None else OWN_GRAPH
            return {**named, "kind": kind, "method": self.method, "width": 0, "run": None, "schedule": None}
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
    trigger: str = "",
) -> tuple[list[Entry], list[str]]:
    """Entries in the order of tokens and trigger phrases, then the floors of their subjects; and what is wrong with the inputs.

    identities: of the tokens. pairs: lines `<placeholder> = subject`. labels: a line per token and then per phrase, or "".
    known: label and identity of what this evaluation already has, and what keeps its label. trigger: as of `read_triggers`.
    """
    paired, problems = pair(tokens, dataset, pairs)
    phrases, wrong = read_triggers(trigger, dataset)
    problems += wrong + [
        f"trigger: {phrase!r} has < or >, which mark tokens. Wire a token to tokens, and type plain words into trigger."
        for _, phrase in phrases
        if set("<>") & set(phrase)
    ]
    all_identities = [*identities, *(phrase_identity(*named) for named in phrases)]
    proposed = [*map(_label, tokens), *(_phrase_label(phrase) for _, phrase in phrases)]
    what = "tokens and phrases" if phrases else "tokens"
    names, wrong = _labels(proposed, all_identities, "" if wrong else labels, known, what)
    problems += wrong
    if not tokens and not trigger.strip() and not floor:
        problems.append(
            "tokens: none are wired and include_floor is off: there is nothing to evaluate. Wire tokens, type a trigger, or "
            "turn include_floor on."
        )
    if problems:
        return [], problems
    entries: dict[tuple[str, str], Entry] = {}
    for token, identity, subject, label in zip(tokens, identities, paired, names[: len(tokens)], strict=True):
        entries.setdefault((identity, subject.name), Entry(label, token, subject, identity))  # the same token twice counts once
    more = zip(phrases, all_identities[len(tokens) :], names[len(tokens) :], strict=True)
    called = [
        Entry(label, None, subject, identity, phrase, label if labels.strip() else TRIGGER)
        for (subject, phrase), identity, label in more
    ]
    floors = []
    if floor:  # one per subject, so that tokens of other subjects can be added later
        used = {entry.subject.name for entry in (*entries.values(), *called)} or {s.name for s in dataset.subjects}
        floors = [Entry(label_of(FLOOR, s.name), None, s) for s in dataset.subjects if s.name in used]
    return [*entries.values(), *called, *floors], []


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
    proposed: list[str], identities: list[str], typed: str, known: frozenset[tuple[str, str]], what: str
) -> tuple[list[str], list[str]]:
    """A label for each entry. It does not depend on the order of the entries, and known ones keep theirs in any case.

    proposed: labels that several may share. what: the entries, for a message.
    """
    lines = [line.strip() for line in typed.splitlines() if line.strip()]
    if lines:
        problems = []
        if len(lines) != len(proposed):
            problems.append(
                f"labels: there are {len(proposed)} {what} and {len(lines)} labels. Write a line for each, or none."
            )
        if len(set(lines)) < len(lines):
            problems.append("labels: two are the same: give each token its own.")
        return lines, problems + [problem for line in lines for problem in label_problems(line, "labels")]
    different = {label: {i for i, other in zip(identities, proposed, strict=True) if other == label} for label in proposed}
    found = []
    for label, identity in zip(proposed, identities, strict=True):
        own = f"{label}-{identity[:6]}"
        apart = (own, identity) in known or ((label, identity) not in known and len(different[label]) > 1)
        found.append(own if apart else label)
    return found, []


def label_problems(label: str, field: str) -> list[str]:
    """Why a label that a user typed cannot name results; empty if it can."""
    if re.fullmatch(r"\w[\w .+-]*", label) and not label.startswith(FLOOR) and "-shard-" not in label:
        return []
    return [f"{field}: {label!r} cannot be a file name: use letters, digits, spaces and . _ + - ({FLOOR} is taken)."]


def label_of(what: str, subject: str) -> str:
    """A label for a subject's own share of something, such as floor-cat."""
    plain = re.sub(r"[^\w .+-]+|-shard-", "-", subject)
    return f"{what}-{plain}" + ("" if plain == subject else f"-{hashlib.sha256(subject.encode()).hexdigest()[:6]}")


def _label(token: PersonalizedToken) -> str:
    name = re.sub(r"[^\w.+-]+", "-", token.placeholder).strip("-.") or "token"
    step = token.record.get("step")
    return f"{name}-{method_of(token)}" + (f"-step-{step}" if isinstance(step, int) else "")


def _phrase_label(phrase: str) -> str:
    name = re.sub(r"[^\w.+-]+", "-", phrase).replace("-shard-", "-")[:_LONGEST_NAME].strip("-.")
    return f"{name or 'phrase'}-{TRIGGER}"
