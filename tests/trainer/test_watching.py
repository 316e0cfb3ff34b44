"""What a run shows of itself: metrics, TensorBoard, a trace; and how it ends when it has gone wrong."""

import gzip
import json
import math
import shutil
import struct
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google_crc32c import value as crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from augment.reader import PayloadReader
from ingest.errors import TenchError
from ingest.storage import Place
from tests.augment.stored import Stored
from tests.trainer.runs import AFTER_EVERY_STEP, Left, train_here
from trainer.board import Board
from trainer.devices import gpu_figures, utilisation
from trainer.reduce import FlatGradients
from trainer.scores import Errors
from trainer.step import told
from trainer.waiting import DataWait

# The network of 2012 with few units: a step costs little, a checkpoint 200 kB.
SMALL: dict[str, Any] = {"switch": ("network.widths=[8,16,16,16,16]", "network.hidden=[32,32]")}
MOMENTUM, DECAY, RATE = 0.9, 5e-4, 0.005
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@pytest.fixture(scope="module")
def watched(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """Two epochs of two steps, each of them reported and kept."""
    place = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.reporter.METRICS_EVERY_S", 0.0)
        train_here(tiny_dataset, place, **SMALL, **AFTER_EVERY_STEP, profile=True)
    yield Left(place)
    shutil.rmtree(place)


def records(file: Path) -> list[Event]:
    """The events of a file of TensorBoard, its framing read and its checksums checked by hand."""
    data, found = file.read_bytes(), []
    while data:
        length, length_crc = struct.unpack_from("<QI", data)
        payload, (crc,) = data[12 : 12 + length], struct.unpack_from("<I", data, 12 + length)
        for part, stated in ((data[:8], length_crc), (payload, crc)):
            plain = crc32c(part)
            assert stated == ((plain >> 15 | plain << 17) + 0xA282EAD8) % 2**32
        found.append(Event.FromString(payload))
        data = data[16 + length :]
    return found


def scalars(events: list[Event]) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} as TensorBoard would show them; a step that came twice fails."""
    shown: dict[str, dict[int, float]] = {}
    for event in events:
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            shown = {tag: {s: v for s, v in values.items() if s < event.step} for tag, values in shown.items()}
        for value in event.summary.value:
            assert event.step not in shown.setdefault(value.tag, {})
            shown[value.tag][event.step] = value.simple_value
    return shown


def event_files(folder: Path) -> list[Path]:
    return sorted((folder / "tensorboard").glob("events.out.tfevents.*"))


def shown_in(folder: Path) -> dict[str, dict[int, float]]:
    return scalars([event for file in event_files(folder) for event in records(file)])


def flattened(metrics: dict[str, Any]) -> dict[str, float]:
    """A "metrics" event as TensorBoard names its parts."""
    plain = {f"training/{k}": v for k, v in metrics.items() if k not in ("step", "epoch", "samples", "layers")}
    layers = {f"{k}/{layer}": v for layer, of_layer in metrics["layers"].items() for k, v in of_layer.items()}
    return plain | layers


def keys_of(dataset: str) -> set[str]:
    return {str(row["key"]) for row in Stored(Path(dataset)).index}


def numbers(tensors: dict[str, torch.Tensor], name: str) -> "np.ndarray[Any, Any]":
    return tensors[name].numpy().astype(np.float64)


def test_metrics_hold_every_figure_and_none_of_a_gpu_that_is_not_there(watched: Left) -> None:
    metrics = watched.events("metrics")
    assert [(m["step"], m["epoch"], m["samples"]) for m in metrics] == [(1, 0, 40), (2, 0, 20), (3, 1, 40), (4, 1, 20)]
    names = {"step", "epoch", "samples", "loss", "train_top1_error", "learning_rate", "samples_per_s", "data_wait_share",
             "gradient_norm", "layers"}  # fmt: skip
    assert all(m.keys() == names and tuple(m["layers"]) == LAYERS for m in metrics)
    assert {name: watched.progress()["figures"][name] for name in names - {"epoch"}} == {
        name: metrics[-1][name] for name in names - {"epoch"}
    }


def test_norms_are_those_of_the_checkpoints_before_and_after_the_step(watched: Left) -> None:
    """The gradient from the rule turned round: g = (m v0 - v1) / e - d w0, with d only on weights."""
    before, after = watched.tensors("step-00000002.0001"), watched.tensors("step-00000003.0001")
    found = watched.events("metrics")[2]
    squares = 0.0
    for name in before["network"]:
        w0, w1 = numbers(before["network"], name), numbers(after["network"], name)
        v0, v1 = numbers(before["velocity"], name), numbers(after["velocity"], name)
        gradient = (MOMENTUM * v0 - v1) / RATE - (DECAY * w0 if name.endswith("weight") else 0)
        squares += float((gradient**2).sum())
        layer, _, kind = name.partition(".")
        if kind == "weight":
            assert found["layers"][layer] == {
                "weight_norm": pytest.approx(np.linalg.norm(w1), rel=1e-5),
                "gradient_norm": pytest.approx(np.linalg.norm(gradient), rel=1e-3, abs=1e-7),
                "update_ratio": pytest.approx(np.linalg.norm(w1 - w0) / np.linalg.norm(w0), rel=1e-4),
            }
    assert found["gradient_norm"] == pytest.approx(squares**0.5, rel=1e-3)


def test_tensorboard_shows_what_the_events_say(watched: Left) -> None:
    (file,) = event_files(watched.folder)
    events = records(file)
    assert events[0].file_version == "brain.Event:2"
    shown, expected = scalars(events), dict[str, dict[int, Any]]()
    for metrics in watched.events("metrics"):
        for tag, value in flattened(metrics).items():
            expected.setdefault(tag, {})[metrics["step"]] = pytest.approx(value, rel=1e-6)
    for errors in watched.events("evaluated"):
        for name in ("top1_error", "top5_error", "loss"):
            expected.setdefault(f"validation/{name}", {})[errors["step"]] = pytest.approx(errors[name], rel=1e-6)
    assert shown == expected


def test_a_resumed_run_goes_on_in_tensorboard_without_doubled_steps(
    tiny_dataset: str, watched: Left, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(watched.folder, folder)
    for name in ("step-00000003.0001", "step-00000004.0001"):  # as if it had been killed before these were written
        shutil.rmtree(folder / "checkpoints" / name)
    monkeypatch.setattr("trainer.reporter.METRICS_EVERY_S", 0.0)
    train_here(tiny_dataset, folder, **SMALL)
    assert len(event_files(folder)) == 2
    again = Left(folder).events("metrics", 2)
    assert [metrics["step"] for metrics in again] == [3, 4]
    shown, first = shown_in(folder), shown_in(watched.folder)
    assert list(shown["training/loss"]) == [1, 2, 3, 4]
    assert list(shown["validation/top1_error"]) == [2, 4]
    for tag in ("training/loss", "training/gradient_norm", "update_ratio/conv1"):
        assert shown[tag] == first[tag]  # resumed equals uninterrupted
    speed = [metrics["samples_per_s"] for metrics in again]
    assert [shown["training/samples_per_s"][step] for step in (3, 4)] == pytest.approx(speed, rel=1e-6)


def test_a_training_that_starts_anew_within_an_attempt_shows_no_step_twice(tmp_path: Path) -> None:
    def start(after: int, steps: list[int], loss: float) -> None:
        board = Board(Place(tmp_path), attempt=1)
        board.begin(after)
        for step in steps:
            board.metrics({"step": step, "loss": loss})
        board.close()

    start(0, [1, 2, 3], 3.0)
    start(0, [1, 2, 3, 4], 2.0)  # before the first checkpoint, and within the same second
    _, second = event_files(tmp_path)
    second.rename(second.with_name("events.out.tfevents.9000000000.0001.a-host-with-another-clock"))
    start(2, [3], 1.0)
    assert len(event_files(tmp_path)) == 3
    assert shown_in(tmp_path)["training/loss"] == {1: 2.0, 2: 2.0, 3: 1.0}


def test_without_tensorboard_there_is_no_folder_and_metrics_are_the_same(
    tiny_dataset: str, watched: Left, folder: Path
) -> None:
    train_here(tiny_dataset, folder, **SMALL, epochs=1, tensorboard=False)
    assert not (folder / "tensorboard").exists()
    assert not (folder / "profile").exists()
    (first, *_), ours = watched.events("metrics"), Left(folder).events("metrics")
    assert ours[0]["gradient_norm"] == first["gradient_norm"]


def test_a_trace_holds_the_network_s_operations(watched: Left) -> None:
    (told_of,) = watched.events("profile")
    assert told_of == {"path": "profile/trace.json.gz", "first_step": 4, "last_step": 4}
    trace = json.loads(gzip.decompress((watched.folder / told_of["path"]).read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert {"aten::conv2d", "aten::linear", "aten::convolution_backward", "aten::_foreach_add_"} <= set(names)
    assert sum(name.startswith("ProfilerStep") for name in names if name) >= 1


def test_a_run_that_diverges_names_its_samples_and_the_last_good_checkpoint(tiny_dataset: str, folder: Path) -> None:
    with pytest.raises(TenchError, match=r"the loss is (nan|inf); the run diverged.*lower --learning-rate") as caught:
        train_here(tiny_dataset, folder, **SMALL, **AFTER_EVERY_STEP, learning_rate=100.0)
    assert caught.value.exit_code == 1
    left = Left(folder)
    (diverged,) = left.events("diverged")
    assert left.names[-1] == f"step-{diverged['step'] - 1:08d}.0001"
    assert f"that of step {diverged['step'] - 1} (checkpoints/{left.names[-1]})" in caught.value.message
    assert len(diverged["keys"]) == 10
    assert set(diverged["keys"]) <= keys_of(tiny_dataset)
    assert all(key in caught.value.message for key in diverged["keys"])
    for tensors in left.tensors(left.names[-1]).values():
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert all(np.isfinite(value) for values in shown_in(folder).values() for value in values.values())
    assert all("NaN" not in path.read_text() for path in folder.rglob("*.json*"))


def test_of_one_sample_that_is_not_finite_its_key_alone_is_named(
    tiny_dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, poisoned = DataWait.batches, []

    def with_a_hole(self: DataWait) -> Iterator[Any]:
        for batch in plain(self):
            if len(batch.labels) == 20:
                poisoned.append(int(batch.sample_numbers[13]))
                batch.images[13, 1, 100, 100] = float("nan")
            yield batch

    monkeypatch.setattr(DataWait, "batches", with_a_hole)
    key = "Of the step's 20 samples 1 have a loss that is not finite"
    with pytest.raises(TenchError, match=f"step 2: the loss is nan.*{key}") as caught:
        train_here(tiny_dataset, folder, **SMALL, micro_batch=6)
    (diverged,) = Left(folder).events("diverged")
    assert diverged["keys"] == [Stored(Path(tiny_dataset)).index[poisoned[0]]["key"]]
    assert "There is no earlier checkpoint" in caught.value.message


@pytest.mark.parametrize(("every_s", "found"), [(0.0, "step 2: .* its gradient is not"), (1e9, "step 2: the weights")])
def test_weights_that_a_gradient_would_spoil_or_has_spoilt_are_not_kept(
    every_s: float, found: str, tiny_dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, steps = FlatGradients.divide, []

    def spoilt(self: FlatGradients, count: float) -> None:
        plain(self, count)
        steps.append(count)
        if len(steps) == 2:
            self._buffers[0][7] = float("inf")

    monkeypatch.setattr(FlatGradients, "divide", spoilt)
    monkeypatch.setattr("trainer.reporter.METRICS_EVERY_S", every_s)
    monkeypatch.setattr("trainer.reporter.COST_SHARE", math.inf)  # norms are taken however long they take
    with pytest.raises(TenchError, match=f"{found}.*the run diverged.*step 1 "):
        train_here(tiny_dataset, folder, **SMALL, **AFTER_EVERY_STEP, global_batch=20)
    assert Left(folder).names == ["step-00000001.0001"]


def test_a_run_whose_evaluation_is_not_finite_ends_without_keeping_the_epoch(
    tiny_dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.fit.evaluate", lambda *_, **__: Errors(1.0, 1.0, float("nan"), 30))
    with pytest.raises(TenchError, match=r"step 1: the loss is nan; the run diverged\. The step's 60 samples: n9"):
        train_here(tiny_dataset, folder, **SMALL, global_batch=60)
    left = Left(folder)
    assert (left.names, left.events("evaluated")) == ([], [])


def test_a_stuck_run_stops_with_advice_and_can_go_on(tiny_dataset: str, folder: Path) -> None:
    # Weights so small that every logit is nearly 0, and a rate that leaves them so.
    switch = (*SMALL["switch"], "network.init=paper")
    chosen: dict[str, Any] = {"switch": switch, "learning_rate": 1e-9, "global_batch": 20, "epochs": 1}
    with pytest.raises(
        TenchError, match=r"step 2: the mean loss of the last 2 steps is .*museum145.*label order"
    ) as caught:
        train_here(tiny_dataset, folder, **chosen, stuck_after=2)
    assert caught.value.exit_code == 1
    left = Left(folder)
    assert left.names == ["step-00000002.0001"]
    losses = left.state("step-00000002.0001")["recent_losses"]
    assert left.events("stuck") == [{"step": 2, "loss": pytest.approx(sum(losses) / 2)}]
    assert losses == pytest.approx([2.302585] * 2, abs=0.005)
    with pytest.raises(TenchError, match="step 3: the mean loss"):
        train_here(tiny_dataset, folder, **chosen, stuck_after=3)
    assert train_here(tiny_dataset, folder, **chosen, stuck_after=0)["steps"] == 3


def test_a_checkpoint_from_before_the_guards_is_gone_on_from(tiny_dataset: str, watched: Left, folder: Path) -> None:
    place = watched.copy_checkpoint("step-00000003.0001", folder) / "checkpoints" / "step-00000003.0001"
    state = watched.state("step-00000003.0001")
    del state["recent_losses"]
    hashes = json.loads((place / "hashes.json").read_text())
    for name, value in (("state.json", state), ("hashes.json", hashes)):
        (place / name).unlink()  # a hard link: the original stays as it is
        (place / name).write_text(json.dumps(value))
        hashes["state.json"] = sha256((place / "state.json").read_bytes()).hexdigest()
    train_here(tiny_dataset, folder, **SMALL)
    assert len(Left(folder).state("step-00000004.0001")["recent_losses"]) == 1


def test_the_share_of_waiting_adds_up_to_the_seconds_that_reads_take(
    tiny_dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = PayloadReader.payload

    def slow(self: PayloadReader, row: int) -> Any:
        time.sleep(0.05)
        return plain(self, row)

    monkeypatch.setattr(PayloadReader, "payload", slow)
    train_here(tiny_dataset, folder, **SMALL, epochs=1)
    first = Left(folder).events("metrics")[0]
    # 40 reads of 50 ms by two or three threads, and nothing to compute on before they are done.
    assert first["data_wait_share"] * first["samples"] / first["samples_per_s"] >= 0.6
    assert first["data_wait_share"] <= 1


def test_a_step_waited_as_long_as_the_rank_that_waited_longest() -> None:
    step, wishes = told([70.0, 3.0, 40.0, 0.0, 1.0, 1.0, 0.1, 0.7, 0.2])
    assert step == (70.0, 3.0, 40.0, 0.7, (0.1, 0.7, 0.2))
    assert wishes == (False, True, True)


class FakeNvml:
    """NVML's C interface for one GPU."""

    def __init__(self, handle_error: int = 0, error: int = 0) -> None:
        self.handle_error, self.error = handle_error, error

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        assert uuid == b"GPU-1234"
        handle._obj.value = 77
        return self.handle_error

    def nvmlDeviceGetUtilizationRates(self, handle: Any, shares: Any) -> int:
        assert handle.value == 77
        shares._obj.gpu, shares._obj.memory = 83, 11
        return self.error


def test_utilisation_is_what_the_driver_says_and_absent_where_it_does_not_know() -> None:
    assert utilisation(FakeNvml(), "1234") == 0.83
    assert utilisation(FakeNvml(handle_error=6), "1234") is None
    assert utilisation(FakeNvml(error=3), "1234") is None
    assert utilisation(None, "1234") is None
    assert gpu_figures(torch.device("cpu")) == {}
