"""A checkpoint is complete or absent, found damaged or whole, and continued only by the run it belongs to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import DamageError, RefusedError
from ingest.storage import Place
from tests.trainer.runs import Left, train_here
from trainer import checkpoint

FILES = ("weights.pt", "state.json", "hashes.json")
LAST = "step-00000004.0001"


def small(value: float) -> dict[str, torch.Tensor]:
    return {"conv1.weight": torch.full((2, 3), value), "conv1.bias": torch.full((2,), -value)}


def write(folder: Path, step: int, attempt: int = 1) -> Path:
    """A checkpoint of two small tensors whose numbers are the step; its folder."""
    path = checkpoint.save(Place(folder), attempt, {"step": step}, small(step), small(-step))
    return folder / path


def newest_step(folder: Path) -> int | None:
    found, _ = checkpoint.newest(Place(folder))
    if found is None:
        return None
    assert torch.equal(found.network["conv1.weight"], torch.full((2, 3), float(found.state["step"])))
    assert torch.equal(found.velocity["conv1.bias"], torch.full((2,), float(found.state["step"])))
    return int(found.state["step"])


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def test_weights_open_in_plain_torch(unbroken: Left) -> None:
    tensors = torch.load(unbroken.folder / "checkpoints" / LAST / "weights.pt", weights_only=True)
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    names = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert list(tensors) == ["network", "velocity"]
    for part in tensors.values():
        assert list(part) == names
        assert sum(tensor.numel() for tensor in part.values()) == 2_334_080 + 257 * 64 + 65 * 32 + 33 * 10
        assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in part.values())


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    for step in (3, 200, 40):
        write(tmp_path, step)
    (tmp_path / "checkpoints/step-00000999.0001").mkdir()
    (tmp_path / "checkpoints/notes").mkdir()
    assert newest_step(tmp_path) == 200
    assert checkpoint.complete(Place(tmp_path)) == [f"checkpoints/step-{s:08d}.0001" for s in (3, 40, 200)]


def test_a_checkpoint_whose_writing_failed_between_two_files_does_not_show(tmp_path: Path) -> None:
    write(tmp_path, 1)
    in_the_way = tmp_path / "checkpoints/step-00000002.0001/state.json"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match="state"):
        write(tmp_path, 2)
    assert [path.name for path in in_the_way.parent.iterdir() if path.is_file()] == ["weights.pt"]
    assert newest_step(tmp_path) == 1
    in_the_way.rmdir()
    write(tmp_path, 2)
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize("written", [FILES[:1], FILES[:2]])
def test_what_a_killed_writer_left_does_not_show_and_is_written_anew(tmp_path: Path, written: tuple[str, ...]) -> None:
    write(tmp_path, 1)
    half = write(tmp_path, 2)
    for name in set(FILES) - set(written):
        (half / name).unlink()
    (half / "weights.pt").write_bytes(b"of another time")
    assert newest_step(tmp_path) == 1
    assert write(tmp_path, 2) == half
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 2**20), cut=st.integers(0, 2**20))
def test_damage_anywhere_falls_back_to_the_older_one_and_is_named(
    tmp_path: Path, name: str, bit: int, cut: int
) -> None:
    write(tmp_path, 1)
    file = write(tmp_path, 2) / name
    whole = file.read_bytes()
    shorter = whole[: cut % (len(whole) - 1)]  # without the line's end alone, JSON is still whole
    for damage in (lambda: flip(file, bit), lambda: file.write_bytes(shorter)):
        damage()
        found, damages = checkpoint.newest(Place(tmp_path))
        assert found is not None
        assert found.state["step"] == 1
        assert len(damages) == 1
        assert "step-00000002.0001" in damages[0]
        file.write_bytes(whole)
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize("name", FILES[:2])
def test_a_file_that_is_gone_counts_as_damage(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1)
    (write(tmp_path, 2) / name).unlink()
    found, damages = checkpoint.newest(Place(tmp_path))
    assert found is not None
    assert (found.state["step"], [name in words for words in damages]) == (1, [True])


def test_a_run_without_any_whole_checkpoint_does_not_begin_anew(tmp_path: Path) -> None:
    for step in (1, 2):
        flip(write(tmp_path, step) / "weights.pt", 4000)
    with pytest.raises(DamageError, match="none of 2 checkpoints is whole") as caught:
        checkpoint.newest(Place(tmp_path))
    assert caught.value.exit_code == 4
    assert "step-00000002.0001/weights.pt" in caught.value.message


def test_the_latest_attempt_outranks_a_higher_step_of_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20)
    write(tmp_path, 15, attempt=2)
    assert newest_step(tmp_path) == 15
    checkpoint.prune(Place(tmp_path), 1)
    assert newest_step(tmp_path) == 15


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True), st.integers(1, 7))
def test_the_newest_are_kept_and_the_rest_leave_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("pruned")
    for step in steps:
        write(folder, step)
    checkpoint.prune(Place(folder), keep)
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}.0001" for step in sorted(steps)[-keep:]]
    assert newest_step(folder) == max(steps)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(Place(tmp_path), 1, {"step": 1, "format_version": 99}, {}, {})
    with pytest.raises(RefusedError, match="checkpoint format 99, this Tench reads 1; update it"):
        checkpoint.load(Place(tmp_path), path)


def changed(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the state with one value replaced."""
    copy: dict[str, Any] = json.loads(json.dumps(state))
    place = copy
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("content_id", "c0ffee", "content id is .* the dataset's is c0ffee"),
        ("classes", ["n1", "n2"], r"classes is .* the dataset's is \['n1', 'n2'\]"),
        ("recipe.seed", 1, "seed was 0, now 1"),
        ("recipe.precision", "bf16", "precision was fp32, now bf16"),
        ("recipe.rule.learning_rate", 0.1, "rule.learning_rate was 0.005, now 0.1"),
        ("recipe.network.dropout", "none", "network.dropout was mask, now none"),
        ("recipe.loader.global_batch", 64, "loader.global_batch was 40, now 64"),
    ],
)
def test_other_data_or_settings_are_refused_by_name(unbroken: Left, path: str, value: Any, words: str) -> None:
    state = unbroken.state(LAST)
    with pytest.raises(RefusedError, match=words) as caught:
        checkpoint.refuse_other(state, changed(state, path, value))
    assert caught.value.exit_code == 3
    checkpoint.refuse_other(state, changed(state, "recipe.epochs", 90))


