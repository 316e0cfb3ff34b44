"""Training runs for the measures that compare trained networks: in this process, each once, in a folder that is kept."""

import json
import sys
from pathlib import Path
from typing import Any

from ingest.errors import TenchError
from ingest.progress import RunWriter
from ingest.storage import Place

DONE = "done.json"


def trained(dataset: str, folder: Path, writer: type[RunWriter] = RunWriter, **chosen: Any) -> dict[str, Any]:
    """Train in this process, or give the facts of the run that is already there. A run that fails (stuck, diverged), or
    that its writer stops, says so in its facts: {"error": words}."""
    from trainer.launch import train
    from trainer.settings import TrainSettings

    if (folder / DONE).exists():
        facts: dict[str, Any] = json.loads((folder / DONE).read_text())
        return facts
    print(f"{folder.name}: {chosen}", file=sys.stderr)
    run = writer.begin(Place(folder), "train", {})
    try:
        facts = train(dataset, str(folder), TrainSettings(num_workers=0, keep_checkpoints=1, **chosen), run)
    except TenchError as error:
        facts = {"error": error.message}
    finally:
        run.flush()
    (folder / DONE).write_text(json.dumps(facts))
    return facts
