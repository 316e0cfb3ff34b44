"""The model card of a run, from what its folder holds: what was trained, on what, how well.

    RUN/model_card.md, model_card.json    made anew after a training, after each evaluation and with each drawing of curves
    RUN/figures/curves.png                drawn after a training
    RUN/measured/*.json                   the latest evaluation of each (step, split, views, ties, dataset)

The card names data by their ids and holds no path of a machine. What comes from outside (class names, names of
layers and settings in a file) is escaped: it shows as it stands, and is no markup.
"""

import json
import math
import re
import unicodedata
from typing import Any

from ingest.dataset import Dataset
from ingest.errors import RefusedError, TenchError
from ingest.progress import RunWriter, to_json
from ingest.storage import Place
from ingest.words import counted
from trainer import checkpoint, transfer
from trainer.figures import curves, series
from trainer.presets import recipe
from trainer.settings import TrainSettings
from trainer.switches import PARTS, Recipe, switch_names

FORMAT_VERSION = 1
CARD, CARD_JSON, MEASURED = "model_card.md", "model_card.json", "measured"
CURVES = "figures/curves.png"
MEASURES = (
    "step", "epoch", "split", "views", "ties", "top1_error", "top5_error", "loss", "num_samples", "dataset_id",
)  # fmt: skip
"""What the card keeps of an evaluation."""
SHOWN_CLASSES, SHOWN_LENGTH = 20, 200
MARKUP = re.compile(r"([\\`*_~\[\]|#<>&$])")


def write(place: Place, dataset: Dataset, told: RunWriter | None) -> None:
    """Draw a run's curves and make its card anew. What cannot be made is said in `told`: it must not fail what it describes.

    `dataset` has the run's classes. The picture takes 1 to 3 s, and about 0.3 s more for every 1,000 metrics.
    """
    _draw_curves(place, told)
    _write_card(place, dataset, told)


def _draw_curves(place: Place, told: RunWriter | None) -> None:
    """Put the curves of all attempts into the run folder; a run without steps (an import) has none."""
    try:
        found = series(place.uri)
        if any(found.values()):
            place.replace(CURVES, curves.curves_chart({"this run": found}))
    except Exception as error:  # noqa: BLE001 - days of training must not fail by a picture, whatever the drawing raises
        if told is not None:
            told.event("warning", f"The curves were not drawn: {type(error).__name__}: {str(error)[:SHOWN_LENGTH]}")


def _write_card(place: Place, dataset: Dataset, told: RunWriter | None) -> None:
    try:
        _put_card(place, card_facts(place, dataset))
    except (TenchError, OSError) as error:
        if told is not None:
            told.event("warning", f"The model card was not written: {error}")


def note_evaluation(place: Place, dataset: Dataset, found: dict[str, Any], told: RunWriter | None) -> None:
    """Keep what an evaluation of a run found, and make its card anew."""
    facts = {name: found[name] for name in MEASURES if name in found}
    parts = (f"{facts['step']:08d}", facts["split"], facts["views"], facts.get("ties", ""), facts["dataset_id"][:16])
    try:
        place.replace(f"{MEASURED}/{'-'.join(map(str, parts))}.json", to_json(facts))
    except (TenchError, OSError) as error:
        if told is not None:
            told.event("warning", f"The evaluation was not added to the model card: {error}")
    _write_card(place, dataset, told)


def show_curves(place: Place) -> None:
    """Let a run's card, if there is one, show the curves, which are drawn; the rest of it stays as it is.

    Raises RefusedError if a newer Tench wrote the card, TenchError if it cannot be written.
    """
    if not place.exists(CARD_JSON):
        return
    facts = json.loads(place.get(CARD_JSON))
    if (found := facts["format_version"]) > FORMAT_VERSION:
        raise RefusedError(f"{place.name(CARD_JSON)}: format {found}, this Tench writes {FORMAT_VERSION}; update it")
    _put_card(place, {**facts, "curves": CURVES})


