"""How long a run waits for a Label Studio that is busy."""

from __future__ import annotations

import threading

from backend.bulk import values as sink_module
from backend.bulk.values import ItemResult, StudioSink
from backend.labelstudio.api import LabelStudio
from backend.stores.ledger import Item
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running


class Watched(threading.Event):
    """A stop that nobody asks for; how long it was waited for is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def test_the_pause_is_what_label_studio_asks_for_else_twice_the_last_one() -> None:
    stop, item = Watched(), Item("3", {"id": 3, "data": {}}, "")
    with running(StudioDouble(faults=[429, "drop"]).with_tasks(5)) as double:
        sink = StudioSink(LabelStudio(double.url, TOKEN), 1, "colour-1", stop)
        assert sink.write([ItemResult(item, prediction={"result": [], "score": 0.5})]) == {}
    assert stop.waits == [0.0, 2 * sink_module.FIRST_PAUSE_S]
    assert double.per_task()[3] == 1
