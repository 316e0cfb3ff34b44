#!/usr/bin/env bash
# Make the secrets of compose.yaml and kuberay/ that are not there yet: Ray's token and the store's password.
#   docker/secrets.sh [FOLDER]      (docker/secrets unless told)
# The folder is closed to other users. Its files are not: several users read them, inside containers, by mounts.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"
for name in ray_token store_password; do
    [ -s "$folder/$name" ] && continue
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    chmod 444 "$folder/$name"
    echo "Made $folder/$name" >&2
done
