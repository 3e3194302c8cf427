"""A queue of one machine: `sbatch`, `qsub` and `bsub` that run a job's script at once.

It is no Slurm: it knows neither limits of time nor partitions. What dask-jobqueue writes is run
as it is. Jobs beyond the number it has room for wait for ever.
"""

from __future__ import annotations

import os

SUBMIT = """#!/bin/sh
# the script is a file (sbatch, qsub) or standard input (bsub)
for last; do :; done
script=$(mktemp "{folder}/job-XXXXXX")
if [ -f "$last" ]; then cp "$last" "$script"; else cat > "$script"; fi
id=$((9000000 + $$))  # it waits: no process has such a number
for place in $(seq "$(cat "{folder}/room")"); do
  if mkdir "{folder}/place-$place" 2> /dev/null; then
    setsid sh "$script" > "$script.log" 2>&1 < /dev/null &
    id=$!
    echo "$id" >> "{folder}/started"
    break
  fi
done
echo "{answer}"
"""
CANCEL = """#!/bin/sh
# ends a job that was started here, and nothing else
for last; do :; done
echo "$last" >> "{folder}/cancelled"
case "$last" in ''|*[!0-9]*|0|1) exit 1 ;; esac
grep -qx "$last" "{folder}/started" || exit 0
grep -q "{folder}/job-" "/proc/$last/cmdline" 2> /dev/null && kill -- "-$last"
exit 0
"""
ANSWERS = {"sbatch": "Submitted batch job $id", "qsub": "$id", "bsub": "Job <$id> is submitted"}


def install(folder, monkeypatch, room=8):
    """Put the queue's commands first in PATH; ``room``: how many jobs run at once."""
    for name, answer in ANSWERS.items():
        (folder / name).write_text(SUBMIT.format(folder=folder, answer=answer))
    for name in ("scancel", "qdel", "bkill"):
        (folder / name).write_text(CANCEL.format(folder=folder))
    for path in folder.iterdir():
        path.chmod(0o755)
    make_room(folder, room)
    (folder / "started").touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def make_room(folder, room):
    (folder / "room").write_text(str(room))


def scripts(folder):
    """Scripts of the jobs that were submitted."""
    return [path.read_text() for path in sorted(folder.glob("job-??????"))]
