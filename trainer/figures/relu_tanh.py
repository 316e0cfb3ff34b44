"""How many epochs ReLU and tanh take to 25 % training error (figure 1 of the paper). In: run folders. Out: facts, a chart.

Each activation counts with its own best learning rate, and there with the median of its runs. An epoch's error is the
mean over its batches as they were trained, and stands at the epoch's end; between epochs the curve is a straight line.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from ingest.errors import RefusedError
from trainer.figures import curves, record

LINE = 0.25
WORDS = {"relu": "ReLU", "tanh": "tanh"}
DASHES = {"relu": [1, 0], "tanh": [6, 4]}
WIDTH, HEIGHT, HIGHEST = 560, 320, 0.75


def measured(run_folders: Sequence[str]) -> dict[str, Any]:
    """Facts: `runs` (run, activation, learning_rate, errors by epoch, crossing), and for each activation its best.

    `ratio` is tanh's epochs by ReLU's; a crossing and the ratio are None where a run does not get there. Raises
    RefusedError without runs of both, or if one of them has no checkpoint.
    """
    names = curves.run_names(run_folders)
    runs = [_run(folder, name) for folder, name in zip(run_folders, names, strict=True)]
    kinds = {run["activation"] for run in runs}
    if kinds != set(WORDS):
        raise RefusedError(
            f"relu-tanh: needs runs with activation relu and runs with tanh; found {', '.join(sorted(kinds)) or 'none'}"
        )
    best = {kind: _best([run for run in runs if run["activation"] == kind]) for kind in WORDS}
    relu, tanh = (best[kind]["crossing"] for kind in ("relu", "tanh"))
    return {"line": LINE, "runs": runs, **best, "ratio": tanh / relu if relu and tanh else None}


def crossing(errors: Sequence[Sequence[float]], line: float = LINE) -> float | None:
    """Epochs until the error is first at or below the line; None if it never is. `errors`: [epoch, error] in order."""
    for i, (epoch, error) in enumerate(errors):
        if error <= line:
            if i == 0:
                return epoch
            before, higher = errors[i - 1]
            return before + (epoch - before) * (higher - line) / (higher - error)
    return None


def chart(facts: dict[str, Any]) -> bytes:
    """The curves: ReLU solid, tanh dashed, runs at other learning rates pale; where the best cross the line."""
    import altair as alt

    rows = [
        {"run": run["run"], "kind": WORDS[run["activation"]], "x": x, "y": y, "best": run["run"] in _best_runs(facts)}
        for run in facts["runs"]
        for x, y in run["errors"]
    ]
    last = max((row["x"] for row in rows), default=1)
    axis = curves.epoch_axis(last, "epochs trained")
    lines = (
        alt.Chart(curves.data(rows), width=WIDTH, height=HEIGHT)
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(domain=[0, last])),
            y=alt.Y(
                "y:Q",
                title="training error",
                axis=alt.Axis(format=".0%"),
                scale=alt.Scale(domain=[0, HIGHEST], nice=False),
            ),
            detail="run:N",
            strokeDash=_by_kind(alt.StrokeDash, list(DASHES.values())),
            color=_by_kind(alt.Color, [curves.INK, curves.PALETTE[0]]),
            opacity=alt.condition("datum.best", alt.value(1.0), alt.value(0.22)),
        )
    )
    title = alt.TitleParams(_headline(facts), subtitle=_subtitle(facts))
    return curves.to_png((lines + _crossings(facts)).properties(title=title))


def _run(folder: str, name: str) -> dict[str, Any]:
    state = record.newest_state(folder)
    if state is None:
        raise RefusedError(f"{folder}: holds no checkpoint, so its activation is not known; train an epoch of it first")
    errors = record.training_errors(record.events_of(folder))
    return {
        "run": name, "activation": state["recipe"]["network"].get("activation", "relu"),
        "learning_rate": state["recipe"]["rule"]["learning_rate"], "errors": errors, "crossing": crossing(errors),
    }  # fmt: skip


def _best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The learning rate with the earliest median crossing; of those that never cross, the one with the lowest error."""
    by_rate = defaultdict(list)
    for run in runs:
        by_rate[run["learning_rate"]].append(run)

    def order(rate: float) -> tuple[float, float]:
        lowest = median(min((error for _, error in run["errors"]), default=1.0) for run in by_rate[rate])
        return _median_crossing(by_rate[rate]), lowest

    rate = min(by_rate, key=order)
    epochs = _median_crossing(by_rate[rate])
    return {
        "learning_rate": rate, "num_runs": len(by_rate[rate]), "num_rates": len(by_rate),
        "crossing": epochs if math.isfinite(epochs) else None,
    }  # fmt: skip


def _median_crossing(runs: list[dict[str, Any]]) -> float:
    return median(math.inf if run["crossing"] is None else run["crossing"] for run in runs)


def _best_runs(facts: dict[str, Any]) -> set[str]:
    return {r["run"] for r in facts["runs"] if r["learning_rate"] == facts[r["activation"]]["learning_rate"]}


def _by_kind(channel: Any, values: list[Any]) -> Any:
    """A channel with one value for ReLU and one for tanh, and their one legend."""
    import altair as alt

    legend = alt.Legend(title=None, orient="top-right", symbolType="stroke", symbolSize=500, labelFontSize=12)
    return channel("kind:N", scale=alt.Scale(domain=list(WORDS.values()), range=values), legend=legend)


def _crossings(facts: dict[str, Any]) -> Any:
    """The 25 % line, and for each activation a dot on it with the epochs beside."""
    import altair as alt

    dots = [
        {"x": facts[kind]["crossing"], "y": LINE, "words": f"{words}: {facts[kind]['crossing']:.1f}"}
        for kind, words in WORDS.items()
        if facts[kind]["crossing"] is not None
    ]
    rule = alt.Chart(curves.data([{"y": LINE}])).mark_rule(stroke=curves.SOFT_INK, strokeDash=[2, 3]).encode(y="y:Q")
    at = alt.Chart(curves.data(dots)).encode(x="x:Q", y="y:Q")
    words = at.mark_text(align="left", baseline="bottom", dx=7, dy=-5, fontSize=12, fill=curves.INK).encode(
        text="words:N"
    )
    return rule + at.mark_point(filled=True, size=55, fill=curves.INK, opacity=1) + words


def _headline(facts: dict[str, Any]) -> str:
    relu, tanh, ratio = facts["relu"]["crossing"], facts["tanh"]["crossing"], facts["ratio"]
    if ratio is not None:
        return f"ReLU reaches {LINE:.0%} training error {ratio:.1f} times as fast as tanh"
    missing = " and ".join(WORDS[kind] for kind, epochs in (("relu", relu), ("tanh", tanh)) if epochs is None)
    return f"{missing} did not reach {LINE:.0%} training error"


def _subtitle(facts: dict[str, Any]) -> list[str]:
    """A line for each activation."""
    lines = []
    for kind, words in WORDS.items():
        best = facts[kind]
        runs = "1 run" if best["num_runs"] == 1 else f"median of {best['num_runs']} runs"
        rates = "" if best["num_rates"] == 1 else f", best of {best['num_rates']} rates"
        epochs = "not reached" if best["crossing"] is None else f"{best['crossing']:.1f} epochs"
        lines.append(f"{words}: {epochs}, learning rate {best['learning_rate']:g}{rates}, {runs}")
    return lines
