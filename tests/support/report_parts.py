"""A report's tables and page, made of collected results as the node makes them, with a quick bootstrap."""

from attractor.nodes.evaluation.report.make_report import charts_of
from attractor.nodes.evaluation.report.page import make_page
from attractor.nodes.evaluation.report.tables import make_tables
from attractor.nodes.evaluation.statistics import Bootstrap

FAST = Bootstrap(200)
MEANS = {"clip_t": 0.3, "clip_i": 0.7, "dino": 0.5, "clip_i_train": 0.75, "dino_train": 0.6}


def page_of(data, sheet=None, title="mine"):
    return make_page(title, data, make_tables(data, FAST), charts_of(data, FAST, "dino"), sheet)


def tables_of(data, **more):
    return {table.name: table for table in make_tables(data, FAST, **more)}
