"""The moves of a job: the table, and what is decided from what is seen. All of it pure values."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.jobs import MOVES, IllegalMove, Job, Move, Needs, Sight, asker, moved, next_move
from ingest.progress import Result

TABLE: dict[Any, set[str]] = {
    "queued": {"starting", "stopped", "failed"},
    "starting": {"running", "failed", "stopping", "lost"},
    "running": {"succeeded", "failed", "stopping", "lost"},
    "stopping": {"stopped", "succeeded", "failed", "lost"},
    "lost": {"running", "succeeded", "stopped", "failed", "queued"},
    "failed": {"queued"},
    "stopped": {"queued"},
    "succeeded": set(),
}
AT_WORK = ("starting", "running", "stopping", "lost")
ENDED = ("succeeded", "failed", "stopped")
NOW = 1_000_000.0
GONE = Sight(ray="ended", gone_s=1000.0, last_words="Killed")
GRANT = Sight(grant=Needs(2, 0, 2**30))


def job_in(state: Any, **chosen: Any) -> Job:
    return Job(
        **{
            "id": "a-job", "kind": "train", "name": "", "state": state, "settings": {}, "after": None, "priority": 0,
            "asked_by": "local", "created_at": NOW, "moved_at": NOW, "attempt": int(state != "queued"), **chosen,
        }
    )  # fmt: skip


def ended_as(state: Any, **chosen: Any) -> Sight:
    """The attempt's process is gone and has left a result."""
    codes = {"succeeded": 0, "stopped": 130}
    result = Result(attempt=1, at=NOW, state=state, exit_code=codes.get(state, 1), **chosen)
    return replace(GONE, begun=True, result=result)


def after(job: Job, sight: Sight, now: float = NOW) -> Job:
    """The job after the move that this sight asks for, which has to be one."""
    move = next_move(job, sight, now)
    assert move is not None
    return moved(job, move, now)


moments = st.floats(0, 10_000).map(lambda s: NOW + s)
jobs = st.builds(
    job_in, st.sampled_from(sorted(TABLE)), attempt=st.integers(0, 5), max_attempts=st.integers(1, 5),
    stop_requested=st.booleans(), resume_requested=st.booleans(), after=st.sampled_from([None, "parent"]),
    error=st.sampled_from([None, "Killed"]),
)  # fmt: skip
results = st.builds(
    Result, attempt=st.just(1), at=st.just(NOW), state=st.sampled_from(["running", "succeeded", "failed", "stopped"]),
    exit_code=st.integers(0, 130), error=st.sampled_from([None, "no space left"]),
)  # fmt: skip
sights = st.builds(
    Sight, ray=st.sampled_from(["absent", "pending", "running", "ended", "unreachable"]), gone_s=st.floats(0, 100),
    begun=st.booleans(), result=st.none() | results, parent=st.sampled_from([None, "missing", *sorted(TABLE)]),
    grant=st.none() | st.just(Needs(1)), never=st.none() | st.just("too large"), never_s=st.floats(0, 100),
)  # fmt: skip


def test_the_moves_are_the_designs_table() -> None:
    assert {state: set(to) for state, to in MOVES.items()} == TABLE


@given(jobs, sights, moments)
def test_no_sight_of_any_job_leads_to_a_move_that_is_not_in_the_table(job: Job, sight: Sight, now: float) -> None:
    move = next_move(job, sight, now)
    if move is not None:
        assert move.to in TABLE[job.state]
        later = moved(job, move, now)
        assert (later.state, later.version, later.move) == (move.to, job.version + 1, job.move + 1)
        assert (later.ended_at is not None) == (later.state in ENDED)


@pytest.mark.parametrize("state", sorted(TABLE))
def test_every_other_move_is_refused(state: str) -> None:
    for other in set(TABLE) - TABLE[state]:
        with pytest.raises(IllegalMove, match=f"{state} -> {other} is not a move"):
            moved(job_in(state), Move(other, "because"), NOW)


