#!/usr/bin/env bash
# Measures Figure 3 with every backend on a GPU rented by the minute, and trains a net at the paper's scale.
#
#   ./gpu-evidence.sh [CELL:SEED ...]      runs for at most SLICE seconds (590); the same call again resumes
#
# Without arguments: Figure 3, then one run of BNN (Theano), seed 100. With arguments, as in
# `table1/bnn-theano-mnist:0 table1/binaryconnect-mnist:0`: these runs, one after the other, then Figure 3. A call
# with other cells needs another folder RESULTS, because the trials of a folder are made once.
# After each step $OUT (results/local/gpu) holds the results so far: log.txt, records.tar.gz, curves.csv and packed
# nets, at most eight files of at most 16 MiB each. A step that fails does not end the script. Every step but the
# training and the curves is tried only once. Exit code 0: all steps succeeded; 2: a package is missing, or there is
# no such run or no data set; 75: the time limit ended the script; 1: nothing is left to do, but a step failed.
#
# NET=cifar10   without arguments: train the CIFAR-10 ConvNet instead of the MNIST MLP
# PYTHON        the interpreter (.venv/bin/python)
# WHEELS        a folder with wheels of the packages that the interpreter lacks; they are installed in the store
# RESULTS       the store (results/local)
# REHEARSE=1    the same steps on a CPU in 176 s, with a small net and a tiny benchmark
set -uo pipefail
cd "$(dirname "$0")" || exit

python=${PYTHON:-.venv/bin/python}
runs=("$@")
gpu_tests="tests/benchmarks/test_bench_gpu.py tests/kernels/cuda/test_cuda.py
  tests/kernels/cuda/test_cuda_gpu.py tests/kernels/cuda/test_cuda_pixels.py
  tests/kernels/cuda/test_passes.py tests/kernels/cuda/test_updates.py tests/kernels/test_torch.py
  tests/packed/test_freeze.py tests/packed/test_packed_gpu.py tests/training/test_gpu.py
  tests/training/test_without_autograd.py"
store=${RESULTS:-results/local${REHEARSE:+/rehearsal}}
work=$store/gpu-evidence
if [ -n "${REHEARSE:-}" ]; then
  device=cpu scale=small least=30 end=${SLICE:-176} figure=40 gpu_tests=tests/training/test_gpu.py
  [ "${NET:-mnist}" = mnist ] && cell=check/mlp || cell=check/convnet
  steps=50 bench=(--quick)
else
  cell=table1/bnn-theano-${NET:-mnist} steps=200
  device=cuda scale=paper least=60 end=${SLICE:-590} figure=120
  bench=(--gpu --broken "$work/broken.json")
fi
[ $# -gt 0 ] && cell=${1%:*} || runs=("$cell:100")
if [ -n "${REPRODUCE_DATA:-}" ] && ! compgen -G "$REPRODUCE_DATA/*.npz" >/dev/null; then
  echo "gpu-evidence: no data set (*.npz) in REPRODUCE_DATA, $REPRODUCE_DATA" >&2
  exit 2
fi
for run in "${runs[@]}"; do
  folders='^(table1|figure1|short)/'
  [ -z "${REHEARSE:-}" ] || folders='^(table1|check)/'
  [[ $run =~ $folders[^:]+:[0-9]+$ && -f experiments/${run%:*}.yaml ]] && continue
  echo "gpu-evidence: unknown run '$run': give CELL:SEED, for example table1/float-mnist:0, with a cell of table1/," \
    "figure1/ or short/, in a rehearsal of table1/ or check/" >&2
  exit 2
done
out=${OUT:-$store/gpu}
mkdir -p "$out" "$work/records/kernels" "$work/records/runs"
failed="" late=""

left() { echo $((end - 10 - SECONDS)); }

# step NAME LIMIT COMMAND...: run a command for at most LIMIT seconds, log its output, then refresh $OUT
step() {
  local name=$1 limit=$2 begin=$SECONDS lines code cut=""
  shift 2
  [ "$(left)" -gt "$limit" ] || limit=$(left) cut=1
  [ "$limit" -ge 5 ] || { late="$late $name" && return 75; }
  echo "== $name, at most $limit s" | tee -a "$work/log.txt"
  lines=$(wc -l <"$work/log.txt")
  timeout -k 3 "$limit" "$@" >>"$work/log.txt" 2>&1
  code=$?
  tail -n "+$((lines + 1))" "$work/log.txt" | tail -n 40
  echo "== $name: exit code $code after $((SECONDS - begin)) s" | tee -a "$work/log.txt"
  case $code in 124 | 137) [ -z "$cut" ] || code=75 ;; esac # it had less time than it may take
  case $code in
    0) ;;
    75) late="$late $name" ;;
    *) failed="$failed $name" ;;
  esac
  deliver
  return "$code"
}

# once NAME LIMIT COMMAND...: like step, but a later call of the script does not repeat it, and still names a failure
once() {
  if [ -e "$work/$1.tried" ]; then
    [ ! -s "$work/$1.tried" ] || failed="$failed $1"
    return
  fi
  step "$@"
  local code=$?
  case $code in
    0) : >"$work/$1.tried" ;;
    75) ;;
    *) echo "$code" >"$work/$1.tried" ;;
  esac
  return "$code"
}

