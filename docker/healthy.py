"""Leave with 0 if every address answers 200, else with 1 naming the first that does not: `healthy.py URL...`."""

import sys
import urllib.request

TIMEOUT_S = 4.0


def main(urls: list[str]) -> int:
    """Ask each address once, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for url in urls:
        try:
            opener.open(url, timeout=TIMEOUT_S).close()
        except OSError as error:
            print(f"{url}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
