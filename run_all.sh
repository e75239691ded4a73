#!/usr/bin/env bash
# The report's master script: the whole book, then its tests. Arguments go to make: ./run_all.sh PROFILE=full
set -euo pipefail
cd "$(dirname "$0")"
make book "$@"
make test "$@"
