"""A preload of Dask workers: each task that reads pairs of a store named `slow...` takes a while.

So a run of a few pairs is under way long enough to be looked at or ended, on any machine.
"""

import time
from pathlib import Path

SECONDS = 0.3


def dask_setup(_):
    from lrh_dask.runs import leaves

    fold = leaves._fold

    def slow(pairs, *args, **kwargs):
        if Path(pairs.name).name.startswith("slow"):
            time.sleep(SECONDS)
        return fold(pairs, *args, **kwargs)

    leaves._fold = slow
