#!/usr/bin/env bash
# The project's tests on this machine: first those marked gpu or trt, then the rest of what a GPU may change (device: auto takes it), in
# parallel where pytest-xdist is there. Packages that aren't here (OpenVINO, TensorRT) make some modules uncollectable: they are named.
set -u
python=$1 deadline=$((SECONDS + $2 - 8))
here=$(cd "$(dirname "$0")" && pwd)
table() { "$python" "$here/table.py" add tests "$@"; }
tests="tests --ignore=tests/live --ignore=tests/apps"
[ "$SMOKE" = 1 ] && tests="tests/losses/test_kd.py tests/losses/test_rdd.py tests/training/test_fabric.py"
run() {  # a name, then pytest's words
  local what=$1 log; shift
  log=$(mktemp)
  [ $((deadline - SECONDS)) -gt 5 ] || { table "$what" "not begun" "out of time"; return; }
  timeout -s INT -k 6 $((deadline - SECONDS)) "$python" -m pytest -p no:cacheprovider --continue-on-collection-errors -rfE --tb=short \
    "$@" $tests 2>&1 | tee "$log"
  table "$what" "$(grep -E '(passed|failed|skipped|deselected|errors?|no tests ran).* in [0-9.]+ ?s' "$log" | tail -1 | tr -d '=' | cut -c1-60)"
  grep -E '^(FAILED|ERROR) ' "$log" | cut -c1-150 | head -25 | while read -r line; do
    table "  ${line%% - *}" "" "$(echo "${line##* - }" | cut -c1-60)"
  done
  rm -f "$log"
}
run "marked gpu or trt" -m "gpu or trt"
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$(( $(nproc) > 2 ? $(nproc) - 2 : 1 ))" --dist loadfile)
run "not marked slow, gpu, trt or camvid" -m "not slow and not gpu and not trt and not camvid" ${parallel[@]+"${parallel[@]}"}
exit 0
