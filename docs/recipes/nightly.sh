#!/usr/bin/env bash
# Compiles a network every night and archives what came out, or says in one line why nothing did.
#
#   MODEL=model.onnx CALIB=calib.npz TEST=test.npz ./nightly.sh [more options of `edgecc compile`]
#
# Environment:
#   MODEL    the trained network                         (required)
#   CALIB    calibration data                            (required)
#   TEST     test data, with labels where there are any  (default: CALIB)
#   TARGET   see `edgecc targets`                        (default: arm)
#   LIMITS   limits of fidelity and budgets              (default: --min-sqnr 15)
#   ARCHIVE  folder that keeps one folder a night        (default: archive)
#
# The exit code is edgecc's: 0 done and verified, 1 a defect, 2 wrong use or input, 3 unsupported operator or type,
# 4 less faithful than allowed, 5 a budget is exceeded. Nothing is archived as good unless it is 0.
set -u -o pipefail

: "${MODEL:?set MODEL to the .onnx file}" "${CALIB:?set CALIB to the calibration data}"
TEST=${TEST:-$CALIB}
TARGET=${TARGET:-arm}
LIMITS=${LIMITS:---min-sqnr 15}
ARCHIVE=${ARCHIVE:-archive}

stem=$(basename "$MODEL" .onnx)
night=$(date -u +%Y-%m-%d)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# shellcheck disable=SC2086 # LIMITS holds several words
edgecc compile "$MODEL" --target "$TARGET" --data "$CALIB" --eval-data "$TEST" $LIMITS "$@" \
  --output "$work/$stem" >"$work/edgecc.log" 2>&1
code=$?
cat "$work/edgecc.log"

case $code in
  0) say="compiled and verified" kept=$ARCHIVE/$night/$stem from=$work/$stem ;;
  1) say="edgecc failed: a defect, please report it with edgecc.log" ;;
  2) say="the job is set up wrongly, or an input cannot be read" ;;
  3) say="the network has an operator or type that $TARGET cannot run: talk to the training team" ;;
  4) say="the artifact is less faithful than allowed: look at report.html" ;;
  5) say="a budget of size, work or latency is exceeded: look at report.html" ;;
  *) say="stopped with exit code $code" ;;
esac
if [ "$code" -ne 0 ]; then
  kept=$ARCHIVE/$night/$stem.failed from=$work/$stem.failed
  mkdir -p "$from"
fi

# Copied beside its place and renamed, so that whoever looks finds the whole night or none of it.
cp "$work/edgecc.log" "$from/edgecc.log"
mkdir -p "$ARCHIVE/$night" && rm -rf "$kept.part" && cp -R "$from" "$kept.part" \
  && rm -rf "$kept" && mv "$kept.part" "$kept" || { echo "nightly: $kept cannot be written" >&2; exit 1; }

# The manifest vouches for the artifacts by their sha256: check the copy that is kept.
if [ "$code" -eq 0 ]; then
  python3 - "$kept" <<'CHECK' || { echo "nightly: $kept does not hold what its manifest says" >&2; exit 1; }
import hashlib, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
files = json.loads((folder / "manifest.json").read_text())["artifacts"]
sys.exit(any(hashlib.sha256((folder / n).read_bytes()).hexdigest() != f["sha256"] for n, f in files.items()))
CHECK
fi

echo "nightly: $stem for $TARGET: $say ($kept)"
exit "$code"
