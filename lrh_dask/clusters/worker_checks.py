"""What workers should be like: threads, allocator, memory, disk, GPU. Each check is one finding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from lrh_dask.clusters.cluster_kinds import worker_variables
from lrh_dask.clusters.findings import Answers, Finding, answered, fair, good, poor, who

__all__ = ["check_allocator", "check_blas", "check_disk", "check_gpus", "check_memory",
           "check_nannies", "check_threads"]

GIB = 2**30
LEAST_DISK = GIB // 4
IN_MEMORY = {"tmpfs", "ramfs"}
OVER_NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "fuse.sshfs",
                "fuse.glusterfs", "9p", "afs"}


def check_threads(workers: Answers) -> Finding:
    """Threads of workers beside the cores of their machines."""
    hosts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for address, told in workers.items():
        hosts[told["host"], told["kernel"]].append(address)
    crowded = []
    for (host, _), addresses in hosts.items():
        n_threads = sum(workers[address]["threads"] for address in addresses)
        n_cores = max(workers[address]["cores"] for address in addresses)
        if n_threads > n_cores:
            crowded.append(f"{host} ({n_threads} threads, {n_cores} cores)")
    n_threads = sum(told["threads"] for told in workers.values())
    said = (f"{len(workers)} worker{'s' * (len(workers) > 1)} with {n_threads} "
            f"thread{'s' * (n_threads > 1)} on {len(hosts)} host{'s' * (len(hosts) > 1)}")
    if crowded:
        return fair("threads", f"{said}; more threads than cores on {', '.join(crowded[:3])}",
                    "Start fewer workers, or fewer threads each (`--nthreads`)")
    return good("threads", said)


def check_blas(pools: Answers) -> Finding:
    """Threads that BLAS starts in each thread of a worker."""
    if (failed := answered("BLAS threads", pools)) is not None:
        return failed
    many = {address: max(pool.values()) for address, pool in pools.items()
            if pool and max(pool.values()) > 1}
    if many:
        return fair(
            "BLAS threads", f"{max(many.values())} a thread of {who(many, pools)}: their number "
            "changes the last bits. A task of a run takes one, whatever is set; other programs "
            "on these workers do not",
            "Start workers with a nanny, or with OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "
            "MKL_NUM_THREADS=1")
    named = sorted({name for pool in pools.values() for name in pool})
    return good("BLAS threads", f"one a thread of a worker ({', '.join(named) or 'no library'})")


def check_allocator(workers: Answers) -> Finding:
    """Whether the C library keeps memory that the next chunk needs again."""
    wanted = {name: str(n) for name, n in worker_variables(1).items() if "MALLOC" in name}
    glibc = {address: told for address, told in workers.items() if told["glibc"]}
    other = {address: told["environ"] for address, told in glibc.items()
             if any(told["environ"].get(name) != value for name, value in wanted.items())}
    if not glibc:
        return good("allocator", "not that of glibc, whose settings do not apply")
    if other:
        first = next(iter(other.values()))
        had = " ".join(f"{name}={first[name]}" for name in wanted if name in first)
        return fair("allocator", f"memory is given back at every chance by {who(other, workers)} "
                    f"({had or 'nothing is set'}), which may halve the speed of reading",
                    "Start workers with "
                    + " ".join(f"{name}={value}" for name, value in wanted.items()))
    return good("allocator", "keeps the memory that the next chunk needs")


def check_memory(workers: Answers) -> Finding:
    """Limits of workers beside what the kernel, a container or a queue lets them have."""
    limits = {address: told["memory_limit"] or 0 for address, told in workers.items()}
    over = {address for address, told in workers.items()
            if limits[address] > told["memory_ceiling"]}
    if over:
        ceiling = min(workers[address]["memory_ceiling"] for address in over)
        return poor("memory limits", f"{who(over, workers)} may take more than the "
                    f"{ceiling / GIB:.1f} GiB that a container or job lets it have: the kernel "
                    "would end it in mid-run",
                    f"Start it with `--memory-limit {0.9 * ceiling / GIB:.1f}GiB` or less")
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for address, told in workers.items():
        groups[told["host"], told["kernel"], told["group"]].append(address)
        groups[told["host"], told["kernel"]].append(address)
    for group, addresses in groups.items():
        asked = sum(limits[address] for address in addresses)
        there = min(workers[a]["memory_ceiling" if len(group) == 3 else "memory_total"]
                    for a in addresses)
        if asked > 1.01 * there:
            return poor("memory limits", f"the {len(addresses)} workers on {group[0]} may take "
                        f"{asked / GIB:.1f} GiB together, {there / GIB:.1f} GiB are there: the "
                        "kernel would end one in mid-run",
                        f"Start them with `--memory-limit {there / GIB / len(addresses):.1f}GiB`")
    without = {address for address, limit in limits.items() if not limit}
    if without:
        return fair("memory limits", f"none for {who(without, workers)}: a run cannot be priced "
                    "by it, and Dask neither pauses nor ends a worker that takes too much",
                    "Start workers with `--memory-limit SIZE`")
    return good("memory limits", f"{min(limits.values()) / GIB:.1f} GiB a worker at least, all "
                                 "within what their machines have")


def check_nannies(workers: Answers) -> Finding:
    """Whether a worker that dies is started again."""
    alone = {address for address, told in workers.items() if not told["watched"]}
    if alone:
        return fair("nannies", f"none for {who(alone, workers)}: nobody starts it again when it "
                    "dies, or ends it when it takes more memory than its limit",
                    "Leave `--no-nanny` out")
    return good("nannies", "every worker has one")


def check_disk(workers: Answers) -> Finding:
    """Where workers keep their own files, and what spills from memory."""
    def those(test: Callable[[dict[str, object]], bool]) -> set[str]:
        return {address for address, told in workers.items() if test(told)}

    full = those(lambda told: told["free"] < LEAST_DISK)  # type: ignore[operator]
    fix = "Start workers with `--local-directory` on a disk of their own machine"
    if full:
        least = min(full, key=lambda address: workers[address]["free"])
        return poor("free disk", f"{workers[least]['free'] / 2**20:.0f} MiB in "
                    f"{workers[least]['folder']} of {who(full, workers)}",
                    f"Make room there. {fix}, with some GiB free")
    if memory := those(lambda told: told["filesystem"] in IN_MEMORY):
        return fair("free disk", f"local directory of {who(memory, workers)} is in memory: what "
                    "spills to it takes what it should free", fix)
    if network := those(lambda told: told["filesystem"] in OVER_NETWORK):
        return fair("free disk", f"local directory of {who(network, workers)} is on a network", fix)
    tight = those(lambda told: told["free"] < (told["memory_limit"] or 0))  # type: ignore[operator]
    if tight:
        return fair("free disk", f"less than the memory limit for {who(tight, workers)}: a worker "
                    "that spills may fill it", f"{fix}, with more room")
    least = min(workers, key=lambda address: workers[address]["free"])
    return good("free disk", f"{workers[least]['free'] / GIB:.1f} GiB at least, in "
                             f"{workers[least]['folder']}")


def check_gpus(probed: Answers, wanted: str) -> Finding:
    """Whether GPUs can be computed on, as far as a run is to."""
    if wanted == "cpu":
        return good("GPU", "not looked for (device: cpu)")
    if (failed := answered("GPU", probed)) is not None:
        return failed
    works = {address for address, told in probed.items() if told["works"]}
    idle = {address: told["said"] for address, told in probed.items() if not told["works"]}
    fix = "Install CuPy for the CUDA that is there (`pip install cupy-cuda12x`, or 13x), there"
    if idle and wanted == "gpu":
        return poor("GPU", f"none that works for {who(idle, probed)}: {next(iter(idle.values()))}",
                    f"{fix}, or run with `--device cpu`")
    unused = {address for address in idle if probed[address]["there"]}
    if unused:
        return fair("GPU", f"one is there for {who(unused, probed)} and not used: "
                           f"{probed[sorted(unused)[0]]['said']}", fix)
    if works and idle:
        return fair("GPU", f"one that works only for {who(works, probed)}: GPU and CPU give other "
                    "last bits", "Run with `--device cpu`, or on workers that are alike")
    return good("GPU", "one that works for every worker" if works
                else "none there: workers compute on the CPU")
