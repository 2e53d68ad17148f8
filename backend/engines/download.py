"""How the models of an engine get from the hub into a bundle: the files that are read, of one commit, to the last byte."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from backend.engines.bundle import MANIFEST, digest, read_manifest, verify, write_manifest
from backend.engines.catalogue import PublishedModel, Recipe
from backend.values.errors import RemoteError, SetupError, missing_extra

WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
"""Only safetensors, which cannot carry code."""
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
)
READ = ("config.json", *WEIGHTS, *TOKENIZER)
READ_BY_OPEN_CLIP = (
    "open_clip_config.json",
    "open_clip_model*.safetensors",
    "open_clip_pytorch_model*.safetensors",
    *TOKENIZER,
)
"""timm's own weights often lie beside them, which nobody reads."""
COMMIT = re.compile("[0-9a-f]{40}")
LEFT_BY_HUB = ".cache"
"""Where huggingface_hub notes in a folder what it has fetched."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its path there, its size, and its digest as the hub gives it, sha256 of large files and git's
    sha1 of small ones.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None

    def is_at(self, path: Path) -> bool:
        """Whether a file is this one, to the last byte."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return digest(path) == self.sha256
        return self.git_sha1 is None or _git_sha1(path) == self.git_sha1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is to be fetched of a model: the commit and the files that engines read."""

    model: PublishedModel
    revision: str
    files: tuple[HubFile, ...]


SILENT_S = 10.0
"""How long a hub that is asked what a model consists of may say nothing."""


class Hub:
    """A model hub, by huggingface_hub. Raises SetupError where that is not installed."""

    def __init__(self, url: str, token: str | None = None) -> None:
        try:
            import huggingface_hub
        except ImportError as error:
            raise missing_extra("engines", "fetching needs huggingface_hub", error) from error
        self._hub: Any = huggingface_hub
        self._url, self._token = url.rstrip("/"), token or False
        self._api = huggingface_hub.HfApi(endpoint=self._url, token=self._token)

    def look_up(self, model: PublishedModel, revision: str) -> Snapshot:
        """The files of a model at a commit or branch that engines read. Raises RemoteError, or SetupError that says how access
        is asked for.
        """
        with self._explaining(model):
            found = self._api.model_info(model.repository, revision=revision, timeout=SILENT_S, files_metadata=True)
            if found.gated:
                self._api.auth_check(model.repository)
        files = {str(each.rfilename): each for each in found.siblings or ()}
        chosen = [_hub_file(files[name]) for name in _names_read(model, files)]
        if found.sha is None or not any(file.path.endswith((".safetensors", ".pt")) for file in chosen):
            raise RemoteError(f"{model.repository} has no weights that are read at {self._url}")
        if COMMIT.fullmatch(revision) and found.sha != revision:
            raise RemoteError(f"{self._url} has commit {found.sha} of {model.repository} where {revision} was asked for")
        return Snapshot(model, str(found.sha), tuple(chosen))

    def download(self, snapshot: Snapshot, file: HubFile, folder: Path) -> None:
        """Write a file of a model into its folder. Raises RemoteError when the connection breaks or the bytes are not those
        that the hub announced.
        """
        with self._explaining(snapshot.model):
            path = self._hub.hf_hub_download(
                snapshot.model.repository,
                file.path,
                revision=snapshot.revision,
                local_dir=folder,
                endpoint=self._url,
                token=self._token,
                force_download=(folder / file.path).exists(),
            )
        if not file.is_at(Path(path)):
            Path(path).unlink(missing_ok=True)
            raise RemoteError(
                f"{snapshot.model.repository}/{file.path} arrived damaged and was thrown away; run the command again"
            )

    @contextmanager
    def _explaining(self, model: PublishedModel) -> Iterator[None]:
        """What huggingface_hub raises, as sentences."""
        errors = self._hub.errors
        try:
            yield
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
            raise SetupError(
                f"{model.repository} is behind a licence, or does not exist: log in at {self._url}/{model.repository} and "
                f"agree to it, make a token that may read at {self._url}/settings/tokens, and set HF_TOKEN to it; nothing was "
                "fetched"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise RemoteError(f"{model.repository} no longer has the revision that was asked for; see --take newest") from error
        except Exception as error:  # of whichever HTTP library huggingface_hub uses
            status = getattr(getattr(error, "response", None), "status_code", None)
            told = f"{self._url} answered {status}" if status else f"cannot reach {self._url} ({type(error).__name__})"
            raise RemoteError(
                f"{told}: {model.repository} was not fetched; run the command again to go on with the files that are missing, "
                "or fetch where there is a network and carry the bundle over (--bundle)",
                status,
            ) from error


def fetch(recipe: Recipe, folder: Path, hub: Hub, tell: Tell, pins: dict[str, str]) -> Path:
    """All models of an engine into a bundle, whose manifest lists every file with its sha256; files that are already there and
    whole are kept. ``pins`` are the commits to take by role; a model without one is taken as it is now. Everything is looked up
    before anything is fetched. Returns the manifest's path.
    """
    snapshots = [hub.look_up(model, pins.get(model.role, "main")) for model in recipe.models]
    models = {snapshot.model.role: _fetch_model(snapshot, folder, hub, tell) for snapshot in snapshots}
    return write_manifest(folder, recipe.name, models)


def pins_for(take: str, recipe: Recipe, folder: Path) -> dict[str, str]:
    """The commits by role that ``maskloom fetch --take`` means: kept (and missing), newest, or ``decoder=COMMIT,clip=COMMIT``,
    where the other models stay with theirs. Raises SetupError for anything else.
    """
    if take == "newest":
        return named_pins(recipe)
    if take in ("kept", "missing"):
        return pins_of(recipe, folder)
    named = dict(part.strip().split("=", 1) for part in take.split(",") if "=" in part)
    roles = [model.role for model in recipe.models]
    if len(named) != len(take.split(",")) or not all(role in roles and COMMIT.fullmatch(named[role]) for role in named):
        raise SetupError(
            f"--take {take} is none of kept, newest, missing, and does not name commits of 40 hexadecimal digits by model; the "
            f"models of {recipe.name!r} are {', '.join(roles)}"
        )
    return {**pins_of(recipe, folder), **named}


def pins_of(recipe: Recipe, folder: Path) -> dict[str, str]:
    """The commits to stay with: those that the catalogue names, and of the others those that were fetched before."""
    try:
        before = read_manifest(folder)
    except SetupError:
        before = {}
    kept = {
        model.role: before[model.role].revision
        for model in recipe.models
        if model.role in before and before[model.role].repository == model.repository
    }
    return {**kept, **named_pins(recipe)}


def named_pins(recipe: Recipe) -> dict[str, str]:
    """The commits that the catalogue names."""
    return {model.role: model.revision for model in recipe.models if model.revision is not None}


def pack(folder: Path, archive: Path) -> None:
    """Write a whole bundle into one file, to be carried over."""
    names = [MANIFEST, *(f"{role}/{name}" for role, part in read_manifest(folder).items() for name in part.files)]
    draft = archive.with_name(archive.name + ".part")
    with tarfile.open(draft, "w") as tar:
        for name in names:
            tar.add(folder / name, name)
    draft.replace(archive)


def unpack(archive: Path, folder: Path) -> None:
    """A bundle out of one file, every part of it checked. Raises SetupError for anything else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise SetupError(f"{archive} cannot be unpacked into {folder}: {error}") from error
    if wrong := verify(folder):
        raise SetupError(f"{archive} is not whole: {'; '.join(wrong[:4])}")


