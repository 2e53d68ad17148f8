"""Builds the parts from the settings: the only module that knows both settings and registries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from backend import __version__
from backend.background import wait_for
from backend.bulk.jobs import Jobs
from backend.bulk.run import BulkContext
from backend.bulk.values import FilmShelf
from backend.bulk.warm import Warmer
from backend.bulk.work import PatientImages
from backend.caches import Codec, DiskCache
from backend.engines.base import Engine
from backend.engines.catalogue import Placement, find_engine, find_refiner
from backend.evaluation.gate import Gate
from backend.evaluation.training import Training
from backend.images import Media
from backend.images.limits import ImageSource, MediaOptions
from backend.labelstudio.api import LabelStudio, Project, is_up
from backend.labelstudio.project_options import ProjectOptions
from backend.labelstudio.verdicts import Canaries
from backend.segmenter import Segmenter
from backend.serving.films import FilmAnswerer
from backend.serving.history import History, LateWrites
from backend.serving.interact import Interactor
from backend.serving.learning import Learning, Teach, teach_nothing
from backend.serving.learnt import PLACES
from backend.serving.memory_page import MemoryPage
from backend.serving.preannotate import Preannotator, Prefetcher
from backend.serving.projects import Projects
from backend.serving.protocol import EventProtocol
from backend.serving.remembering import Recorder
from backend.serving.service import EngineHandle, EngineOptions, Service
from backend.serving.trainings import Trainings
from backend.serving.versions import Memories, Teaching, teach_newest
from backend.serving.webhooks import AnnotationEvents
from backend.stores.album import Album
from backend.stores.answers import Answers
from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import CLICK_WAIT_S, Database
from backend.stores.ledger import Ledger
from backend.stores.memory import MemoryBank
from backend.stores.projects import ProjectTable
from backend.stores.sessions import SessionStore
from backend.stores.snapshots import FrozenMemory, Snapshots
from backend.values.errors import SetupError
from backend.values.features import SINGLY, Batching, FeatureCache, ImageFeatures, features_from_bytes, features_to_bytes
from backend.values.settings import MEBIBYTE, Settings
from backend.video.tracks import KEPT, FrameMask
from prompts.examples import ShownImage
from prompts.kinds import KeyedImage

BULK_CACHE_MIB = 32
EXAMPLES_MIB = 512
"""What is kept on disk of the places of examples: about a thousand images of the embedded engine."""
FILM_PROGRESS_MIB = 1024
FILM_MASKS_MIB = 2048
"""What is kept on disk of the masks of films: an object takes about half a megabyte a minute."""
GPU_ENCODE_BATCH = 8
CLOSING_S = 5.0
"""How long events that wait may take when the server ends."""
SILENT_WHILE_SOMEBODY_WAITS_S = 8.0
"""How long a server with images may stay silent at most while an annotator waits for an answer; it is asked a second longer."""
LABEL_STUDIO_PATIENCE_S = 600.0
"""How long a bulk run waits for a Label Studio that is away."""


def engine_handle(settings: Settings, batching: Batching = SINGLY) -> EngineHandle:
    """The engine by the settings, not loaded yet. Raises SetupError for an unknown engine, or one that cannot refine."""
    refiner = find_refiner(settings.refine) if settings.refine else None
    options = EngineOptions(settings.home_folder, placement_of(settings), settings.weights, refiner)

    def start(engine: Engine) -> Segmenter:
        return Segmenter(engine, feature_cache(settings, engine.version), batching, settings.tile_px)

    return EngineHandle(find_engine(settings.engine), options, start)


def placement_of(settings: Settings) -> Placement:
    """Where engines compute, how exactly, and where they keep the vectors of names."""
    return Placement(settings.device, settings.dtype, settings.home_folder / "vocabulary")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a running server consists of."""

    settings: Settings
    engine: EngineHandle
    media: Media
    service: Service
    options: ProjectOptions
    projects: Projects
    jobs: Jobs
    webhooks: AnnotationEvents
    prefetcher: Prefetcher | None
    learning: Learning
    recorder: Recorder
    memory_page: MemoryPage
    late: LateWrites
    trainings: Trainings

    def close(self) -> None:
        """End what runs in the background: events that wait are read, jobs end after what is under way."""
        if self.prefetcher is not None:
            self.prefetcher.close()
        self.learning.close()
        self.recorder.close(CLOSING_S)
        self.late.close(CLOSING_S)
        self.trainings.close()
        self.service.films.close()
        self.memory_page.weighing.close(CLOSING_S)
        self.service.events.close()
        self.webhooks.close(CLOSING_S)
        self.projects.close(CLOSING_S)
        self.jobs.close()


