"""Every setting of Maskloom; the only reader of the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1 << 20


def _either(name: str, *familiar: str) -> AliasChoices:
    """Our own variable first, then those that users of Label Studio know."""
    return AliasChoices(f"MASKLOOM_{name}", *familiar)


def _expanded(path: Path) -> Path:
    """A path with the home folder in place of ``~``. Raises ValueError for the home of somebody who is not known here."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home folder that {path} could be in; name the folder in full") from error


DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]
KeptDtypeName = Literal["float32", "float16"]


class Settings(BaseSettings):
    """Read from variables ``MASKLOOM_<NAME>``; a few also have the names that Label Studio's users know."""

    model_config = SettingsConfigDict(env_prefix="MASKLOOM_", frozen=True, extra="ignore", populate_by_name=True)

    engine: str = Field(default="embedded", description="Which engine answers; `maskloom parts` lists them.")
    weights: Path | None = Field(default=None, description="Weights for the engine, in place of its own.")
    refine: str | None = Field(
        default=None,
        description="An engine of the SAM family, for example `edgetam-cpu`, whose decoder refines every mask; it is read from "
        "where `maskloom fetch` puts it. Empty refines nothing.",
    )
    device: DeviceName = Field(default="auto", description="Where engines that can choose compute: auto, cpu, cuda or mps.")
    dtype: DtypeName = Field(
        default="auto",
        description="In which numbers they encode images: auto (bfloat16 on a GPU, else float32), float32 or bfloat16.",
    )
    home: Path = Field(
        default=Path("~/.cache/maskloom"), validate_default=True, description="Folder for caches and stores; it can be deleted."
    )
    database: str | None = Field(
        default=None, description="SQLAlchemy URL of the stores; by default a SQLite file in the home folder."
    )
    feature_cache_mib: int = Field(
        default=512, ge=1, description="Memory for encoded images, in MiB; half as much, 64 to 256, holds decoded ones."
    )
    feature_cache_dtype: KeptDtypeName = Field(
        default="float32", description="In which numbers they are kept: float32, or float16 for twice as many images."
    )
    feature_spill_mib: int = Field(
        default=0, ge=0, description="Disk space for encoded images for which memory has no room, in MiB; 0 keeps none."
    )
    tile_px: int = Field(
        default=0,
        ge=0,
        description="Pre-annotation by names also looks at overlapping tiles of so many pixels, on images that are longer than "
        "one and a half of them: small things are found that vanish in the whole. Each tile is encoded; 0 looks at the whole.",
    )
    prefetch_s: float = Field(
        default=2,
        ge=0,
        le=3_600,
        description="The next task's image is encoded in the background while an annotator works on one, where encoding takes "
        "no longer than this (a click has to wait for it); 0 switches it off. Needs the address and token of Label Studio.",
    )

    label_studio_url: str | None = Field(
        default=None,
        validation_alias=_either("LABEL_STUDIO_URL", "LABEL_STUDIO_URL"),
        description="Where this process reaches Label Studio, when that is not the address that Label Studio gives itself.",
    )
    label_studio_token: SecretStr | None = Field(
        default=None,
        validation_alias=_either("LABEL_STUDIO_TOKEN", "LABEL_STUDIO_API_KEY"),
        description="A personal access token or a legacy token of Label Studio, for reading uploaded images.",
    )
    local_roots: str = Field(
        default=".",
        validation_alias=_either("LOCAL_ROOTS", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", "LOCAL_FILES_DOCUMENT_ROOT"),
        description="Folders, separated by ':', from which images may be read directly; by default the working folder.",
    )
    image_cache_mib: int = Field(default=1024, ge=0, description="Disk space for fetched images, in MiB.")
    max_image_mib: int = Field(default=64, ge=1, description="Largest image file that is fetched, in MiB.")
    film_cache_mib: int = Field(
        default=4096, ge=0, description="Disk space for fetched films, in MiB; the latest is kept anyway."
    )
    max_film_mib: int = Field(default=2048, ge=1, description="Largest video file that is read, in MiB.")
    max_image_megapixels: float = Field(
        default=64, gt=0, le=10_000, description="Largest image that is decoded, in millions of pixels."
    )
    bands: str = Field(
        default="",
        pattern=r"^(\s*[1-9]\d{0,2}\s*(,\s*[1-9]\d{0,2}\s*){2})?$",
        description="Of TIFFs with more than three bands: which are shown as red, green and blue, counted from 1, such as "
        "`4,3,2`; by default the first three.",
    )
    image_hosts: str = Field(
        default="localhost",
        description="Hosts without a public address from which images may be fetched, separated by commas: names (`*.lan` for "
        "all below one), addresses, networks such as `192.168.0.0/16`, `localhost` for this machine, `*` for all. Hosts with "
        "public addresses and MASKLOOM_LABEL_STUDIO_URL are always allowed. By default this machine, which is safe as long as "
        "nobody else reaches the server: `maskloom serve --host` with an address that others reach allows none by default.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="A file of certificates (PEM) to trust besides the usual ones, for hosts that a company signed.",
    )
    connect_timeout_s: float = Field(
        default=3, gt=0, le=60, description="How long a server with images may take to accept a connection, in seconds."
    )
    read_timeout_s: float = Field(
        default=30,
        gt=0,
        le=600,
        description="How long a server with images may stay silent, in seconds; 8 at most while an annotator waits.",
    )

    hub_url: str = Field(
        default="https://huggingface.co",
        validation_alias=_either("HUB_URL", "HF_ENDPOINT"),
        description="Where `maskloom fetch` gets models.",
    )
    hub_token: SecretStr | None = Field(
        default=None, validation_alias=_either("HUB_TOKEN", "HF_TOKEN"), description="A token for models behind a licence."
    )
    offline: bool = Field(
        default=False,
        validation_alias=_either("OFFLINE", "HF_HUB_OFFLINE"),
        description="Refuse to fetch models. The engines of `maskloom fetch` never use the network.",
    )

    canaries: float = Field(
        default=0,
        ge=0,
        le=0.5,
        description="The share of suggested regions of pre-annotations that lose a part on purpose, which tells whether people "
        "still look at them (`maskloom balance`); bulk runs never have any. 0 damages none.",
    )
    session_hours: float = Field(default=24, gt=0, le=87_600, description="How long a round of prompting is remembered.")
    basic_auth_user: str | None = Field(
        default=None,
        validation_alias=_either("BASIC_AUTH_USER", "BASIC_AUTH_USER"),
        description="With the password: only callers that know both are answered (probes and webhooks excepted).",
    )
    basic_auth_pass: SecretStr | None = Field(
        default=None,
        validation_alias=_either("BASIC_AUTH_PASS", "BASIC_AUTH_PASS"),
        description="See MASKLOOM_BASIC_AUTH_USER.",
    )

    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Only webhooks that know it are heard: in their address (`/webhook?secret=...`) or in the header "
        "`X-Maskloom-Secret`. Empty hears all.",
    )

    traces_url: str | None = Field(
        default=None,
        pattern=r"^(https?://[^/\s:]\S*)?$",
        description="Where spans of requests and of their stages go, by OTLP over HTTP (`http://collector:4318/v1/traces`); "
        "without it none are made. Needs the extra `telemetry`.",
    )

    @field_validator("home", "weights", "ca_file")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        return None if path is None else _expanded(path)

    @field_validator("local_roots")
    @classmethod
    def _roots_at_home(cls, roots: str) -> str:
        return ":".join(str(_expanded(Path(root))) for root in roots.split(":") if root)

    def as_json(self) -> str:
        """All of them, what is secret as well, for another process of this server."""
        values = {name: getattr(self, name) for name in Settings.model_fields}
        plain = {name: each.get_secret_value() if isinstance(each, SecretStr) else each for name, each in values.items()}
        return json.dumps(plain, default=str)

    @property
    def home_folder(self) -> Path:
        return self.home

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        return tuple(Path(root).resolve() for root in self.local_roots.split(":") if root)

    @property
    def shown_bands(self) -> tuple[int, ...]:
        """The bands, counted from 0."""
        return tuple(int(band) - 1 for band in self.bands.split(",")) if self.bands else ()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home_folder / 'maskloom.sqlite'}"
