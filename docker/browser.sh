#!/usr/bin/env bash
# The browser of the slow tests: Debian's Chromium (apt when root, else the exact line to run).
set -euo pipefail
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "==> Installing Debian's Chromium for the browser tests" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
else
    echo "The browser tests need Chromium. Run: sudo apt-get install -y --no-install-recommends chromium" >&2
    exit 2
fi