def _fetch_model(snapshot: Snapshot, bundle: Path, hub: Hub, tell: Tell) -> dict[str, Any]:
    folder, model = bundle / snapshot.model.role, snapshot.model
    try:
        for file in snapshot.files:
            if not file.is_at(folder / file.path):
                tell(f"{model.repository}/{file.path}  {file.size / 1e6:.1f} MB")
                hub.download(snapshot, file, folder)
    finally:
        shutil.rmtree(folder / LEFT_BY_HUB, ignore_errors=True)
    digests = {file.path: digest(folder / file.path) for file in snapshot.files}
    return {"repository": model.repository, "revision": snapshot.revision, "licence": model.licence, "files": digests}


def _names_read(model: PublishedModel, names: Iterable[str]) -> list[str]:
    """The files of a repository that an engine reads, those at its top alone. Raises RemoteError for one that it needs and that
    is not there.
    """
    there = [name for name in names if "/" not in name]
    if missing := [name for name in model.files if name not in there]:
        raise RemoteError(f"{model.repository} has no {', '.join(missing)}")
    patterns = model.files or (READ_BY_OPEN_CLIP if model.role == "clip" else READ)
    return [name for name in there if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _hub_file(sibling: Any) -> HubFile:
    large = sibling.lfs
    return HubFile(
        path=str(sibling.rfilename),
        size=int(large.size if large else sibling.size or 0),
        sha256=str(large.sha256) if large else None,
        git_sha1=None if large else sibling.blob_id,
    )


def _git_sha1(path: Path) -> str:
    """The name that git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
