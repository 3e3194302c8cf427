"""Certificates by which the processes of one cluster know each other, and nobody else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lrh_dask.errors import SettingsError, explain
from lrh_dask.settings.cluster_settings import TlsSettings

__all__ = ["make_certificates"]

CLOCKS_DIFFER = timedelta(hours=1)
NAMES = {"ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def make_certificates(folder: Path, days: int) -> TlsSettings:
    """Make a new folder with an authority, and a certificate and key for all of one cluster.

    The authority's own key is kept nowhere: it has signed this certificate and never another. So
    whoever holds ``key.pem`` is the cluster, and nobody else.

    Args:
        days: for which they are valid.
    Returns:
        the names of the files, of mode 0600 in a folder of mode 0700.
    Raises:
        SettingsError: the folder exists or cannot be made; the extra ``tls`` is missing.
    """
    try:
        texts = _signed(days)
    except ImportError as error:
        raise SettingsError(explain(
            "make certificates", expected="the package cryptography", got=f"none ({error})",
            consequence="Nothing was written",
            fix='Install the extra: pip install "lrh-dask[tls]"')) from error
    folder = Path(os.path.expanduser(folder)).absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        for name, text in texts.items():
            with open(os.open(folder / NAMES[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
                      "wb") as file:
                file.write(text)
    except OSError as error:
        exists = isinstance(error, FileExistsError)
        raise SettingsError(explain(
            f"make certificates in {folder}", expected="the name of a new folder",
            got="one that exists" if exists else str(error),
            consequence="Certificates that are in use are never written over, so nothing was "
                        "changed" if exists else "There are no certificates that can be used",
            fix="Choose another name")) from error
    return TlsSettings(**{name: str(folder / file) for name, file in NAMES.items()})


def _signed(days: int) -> dict[str, bytes]:
    """The files as PEM, by the names of :class:`TlsSettings`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer, subject = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
                       for name in ("lrh_dask authority", "lrh_dask cluster"))
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())

    def certificate(name: Any, key: Any, *extensions: tuple[Any, bool]) -> bytes:
        begins = datetime.now(UTC) - CLOCKS_DIFFER
        built = (x509.CertificateBuilder().subject_name(name).issuer_name(issuer)
                 .public_key(key.public_key()).serial_number(x509.random_serial_number())
                 .not_valid_before(begins)
                 .not_valid_after(begins + CLOCKS_DIFFER + timedelta(days=days)))
        for extension, critical in extensions:
            built = built.add_extension(extension, critical)
        return built.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def usage(*, signs: bool) -> Any:
        return x509.KeyUsage(
            digital_signature=not signs, key_cert_sign=signs, crl_sign=signs,
            content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, encipher_only=False, decipher_only=False)

    return {
        "ca_file": certificate(
            issuer, authority, (x509.BasicConstraints(ca=True, path_length=0), True),
            (usage(signs=True), True), (identifier, False)),
        "cert": certificate(
            subject, own, (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage(signs=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH,
                                    ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.SubjectAlternativeName([x509.DNSName("lrh-dask")]), False),
            (x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)),
        "key": own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                 serialization.NoEncryption()),
    }

