"""The report of evaluations: what was found, as tables, charts and a contact sheet."""

GROUPINGS = ("method", "token")
SHEETS = ("best, median, worst", "every photo", "none")
