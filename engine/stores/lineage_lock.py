"""Who begins to go on from a thread and who takes threads away never miss each other.

One advisory lock a state folder, `locks/lineage.lock`. What makes a thread that reads others (a fork, an import) holds it
shared, from before it looks at them until the thread's file is there. What takes rollouts out of the home (an erasure, also
one that is gone on with) holds it alone, from before it looks for readers until the files are gone. So the one that comes
second sees what the first did: the fork that its source is gone, the erasure that there is a reader.

Nothing else needs it. Archiving and compressing take no byte away: a rollout has one of its names and forms at every moment,
a child names its base by rollout and byte, and a fork that loses the file half way fails before its child is there. A
redaction keeps every byte's place. Nobody goes on from what lies in the trash, so emptying it is no concern either.

The wait is bounded by `busy_wait_ms`. Shared holders do not queue behind one that waits to be alone: a fork holds the lock for
about a millisecond, and it takes a steady stream of them from many processes to keep an erasure out for the whole bound.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from engine.clock import Clock
from engine.errors import StoreBusy
from engine.options import Options
from engine.stores.files import Files
from engine.stores.layout import Home
from engine.stores.link import files_translated
from engine.stores.locks import give_back, take_lock

_OP = "lineage.lock"


@contextlib.contextmanager
def lineage_held(
    home: Home, purpose: str, *, shared: bool, options: Options, clock: Clock, files: Files
) -> Iterator[None]:
    """Hold the lock around a block, for a purpose that an error names. In a forked child nothing is held.

    Raises `StoreBusy` where it was not free within `busy_wait_ms`, `StoreError` where its file cannot be made.
    """
    path = f"{home.state}/locks/lineage.lock"
    with files_translated(_OP, path):
        files.ensure_folder(path.rpartition("/")[0], op=_OP)
        try:
            fd = take_lock(path, shared=shared, options=options, clock=clock, files=files, op=_OP)
        except StoreBusy as busy:
            raise _explained(busy, purpose, shared=shared) from busy
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == pid:
            with contextlib.suppress(OSError):  # closing it gives it back too, and the block is done
                give_back(fd, files=files, op=_OP)


def _explained(busy: StoreBusy, purpose: str, *, shared: bool) -> StoreBusy:
    at_work = "an erasure" if shared else "a fork, an import or an erasure"
    return StoreBusy(
        f"The {purpose} waited {busy.waited_ms} ms for {at_work} that {busy.holder or 'another process'} is at.",
        waited_ms=busy.waited_ms,
        holder=busy.holder,
        path=busy.path,
        hint="Do it again when that is done, or end that process.",
    )
