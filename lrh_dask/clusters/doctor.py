"""All that can be looked at before a run: its cluster, its workers, its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lrh_dask.clusters.cluster import reach
from lrh_dask.clusters.findings import Answers, Finding, Health, fair, good, poor
from lrh_dask.clusters.port_checks import check_certificates, check_ports
from lrh_dask.clusters.probes import (
    ask_nannies,
    ask_scheduler,
    ask_workers,
    blas,
    ends_of_store,
    gpu,
    process,
)
from lrh_dask.clusters.store_checks import check_checksums, check_chunks, check_reach
from lrh_dask.clusters.versions import Package, compare_versions, how_to_mend, mismatched, survived
from lrh_dask.clusters.worker_checks import (
    check_allocator,
    check_blas,
    check_disk,
    check_gpus,
    check_memory,
    check_nannies,
    check_threads,
)
from lrh_dask.errors import LrhError
from lrh_dask.settings.config import FitSettings
from lrh_dask.stores.opening import open_pairs
from lrh_dask.stores.pairs import Pairs

__all__ = ["check_versions", "examine"]


def examine(settings: FitSettings, *, with_store: bool,
            say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Look at the cluster that the settings ask for, and at the store.

    A local cluster is started for it, and ended. Nothing is changed anywhere.

    Args:
        with_store: whether ``settings.store`` names one.
        say: is told which cluster it is.
    """
    pairs: Pairs | None = None
    found: list[Finding] = []
    if with_store:
        try:
            pairs = open_pairs(settings.store, x=settings.x, y=settings.y)
        except LrhError as error:
            found.append(poor("store", str(error), "As it says"))
    reads: Answers = {}
    cluster = settings.cluster
    if cluster.runs_already:  # whoever may reach it is a finding of its own
        cluster = cluster.model_copy(update={"insecure": True})
    try:
        with reach(cluster, say) as client:
            seen = _of_cluster(client, settings.device)
            found = [good("cluster", f"{client.scheduler.address} answers"), *seen, *found]
            same = all(finding.health is not Health.poor for finding in seen
                       if finding.name == "versions")
            if pairs is not None and same:
                reads = ask_workers(client, ends_of_store, pairs)
    except LrhError as error:
        found = [poor("cluster", str(error), "As it says; workers can be looked at then"), *found]
    if pairs is not None:
        found += [check_reach(pairs, reads), check_chunks(pairs), check_checksums(pairs)]
    return found


def _of_cluster(client: Any, device: str) -> list[Finding]:
    """Everything that scheduler, workers and nannies tell."""
    packages = compare_versions(client)
    scheduler = ask_scheduler(client, process)
    told = ask_workers(client, process)
    failed = {address: answer for address, answer in told.items() if isinstance(answer, Exception)}
    workers = {address: answer for address, answer in told.items() if address not in failed}
    processes = {"the scheduler": scheduler,
                 **{f"worker {address}": answer for address, answer in workers.items()},
                 **{f"nanny of {address}": answer
                    for address, answer in ask_nannies(client, process).items()}}
    found = [check_versions(packages)]
    if failed:
        address, error = next(iter(failed.items()))
        found.append(poor("workers", f"{len(failed)} of {len(told)} could not be looked at, such "
                          f"as {address}: {type(error).__name__}: {error}",
                          "See the worker's log; mend its software first"))
    if workers:
        found += [check_threads(workers), check_nannies(workers),
                  check_blas(ask_workers(client, blas)), check_allocator(workers),
                  check_memory(workers), check_disk(workers),
                  check_gpus(ask_workers(client, gpu) if device != "cpu" else {}, device)]
    files = client.security.get_tls_config_for_role("client")
    return [*found, _check_queue(scheduler), check_ports(processes),
            check_certificates(files, encrypted=client.scheduler.address.startswith("tls://"))]


def check_versions(packages: tuple[Package, ...]) -> Finding:
    """The software of client, scheduler and workers, package by package."""
    if wrong := mismatched(packages):
        return poor("versions", "; ".join(map(str, wrong)), how_to_mend(wrong))
    if near := survived(packages):
        return fair("versions", "; ".join(near), "Install the same everywhere, such as from one "
                                                 "lock file or image")
    return good("versions", f"{len(packages)} packages are the same here, on the scheduler and on "
                            f"{len(packages[0].workers)} workers")


def _check_queue(scheduler: Any) -> Finding:
    """Whether tasks wait at the scheduler, or pile up with their results on workers."""
    if isinstance(scheduler, Exception):
        return fair("queue", f"the scheduler could not be looked at: {scheduler}",
                    "Mend the software there first")
    if not scheduler["queues"]:
        return fair("queue", "tasks are all sent at once, which doubles the results that workers "
                    "hold", "Start the scheduler without DASK_DISTRIBUTED__SCHEDULER__WORKER_"
                            "SATURATION=inf")
    return good("queue", "tasks wait at the scheduler until a worker is free")
