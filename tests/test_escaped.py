"""Names and texts that others chose are shown as they are: by no page as markup, by no terminal."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import lrh_dask
from lrh_dask.errors import printable
from lrh_dask.nights import underway
from lrh_dask.nights.underway import State, Status
from lrh_dask.reports.screen import Screen

TAG = "<script>alert(1)"
NAME = f'{TAG}<img src=x onerror=alert(2)>"onload=alert(3) [red]\x1b[31m\x1b]0;mine\x07\x9b5n'
LABEL = f"</script>{TAG}</script> [/red] [bold]x[/bold]"
OURS = {"svg", "path", "g", "use", "defs", "style", "clippath", "rect", "text", "metadata"}


class Elements(HTMLParser):
    """Scripts and attributes that act, as a browser would find them."""

    def __init__(self, page):
        super().__init__()
        self.acts, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "img", "iframe", "object", "embed"}:
            self.acts.append(tag)
        self.acts += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def harmless(page):
    found = Elements(page)
    assert found.acts == []
    assert not steers(page)
    return found.text


@pytest.fixture
def store(tmp_path, make_pairs):
    pairs = make_pairs(0, 300, 8, [3.0, -1.0], noise=0.01)
    store = tmp_path / f"{NAME}.zarr"
    lrh_dask.append_pairs(store, pairs.x, pairs.y, label=LABEL)
    return store


def test_the_search_finds_what_acts():
    assert Elements("<p onload=x>").acts == ["onload"]
    assert Elements(f"<p>{TAG}</p>").acts == ["script"]


def steers(text):
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_run_and_its_report_show_names_as_they_are(lrh, store, tmp_path):
    done = lrh("run", store.name, "--workers", 1, "--performance-report", "p.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not steers(done.stdout + done.stderr)
    for said in (done.stdout, done.stderr):
        assert TAG in said
        assert r"[red]\x1b[31m" in said
    result = f"{NAME}-hessian.zarr"
    page = tmp_path / "r.html"
    told = lrh("report", result, "--out", page.name, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert TAG in harmless(page.read_text())
    performance = (tmp_path / "p.html").read_text()
    assert TAG not in performance
    inspected = lrh("inspect", store.name, cwd=tmp_path)
    assert not steers(inspected.stdout)
    assert "[red]" in inspected.stdout


def test_what_a_result_says_of_itself_is_text(lrh, store, tmp_path):
    """It may have been written by anybody."""
    lrh_dask.fit(lrh_dask.open_pairs(store)).save(tmp_path / "r.zarr")
    path = tmp_path / "r.zarr" / "zarr.json"
    document = json.loads(path.read_text())
    known = document["attributes"]["provenance"]
    known["notices"] = [LABEL, NAME]
    known["settings"] = {LABEL: NAME, "store": NAME}
    known["store"] = NAME
    path.write_text(json.dumps(document))
    assert lrh("report", "r.zarr", cwd=tmp_path).returncode == 0
    shown = harmless((tmp_path / "r.html").read_text())
    assert shown.count(TAG) >= 4
    done = lrh("diff", "r.zarr", "r.zarr", cwd=tmp_path)
    assert not steers(done.stdout + done.stderr)


@pytest.mark.long
def test_the_page_of_a_night_shows_names_as_they_are(lrh, store, tmp_path):
    (tmp_path / "night.yaml").write_text(json.dumps({
        "store": store.name, "runs": f"runs {TAG} [red]", "window": f"label {LABEL}",
        "alerts": {"sharpness_above": 0.1}, "cluster": {"workers": 1}}))
    for seed in range(2):
        done = lrh("nightly", "night.yaml", cwd=tmp_path)
        assert done.returncode in {0, 5}, done.stderr
        assert not steers(done.stdout + done.stderr)
        rows = np.random.default_rng(seed).standard_normal((50, 8))
        lrh_dask.append_pairs(store, rows, rows, label=LABEL)
    pages = list((tmp_path / f"runs {TAG} [red]").glob("2*/report.html"))
    assert len(pages) == 2
    for page in pages:
        shown = harmless(page.read_text())
        assert TAG in shown
        assert "[/red]" in shown
        assert TAG not in (page.parent / "dask-performance.html").read_text()
    for command in ("runs", "status"):
        done = lrh(command, "--runs", f"runs {TAG} [red]", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not steers(done.stdout)


def test_what_a_status_or_a_log_holds_does_not_steer_the_terminal(lrh, tmp_path):
    name = "a [bold]run[red]"
    underway.note(tmp_path, Status(name, State.failed, where=NAME, error=NAME, began=1.0))
    (underway.job_folder(tmp_path, name) / "log.txt").write_text(f"{NAME}\nnext line\n")
    for command in (["status"], ["status", name], ["logs", name]):
        done = lrh(*command, "--runs", tmp_path, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout or command[0] == "logs"
        assert not steers(done.stdout + done.stderr)
        assert "[red]" in done.stdout


def test_an_error_does_not_steer_the_terminal(lrh, tmp_path):
    for args in (["run", f"{NAME}.yaml"], ["inspect", NAME], ["status", NAME, "--runs", "."]):
        done = lrh(*args, cwd=tmp_path)
        assert done.returncode in {2, 3}
        assert not steers(done.stderr)


def test_a_terminal_gets_colours_of_ours_and_none_of_others(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    screen.fact("run", "\x1b[5mblinks [red]")
    screen.facts([("[blue]name", "\x1b[5mvalue")])
    screen.say("\x1b[5msaid")
    said = "".join(capsys.readouterr())
    assert "\x1b[1m" in said
    assert "\x1b[5m" not in said
    assert said.count(r"\x1b[5m") == 3
    assert "[blue]name" in said


def test_lines_and_letters_stay_as_they_are():
    assert printable("a\n\tñ 漢 ± → é") == "a\n\tñ 漢 ± → é"
    assert printable("\x1b\r\x9b\u202e") == r"\x1b\r\x9b\u202e"