def card_facts(place: Place, dataset: Dataset) -> dict[str, Any]:
    """What the card says, as JSON-able values: of the newest checkpoint, and of every evaluation."""
    path = checkpoint.complete(place)[-1]
    state = checkpoint.state_of(place, path)
    chosen = Recipe.model_validate(state["recipe"])
    return {
        "format_version": FORMAT_VERSION,
        "checkpoint": path,
        "weights_sha256": json.loads(place.get(f"{path}/{checkpoint.HASHES}"))[checkpoint.WEIGHTS],
        "recipe": recipe_content(chosen),
        "differs": _differences(chosen, dataset),
        "network": _network(chosen),
        "data": _data(state, dataset),
        "initial": transfer.begun_with(place),
        "epoch": state["epoch"],
        "step": state["step"],
        "errors": state["errors"],
        "measured": measured(place),
        "curves": CURVES if place.exists(CURVES) else None,
        "execution": state["execution"],
        "versions": state["versions"],
    }


def _put_card(place: Place, facts: dict[str, Any]) -> None:
    place.replace(CARD_JSON, to_json(facts))
    place.replace(CARD, card_text(facts).encode())


def measured(place: Place) -> list[dict[str, Any]]:
    """The evaluations of a run that its card knows, by step."""
    return [json.loads(place.get(file.path)) for file in place.files(MEASURED)]


def recipe_content(chosen: Recipe) -> dict[str, Any]:
    """A recipe without the settings that change no numbers, such as the folder of a cache; `Recipe` reads it."""
    return {**chosen.model_dump(mode="json"), **{part: getattr(chosen, part).content() for part in PARTS}}


