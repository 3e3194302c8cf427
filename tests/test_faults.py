"""Whatever fails, a run ends in the same bits as without, or in an error and nothing published.

``pytest -m faults`` carries out 100 seeded schedules on processes of their own and writes
``tests/benchmarks/faults.md``; eight of them always run. A schedule is repeated by the name of its
test: ``pytest -m faults "tests/test_faults.py::test_...[17-kill a nanny]"``.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import subprocess
from collections import Counter, defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest
from faults import CHUNK_ROWS, HERE, Cluster, Job, N, pairs, write_store

from lrh_dask import append_pairs, open_pairs

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("one_blas_thread")]
PAGE = Path(__file__).parent / "benchmarks" / "faults.md"
N_TASKS = {"run": 24, "nightly": 24}
"""So many tasks of a run are done before its result is there, about."""
EXIT_CODES = {2, 3, 4}


class Schedule:
    """One seed: what fails, when, and what of.

    Attributes:
        job: what is carried out; ``rng``: decides all that is open.
    """

    def __init__(self, seed, kind, world, folder):
        self.rng = random.Random(f"{seed} {kind}")
        self.world, self.folder = world, folder
        self.cluster = world.cluster
        self.store_kind, self.mode = "ours", self.rng.choice(["run", "nightly"])

    def begin(self, *, store="ours", mode=None):
        """The store, fresh, and the job on it."""
        self.store_kind, self.mode = store, mode or self.mode
        self.store = self.folder / "pairs.zarr"
        shutil.copytree(self.world.store(store), self.store)
        self.job = Job(self.cluster, self.store, self.folder / "job", self.mode)
        self.cluster.mend()

    def count(self, first=1, last=None):
        return self.rng.randint(first, last or N_TASKS[self.mode] - 2)

    def fault(self, do, *args, after=None):
        """A fault for :meth:`Job.carry_out`; arguments that are called with the driver's pid."""
        after = after or self.count()
        return lambda driver: {"after": after, "do": do, "args": [
            arg(driver) if callable(arg) else arg for arg in args]}

    def a_chunk(self):
        """Some chunk of x or y, by file."""
        return self.store / self.rng.choice("xy") / "c" / str(
            self.rng.randrange(N // CHUNK_ROWS)) / "0"

    def lives(self, *faults, says="", **how):
        """The run gives the same bits at once."""
        code, said = self.job.carry_out(faults, **how)
        assert code == 0, said
        assert says in said
        self.world.assert_same(self)
        return "same bits"

    def lives_or_goes_on(self, *faults, mended=None, may_live=True, says="expected", **how):
        """The same bits, or an error and nothing published, and then the same bits.

        says: what the error says, as all say what was expected, got, its consequence and a fix.
        """
        code, said = self.job.carry_out(faults, **how)
        if code == 0 and may_live:
            self.world.assert_same(self)
            return "same bits"
        assert code in EXIT_CODES | {-9}, said
        if code != -9:
            assert says in said, said
            assert "Traceback" not in said
        outcome = "refused" if code != -9 else "died"
        if not (code == -9 and self.job.published()):  # it died right after it had published
            assert not self.job.published(), said
        if mended is not None:
            mended()
        self.cluster.mend()
        code, said = self.job.carry_out()
        assert code == 0, said
        self.world.assert_same(self)
        return f"{outcome}, then same bits"


# ---- what fails -------------------------------------------------------------------------------

def kill_workers(n):
    def kill(schedule):
        schedule.begin()
        faults, left = [], n
        while left:  # those killed before have been started again by their nannies
            workers = schedule.cluster.workers[:min(left, 3)]
            faults.append((len(workers), schedule.count()))
            left -= len(workers)
        return schedule.lives(*(schedule.fault("kill_workers", schedule.cluster.nannies[:k],
                                               after=after) for k, after in faults))
    return kill


def kill_a_nanny(schedule):
    schedule.begin()
    return schedule.lives(schedule.fault("kill", [schedule.rng.choice(schedule.cluster.nannies)]))


def kill_the_scheduler(schedule):
    schedule.begin()
    return schedule.lives_or_goes_on(schedule.fault("kill", [schedule.cluster.scheduler]))


def kill_the_driver(schedule):
    schedule.begin()
    return schedule.lives_or_goes_on(schedule.fault("kill", lambda driver: [driver]))


def the_driver_dies_while_it_publishes(schedule):
    schedule.begin()
    return schedule.lives_or_goes_on(dies_at=schedule.rng.randrange(40))


def kill_everything_twice(schedule):
    schedule.begin()
    for _ in range(2):
        everything = [*schedule.cluster.nannies, schedule.cluster.scheduler]
        code, said = schedule.job.carry_out([schedule.fault(
            "kill", lambda driver, everything=everything: [
                driver, *schedule.cluster.workers, *everything],
            after=schedule.count(2, 9))])
        assert code == -9, said
        assert not schedule.job.published()
        schedule.cluster.mend()
    return f"died twice, then {schedule.lives()}"


def stop_a_worker(schedule):
    schedule.begin()
    return schedule.lives(schedule.fault(
        "stop", [schedule.rng.choice(schedule.cluster.workers)], 3.0))


def a_worker_over_its_memory(schedule):
    schedule.begin()
    orders = Path(f"{schedule.cluster.schedule}.d")
    found = schedule.lives(schedule.fault("touch", str(orders / "bloat"),
                                          after=schedule.count(1, 4)))
    assert not (orders / "bloat").exists()
    return found


def a_poison_chunk(schedule):
    schedule.begin()
    poison = Path(f"{schedule.cluster.schedule}.d") / "poison"
    return schedule.lives_or_goes_on(
        schedule.fault("touch", str(poison), str(schedule.rng.randrange(N)), after=1),
        mended=poison.unlink)


@contextlib.contextmanager
def small_disk(path, size):
    path.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path],
                      check=False, capture_output=True).returncode:
        pytest.skip("a full disk needs leave to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def no_room_for_states(schedule):
    schedule.begin(mode="run")
    with small_disk(schedule.folder / "job" / "a-hessian.states", "60k"):
        return schedule.lives(says="states could not be kept")


def no_room_for_the_result(schedule):
    schedule.begin()
    with small_disk(schedule.folder / "job", "100k"):
        schedule.job = Job(schedule.cluster, schedule.store, schedule.folder / "job", schedule.mode)
        code, said = schedule.job.carry_out()
        assert code in EXIT_CODES, said
        assert "No space left" in said
        assert "Traceback" not in said
        assert not schedule.job.published()
    schedule.job = Job(schedule.cluster, schedule.store, schedule.folder / "job", schedule.mode)
    return f"refused, then {schedule.lives()}"


def no_room_to_spill(schedule):
    schedule.begin()
    with small_disk(schedule.folder / "spill", "50k"):
        cluster = Cluster(schedule.folder, DASK_TEMPORARY_DIRECTORY=str(schedule.folder / "spill"),
                          DASK_DISTRIBUTED__WORKER__MEMORY__TARGET="0.001",
                          DASK_DISTRIBUTED__WORKER__MEMORY__SPILL="0.001")
        cluster.local = schedule.folder / "spill"
        try:
            cluster.mend()
            schedule.job.cluster = cluster
            found = schedule.lives()
            assert cluster.logged("No space left on device")
            return found
        finally:
            cluster.close()


def the_store_is_renamed_away(schedule):
    schedule.begin(store=schedule.rng.choice(["ours", "foreign", "compressed"]))
    away = schedule.store.with_name("away.zarr")
    return schedule.lives_or_goes_on(
        schedule.fault("rename", str(schedule.store), str(away)),
        mended=lambda: away.rename(schedule.store), may_live=False)


def with_a_chunk(do, *args, stores=("ours", "foreign", "compressed"), **how):
    """Something happens to a chunk; a copy of it is put back afterwards."""
    def happen(schedule):
        schedule.begin(store=schedule.rng.choice(stores))
        chunk = schedule.a_chunk()
        content = chunk.read_bytes()
        given = [arg(schedule, content) if callable(arg) else arg for arg in args]
        return schedule.lives_or_goes_on(
            schedule.fault(do, str(chunk), *given),
            mended=lambda: chunk.write_bytes(content), **{"may_live": False, **how})
    return happen


def pairs_are_appended_meanwhile(schedule):
    schedule.begin()
    return schedule.lives(schedule.fault(
        "append", "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); from faults import pairs; "
        "from lrh_dask import append_pairs; "
        f"append_pairs({str(schedule.store)!r}, *pairs({schedule.rng.random()!r}.__hash__() % 99, "
        "130))"))


def an_append_was_torn(schedule):
    """x is longer than y, and new rows are zeros: nothing of it is published."""
    schedule.begin()
    import zarr

    group = zarr.open_group(schedule.store)
    n = group["x"].shape[0]
    group["x"].resize((n + schedule.rng.randint(1, 300), group["x"].shape[1]))
    if schedule.rng.random() < 0.5:
        group["y"].resize((n + schedule.rng.randint(1, 100), group["y"].shape[1]))
    return schedule.lives(schedule.fault("kill_workers", schedule.cluster.nannies[:1]))


def a_torn_append_of_another_program(schedule):
    schedule.begin(store="foreign")
    import zarr

    x = zarr.open_group(schedule.store)["x"]
    n, room = x.shape[0], -x.shape[0] % CHUNK_ROWS
    more = schedule.rng.choice([schedule.rng.randint(1, room), schedule.rng.randint(room + 1, 250)])
    x.resize((n + more, x.shape[1]))
    both = schedule.rng.random() < 0.5  # zeros in both
    if both:
        y = zarr.open_group(schedule.store)["y"]
        y.resize((n + more, y.shape[1]))

    def mended():
        group = zarr.open_group(schedule.store)
        for name in "xy":
            group[name].resize((n, group[name].shape[1]))

    if both and more <= room:  # in the last chunk, where zeros are numbers like others: they count
        code, said = schedule.job.carry_out()
        assert code == 0, said
        assert f"{more} of {n + more:,}" in said or f"{more} rows" in said, said
        shutil.rmtree(schedule.job.folder)
        mended()
        schedule.job = Job(schedule.cluster, schedule.store, schedule.job.folder, schedule.mode)
        return f"told, then {schedule.lives()}"
    return schedule.lives_or_goes_on(mended=mended, may_live=False)


def it_dies_and_the_store_grows(schedule):
    schedule.begin()
    code, said = schedule.job.carry_out([schedule.fault(
        "kill", lambda driver: [driver], after=schedule.count(2, 9))])
    assert code == -9, said
    append_pairs(schedule.store, *pairs(77, 130))
    code, said = schedule.job.carry_out()
    assert code == 0, said
    [first, *more] = schedule.job.published()
    assert first == schedule.world.reference("ours", schedule.mode)[0]
    assert [found[0] for found in more] == (
        [] if schedule.mode == "run" else [open_pairs(schedule.store).n_pairs])
    return "died, then same bits"


KINDS = {
    "kill 1 worker": kill_workers(1), "kill 3 workers": kill_workers(3),
    "kill 6 workers": kill_workers(6), "kill a nanny": kill_a_nanny,
    "kill the scheduler": kill_the_scheduler, "kill the driver": kill_the_driver,
    "the driver dies while it publishes": the_driver_dies_while_it_publishes,
    "kill everything twice": kill_everything_twice, "stop a worker": stop_a_worker,
    "a worker over its memory": a_worker_over_its_memory, "a poison chunk": a_poison_chunk,
    "no room for states": no_room_for_states, "no room for the result": no_room_for_the_result,
    "no room to spill": no_room_to_spill,
    "the store is renamed away": the_store_is_renamed_away,
    "a chunk is removed": with_a_chunk("remove"),
    "a chunk is cut short": with_a_chunk("cut", lambda schedule, content: schedule.rng.randint(
        1, len(content) - 1)),
    "a bit flips, with crc32c": with_a_chunk(  # which alone can tell it, unless it was read before
        "flip", lambda schedule, content: schedule.rng.randrange(len(content)), True,
        stores=["ours"], may_live=True, says="crc32c"),
    "a bit flips, without a checksum": with_a_chunk(
        "flip", lambda schedule, content: schedule.rng.randrange(len(content)),
        stores=["foreign", "compressed"]),
    "a chunk is written anew": with_a_chunk("rewrite", lambda schedule, _:
                                            schedule.store_kind == "ours",
                                            stores=["ours", "foreign"]),
    "pairs are appended meanwhile": pairs_are_appended_meanwhile,
    "an append was torn": an_append_was_torn,
    "an append of another program was torn": a_torn_append_of_another_program,
    "it dies and the store grows": it_dies_and_the_store_grows,
}
ALWAYS = {0, 5, 6, 7, 12, 14, 17, 20}
"""Seeds of schedules that run by default."""


class World:
    """The cluster, the stores as they were, and what runs without faults give."""

    def __init__(self, folder):
        self.folder, self.cluster = folder, Cluster(folder)
        self._references = {}

    def store(self, kind):
        path = self.folder / f"{kind}.zarr"
        if not path.exists():
            write_store(path, kind)
        return path

    def reference(self, kind, mode):
        """Bits of the results of a run without faults."""
        if (kind, mode) not in self._references:
            self.cluster.mend()
            folder = self.folder / f"free-{kind}-{mode}"
            folder.mkdir()
            store = folder / "pairs.zarr"  # a name of its own, as those have that are to fail
            shutil.copytree(self.store(kind), store)
            job = Job(self.cluster, store, folder / "job", mode)
            code, said = job.carry_out()
            assert code == 0, said
            self._references[kind, mode] = job.published()
        return self._references[kind, mode]

    def assert_same(self, schedule):
        assert schedule.job.published() == self.reference(schedule.store_kind, schedule.mode)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.cluster.close()


@pytest.fixture(scope="module")
def outcomes(request):
    """What came of each schedule, by kind; written down where all have run."""
    found = defaultdict(list)
    yield found
    if sum(map(len, found.values())) == 100:
        PAGE.write_text(page(found), encoding="utf-8")


@pytest.mark.parametrize(("seed", "kind"), [
    pytest.param(seed, kind, id=f"{seed}-{kind}", marks=[pytest.mark.always] * (seed in ALWAYS))
    for seed, kind in ((seed, [*KINDS][seed % len(KINDS)]) for seed in range(100))])
def test_a_run_through_faults_gives_the_same_bits_or_none(tmp_path, world, outcomes, seed, kind):
    outcomes[kind].append("wrong")  # until it is known
    try:
        outcomes[kind][-1] = KINDS[kind](Schedule(seed, kind, world, tmp_path))
    except pytest.skip.Exception:
        outcomes[kind].pop()
        raise


def page(found):
    lines = [
        "# What fails, and what came of it", "",
        f"Written by `pytest -m faults` on {datetime.now(UTC):%Y-%m-%d}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores, "
        + ", ".join(f"{name} {version(name)}" for name in ("distributed", "zarr", "numpy")) + ".",
        "",
        "Each schedule runs on processes of its own: a scheduler, three workers with nannies, a "
        "driver (`lrh run --resume` or `lrh nightly`, by the seed). Faults come when so many tasks "
        "were done, by the seed. Same bits: of all eigenvalues, eigenvectors, errors and "
        "certificates, and the fingerprint of the pairs, as without faults. Refused: an error, and "
        "nothing published; when the fault was mended the same command gave the same bits. Died: "
        "the driver was killed; the same command gave the same bits.", "",
        "| fault | schedules | same bits at once | refused, then same bits "
        "| died, then same bits | told | wrong |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for kind, outcomes in found.items():
        told = Counter(one.split()[0].rstrip(",") for one in outcomes)
        lines.append(f"| {kind} | {len(outcomes)} | {told['same']} | {told['refused']} | "
                     f"{told['died']} | {told['told']} | {told['wrong']} |")
    lines += ["", "Told: rows of zeros in the last chunk of another program's store count, and the "
              "result says so. Wrong: whatever else, be it a result or a message. One schedule "
              "again: "
              "`pytest -m faults \"tests/test_faults.py::"
              "test_a_run_through_faults_gives_the_same_bits_or_none[17-a bit flips, with "
              "crc32c]\"`.", ""]
    return "\n".join(lines)
