"""The errors of Maskloom, divided by who can fix them.

::

    MaskloomError
    ├── RequestError        the caller: a body, a prompt or a labelling config that cannot be read
    │   ├── ConfigError     the labelling config
    │   ├── ImageError      the image: missing, refused, too large, broken
    │   └── VideoError      the video: no picture in it, a damaged frame, a frame that it does not have
    ├── SetupError          whoever runs Maskloom: settings, weights, a busy port, a missing program
    ├── RemoteError         another service, Label Studio above all, did not answer as it should
    └── StoreError          the database of the stores: held by somebody else, damaged, full
"""

from __future__ import annotations


class MaskloomError(Exception):
    """Anything that Maskloom says on purpose; the message names what happened, where, and what to do."""


class RequestError(MaskloomError):
    """The caller can fix it."""


class ConfigError(RequestError):
    """The labelling config cannot be used."""


class ImageError(RequestError):
    """The image of a task cannot be had."""


class VideoError(RequestError):
    """The video of a task cannot be read."""


class SetupError(MaskloomError):
    """Whoever runs Maskloom can fix it."""


class RemoteError(MaskloomError):
    """A service that Maskloom depends on failed.

    ``status`` is its HTTP status, None when it did not answer at all; ``after_s`` the pause that it asked for.
    """

    def __init__(self, message: str, status: int | None = None, after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.after_s = after_s

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in (408, 425, 429) or self.status >= 500


class StoreError(MaskloomError):
    """What is kept between requests cannot be read or written now; the same may succeed later."""
