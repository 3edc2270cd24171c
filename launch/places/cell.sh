# What the batch script of an array does for its task: read by bash, on the first node of the cell, from the frozen code.
#   . cell.sh SWEEP NAMES     NAMES: the array's cells, one a line. The script has set python=(...) and srun_args=(...).
# Leaves with the exit code of the cell; may ask Slurm to queue it again.

set +eu # whatever the setup lines set: an exit code that is not 0 is news here, not an end
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
# The frozen code before all else; a user's own modules are found where they were, in the folder of the submission at last.
export PYTHONPATH=$sweep/code:${PYTHONPATH:+$PYTHONPATH:}$PWD PYTHONSAFEPATH=1
mkdir -p "$folder/log"
exec >>"$folder/log/slurm.out" 2>&1
cell_folder=$folder # from here on there is something to tear down
say() { echo "$(date -Is) $token$*"; }
say " on $(hostname): starts"

# A file instead of a forwarded signal: it reaches every rank through the first, at the end of a step, and kills nobody.
# Once: at the end of a grace time Slurm asks again, when the cell may have saved and left already.
asked=
ask_to_stop() {
  say ": asked to stop"
  if [ -n "$asked" ] || [ -e "$folder/stop" ]; then return; fi
  asked=yes
  echo "signal $token" >"$folder/.stop.$token" && mv -f "$folder/.stop.$token" "$folder/stop"
}
trap ask_to_stop USR2 TERM

run() { # one step of Slurm with all ranks of the cell; sets code
  srun "${srun_args[@]}" "${python[@]}" -u -m launch.sweep.attempt "$sweep" "$cell" &
  local step=$!
  while :; do # a trap ends `wait` early
    wait "$step"
    kill -0 "$step" 2>/dev/null || break
  done
  wait "$step" # the step may have ended while the trap ran: its own code, not the trap's
  code=$?
}
# The controller may be away for minutes (restarted, overloaded). Its programs then fail, which says nothing about the cell.
until_answered() { # COMMAND...: its output, once it succeeds; tried for ten minutes
  local tries
  for tries in $(seq 40); do
    timeout 30 "$@" && return
    sleep 15
  done
  return 1
}
began() { grep -qF "\"$token\"" "$folder/lease.json" 2>/dev/null; } # the cell's first rank was there

unreached() { tail -n 5 "$folder/log/slurm.out" | grep -Eiq '^srun: error: .*(unable to|timed out|communicat|connect|credential)'; }

run
for again in 1 2 3; do # srun's own failure, "Unable to confirm allocation" and the like, is not the cell's word
  if [ "$code" = 0 ] || [ -n "$asked" ] || began || ! unreached; then break; fi
  say ": srun ended with $code before the cell could begin; tried again ($again of 3)"
  sleep $((again * 10))
  until_answered squeue -h -j "$job" -o %T >/dev/null || break
  run
done
case $code in
0 | 75 | 76) ;; # said by the cell itself
*) "${python[@]}" -m launch.sweep.attempt "$sweep" "$cell" --ended "$code" ;; # notes it if the cell could not
esac
say ": ended with $code"

# Ask to be queued again only if the step was stopped (75: saved; 143: SIGTERM before it could listen), nobody else wants it
# to stay so, and Slurm says RUNNING of this very copy: a warning came and this job is about to end. COMPLETING means that
# the user cancelled it or that Slurm requeues it itself; without that test a cancelled cell came back to life. Another
# count of restarts means that this copy was given up and a new one runs: it must not be killed.
current() { [ "$(until_answered squeue -h -j "$job" -O State:20,RestartCnt:20 | xargs)" = "RUNNING ${SLURM_RESTART_COUNT:-0}" ]; }
wanted() { [ ! -e "$folder/cancelled" ] && { [ ! -e "$folder/stop" ] || grep -q '^signal' "$folder/stop"; }; }
if [ "$code" = 75 ] || [ "$code" = 143 ]; then
  if wanted && current; then
    for again in 1 2 3 4; do
      say ": asks to be queued again"
      timeout 30 scontrol requeue "$job" && sleep 120 # the requeue ends this script
      current || break
    done
  fi
elif [ -e "$sweep/unsubmitted.json" ] && [ ! -e "$sweep/halted" ]; then
  timeout 300 "${python[@]}" -m launch.places.queue "$sweep" # cells that found no room in the queue: there is some now
fi
exit "$code"
