#!/usr/bin/env bash
# onnxruntime's CUDA provider, where its parts (pack.sh --ort) were brought: a student's ONNX graph on the GPU against torch. With SMOKE=1
# the same on the CPU, with the onnxruntime that is installed.
set -u
python=$1 packed=$2
here=$(cd "$(dirname "$0")" && pwd)
[ "$SMOKE" = 1 ] && exec "$python" "$here/ort.py"
if ! ls "$packed"/ort[0-9]*/part >/dev/null 2>&1; then
  "$python" "$here/table.py" add onnxruntime "onnxruntime with CUDA" "not brought" "skipped"
  exit 0
fi
if [ ! -e "$WORK/ort/.done" ]; then
  mkdir -p "$WORK/ort"
  cat $(ls "$packed"/ort[0-9]*/part | sort -V) >"$WORK/ort.zip" && "$python" -m zipfile -e "$WORK/ort.zip" "$WORK/ort" && rm "$WORK/ort.zip" &&
    touch "$WORK/ort/.done" || exit 1
fi
PYTHONPATH="$WORK/ort:$PYTHONPATH" "$python" "$here/ort.py"
