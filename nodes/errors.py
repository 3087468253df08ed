"""The error a user can act on."""


class UserError(ValueError):
    """Names the input that is wrong and the remedy; raised before any long work starts."""

    # The host puts the module of an exception's class before its message, and leaves out this one only.
    __module__ = "builtins"

    @classmethod
    def of(cls, problems: list[str]) -> "UserError":
        """One error for all problems found at once."""
        return cls(problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems))
