"""What one caller may ask: a rate with a burst, and a number of open streams; over HTTP and as plain arithmetic."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api.problems import Problem
from cluster.api.rates import KEPT_CALLERS, Bucket, Rate, Rates, Streams, take
from tests.cluster.rows import put_job
from tests.cluster.served import Served, serving

pauses = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3, 5.0]) | st.floats(0, 20), min_size=1, max_size=80)
rates = st.builds(Rate, per_second=st.floats(0.05, 50), burst=st.integers(1, 20).map(float))


@given(rates, pauses)
def test_no_stretch_of_time_lets_more_through_than_the_burst_and_the_rate(rate: Rate, between: list[float]) -> None:
    bucket, now = Bucket(rate.burst, 0.0), 0.0
    passed: list[float] = []
    for pause in between:
        now += pause
        bucket, wait = take(bucket, rate, now)
        if wait == 0:
            passed.append(now)
    for first, start in enumerate(passed):
        for last, end in enumerate(passed[first:], start=first):
            assert last - first + 1 <= rate.burst + (end - start) * rate.per_second + 1e-6


@given(rates, pauses)
def test_who_waits_as_long_as_told_may_ask(rate: Rate, between: list[float]) -> None:
    bucket, now = Bucket(rate.burst, 0.0), 0.0
    for pause in between:
        now += pause
        bucket, wait = take(bucket, rate, now)
        if wait:
            assert take(bucket, rate, now + wait * 0.9)[1] > 0
            bucket, wait = take(bucket, rate, now + wait * 1.0001 + 1e-9)
            assert wait == 0


def test_callers_do_not_share_a_bucket_and_only_so_many_are_remembered() -> None:
    counted = Rates(Rate(per_second=0.1, burst=2))
    assert [counted.wait_s("ada", 0.0) for _ in range(2)] == [0, 0]
    assert counted.wait_s("ada", 0.0) == pytest.approx(10)
    assert counted.wait_s("bob", 0.0) == 0
    for number in range(KEPT_CALLERS):
        counted.wait_s(f"caller {number}", 0.0)
    assert counted.wait_s("ada", 0.0) == 0


def test_streams_are_counted_by_caller_and_together_while_they_are_open() -> None:
    streams = Streams(most=3, most_per_caller=2)
    with ExitStack() as open_ones:
        for _ in range(2):
            open_ones.enter_context(streams.one("ada"))
        with pytest.raises(Problem, match="ada has 2 streams open") as refused, streams.one("ada"):
            pass
        assert (refused.value.status_code, streams.num_open) == (429, 2)
        open_ones.enter_context(streams.one("bob"))
        with pytest.raises(Problem, match="3 streams are open") as refused, streams.one("bob"):
            pass
        assert refused.value.status_code == 503
    assert streams.num_open == 0
    with streams.one("ada"):
        assert streams.num_open == 1


@pytest.fixture(scope="module")
def strict(no_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = ("--posts-per-minute", "3", "--reads-per-second", "5")
    with serving(tmp_path_factory.mktemp("strict"), no_ray, *flags) as service:
        yield service


def test_too_many_posts_are_refused_with_when_to_come_again_and_reads_go_on(strict: Served) -> None:
    answers = [strict.ask("POST", "/v1/jobs/none/stop") for _ in range(5)]
    assert [a.status for a in answers] == [404] * 3 + [429] * 2
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "asks too often (posts)" in refused.json()["detail"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert strict.get("/v1/jobs").status == 200


def test_too_many_reads_are_refused_and_probes_and_the_page_are_not(strict: Served) -> None:
    found = [strict.get("/v1/kinds").status for _ in range(60)]
    assert set(found) == {200, 429}
    assert {strict.get(path).status for path in ("/", "/healthz", "/static/app.js")} == {200}


def test_a_stream_too_many_is_refused_and_one_that_is_closed_makes_room(no_ray: str, tmp_path: Path) -> None:
    with serving(tmp_path, no_ray, "--max-streams-per-caller", "2") as service:
        path = f"/v1/jobs/{put_job(service.home)}/events"
        connections = [service.connect() for _ in range(2)]
        for connection in connections:
            connection.request("GET", path)
            assert connection.getresponse().status == 200
        refused = service.get(path)
        assert (refused.status, refused.headers["Content-Type"]) == (429, "application/problem+json")
        assert "has 2 streams open" in refused.json()["detail"]
        assert "tench_event_streams 2.0" in service.get("/metrics").body.decode()
        for connection in connections:
            connection.close()
        ended = f"/v1/jobs/{put_job(service.home, state='succeeded')}/events"
        deadline = time.monotonic() + 20
        while service.get(ended).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
