"""Trigger phrases: what a subject is called in prompts where no token of ours names it, such as `sks dog`."""

import hashlib
import re

from ...trainer.concept import LONGEST_TEXT, is_text
from .pdst import Dataset, Subject

CATEGORY_SLOT = "{super_category}"
_NAMED = re.compile(r"\s*([^:()]+):\s+(.*)")  # not a weight, such as (sks dog:1.2)


def read_triggers(typed: str, dataset: Dataset) -> tuple[list[tuple[Subject, str]], list[str]]:
    """Each subject with the phrase that stands for it in prompts, in the order of the lines; and what is wrong.

    typed: a line for each, `phrase`, or `subject: phrase` where the data set has several. A phrase with `{super_category}`,
    which becomes the subject's, stands for all subjects if it names none.
    """
    subjects = {subject.name: subject for subject in dataset.subjects}
    names = ", ".join(subjects)
    found, problems = [], []
    for line in filter(None, map(str.strip, typed.splitlines())):
        name, separator, rest = (part.strip() for part in line.partition(":"))
        chosen, phrase = [*subjects.values()], line
        if separator and name in subjects:
            chosen, phrase = [subjects[name]], rest
        elif named := _NAMED.fullmatch(line):
            problems.append(f"trigger: the loaded data set has no subject {_short(named[1])!r}. Its subjects: {names}.")
            continue
        elif len(subjects) > 1 and CATEGORY_SLOT not in line:
            problems.append(
                f"trigger: which subject is {_short(line)!r}? The data set has several. Write a line for each, such as "
                f"{next(iter(subjects))}: {_short(line)}. Subjects: {names}."
            )
            continue
        wrong = _phrase_problem(phrase)
        problems += [wrong] if wrong else []
        found += [(subject, phrase.replace(CATEGORY_SLOT, subject.super_category)) for subject in chosen]
    return ([], problems) if problems else (list(dict.fromkeys(found)), [])


def _phrase_problem(phrase: str) -> str | None:
    if not phrase:
        return "trigger: a subject has no phrase. Write what stands for it in prompts, such as my-dog: sks dog."
    if not is_text(phrase):
        return f"trigger: {_short(phrase)!r} is too long, or no text: {LONGEST_TEXT} characters are the most."
    if set("{}") & set(phrase.replace(CATEGORY_SLOT, "")):
        return (
            f"trigger: {_short(phrase)!r} has braces. Write what takes the place of {{}} in the captions, such as sks dog; "
            f"{CATEGORY_SLOT} is all that may stand in braces."
        )
    return None


def phrase_identity(subject: Subject, phrase: str) -> str:
    """A hash of what a subject is called in prompts, in the place of a token's."""
    return hashlib.sha256(f"trigger\0{subject.name}\0{phrase}".encode()).hexdigest()[:16]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
