#!/usr/bin/env bash
# Four experts trained by two processes that share the run directory, killed 20 times at random moments (SIGKILL),
# against the same experts trained without a kill: the checkpoints must be the same, byte for byte, and no step
# may have been done by two processes.
#
#   [XELM_PROGRAM=xelm] tests/kills.sh [KILLS [SEED]]
#
# Everything is kept in target/kills.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=target/kills
kills=${1:-20}
RANDOM=${2:-1}
xelm=${XELM_PROGRAM:-target/release/xelm}
[ -n "${XELM_PROGRAM:-}" ] || cargo build --release --quiet -p xelm-cli
rm -rf "$cache"
mkdir -p "$cache"

"$xelm" demo --out "$cache/base" --vocab-size 2000 --n-layer 2 --n-embd 32 --n-head 2 --n-ctx 32 --batch 8 \
    --seed-steps 20 --branch-steps 1 > "$cache/demo.log" 2>&1
for run in whole killed; do
    "$xelm" cluster typology --run "$cache/$run" --base "$cache/base" --k 4 > /dev/null
done
train() { # in the folder $1
    exec "$xelm" train --run "$cache/$1" --all --steps 1200 --save-every 25 --valid-every 0 --threads 1
}

# Two processes, no kill: also the time that the work takes.
began=$(date +%s%N)
(train whole) > "$cache/whole.1.log" 2>&1 & first=$!
(train whole) > "$cache/whole.2.log" 2>&1 & second=$!
wait "$first" "$second"
took=$((($(date +%s%N) - began) / 1000000))

done_in() { # steps of all experts in the folder $1
    cat "$cache/$1"/experts/*/log.jsonl 2> /dev/null | wc -l
}
killed=0
while [ "$killed" -lt "$kills" ]; do
    (train killed) >> "$cache/killed.1.log" 2>&1 & first=$!
    (train killed) >> "$cache/killed.2.log" 2>&1 & second=$!
    # On average a 20th part of the work, so that kills fall into all of it.
    pause=$((RANDOM % (2 * took / kills) + 20))
    sleep "$(printf '%d.%03d' $((pause / 1000)) $((pause % 1000)))"
    for process in "$first" "$second"; do
        if kill -9 "$process" 2> /dev/null; then
            killed=$((killed + 1))
        fi
        wait "$process" 2> /dev/null || true
    done
    echo "kill $killed after $pause ms: $(done_in killed) steps in the logs"
    [ "$(done_in killed)" -lt $((4 * 1200)) ] || break
done
(train killed) >> "$cache/killed.1.log" 2>&1

failed=0
for folder in "$cache"/whole/experts/*; do
    id=$(basename "$folder")
    whole=$(sha256sum < "$folder/checkpoint.gguf")
    if [ "$whole" = "$(sha256sum < "$cache/killed/experts/$id/checkpoint.gguf")" ]; then
        echo "$id: the same ${whole%% *}"
    else
        echo "$id: DIFFERS"
        failed=1
    fi
    for run in whole killed; do
        steps=$(grep -c '"loss"' "$cache/$run/experts/$id/log.jsonl")
        distinct=$(grep -o '"step":[0-9]*' "$cache/$run/experts/$id/log.jsonl" | sort -u | wc -l)
        if [ "$steps" != 1200 ] || [ "$distinct" != 1200 ]; then
            echo "$id in $run: $steps lines for $distinct of 1200 steps: two processes trained it"
            failed=1
        fi
    done
done
echo "$killed kills"
[ "$killed" -ge "$kills" ] || { echo "the work was done before the last kill: FAILED"; failed=1; }
exit $failed
