"""The report says what the result knows, and what it does not, whatever the result looks like."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats

from lrh_dask.errors import SettingsError
from lrh_dask.reports import report
from lrh_dask.reports.figures import (
    bucket_figure,
    held_out_figure,
    spectrum_figure,
)
from lrh_dask.reports.report import grades, write_report
from lrh_dask.statistics.certificates import Certificates, outlying_buckets
from lrh_dask.statistics.hessian import LowRankHessian
from lrh_dask.statistics.verdicts import Verdict

EVIL = "<script>alert('x')</script>\"&"
NOTE = "jackknife over 20 buckets, conditional on the basis"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Page(HTMLParser):
    """Tags, ids and visible text; fails on a tag that is closed out of order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.text, self.stack = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.stack
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.text += f" {data}"


def _certificates(**changes):
    return Certificates(**{
        "residual": 0.03, "held_out_residual": 0.032, "asymmetry": 0.01, "captured_energy": 0.995,
        "tail": 0.0, "condition": 12.5, "ridge": 0.0, "n_basis": 24, "n_buckets": 20,
        "centered": False, "standard_error_note": NOTE, "verdict": Verdict.noisy, **changes})


def _hessian(values, *, errors=None, n_features=40, n_pairs=5000, by_rank=None, buckets=None,
             provenance=None, **certificates):
    values = np.asarray(values, dtype=float)
    if buckets is not None:
        certificates["outlier_buckets"] = outlying(buckets)
    by_rank = np.maximum(0.7 ** np.arange(25.0), 0.03) if by_rank is None else np.asarray(by_rank)
    return LowRankHessian(
        eigenvalues=values, n_pairs=n_pairs, certificates=_certificates(**certificates),
        standard_errors=0.02 * np.abs(values) if errors is None else np.asarray(errors, float),
        eigenvectors=np.eye(n_features, values.size), provenance=provenance or {},
        curves={"residual_by_rank": by_rank, "residual_by_rank_error": 0.05 * by_rank,
                "bucket_residuals": np.linspace(0.029, 0.031, 20) if buckets is None
                else np.asarray(buckets, dtype=float)})


def outlying(residuals):
    """Of buckets of one length each."""
    return outlying_buckets(np.asarray(residuals, float), np.square(residuals),
                            np.full(len(residuals), 250))


def _text(hessian, tmp_path):
    return write_report(hessian, tmp_path / "report.html").read_text(encoding="utf-8")


def _page(hessian, tmp_path):
    return _Page(_text(hessian, tmp_path))


NAN = float("nan")
SIGNS = np.where(np.arange(300) % 3, 1.0, -1.0)
ODD = {
    "healthy": _hessian(10 * 0.7 ** np.arange(16) * SIGNS[:16]),
    "rank 0": _hessian([], by_rank=[1.0, 1.1], verdict=Verdict.inconsistent),
    "rank 0, nothing known": _hessian([], by_rank=[], buckets=[], n_buckets=0, residual=1.0,
                                      held_out_residual=NAN, condition=NAN, asymmetry=NAN),
    "rank 1": _hessian([-2.0]),
    "rank 1 of three": _hessian([2.0], n_features=3, by_rank=[1.0, 0.1, 0.1, 0.1], n_basis=3),
    "rank 300, no errors": _hessian(SIGNS / np.arange(1, 301), errors=np.full(300, NAN),
                                    n_features=310, by_rank=1 / np.arange(1.0, 2002.0)),
    "rank 3000": _hessian(np.ones(3000) / np.arange(1, 3001), n_features=3000),
    "some errors missing": _hessian([9.0, 3.0, 0.1], errors=[NAN, 0.1, 5.0]),
    "an eigenvalue of zero": _hessian([9.0, 0.0], errors=[0.0, 0.0]),
    "held out unknown": _hessian([3.0], by_rank=[NAN], held_out_residual=NAN, n_buckets=1),
    "one bucket": _hessian([3.0], buckets=[0.03], n_buckets=1),
    "exact pairs": _hessian([3.0, -1.0], errors=[1e-15, 1e-15], buckets=np.full(20, 1e-16),
                            by_rank=[1.0, 0.5, 1e-14, 1e-14], residual=1e-16,
                            held_out_residual=1e-14),
    "all zero": _hessian([], by_rank=[0.0, 0.0, 0.0], buckets=np.zeros(5)),
}


@pytest.fixture
def no_figures(monkeypatch):
    """Claims about words need not wait for Matplotlib."""
    for figure in ("spectrum_figure", "held_out_figure", "bucket_figure"):
        monkeypatch.setattr(report, figure, lambda _: "")


