"""The page of ``compare --report``: HTML, its pictures and its numbers; computes nothing."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from caffe_margin.maths.gradient import EXACT, PAPER
from caffe_margin.report.figures import WIDTH, figures, save
from caffe_margin.report.folder import INDEX, PROGRAM
from caffe_margin.study.compare import Comparison, Difference
from caffe_margin.study.descent import Descent
from caffe_margin.study.gradient_check import FLOOR, TOLERANCE, CheckedDerivatives
from caffe_margin.study.study import Study

PAGE = "index.html"


def write_page(
    folder: Path,
    study: Study,
    facts: Mapping[str, str],
    command: str,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Write ``index.html``, the pictures in it and ``report.json`` into an empty folder.

    Args:
        folder: where to.
        study: what to show.
        facts: ``net``, ``layer``, ``type``, ``iteration``, ``features`` and ``weight``, in words.
        command: the command line that made it.
        track: wraps the pictures as they are saved, for a progress bar.

    Raises:
        OSError: a file cannot be written.
    """
    pictures = {}
    for name, figure in track(figures(study).items()):
        path = folder / f"{name}.png"
        save(figure, path)
        width, height = figure.get_size_inches()
        pictures[name] = (path.read_bytes(), height / width)
    program = f"{PROGRAM} {metadata.version('caffe_margin')}"
    numbers = {
        "made_by": program,
        "command": command,
        "files": [PAGE, INDEX, *(f"{name}.png" for name in pictures)],
        **facts,
        **study.as_dict(),
    }
    text = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
    (folder / INDEX).write_text(text, "utf-8")
    body = _Body(pictures)
    _write_body(body, study, facts)
    title = f"{facts['layer']}: paper against exact"
    (folder / PAGE).write_text(
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"{''.join(body.parts)}"
        f"<footer>Made by {escape(program)}: <code>{escape(command)}</code>. "
        f"Every number is in <code>{INDEX}</code>, beside this file.</footer>\n"
        f"</main>\n</body>\n</html>\n",
        "utf-8",
    )


class _Body:
    """Collects the page's parts."""

    def __init__(self, pictures: Mapping[str, tuple[bytes, float]]) -> None:
        self.pictures = pictures
        self.parts: list[str] = []

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{text}</h2>\n")

    def text(self, html: str) -> None:
        self.parts.append(f"<p>{html}</p>\n")

    def figure(self, name: str, caption: str, alt: str) -> None:
        data, ratio = self.pictures[name]
        source = base64.b64encode(data).decode("ascii")
        width = round(WIDTH * 100)
        self.parts.append(
            f'<figure id="{name}"><img alt="{escape(alt)}" width="{width}" '
            f'height="{round(width * ratio)}" src="data:image/png;base64,{source}">\n'
            f"<figcaption>{caption}</figcaption></figure>\n"
        )

    def table(
        self, name: str, heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = ""
    ) -> None:
        """Add a table whose first column is text; heads and cells are HTML."""
        head = "".join(f"<th>{cell}</th>" for cell in heads)
        lines = "".join(
            f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>\n'
            for first, *rest in rows
        )
        self.parts.append(
            f'<div class="table"><table id="{name}">'
            + (f"<caption>{caption}</caption>" if caption else "")
            + (f"<thead><tr>{head}</tr></thead>" if heads else "")
            + f"\n<tbody>\n{lines}</tbody></table></div>\n"
        )


def _write_body(body: _Body, study: Study, facts: Mapping[str, str]) -> None:
    _summary(body, study)
    _layer(body, study, facts)
    _psi(body, study)
    _pull(body, study)
    _departures(body, study.comparison)
    _check(body, study)
    _descent(body, study)
    _training(body, study)


