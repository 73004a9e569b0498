"""The contents of a release, as CycloneDX: the bundled wheels and the page's libraries."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build_debs import BUNDLED, NAME, download, licence_of, metadata_of, page_libraries


def sbom(version: str, date_s: int) -> str:
    """The document; the same for the same release."""
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{NAME}/{version}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(date_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": NAME,
                "name": NAME,
                "version": version,
                "purl": f"pkg:pypi/{NAME}@{version}",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": [*_wheels(), *_page_libraries()],
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _wheels() -> Iterator[dict[str, Any]]:
    """Each file once: most are the same on every architecture."""
    by_file = {wheel.name: wheel for name in BUNDLED for wheel in download(name)}
    for file_name, wheel in sorted(by_file.items()):
        said = metadata_of(wheel)
        name, version = said["Name"].lower().replace("_", "-"), said["Version"]
        yield _component(
            f"pkg:pypi/{name}@{version}?file_name={file_name}",
            name,
            version,
            licence_of(said),
            ("SHA-256", _sha256(wheel)),
        )


def _page_libraries() -> Iterator[dict[str, Any]]:
    for one in page_libraries():
        name, version = one["name"], one["version"]
        digest = base64.b64decode(one["integrity"].removeprefix("sha512-")).hex()
        purl = f"pkg:npm/{name}@{version}"
        yield _component(purl, name, version, one["license"], ("SHA-512", digest))


def _component(
    purl: str, name: str, version: str, licence: str, digest: tuple[str, str]
) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": name,
        "version": version,
        "licenses": [{"license": {"name": licence}}],
        "hashes": [{"alg": digest[0], "content": digest[1]}],
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
