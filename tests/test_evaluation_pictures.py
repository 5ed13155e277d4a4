"""Overlay, worst cases, plots and the HTML report."""

from __future__ import annotations

import html.parser

import numpy as np
import pytest
from squares import SIZE, instances_of, pair, region, square

from rise_perception.core.instances import Instances
from rise_perception.evaluation.metrics import measure
from rise_perception.evaluation.overlay import draw_overlay, id_color
from rise_perception.evaluation.plots import latency_plot
from rise_perception.evaluation.report import (
    Picture,
    Section,
    Table,
    latency_section,
    metrics_section,
    write_report,
)
from rise_perception.evaluation.worst_cases import WorstCases, draw_row


@pytest.fixture
def label_map():
    labels = np.zeros(SIZE, np.uint16)
    labels[2:12, 3:20], labels[20:35, 30:50] = 4, 300
    return labels


# ---- pictures


def test_overlay_colours_follow_ids_not_labels(label_map):
    image = np.full((*SIZE, 3), 128, np.uint8)
    one = draw_overlay(image, instances_of(label_map, ids=[8, 9]))
    two = draw_overlay(image, instances_of(label_map, ids=[9, 8]))
    np.testing.assert_array_equal(one[7, 10], two[27, 40])
    assert (one[7, 10] != one[27, 40]).any()
    assert (one[0, 0] == 128).all()
    assert (image == 128).all()
    assert tuple(one[2, 10]) == id_color(8)  # the outline is the colour alone


def test_overlay_leaves_the_inside_of_a_container_as_it_is(label_map):
    image = np.full((*SIZE, 3), 128, np.uint8)
    drawn = draw_overlay(image, instances_of(label_map, ("container", "object"), [0, 1]))
    assert (drawn[7, 10] == 128).all()
    assert (drawn[27, 40] != 128).any()


def test_overlay_of_nothing_one_pixel_and_many():
    assert draw_overlay(np.zeros((1, 1, 3), np.uint8), Instances.empty(1, 1)).shape == (1, 1, 3)
    draw_overlay(np.zeros((1, 1, 3), np.uint8), instances_of(np.full((1, 1), 65535, np.uint16)), scores=True)
    many = np.arange(1, 401, dtype=np.uint16).reshape(20, 20)
    assert draw_overlay(np.zeros((20, 20, 3), np.uint8), instances_of(many)).any()


def test_colours_of_neighbouring_ids_differ():
    colors = np.array([id_color(i) for i in range(1, 200)], int)
    for distance in (1, 2, 3, 4):
        assert np.abs(colors[distance:] - colors[:-distance]).max(axis=1).min() > 40


def test_worst_cases_keep_the_lowest_and_draw_only_those():
    worst, drawn = WorstCases(2), []

    def row(value):
        def draw():
            drawn.append(value)
            return np.full((1, 3, 3), value, np.uint8)

        return draw

    for value in (50, 90, 10, 95, 20):
        worst.offer(value / 100, row(value))
    np.testing.assert_array_equal(worst.picture()[:, 0, 0], [10, 20])
    assert 95 not in drawn
    assert WorstCases().picture() is None


def test_rows_of_different_images_have_one_width(label_map):
    rows = [
        draw_row("a", np.zeros((h, w, 3), np.uint8), *[np.zeros((h, w), np.uint16)] * 2)
        for h, w in ((1, 1), (99, 20), SIZE)
    ]
    assert len({row.shape[1] for row in rows}) == 1


# ---- report


class Audit(html.parser.HTMLParser):
    """Collects what a browser would fetch, and whether tags are balanced."""

    def __init__(self):
        super().__init__()
        self.links, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_self_contained_and_escapes(tmp_path, label_map):
    evil = "<script>alert(1)</script>"
    metrics = measure([pair([region(square(0, 0), 0.9)], [region(square(0, 0))])])
    sections = [
        metrics_section(metrics, np.zeros((10, 10, 3), np.uint8)),
        latency_section({"total": [10.0, 12.0, 30.0], "network": []}, evil),
        Section(
            evil, evil, [Table((evil, "b"), [(evil, "2")])], [Picture.of(np.zeros((4, 4, 3), np.uint8), evil)]
        ),
    ]
    write_report(tmp_path / "r.html", evil, f"rise demo {evil}", sections, evil)
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text
    assert "rise demo &lt;script&gt;" in text
    audit = Audit()
    audit.feed(text)
    assert not audit.open
    assert len(audit.links) == 4
    assert all(link.startswith("data:image/") for link in audit.links)


def test_latency_plot_of_nothing():
    assert latency_plot({}).startswith(b"\x89PNG")
    assert latency_plot({"total": []}).startswith(b"\x89PNG")
