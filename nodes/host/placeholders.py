"""How a placeholder may be missed in prompts, and the warnings of it."""

import re
from collections.abc import Iterable

_BRACKETED = re.compile(r"<([^<>\s]+)>")


def bracket_warning(placeholder: str) -> str:
    """What to say of a placeholder that has no brackets; empty if it has them."""
    if _BRACKETED.fullmatch(placeholder):
        return ""
    return (
        f"The placeholder {placeholder} has no brackets, so it is replaced wherever this word stands in a prompt: "
        f"<{placeholder}> is safer."
    )


def missed_placeholders(text: str, placeholders: Iterable[str]) -> str:
    """What to say of a prompt with the word of a placeholder such as <my-dog> without its brackets and nowhere with them."""
    missed = [
        f"{match[1]} is in this prompt without its brackets and is read as plain words. Write {placeholder} for the token."
        for placeholder in placeholders
        if (match := _BRACKETED.fullmatch(placeholder)) and placeholder not in text and _has_word(text, match[1])
    ]
    return "\n".join(missed)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w<:-]){re.escape(word)}(?![\w>-])", text, re.IGNORECASE) is not None
