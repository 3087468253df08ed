"""The demo's contact sheet: rows of pictures with a heading at the left and captions underneath, then a table."""

from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, TILE, HEADINGS = 44, 14, 184, 262  # pixels
INK, GREY, RULE = "#1b1f24", "#5c6570", "#d9dee3"


@dataclass
class Row:
    """Pictures of one kind; `small`: others half as large underneath, such as their masks."""

    heading: str
    text: str
    pictures: list[Image.Image]
    captions: list[str] = field(default_factory=list)
    small: list[Image.Image] = field(default_factory=list)


def draw_sheet(title: str, text: str, rows: list[Row], table: list[list[str]], note: str) -> Image.Image:
    """table: lines of cells, the first line its heads."""
    most = max(len(row.pictures) for row in rows)
    width = 2 * MARGIN + HEADINGS + most * (TILE + GAP)
    sheet = Image.new("RGB", (width, 4000), "white")
    pen = _Pen(ImageDraw.Draw(sheet))
    y = pen.words(MARGIN, MARGIN, title, 30, width - 2 * MARGIN)
    y = pen.words(MARGIN, y + 6, text, 16, width - 2 * MARGIN, GREY) + 22
    for row in rows:
        pen.draw.line([(MARGIN, y), (width - MARGIN, y)], RULE)
        y = _draw_row(sheet, pen, row, y + 20) + 22
    pen.draw.line([(MARGIN, y), (width - MARGIN, y)], RULE)
    y = _draw_table(pen, table, y + 18)
    y = pen.words(MARGIN, y + 8, note, 14, width - 2 * MARGIN, GREY)
    return sheet.crop((0, 0, width, y + MARGIN - 10))


def _draw_row(sheet, pen, row: Row, top: int) -> int:
    """The row's lower end."""
    low = pen.words(MARGIN, top, row.heading, 19, HEADINGS - 34)
    end = max(top + TILE, pen.words(MARGIN, low + 6, row.text, 14, HEADINGS - 34, GREY))
    for i, picture in enumerate(row.pictures):
        x = MARGIN + HEADINGS + i * (TILE + GAP)
        sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (x, top))
        low = top + TILE + 6
        if row.small:
            half = TILE // 2
            sheet.paste(row.small[i].convert("RGB").resize((half, half), Image.Resampling.LANCZOS), (x + half // 2, low))
            low += half
        if row.captions:
            low = pen.words(x, low, row.captions[i], 13, TILE, INK)
        end = max(end, low)
    return end


def _draw_table(pen, table: list[list[str]], y: int) -> int:
    for number, cells in enumerate(table):
        bottom = y
        for column, cell in enumerate(cells):
            x = MARGIN + (HEADINGS + (column - 1) * (TILE + GAP) if column else 0)
            size, colour = (14, GREY) if number == 0 else (17, INK)
            bottom = max(bottom, pen.words(x, y, cell, size, TILE if column else HEADINGS - 14, colour))
        y = bottom + 4
    return y


class _Pen:
    def __init__(self, draw: ImageDraw.ImageDraw):
        self.draw = draw

    def words(self, x: int, y: int, text: str, size: int, width: int, colour: str = INK) -> int:
        """Text broken into lines of `width` pixels; where it ends below."""
        font, lines = ImageFont.load_default(size), [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        for line in lines:
            self.draw.text((x, y), line, colour, font)
            y += round(size * 1.32)
        return y