@pytest.mark.parametrize("schedule", ["cosine", "dexp"])
def test_a_schedule_over_the_whole_run_is_not_stretched(schedule: str, unbroken: Left) -> None:
    state = changed(unbroken.state(LAST), "recipe.rule.schedule", schedule)
    checkpoint.refuse_other(state, state)
    with pytest.raises(RefusedError, match=rf"epochs: the run was begun with 2, now 90. Schedule {schedule} falls"):
        checkpoint.refuse_other(state, changed(state, "recipe.epochs", 90))


def test_what_a_killed_put_left_in_a_checkpoint_goes_with_it(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    (tmp_path / "checkpoints/step-00000001.0001/weights.pt#1").write_bytes(b"half")
    checkpoint.prune(Place(tmp_path), keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.0001"]


def test_a_damaged_checkpoint_is_written_anew_once_the_run_comes_there_again(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    weights = tmp_path / "checkpoints/step-00000002.0001/weights.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert newest_step(tmp_path) == 1
    write(tmp_path, 2)
    assert newest_step(tmp_path) == 2


@pytest.mark.parametrize(
    ("dataset", "chosen", "words"),
    [("tiny_raw_dataset", {}, "content id"), ("tiny_dataset", {"learning_rate": 0.1}, r"rule\.learning_rate was")],
)
def test_a_run_is_not_continued_with_others(
    dataset: str, chosen: dict[str, Any], words: str, unbroken: Left, folder: Path, request: pytest.FixtureRequest
) -> None:
    unbroken.copy_checkpoint(LAST, folder)
    with pytest.raises(RefusedError, match=words):
        train_here(request.getfixturevalue(dataset), folder, **chosen)


def test_a_finished_run_may_be_given_fewer_epochs_and_does_nothing(
    tiny_dataset: str, unbroken: Left, folder: Path
) -> None:
    facts = train_here(tiny_dataset, unbroken.copy_checkpoint(LAST, folder), epochs=1)
    assert (facts["steps"], facts["epochs"], facts["num_samples"]) == (4, 2, 30)
    assert Left(folder).names == [LAST]


def wait(folder: Path, step: int, is_due: bool) -> Path:
    """Write a checkpoint that waits for its evaluation, or what it becomes after that; its folder."""
    state = {"step": step, "evaluation_due": is_due}
    return folder / checkpoint.save(Place(folder), 1, state, small(step), small(-step))


def is_due(folder: Path) -> bool:
    found, _ = checkpoint.newest(Place(folder))
    assert found is not None
    return bool(found.state["evaluation_due"])


def test_a_checkpoint_before_an_evaluation_is_completed_after_it_without_its_weights_being_written_again(
    tmp_path: Path,
) -> None:
    place = wait(tmp_path, 3, is_due=True)
    assert newest_step(tmp_path) == 3
    assert is_due(tmp_path)
    written = (place / "weights.pt").stat().st_mtime_ns
    (place / "state.json").write_text("half of wh")  # as a death after the evaluation might leave it
    assert is_due(tmp_path)
    assert wait(tmp_path, 3, is_due=False) == place
    assert newest_step(tmp_path) == 3
    assert not is_due(tmp_path)
    assert (place / "weights.pt").stat().st_mtime_ns == written
    assert sorted(path.name for path in place.iterdir()) == sorted(FILES)
    wait(tmp_path, 3, is_due=True)
    assert not is_due(tmp_path)


def test_a_reader_that_meets_the_end_of_an_evaluation_reads_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Place.get
    wait(tmp_path, 3, is_due=True)

    def evaluated_meanwhile(self: Place, path: str) -> bytes:
        if path.endswith("due.json"):
            wait(tmp_path, 3, is_due=False)
        return plain(self, path)

    monkeypatch.setattr(Place, "get", evaluated_meanwhile)
    assert not is_due(tmp_path)


def test_a_checkpoint_before_an_evaluation_goes_whole(tmp_path: Path) -> None:
    wait(tmp_path, 3, is_due=True)
    checkpoint.remove_unevaluated(Place(tmp_path))
    assert list((tmp_path / "checkpoints").iterdir()) == []
    wait(tmp_path, 4, is_due=True)
    wait(tmp_path, 5, is_due=False)
    checkpoint.remove_unevaluated(Place(tmp_path))
    assert len(checkpoint.complete(Place(tmp_path))) == 2
    checkpoint.prune(Place(tmp_path), 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005.0001"]
