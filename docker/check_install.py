"""Check an installation: one imaging library, the pinned torch, a DALI that loads. Exits 1 naming what is wrong.

`check_install.py [cpu|cuda]`: with cuda, a torch that knows no GPU is wrong too.
"""

import platform
import re
import sys
from importlib import metadata


def version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problems(build: str) -> list[str]:
    """What is wrong with this environment for a build of torch (cpu or cuda), each with its mend."""
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
    if build == "cuda" and torch.version.cuda is None:
        found.append(
            f"torch {torch.__version__} is a build for CPUs, one for GPUs was asked for; remove the environment and "
            "install again with TORCH_INDEX naming an index that has it"
        )
    if not dali.__version__.startswith("2.4"):
        found.append(f"DALI {dali.__version__} is installed, 2.4 is expected; install again")
    return found


if __name__ == "__main__":
    wrong = problems(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    for problem in wrong:
        print(f"tench install: {problem}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    import torch
    from PIL import Image

    found = f"Python {platform.python_version()}, torch {torch.__version__}, PIL {Image.core.PILLOW_VERSION}"
    print(f"    {found}", file=sys.stderr)