def assemble(settings: Settings) -> Parts:
    """All parts by the settings. Raises SetupError for an unknown engine; loads no model."""
    engine = engine_handle(settings, together(settings))
    silent_s = min(SILENT_WHILE_SOMEBODY_WAITS_S, settings.read_timeout_s)
    media = Media(replace(media_options(settings), read_timeout_s=silent_s, total_timeout_s=silent_s + 1))
    database = Database(settings.database_url)
    options = ProjectOptions()
    for_clicks = Database(settings.database_url, CLICK_WAIT_S)
    memory = MemoryBank(for_clicks)
    learning = Learning(memory, media, places_of_examples(settings), Snapshots(for_clicks).least)
    teach = teacher(settings, media)
    projects = Projects(ProjectTable(for_clicks), media.register, settings.label_studio_url)
    weigh = gate(settings, engine, media).weigh
    memories = Memories(MemoryBank(database), Snapshots(database), weigh, lambda project: projects.key(project.name))
    studio = partial(label_studio, settings)
    context = BulkContext(engine, media, Ledger(database), Album(database), studio, memories, teach, film_shelf(settings))
    jobs = Jobs(context, options, partial(teach_newest, learning))
    late = LateWrites()
    history = History(SessionStore(for_clicks, settings.session_hours), memory, media, late)
    recorder = Recorder(Answers(database))
    service = Service(
        engine,
        Preannotator(engine, media, options, learning),
        Interactor(engine, media, options, history, learning),
        FilmAnswerer(engine, media, options, film_masks(settings)),
        EventProtocol(engine, media, media),
        hand_over=jobs.hand_over,
        record=recorder.record,
        damage=Canaries(settings.canaries, np.random.default_rng()).among if settings.canaries else lambda answer: answer,
    )
    prefetcher = prefetching(settings, engine, media)
    known = (lambda url, project: True) if settings.webhook_secret else media.knows
    trainings = Trainings(settings.as_json())
    events = AnnotationEvents(memory, Answers(for_clicks), projects.key, partial(learning.hear, engine), known, trainings.start)
    seen = (Curation(database), Snapshots(database), Balance(database), memories, media, settings.label_studio_url or "")
    page = MemoryPage(*seen)
    return Parts(
        settings, engine, media, service, options, projects, jobs, events, prefetcher, learning, recorder, page, late, trainings
    )


def prefetching(settings: Settings, engine: EngineHandle, images: ImageSource) -> Prefetcher | None:
    """What has the next task's image encoded; None where Label Studio cannot be asked for it, or nobody wants it."""
    if not (settings.prefetch_s and settings.label_studio_url and settings.label_studio_token):
        return None
    return Prefetcher(engine, images, lambda: label_studio(settings), settings.prefetch_s)


def teacher(settings: Settings, images: ImageSource) -> Callable[[FrozenMemory | None], Teach]:
    """Makes of a version of a memory what teaches the items of a run."""
    return lambda memory: Teaching(memory, images, places_of_examples(settings)) if memory is not None else teach_nothing


def gate(settings: Settings, engine: EngineHandle, images: ImageSource) -> Gate:
    """What weighs versions of memories."""
    known = ProjectTable(Database(settings.database_url)).vocabulary
    return Gate(engine.segmenter, images, partial(Teaching, images=images, places=places_of_examples(settings)), known)


def places_of_examples(settings: Settings) -> DiskCache[ShownImage]:
    """Where it is kept what examples show, by engine and by the release that wrote it."""
    return DiskCache(settings.home_folder / "examples", __version__, EXAMPLES_MIB * MEBIBYTE, PLACES)


def film_masks(settings: Settings) -> DiskCache[Mapping[int, FrameMask]]:
    """Where the masks of films are kept that Label Studio has boxes of, by region."""
    return DiskCache(settings.home_folder / "film-masks", "", FILM_MASKS_MIB * MEBIBYTE, KEPT)


def film_shelf(settings: Settings) -> FilmShelf:
    """What bulk runs keep of films: those of a process that was killed go on where they were."""
    codec: Codec[bytes] = Codec("the progress of films", ".progress", bytes, bytes)
    progress = DiskCache(settings.home_folder / "film-progress", __version__, FILM_PROGRESS_MIB * MEBIBYTE, codec)
    return FilmShelf(progress, film_masks(settings))


def feature_cache(settings: Settings, version: str) -> FeatureCache:
    """The cache of an engine's encoded images by the settings; what it spills is read by no other engine or number format."""
    kept: torch.dtype = getattr(torch, settings.feature_cache_dtype)
    return FeatureCache(settings.feature_cache_mib * MEBIBYTE, kept, feature_spill(settings, version))


def feature_spill(settings: Settings, version: str) -> DiskCache[ImageFeatures]:
    """Where encoded images lie on disk."""
    space = f"{__version__} {version} {settings.dtype} {settings.feature_cache_dtype}"
    codec = Codec("encoded images", ".features", features_to_bytes, features_from_bytes)
    return DiskCache(settings.home_folder / "features", space, settings.feature_spill_mib * MEBIBYTE, codec)


def warmer(settings: Settings, stop: threading.Event) -> Warmer:
    """What encodes a project's images onto disk: memory holds none of them, so that each is written at once.

    Raises SetupError when the settings give them no room there.
    """
    if not settings.feature_spill_mib:
        raise SetupError(
            "encoded images have no room on disk: set MASKLOOM_FEATURE_SPILL_MIB for this command and for the server, to about "
            "10 for each image"
        )
    settings = settings.model_copy(update={"feature_cache_mib": 0})
    engine = engine_handle(settings)
    spill, most_bytes = feature_spill(settings, engine.version), settings.feature_spill_mib * MEBIBYTE
    return Warmer(bulk_images(settings, None, stop), engine.segmenter(), spill, most_bytes, stop=stop)


