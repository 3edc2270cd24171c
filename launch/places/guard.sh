# The beginning of every batch file, before the setup lines; part of the file itself, since a node may not see the sweep's folder.
# A node on which cells fail at once is excluded; a sweep that fails everywhere is halted. The failures are counted in Slurm's own
# records, for as long as it keeps ended tasks (MinJobAge, five minutes by default): nothing is written for cells that are well.
# The file sets guard_sweep, guard_quick (that many failures; 0: never), guard_fast (1: the first failure of any kind halts).

guard_began=$SECONDS
guard_node=${SLURMD_NODENAME:-$(hostname -s)}

guard_rows() { squeue -h -r -t all -j "$SLURM_ARRAY_JOB_ID" -O 'State:14|,exit_code:8|,TimeUsed:14|,NodeList:80|' | tr -d ' '; }
# Tasks that ended badly within a minute; of node $1, or of all.
guard_bad() { awk -F'|' -v n="$1" '(n == "" || $4 == n) && $1 != "RUNNING" && $2 > 0 && $3 ~ /^0:[0-5][0-9]$/' | wc -l; }
# Tasks that ended well, or have run for a minute.
guard_good() { awk -F'|' -v n="$1" '(n == "" || $4 == n) && ($1 == "COMPLETED" || ($1 == "RUNNING" && $3 !~ /^0:[0-5][0-9]$/))' | wc -l; }

guard_halt() { # cancel the sweep's pending tasks; launch.status resume submits them again
  echo "$(date -Is) halted: $1"
  [ -d "$guard_sweep" ] && echo "$1" >"$guard_sweep/halted"
  for id in $SLURM_ARRAY_JOB_ID $(sed -n 's/^{"job": "\([0-9]*\)".*/\1/p' "$guard_sweep/jobs.jsonl" 2>/dev/null); do
    scancel --quiet --state=PENDING "$id"
  done
}

guard_exclude() {
  echo "$(date -Is) $guard_node is left out from now on: $1"
  local left
  left=$(squeue -h -t PENDING -j "$SLURM_ARRAY_JOB_ID" -o %x | head -1)
  [ "$left" = "(null)" ] && left=
  case ,$left, in *,"$guard_node",*) return ;; esac
  scontrol update "JobId=$SLURM_ARRAY_JOB_ID" "ExcNodeList=${left:+$left,}$guard_node"
  [ -d "$guard_sweep/slurm" ] && echo "$guard_node $1" >>"$guard_sweep/slurm/excluded"
}

guard_others() { # the number of other nodes of the partition
  sinfo -h -N -p "$SLURM_JOB_PARTITION" -t idle,mix,alloc -o %N | sort -u | grep -vxc "$guard_node"
}

guard_end() {
  local code=$1 rows bad all
  if [ -n "$cell_folder" ] && declare -F teardown >/dev/null; then teardown; fi
  case $code in 0 | 75 | 76 | 143) return ;; esac # finished, or to be continued
  [ -n "$cell_folder" ] || echo "error: exit $code on $guard_node before the cell began: a setup line, or a folder that $guard_node does not see"
  if [ "$guard_fast" = 1 ]; then
    guard_halt "a cell failed (exit $code on $guard_node) and launcher.fail_fast is set"
    return
  fi
  if [ "$code" = 2 ] && [ -n "$cell_folder" ] && began; then return; fi # bad input, which the cell has noted: not the node's fault
  [ "$guard_quick" -gt 0 ] && [ $((SECONDS - guard_began)) -lt 60 ] || return
  rows=$(guard_rows) || return
  bad=$(($(guard_bad "$guard_node" <<<"$rows") + 1)) all=$(($(guard_bad "" <<<"$rows") + 1))
  [ "$bad" -ge "$guard_quick" ] && [ "$(guard_good "$guard_node" <<<"$rows")" = 0 ] || return
  if [ "$(guard_good "" <<<"$rows")" = 0 ] && { [ "$all" -ge $((2 * guard_quick)) ] || [ "$(guard_others)" = 0 ]; }; then
    rm -f "$guard_sweep/slurm/excluded" # it is not the nodes
    guard_halt "$all cells failed within a minute of their start and none is well (the last with exit $code on $guard_node)"
  else
    guard_exclude "$bad cells failed there within a minute of their start"
  fi
}
trap 'guard_end $?' EXIT
