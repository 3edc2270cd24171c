# Runs the cell of one task of an array. Sourced by the batch script, on the first node of the cell, from the frozen code.
#   . cell.sh SWEEP NAMES     NAMES: file with the array's cells, one a line. The script has set python=(...) and srun_args=(...).
# Exits with the exit code of the cell; may ask Slurm to requeue it.

set +eu # the setup lines may have set them; commands that fail must not end this script
sweep=$1 names=$2
# Never SLURM_JOB_ID: for one task of an array it is the id of the whole array, and every task would be requeued.
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
token=$job.${SLURM_RESTART_COUNT:-0}
cell=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$names")
folder=$sweep/$cell
if [ -z "$cell" ] || [ ! -d "$folder" ]; then
  echo "error: $names or $folder cannot be read on $(hostname): is the sweep's folder shared with the nodes?" >&2
  exit 2
fi
export ZERO_CELL_JOB=$job
# The frozen code first; then a user's own modules, last those in the folder from which the sweep was submitted.
export PYTHONPATH=$sweep/code:${PYTHONPATH:+$PYTHONPATH:}$PWD PYTHONSAFEPATH=1
mkdir -p "$folder/log"
exec >>"$folder/log/slurm.out" 2>&1
cell_folder=$folder # guard.sh calls teardown if it is set
say() { echo "$(date -Is) $token$*"; }
say " on $(hostname): starts"

# A file instead of a forwarded signal: the first rank reads it at the end of a step and tells the others; a signal could kill a
# rank. Only once: Slurm signals again at the end of the grace time, when the cell may have saved and ended.
asked=
ask_to_stop() {
  say ": asked to stop"
  if [ -n "$asked" ] || [ -e "$folder/stop" ]; then return; fi
  asked=yes
  echo "signal $token" >"$folder/.stop.$token" && mv -f "$folder/.stop.$token" "$folder/stop"
}
trap ask_to_stop USR2 TERM

run() { # all ranks of the cell, as one step of Slurm; sets code
  srun "${srun_args[@]}" "${python[@]}" -u -m launch.sweep.attempt "$sweep" "$cell" &
  local step=$!
  while :; do # `wait` returns early when a trap runs
    wait "$step"
    kill -0 "$step" 2>/dev/null || break
  done
  wait "$step" # once more: the step may have ended while the trap ran, and then the code is the trap's
  code=$?
}
# The controller may not answer for minutes (restarted, overloaded); its programs then fail, which says nothing about the cell.
until_answered() { # COMMAND...: its output, once it succeeds; tries for ten minutes
  local tries
  for tries in $(seq 40); do
    timeout 30 "$@" && return
    sleep 15
  done
  return 1
}
began() { grep -qF "\"$token\"" "$folder/lease.json" 2>/dev/null; } # the cell's first rank has started

unreached() { tail -n 5 "$folder/log/slurm.out" | grep -Eiq '^srun: error: .*(unable to|timed out|communicat|connect|credential)'; }

run
for try in 1 2 3; do # a failure of srun itself, such as "Unable to confirm allocation", is not the cell's
  if [ "$code" = 0 ] || [ -n "$asked" ] || began || ! unreached; then break; fi
  say ": srun ended with $code before the cell could begin; tried again ($try of 3)"
  sleep $((try * 10))
  until_answered squeue -h -j "$job" -o %T >/dev/null || break
  run
done
case $code in
0 | 75 | 76) ;; # noted by the cell itself
*) "${python[@]}" -m launch.sweep.attempt "$sweep" "$cell" --ended "$code" ;; # notes it if the cell could not
esac
say ": ended with $code"

# Ask to be requeued only if the cell was stopped (75: saved; 143: SIGTERM before it could handle it), no user wants it to stay
# stopped, and Slurm reports this very copy as RUNNING: then a warning came, and this job is about to end. COMPLETING means that
# the user cancelled it or that Slurm requeues it itself; without this test a cancelled cell was started again. Another restart
# count means that a new copy runs, which must not be killed.
current() { [ "$(until_answered squeue -h -j "$job" -O State:20,RestartCnt:20 | xargs)" = "RUNNING ${SLURM_RESTART_COUNT:-0}" ]; }
wanted() { [ ! -e "$folder/cancelled" ] && { [ ! -e "$folder/stop" ] || grep -q '^signal' "$folder/stop"; }; }
if [ "$code" = 75 ] || [ "$code" = 143 ]; then
  if wanted && current; then
    for _ in 1 2 3 4; do
      say ": asks to be queued again"
      timeout 30 scontrol requeue "$job" && sleep 120 # the requeue ends this script
      current || break
    done
  fi
elif [ -e "$sweep/unsubmitted.json" ] && [ ! -e "$sweep/halted" ]; then
  timeout 300 "${python[@]}" -m launch.places.queue "$sweep" # cells that wait for room in the queue: there is some now
fi
exit "$code"
