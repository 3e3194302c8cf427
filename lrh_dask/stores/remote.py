"""Object storage: stores behind ``s3://`` and ``gs://``, read by obstore.

Through obstore a chunk is one request, made outside of Python; through fsspec it would be two,
one after the other. Credentials, region and endpoint come from the environment of each process
(``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...).
"""

from __future__ import annotations

import os
import platform
import re
from datetime import timedelta
from functools import cache
from typing import Any

from zarr.storage import ObjectStore

from lrh_dask.errors import BadPairs, SettingsError, explain, is_refusal, public_name
from lrh_dask.stores.zarr_core import sync

__all__ = ["RemoteStore", "cannot_read"]

GIVE_UP = timedelta(seconds=60)
"""Requests that fail are made again for so long."""
LONGEST_REQUEST, LONGEST_SILENCE = timedelta(minutes=10), timedelta(seconds=30)
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (those of a profile: `eval \"$(aws "
          "configure export-credentials --format env)\"`), or for a public bucket "
          "AWS_SKIP_SIGNATURE=true,",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or for a public bucket GOOGLE_SKIP_SIGNATURE=true,",
}
ENDPOINTS = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")}


class RemoteStore(ObjectStore):  # type: ignore[type-arg]  # not generic before zarr 3.1.4
    """A read-only store in a bucket, which travels as its address.

    So a task carries no secret, and a process opens it once and keeps its connections.
    """

    def __init__(self, url: str) -> None:
        """Open the store at a URL; nothing is asked for yet.

        Raises:
            SettingsError: obstore is missing.
            BadPairs: the URL is none.
        """
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as error:
            raise SettingsError(explain(
                f"open {public_name(url)}", expected="the package obstore", got="none installed",
                consequence="Nothing was read",
                fix="`pip install 'lrh-dask[remote]'`, here and on the workers")) from error
        try:
            opened = from_url(
                url, retry_config={"retry_timeout": GIVE_UP},
                client_options={"allow_http": True,  # where the endpoint says http://
                                "timeout": LONGEST_REQUEST, "read_timeout": LONGEST_SILENCE})
        except (BaseError, ValueError) as error:
            raise cannot_read(f"open {public_name(url)}", url, error) from error
        super().__init__(opened, read_only=True)
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.url,)

    def __str__(self) -> str:
        return public_name(self.url)

    def tokens(self, prefix: str) -> dict[str, str]:
        """Something of each key under a prefix that changes with its bytes, a thousand a request.

        Raises:
            BadPairs: the bucket cannot be listed.
        """
        try:
            return {meta["path"]: f"{meta['size']}-{meta['e_tag']}"
                    for batch in self.store.list(prefix) for meta in batch}
        except Exception as error:
            if not is_refusal(error):
                raise
            raise cannot_read(f"list {self}", self.url, error) from error

    def why_not(self, where: str, error: Exception) -> BadPairs | None:
        """Why it could not be opened, where there is more to say than that nothing is there."""
        async def look() -> None:
            async for _ in self.list_dir(""):
                return

        if isinstance(error, FileNotFoundError):  # so is a missing bucket, until it is listed
            try:
                sync(look())
            except Exception as refusal:
                error = refusal
        return cannot_read(where, self.url, error) if is_refusal(error) else None


@cache
def _opened(url: str) -> RemoteStore:
    return RemoteStore(url)


def cannot_read(where: str, url: str, error: Exception) -> BadPairs:
    """The error for a user: no credential, and nothing of what a server said beyond its code."""
    scheme, text = url.partition("://")[0], str(error)
    credentials = CREDENTIALS.get(scheme, "the credentials")
    status = re.search(r"status code: (\d{3}[ \w]*)", text)
    code = re.search(r"<Code>(\w+)</Code>", text) or status
    said = f" ({code[1]})" if code else ""
    if re.search(r"latest/(api/token|meta-data)|computeMetadata|security-credentials", text):
        got = "none in the environment, and no instance that lends some"
        expected, fix = "credentials", f"Set {credentials} here and on the workers"
    elif "NoSuchBucket" in text or "bucket does not exist" in text:
        expected, got = "a bucket of that name", f"none{said}"
        fix = f"Check the name, and whether the bucket is at this endpoint: {_endpoint(scheme)}"
    elif status and status[1][:3] in {"401", "403"}:
        expected, got = "access", f"a refusal{said}"
        fix = (f"Check {credentials} here and on the workers, and that their owner may "
               "read and list the bucket")
    elif "redirect" in text:
        expected, got = "the region of the bucket", "another"
        fix = "Set AWS_REGION to the region of the bucket, here and on the workers"
    elif "error sending request" in text or "timed out" in text or "panicked" in text:
        expected, got = "an answer", f"none from {_endpoint(scheme)}"
        fix = "Check the address of the endpoint and the network, here and on the workers"
    else:
        expected, got = "an answer that can be used", f"{type(error).__name__}{said}"
        fix = "Check the address and the endpoint"
    return BadPairs(explain(f"{where} on {platform.node()}", expected=expected, got=got,
                            consequence="No result was written", fix=fix))


def _endpoint(scheme: str) -> str:
    for name in ENDPOINTS.get(scheme, ()):
        if os.environ.get(name):
            return f"{name}={public_name(os.environ[name])}"
    return "the service's own endpoint"