def card_text(facts: dict[str, Any]) -> str:
    """The card as Markdown."""
    chosen = facts["recipe"]
    parts = [
        [f"# {escaped(chosen['preset'])}, a network for {counted(facts['data']['num_classes'], 'class')}"],
        _training_lines(facts),
        ["## Errors", *_error_lines(facts)],
        ["## Data", *_data_lines(facts["data"])],
        ["## Settings that differ from the preset", *_difference_lines(facts["differs"])],
        ["## Network", *_network_lines(facts["network"])],
        ["## Versions", "", ", ".join(f"{escaped(n)} {escaped(v)}" for n, v in facts["versions"].items())],
    ]
    if facts["curves"]:
        parts.insert(3, ["## Curves", "", f"![Loss over steps, errors over epochs]({CURVES})"])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def escaped(value: Any) -> str:
    """A value as one line of Markdown that shows it as it stands: markup escaped, control characters left out."""
    text = " ".join(str(value).split())
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    text = text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}..."
    return MARKUP.sub(lambda found: {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(found[1], f"\\{found[1]}"), text)


def _differences(chosen: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """Where a recipe left its preset: {"setting", "preset", "here"}."""
    preset = recipe_content(recipe(TrainSettings(preset=chosen.preset), dataset))
    here = recipe_content(chosen)
    pairs = [(name, preset[name], here[name]) for name in ("epochs", "precision", "seed")]
    for part in PARTS:
        pairs += [(f"{part}.{name}", preset[part][name], here[part][name]) for name in switch_names(part)]
    return [{"setting": name, "preset": old, "here": new} for name, old, new in pairs if old != new]


def _network(chosen: Recipe) -> dict[str, Any]:
    shapes = transfer.shapes(chosen.network)
    layers: dict[str, dict[str, Any]] = {}
    for name, shape in shapes.items():
        layer, part = name.rsplit(".", 1)
        layers.setdefault(layer, {})[part] = list(shape)
    sizes = [math.prod(shape) for shape in shapes.values()]
    return {"architecture": chosen.network.architecture, "num_parameters": sum(sizes), "layers": layers}


def _data(state: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    """The data of the training; the words of its classes are those of `dataset`, which has the same."""
    words = {known.wnid: known.words for known in dataset.classes}
    facts: dict[str, Any] = {
        "dataset_id": state["dataset_id"],
        "content_id": state["content_id"],
        "num_classes": len(state["classes"]),
        "classes": [{"wnid": wnid, "words": words.get(wnid, "")} for wnid in state["classes"]],
    }
    if dataset.content_id == state["content_id"]:
        facts["splits"] = {name: dataset.split(name).num_samples for name in dataset.split_names}
        facts["side"] = dataset.side
    return facts


def _training_lines(facts: dict[str, Any]) -> list[str]:
    chosen, execution = facts["recipe"], facts["execution"]
    workers = counted(execution["world_size"], "worker")
    lines = [
        f"{facts['epoch']} of {chosen['epochs']} epochs, {facts['step']:,} steps of {chosen['loader']['global_batch']} "
        f"samples, {escaped(chosen['precision'])}, seed {chosen['seed']}, {workers} ({escaped(execution['device'])}).",
        "",
        f"Weights: `{escaped(facts['checkpoint'])}/{checkpoint.WEIGHTS}`, SHA-256 `{escaped(facts['weights_sha256'])}`.",
    ]
    if begun := facts["initial"]:
        taken = begun["initial"]
        lines += [
            "",
            f"Begun with {escaped(', '.join(taken['layers']))} of a file of weights with SHA-256 "
            f"`{escaped(taken['weights_sha256'])}`; drawn fresh: {escaped(', '.join(begun['fresh']) or 'nothing')}.",
        ]
    return lines


def _error_lines(facts: dict[str, Any]) -> list[str]:
    rows = [{"split": "val", "views": 1, "step": facts["step"], **facts["errors"]}] if facts["errors"] else []
    rows += facts["measured"]
    if not rows:
        return ["", "Not measured yet."]
    table = [("split", "views", "ties", "step", "top-1 error", "top-5 error", "loss", "samples", "data")]
    for row in rows:
        table.append((
            row["split"], row["views"], row.get("ties", ""), f"{row['step']:,}", f"{row['top1_error']:.2%}",
            f"{row['top5_error']:.2%}", f"{row['loss']:.4f}", f"{row['num_samples']:,}",
            str(row.get("dataset_id", facts["data"]["dataset_id"]))[:16],
        ))  # fmt: skip
    return _table(table)


def _data_lines(data: dict[str, Any]) -> list[str]:
    lines = ["", f"Dataset `{escaped(data['dataset_id'])}`, content `{escaped(data['content_id'])}`."]
    if splits := data.get("splits"):
        sizes = ", ".join(f"{escaped(name)} {number:,}" for name, number in splits.items())
        lines += ["", f"Samples: {sizes}; pictures of {data['side']} x {data['side']}."]
    shown = data["classes"][:SHOWN_CLASSES]
    rest = data["num_classes"] - len(shown)
    lines += _table([("label", "wnid", "class"), *((i, c["wnid"], c["words"]) for i, c in enumerate(shown))])
    return [*lines, "", f"and {counted(rest, 'class')} more (`{CARD_JSON}`)."] if rest else lines


def _difference_lines(differs: list[dict[str, Any]]) -> list[str]:
    if not differs:
        return ["", "None."]
    rows = [(d["setting"], json.dumps(d["preset"]), json.dumps(d["here"])) for d in differs]
    return _table([("setting", "preset", "here"), *rows])


def _network_lines(network: dict[str, Any]) -> list[str]:
    rows: list[tuple[Any, ...]] = [("layer", "weights", "parameters")]
    for name, shapes in network["layers"].items():
        rows.append((name, " x ".join(map(str, shapes["weight"])), f"{sum(map(math.prod, shapes.values())):,}"))
    return ["", f"{escaped(network['architecture'])}, {network['num_parameters']:,} parameters.", *_table(rows)]


def _table(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows, the first one the head, as a Markdown table with a line before it."""
    lines = [f"| {' | '.join(escaped(value) for value in row)} |" for row in rows]
    return ["", lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
