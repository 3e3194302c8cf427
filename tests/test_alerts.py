"""Alerts are raised by what is measured, say what to do, and reach a webhook or say why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from test_drift import NAN, hessian_of, turned

from lrh_dask.drift.alerts import Alert, AlertsRaised, judge, unjudged
from lrh_dask.drift.drift import compare
from lrh_dask.drift.explained import Explained
from lrh_dask.nights.webhook import notify
from lrh_dask.settings.ages import seconds_of
from lrh_dask.settings.alert_settings import AlertSettings

QUIET = hessian_of([5.0, -2.0])
MOVED = hessian_of([5.0, -2.9])
SECRET = "s3cr3t"
ONE = (Alert("residual_above", "the residual is 0.5", 0.5, 0.3, "Look"),)


def settings(**values):
    return AlertSettings.model_validate(values)


def names(alerts):
    return [alert.name for alert in alerts]


def test_nothing_is_raised_that_was_not_asked_for():
    assert judge(settings(), MOVED, drifts={"the last run": compare(QUIET, MOVED)},
                 newest_age_seconds=1e9) == ()


@pytest.mark.parametrize(("limit", "raised"), [(4.9, True), (5.0, False), (5.1, False)])
def test_sharpness_is_the_largest_eigenvalue_and_no_negative_one(limit, raised):
    assert names(judge(settings(sharpness_above=limit), QUIET)) == ["sharpness_above"] * raised
    assert judge(settings(sharpness_above=1.0), hessian_of([-9.0])) == ()


def test_a_sharpness_within_its_error_of_the_limit_says_so():
    assert "within its error" in judge(settings(sharpness_above=4.95), QUIET)[0].what
    assert "within its error" not in judge(settings(sharpness_above=2.0), QUIET)[0].what


def test_drift_counts_standard_errors_and_says_how_often_chance_does_that():
    drift = compare(QUIET, MOVED)
    alert, = judge(settings(drift_beyond=5), MOVED, drifts={"the last run": drift})
    assert alert.measured == pytest.approx(0.9 / np.hypot(0.05, 0.05))
    assert "-2 to -2.9 since the last run" in alert.what
    assert "next to never" in alert.what
    assert judge(settings(drift_beyond=20), MOVED, drifts={"the last run": drift}) == ()


def test_each_earlier_run_is_judged():
    drifts = {"the last run": compare(QUIET, QUIET), "30 runs ago": compare(MOVED, QUIET)}
    alert, = judge(settings(drift_beyond=5), QUIET, drifts=drifts)
    assert "30 runs ago" in alert.what


def test_overlap_is_judged_at_gaps_and_beyond_what_noise_turns():
    away = hessian_of([5.0, -2.0], turned(0.6, 0, 5)[:, :2])
    alert, = judge(settings(overlap_below=0.9), away, drifts={"x": compare(QUIET, away)})
    assert alert.measured == pytest.approx(np.cos(0.6) ** 2)
    cluster = hessian_of([2.0, 1.99, 0.5])
    inside = hessian_of([2.0, 1.99, 0.5], turned(1.0)[:, :3])
    assert judge(settings(overlap_below=0.9), inside, drifts={"x": compare(cluster, inside)}) == ()
    noisy = [hessian_of([5.0], u, errors=0.8, margins=1.0) for u in
             (np.eye(12)[:, :1], turned(0.6, 0, 5)[:, :1])]
    assert compare(*noisy).cuts[0].apart
    assert judge(settings(overlap_below=0.9), noisy[1], drifts={"x": compare(*noisy)}) == ()


def test_new_pairs_that_the_last_run_does_not_explain_are_a_drift():
    worse = Explained(0.4, 0.01, 0.12, 0.01, 900, 8, {})
    alert, = judge(settings(drift_beyond=5), QUIET, explained=worse)
    assert alert.measured == pytest.approx(0.28 / np.hypot(0.01, 0.01))
    as_promised = Explained(0.13, 0.01, 0.12, 0.01, 900, 8, {})
    assert judge(settings(drift_beyond=5), QUIET, explained=as_promised) == ()


def test_residual_is_that_of_held_out_pairs():
    assert names(judge(settings(residual_above=0.11), QUIET)) == ["residual_above"]
    assert judge(settings(residual_above=0.13), QUIET) == ()


@pytest.mark.parametrize(("text", "seconds", "shown"), [
    ("36h", 129_600, "36 h"), ("2 days", 172_800, "2 d"), ("90 min", 5400, "1.5 h"),
    ("1.5d", 129_600, "36 h"), ("1 week", 604_800, "7 d"), ("20m", 1200, "20 min")])
def test_an_age_is_read_and_shown_as_a_person_writes_it(text, seconds, shown):
    asked = settings(stale_after=text)
    assert asked.stale_seconds == seconds
    alerts = judge(asked, QUIET, newest_age_seconds=seconds + 1)
    assert names(alerts) == ["stale_after"]
    assert str(alerts[0]).startswith(
        f"the newest pair is {shown} old (stale_after: {shown}). ")
    assert judge(asked, QUIET, newest_age_seconds=seconds - 1) == ()
    assert seconds_of(shown) == seconds


def test_what_is_not_known_raises_nothing_and_is_said():
    blind = hessian_of([5.0], errors=NAN, held_out_residual=NAN)
    asked = settings(drift_beyond=3, overlap_below=0.9, residual_above=0.1, stale_after="1h")
    assert judge(asked, blind, drifts={"the last run": compare(blind, hessian_of([9.0]))}) == ()
    said = " ".join(unjudged(asked, blind, drifts={"x": compare(blind, hessian_of([9.0]))}))
    for name in ("drift_beyond", "residual_above", "stale_after"):
        assert name in said
    assert "no earlier run" in " ".join(unjudged(asked, QUIET, newest_age_seconds=1.0))
    known = {"drifts": {"x": compare(QUIET, QUIET)}, "newest_age_seconds": 1.0}
    assert unjudged(asked, QUIET, **known) == ()


@pytest.mark.parametrize("wrong", [
    {"sharpness": 1.0}, {"drift_beyond": 0}, {"overlap_below": 1.5}, {"residual_above": -1},
    {"stale_after": "soon"}, {"stale_after": "0h"}, {"stale_after": "3 fortnights"},
    {"webhook": f"ftp://x/{SECRET}"}, {"webhook": f"{SECRET} {SECRET}"}])
def test_wrong_settings_are_refused_and_a_webhook_is_not_repeated(wrong):
    with pytest.raises(ValidationError) as refused:
        settings(**wrong)
    assert SECRET not in str(refused.value.errors(include_input=False)[0]["msg"])


def test_a_url_is_neither_printed_nor_stored():
    asked = settings(webhook=f"https://user:{SECRET}@hooks.example/{SECRET}?key={SECRET}")
    assert SECRET not in repr(asked)
    assert asked.model_dump()["webhook"] == "https://hooks.example/..."
    assert SECRET in asked.webhook
    assert settings(webhook="LRH_WEBHOOK").model_dump()["webhook"] == "LRH_WEBHOOK"


def test_raised_alerts_end_a_run_with_exit_code_5():
    error = AlertsRaised(ONE)
    assert error.exit_code == 5
    assert str(error) == ("1 alert: the residual is 0.5 (residual_above: 0.3). Look. "
                          "The run itself is done.")


def test_a_webhook_gets_the_alerts_and_the_run_as_json(receiver):
    run = {"run": "night-1", "residual": NAN, "rank": np.int64(3)}
    assert notify(receiver.url, ONE, run) is None
    (path, kind, body), = receiver.got
    assert (path, kind) == (f"/{SECRET}", "application/json")
    assert json.loads(body) == {
        "text": "lrh: 1 alert\nthe residual is 0.5 (residual_above: 0.3). Look.",
        "alerts": [{"name": "residual_above", "what": "the residual is 0.5", "measured": 0.5,
                    "limit": 0.3, "to_do": "Look"}],
        "run": {"run": "night-1", "residual": None, "rank": 3}}


def test_a_variable_of_the_environment_may_hold_the_url(receiver, monkeypatch):
    monkeypatch.setenv("LRH_WEBHOOK", receiver.url)
    assert notify("LRH_WEBHOOK", ONE, {}) is None
    assert len(receiver.got) == 1


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_an_answer_that_is_no_success_is_told_without_the_url(receiver, answer):
    receiver.answer = answer
    said = notify(receiver.url, ONE, {})
    assert f"it answered {answer}" in said
    assert SECRET not in said
    assert len(receiver.got) == 1   # a redirect is not followed: it would lose the body


def test_no_answer_is_told_in_time_without_the_url(receiver):
    receiver.wait.clear()
    said = notify(receiver.url, ONE, {}, timeout=0.3)
    assert "127.0.0.1" in said
    assert SECRET not in said


@pytest.mark.parametrize("url", [
    f"http://127.0.0.1:9/{SECRET}", f"http://no.such.host.invalid/{SECRET}",
    f"http://[::1/{SECRET}", f"http://127.0.0.1:99999/{SECRET}", f"http://127.0.0.1/{SECRET}\n x",
    f"http:///{SECRET}"])
def test_an_address_that_leads_nowhere_is_told_without_the_url(url):
    said = notify(url, ONE, {}, timeout=2)
    assert said.startswith("alerts were not sent")
    assert SECRET not in said


def test_a_variable_that_is_missing_or_wrong_is_named_without_its_value(monkeypatch):
    monkeypatch.delenv("LRH_WEBHOOK", raising=False)
    assert "LRH_WEBHOOK is not set" in notify("LRH_WEBHOOK", ONE, {})
    monkeypatch.setenv("LRH_WEBHOOK", f"file:///{SECRET}")
    said = notify("LRH_WEBHOOK", ONE, {})
    assert "does not hold" in said
    assert SECRET not in said


def test_a_summary_that_json_does_not_know_is_told_and_does_not_raise(receiver):
    assert "TypeError" in notify(receiver.url, ONE, {"when": object()})