@pytest.mark.parametrize("name", ODD)
def test_any_result_gives_a_small_page_that_loads_nothing(name, tmp_path):
    text = _text(ODD[name], tmp_path)
    page = _Page(text)
    assert len(text.encode()) < 300 * 1024
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"@import|url\((?!#)|(?:href|src)\s*=\s*[\"'](?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert ODD[name].certificates.verdict.value.replace("`", "") in re.sub(
        r" ([,.)])", r"\1", page.text).replace("( ", "(")
    assert " nan" not in page.text.lower()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("figure", [spectrum_figure, held_out_figure, bucket_figure])
def test_a_figure_is_an_svg_with_a_text_alternative_or_a_sentence(figure, name):
    svg = figure(ODD[name])
    element = ElementTree.fromstring(svg)
    if element.tag == "p":
        assert element.text.startswith("No ")
        return
    assert element.attrib["role"] == "img"
    assert element[0].tag.endswith("title")
    assert element[0].text == element.attrib["aria-label"]
    references = set(re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", svg))
    ids = {node.attrib["id"] for node in element.iter() if "id" in node.attrib}
    assert {a or b for a, b in references} <= ids


def test_report_escapes_names(tmp_path, no_figures):
    hessian = _hessian([3.0], standard_error_note=EVIL, provenance={
        "store": EVIL, "created": EVIL, "fingerprint": EVIL, "notices": [EVIL],
        "versions": {EVIL: EVIL}, "seconds": {EVIL: 1.0}, "bytes": {EVIL: 5},
        "settings": {EVIL: {EVIL: [EVIL]}}})
    page = _page(hessian, tmp_path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 11


def test_rank_zero_has_a_sentence_instead_of_a_plot(tmp_path):
    assert "<svg" not in spectrum_figure(ODD["rank 0"])
    page = _page(ODD["rank 0"], tmp_path)
    assert "No spectrum to draw: this result has rank 0." in page.text
    assert "No eigenvalues" in page.text


def test_nothing_held_out_has_a_sentence_and_is_not_called_good(tmp_path, no_figures):
    hessian = ODD["held out unknown"]
    assert "<svg" not in held_out_figure(hessian)
    assert grades(hessian)["held_out"] == "unknown"
    assert "No pairs could be held out" in _page(hessian, tmp_path).text


def test_missing_errors_give_the_reason_and_no_interval(tmp_path, no_figures):
    hessian = _hessian([3.0, -1.0], errors=[NAN, NAN], standard_error_note="too few pairs")
    assert grades(hessian)["errors"] == "unknown"
    assert "No error bars: too few pairs." in _page(hessian, tmp_path).text
    assert "LineCollection" not in spectrum_figure(hessian)
    assert "LineCollection" in spectrum_figure(_hessian([3.0, -1.0]))


def test_intervals_are_student_t_with_one_degree_less_than_buckets(tmp_path, no_figures):
    half = stats.t.ppf(0.975, 4) * 0.25
    text = _page(_hessian([3.0], errors=[0.25], n_buckets=5), tmp_path).text
    assert f"{3 - half:.4g} to {3 + half:.4g}" in text


def test_a_sign_within_its_error_is_shown_as_open():
    assert "sign open" not in spectrum_figure(_hessian([3.0, 1.0], errors=[0.1, 0.1]))
    unsure = _hessian([3.0, -1.0], errors=[0.1, 0.6])
    assert "negative, sign open" in spectrum_figure(unsure)
    assert grades(unsure)["errors"] == "poor"


def test_the_table_stops_at_thirty_and_says_so(tmp_path, no_figures):
    page = _page(ODD["rank 300, no errors"], tmp_path)
    assert "The first 30 of 300." in page.text
    assert len(re.findall(r"<tr><td>\d+</td>", _text(ODD["rank 300, no errors"], tmp_path))) == 30


def test_a_long_curve_is_cut_and_says_so():
    assert "rank (up to 900 of 2,000)" in held_out_figure(ODD["rank 300, no errors"])
    assert "rank (up to 20 of 24)" in held_out_figure(ODD["rank 1"])


def test_the_rank_of_the_result_is_marked():
    assert "rank of this result, 16" in held_out_figure(ODD["healthy"])


def test_outlying_buckets_are_found_named_and_not_good(tmp_path, no_figures):
    residuals = np.linspace(0.029, 0.031, 20)
    residuals[[4, 17]] = 0.09
    hessian = _hessian([3.0], buckets=residuals)
    assert outlying(residuals) == (4, 17)
    assert grades(hessian)["buckets"] == "poor"
    assert "in buckets 4, 17" in _page(hessian, tmp_path).text
    assert ">17</text>" in bucket_figure(hessian)


@pytest.mark.parametrize("residuals", [
    np.full(20, 0.03), np.append(np.full(19, 1e-16), 4e-16), np.full(4, NAN), np.array([])])
def test_rounding_makes_no_outlier(residuals):
    assert outlying(residuals) == ()


def test_an_unknown_bucket_does_not_hide_an_outlier():
    assert outlying([0.03, NAN, 0.031, 0.029, 0.5]) == (4,)


def test_a_bucket_that_drowns_all_others_is_an_outlier():
    """None is explained then, all residuals are near 1: what is left tells them apart."""
    alike, lengths = np.full(10, 0.99), np.ones(10)
    assert outlying_buckets(alike, np.square(alike * lengths), 100 * np.ones(10)) == ()
    lengths[3] = 100.0
    assert outlying_buckets(alike, np.square(alike * lengths), 100 * np.ones(10)) == (3,)
    explained = 0.1 * alike   # the first steps of a descent are long, and explained
    assert outlying_buckets(explained, np.square(explained * lengths), 100 * np.ones(10)) == ()


@pytest.mark.parametrize(("certificate", "name", "steps"), [
    ("held_out_residual", "held_out", [0.03, 0.05, 0.08, NAN]),
    ("asymmetry", "asymmetry", [0.0, 0.1, 1.2, NAN]),
    ("captured_energy", "captured", [1.0, 0.95, 0.2, NAN]),
    ("tail", "tail", [0.0, 0.05, 0.5, NAN]),
    ("condition", "condition", [1.0, 1e6, 1e12, NAN]),
    ("ridge", "ridge", [0.0, 0.01, 1.0, NAN]),
    ("residual", "residual", [0.01, 0.1, 0.9, NAN]),
])
def test_a_worse_certificate_gets_a_worse_grade_and_other_words(
        certificate, name, steps, tmp_path, no_figures):
    seen = [_hessian([3.0], **{certificate: step}) for step in steps]
    assert [grades(h)[name] for h in seen] == ["good", "fair", "poor", "unknown"]
    texts = [_page(h, tmp_path).text.split("Certificates in words")[1] for h in seen]
    assert len(set(texts)) == 4


def test_no_better_than_zero_is_poor_even_where_in_sample_is_as_bad():
    assert grades(_hessian([3.0], residual=1.0, held_out_residual=1.0))["held_out"] == "poor"


def test_the_page_never_certifies_a_minimum(tmp_path, no_figures):
    text = _page(_hessian([3.0, 2.0]), tmp_path).text
    assert "A minimum is never certified" in text
    assert "38 of 40 directions" in text
    assert "pairs can touch" not in text
    few = _page(_hessian([3.0, 2.0], n_pairs=10), tmp_path).text
    assert "10 pairs can touch at most as many directions" in few


def test_provenance_is_shown_down_to_nested_settings(tmp_path, no_figures):
    page = _page(_hessian([3.0], provenance={
        "settings": {"fit": {"rank": "auto", "center": None}, "empty": {}},
        "created": "2026-11-22T04:19:33Z", "notices": ["3 rows are zero"], "n_tasks": 1234,
        "seconds": {"total": 12.5, "read": 3.0}, "bytes_read": 3 * 2**30,
        "peak_worker_bytes": 5 * 2**20, "fingerprint": "9f2c", "versions": {"numpy": "2.4"}}),
        tmp_path)
    for shown in ("fit.rank auto", "fit.center None", "empty {}", "2026-11-22 04:19:33Z",
                  "3 rows are zero", "tasks 1,234", "total time 12.5 s",
                  "reading, summed over tasks 3 s", "3.0 GiB", "5.0 MiB",
                  "9f2c", "numpy 2.4"):
        assert shown in page.text


def test_the_same_result_gives_the_same_bytes(tmp_path):
    first = _text(ODD["healthy"], tmp_path)
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 20.0, "svg.hashsalt": None}):
        assert _text(ODD["healthy"], tmp_path) == first


def test_the_caller_keeps_their_matplotlib_settings(tmp_path):
    with mpl.rc_context({"font.size": 20.0}):
        before = dict(mpl.rcParams)
        _text(ODD["healthy"], tmp_path)
        assert dict(mpl.rcParams) == before


def test_importing_the_report_does_not_import_matplotlib_nor_does_writing_import_pyplot(tmp_path):
    code = ("import sys, runpy; import lrh_dask.reports.report, lrh_dask.reports.figures as r\n"
            "slow = {'matplotlib', 'jinja2', 'scipy.stats'} & set(sys.modules)\n"
            "assert not slow, slow\n"
            "from matplotlib import style\n"
            "with r.styled(): r.as_svg(r.new_axes('x', 'y')[0], 'a', 'b')\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_report_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path, no_figures):
    target = tmp_path / "new" / "report.html"
    assert write_report(ODD["rank 1"], str(target)) == target
    write_report(ODD["rank 0"], target)
    assert "rank 0" in target.read_text(encoding="utf-8")
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_a_directory_is_refused_with_a_fix(tmp_path):
    with pytest.raises(SettingsError, match=r"got a directory.*report\.html"):
        write_report(ODD["rank 1"], tmp_path)


def test_a_report_that_fails_leaves_the_older_one_whole(tmp_path, monkeypatch, no_figures):
    target = write_report(ODD["rank 1"], tmp_path / "report.html")
    older = target.read_bytes()

    def full(*_args):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_report(ODD["rank 0"], target)
    assert target.read_bytes() == older
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
