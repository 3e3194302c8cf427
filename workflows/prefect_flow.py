"""Every night by Prefect: `python workflows/prefect_flow.py nightly.yaml`, and leave it running.

It needs `pip install "lrh-dask[prefect]"` and a server (`prefect server start`, PREFECT_API_URL; it
reports its use to its makers unless PREFECT_SERVER_ANALYTICS_ENABLED=false). Prefect only calls,
and keeps what came of it: Completed (`Published` or `Nothing new`), Failed as `Alerts` with their
words, Failed as anything else. All but wrong settings and pairs is tried again, three times.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.states import Completed, Failed

from lrh_dask import BadPairs, SettingsError, nightly


class Log:
    """What a run says goes to Prefect's log."""

    def __init__(self, logger):
        self.say = logger.info

    def stages(self, _):
        """Whoever is told of every task that is done: nobody here."""
        return nullcontext(self)

    def event(self, _):
        """A task is done."""


def may_get_better(_task, _run, state):
    """Whether another try is worth it."""
    return not isinstance(state.result(raise_on_failure=False), (SettingsError, BadPairs))


@task(retries=3, retry_delay_seconds=900, retry_condition_fn=may_get_better, persist_result=False)
def count_new_pairs(config: str):
    """One call of `lrh nightly`, in this process."""
    return nightly(config, Log(get_run_logger()))


@flow(name="lrh-nightly")
def night(config: str):
    """Count what is new; alerts are a failure that says what to look at."""
    outcome = count_new_pairs(config)
    if outcome.alerts:
        return Failed(name="Alerts", message=" ".join(map(str, outcome.alerts)))
    name = "Published" if outcome.is_new else "Nothing new"
    return Completed(name=name, message=str(outcome.path))


if __name__ == "__main__":
    night.serve("every-night", cron="30 2 * * *", parameters={"config": str(Path(sys.argv[1]))})