@given(jobs.filter(lambda j: j.state in AT_WORK), sights, moments)
def test_a_ray_out_of_reach_moves_nothing_by_itself(job: Job, sight: Sight, now: float) -> None:
    unseen = replace(sight, ray="unreachable", result=None)
    move = next_move(job, unseen, now)
    if move is not None:
        begins, is_wished = (job.state == "starting" and sight.begun), job.stop_requested
        assert (move.to == "running" and begins) or (move.to == "stopping" and is_wished)


@given(jobs.filter(lambda j: j.state not in AT_WORK), sights, moments)
def test_waiting_and_ended_jobs_do_not_depend_on_what_ray_says(job: Job, sight: Sight, now: float) -> None:
    assert next_move(job, sight, now) == next_move(job, replace(sight, ray="unreachable", result=None), now)


@pytest.mark.parametrize("state", ["running", "stopping", "lost"])
def test_a_result_counts_even_while_ray_is_out_of_reach(state: str) -> None:
    sight = replace(ended_as("succeeded", facts={"top1_error": 0.4}), ray="unreachable")
    later = after(job_in(state), sight)
    assert (later.state, later.exit_code, later.result) == ("succeeded", 0, {"top1_error": 0.4})


@given(jobs, st.lists(sights, max_size=12))
def test_a_wish_to_stop_ends_the_job_and_never_queues_it_again(job: Job, seen: list[Sight]) -> None:
    job = replace(job, stop_requested=True, resume_requested=False)
    for step, sight in enumerate([*seen, *[GONE] * 6]):
        move = next_move(job, sight, NOW + 1000 * step)
        if move is not None:
            assert move.to not in ("queued", "starting")
            job = moved(job, move, NOW + 1000 * step)
    assert job.state in ENDED


@pytest.mark.parametrize("state", ["queued", *AT_WORK])
def test_a_stopped_job_without_a_last_word_is_stopped_not_failed(state: str) -> None:
    job = job_in(state, stop_requested=True)
    while job.state not in ENDED:
        job = after(job, GONE)
    assert job.state == "stopped"


def test_a_job_whose_process_dies_each_time_fails_after_its_last_attempt() -> None:
    job, states, now = job_in("queued"), [], NOW
    for sight in [GRANT, Sight(ray="running", begun=True), GONE, GONE] * 3:
        now += 60
        job = after(job, sight, now)
        states.append(job.state)
    assert states == [*["starting", "running", "lost", "queued"] * 2, "starting", "running", "lost", "failed"]
    assert (job.attempt, job.exit_code) == (3, 1)
    assert "Killed" in str(job.error)
    assert "attempt 3 of at most 3" in str(job.error)


def test_a_lost_job_may_come_back_before_its_next_attempt() -> None:
    lost = job_in("lost", moved_at=NOW)
    assert next_move(lost, GONE, NOW + 9) is None
    assert after(lost, Sight(ray="running", begun=True), NOW + 9).state == "running"
    assert after(lost, GONE, NOW + 11).state == "queued"
    assert after(lost, ended_as("succeeded"), NOW + 9).state == "succeeded"


def test_a_process_that_just_ended_gets_time_for_its_result_to_show_up() -> None:
    assert next_move(job_in("running"), replace(GONE, gone_s=4.0), NOW) is None
    assert after(job_in("running"), replace(GONE, gone_s=6.0)).state == "lost"


def test_an_interruption_from_outside_is_not_counted_and_the_job_goes_on() -> None:
    job = job_in("queued")
    for _ in range(10):
        ended = replace(ended_as("stopped"), ray="absent")
        for sight in (GRANT, Sight(ray="running", begun=True), ended, ended):
            job = after(job, sight)
    assert (job.state, job.attempt) == ("queued", 10)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_resumed_job_is_queued_with_new_attempts_and_a_clean_slate(state: str) -> None:
    told = {"error": "full disk", "exit_code": 1, "result": {"ok": False}, "stop_requested": True}
    job = after(job_in(state, attempt=3, resume_requested=True, **told), Sight())
    assert (job.state, job.attempt, job.max_attempts, job.last_attempt) == ("queued", 3, 3, 6)
    assert (job.error, job.exit_code, job.result) == (None, None, None)
    assert (job.stop_requested, job.resume_requested) == (False, False)
    assert after(job, GRANT).attempt == 4


