#!/bin/sh
# Runs fuzz targets one after the other and prints executions, coverage and findings of each.
#
#   fuzz/run.sh [SECONDS [TARGET...]]
#
# 900 seconds and all targets unless told. Needs cargo-fuzz and fuzz/seeds.sh. Exit code 1: something
# was found; the input lies in fuzz/artifacts, the log in fuzz/logs.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-900}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(cargo fuzz list)
# The sanitizer's flag is unstable; fuzzing is the only thing here that takes it.
export RUSTC_BOOTSTRAP=1
mkdir -p fuzz/logs
found=0
for target in "$@"; do
    log=fuzz/logs/$target.log
    cargo fuzz run "$target" -- -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
        -max_len=70000 -print_final_stats=1 > "$log" 2>&1 || found=1
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    last=$(grep ' cov: ' "$log" | tail -n 1 | sed 's/.*\(cov: [0-9]*\) ft: [0-9]* corp: \([^ ]*\).*/\1, corpus \2/')
    findings=$(grep -c '^artifact_prefix' "$log" || true)
    echo "$target: $runs executions, $last, $findings findings"
done
exit $found
