#!/bin/bash
# The packages that `benchmarks/gpu.py` needs on a GPU machine without a network.
#
#   benchmarks/gpu_wheels.sh gather  [FOLDER]         with a network: wheels for Python 3.12 on x86-64 Linux into FOLDER (.whl)
#   benchmarks/gpu_wheels.sh install [FOLDER] [SITE]  on the GPU machine: into SITE (/tmp/site), then check the imports
#
# The GPU machine has Python 3.12 with torch 2.11, transformers 5.17, tokenizers, huggingface_hub, accelerate, peft,
# numpy, pandas, pyarrow, sacrebleu, regex, scipy and common packages. The wheels have the versions of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
LIMIT_MIB=64
WHEELS="transformers tokenizers peft datasets dill multiprocess evaluate trl fastokens nltk gguf zstandard
        defusedxml pydantic pydantic_core typing-inspection hjson lazy-loader"
NOT_PINNED="annotated-types==0.8.0 liger-kernel==0.8.5"
SOURCES="deepspeed rouge_score"  # the index has no wheels: built by gather, without compiled operators

fail() { echo "error: $*" >&2; exit 2; }

pinned() {  # "datasets" -> "datasets==5.2.0", from constraints.txt
    for name in "$@"; do
        grep -ixE "${name//[-_]/[-_]}==.*" constraints.txt || fail "\`$name\` is not in constraints.txt"
    done
}

check_size() {
    local size
    size=$(du -sm --apparent-size "$1" | cut -f 1)
    [ "$size" -le "$LIMIT_MIB" ] || fail "\`$1\` has $size MiB of wheels, more than $LIMIT_MIB: take some out of WHEELS"
}

gather() {
    local folder=$1 part platforms=""
    rm -rf "$folder" && mkdir -p "$folder"
    for part in manylinux_2_{39,35,34,31,28,27,24,17}_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do
        platforms+=" --platform $part"
    done
    # shellcheck disable=SC2046,SC2086
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
        -d "$folder" $(pinned $WHEELS) $NOT_PINNED
    # shellcheck disable=SC2046,SC2086
    DS_BUILD_OPS=0 python3 -m pip wheel -q --no-deps -w "$folder" $(pinned $SOURCES) .
    rm -rf build
    check_size "$folder"
    echo "$folder: $(ls "$folder" | wc -l) wheels, $(du -sm "$folder" | cut -f 1) MiB"
}

install() {
    local folder=$1 site=$2
    ls "$folder"/*.whl >/dev/null 2>&1 || fail "\`$folder\` holds no wheels: run \`benchmarks/gpu_wheels.sh gather\` first"
    check_size "$folder"
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$folder"/*.whl
    PYTHONPATH=$PWD:$site python3 benchmarks/gpu.py --check_imports
}

case ${1:-} in
    gather) gather "${2:-.whl}" ;;
    install) install "${2:-.whl}" "${3:-/tmp/site}" ;;
    *) fail "unknown command \`${1:-}\`: write gather or install" ;;
esac
