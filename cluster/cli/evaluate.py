"""Command line of trained networks at work: their errors on a dataset, and what they take any picture for."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App

from cluster.cli.flags import Flat, Json, print_json
from cluster.cli.run import failed, recorded, refuse_missing
from cluster.settings import EvaluateHereRequest
from ingest.errors import TenchError, UsageError
from trainer.settings import EvaluateSettings, PredictSettings

if TYPE_CHECKING:
    from trainer.predict import Predictor

EVALUATE_DEFAULTS = EvaluateSettings()
PREDICT_DEFAULTS = PredictSettings()
SHOWN_ROWS = 10
WIDTH = 40
"""Columns for the words of a class."""


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(evaluate)
    app.command(predict)


def evaluate(
    dataset: str,
    run: str,
    *more: str,
    settings: Annotated[EvaluateSettings, Flat] = EVALUATE_DEFAULTS,
    predictions: str | None = None,
    submission: str | None = None,
    json: Json = False,
) -> int:
    """Measure top-1 and top-5 error of runs' newest checkpoints; the probabilities of several runs are averaged.

    Parameters
    ----------
    dataset
        Folder of a dataset with the same classes.
    run
        Folder of the training run; the evaluation's own record goes into its evaluations/.
    more
        Folders of further runs, whose networks answer together with the first.
    predictions
        Write the five best classes of every sample to this Parquet file.
    submission
        Write the five best classes of every sample to this text file, as the ILSVRC server took it.
    """
    from ingest.progress import new_run_id
    from ingest.storage import Place

    runs = (run, *more)
    for folder in runs:
        refuse_missing(folder)
    request = EvaluateHereRequest(
        dataset=dataset, runs=runs, predictions=predictions, submission=submission, **settings.model_dump()
    )
    place = f"{run.rstrip('/')}/evaluations/{new_run_id('evaluate')}"
    outcome, facts = recorded("evaluate", request, place)
    if outcome.exit_code:
        return failed(outcome, facts, json)
    tables = _tables(Place(place))
    if json:
        return print_json({**facts, **tables})
    print("\n".join(_evaluation_lines(facts, tables)))
    return 0


def predict(
    run: str,
    *pictures: str,
    settings: Annotated[PredictSettings, Flat] = PREDICT_DEFAULTS,
    dataset: str | None = None,
    json: Json = False,
) -> int:
    """Tell what a run's newest checkpoint takes pictures for: the five likeliest classes of each.

    Parameters
    ----------
    run
        Folder of the training run.
    pictures
        JPEG or PNG files of any size; they are scaled and cut as they would be for the dataset.
    dataset
        Folder of the dataset whose mean image is subtracted; the one that the run was trained on unless given.
    """
    if not pictures:
        raise UsageError("predict: no picture is named; give one or more JPEG or PNG files after the run")
    refuse_missing(run)
    from trainer.predict import Predictor

    predictor = Predictor(run, dataset, settings)
    told = []
    for picture in pictures:
        told.append(_prediction(predictor, picture))
        if "error" in told[-1]:
            print(f"tench: {picture}: {told[-1]['error']}", file=sys.stderr)
        elif not json:
            print("\n".join(_prediction_lines(told[-1])))
    if json:
        print_json({**predictor.facts(), "pictures": told})
    return 1 if any("error" in one for one in told) else 0


def _prediction(predictor: "Predictor", picture: str) -> dict[str, Any]:
    """The picture's best classes, or why it has none."""
    from ingest.pixels import decode_payload, encode, rescale

    settings = predictor.dataset.settings
    try:
        prepared = rescale(Path(picture).read_bytes(), settings)
        pixels = prepared.pixels
        if settings.payload == "jpeg":
            # The network knows pictures as the dataset stores them.
            pixels = decode_payload(encode(prepared.image, settings), "jpeg", settings.side)
    except (OSError, TenchError) as error:
        return {"picture": picture, "error": getattr(error, "strerror", None) or str(error)}
    return {"picture": picture, "best": [asdict(named) for named in predictor.best(pixels)]}


def _prediction_lines(told: dict[str, Any]) -> Iterator[str]:
    yield told["picture"]
    for named in told["best"]:
        yield f"  {named['probability']:7.2%}  {named['wnid']}  {named['words']}".rstrip()


def _tables(evaluation: Any) -> dict[str, Any]:
    """What an evaluation has written of classes and confusions; nothing without labels."""
    import json

    from trainer.evaluate import PER_CLASS

    try:
        tables: dict[str, Any] = json.loads(evaluation.get(PER_CLASS))
    except FileNotFoundError:
        return {}
    return tables


def _evaluation_lines(facts: dict[str, Any], tables: dict[str, Any]) -> Iterator[str]:
    from cluster.cli.display import facts_lines

    yield from facts_lines(facts)
    if facts["num_networks"] > 1:
        yield from ("", "Each network by itself" if tables else "Networks")
        yield from (_member_line(member) for member in facts["members"])
    if classes := [row for row in tables.get("classes", ()) if row["num_samples"]]:
        yield from ("", f"{'Worst classes':{WIDTH + 13}} {'top-1':>7} {'top-5':>7} {'samples':>8}")
        yield from (_class_line(row) for row in classes[:SHOWN_ROWS])
    if pairs := tables.get("confusions"):
        yield from ("", "Most frequent confusions (count, class, what it was taken for)")
        yield from (_pair_line(pair) for pair in pairs[:SHOWN_ROWS])


def _class_line(row: dict[str, Any]) -> str:
    return (
        f"  {row['wnid']}  {_short(row['words']):{WIDTH}} {row['top1_error']:7.1%} {row['top5_error']:7.1%} "
        f"{row['num_samples']:8,}"
    )


def _pair_line(pair: dict[str, Any]) -> str:
    taken_for = f"{pair['predicted_wnid']}  {_short(pair['predicted_words'])}".rstrip()
    return f"  {pair['count']:6,}  {pair['wnid']}  {_short(pair['words']):{WIDTH}}  ->  {taken_for}"


def _member_line(member: dict[str, Any]) -> str:
    errors = [member["top1_error"], member["top5_error"]]
    told = "  ".join(f"{error:7.2%}" for error in errors if error is not None)
    return f"  {told}  epoch {member['epoch']}  {member['preset']}  {member['run']}"


def _short(words: str) -> str:
    """The words of a class, cut to a column."""
    return words if len(words) <= WIDTH else f"{words[: WIDTH - 3]}..."
