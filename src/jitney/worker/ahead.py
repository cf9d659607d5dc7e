"""What the pool of templates has done beside the starts of containers, as instructions; and what a start had of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jitney.worker import events
from jitney.worker.pool import TemplatePool


def settle(pool: TemplatePool, now_ms: int, tell: Callable[[str], None]) -> Iterator[events.Instruction]:
    """Close the templates that are too many, and open one ahead of need. `tell` is told why."""
    going, coming = pool.settle(now_ms)
    for one in going:
        tell(f"template of {one.spec.module or one.spec.image_id} goes: {one.why}")
        yield events.CloseTemplate(one.spec)
    if coming is not None:
        tell(f"template of {coming.spec.module or coming.spec.image_id} is made ahead: {coming.why}")
        yield events.OpenTemplate(coming.spec, "")


def waited_phases(opened: events.TemplateOpened, waited_ms: float) -> dict[str, float]:
    """Where the time went that a container waited for its template; one that came late saw the end only."""
    image_ms = min(opened.image_ms, waited_ms)
    found = {"image": image_ms} if image_ms else {}
    found["template"] = waited_ms - image_ms
    for name, took_ms in (("snapshot", opened.facts.snapshot_ms), ("import", opened.facts.import_ms)):
        if took_ms:
            found[name] = min(took_ms, found["template"])
    return found
