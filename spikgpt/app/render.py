"""HTML of the page: progress, errors, labels and the report. All texts that come from files are escaped."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from spikgpt.app.messages import CELLS, REPORT, TABLE, Finished, PageCluster, PageLabel, Step, Summary
from spikgpt.errors import printable, with_noun
from spikgpt.types import UNKNOWN

# Characters with a special meaning in the templates of Gradio's page, and their HTML codes.
SIGNS = {sign: f"&#{ord(sign)};" for sign in "{}$`@\\"}
# Text and tooltip of the link to each download.
DOWNLOADS = {
    CELLS: ("Cells with labels (.h5ad)", "the file with the labels in obs"),
    TABLE: ("Table of labels (.csv)", "one row per cell"),
    REPORT: ("Report (.html)", "one file, for a browser"),
}


def text(value: object) -> str:
    """Return an untrusted text as HTML, with markup, control characters and the characters of templates escaped."""
    escaped = escape(printable(str(value)))
    return "".join(SIGNS.get(character, character) for character in escaped)


def name(value: object) -> str:
    """Return an untrusted name as HTML; right-to-left characters do not affect the text around the name."""
    return f"<bdi>{text(value)}</bdi>"


def progress(step: Step) -> str:
    """Return the HTML of a run's current step; the bar shows the share done if the number of cells is known."""
    report = step.progress
    count, bar = "", "<progress></progress>"
    if report.total:
        count = f", {report.done:,} of {report.total:,}"
        bar = f'<progress value="{min(report.done, report.total)}" max="{report.total}"></progress>'
    return (
        f'<div class="sg-status" role="status">{bar}<p>{text(report.step)}{count} '
        f'<span class="sg-soft">{step.seconds:.0f} s</span></p></div>'
    )


def error(message: object) -> str:
    """Return the HTML of an error message, in one line."""
    return f'<div class="sg-status sg-error" role="alert"><p><b>Error:</b> {text(message)}</p></div>'


def stopped() -> str:
    """Return the HTML of the message that the user stopped a run."""
    return '<div class="sg-status" role="status"><p>Stopped. Nothing was kept of this run.</p></div>'


def result(finished: Finished) -> str:
    """Return the HTML of a run's result: the compatibility, downloads, labels, clusters, notes and details."""
    summary = finished.summary
    return (
        _verdict(summary)
        + _downloads(finished)
        + _labels(summary)
        + (_clusters(summary.clusters) if summary.clusters else "")
        + _list("Notes", summary.notes, "sg-notes")
        + _list("Details", [*summary.choice[:1], *summary.sentences, f"Time: {finished.seconds:.1f} s."], "sg-details")
        + _more(summary.choice[1:])
    )


def report(finished: Finished) -> str:
    """Return the HTML frame that shows the report of a run; an empty string if the run made no report."""
    if REPORT not in finished.summary.files:
        return ""
    # The frame has a web origin of its own, so the script of the report reaches neither this page nor the server.
    return (
        '<iframe class="sg-report" title="Report" sandbox="allow-scripts allow-downloads" '
        f'referrerpolicy="no-referrer" src="results/{quote(finished.address)}/{REPORT}"></iframe>'
    )


def _verdict(summary: Summary) -> str:
    evidence = f"<p>{text(summary.evidence)}</p>" if summary.evidence else ""
    cells = f"{with_noun(summary.cells, 'cell', form=',')}, reference {name(summary.reference)}"
    return (
        f'<div class="sg-verdict sg-{summary.tone}"><p class="sg-soft">Compatibility of reference and cells</p>'
        f"<h2>{text(summary.verdict)}</h2><p>{text(summary.explanation)}</p>{evidence}<p>{cells}</p></div>"
    )


def _downloads(finished: Finished) -> str:
    links = "".join(
        f'<a class="sg-download" href="results/{quote(finished.address)}/{file}?download=1" '
        f'download="{text(finished.summary.saved_as(file))}" '
        f'title="{DOWNLOADS[file][1]}">{DOWNLOADS[file][0]}</a>'
        for file in finished.summary.files
    )
    return f'<div class="sg-downloads">{links}</div>'


def _labels(summary: Summary) -> str:
    rows = "".join(_label(row, summary.cells) for row in summary.rows)
    head = '<th>label</th><th class="sg-number">cells</th><th class="sg-number">share</th><th class="sg-number">'
    return (
        f'<div class="sg-scroll"><table class="sg-labels"><thead><tr>{head}mean confidence</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _label(row: PageLabel, total: int) -> str:
    share = 100 * row.cells / max(total, 1)
    confidence = "-" if row.confidence is None else f"{row.confidence:.2f}"
    kind = ' class="sg-unknown"' if row.label == UNKNOWN else ""
    return (
        f'<tr{kind}><td><i class="sg-color" style="background:{escape(row.color)}"></i>{name(row.label)}</td>'
        f'<td class="sg-number">{row.cells:,}</td><td class="sg-number">{share:.1f}%</td>'
        f'<td class="sg-number">{confidence}</td></tr>'
    )


def _clusters(clusters: list[PageCluster]) -> str:
    with_genes = any(cluster.genes for cluster in clusters)
    rows = "".join(
        f'<tr><td>{name(cluster.name)}</td><td class="sg-number">{cluster.cells:,}</td><td>{name(cluster.label)}</td>'
        f'<td class="sg-number">{100 * cluster.share:.0f}%</td>'
        f'<td class="sg-number">{100 * cluster.unknown_share:.0f}%</td>'
        + (f"<td>{text(cluster.genes)}</td></tr>" if with_genes else "</tr>")
        for cluster in clusters
    )
    head = (
        '<th>cluster</th><th class="sg-number">cells</th><th>label</th><th class="sg-number">share</th>'
        f'<th class="sg-number">{UNKNOWN}</th>{"<th>marker genes</th>" if with_genes else ""}'
    )
    return (
        f'<h3>Clusters</h3><div class="sg-scroll"><table class="sg-clusters"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _more(sentences: list[str]) -> str:
    if not sentences:
        return ""
    texts = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    return f'<details class="sg-more"><summary>Comparison with the other references</summary>{texts}</details>'


def _list(title: str, texts: list[str], kind: str) -> str:
    if not texts:
        return ""
    items = "".join(f"<li>{text(item)}</li>" for item in texts)
    return f'<div class="{kind}"><h3>{title}</h3><ul>{items}</ul></div>'
