"""The command line. Thin: it reads flags, opens a run folder, calls one room, shows the run, prints the end.

Nothing heavy is imported before a command needs it: `tench --help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError
from pydantic import BaseModel, ValidationError

from augment.settings import LoaderSettings
from cluster.cli import datasets, evaluate, figure, jobs, keep, quarantine, serve, sheet, submit, weights
from cluster.cli.flags import Flat, Json, Switch, print_json
from cluster.cli.run import complain, home_run, refuse_existing, run_recorded, say
from cluster.settings import IngestRequest, RecentreRequest, RepairRequest, TrainRequest, VerifyRequest
from cluster.words import misfit_words
from ingest.errors import TenchError, UsageError
from ingest.settings import IngestSettings, RecentreSettings, RepairSettings, SampleSettings, VerifySettings
from trainer.settings import EvaluateSettings, PredictSettings, TrainSettings

RECENTRE_DEFAULTS = RecentreSettings()
REPAIR_DEFAULTS = RepairSettings()

app = App(
    name="tench",
    help="ImageNet from the archives as published to a trained AlexNet, on a laptop or a cluster.\n\n"
    "Begin with `tench sample small`, then `tench ingest small/official small/dataset`.\n\n"
    "Exit codes: 0 done, 1 failed while running, 2 wrong use, 3 refused to start, 4 damage found, 5 too many bad "
    "pictures, 130 interrupted.",
    version=lambda: metadata.version("tench"),
    result_action="return_value",
)
for part in (serve, submit, jobs, datasets, keep, quarantine, sheet, evaluate, figure, weights):
    part.add_to(app)


@app.command
def sample(out: str, *, settings: Annotated[SampleSettings, Flat] = SampleSettings(), json: Json = False) -> int:
    """Write a small source in the shape of ImageNet: ten classes, as archives and as class folders.

    Parameters
    ----------
    out
        New folder; gets official/ (archives as published) and folders/ (class folders).
    """
    from cluster.cli.display import step_bar
    from ingest.sample_source import write_sample

    on_progress, end = step_bar("drawing pictures")
    try:
        facts = write_sample(out, settings, on_progress)
    finally:
        end()
    return say(facts, json, [f"{facts['num_train']} training and {facts['num_val']} validation pictures:"])


@app.command
def ingest(
    source: str,
    dataset: str,
    *,
    settings: Annotated[IngestSettings, Flat] = IngestSettings(),
    dry_run: Annotated[bool, Switch] = False,
    json: Json = False,
) -> int:
    """Convert a source into a dataset: shards, index, mean image, RGB PCA. A rerun goes on where it stopped.

    Parameters
    ----------
    source
        Folder, s3://, gs:// or az:// place, or http(s):// address of the pictures: the archives of ILSVRC-2012, -2010 or
        Fall 2011, Kaggle's ILSVRC/, Hugging Face Parquet, WebDataset tars, CIFAR-10, or class folders.
    dataset
        Folder of the new dataset.
    dry_run
        Only show what would be done: layout, counts, shards, bytes, hours.
    """
    if dry_run:
        from ingest.run import plan_only

        return say(plan_only(source, dataset, settings), json, ["Nothing was written (--dry-run)."])
    request = IngestRequest(source=source, dataset=dataset, **settings.model_dump())
    return run_recorded("ingest", request, home_run("ingest"), json, settings.num_actors)


@app.command
def inspect(
    dataset: str, *, html: str | None = None, png: str | None = None, split: str | None = None, json: Json = False
) -> int:
    """Show what is in a dataset: its splits, classes, sizes and statistics.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    html
        Write a page with pictures by class, mean image, principal colours and the quarantine to this file.
    png
        Write a contact sheet to this file: a column a class, ten classes at most, spread evenly.
    split
        Look at this split only; at all of them unless given (the contact sheet: at the first).
    """
    from ingest.look import inspected, summary_lines, write_png
    from ingest.look_page import write_html

    facts = inspected(dataset, split)
    written: list[tuple[str, Callable[[str, Path, str | None], None]]] = []
    written += [(html, write_html)] if html else []
    written += [(png, write_png)] if png else []
    for path, write in written:
        write(dataset, Path(path), split)
        print(f"wrote {path}", file=sys.stderr)
    if json:
        print_json(facts)
    else:
        print("\n".join(summary_lines(facts)))
    return 0


@app.command
def verify(dataset: str, *, settings: Annotated[VerifySettings, Flat] = VerifySettings(), json: Json = False) -> int:
    """Prove that a dataset is complete and undamaged: every hash, every checksum, every entry of its plan.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    """
    return run_recorded("verify", VerifyRequest(dataset=dataset, **settings.model_dump()), home_run("verify"), json)


@app.command
def repair(
    dataset: str, *, source: str, settings: Annotated[RepairSettings, Flat] = REPAIR_DEFAULTS, json: Json = False
) -> int:
    """Give the damaged files of a dataset their recorded bytes again; what is damaged is kept in its damaged/.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    source
        Folder of the source that it was made of.
    """
    request = RepairRequest(dataset=dataset, source=source, **settings.model_dump())
    return run_recorded("repair", request, home_run("repair"), json, settings.num_actors)


@app.command
def recentre(
    dataset: str, out: str, *, settings: Annotated[RecentreSettings, Flat] = RECENTRE_DEFAULTS, json: Json = False
) -> int:
    """Make a centred dataset of a raw one: int16, 128 x (pixel - mean). A rerun goes on where it stopped.

    Parameters
    ----------
    dataset
        Folder of the sealed dataset of raw payloads; it stays as it is.
    out
        Folder of the new dataset.
    """
    request = RecentreRequest(dataset=dataset, out=out, **settings.model_dump())
    return run_recorded("recentre", request, home_run("recentre"), json, settings.num_actors)


@app.command
def train(
    dataset: str,
    run: str | None = None,
    *,
    settings: Annotated[TrainSettings, Flat] = TrainSettings(),
    resume: Annotated[bool, Switch] = False,
    dry_run: Annotated[bool, Switch] = False,
    json: Json = False,
) -> int:
    """Train AlexNet on a dataset.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    run
        Folder of the run: events, progress, checkpoints. A new one in HOME/runs unless given.
    resume
        Go on from the newest checkpoint of an existing run.
    dry_run
        Only show what would be done: every switch, steps, parameters.
    """
    if dry_run:
        from trainer.launch import plan_only

        print_json(plan_only(dataset, settings))
        return 0
    from ingest.storage import Place

    folder = run or home_run("train")
    refuse_existing(folder, resume)
    # Whole: the record of the run says where its dataset lies, wherever it is read.
    request = TrainRequest(dataset=Place(dataset).uri, **settings.model_dump())
    cpus = (settings.cpus_per_worker or 1) * settings.num_workers
    return run_recorded(
        "train", request, folder, json, max(cpus, os.cpu_count() or 1) if settings.num_workers else None
    )


@app.command
def demo(out: str = "demo", *, shuffle_labels: Annotated[bool, Switch] = False, json: Json = False) -> int:
    """Archives to dataset to AlexNet to errors on this machine, watched on a web page; nothing is left running.

    Parameters
    ----------
    out
        Folder for everything that it makes; an earlier demo's is made anew.
    shuffle_labels
        Give every picture a label at random: nothing can be learnt, and errors stay at chance.
    """
    from cluster.demo import run_demo

    return run_demo(out, shuffle_labels, json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `tench`: runs it and leaves with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code. Errors are printed in our words."""
    as_json = "--json" in arguments
    try:
        result = app(list(arguments) or ["--help"], exit_on_error=False, print_error=False, help_on_error=False)
        return int(result or 0)
    except CycloptsError as error:
        cause = error.__cause__
        if isinstance(cause, ValidationError):
            return complain(2, "\n".join(w for _, w in misfit_words(cause, _model(cause.title))), as_json)
        command = [word for word in arguments[:1] if word in app]
        return complain(2, f"{error}\nSee `{' '.join(['tench', *command, '--help'])}`.", as_json)
    except ValidationError as error:
        return complain(2, "\n".join(w for _, w in misfit_words(error, _model(error.title))), as_json)
    except TenchError as error:
        return complain(error.exit_code, error.message, as_json)
    except KeyboardInterrupt:
        return complain(130, "Interrupted.", as_json)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        return complain(1, str(error), as_json)


def _model(title: str) -> type[BaseModel]:
    from cluster.settings import KINDS, ServeSettings
    from cluster.upkeep.keeping import KeepSettings

    models: list[type[BaseModel]] = [
        IngestSettings, VerifySettings, RepairSettings, RecentreSettings, SampleSettings, TrainSettings,
        EvaluateSettings, PredictSettings, LoaderSettings, ServeSettings, KeepSettings, *KINDS.values(),
    ]  # fmt: skip
    found = next((m for m in models if m.__name__ == title), None)
    if found is None:
        raise UsageError(f"a value does not fit {title}")
    return found
