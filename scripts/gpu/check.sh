#!/usr/bin/env bash
# Checks and measures the project on a GPU. Run it from the project's root on a machine with an NVIDIA GPU and torch; it needs no internet.
# What pack.sh packed is expected in .gpu/.
#
#   bash scripts/gpu/check.sh                   # every part, at most 9 minutes; train and onnxruntime only where their files are
#   bash scripts/gpu/check.sh losses rates      # some parts
#   bash scripts/gpu/check.sh --smoke losses    # the same code on a CPU with tiny sizes, to see that the check itself works
#
# The last output is a table; $OUT gets table.txt, log.txt, results.jsonl and profile.txt. A part that fails or takes too long doesn't stop
# the others.
# Environment: PYTHON (default python3), OUT (default .gpu/out), WORK (default .gpu/work: installed wheels, unpacked data, runs),
# LIMIT_<part> in seconds, RDD_CAMVID (a CamVid that is there already).
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$PWD packed=$PWD/.gpu
[ -f pyproject.toml ] && [ -d rdd_deploy ] || { echo "run this from the project's root" >&2; exit 2; }
python=${PYTHON:-python3}
export OUT=${OUT:-$packed/out} WORK=${WORK:-$packed/work} SMOKE=0
all=(environment tests losses rates resume processes engine train onnxruntime)  # and, where it is named: compiled
declare -A limit=([environment]=30 [tests]=80 [losses]=30 [rates]=140 [resume]=45 [processes]=45 [engine]=15 [train]=140 [onnxruntime]=60
  [compiled]=200)
parts=()
for word in "$@"; do
  case $word in
    --smoke) SMOKE=1 ;;
    *) [ -n "${limit[$word]:-}" ] || { echo "unknown part '$word'; expected ${all[*]} compiled" >&2; exit 2; }; parts+=("$word") ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")
mkdir -p "$OUT" "$WORK"
OUT=$(cd "$OUT" && pwd) WORK=$(cd "$WORK" && pwd)
: >"$OUT/results.jsonl"; : >"$OUT/log.txt"; : >"$OUT/profile.txt"
started=$SECONDS

if [ "$SMOKE" = 0 ] && [ -d "$packed/one/wheels" ] && [ ! -e "$WORK/site/.done" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$WORK/site" \
    "$packed"/one/wheels/*.whl >>"$OUT/log.txt" 2>&1 && touch "$WORK/site/.done" || echo "the wheels can't be installed: see $OUT/log.txt"
fi
[ -d "$WORK/weights" ] || { [ -d "$packed/one/weights" ] && cp -r "$packed/one/weights" "$WORK/"; }
site=$WORK/site
[ "$SMOKE" = 1 ] && site=  # the environment at hand is complete, and may be of another Python than the wheels
export PYTHONPATH="${site:+$site:}$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 COLUMNS=160
if [ -z "${RDD_CAMVID:-}" ]; then
  for archive in "$packed"/one/camvid.tar "$packed"/two/camvid.tar; do
    [ "$SMOKE" = 0 ] && [ -f "$archive" ] || continue
    "$python" "$here/checks/unpack.py" "$archive" "$WORK/camvid" >>"$OUT/log.txt" 2>&1 ||
      echo "$archive can't be unpacked: see $OUT/log.txt"
  done
  for place in "$WORK/camvid" data/camvid ../shared/data/camvid; do
    [ -d "$place/train" ] && { RDD_CAMVID=$(cd "$place" && pwd); break; }
  done
fi
export RDD_CAMVID=${RDD_CAMVID:-}
[ "$SMOKE" = 1 ] && export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # tiny networks: on a busy CPU threads wait for each other
echo "set up in $((SECONDS - started)) s"

for part in "${parts[@]}"; do
  variable=LIMIT_$part
  seconds=${!variable:-$((limit[$part] * (SMOKE ? 20 : 1)))}  # a CPU takes its time, a busy one more
  case $part in
    tests | train) command=(bash "$here/checks/$part.sh" "$python" "$seconds") ;;
    compiled) command=("$python" "$here/checks/rates.py" compiled) ;;
    onnxruntime) command=(bash "$here/checks/onnxruntime.sh" "$python" "$packed") ;;
    *) command=("$python" "$here/checks/$part.py") ;;
  esac
  printf '\n===== %s (at most %s s)\n' "$part" "$seconds" | tee -a "$OUT/log.txt"
  since=$SECONDS
  timeout -k 10 "$seconds" "${command[@]}" >>"$OUT/log.txt" 2>&1
  code=$?
  if [ "$code" != 0 ]; then
    [ "$code" = 124 ] && verdict="out of time" || verdict="FAILED, see log.txt"
    "$python" "$here/checks/table.py" add "$part" "exit code" "$code" "$verdict" >>"$OUT/log.txt"
  fi
  "$python" "$here/checks/table.py" show "$part"
  echo "($((SECONDS - since)) s)"
done
{ echo; "$python" "$here/checks/table.py" show; echo "in all $((SECONDS - started)) s"; } | tee "$OUT/table.txt"