def _summary(body: _Body, study: Study) -> None:
    exact, paper = (
        next(m for m in study.comparison.measures if m.rule == rule) for rule in (EXACT, PAPER)
    )
    checks = {
        rule: all(c.passes for c in study.checks if c.rule == rule) for rule in (PAPER, EXACT)
    }
    descents = {(d.blob, d.rule): d for d in study.descents}
    body.text(
        "The backward pass of SphereFace's MarginInnerProduct layer is not the gradient of its "
        "forward pass. On this batch the authors' rule (<b>paper</b>) against the true gradient "
        "(<b>exact</b>):"
    )
    body.parts.append(
        "<ul>\n"
        f"<li>{_apart('bottom.diff', paper.bottom_diff, exact.bottom_diff)};</li>\n"
        f"<li>{_apart('weight.diff', paper.weight_diff, exact.weight_diff)};</li>\n"
        f"<li>the exact rule {_verdict(checks[EXACT])} the gradient check, the paper's "
        f"{_verdict(checks[PAPER])} it;</li>\n"
        f"<li>{_one_step('features', descents['bottom', PAPER], descents['bottom', EXACT])};</li>\n"
        f"<li>{_one_step('weight', descents['weight', PAPER], descents['weight', EXACT])}"
        f"{'.' if study.training is None else ';'}</li>\n"
    )
    if study.training is not None:
        runs = {run.name: run for run in study.training.runs}
        body.parts.append(
            f"<li>a head trained on these features for {runs['paper'].iterations[-1]} iterations "
            f"ends at a loss of {_number(float(runs['paper'].loss[-1]))} and "
            f"{100 * runs['paper'].accuracy[-1]:.2f}% under the paper's rule, at "
            f"{_number(float(runs['exact'].loss[-1]))} and "
            f"{100 * runs['exact'].accuracy[-1]:.2f}% under the exact one.</li>\n"
        )
    body.parts.append("</ul>\n")


def _apart(blob: str, paper: Difference, exact: Difference) -> str:
    zero = [name for name, d in (("paper's", paper), ("exact", exact)) if d.norm == 0]
    if zero:
        return f"{' and '.join(zero)} {blob} {'are' if zero[1:] else 'is'} zero"
    return (
        f"its {blob} lies {_degrees(paper.angle)} from the exact one and is "
        f"{_number(paper.ratio)} times as long"
    )


def _one_step(what: str, paper: Descent, exact: Descent) -> str:
    return (
        f"{what}, from a loss of {_number(paper.start)}: one step against the paper's gradient "
        f"{_lowers(paper)}; against the exact one, it {_lowers(exact)}"
    )


def _lowers(walk: Descent) -> str:
    step, loss = walk.lowest
    if walk.gradient_norm == 0:
        return "goes nowhere, for that is zero"
    if step == 0:
        return "lowers it at no length measured"
    to = f"to {_number(loss)}"
    if to == f"to {_number(walk.start)}":
        to = f"by {_number(walk.start - loss)}"
    if step == walk.steps[-1]:
        return f"lowers it {to} at the longest step measured, {step:g} times what moves"
    return f"lowers it {to} at best, at a step of {_number(step)} times the length of what moves"


def _layer(body: _Body, study: Study, facts: Mapping[str, str]) -> None:
    c = study.comparison
    M, N, K = c.shape
    body.heading("1. The layer")
    rows = [
        ("net", escape(facts["net"])),
        ("layer", escape(facts["layer"])),
        ("type", f"{escape(facts['type'])}, m = {c.m}"),
        ("classes N", f"{N}"),
        ("features K", f"{K}"),
        ("samples M", f"{M}, {c.dtype}"),
        ("iteration", f"{c.iteration}, {escape(facts['iteration'])}"),
        ("λ", _number(c.lambda_)),
        ("loss", f"{_number(c.loss)} nats, under every rule"),
        ("features", escape(facts["features"])),
        ("weight", escape(facts["weight"])),
    ]
    body.table("layer", [], rows)
    body.figure(
        "schedule",
        "λ weighs the plain cosine against the margin: the label's score is |x| (ψ<sub>m</sub> + "
        "λ cos θ) / (1 + λ). It falls over training to its floor, and the dot is where this page "
        "stands."
        + (" This layer is SINGLE, which has no margin for λ to weigh." if c.m == 1 else ""),
        "lambda over iterations",
    )


def _psi(body: _Body, study: Study) -> None:
    spread = study.spreads["theta"]
    body.heading("2. The margin, and where the samples lie")
    body.figure(
        "psi",
        "ψ<sub>m</sub> in place of the cosine lowers the label's score, and more so the larger m "
        "is; mixed with λ, the difference is a part in 1 + λ of that. Below, this batch: its "
        f"median angle to the own class is {_degrees(spread.median)}, from "
        f"{_degrees(spread.least)} to {_degrees(spread.greatest)}.",
        "psi_m and the mix with cos(theta) for m from 1 to 4, and a histogram of the angles",
    )


