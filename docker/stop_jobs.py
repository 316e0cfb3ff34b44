"""Ask every job of a Ray to stop at its next safe point, and wait for their ends: `stop_jobs.py ADDRESS`.

For the moment before a Ray is taken away. A job that was stopped so goes on when the service finds a Ray again, and
no attempt of it counts as lost.
"""

import os
import sys
import time
from pathlib import Path

from cluster.launcher import RayJobs, RayUnreachable

END_WITHIN_S = 70.0


def main(address: str) -> int:
    """Stop them; 1 if some were still at work in the end, or if Ray does not answer."""
    ray = RayJobs(address, _token())
    asked: set[str] = set()
    try:
        deadline = time.monotonic() + END_WITHIN_S
        while time.monotonic() < deadline:
            running = ray.running()
            if not running:
                return 0
            for job in set(running) - asked:  # also those that were started meanwhile
                ray.stop(job)
                asked.add(job)
            time.sleep(0.5)
    except RayUnreachable as error:
        print(f"tench: {error}", file=sys.stderr)
    return 1


def _token() -> str:
    """Ray's token, where Ray looks for it."""
    return os.environ.get("RAY_AUTH_TOKEN") or Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text().strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
