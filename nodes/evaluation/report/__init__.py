"""The report of evaluations: what was found, as tables, charts and a contact sheet."""
