"""Command line of the quarantine: list what could not be decoded, try it again."""

from dataclasses import asdict

from cyclopts import App

from cluster.cli.flags import Json, print_json
from cluster.cli.run import home_run, run_recorded
from cluster.settings import RetryRequest
from ingest.errors import UsageError
from ingest.words import counted

quarantine = App(name="quarantine", help="Pictures that could not be decoded: list them with their reasons, try again.")


def add_to(app: App) -> None:
    """Hang these commands into the command line."""
    app.command(quarantine)


@quarantine.command(name="list")
def list_verdicts(dataset: str, *, json: Json = False) -> int:
    """List the pictures in quarantine: split, key, code, message, size. Also while a dataset is not sealed yet.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    """
    from ingest.retry import listed

    verdicts = listed(dataset)
    if json:
        return print_json({"dataset": dataset, "quarantine": [asdict(v) for v in verdicts]})
    if not verdicts:
        print("Nothing is in quarantine.")
        return 0
    rows = [(v.split, v.key, v.code, f"{v.size:,}", v.message) for v in verdicts]
    head = ("split", "key", "code", "bytes", "message")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    for split, key, code, size, message in (head, *rows):
        columns = (f"{split:<{widths[0]}}", f"{key:<{widths[1]}}", f"{code:<{widths[2]}}", f"{size:>{widths[3]}}")
        print("  ".join((*columns, message)))
    return 0


@quarantine.command
def retry(dataset: str, *, source: str | None = None, out: str | None = None, json: Json = False) -> int:
    """Try pictures in quarantine again. A sealed dataset never changes: of one, --out becomes a new dataset.

    Parameters
    ----------
    dataset
        Folder of the dataset.
    source
        Folder of the source as it is now (sealed datasets only).
    out
        Folder of the new dataset (sealed datasets only).
    """
    from ingest.retry import drop_verdicts, is_sealed

    if is_sealed(dataset):
        return _retry_sealed(dataset, source, out, json)
    if out is not None:
        raise UsageError(
            f"--out {out}: {dataset} is not sealed, so its pictures are tried again in place; leave --out away"
        )
    facts = drop_verdicts(dataset)
    if json:
        return print_json(facts)
    again = f"tench ingest {source or 'SOURCE'} {dataset}"
    print(
        f"{counted(facts['num_dropped'], 'verdict')} dropped; {counted(facts['num_shards'], 'shard')} will be made again."
    )
    print(f"Now run the `{again}` of before, with the same settings. A source whose pictures have other sizes by now")
    print("has another plan: give that one a new folder.")
    return 0


def _retry_sealed(dataset: str, source: str | None, out: str | None, as_json: bool) -> int:
    """Make the new dataset, with its record and its bar as an ingest has them."""
    missing = [flag for flag, value in (("--source", source), ("--out", out)) if value is None]
    if source is None or out is None:
        raise UsageError(
            f"{dataset}: is sealed and never changes; {' and '.join(missing)} missing: give --source SOURCE and "
            "--out NEW to make a new dataset with these pictures tried again"
        )
    return run_recorded("retry", RetryRequest(dataset=dataset, source=source, out=out), home_run("retry"), as_json)
