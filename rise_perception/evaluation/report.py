"""One self-contained HTML file: pictures and plots inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

import rise_perception
from rise_perception.core.files import write_text
from rise_perception.data.images import encode_image
from rise_perception.evaluation.metrics import Metrics
from rise_perception.evaluation.plots import latency_plot, metrics_plot


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; ``content`` is a PNG or JPEG file's bytes."""

    content: bytes
    caption: str = ""

    @staticmethod
    def of(image: np.ndarray, caption: str = "") -> Picture:
        """From (H, W, 3) uint8 RGB, stored as JPEG."""
        return Picture(encode_image(image, ".jpg"), caption)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        kind = "png" if self.content[:4] == b"\x89PNG" else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a report: text, then tables, then pictures; ``columns`` pictures stand side by side."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = field(default=(), repr=False)
    columns: int = 1


def write_report(
    path: str | Path, title: str, command: str, sections: Sequence[Section], model: str = ""
) -> None:
    """Write a report atomically.

    Args:
        path: the HTML file.
        title: its heading.
        command: the command line that made it (:func:`rise_perception.cli.main.command_line`).
        sections: what it shows, in order.
        model: version of the model, if one took part.
    """
    facts = {
        "command": command,
        "model": model,
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
        f"rise_perception {rise_perception.__version__}",
    }
    write_text(path, _TEMPLATE.render(title=title, facts=facts, sections=sections))


def metrics_section(metrics: Metrics, worst: np.ndarray | None = None) -> Section:
    """Metric table, plot, and the picture of the worst cases."""
    pictures = [Picture(metrics_plot(metrics))]
    if worst is not None:
        pictures.append(Picture.of(worst, "Worst cases: image, truth, prediction"))
    text = (
        f"{metrics.images} images, {metrics.items} labelled objects, {metrics.predictions} predicted objects."
    )
    if metrics.partial:
        text += " Only some items are labelled, so figures that count false positives are left out."
    return Section("Accuracy", text, [Table(("metric", "value"), metrics.rows())], pictures)


def latency_section(milliseconds: Mapping[str, Sequence[float]], note: str = "") -> Section:
    """Latency table and distribution; stage name -> milliseconds of each frame."""
    rows = []
    for name, values in milliseconds.items():
        if len(values):
            median, p95, high = np.percentile(values, [50, 95, 100])
            rows.append((name, str(len(values)), f"{median:.1f}", f"{p95:.1f}", f"{high:.1f}"))
    head = ("stage", "frames", "median ms", "95 % below", "slowest")
    return Section("Latency", note, [Table(head, rows)], [Picture(latency_plot(milliseconds))])


_TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #8881; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.7rem; margin-bottom: .3rem; }
  h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
  code, pre { font: .85rem/1.5 ui-monospace, monospace; }
  pre { background: var(--soft); padding: .7rem 1rem; border-radius: 6px; white-space: pre-wrap; }
  pre, figcaption { overflow-wrap: anywhere; }
  table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: .25rem 1.4rem .25rem 0; border-bottom: 1px solid var(--line); }
  th { font-weight: 600; }
  td + td, th + th { text-align: right; }
  .facts { color: GrayText; font-size: .9rem; margin: 0; }
  .pictures { display: grid; gap: .8rem; }
  figure { margin: .4rem 0; }
  .many img { width: 100%; }
  img { max-width: 100%; border-radius: 4px; background: white; }
  figcaption { color: GrayText; font-size: .85rem; }
  @media (max-width: 700px) { .pictures { grid-template-columns: 1fr !important; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="facts">{{ facts.date }} &middot; {{ facts.machine }}</p>
{% if facts.model %}
<p class="facts">model {{ facts.model }}</p>
{% endif %}
<pre>{{ facts.command }}</pre>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% if section.text %}
<p>{{ section.text }}</p>
{% endif %}
{% for table in section.tables %}
<table>
<tr>{% for cell in table.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
{% if section.pictures %}
<div class="pictures{{ " many" if section.columns > 1 }}"
 style="grid-template-columns: repeat({{ section.columns }}, 1fr)">
{% for picture in section.pictures %}
<figure>
<img src="{{ picture.uri }}" alt="{{ picture.caption }}">
{% if picture.caption %}
<figcaption>{{ picture.caption }}</figcaption>
{% endif %}
</figure>
{% endfor %}
</div>
{% endif %}
</section>
{% endfor %}
</body>
</html>
""")
