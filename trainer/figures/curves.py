"""Curves of runs become charts. In: points as `record.py` reads them. Out: a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

MAX_POINTS, MAX_TICKS, MOST_DOTS = 800, 10, 30
TICK_STEPS = (1, 2, 5)
SCALE = 2.0
WIDTH, HEIGHT = 330, 230
PALETTE = ("#1f5fa8", "#d1592a", "#2e8b57", "#8a4fa3", "#b8860b", "#4f5d6b", "#c03a70", "#179aa6")
INK, SOFT_INK, GRID = "#141414", "#5f5f5f", "#e3e3e3"
Series = Mapping[str, Sequence[Sequence[float]]]
Rows = list[dict[str, Any]]


def run_names(run_folders: Sequence[str]) -> list[str]:
    """A short name for each run, no two alike: the last part of its path, or as much of the path as it takes."""
    parts = [PurePosixPath(folder.rstrip("/")).parts for folder in run_folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i + 1}: {folder}" for i, folder in enumerate(run_folders)]


def curves_chart(runs: Mapping[str, Series]) -> bytes:
    """Training loss over steps, validation errors over epochs, learning rate over steps; a colour for each run."""
    import altair as alt

    panels = [
        _titled("Training loss", _loss(runs)), _titled("Validation error", _errors(runs)),
        _titled("Learning rate", _rate(runs)),
    ]  # fmt: skip
    # Flush: the plots stand on one line, whatever labels stick out of them.
    return to_png(alt.hconcat(*panels, spacing=76, bounds="flush").resolve_legend(strokeDash="independent"))


def to_png(chart: Any) -> bytes:
    """A chart on white, with this project's fonts and colours, as a PNG file."""
    import vl_convert

    styled = (
        chart.configure(background="white", font="Liberation Sans", padding=14)
        .configure_axis(
            gridColor=GRID, domainColor=SOFT_INK, tickColor=SOFT_INK, labelColor=SOFT_INK, titleColor=INK,
            titleFontWeight="normal", titleFontSize=12, labelFontSize=11, titlePadding=8,
        )
        .configure_view(stroke=None)
        .configure_title(
            fontSize=14, color=INK, anchor="start", frame="group", offset=12, subtitleColor=SOFT_INK, subtitleFontSize=11
        )
        .configure_legend(labelColor=INK, labelFontSize=11, labelLimit=260, symbolStrokeWidth=2)
    )  # fmt: skip
    png: bytes = vl_convert.vegalite_to_png(styled.to_dict(), scale=SCALE)
    return png


def data(rows: Rows) -> Any:
    """Rows as a chart takes them."""
    import altair as alt

    return alt.Data(values=rows)  # type: ignore[no-untyped-call]


def epoch_axis(last: float, title: str = "epoch") -> Any:
    """An axis of whole epochs, with ten ticks at most."""
    import altair as alt

    steps = (step * 10**power for power in range(10) for step in TICK_STEPS)
    step = next(step for step in steps if last <= step * MAX_TICKS)
    return alt.Axis(values=list(range(0, int(last) + 1, step)), format="d", title=title, grid=False)


def thinned(points: Sequence[Sequence[float]], most: int = MAX_POINTS) -> list[list[float]]:
    """At most `most` points: neighbours in equal groups, each its mean. As they are if they are few enough."""
    size = -(-len(points) // most) if len(points) > most else 1
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [[sum(values) / len(group) for values in zip(*group, strict=True)] for group in groups]


def _loss(runs: Mapping[str, Series]) -> Any:
    import altair as alt

    rows: Rows = [{"run": run, "x": x, "y": y} for run, series in runs.items() for x, y in thinned(series["loss"])]
    return _panel(rows).mark_line(strokeWidth=1.5).encode(
        x=_steps(), y=alt.Y("y:Q", title="nats a sample", scale=alt.Scale(zero=False)), color=_colour(runs)
    )  # fmt: skip


def _errors(runs: Mapping[str, Series]) -> Any:
    import altair as alt

    kinds = {"top1_error": "top-1", "top5_error": "top-5"}
    rows: Rows = [
        {"run": run, "x": x, "y": y, "kind": words}
        for run, series in runs.items()
        for name, words in kinds.items()
        for x, y in series[name]
    ]
    last = max((row["x"] for row in rows), default=1)
    places = _panel(rows).encode(
        x=alt.X("x:Q", axis=epoch_axis(last), scale=alt.Scale(domain=[0, last])),
        y=alt.Y("y:Q", title=None, axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])),
        color=_colour(runs),
    )
    lines = places.mark_line(strokeWidth=1.5).encode(strokeDash=_dashes(list(kinds.values())))
    return lines + places.mark_point(filled=True, size=24, opacity=1) if last <= MOST_DOTS else lines


def _dashes(kinds: list[str]) -> Any:
    import altair as alt

    legend = alt.Legend(title=None, orient="top-right", direction="horizontal", symbolType="stroke")
    return alt.StrokeDash("kind:N", scale=alt.Scale(domain=kinds, range=[[1, 0], [5, 3]]), legend=legend)


def _rate(runs: Mapping[str, Series]) -> Any:
    import altair as alt

    # A rate of 0 has no place on a logarithmic axis.
    rows: Rows = [{"run": r, "x": x, "y": y} for r, s in runs.items() for x, y in _corners(s["learning_rate"]) if y > 0]
    rates = sorted({row["y"] for row in rows}) or [1.0]
    named = {"values": rates} if len(rates) <= MAX_TICKS else {"tickCount": 4}
    scale = alt.Scale(type="log", domain=[rates[0] / 2, rates[-1] * 2], nice=False)
    return _panel(rows).mark_line(strokeWidth=1.5, interpolate="step-after").encode(
        x=_steps(), y=alt.Y("y:Q", title=None, scale=scale, axis=alt.Axis(format="~g", **named)), color=_colour(runs)
    )  # fmt: skip


def _corners(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The points where a value changes, the first and the last."""
    last = len(points) - 1
    return [p for i, p in enumerate(points) if i in (0, last) or p[1] != points[i - 1][1]]


def _panel(rows: Rows) -> Any:
    import altair as alt

    return alt.Chart(data(rows), width=WIDTH, height=HEIGHT)


def _titled(title: str, chart: Any) -> Any:
    """With a title at a place of its own: a chart's own title moves with the labels that stick out at the top."""
    import altair as alt

    words = alt.Chart(data([{}])).mark_text(align="left", baseline="bottom", fontSize=14, fontWeight="bold", fill=INK)
    return chart + words.encode(x=alt.value(0), y=alt.value(-14), text=alt.value(title))


def _steps() -> Any:
    import altair as alt

    return alt.X("x:Q", title="step", axis=alt.Axis(format=",d", tickCount=5, grid=False))


def _colour(runs: Mapping[str, Series]) -> Any:
    import altair as alt

    colours = [PALETTE[i % len(PALETTE)] for i in range(len(runs))]
    legend = (
        alt.Legend(title=None, orient="bottom", columns=3, symbolType="stroke", symbolDash=[1, 0])
        if len(runs) > 1
        else None
    )
    return alt.Color("run:N", scale=alt.Scale(domain=list(runs), range=colours), legend=legend)
