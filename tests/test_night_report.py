"""The page of a night holds the report and what has changed, whatever the night was like."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from test_drift import NAN, hessian_of
from test_report import EVIL, _Page

from lrh_dask.drift.alerts import Alert
from lrh_dask.drift.drift import compare
from lrh_dask.drift.explained import Explained
from lrh_dask.reports import night_report, report
from lrh_dask.reports.night_figure import nights_figure
from lrh_dask.reports.night_page import DataLedger, NightPage, PastRun, usual
from lrh_dask.reports.night_report import write_night_report

TONIGHT, BEFORE = hessian_of([5.0, -2.9, 1.0]), hessian_of([5.0, -2.0, 1.0])
DATA = DataLedger(900, 12, 3, 12_345, "last 30 days", "2026-10-03T01:00:00Z", None)


def past(night, values=(5.0, -2.0, 1.0), half=0.1, **changes):
    return PastRun(**{
        "run": f"night-{night}",
        "created": f"2026-{10 + night // 28:02}-{1 + night % 28:02}T03:00Z",
        "n_pairs": 1000 + night, "new_pairs": 100, "rank": len(values),
        "index": sum(v < 0 for v in values), "residual": 0.1, "held_out_residual": 0.12,
        "verdict": "noisy", "eigenvalues": tuple(values), "half_widths": (half,) * len(values),
        **changes})


def nights(n, **last):
    return (*(past(i) for i in range(n - 1)), past(n - 1, **last))


FULL = NightPage(
    run="night-9", created="2026-10-10T03:00:00Z", data=DATA,
    drifts={"the last run, night-8": compare(BEFORE, TONIGHT, shared_pairs=900),
            "29 runs before, night-0": compare(TONIGHT, TONIGHT)},
    explained=Explained(0.4, 0.01, 0.12, 0.01, 900, 8, {}),
    alerts=(Alert("drift_beyond", "an eigenvalue went", 9.0, 5.0, "Compare the two runs"),),
    unjudged=("stale_after: the age of the newest pair is not known",),
    history=nights(10, values=(5.0, -2.9, 1.0), n_alerts=1))
ODD = {
    "full": (TONIGHT, FULL),
    "first night": (TONIGHT, NightPage("night-0", "2026-10-01", DATA, history=nights(1))),
    "nothing known": (hessian_of([], held_out_residual=NAN), NightPage("x", "", DATA)),
    "rank 0 after some": (hessian_of([]), NightPage(
        "x", "2026-10-02", DATA, {"the last run": compare(BEFORE, hessian_of([]))},
        history=(past(0), past(1, values=())))),
    "no errors": (TONIGHT, replace(FULL, drifts={"the last run": compare(
        hessian_of([5.0, 4.0], errors=NAN), TONIGHT)}, history=nights(8, half=NAN))),
    "a year": (TONIGHT, replace(FULL, history=nights(365, index=7))),
    "residual unknown": (TONIGHT, replace(FULL, explained=Explained(
        NAN, NAN, NAN, NAN, 0, 0, {}), history=nights(7, held_out_residual=NAN, residual=NAN))),
}


@pytest.fixture
def no_figures(monkeypatch):
    """Claims about words need not wait for Matplotlib."""
    for module, figure in ((report, "spectrum_figure"), (report, "held_out_figure"),
                           (report, "bucket_figure"), (night_report, "nights_figure")):
        monkeypatch.setattr(module, figure, lambda _: "")


def text_of(name, tmp_path):
    hessian, night = ODD[name] if isinstance(name, str) else (TONIGHT, name)
    return write_night_report(hessian, tmp_path / "n.html", night).read_text(encoding="utf-8")


def page_of(name, tmp_path):
    return _Page(text_of(name, tmp_path))


@pytest.mark.parametrize("name", ODD)
def test_any_night_gives_a_small_page_that_loads_nothing(name, tmp_path):
    text = text_of(name, tmp_path)
    page = _Page(text)
    assert len(text.encode()) < 400 * 1024
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"@import|url\((?!#)|(?:href|src)\s*=\s*[\"'](?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert " nan" not in page.text.lower()
    for heading in ("Tonight’s data", "Key figures", "Spectrum", "Residual by bucket",
                    "What this does not know", "Provenance"):
        assert f"{heading}</h2>" in text


def test_the_page_says_what_the_night_was(tmp_path, no_figures):
    text = page_of("full", tmp_path).text
    for words in ("run night-9", "1 alert", "An eigenvalue went (drift_beyond: 5) . Compare",
                  "Not judged: stale_after", "new pairs 900", "of them late 12",
                  "rows not counted 3", "pairs in this run 12,345", "window last 30 days",
                  "recorded from 2026-10-03 01:00", "The last run leaves 0.400 ± 0.010",
                  "20 standard errors worse", "What has changed since the last run, night-8",
                  "An eigenvalue drifted from -2 to -2.9", "−2.000 ± 0.050 −2.900 ± 0.050",
                  "1.450 ± ", "What has changed since 29 runs before, night-0",
                  "noise alone leaves", "index 1 1 certain: 1, then 1", "900 in both",
                  "Beside the last 9 runs", "night-0 2026-10-01 03:00 1,000 100 3 5.000 −2.000 1"):
        assert words in text


def test_a_first_night_has_nothing_to_compare_with_and_says_so(tmp_path, no_figures):
    text = page_of("first night", tmp_path).text
    assert "There is no earlier run to compare with." in text
    assert "No alerts" in text
    assert "Beside the last" not in text


def test_a_plain_report_has_nothing_of_a_night(tmp_path, no_figures):
    text = report.write_report(TONIGHT, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "lerts" not in text
    assert "onight" not in text


def test_all_words_are_escaped(tmp_path, no_figures):
    night = NightPage(
        EVIL, EVIL, replace(DATA, window=EVIL, oldest=EVIL, newest=EVIL),
        {EVIL: compare(BEFORE, TONIGHT)}, None, (Alert(EVIL, EVIL, 1.0, 1.0, EVIL),), (EVIL,),
        tuple(past(i, run=EVIL, created=EVIL, verdict=EVIL) for i in range(8)))
    page = page_of(night, tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 8 + 5
    text = text_of(night, tmp_path)
    assert "<script" not in nights_figure(night.history)
    assert "<script" not in text


def test_the_same_night_gives_the_same_bytes(tmp_path):
    first = text_of("full", tmp_path)
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 20.0, "svg.hashsalt": None}):
        assert text_of("full", tmp_path) == first


def test_the_table_of_runs_stops_at_thirty_and_says_so(tmp_path, no_figures):
    text = page_of("a year", tmp_path).text
    assert "The last 30 of 365." in text
    assert "night-364" in text
    assert "night-335" in text
    assert "night-334" not in text


@pytest.mark.parametrize("n", [1, 2, 60])
def test_the_figure_shows_every_line_marked_changes_and_alerts(n):
    history = nights(n, values=(5.0, -2.0, -1.0), n_alerts=2)
    svg = nights_figure(history)
    title = ElementTree.fromstring(svg)[0].text
    assert title.startswith(f"The {3 if n == 1 else 4} leading eigenvalues over {n} runs, from ")
    assert f"{int(n > 1)} changes of the index, 1 runs with alerts" in title
    assert ("1 → 2</text>" in svg) == (n > 1)
    assert "alert raised</text>" in svg
    assert f"{history[0].created[5:10]}</text>" in svg
    assert "LineCollection" in svg


def test_runs_of_one_day_are_told_apart_by_the_hour():
    svg = nights_figure(tuple(past(0, created=f"2026-10-01T{h:02}:30:00Z") for h in (3, 9)))
    assert "10-01 03:30</text>" in svg
    assert "10-01 09:30</text>" in svg


def test_values_that_span_decades_are_drawn_by_size_on_a_logarithmic_axis():
    assert "|eigenvalue|</text>" in nights_figure(nights(3, values=(500.0, -2.0, 1.0)))
    assert "|eigenvalue|" not in nights_figure(nights(3))


def test_no_run_with_eigenvalues_has_a_sentence_instead_of_a_plot():
    for history in ((), (past(0, values=()),)):
        assert nights_figure(history) == (
            '<p class="empty">No eigenvalues over nights to draw: no run has found any.</p>')


def test_usual_is_the_median_and_range_of_the_runs_before_by_sign_and_order():
    rng = np.random.default_rng(0)
    history = [past(i, values=(5 + rng.normal(), -2 + 0.1 * rng.normal())) for i in range(41)]
    rows = usual(tuple(history))
    firsts = [run.eigenvalues[0] for run in history[-31:-1]]
    assert [(row.sign, row.place, row.n_runs) for row in rows] == [(1.0, 0, 30), (-1.0, 0, 30)]
    assert (rows[0].median, rows[0].lowest, rows[0].highest) == (
        np.median(firsts), min(firsts), max(firsts))
    assert rows[0].tonight == history[-1].eigenvalues[0]
    assert usual(tuple(history[:5])) == ()


def test_a_line_of_a_catalogue_becomes_a_line_of_the_history():
    row = SimpleNamespace(**{**vars(past(3)), "residual": None, "held_out_residual": 0.5,
                             "standard_errors": (0.1, None, 0.2)})
    run = PastRun.of(row)
    assert np.isnan(run.residual)
    assert np.isnan(run.half_widths[1])
    assert run.half_widths[0] == pytest.approx(0.2093, abs=1e-4)   # Student's t of 19
    assert (run.run, run.index, run.eigenvalues) == ("night-3", 1, (5.0, -2.0, 1.0))


def test_tonight_is_a_line_of_its_own_history():
    run = PastRun.tonight(TONIGHT, run="x", created="2026-10-01", new_pairs=5, n_alerts=1,
                          leading=2)
    assert run.eigenvalues == (5.0, -2.9)
    assert (run.rank, run.index, run.verdict, run.n_alerts) == (3, 1, "noisy", 1)