def _pull(body: _Body, study: Study) -> None:
    body.heading("3. Paper against exact, sample by sample")
    body.figure(
        "pull",
        "The label's column pulls on x by a part along w<sub>y</sub> and a part along x, here per "
        "unit of top.diff and as coefficients of unit vectors. Under the paper's rule the two "
        "coefficients are divided by coeff_norm, λ's share is not, and so length and direction "
        "both change.",
        "length and direction of the label's pull over theta under both rules",
    )
    body.figure(
        "coeff_norm",
        "coeff_norm, which the authors divide both coefficients by, is a learning rate of its own "
        "for every sample: where it is 4, the margin's step is a quarter of the exact one. It adds "
        "a coefficient without a unit to one per unit of length, so it also depends on the scale "
        "of the features.",
        "coeff_norm over theta and the length of x",
    )
    s = study.spreads
    rows = [
        (name, *(show(value) for value in (spread.least, spread.median, spread.greatest)))
        for name, spread, show in (
            ("angle θ to the own class", s["theta"], _degrees),
            ("length of the feature |x|", s["x_norm"], _number),
            ("length of the pull, exact", s["exact_length"], _number),
            ("length of the pull, paper", s["paper_length"], _number),
            ("angle between the two", s["angle"], _degrees),
            ("coeff_norm", s["coeff_norm"], _number),
        )
    ]
    body.table("samples", ["over this batch", "least", "median", "greatest"], rows)


def _departures(body: _Body, comparison: Comparison) -> None:
    body.heading("4. The three departures")
    body.figure(
        "departures",
        "The paper's rule departs from the exact gradient in three ways: it normalises the "
        "coefficients, and it leaves margin and projection out of the weight's gradient. Each "
        "alone, and all together, as an angle to the exact gradient of the whole batch and as a "
        "length over its.",
        "angle and length of each rule's gradients against the exact ones",
    )

    def cells(d: Difference) -> list[str]:
        return [_number(d.norm), _number(d.ratio), _degrees(d.angle), _number(d.difference)]

    for blob in ("bottom", "weight"):
        body.table(
            f"{blob}_diff",
            [f"{blob}.diff", "length", "length / exact", "angle to exact", "difference / exact"],
            [
                (_rule_name(m.rule.name), *cells(getattr(m, f"{blob}_diff")))
                for m in comparison.measures
            ],
        )


def _check(body: _Body, study: Study) -> None:
    body.heading("5. The gradient check")
    body.figure(
        "check",
        "Each rule's derivative along a random direction, over the central difference of the true "
        "loss along it, in float64. On the line the two agree.",
        "claimed over measured derivatives",
    )

    def cells(c: CheckedDerivatives) -> list[str]:
        return [
            f"{len(c.measured)}",
            _number(c.median),
            _number(c.largest),
            f'<b class="{"good" if c.passes else "bad"}">{_verdict(c.passes)}</b>',
        ]

    body.table(
        "checks",
        ["rule", "directions", "median disagreement", "largest", "verdict"],
        [(f"{c.rule.name}, {c.blob}.diff", *cells(c)) for c in study.checks],
        "Disagreement is |claimed - measured| over the root mean square of the measured, or over "
        f"{FLOOR:g} (weight.diff: times the mean |x|) where that is more, lest a gradient of zero "
        f"be held against rounding; a rule passes below {TOLERANCE:g}. Two differences a "
        "measurement, of one step and of twice that, take out what the jump of ψ″ between its "
        "pieces adds.",
    )


def _descent(body: _Body, study: Study) -> None:
    body.heading("6. Descent")
    body.figure(
        "descent",
        "The true loss after one step of a given length against each rule's gradient, features or "
        "weight at rest in turn; the mark is the lowest point. Thin lines are the "
        "first-order predictions from the angle to the exact gradient. A rule goes down as long "
        "as its line stays below the grey one.",
        "loss over the length of a step along minus each rule's gradient",
    )
    farthest = float(study.descents[0].steps[-1])

    def cells(d: Descent) -> list[str]:
        if d.gradient_norm == 0:
            return ["gradient is zero", "&ndash;", _number(d.start), "&ndash;"]
        step, loss = d.lowest
        return [
            _number(d.slope),
            f"{step:g} (longest)" if step == farthest else _number(step),
            _number(loss),
            f"beyond {farthest:g}" if d.back_at_start is None else _number(d.back_at_start),
        ]

    body.table(
        "descents",
        ["against", "slope at 0", "lowest at", "loss there", "no gain left at"],
        [(f"{d.rule.name}, {d.blob}.diff", *cells(d)) for d in study.descents],
        "Lengths of steps are over the length (Frobenius norm) of what moves; the slope is the "
        "first-order change of the loss per such unit. The weight starts with rows of unit length.",
    )


