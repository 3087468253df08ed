"""The error a user can act on."""

from collections.abc import Callable

_MOST_LINES, _LONGEST_LINE = 60, 600


class UserError(ValueError):
    """Names the input that is wrong and the remedy; raised before any long work starts. Not longer than a person would read."""

    def __init__(self, message: str):
        lines = [line if len(line) <= _LONGEST_LINE else f"{line[:400]} ... {line[-190:]}" for line in message.splitlines()]
        if len(lines) > _MOST_LINES:  # the last one may be the remedy of all
            lines = [*lines[: _MOST_LINES - 2], f"(and {len(lines) - _MOST_LINES + 1:,} more)", lines[-1]]
        super().__init__("\n".join(lines))

    # The host puts the module of an exception's class before its message, and leaves out this one only.
    __module__ = "builtins"

    @classmethod
    def of(cls, problems: list[str]) -> "UserError":
        """One error for all problems found at once."""
        return cls(problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems))


def validated(value: str | None, check: Callable[[str], object]) -> bool | str:
    """For a node's `validate_inputs`: True, or the sentence of the `UserError` that check(value) raises.

    The list in the browser may be out of date, and the host would only say that the value is not in it. value: None if it is
    wired, and then the run will tell.
    """
    try:
        if value is not None:
            check(value)
    except UserError as error:
        return str(error)
    return True
