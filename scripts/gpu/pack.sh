#!/usr/bin/env bash
# Packs what a machine with an NVIDIA GPU, Python 3.12 and torch, but without internet, lacks to run this project. Run it from the
# project's root, on a machine that reaches the package registry and has the project installed (make install).
#
#   bash scripts/gpu/pack.sh                       # .gpu/one and .gpu/two, each below 60 MiB
#   bash scripts/gpu/pack.sh --without-data        # .gpu/one alone (32 MiB): everything but the training on CamVid
#   bash scripts/gpu/pack.sh --ort                 # .gpu/ort1 ... too: onnxruntime with CUDA, about 240 MB in parts
#   bash scripts/gpu/pack.sh --with timm==1.0.31   # a further wheel; may be repeated
#
# Environment: PYTHON (default .venv/bin/python, with the project and its 'weights' packages), RDD_CAMVID (the folder with train/, val/ and
# their annot folders; default data/camvid, then ../shared/data/camvid), PLATFORM_PYTHON (default 3.12).
set -euo pipefail

kit=$(cd "$(dirname "$0")" && pwd)
[ -f pyproject.toml ] && [ -d rdd_deploy ] || { echo "run this from the project's root" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python") || { echo "no $python: run make install first, or set PYTHON" >&2; exit 2; }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
data=1 ort=0 more=()
while [ $# -gt 0 ]; do
  case $1 in
    --without-data) data=0 ;;
    --ort) ort=1 ;;
    --with) [ $# -gt 1 ] || { echo "--with takes a package, as in --with timm==1.0.31" >&2; exit 2; }; shift; more+=("$1") ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift
done
if [ "$data" = 1 ]; then
  for camvid in "${RDD_CAMVID:-}" data/camvid ../shared/data/camvid; do
    [ -n "$camvid" ] && [ -d "$camvid/train" ] && break
  done
  [ -d "$camvid/train" ] || { echo "no CamVid: set RDD_CAMVID, put it into data/camvid, or pass --without-data" >&2; exit 2; }
fi

# What the project needs beside the packages of a usual torch image (torch, torchvision, timm, torchmetrics, tensorboard, safetensors, onnx,
# onnxscript, onnxruntime, opencv, pillow, matplotlib, rich, typer, pyyaml, pytest, pytest-timeout, hypothesis). check.sh's part
# "environment" names what else is missing there; bring it with --with.
wheels=(pydantic pydantic-core annotated-types typing-inspection typing-extensions simplejpeg segmentation-models-pytorch lightning-fabric)

rm -rf .gpu/one .gpu/two
mkdir -p .gpu/one/wheels .gpu/one/weights

download() {  # into a folder, wheels for the other machine's Python
  local into=$1; shift
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PLATFORM_PYTHON:-3.12}" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -d "$into" "$@"
}
pinned() {  # at the lock's versions, of several that of the newest Python; what the lock lacks as it is installed here
  local name version
  for name in "$@"; do
    version=$(sed -n "s/^$name==\([^ ]*\).*/\1/p" requirements/lock.txt | tail -1)
    [ -n "$version" ] ||
      version=$("$python" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$name" 2>/dev/null) || true
    echo "$name${version:+==$version}"
  done
}
echo "wheels"
download .gpu/one/wheels $(pinned "${wheels[@]}") ${more[@]+"${more[@]}"}
echo "weights"
nice "$python" "$kit/pack_weights.py" .gpu/one/weights tf_efficientnet_lite0 tf_efficientnet_lite2
if [ "$data" = 1 ]; then
  echo "CamVid from $camvid, as lossless WebP (a minute)"
  mkdir -p .gpu/two
  nice "$python" "$kit/pack_camvid.py" "$camvid" .gpu/one .gpu/two
fi
if [ "$ort" = 1 ]; then
  echo "onnxruntime-gpu"
  rm -rf .gpu/ort.work .gpu/ort[0-9]*
  mkdir -p .gpu/ort.work
  download .gpu/ort.work "onnxruntime-gpu==${ORT:-1.30.0}"
  nice "$python" "$kit/pack_ort.py" .gpu/ort.work/*.whl .gpu
  rm -rf .gpu/ort.work
fi

echo
for part in .gpu/one .gpu/two .gpu/ort[0-9]*; do
  [ -d "$part" ] || continue
  bytes=$(du -sb "$part" | cut -f1)
  printf '%-10s %5.1f MiB\n' "$part" "$(awk "BEGIN { print $bytes / 1048576 }")"
  [ "$bytes" -le $((60 << 20)) ] || { echo "$part is larger than 60 MiB" >&2; exit 1; }
done
cat <<'TEXT'

On the other machine, in a copy of this working tree:
  with .gpu/one: bash scripts/gpu/check.sh environment tests losses rates resume processes engine     (about 6 minutes)
  with .gpu/two as well: bash scripts/gpu/check.sh train                                              (about 3 minutes)
  with both from the start: bash scripts/gpu/check.sh                                                 (at most 9 minutes)
TEXT
[ "$ort" = 0 ] || echo "  with .gpu/ort1, .gpu/ort2, ...: bash scripts/gpu/check.sh onnxruntime                               (about 1 minute)"
