"""When a shard takes too long: what stalls, and what merely straggles. Pure arithmetic on seconds."""

import statistics
from collections import deque
from dataclasses import dataclass, field

STALL_FACTOR, STRAGGLER_FACTOR = 10.0, 3.0
"""Times the median after which a shard is given up, or given to a second actor."""
STRAGGLER_MIN_S = 2.0
FIRST_SAMPLE_S = 1.0
"""What a sample may take while no shard has been finished and there is no median."""
RECENT = 501
ISOLATED_FACTOR = 20.0
"""Shards that are decoded in a child process have time-outs of their own, for each picture."""


@dataclass
class Pace:
    """Seconds of the finished shards. `timeout_s` is what one picture may take."""

    timeout_s: float
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _median_s: float | None = None

    def note(self, seconds: float) -> None:
        """Count a finished shard."""
        self.seconds.append(seconds)
        self._median_s = None

    @property
    def median_s(self) -> float | None:
        """Median of the shards that were finished last; None before the first."""
        if self._median_s is None and self.seconds:
            self._median_s = statistics.median(self.seconds)
        return self._median_s

    def stall_after_s(self, num_samples: int, isolated: bool = False) -> float:
        """Seconds after which a shard of so many samples counts as stalled."""
        median = self.median_s
        usual = num_samples * FIRST_SAMPLE_S if median is None else STALL_FACTOR * median
        return max(self.timeout_s, usual) * (ISOLATED_FACTOR if isolated else 1.0)

    def straggles(self, seconds: float) -> bool:
        """True if a shard has taken so long that a second actor may well be faster."""
        median = self.median_s
        return median is not None and seconds > max(STRAGGLER_MIN_S, STRAGGLER_FACTOR * median)
