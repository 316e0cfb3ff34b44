"""What the figures show: kernels, curves over broken and resumed runs, training errors, crossings, tables."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ingest.errors import RefusedError
from ingest.progress import Event, RunWriter
from ingest.storage import Place
from tests.trainer.drawn_runs import half, metrics, write_evaluation, write_run
from trainer import figures
from trainer.figures.kernels import columns_of, kernel_sheet
from trainer.figures.record import thinned, training_errors

WHITE = (255, 255, 255)
MOST_BYTES = 1_000_000


def picture(png: bytes) -> Any:
    """uint8 (height, width, 3), of a file that is neither large nor see-through at its edges."""
    assert len(png) < MOST_BYTES
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all(tuple(pixel) == WHITE for edge in edges for pixel in edge)
    return pixels


def events_in(folder: Path) -> list[Event]:
    files = sorted(folder.glob("events/*/*.jsonl"))
    return [Event(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """Steps 1 to 3 of a first attempt; a second one goes on from step 2, with other losses, into a second epoch."""
    folder = tmp_path / "run"
    first = RunWriter.begin(Place(folder), "train", {})
    for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0)):
        metrics(first, (step, 0, 10, 0.9), loss=loss)
    first.flush()
    second = RunWriter.begin(Place(folder), "train", {})
    second.event("resumed", "Goes on.", step=2)
    metrics(second, (4, 0, 13, 0.5), loss=3.0)
    second.event("delivered", "An epoch.", epoch=0)
    second.event("evaluated", "Errors.", epoch=0, step=4, **half(0.8))
    metrics(second, (5, 1, 10, 0.4), loss=2.0)
    second.flush()
    return folder


def test_curves_of_what_only_some_steps_tell_have_points_at_those_steps(tmp_path: Path) -> None:
    told = {"epoch": 0, "samples": 5, "loss": 1.0, "learning_rate": 0.1, "samples_per_s": 9.0, "train_top1_error": 0.5}
    steps = [{"step": 1, "gradient_norm": 3.0}, {"step": 2, "gpu_utilisation": 0.9, "gpu_peak_bytes": 7}]
    events = [
        Event(attempt=1, seq=step["step"], at=0.0, kind="metrics", text="", data={**told, **step}) for step in steps
    ]
    found = figures.series_of(events)
    assert found["gradient_norm"] == [[1, 3.0]]
    assert (found["gpu_utilisation"], found["gpu_peak_bytes"]) == ([[2, 0.9]], [[2, 7]])
    assert found["gpu_allocated_bytes"] == found["data_wait_share"] == []


def test_thinned_curves_keep_their_ends_and_every_spike() -> None:
    points = [[float(x), 1.0] for x in range(10_000)]
    points[1234][1], points[7000][1], points[-1][1] = 99.0, -99.0, 5.0
    thin = thinned(points, 500)
    assert len(thin) <= 500
    assert [points[0], points[1234], points[7000], points[-1]] == [p for p in thin if p[0] == 0 or p[1] != 1.0]
    assert thin == sorted(thin)
    assert thinned(points[:500], 500) == points[:500]


@pytest.mark.parametrize(
    ("shape", "columns", "side"), [((96, 3, 11, 11), 2, 66), ((64, 3, 11, 11), 1, 66), ((32, 3, 5, 5), 1, 65)]
)
def test_each_kernel_stands_in_its_place_on_its_own_scale(shape: tuple[int, ...], columns: int, side: int) -> None:
    weights = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1))
        * torch.logspace(-3, 3, shape[0])[:, None, None, None]
    )
    weights[7] = 0
    sheet = kernel_sheet(weights, columns)
    rows = shape[0] // 16
    assert sheet.shape == (rows * (side + 2) + 2 + (columns - 1) * 16, 16 * (side + 2) + 2, 3)
    for i in (0, 7, 15, 16, shape[0] // 2 - 1, shape[0] // 2, shape[0] - 1):
        below = 16 if columns == 2 and i >= shape[0] // 2 else 0
        top, left = 2 + i // 16 * (side + 2) + below, 2 + i % 16 * (side + 2)
        kernel = weights[i].numpy().transpose(1, 2, 0).astype(np.float64)
        wanted = np.rint(127.5 + 127.5 * kernel / (np.abs(kernel).max() or 1))
        scale = side // shape[2]
        shown = sheet[top : top + side : scale, left : left + side : scale].astype(np.float64)
        assert np.abs(shown - wanted).max() <= 1
        assert i == 7 or {0, 255} & set(shown.flatten())


def test_columns_are_seen_by_how_much_of_conv1_a_filter_of_conv2_reads() -> None:
    conv1 = torch.empty(96, 3, 11, 11)
    assert columns_of({"conv1.weight": conv1, "conv2.weight": torch.empty(256, 48, 5, 5)}) == 2
    assert columns_of({"conv1.weight": conv1, "conv2.weight": torch.empty(256, 96, 5, 5)}) == 1
    assert columns_of({"conv1.weight": conv1}) == 1


def test_steps_that_a_later_attempt_made_again_count_once(interrupted: Path) -> None:
    found = figures.series(str(interrupted))
    assert found["loss"] == [[1, 5.0], [2, 4.0], [4, 3.0], [5, 2.0]]
    assert found["top1_error"] == [[1, 0.4]]
    assert found["top5_error"] == [[1, 0.2]]


def test_an_attempt_that_begins_anew_takes_the_place_of_all_before(tmp_path: Path) -> None:
    for loss in (5.0, 4.0):
        run = RunWriter.begin(Place(tmp_path), "train", {})
        for step in (2, 3) if loss == 5.0 else (1, 4):
            metrics(run, (step, 0, 10, 0.5), loss=loss)
        run.flush()
    assert figures.series(str(tmp_path))["loss"] == [[1, 4.0], [4, 4.0]]


def test_training_errors_are_means_over_the_samples_of_whole_epochs(interrupted: Path) -> None:
    # 10 and 10 samples at 0.9, 13 at 0.5; the second epoch has not ended.
    assert training_errors(events_in(interrupted)) == [[1, pytest.approx((20 * 0.9 + 13 * 0.5) / 33)]]


def test_steps_of_a_start_that_left_no_checkpoint_count_once(tmp_path: Path) -> None:
    """Ray replaces dead workers within an attempt: without a checkpoint they begin again, and nothing says so."""
    run = RunWriter.begin(Place(tmp_path), "train", {})
    for steps, error in (((1, 2), 0.9), ((1, 3), 0.5)):
        for step in steps:
            metrics(run, (step, 0, 10, error), loss=error)
    run.event("delivered", "An epoch.", epoch=0)
    run.flush()
    assert training_errors(events_in(tmp_path)) == [[1, 0.5]]
    assert figures.series(str(tmp_path))["loss"] == [[1, 0.5], [3, 0.5]]


def test_training_errors_without_counts_are_means_over_steps(interrupted: Path) -> None:
    for file in interrupted.glob("events/*/*.jsonl"):
        file.write_text(file.read_text().replace('"samples"', '"other"'))
    # One step each at 0.9, two at 0.5 (3 and 4: the second attempt stands at 2).
    assert training_errors(events_in(interrupted)) == [[1, pytest.approx((2 * 0.9 + 2 * 0.5) / 4)]]


def test_relu_and_tanh_count_with_the_median_at_their_best_rates(tmp_path: Path) -> None:
    def run(name: str, errors: list[float], rate: float, activation: str = "relu") -> str:
        return str(write_run(tmp_path / name, errors, rate=rate, activation=activation))

    runs = [
        run("a", [0.5, 0.25, 0.1], 0.01),  # crosses after 2
        run("b", [0.6, 0.3, 0.2], 0.01),  # halfway between 2 and 3
        run("c", [0.7, 0.5, 0.3, 0.2], 0.01),  # halfway between 3 and 4
        run("d", [0.4, 0.3, 0.26], 0.1),  # never
        run("e", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], 0.01, "tanh"),  # 7.5
        run("f", [0.9, 0.8, 0.7], 0.1, "tanh"),
    ]
    drawn = figures.relu_tanh_figure(runs)
    assert [one["crossing"] and round(one["crossing"], 9) for one in drawn.facts["runs"]] == [
        2,
        2.5,
        3.5,
        None,
        7.5,
        None,
    ]
    assert (drawn.facts["relu"]["crossing"], drawn.facts["relu"]["learning_rate"]) == (pytest.approx(2.5), 0.01)
    assert (drawn.facts["tanh"]["crossing"], drawn.facts["tanh"]["num_runs"]) == (pytest.approx(7.5), 1)
    assert drawn.facts["ratio"] == pytest.approx(3.0)
    picture(drawn.png)
    never = figures.relu_tanh_figure([runs[0], runs[5]])
    assert (never.facts["ratio"], never.facts["tanh"]["crossing"]) == (None, None)
    with pytest.raises(RefusedError, match="runs with tanh; found relu"):
        figures.relu_tanh_figure(runs[:2])


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name / "run", [0.8, 0.6], rate=0.01)) for name in ("one", "two")]
    first, second = (figures.curves_figure(runs) for _ in range(2))
    assert first == second
    assert list(first.facts["series"]) == ["one/run", "two/run"]
    assert not np.array_equal(picture(first.png), picture(figures.curves_png(runs[0])))
    assert figures.kernels_figure(runs[0]) == figures.kernels_figure(runs[0])
    shown, bare = picture(figures.kernels_figure(runs[0]).png), picture(figures.kernels_png(runs[0]) or b"")
    assert np.array_equal(shown[-24 - len(bare) : -24, 24:-24], bare)


def test_curves_show_runs_of_any_length(tmp_path: Path) -> None:
    assert figures.series(str(write_run(tmp_path / "none", [])))["loss"] == []
    picture(figures.curves_png(str(tmp_path / "none")))
    long = write_run(tmp_path / "long", [0.9] * 210)
    assert len(figures.series(str(long))["loss"]) == 840
    picture(figures.curves_png(str(long)))


def test_results_are_the_latest_evaluations_of_each_kind(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.8, 0.6])
    ten: dict[str, Any] = {
        "dataset_id": "d" * 64,
        "split": "val",
        "views": 10,
        "epoch": 2,
        "num_samples": 50,
        "num_networks": 1,
    }
    write_evaluation(run, "1", **ten, top1_error=0.5, top5_error=0.4)
    write_evaluation(run, "2", **ten, top1_error=0.3, top5_error=0.2)
    write_evaluation(run, "3", "failed", **ten, top1_error=0.1, top5_error=0.1)
    write_evaluation(run, "4", **{**ten, "split": "test"}, top1_error=None, top5_error=None)
    write_evaluation(run, "5", **{**ten, "num_networks": 5}, top1_error=0.25, top5_error=0.1)
    drawn = figures.results_figure([str(run)])
    found = [
        tuple(one[name] for name in ("views", "num_networks", "top1_error", "epoch")) for one in drawn.facts["ours"]
    ]
    # The run itself looked at the centre view after its second epoch.
    assert found == [(1, 1, 0.3, 2), (10, 1, 0.3, 2), (10, 5, 0.25, 2)]
    picture(drawn.png)


def test_a_run_that_was_never_evaluated_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="was never evaluated; `tench evaluate"):
        figures.results_figure([str(write_run(tmp_path / "run", []))])


def test_published_errors_are_those_of_the_paper_and_agree_with_each_other(tmp_path: Path) -> None:
    facts = figures.results_figure([str(write_run(tmp_path / "run", [0.5]))]).facts

    def errors(table: str, network: str, views: int) -> list[float]:
        found = [row for row in facts[table] if (row["network"], row["views"]) == (network, views)]
        assert len(found) == 1
        return [float(found[0]["top1"]), float(found[0]["top5"])]

    assert errors("ilsvrc_2010_test", "CNN", 10) == [37.5, 17.0]
    assert errors("ilsvrc_2012_val", "1 CNN", 10) == [40.7, 18.2]
    assert errors("ilsvrc_2012_val", "7 CNNs*", 10) == [36.7, 15.4]
    published_2012 = errors("ilsvrc_2012_val", "#145 (1 CNN)", 10)
    published_2010 = errors("ilsvrc_2010_test", "#145", 10)
    assert published_2012 == pytest.approx([40.7, 18.2], abs=0.05)
    assert published_2010 == pytest.approx([37.5, 17.0], abs=0.05)
    gains = {gain["part"]: gain for gain in facts["gains"]}
    for part, without, whole in (
        ("Local response normalisation", [42.0340, 19.3620], published_2012),
        ("Pools that overlap", [41.0580, 18.5100], published_2012),
        ("Exchange between the columns", [41.8280, 19.3300], published_2012),
        ("Two columns instead of a half", [39.1680, 18.2287], published_2010),
        ("Ten views instead of the centre", [39.0247, 18.2953], published_2010),
    ):
        said = [float(gains[part]["museum_top1"]), float(gains[part]["museum_top5"])]
        assert said == pytest.approx([a - b for a, b in zip(without, whole, strict=True)], abs=0.0006)