# scale_of CELL: print the scale of a run: short for cells of short/, else the same for all
scale_of() { [[ $1 == short/* ]] && echo short || echo "$scale"; }

# files FOLDER SUFFIX: print the files of the chosen runs in a folder of the store
files() {
  local run cell
  for run in "${runs[@]}"; do
    cell=${run%:*}
    compgen -G "$store/$1/${cell/\//-}-$(scale_of "$cell")-seed${run##*:}-*$2"
  done
}

# deliver: copy the results so far to $OUT
deliver() {
  local file
  while IFS= read -r file; do cp "$file" "$work/records/runs"; done < <(files runs .json)
  tail -c 16000000 "$work/log.txt" >"$work/log.part" && mv "$work/log.part" "$out/log.txt"
  tar -czf "$work/records.part" -C "$work/records" . && mv "$work/records.part" "$out/records.tar.gz"
  [ ! -e "$work/curves.csv" ] || cp "$work/curves.csv" "$out"
  while IFS= read -r file; do
    [ "$(stat -c %s "$file")" -le 16777216 ] || continue
    [ ! -e "$out/${file##*/}" ] && [ "$(find "$out" -type f | wc -l)" -ge 8 ] || cp "$file" "$out"
  done < <(files packed .bnn)
}

# figure3: measure Figure 3
figure3() { once figure3 $figure "$python" -m reproduce bench "${bench[@]}" --to "$work/records/kernels"; }

# preflight: measure the speed of a training step
preflight() {
  local training=()
  [ -n "$trained" ] || training=(--left $(($(left) > figure + 30 ? $(left) - figure - 30 : 0)))
  once "preflight-${cell//\//-}" 40 "$python" -m reproduce gpu preflight "$cell" --device $device --scale $scale \
    --steps $steps "${training[@]}"
}

# training: train the runs until the time is over; $trained becomes 75 if one is unfinished
training() {
  local run name
  trained=0
  for run in "${runs[@]}"; do
    name=training-${run//\//-}
    [ ! -e "$work/$name.done" ] || continue
    if [ "$(left)" -le $least ]; then
      late="$late $name" trained=75
      continue
    fi
    step "$name" "$(left)" "$python" -m reproduce run "${run%:*}" --device $device --scale "$(scale_of "$run")" \
      --first-seed "${run##*:}" --seeds 1 --results "$store" --time-limit $(($(left) - 30))s --checkpoint-every 1h
    case $? in
      0) touch "$work/$name.done" ;;
      75) trained=75 ;;
    esac
  done
}

if [ -n "${WHEELS:-}" ]; then
  [ -d "$work/site" ] ||
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$WHEELS"/*.whl || exit 2
  PYTHONPATH=$(realpath "$work/site")${PYTHONPATH:+:$PYTHONPATH}
  export PYTHONPATH
fi
export PYTHONUNBUFFERED=1

once versions 60 "$python" -m reproduce gpu versions --device $device
[ $? -ne 2 ] || { rm "$work/versions.tried" && exit 2; }
once trials 80 "$python" -m reproduce gpu trials "$work" "${runs[@]%:*}" --device $device --scale $scale
REPRODUCE_WITHOUT=$(cat "$work/without.txt" 2>/dev/null || echo updates bf16 fp16 tf32 passes graph)
export REPRODUCE_WITHOUT
trained=""
[ $# -gt 0 ] || preflight
[ $# -gt 0 ] || figure3
training
mapfile -t records < <(files runs .json)
mapfile -t checkpoints < <(files work .ckpt)
step curves 25 "$python" -m reproduce gpu curves "$work/curves.csv" "${records[@]}" "${checkpoints[@]}"

frozen=()
for record in "${records[@]}"; do
  stem=$(basename "$record" .json)
  case $stem in *float* | *binaryconnect* | *baseline*) continue ;; esac # nets with real-valued activations cannot be packed
  once "freeze-$stem" 60 "$python" -m reproduce freeze "$record"
  frozen+=("$stem")
done
[ $# -eq 0 ] || [ $trained -eq 75 ] || figure3
backends=${REHEARSE:+cpu }$(cat "$work/backends.txt" 2>/dev/null)
for stem in "${frozen[@]}"; do
  for backend in $backends; do
    once "predict-$stem-$backend" 60 "$python" -m reproduce predict "$store/packed/$stem.bnn" --backend "$backend" \
      --against "$store/nets/$stem.safetensors" --record "$work/records/kernels"
  done
  backends=${backends%% *} # one backend is enough for the other nets
done
[ $# -eq 0 ] || [ $trained -eq 75 ] || preflight
for file in $gpu_tests; do
  [ $trained -ne 75 ] || break
  once "tests-$(basename "$file" .py)" 120 env -u REPRODUCE_WITHOUT \
    "$python" -m pytest -q -m gpu -o timeout=60 -o timeout_method=thread "$file"
done

[ -z "$late" ] || echo "gpu-evidence: time limit reached; not done:$late; the same command resumes on this machine"
[ -z "$failed" ] || echo "gpu-evidence: failed:$failed; see $out/log.txt"
[ -z "$late" ] || exit 75
[ -z "$failed" ] || exit 1
echo "gpu-evidence: done; what there is lies in $out"