def together(settings: Settings) -> Batching:
    """How images of several requests are encoded: together where there is a GPU to use; without one, that is no quicker."""
    has_gpu = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    return Batching(GPU_ENCODE_BATCH) if has_gpu else SINGLY


def bulk_settings(settings: Settings) -> Settings:
    """The same for bulk runs: each image is used once there, so that encoded images take little memory, and none on disk."""
    cache_mib = min(settings.feature_cache_mib, BULK_CACHE_MIB)
    return settings.model_copy(update={"feature_cache_mib": cache_mib, "feature_spill_mib": 0})


def bulk_context(settings: Settings, root: Path | None, stop: threading.Event) -> BulkContext:
    """What bulk runs over a folder or, where ``root`` is None, over the tasks of projects share."""
    settings = bulk_settings(settings)
    database = Database(settings.database_url)
    engine, images = engine_handle(settings), bulk_images(settings, root, stop)
    teach, key_of = teacher(settings, images), partial(project_key, settings)
    return BulkContext(
        engine=engine,
        images=images,
        ledger=Ledger(database),
        album=Album(database),
        studio=lambda: label_studio(settings),
        memories=Memories(MemoryBank(database), Snapshots(database), gate(settings, engine, images).weigh, key_of),
        teacher=teach,
        shelf=film_shelf(settings),
    )


def bulk_images(settings: Settings, root: Path | None, stop: threading.Event) -> ImageSource:
    """The images of a folder, wherever it lies and its links lead; or those of tasks, with patience while Label Studio is away.

    Each is used once, so that none is kept in memory.
    """
    options = replace(media_options(settings), decoded_bytes=0)
    if root is not None:
        return Media(replace(options, local_roots=(Path("/"),)))
    media, url = Media(options), settings.label_studio_url
    if url is None:
        return media
    return PatientImages(media, lambda: wait_for(lambda: is_up(url), stop, LABEL_STUDIO_PATIENCE_S))


def label_studio(settings: Settings) -> LabelStudio:
    """Label Studio's API by the settings. Raises SetupError when they do not say where it is, or no token."""
    if not settings.label_studio_url or not settings.label_studio_token:
        raise SetupError(
            "say where Label Studio is and how to enter: --url and --token, or MASKLOOM_LABEL_STUDIO_URL and "
            "MASKLOOM_LABEL_STUDIO_TOKEN (a personal access token of its account page)"
        )
    return LabelStudio(settings.label_studio_url, settings.label_studio_token.get_secret_value(), settings.ca_file)


def media_options(settings: Settings) -> MediaOptions:
    """How images are fetched, by the settings."""
    return MediaOptions(
        label_studio_url=settings.label_studio_url,
        token=settings.label_studio_token.get_secret_value() if settings.label_studio_token else None,
        local_roots=settings.allowed_roots,
        bands=settings.shown_bands,
        hosts=tuple(filter(None, (host.strip() for host in settings.image_hosts.split(",")))),
        ca_file=settings.ca_file,
        cache_dir=settings.home_folder / "images",
        cache_bytes=settings.image_cache_mib * MEBIBYTE,
        decoded_bytes=min(max(settings.feature_cache_mib // 2, 64), 256) * MEBIBYTE,
        max_bytes=settings.max_image_mib * MEBIBYTE,
        max_film_bytes=settings.max_film_mib * MEBIBYTE,
        film_cache_bytes=settings.film_cache_mib * MEBIBYTE,
        max_pixels=round(settings.max_image_megapixels * 1_000_000),
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.read_timeout_s,
        user_agent=f"maskloom/{__version__}",
    )


def image_files(settings: Settings) -> Callable[[Path], KeyedImage]:
    """Reads image files of the user's own machine, wherever they lie."""
    media = Media(replace(media_options(settings), local_roots=(Path("/"),)))
    return lambda path: media.load(str(path.expanduser().resolve()), project="", task_id=None)


def training(settings: Settings) -> Training:
    """What trains on a project's annotations, by the settings."""
    context = bulk_context(settings, None, threading.Event())
    if context.memories is None:
        raise SetupError("there is no memory to train on")
    return Training(gate(settings, engine_handle(settings), context.images), context.memories)


def memory_bank(settings: Settings) -> MemoryBank:
    """What projects' annotations have taught, by the settings; with patience, as nobody waits for an answer."""
    return MemoryBank(Database(settings.database_url))


def project_key(settings: Settings, project: Project) -> str:
    """The key of a project of the Label Studio of the settings, as the server has it."""
    projects = Projects(ProjectTable(Database(settings.database_url)), lambda *_: None, settings.label_studio_url)
    key = projects.key(project.name)
    projects.name_labels(key, project.label_config)
    projects.close(CLOSING_S)
    return key
