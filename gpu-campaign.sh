#!/usr/bin/env bash
# The paper's numbers on a GPU, in slices of time: tests, Figure 3, a time plan, Table 1, the trained nets packed.
#
#   ./gpu-campaign.sh [tests|bench|plan|table1|nets ...]      all of them, in this order, if none is named
#
# A call works for SLICE seconds at most (540). What is done is not done again. Exit code 0: all is done; 75: the time
# came first, the same command goes on, here or where the store was copied to; else a step failed, and its log is named.
#
# PYTHON (.venv/bin/python)  RESULTS (results/local, your store)  KEPT (results/kernels, for timings)  SEEDS (5)
# JOBS (1)                   runs at once, as many processes; JOBS=2 ./gpu-campaign.sh plan tells whether it pays
# CELLS, NETS, BACKENDS      other cells than the eight, other nets than the two, other backends
# REHEARSE=1                 the same steps on a CPU: small nets, one seed, the tiny benchmark
set -uo pipefail
cd "$(dirname "$0")"

slice=${SLICE:-540}
python=${PYTHON:-.venv/bin/python}
store=${RESULTS:-results/local}
log=$store/gpu-campaign
table1="table1/bnn-theano-mnist table1/bnn-theano-cifar10 table1/bnn-torch7-mnist table1/bnn-torch7-cifar10
  table1/float-mnist table1/float-cifar10 table1/binaryconnect-mnist table1/binaryconnect-cifar10"
cells=${CELLS:-$table1}
jobs=${JOBS:-1}
nets=${NETS:-bnn-theano-mnist bnn-theano-cifar10}
gpu_tests="tests/kernels/test_cuda.py tests/kernels/test_cuda_gpu.py tests/kernels/test_cuda_pixels.py tests/kernels/test_torch.py
  tests/kernels/test_updates.py tests/test_bench_gpu.py tests/test_freeze.py tests/test_gpu.py tests/test_packed_gpu.py"
if [ -n "${REHEARSE:-}" ]; then
  scale=small device=cpu seeds=${SEEDS:-1} kept=${KEPT:-$log/kernels} backends=${BACKENDS:-cpu}
  bench="--quick"
else
  scale=paper device=cuda seeds=${SEEDS:-5} kept=${KEPT:-results/kernels}
  backends=${BACKENDS:-cuda-wgmma cuda-bmma cuda-xnor cuda-naive}
  bench="--gpu"
fi
mkdir -p "$log" "$kept"
ran=0 # commands in this slice

left() { echo $((slice - SECONDS)); }

# logged NAME COMMAND...: output on the terminal and in NAME.txt
logged() {
  local name=$1
  shift
  timeout "$(left)" "$@" 2>&1 | tee -a "$log/$name.txt"
  local code=${PIPESTATUS[0]}
  ran=$((ran + 1))
  case $code in
    0) return 0 ;;
    75) exit 75 ;;
    124)
      [ "$ran" -gt 1 ] && exit 75 # a whole slice may do
      echo "gpu-campaign: $name takes more than a whole slice of $slice s, or hangs: $log/$name.txt" >&2 && exit 1
      ;;
    *) echo "gpu-campaign: $name failed with exit code $code: $log/$name.txt" >&2 && exit "$code" ;;
  esac
}

# room SECONDS: a step that cannot be cut needs so many; it begins in a fresh slice if they are not left
room() {
  if [ "$(left)" -lt "$1" ] && [ "$SECONDS" -gt 5 ]; then exit 75; fi
}

step_tests() {
  room 300
  # shellcheck disable=SC2086 # lists of words
  logged tests "$python" -m pytest -q -m gpu $gpu_tests
}

step_bench() {
  room 240
  # shellcheck disable=SC2086
  logged bench "$python" -m reproduce bench $bench --to "$kept"
}

step_plan() {
  room 120
  # shellcheck disable=SC2086
  logged plan "$python" -m reproduce run $cells --scale $scale --device $device --seeds "$seeds" \
    --results "$store" --jobs "$jobs" --plan
}

step_table1() {
  room 60
  # shellcheck disable=SC2086
  logged table1 "$python" -m reproduce run $cells --scale $scale --device $device --seeds "$seeds" \
    --results "$store" --jobs "$jobs" --time-limit "$(($(left) - 30))s"
}

# The first seed's net of each, frozen, and held against the float net on the whole test set by every backend.
step_nets() {
  local name record stem backend
  for name in $nets; do
    for record in "$store/runs/table1-$name-$scale-seed0-"*.json; do
      [ -e "$record" ] || { echo "gpu-campaign: no run of $name at $scale scale in $store" >&2 && exit 1; }
      stem=$(basename "$record" .json)
      for backend in $backends; do
        [ -e "$log/$stem-$backend.done" ] && continue
        room 60
        [ -e "$store/packed/$stem.bnn" ] || logged nets "$python" -m reproduce freeze "$record"
        logged nets "$python" -m reproduce predict "$store/packed/$stem.bnn" --backend "$backend" \
          --against "$store/nets/$stem.safetensors" --record "$kept"
        touch "$log/$stem-$backend.done"
      done
    done
  done
}

[ $# -gt 0 ] || set -- tests bench plan table1 nets
for step in "$@"; do
  case $step in
    tests | bench | plan | table1 | nets) ;;
    *) echo "gpu-campaign: no step '$step': tests, bench, plan, table1 or nets" >&2 && exit 2 ;;
  esac
done
if [ -z "${REHEARSE:-}" ]; then # or the tests would all be left out, and pass
  "$python" -c 'import sys; from kernels.cuda import launch; sys.exit(launch.no_gpu())' ||
    { echo "gpu-campaign: nothing to do here without a GPU; REHEARSE=1 rehearses it" >&2 && exit 2; }
fi
for step in "$@"; do
  [ -e "$log/$step.done" ] && continue
  echo "gpu-campaign: $step, $(left) s left"
  "step_$step"
  touch "$log/$step.done"
done
echo "gpu-campaign: done; copy the runs into the committed evidence with: make publish RESULTS=$store"
