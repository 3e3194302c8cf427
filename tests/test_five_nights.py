"""The page workflows/five-nights.md is what five nights on a real cluster say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).parents[1] / "workflows"
CODES = ["0", "0", "0", "5", "0"]


def told(page):
    """Exit codes of the nights, and what was new on each."""
    return (re.findall(r"\$ echo \$\?\n(\d+)", page),
            re.findall(r"([\d,]+) new, (\d+) of them late", page))


@pytest.mark.long
def test_five_nights_go_as_the_page_says(tmp_path):
    done = subprocess.run([sys.executable, WORKFLOWS / "five_nights.py", tmp_path],
                          capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "five-nights.md").read_text(encoding="utf-8")
    assert told(page) == (CODES, [("20,000", "0"), ("1,000", "0"), ("1,500", "500"),
                                  ("1,000", "0")])
    assert told(page) == told((WORKFLOWS / "five-nights.md").read_text(encoding="utf-8"))
    night_4, night_5 = page.split("## Night 4")[1].split("## Night 5")
    assert "1 alert: the last run leaves" in night_4
    assert "Nothing is new" in night_5
    reports = sorted(tmp_path.glob("*.html"))
    assert len(reports) == 4  # the fifth night has published nothing
    assert "alert" in reports[-1].read_text(encoding="utf-8")
