#!/usr/bin/env bash
# What the tests with several hosts need: `ip`, of iproute2 (apt when root, else the exact line to run).
set -euo pipefail
command -v ip >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "==> Installing iproute2 for the tests with several hosts" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 >/dev/null
else
    echo "The tests with several hosts need root and ip. Run: sudo apt-get install -y --no-install-recommends iproute2" >&2
    exit 2
fi
