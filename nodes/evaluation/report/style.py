"""The page's style sheet: light and dark, screen, phone and print."""

from ...plotting import DARK, LIGHT


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} --card: #f5f7f9; --mark: #e6f0fb; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} --card: #1c2126; --mark: #17314a; }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }}
header, main, footer {{ max-width: 1120px; margin: 0 auto; padding: 0 20px; }}
header {{ padding-top: 36px; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; margin: 0 0 8px; line-height: 1.3; }}
section, details {{ margin: 40px 0; }}
p {{ margin: 8px 0; max-width: 75ch; overflow-wrap: anywhere; }}
.soft, .note, figcaption {{ color: var(--soft); }}
.note {{ font-size: .875rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 0;
  padding: 0; }}
.tiles li {{ list-style: none; background: var(--card); border-radius: 10px; padding: 12px 16px; }}
.tiles b {{ display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }}
.tiles span {{ color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 24px 0 0; padding: 0; font-size: .9375rem; }}
nav li {{ list-style: none; }}
nav a {{ color: inherit; text-underline-offset: 3px; }}
.warning {{ margin-top: 24px; padding: 10px 16px; border-left: 4px solid var(--s1); border-radius: 0 8px 8px 0;
  background: var(--card); }}
.warning ul {{ margin: 4px 0; padding-left: 20px; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
.scroll:focus-visible, summary:focus-visible {{ outline: 2px solid var(--s0); outline-offset: 2px; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9375rem; }}
th, td {{ padding: 8px 14px 8px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }}
thead th {{ color: var(--soft); font-weight: 600; font-size: .875rem; vertical-align: bottom; }}
tbody th {{ font-weight: 600; overflow-wrap: anywhere; min-width: 7.5em; }}
td.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td small {{ display: block; color: var(--soft); font-size: .8125rem; white-space: nowrap; }}
td.words {{ min-width: 9em; max-width: 26em; overflow-wrap: anywhere; }}
td.best b {{ background: var(--mark); border-radius: 4px; padding: 1px 6px; margin-left: -6px; }}
tr.aside th, tr.aside td {{ color: var(--soft); font-weight: 400; }}
summary {{ cursor: pointer; font-size: 1.3rem; font-weight: 700; line-height: 1.3; }}
figure {{ margin: 0; }}
svg {{ width: 100%; height: auto; display: block; overflow: visible; font-family: inherit; stroke-linejoin: round; }}
svg.narrow {{ display: none; max-width: 480px; }}
.charts {{ display: grid; gap: 56px; }}
.chart {{ display: grid; grid-template-columns: minmax(0, 760px); gap: 12px 40px; align-items: start; }}
.chart figcaption {{ font-size: .875rem; max-width: 75ch; }}
@media (min-width: 1001px) {{
  .chart {{ grid-template-columns: minmax(0, 760px) minmax(220px, 1fr); }}
  .chart figcaption {{ padding-top: 28px; }}
}}
.cells figcaption span {{ white-space: nowrap; }}
.row {{ border-top: 1px solid var(--grid); padding: 14px 0 18px; }}
.row h3 {{ font-size: 1rem; margin: 0 0 10px; font-weight: 600; overflow-wrap: anywhere; }}
.row h3 em {{ font-style: normal; font-weight: 400; color: var(--soft); }}
.cells {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 14px; }}
.cells figcaption {{ font-size: .8125rem; line-height: 1.4; margin-top: 6px; overflow-wrap: anywhere; }}
.cells figcaption b {{ color: var(--ink); display: block; }}
.cells img, .cells .none {{ width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--card); border-radius: 8px;
  display: block; }}
.cells .none {{ display: grid; place-items: center; color: var(--soft); font-size: .8125rem; }}
footer {{ color: var(--soft); font-size: .875rem; padding-bottom: 40px; }}
@media (max-width: 640px) {{
  header, main, footer {{ padding-left: 14px; padding-right: 14px; }}
  header {{ padding-top: 22px; }}
  h1 {{ font-size: 1.5rem; }}
  section, details {{ margin: 30px 0; }}
  th, td {{ padding-right: 10px; }}
  table {{ font-size: .875rem; }}
  td small {{ font-size: .75rem; white-space: normal; }}
  td.number {{ min-width: 5.1em; }}
  td.count {{ min-width: 0; }}
  svg.wide {{ display: none; }}
  svg.narrow {{ display: block; }}
  .cells {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
}}
@media print {{
  @page {{ margin: 14mm; }}
  :root {{ color-scheme: light; }}
  body {{ font-size: 10pt; }}
  nav {{ display: none; }}
  header, main, footer {{ max-width: none; padding: 0; }}
  section, details {{ margin: 24px 0; }}
  .row, figure, tr {{ break-inside: avoid; }}
  h2, summary, .row h3 {{ break-after: avoid; }}
  .chart {{ grid-template-columns: minmax(0, 100%); }}
  details::details-content {{ display: block; content-visibility: visible; height: auto; }}
  summary {{ list-style: none; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: 8pt; }}
  th, td, td.number {{ padding: 4px 8px 4px 0; min-width: 0; overflow-wrap: anywhere; }}
  thead th {{ font-size: 8pt; overflow-wrap: normal; }}
  td small, td.number {{ white-space: normal; font-size: 7pt; }}
  td.number {{ font-size: 8pt; }}
  td.words {{ min-width: 4em; max-width: none; }}
  tbody th {{ min-width: 6.5em; }}
  .cells {{ grid-template-columns: repeat(auto-fill, minmax(100px, 1fr)); gap: 8px; }}
  .chart figcaption {{ padding-top: 0; }}
}}
"""
