"""How the models of an engine get from the hub into a bundle: resumed where they broke off, and checked to the last byte."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backend.engines.catalogue import PublishedModel, Recipe
from backend.values.errors import RemoteError, SetupError

log = logging.getLogger(__name__)

MANIFEST = "bundle.json"
WANTED = (".json", ".safetensors", ".txt", ".model")
"""Endings of the files that engines read; of weights only safetensors, which cannot carry code."""
_TIMEOUT = httpx.Timeout(30, connect=10)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its path there, its size, and its digest as the hub gives it, sha256 of large files and git's
    sha1 of small ones.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None


class Hub:
    """A model hub, spoken to over HTTP."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT, follow_redirects=True)

    def files(self, repository: str) -> tuple[str, list[HubFile]]:
        """The newest revision of a repository and its files that engines read. Raises RemoteError, or SetupError where access
        has to be asked for.
        """
        answer = self._get(f"/api/models/{repository}/revision/main", repository, params={"blobs": "true"})
        try:
            found = answer.json()
            revision = str(found["sha"])
            files = [_hub_file(sibling) for sibling in found["siblings"] if str(sibling["rfilename"]).endswith(WANTED)]
        except (ValueError, KeyError, TypeError) as error:
            raise RemoteError(f"{answer.url} is no model hub: it does not list the files of {repository}") from error
        whole = [file for file in files if "/" not in file.path]
        if not any(file.path.endswith(".safetensors") for file in whole):
            raise RemoteError(f"{repository} has no weights in safetensors at {self._client.base_url}")
        return revision, whole

    def download(self, repository: str, revision: str, file: HubFile, target: Path) -> None:
        """Write a file of a repository, going on from what an earlier attempt left. Raises RemoteError when the connection
        breaks or the bytes are not those that the hub announced.
        """
        part = target.with_name(target.name + ".part")
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        for piece in self._pieces(f"/{repository}/resolve/{revision}/{file.path}", repository, part):
            with part.open("ab") as out:
                out.write(piece)
        if not is_whole(part, file):
            part.unlink()
            raise RemoteError(f"{repository}/{file.path} arrived damaged and was thrown away; run the command again")
        part.replace(target)

    def _pieces(self, url: str, repository: str, part: Path) -> Iterator[bytes]:
        """What is still missing of a file that has partly arrived."""
        there = part.stat().st_size
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return
                _check(response, repository)
                if there and response.status_code != httpx.codes.PARTIAL_CONTENT:
                    part.write_bytes(b"")
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise RemoteError(f"{url} broke off ({type(error).__name__}); run the command again to go on from there") from error

    def _get(self, url: str, repository: str, params: Mapping[str, str]) -> httpx.Response:
        try:
            response = self._client.get(url, params=params)
        except httpx.HTTPError as error:
            raise RemoteError(
                f"cannot reach {self._client.base_url} ({type(error).__name__}); fetch where there is a network and carry the "
                "folder over (docs/how-to/air-gapped.md)"
            ) from error
        _check(response, repository)
        return response


def fetch(recipe: Recipe, folder: Path, hub: Hub, tell: Callable[[str], None]) -> Path:
    """All models of an engine into a bundle, whose manifest lists every file with its sha256; files that are already there and
    whole are kept. Returns the manifest's path.
    """
    models = {part.role: _fetch_model(part, folder / part.role, hub, tell) for part in recipe.models}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"engine": recipe.name, "models": models}, indent=1), encoding="utf-8")
    return manifest


def verify(folder: Path) -> list[str]:
    """What is wrong with a bundle, file by file; nothing when every file is there and has the digest of the manifest. Raises
    SetupError when there is no manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{folder} has no readable {MANIFEST}: {error}") from error
    wrong = []
    for role, model in manifest["models"].items():
        for name, digest in model["files"].items():
            path = folder / role / name
            if not path.is_file():
                wrong.append(f"{path} is missing")
            elif _digest(path, "sha256") != digest:
                wrong.append(f"{path} has changed")
    return wrong


def is_whole(path: Path, file: HubFile) -> bool:
    """Whether a file is the one that the hub announced."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return _digest(path, "sha256") == file.sha256
    return file.git_sha1 is None or _git_sha1(path) == file.git_sha1


def _fetch_model(part: PublishedModel, folder: Path, hub: Hub, tell: Callable[[str], None]) -> dict[str, Any]:
    revision, files = hub.files(part.repository)
    for file in files:
        target = folder / file.path
        if is_whole(target, file):
            continue
        tell(f"{part.repository}/{file.path}  {file.size / 1e6:.1f} MB")
        hub.download(part.repository, revision, file, target)
    digests = {file.path: _digest(folder / file.path, "sha256") for file in files}
    return {"repository": part.repository, "revision": revision, "licence": part.licence, "files": digests}


def _hub_file(sibling: Mapping[str, Any]) -> HubFile:
    large = sibling.get("lfs") or {}
    return HubFile(
        path=str(sibling["rfilename"]),
        size=int(large.get("size", sibling.get("size", 0))),
        sha256=large.get("sha256"),
        git_sha1=None if large else sibling.get("blobId"),
    )


def _check(response: httpx.Response, repository: str) -> None:
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise SetupError(
            f"{repository} is behind a licence, or does not exist: accept it on the model's page, then set HF_TOKEN to a "
            "token of the same account"
        )
    if response.is_error:
        raise RemoteError(f"{response.url} answered {response.status_code}", status=response.status_code)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _git_sha1(path: Path) -> str:
    """The name that git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
