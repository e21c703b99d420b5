#!/bin/bash
# All that is measured on a GPU, in one go: bash benchmarks/gpu.sh FOLDER [--quick]
# Trains digits in float32, bf16 and fp16 and explains them; times networks (bench.json); with CIFAR=cifar10.tgz (a tar of
# train/CLASS/*.jpg and test/CLASS/*.jpg) it trains for CIFAR-10 too. --quick is the same on a CPU, in minutes, not for figures.
set -u
out=$1 quick=${2:-} here=$(cd "$(dirname "$0")" && pwd) failed=0
bcos="python -m bcos_cli"
mkdir -p "$out"
part() { echo; echo "== $* ($(date +%T))"; }

part "training check"
$bcos shards pack digits "$out/digits" >"$out/pack.log" 2>&1 || { cat "$out/pack.log"; failed=1; }
precisions="float32 bf16"
[ -z "$quick" ] && precisions="float32 bf16 fp16"  # fp16 is for GPUs
for precision in $precisions; do
    as=${precision/float32/}
    $bcos train digits --data "$out/digits" --out "$out/runs/$precision" -o train.epochs=3 -o data.workers=2 \
        ${as:+-o train.precision=$as} >"$out/train-$precision.log" 2>&1 || { tail -20 "$out/train-$precision.log"; touch "$out/failed"; } &
    [ -n "$quick" ] && wait
done
wait
for precision in $precisions; do
    echo "$precision: $(tail -n 1 "$out/runs/$precision/metrics.jsonl" | cut -c 1-300)"
done

part "networks"
device="--device cuda --bf16 --rounds 3 --seconds 0.6"
[ -n "$quick" ] && device="--backend eager"
PYTHONPATH="$here/.." python -m benchmarks --parts networks grids --out "$out" $quick $device --batch "${BATCH:-128}" \
    --networks ${NETWORKS:-resnet50 convnext_tiny simple_vit_s_patch16_224} || failed=1

if [ -n "${CIFAR:-}" ]; then
    part "CIFAR-10"
    small=${quick:+--epochs 1 --limit 20 --grids 2 --eager}
    python "$here/cifar_on_card.py" "$CIFAR" bcos-2 plain --out "$out/cifar" $small || failed=1
fi
[ -e "$out/failed" ] && failed=1
exit $failed
