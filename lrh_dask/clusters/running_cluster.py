"""A client of a scheduler that runs already: found, trusted, with workers, or a clear error."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lrh_dask.clusters.exposure import refuse_exposed
from lrh_dask.errors import RunFailed, SettingsError, explain
from lrh_dask.settings.cluster_settings import CONNECT_SECONDS, ClusterSettings, TlsSettings
from lrh_dask.stores.documents import MALFORMED, read_document

__all__ = ["client_of", "connected", "security_of", "wait_for_workers"]


@contextlib.contextmanager
def connected(settings: ClusterSettings, say: Callable[[str], None]) -> Iterator[Any]:
    """A client of the scheduler at an address, or of the one whose file this is.

    Args:
        say: is told what a person should know.
    Raises:
        RunFailed: no scheduler answers, or it has no workers.
        SettingsError: the address is none, or open to others; a file is missing or holds
            something else.
    """
    with client_of(settings, say) as client:
        address = client.scheduler.address
        if not wait_for_workers(client, 1, settings.patience):
            raise RunFailed(explain(
                f"scheduler {address}", expected="at least one worker",
                got=f"none within {settings.patience:g} seconds",
                consequence="Nothing was started",
                fix=f"Start one with `dask worker {address}`"))
        yield client


@contextlib.contextmanager
def client_of(settings: ClusterSettings, say: Callable[[str], None]) -> Iterator[Any]:
    """The same client, whether or not there are workers.

    Raises:
        RunFailed: no scheduler answers.
        SettingsError: the address is none, or open to others; a file is missing or holds
            something else.
    """
    security = security_of(settings.tls) if settings.tls else None
    address = settings.address or _address_in(Path(settings.scheduler_file or ""))
    refuse_exposed(settings, say, address)
    with _quiet(), _client(address, security) as client:
        yield client


def wait_for_workers(client: Any, n_wanted: int, seconds: float) -> int:
    """How many workers there are, once all or the time is there."""
    n_workers = int(client.scheduler_info(n_workers=0)["n_workers"])
    if n_workers < n_wanted:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(n_wanted, timeout=seconds)
        n_workers = int(client.scheduler_info(n_workers=0)["n_workers"])
    return n_workers


def security_of(tls: TlsSettings) -> Any:
    """What client, scheduler and workers need to speak TLS with each other.

    Raises:
        SettingsError: a file is missing, or holds no certificate or another's key.
    """
    from distributed import Security

    for name, path in tls:
        if not Path(path).is_file():
            raise SettingsError(explain(
                f"cluster.tls.{name}", expected="a PEM file", got=f"none at {path}",
                consequence="Nothing was started",
                fix="Name the file that whoever started the scheduler made for clients"))
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(explain(
            f"cluster.tls (ca_file {tls.ca_file}, cert {tls.cert}, key {tls.key})",
            expected="PEM files, and a key that is the certificate's",
            got=f"{type(error).__name__}: {error}", consequence="Nothing was started",
            fix="Check that each name is the right file and that this user may read it")) from error
    return Security(require_encryption=True, tls_ca_file=tls.ca_file, **{
        f"tls_{role}_{what}": getattr(tls, what)
        for role in ("client", "scheduler", "worker") for what in ("cert", "key")})


def _address_in(path: Path) -> str:
    """The address in a scheduler file; a scheduler that is starting may write it yet.

    Raises:
        SettingsError: there is no such file, or it is another's.
    """
    end = time.monotonic() + CONNECT_SECONDS
    address, wrong = None, "nothing there"
    while address is None:
        try:
            address = read_document(path)["address"]
        except FileNotFoundError:
            wrong = f"none within {CONNECT_SECONDS} seconds"
        except (OSError, *MALFORMED) as error:
            wrong = f"{type(error).__name__}: {error}"
        if address is None and time.monotonic() > end:
            raise SettingsError(explain(
                f"scheduler file {path}", expected="what `dask scheduler --scheduler-file` writes",
                got=wrong, consequence="Nothing was started",
                fix=f"Start one with `dask scheduler --scheduler-file {path}`, on a disk that "
                    "this machine sees, too"))
        time.sleep(0.0 if address else 0.2)
    return str(address)


@contextlib.contextmanager
def _client(address: str, security: Any) -> Iterator[Any]:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    secure = {} if security is None else {"security": security}
    before = _latest_client()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # versions are compared anyway
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=True, **secure)
    except (ValueError, TypeError, RuntimeError) as error:
        _close_but(before)
        about_tls = address.startswith("tls://")
        raise SettingsError(explain(
            f"scheduler {address!r}", expected="certificates for TLS" if about_tls else
            "an address such as tcp://host:8786", got=" ".join(str(error).split()),
            consequence="Nothing was started",
            fix="Name them under `tls: {ca_file, cert, key}` in `cluster`, or in Dask's own "
                "settings (DASK_DISTRIBUTED__COMM__TLS__CA_FILE and others)" if about_tls else
                "Copy the address that `dask scheduler` prints")) from error
    except (OSError, TimeoutError) as error:
        _close_but(before)
        distrust = _of_tls(error)
        raise RunFailed(explain(
            f"connect to scheduler {address}",
            expected="certificates that both sides trust" if distrust else
            f"an answer within {CONNECT_SECONDS} seconds",
            got=str(distrust) if distrust else f"none ({type(error).__name__})",
            consequence="Nothing was started",
            fix="Take the files that whoever started this scheduler made for its clients"
            if distrust else
            "Check that `dask scheduler` runs there, that no firewall is between, and whether it "
            "speaks TLS (its address is tls://... then), or leave the scheduler out for a local "
            "cluster")) from error
    with client:
        yield client


def _latest_client() -> Any:
    from distributed import Client

    with contextlib.suppress(ValueError):
        return contextvars.Context().run(Client.current)  # not that of a `with` around us
    return None


def _close_but(before: Any) -> None:
    """Close a client that could not start.

    Left to the garbage collector it would close in whatever thread that runs in: in one that
    another client is starting just then, both would wait for each other.
    """
    failed = _latest_client()
    if failed not in (None, before):
        failed.close()


def _of_tls(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS that is behind another."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, ssl.SSLError):
        below = below.__cause__ or below.__context__
    return below


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The errors here say it better than the tracebacks that Dask logs."""
    noisy = [logging.getLogger(name) for name in ("distributed.client", "distributed.core",
                                                  "distributed.comm.tcp")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
