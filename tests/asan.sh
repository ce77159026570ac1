#!/bin/sh
# The tests of framing and of the lanes once more, with the C module under AddressSanitizer and
# UndefinedBehaviorSanitizer and its asserts on: tests/asan.sh [pytest's arguments]. Needs gcc. Makes its own virtual
# environment in build/asan.
#
# PYTHONMALLOC=malloc lets the sanitizer see each object by itself. Leaks are left to test_memory.py (CPython itself
# keeps some memory to the end); what an idle peer costs can't be measured here.
set -eu
cd "$(dirname "$0")/.."
python3 -m venv build/asan
build/asan/bin/python -m pip install --quiet --upgrade pip
KERNEL_REQUIRE_EXT=1 CC=gcc CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" \
    build/asan/bin/python -m pip install --quiet --force-reinstall --config-settings=cmake.build-type=Debug . --group dev
LD_PRELOAD="$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc KERNEL_REQUIRE_EXT=1 \
    build/asan/bin/pytest tests/framing tests/test_lane.py tests/test_lane_knl.py tests/transports/test_batches.py \
    -n auto --benchmark-disable -q -k "not mebibytes and not no_memory and not unit_test_in_c" "$@"
