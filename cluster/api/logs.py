"""The log of a job's process as Ray's REST interface tells it: `{"logs": "..."}`, whole each time, however long it is.

Only its end is kept, still as JSON wrote it, so that memory stays bounded and a position in it means the same the next
time: a log only ever grows at its end.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from ingest.errors import TenchError

MAX_BYTES = 8 * 2**20
"""Of a log, as JSON; what came before that is left out."""
MAX_LINES = 100_000
LOOK_EVERY_S = 1.0
RESTING = 10
"""A follower rests so many times as long as Ray took to tell the log."""
LEFT_OUT = "[what came before is left out: the log is longer than what is shown]\n"
OPENING = re.compile(rb'\s*\{\s*"logs"\s*:\s*"')
CLOSING = re.compile(rb'"\s*\}\s*$')
LONGEST_OPENING = 64
LINE_END = re.compile(rb"(?<!\\)(?:\\\\)*\\n")


@dataclass(frozen=True)
class Log:
    """The end of a log: `raw` as a JSON string has it between its quotes, ending at position `end` of the whole."""

    raw: bytes = b""
    end: int = 0

    def text(self, after: int = 0) -> str:
        """What was written after a position; from a whole line on, with a remark, if not all of that is there."""
        start = self.end - len(self.raw)
        if after >= start:
            return _decoded(self.raw[after - start :])
        line_end = LINE_END.search(self.raw)
        return LEFT_OUT + _decoded(self.raw[line_end.end() :] if line_end else b"")

    def last_lines(self, count: int) -> str:
        """The last so many lines."""
        return "".join(self.text().splitlines(keepends=True)[-count:])


def end_of(chunks: Iterable[bytes], most: int = MAX_BYTES) -> Log:
    """The end of the log in the body of an answer, which comes in chunks. An answer without a log is an empty one."""
    body = iter(chunks)
    kept, left_out = _past_opening(body), 0
    if kept is None:
        return Log()
    for chunk in body:
        kept += chunk
        if len(kept) > 2 * most:
            left_out, kept = left_out + len(kept) - most, kept[-most:]
    closing = CLOSING.search(kept, max(len(kept) - LONGEST_OPENING, 0))
    if closing is None:
        return Log()
    raw = kept[: closing.start()]
    return Log(raw[-most:], left_out + len(raw))


def _past_opening(body: Iterator[bytes]) -> bytes | None:
    """What is there already behind the log's opening quote; None if there is no log in this body."""
    kept = b""
    for chunk in body:
        kept += chunk
        if opening := OPENING.match(kept):
            return kept[opening.end() :]
        if len(kept) > LONGEST_OPENING:
            return None
    return None


async def follow(
    look: Callable[[], Log], is_over: Callable[[], bool], ended: Callable[[], bool], told: int
) -> AsyncIterator[bytes]:
    """What a process writes after a position, until it is over, or the service ends. A Ray out of reach is waited for.

    What it wrote last may reach Ray after its end is known: so one more look is taken then.
    """
    looks_left = 2
    while not ended():
        looks_left -= await asyncio.to_thread(is_over)
        began = time.monotonic()
        try:
            log = await asyncio.to_thread(look)
        except TenchError:
            log = Log(b"", told)
        if log.end > told:
            yield log.text(told).encode(errors="replace")
            told = log.end
        if looks_left <= 0:
            return
        await asyncio.sleep(max(LOOK_EVERY_S, RESTING * (time.monotonic() - began)))


def _decoded(raw: bytes) -> str:
    """The text of the inside of a JSON string."""
    text: str = json.loads(b'"' + raw + b'"')
    return text