def _training(body: _Body, study: Study) -> None:
    body.heading("7. Training the head")
    t = study.training
    if t is None:
        body.text(
            "Not asked for. With <code>--train ITERS</code>, the head is trained on these features "
            "under each rule, and without a margin."
        )
        return
    iterations = int(t.runs[0].iterations[-1])
    body.figure(
        "training",
        f"The weight alone, trained for {iterations} iterations on these features: same start, "
        f"same batches of {t.batch}, Caffe's SGD (base_lr {t.base_lr:g}, momentum {t.momentum:g}, "
        f"weight_decay {t.weight_decay:g}), λ from {_number(t.lambdas[0])} to "
        f"{_number(t.lambdas[1])}. The features are at rest, so bottom.diff plays no part. The "
        "two softmaxes have losses of their own, in the table.",
        "loss, accuracy and angles over the iterations of training",
    )
    body.table(
        "runs",
        ["rule", "loss", "accuracy", "own angle", "nearest other", "length of a row of W"],
        [
            (
                _rule_name(run.name),
                _number(float(run.loss[-1])),
                f"{100 * run.accuracy[-1]:.2f}%",
                _degrees(float(run.own_angle[-1])),
                _degrees(float(run.other_angle[-1])),
                _number(float(run.weight_length[-1])),
            )
            for run in t.runs
        ],
        f"After {iterations} iterations; means over all the features it was trained on.",
    )


def _number(value: float) -> str:
    """Return four significant digits, and a dash for what is no number."""
    if not math.isfinite(value):
        return "&ndash;"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa} &times; 10<sup>{int(exponent)}</sup>".replace("-", "&minus;")
    return f"{value:#.4g}".rstrip(".").replace("-", "&minus;")


def _degrees(radians: float) -> str:
    return f"{math.degrees(radians):.2f}°" if math.isfinite(radians) else "&ndash;"


def _rule_name(name: str) -> str:
    return f"<b>{escape(name)}</b>" if name in ("paper", "exact") else escape(name)


def _verdict(passes: bool) -> str:
    return "passes" if passes else "fails"


STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1c1c1c;
  font: 17px/1.55 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; }
main { max-width: 848px; margin: 0 auto; padding: 24px; }
h1 { font-size: 1.9em; line-height: 1.2; margin: .6em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3em; margin: 2.2em 0 .6em; border-top: 1px solid #ccc; padding-top: .8em; }
figure { margin: 1.2em 0; }
img { display: block; width: 100%; height: auto; }
sub, sup { line-height: 0; }
figcaption, caption, footer { font-size: .88em; color: #444; }
figcaption { margin-top: .5em; }
caption { caption-side: bottom; text-align: left; padding-top: .6em; }
.table { overflow-x: auto; margin: 1.2em 0; }
table { border-collapse: collapse; font: 14px/1.4 system-ui, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35em .7em; border-bottom: 1px solid #e2e2e2; text-align: right;
  white-space: nowrap; }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 1px solid #888;
  white-space: normal; min-width: 5em; }
th[scope=row], thead th:first-child { text-align: left; font-weight: 400; padding-left: 0; }
#layer td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
code { font-size: .88em; overflow-wrap: anywhere; }
.good { color: #005a8c; } .bad { color: #b04a00; }
footer { margin: 3em 0 1em; border-top: 1px solid #ccc; padding-top: 1em; }
@media (max-width: 600px) { body { font-size: 16px; } main { padding: 14px; } }
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  h2 { break-after: avoid; } figure, table, ul { break-inside: avoid; }
  .table { overflow: visible; } table { font-size: 8pt; } th, td { padding: .25em .4em; }
  img { max-height: 8.5cm; width: auto; max-width: 100%; margin: 0 auto; }
  h2 { margin-top: 1.2em; } footer { margin: 1em 0 0; }
  @page { margin: 16mm; }
}
"""
