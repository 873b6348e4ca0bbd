#!/bin/sh
# Seeds for all targets: a tiny set made by the command line, see examples/seeds.rs.
#
#   fuzz/seeds.sh
set -eu
cd "$(dirname "$0")/.."
run=fuzz/seeds/run
rm -rf "$run"
mkdir -p fuzz/seeds/corpus
sentences() {
    i=0
    while [ $i -lt 30 ]; do
        printf '%s ' "$@"
        i=$((i + 1))
    done
}
sentences 'Am Morgen geht die Sonne auf.' > fuzz/seeds/corpus/de.train.txt
sentences 'Am Abend ist es dunkel.' > fuzz/seeds/corpus/de.valid.txt
sentences '朝、日が昇る。' '今日は雨です。' > fuzz/seeds/corpus/ja.train.txt
sentences '夜は暗い。' > fuzz/seeds/corpus/ja.valid.txt
cargo run --release --quiet -p xelm-cli -- demo --json --corpus fuzz/seeds/corpus --out "$run" \
    --k 2 --vocab-size 64 --n-layer 1 --n-embd 32 --n-head 2 --n-ctx 24 --seed-steps 2 \
    --branch-steps 2 --batch 4 > fuzz/seeds/demo.log 2>&1
cargo run --release --quiet --manifest-path fuzz/Cargo.toml --example seeds -- "$run" fuzz
find fuzz/corpus -type f | wc -l
