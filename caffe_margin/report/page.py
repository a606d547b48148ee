"""The pages of ``compare --report``: HTML, its pictures and its numbers; computes nothing.

What the page says stands in ``page.html.jinja``, and in ``heads.html.jinja`` where whole nets are
compared; what that is built of in ``parts.html.jinja``, how it looks in ``page.css``.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import jinja2
except ModuleNotFoundError as error:
    raise ValueError(
        "the page needs Jinja2, which is not installed: pip install 'caffe_margin[report]'"
    ) from error
from markupsafe import Markup

from caffe_margin.files.visible import visible
from caffe_margin.report.figures import WIDTH, save
from caffe_margin.report.folder import INDEX, PROGRAM
from caffe_margin.study.gradient_check import FLOOR, TOLERANCE
from caffe_margin.study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"

PIXELS_PER_INCH = 100
"""How large the page shows a picture."""

LONGEST = 1000
"""How many characters of a name, or of the command line, the page shows."""

DASH = Markup("&ndash;")
"""What is shown for a number that is none."""


def write_page(
    folder: Path,
    study: Study,
    facts: Mapping[str, str],
    command: str,
    figures: Iterable[tuple[str, Figure]],
) -> None:
    """Write ``index.html``, the pictures in it and ``report.json`` into an empty folder.

    Args:
        folder: where to.
        study: what to show.
        facts: ``net``, ``layer``, ``type``, ``iteration``, ``features`` and ``weight``, in words.
        command: the command line that made it.
        figures: the study's, by name.

    Raises:
        OSError: a file cannot be written.
    """
    context = {
        "study": study,
        "measures": {measure.rule.name: measure for measure in study.comparison.measures},
        "passes": {
            rule: all(check.passes for check in study.checks if check.rule.name == rule)
            for rule in ("paper", "exact")
        },
        "descents": {(descent.blob, descent.rule.name): descent for descent in study.descents},
        "runs": {run.name: run for run in study.training.runs} if study.training else {},
        "FLOOR": FLOOR,
        "TOLERANCE": TOLERANCE,
    }
    write("page.html.jinja", folder, context, study.as_dict(), facts, command, figures)


def write(
    template: str,
    folder: Path,
    context: Mapping[str, object],
    numbers: Mapping[str, object],
    facts: Mapping[str, str],
    command: str,
    figures: Iterable[tuple[str, Figure]],
) -> None:
    """Write a page, its pictures and its numbers into an empty folder.

    Args:
        template: its structure and its prose, beside this file.
        folder: where to.
        context: what the template shows, beside what all have.
        numbers: for ``report.json``.
        facts: what is compared, in words.
        command: the command line that made it.
        figures: by name.

    Raises:
        OSError: a file cannot be written.
    """
    pictures = {}
    for name, figure in figures:
        path = folder / f"{name}.png"
        save(figure, path)
        pictures[name] = _Picture(figure, path)
    program = f"{PROGRAM} {metadata.version('caffe_margin')}"
    index = {
        "made_by": program,
        "files": [PAGE, INDEX, *(f"{name}.png" for name in pictures)],
        "command": command,
        **facts,
        **numbers,
    }
    text = json.dumps(index, allow_nan=False, separators=(",", ":"))
    (folder / INDEX).write_text(text, "utf-8")
    page = _environment().get_template(template)
    text = page.render(
        **context,
        facts={name: visible(fact, LONGEST) for name, fact in facts.items()},
        pictures=pictures,
        program=program,
        command=visible(command, LONGEST),
        INDEX=INDEX,
    )
    (folder / PAGE).write_text(text, "utf-8")


class _Picture:
    """A picture as the page embeds it."""

    def __init__(self, figure: Figure, path: Path) -> None:
        width, height = figure.get_size_inches()
        self.width = round(WIDTH * PIXELS_PER_INCH)
        self.height = round(self.width * height / width)
        self.source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("caffe_margin.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = {
        "number": _number,
        "rough": _rough,
        "degrees": _degrees,
        "percent": _percent,
        "fixed": _fixed,
    }
    environment.filters |= shown
    environment.globals |= shown
    return environment


def _number(value: float) -> Markup:
    """Return four significant digits, and a dash for what is no number."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return Markup("0")
    text = f"{value:#.4g}".rstrip(".")
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa} &times; 10<sup>{int(exponent)}</sup>"
    return Markup(text.replace("-", "&minus;"))


def _rough(value: float) -> str:
    """Return two significant digits."""
    return f"{value:.2g}"


def _degrees(radians: float) -> str:
    return f"{math.degrees(radians):.2f}°" if math.isfinite(radians) else DASH


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%" if math.isfinite(share) else DASH


def _fixed(value: float) -> str:
    """Return a share, to be compared with others, to four decimals."""
    return f"{value:.4f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else DASH
