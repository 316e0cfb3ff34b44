"""Pictures that take long to draw: one at a time, a few may wait, and nobody else waits for them."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

from cluster.api.artifacts import MOST_WAITING, _OneAtATime
from cluster.api.problems import Problem


def test_one_is_drawn_while_a_few_wait_and_more_are_told_to_come_again() -> None:
    turns, go_on = _OneAtATime(), threading.Event()
    inside: list[int] = []

    def draw() -> int:
        with turns:
            inside.append(1)
            assert len(inside) == 1, "two at once"
            go_on.wait(30)
            inside.pop()
        return 200

    with ThreadPoolExecutor(MOST_WAITING + 3) as pool:
        asked = [pool.submit(draw) for _ in range(MOST_WAITING + 3)]
        refused = [one.exception() for one in itertools.islice(as_completed(asked, 30), 3)]
        go_on.set()
        drawn = [one.result(30) for one in asked if one.exception(30) is None]
    assert [(e.status_code, e.headers) for e in refused if isinstance(e, Problem)] == [(503, {"Retry-After": "2"})] * 3
    assert drawn == [200] * MOST_WAITING
    with turns:
        pass
