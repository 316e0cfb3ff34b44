"""Check an installation: one imaging library, the pinned torch, a DALI that loads. Exits 1 naming what is wrong."""

import importlib.metadata as metadata
import platform
import re
import sys


def version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problems() -> list[str]:
    """What is wrong with this environment, each with its mend."""
    import torch
    from nvidia import dali
    from PIL import Image

    found = []
    simd, plain = version("pillow-simd"), version("pillow")
    if simd and plain:
        found.append(
            f"pillow {plain} and pillow-simd {simd} share one folder and are mixed; "
            "remove the environment and install again"
        )
    if not simd and not plain:
        found.append("no imaging library is installed; run make install again")
    loaded = Image.core.PILLOW_VERSION
    if loaded != (simd or plain) or bool(simd) != bool(re.search(r"\.post\d+$", loaded)):
        found.append(f"PIL loads {loaded}, the installed distribution says {simd or plain}; install again")
    if not torch.__version__.startswith("2.13.0"):
        found.append(f"torch {torch.__version__} is installed, 2.13.0 is expected; install again")
    if not dali.__version__.startswith("2.4"):
        found.append(f"DALI {dali.__version__} is installed, 2.4 is expected; install again")
    return found


if __name__ == "__main__":
    for problem in problems():
        print(f"tench install: {problem}", file=sys.stderr)
    if problems():
        sys.exit(1)
    import torch
    from PIL import Image

    found = f"Python {platform.python_version()}, torch {torch.__version__}, PIL {Image.core.PILLOW_VERSION}"
    print(f"    {found}", file=sys.stderr)
