#!/usr/bin/env bash
# Real CamVid by shipped recipes on this GPU, for at most so many seconds: a teacher, its student by RDD, the student alone, 20 epochs each.
# The mIoU is to be compared with the project's published results for the same recipes.
set -u
python=$1 seconds=$2
root=$PWD here=$(cd "$(dirname "$0")" && pwd)
table() { "$python" "$here/table.py" add train "$@"; }
deadline=$((SECONDS + seconds - 12))
if [ "$SMOKE" = 1 ]; then
  options=(train.epochs=1 train.batch=4 data.name=streets data.count=8 "augment.crop=[64,64]" "data.size=[64,96]" evaluation.every=1)
else
  options=("data.root=$RDD_CAMVID")
  have=$(ls "$RDD_CAMVID/train" 2>/dev/null | wc -l)
  [ "$have" = 367 ] || { table "training frames of CamVid" "$have of 367" "skipped: bring both archives"; exit 0; }
fi
mkdir -p "$WORK/train" && cd "$WORK/train" && ln -sfn "$root/recipes" recipes
[ -d "$WORK/weights" ] && ln -sfn "$WORK/weights" weights
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --query-gpu=utilization.gpu,clocks.sm,memory.used --format=csv,noheader,nounits -lms 500 >gpu.csv 2>/dev/null & watch=$!
  trap 'kill $watch 2>/dev/null' EXIT
fi
step() {  # a name, a run folder, then a module with its words
  local what=$1 folder=$2 code; shift 2
  local left=$((deadline - SECONDS)) since=$SECONDS before=0
  [ "$left" -gt 15 ] || { table "$what" "not begun" "out of time"; return 1; }
  [ -f gpu.csv ] && before=$(wc -l <gpu.csv)
  timeout -s TERM -k 8 "$left" "$python" -m "$@" --output runs
  code=$?
  "$python" "$here/train_rows.py" "$what" "runs/$folder" "$code" "$((SECONDS - since))" gpu.csv "$before"
  return $code
}
step "teacher lite2" camvid_teacher_lite2 rdd_deploy.train recipes/camvid_teacher_lite2.yaml "${options[@]}"
step "student lite0, RDD" camvid_effnet_lite0_half rdd_deploy.distill recipes/camvid_effnet_lite0_half.yaml "${options[@]}"
step "student lite0, alone" camvid_effnet_lite0_half_alone rdd_deploy.train recipes/camvid_effnet_lite0_half.yaml "${options[@]}"
exit 0
