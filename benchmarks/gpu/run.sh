#!/usr/bin/env bash
# What is done on a borrowed machine with a GPU; docs/gpu-status.md says how.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: benchmarks/gpu/run.sh check [--device cpu --tiny] …   try every GPU path once
       benchmarks/gpu/run.sh unpack …                        put the data pieces that have arrived in place
       benchmarks/gpu/run.sh JOB …                           one step of a job; exit code 130: call again
       benchmarks/gpu/run.sh restore JOB FOLDER …            go on with a job from the results of an earlier machine
JOB:   cifar10-paper, cifar100-paper, cifar10-fast, cifar100-fast
Each takes --help. PYTHON names the interpreter, OUT the folder for results.
TEXT
}

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../.."
export PYTHONPATH="$PWD/src:$PWD/runtime/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python="${PYTHON:-python3}"

case "${1:-}" in
    check | unpack) exec "$python" "$here/$1.py" "${@:2}" ;;
    cifar*) exec "$python" "$here/jobs.py" "$@" ;;
    restore)
        if [ $# -ge 3 ]; then exec "$python" "$here/jobs.py" "$2" --restore "${@:3}"; fi
        usage >&2
        exit 2
        ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
