"""How much one caller may ask: a bucket of tokens each for reads and for posts, and a number of open streams.

A bucket holds a burst; it fills at a steady rate, and every request takes a token out of it. Pure but for the counts
that are kept; times are seconds of any clock that does not go back.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.api.problems import Problem

KEPT_CALLERS = 10_000
"""Callers remembered at once; the one that was quiet longest starts anew with a full bucket."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a second in the long run, and so many at once after a pause."""

    per_second: float
    burst: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left for a caller, as of a time."""

    tokens: float
    at: float


def take(bucket: Bucket, rate: Rate, now: float) -> tuple[Bucket, float]:
    """The bucket after a request, and 0; or the bucket as it is now, and the seconds until it holds a token again."""
    tokens = min(rate.burst, bucket.tokens + max(now - bucket.at, 0.0) * rate.per_second)
    if tokens >= 1:
        return Bucket(tokens - 1, now), 0.0
    return Bucket(tokens, now), (1 - tokens) / rate.per_second


class Rates:
    """The buckets of all callers for one kind of request. For one thread."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait_s(self, caller: str, now: float) -> float:
        """0 if the caller may ask now, which counts; else the seconds to wait."""
        bucket = self._buckets.pop(caller, None) or Bucket(self._rate.burst, now)
        self._buckets[caller], wait = take(bucket, self._rate, now)
        if len(self._buckets) > KEPT_CALLERS:
            self._buckets.popitem(last=False)
        return wait


class Streams:
    """The streams that are open, all together and by caller. For one thread."""

    def __init__(self, most: int, most_per_caller: int) -> None:
        self._most, self._most_per_caller = most, most_per_caller
        self._open: Counter[str] = Counter()

    @property
    def num_open(self) -> int:
        """Streams that are open now."""
        return self._open.total()

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Count a stream while it is open. Raises Problem 429 or 503 if it is one too many."""
        if self._open[caller] >= self._most_per_caller:
            raise Problem(429, f"{caller} has {self._most_per_caller} streams open; close some.", headers=_later(1))
        if self.num_open >= self._most:
            raise Problem(
                503, f"{self._most} streams are open; ask again later, or without a stream.", headers=_later(5)
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            self._open += Counter()  # Forgets the callers that have none open.


def _later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