def test_a_resumed_job_has_as_many_attempts_more_as_were_asked_for() -> None:
    job = after(job_in("stopped", attempt=7, max_attempts=50, resume_requested=True), Sight())
    assert (job.max_attempts, job.last_attempt) == (50, 57)


def test_a_process_that_the_end_of_the_service_took_along_is_no_lost_attempt() -> None:
    job = after(job_in("running", attempt=3, max_attempts=3), replace(GONE, told_to_stop=True))
    assert (job.state, job.last_attempt) == ("lost", 4)
    assert next_move(job, replace(GONE, told_to_stop=True), NOW + 11.0).to == "queued"  # type: ignore[union-attr]


def test_a_process_that_vanished_on_its_way_to_a_stop_that_was_asked_for_is_stopped() -> None:
    job = after(job_in("running", stop_requested=True), replace(GONE, told_to_stop=True))
    assert after(job, replace(GONE, told_to_stop=True)).state == "stopped"


def test_an_interrupted_job_waits_until_its_ray_is_another_or_proves_to_stay() -> None:
    same_ray = ended_as("stopped")
    job = after(job_in("running"), same_ray)
    assert next_move(job, same_ray, NOW + 89.0) is None
    for sight, now in ((replace(same_ray, ray="absent"), NOW), (same_ray, NOW + 90.0)):
        move = next_move(job, sight, now)
        assert move is not None
        assert move.to == "queued"


def test_a_job_that_succeeded_is_never_resumed() -> None:
    assert next_move(job_in("succeeded", resume_requested=True), Sight(), NOW) is None


@pytest.mark.parametrize(
    ("parent", "state", "code"),
    [("failed", "failed", 3), ("missing", "failed", 3), ("stopped", "stopped", None)],
)
def test_a_child_ends_with_its_parent_and_names_it(parent: Any, state: str, code: int | None) -> None:
    child = after(job_in("queued", after="the-parent"), replace(GRANT, parent=parent))
    assert (child.state, child.exit_code) == (state, code)
    assert "the-parent" in str(child.error)


def test_a_job_that_can_never_fit_fails_with_the_reason_and_one_without_a_grant_waits() -> None:
    job = after(job_in("queued"), Sight(never="It needs 8 GPUs, the cluster has 2.", never_s=31.0))
    assert (job.state, job.exit_code, job.error) == ("failed", 3, "It needs 8 GPUs, the cluster has 2.")
    assert next_move(job_in("queued"), Sight(), NOW + 1e9) is None


def test_a_job_that_does_not_fit_while_nodes_come_back_is_not_failed_for_it() -> None:
    too_large = Sight(never="It needs 8 GPUs, the cluster has 2.", never_s=29.0)
    assert next_move(job_in("queued"), too_large, NOW) is None


def test_a_failure_is_told_in_the_words_of_its_result() -> None:
    job = after(job_in("running"), ended_as("failed", error="train/00012.arrow: 998 records", facts={"ok": False}))
    assert (job.state, job.exit_code) == ("failed", 1)
    assert (job.error, job.result) == ("train/00012.arrow: 998 records", {"ok": False})


def test_a_job_that_ran_before_waits_half_an_hour_for_lost_nodes_to_come_back() -> None:
    ran = job_in("queued", attempt=1)
    assert next_move(ran, Sight(never="It needs 4 GPUs.", never_s=1799.0), NOW) is None
    assert after(ran, Sight(never="It needs 4 GPUs.", never_s=1800.0)).state == "failed"


def test_a_move_names_whose_wish_it_follows() -> None:
    running = job_in("running", stop_requested=True, stop_by="ada")
    assert asker(running, Move("stopping", "")) == "ada"
    assert asker(running, Move("succeeded", "")) == "watcher"
    assert asker(job_in("stopped", resume_requested=True, resume_by="eve"), Move("queued", "")) == "eve"
    assert asker(job_in("lost"), Move("queued", "")) == "watcher"
