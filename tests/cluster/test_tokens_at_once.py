"""Tokens made and revoked at the same moment: none is lost, none comes back."""

import threading
from pathlib import Path

from cluster.access import Tokens


def test_tokens_made_and_revoked_at_once_are_all_kept_and_all_gone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    names = [f"name-{number}" for number in range(24)]
    for name in names[:12]:
        Tokens(path).add(name, "read")
    start = threading.Barrier(len(names))

    def change(number: int, name: str) -> None:
        start.wait()
        if number < 12:
            Tokens(path).revoke(name)
        else:
            Tokens(path).add(name, "submit")

    threads = [threading.Thread(target=change, args=given) for given in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Tokens(path).listed()) == [(name, "submit") for name in sorted(names[12:])]
