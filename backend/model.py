"""The label-studio-ml door: Maskloom as a model class, for teams who already run that SDK.

Works over the package index's 1.0.9 (which needs ``redis`` and ``rq`` beside it) and over 2.x. The SDK makes an instance of the
class for every ``/setup`` or every request; the engine behind it is one for the process.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.assemble import Parts, assemble
from backend.values.settings import Settings


class MaskloomModel(LabelStudioMLBase):  # type: ignore[misc]
    """Answers every request by the one path; settings come from the environment, as for ``maskloom serve``."""

    def predict(self, tasks: Sequence[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any) -> list[dict[str, Any]]:
        """One prediction for each task. Raises RequestError when ``tasks`` is no list."""
        parts = _parts()
        named, hostname, token = (getattr(self, name, None) or None for name in ("project_id", "hostname", "access_token"))
        project = parts.projects.register(named, hostname, token, self.label_config)
        body = {"tasks": tasks, "project": project, "label_config": self.label_config, "params": {"context": context}}
        return parts.service.predict(body)


@functools.cache
def _parts() -> Parts:
    return assemble(Settings())
