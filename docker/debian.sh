#!/usr/bin/env bash
# A command that some tests need, from Debian's package (apt when root, else the exact line to run).
# Usage: docker/debian.sh COMMAND PACKAGE "the tests that need it"
set -euo pipefail
command=$1 package=$2 tests=$3
command -v "$command" >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "==> Installing Debian's $package for $tests" >&2
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
else
    echo "There is no $command here, which $tests need. Run: sudo apt-get install -y --no-install-recommends $package" >&2
    exit 2
fi
