#!/bin/sh
# Fuzzes the C core: fuzz/run.sh [SECONDS, 60 if not given]. Needs clang. What it learns stays in fuzz/corpus, what
# it finds in fuzz/out; a finding ends the run with an exit code other than 0.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus out
python3 seeds.py corpus
clang -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -I../csrc fuzz_kf.c ../csrc/kf_*.c -o out/fuzz_kf
./out/fuzz_kf -max_total_time="${1:-60}" -max_len=2048 -timeout=10 -print_final_stats=1 -artifact_prefix=out/ corpus
