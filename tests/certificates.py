"""A certificate authority for tests, and the certificates that it signs (with openssl)."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM files."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority that writes signed certificates to ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self.pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-days", "30"),
            *("-keyout", self.pair.key, "-out", self.pair.cert),
        )

    def sign(self, name: str, alternative: str = "IP:127.0.0.1") -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", pair.key, "-out", request),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-days", "30", "-CAcreateserial"),
            *("-CA", self.pair.cert, "-CAkey", self.pair.key),
            *("-extfile", extensions, "-out", pair.cert),
        )
        return pair

    def server_context(self, pair: Pair, *, clients: bool = False) -> ssl.SSLContext:
        """The context for ``Server(tls=…)``; ``clients``: require a client certificate of ours."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if clients:
            context.load_verify_locations(self.pair.cert)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)
