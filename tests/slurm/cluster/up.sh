#!/usr/bin/env bash
# Brings up a real Slurm cluster on this one machine: controller, accounting
# database and several compute nodes, each node in its own UTS (and optionally
# network) namespace.  Needs root and Debian/Ubuntu's apt; no systemd, no cgroups.
#
#   [NODES=3 CPUS=4 GPUS=2 MEM=2048 NET=loopback|netns ACCT=db|none ...] ./up.sh
#   . "${TMPDIR:-/tmp}/slurmlab/env"     # then sbatch, squeue, sacct, ... work
#   $LAB/node.sh kill n1                 # a node's power cut; start n1 brings it back
set -euo pipefail
LAB=${LAB:-${TMPDIR:-/tmp}/slurmlab} NODES=${NODES:-3} CPUS=${CPUS:-8} GPUS=${GPUS:-2} MEM=${MEM:-8192}
NET=${NET:-loopback}          # loopback: nodes share the network; netns: one each
ACCT=${ACCT:-db}              # db: slurmdbd + mariadbd, so sacct works; none: it doesn't
MAXARRAY=${MAXARRAY:-401}   # tasks of an array: few, so that a sweep of a thousand cells needs several
GRACE=${GRACE:-10}            # seconds between a preemption's warning and its kill
CGROUP=${CGROUP:-0}           # 1: cgroup v1 or v2 memory limits, so that a job too big ends OUT_OF_MEMORY
SEND_USER_SIGNAL=${SEND_USER_SIGNAL:-1}   # warn with the job's --signal, else SIGTERM
HERE=$(cd "$(dirname "$0")" && pwd)
t0=$(date +%s.%N)
say() { printf '[%5.1f s] %s\n' "$(echo "$(date +%s.%N) $t0" | awk '{print $1-$2}')" "$*"; }
die() { echo "up.sh: $*" >&2; exit 1; }
wait_for() {                  # wait_for SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >"$LAB/log/wait.out" 2>&1; do
    [ $SECONDS -lt $end ] || { cat "$LAB/log/wait.out" >&2; die "timed out waiting for $what; see $LAB/log"; }
    sleep 0.1
  done
}
[ "$(id -u)" = 0 ] || die "needs root"
[ -e "$LAB/run" ] && die "$LAB/run exists already: run down.sh first"
(exec 3<>/dev/tcp/127.0.0.1/16817) 2>/dev/null && die "another controller listens on port 16817: is a test cluster up? (make cluster-down)"
trap 'rc=$?; [ -z "${own_policy:-}" ] || rm -f /usr/sbin/policy-rc.d; [ $rc = 0 ] || LAB=$LAB "$HERE/down.sh" --keep-logs >&2' EXIT

# 1. packages -----------------------------------------------------------------
need=()
command -v slurmctld >/dev/null || need+=(slurmctld)
command -v slurmd    >/dev/null || need+=(slurmd)
command -v sbatch    >/dev/null || need+=(slurm-client)
command -v munged    >/dev/null || need+=(munge)
[ "$NET" = netns ] && ! command -v ip >/dev/null && need+=(iproute2)
if [ "$ACCT" = db ]; then
  command -v slurmdbd >/dev/null || need+=(slurmdbd)
  command -v mariadbd >/dev/null || need+=(mariadb-server-core)
fi
if [ ${#need[@]} -gt 0 ]; then
  say "installing ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  opt=(-qq -o DPkg::Lock::Timeout=300)
  # Keep the packages from starting daemons of their own where an init exists.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; own_policy=1
  fi
  mkdir -p "$LAB"
  apt-get "${opt[@]}" update >"$LAB/apt.log" 2>&1 || die "apt-get update failed: $LAB/apt.log"
  apt-get "${opt[@]}" install -y --no-install-recommends "${need[@]}" >>"$LAB/apt.log" 2>&1 \
    || die "apt-get install failed: $LAB/apt.log"
fi

# 2. layout -------------------------------------------------------------------
umask 022
mkdir -p "$LAB"/{munge,state,spool,run,log,dev,db,etc}
for ((i = 1; i <= NODES; i++)); do mkdir -p "$LAB/spool/n$i"; done
for ((g = 0; g < GPUS; g++)); do [ -e "$LAB/dev/gpu$g" ] || mknod -m 666 "$LAB/dev/gpu$g" c 1 3; done
host=$(hostname -s 2>/dev/null || cat /proc/sys/kernel/hostname)
nodes=n[1-$NODES]; [ "$NODES" = 1 ] && nodes=n1
if [ "$NET" = netns ]; then
  net=10.213.0 ctladdr=10.213.0.254
else
  net=127.0.213 ctladdr=127.0.0.1
fi
addr() { echo "$net.$((10 + $1))"; }
nodeaddr="NodeAddr=$net.$( [ "$NODES" = 1 ] && echo 11 || echo "[11-$((10 + NODES))]" )"
[ "$NET" = netns ] && nodeaddr+=" Port=16818" || nodeaddr+=" Port=$( [ "$NODES" = 1 ] && echo 17001 || echo "[17001-$((17000 + NODES))]" )"
if [ "$ACCT" = db ]; then
  acct="AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\nAccountingStoragePort=16819\nAccountingStoragePass=$LAB/munge/socket\nAccountingStoreFlags=job_comment\nAccountingStorageTRES=gres/gpu"
else
  acct="AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/filetxt\nJobCompLoc=$LAB/log/jobcomp.txt"
fi
pre=""; [ "$SEND_USER_SIGNAL" = 1 ] && pre="SlurmctldParameters=preempt_send_user_signal"
if [ "$CGROUP" = 1 ]; then
  proctrack=proctrack/cgroup task=task/cgroup overmem=
  printf '%s\n' CgroupAutomount=no ConstrainRAMSpace=yes ConstrainSwapSpace=no ConstrainCores=no ConstrainDevices=no > "$LAB/etc/cgroup.conf"
else
  proctrack=proctrack/linuxproc task=task/none overmem=JobAcctGatherParams=OverMemoryKill
fi
sed -e "s|@PROCTRACK@|$proctrack|; s|@TASK@|$task|; s|@OVERMEM@|$overmem|; s|@LAB@|$LAB|g; s|@HOST@|$host|g; s|@CTLADDR@|$ctladdr|g; s|@NODES@|$nodes|g; s|@CPUS@|$CPUS|g; s|@MEM@|$MEM|g" \
    -e "s|@GPUS@|$GPUS|g; s|@NODEADDR@|$nodeaddr|g; s|@GRACE@|$GRACE|g; s|@MAXARRAY@|$MAXARRAY|g; s|@PREEMPTPARAMS@|$pre|g; s|@ACCOUNTING@|$acct|g" \
    "$HERE/slurm.conf.in" > "$LAB/etc/slurm.conf"
echo "NodeName=$nodes Name=gpu File=$LAB/dev/gpu$( [ "$GPUS" = 1 ] && echo 0 || echo "[0-$((GPUS - 1))]" )" > "$LAB/etc/gres.conf"
# Node names must resolve: torch.distributed rendezvous at the first node's name.
sed -i '/# slurmlab$/d' /etc/hosts 2>/dev/null || { grep -v '# slurmlab$' /etc/hosts > "$LAB/hosts.new"; cat "$LAB/hosts.new" > /etc/hosts; }
for ((i = 1; i <= NODES; i++)); do echo "$(addr $i) n$i # slurmlab" >> /etc/hosts; done
export SLURM_CONF=$LAB/etc/slurm.conf
pids=$LAB/run/pids; : > "$pids"

# 3. network namespaces -------------------------------------------------------
if [ "$NET" = netns ]; then
  # Of a cluster that was killed and not taken down: its controller is gone, its network may be there.
  for stale in $(ip netns list | awk '/^slurmlab-n/ {print $1}'); do
    ip netns pids "$stale" | xargs -r kill -9 || true
    ip netns del "$stale"
  done
  ip -o link show | awk -F'[ @:]+' '/ slab[0-9]+@/ {print $2}' | xargs -r -n1 ip link del 2>/dev/null || true
  ip link add slurmlab type bridge 2>/dev/null || true
  ip addr replace $ctladdr/24 dev slurmlab; ip link set slurmlab up
  for ((i = 1; i <= NODES; i++)); do
    ip netns add slurmlab-n$i
    ip link add slab$i type veth peer name eth0 netns slurmlab-n$i
    ip link set slab$i master slurmlab up
    ip -n slurmlab-n$i addr add "$(addr $i)/24" dev eth0
    ip -n slurmlab-n$i link set eth0 up; ip -n slurmlab-n$i link set lo up
  done
fi

# 4. munge --------------------------------------------------------------------
head -c 128 /dev/urandom > "$LAB/munge/key"; chmod 400 "$LAB/munge/key"; chmod 711 "$LAB/munge"
munged --foreground --force --key-file="$LAB/munge/key" --socket="$LAB/munge/socket" --pid-file="$LAB/munge/pid" \
       --seed-file="$LAB/munge/seed" --num-threads=2 >"$LAB/log/munged.log" 2>&1 </dev/null &
echo $! >> "$pids"
wait_for 10 munged test -S "$LAB/munge/socket"
say "munged up"

# 5. accounting ---------------------------------------------------------------
if [ "$ACCT" = db ]; then
  chmod 755 "$LAB/db"
  # The system tables by hand: mariadb-install-db wants the client package as well.
  mkdir -p "$LAB/db/data"
  { printf '%s;\n' 'CREATE DATABASE mysql' 'USE mysql' 'SET @auth_root_socket=NULL' 'SET @skip_auth_anonymous=1' \
      'SET @current_hostname="localhost"'
    cat /usr/share/mysql/mysql_system_tables.sql /usr/share/mysql/mysql_system_tables_data.sql
  } | mariadbd --no-defaults --bootstrap --user=root --datadir="$LAB/db/data" --log-warnings=0 --innodb-log-file-size=16M \
      --enforce-storage-engine= --max-allowed-packet=8M --net-buffer-length=16K \
      >"$LAB/log/db-install.log" 2>&1 || die "database init failed: $LAB/log/db-install.log"
  say "database initialised"
  cat > "$LAB/db/init.sql" <<SQL
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS slurm@127.0.0.1 IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO slurm@127.0.0.1;
SQL
  mariadbd --no-defaults --user=root --datadir="$LAB/db/data" --socket="$LAB/db/sock" --pid-file="$LAB/db/pid" \
    --port=16306 --bind-address=127.0.0.1 --skip-name-resolve --innodb-flush-log-at-trx-commit=0 --sync-binlog=0 \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 --performance-schema=0 \
    --init-file="$LAB/db/init.sql" >"$LAB/log/mariadb.log" 2>&1 </dev/null &
  echo $! >> "$pids"
  wait_for 60 mariadbd bash -c 'exec 3<>/dev/tcp/127.0.0.1/16306'
  say "mariadbd up"
  cat > "$LAB/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
DebugLevel=info
LogFile=$LAB/log/slurmdbd.log
PidFile=$LAB/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=16306
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
  chmod 600 "$LAB/etc/slurmdbd.conf"
  slurmdbd -D >"$LAB/log/slurmdbd.out" 2>&1 </dev/null &
  echo $! >> "$pids"
  wait_for 60 slurmdbd bash -c 'exec 3<>/dev/tcp/127.0.0.1/16819'
  wait_for 30 sacctmgr sacctmgr -n list cluster
  sacctmgr -i add cluster lab >/dev/null 2>&1 || true
  say "slurmdbd up"
fi

# 6. controller and nodes -----------------------------------------------------
slurmctld -D -i -f "$SLURM_CONF" >"$LAB/log/slurmctld.out" 2>&1 </dev/null &
echo $! >> "$pids"
wait_for 30 slurmctld bash -c 'scontrol ping | grep -q UP'
say "slurmctld up"
cp "$HERE/node.sh" "$LAB/node.sh"
printf '%s\n' "NET=$NET" "SLURM_CONF=$SLURM_CONF" "LAB=$LAB" > "$LAB/node.conf"
for ((i = 1; i <= NODES; i++)); do "$LAB/node.sh" start n$i; done
wait_for 60 "the nodes" bash -c "[ \$(sinfo -h -N -p gpu -t idle -o %N | sort -u | wc -l) = $NODES ]"
cat > "$LAB/env" <<ENV
export SLURM_CONF=$SLURM_CONF LAB=$LAB
ENV
say "$NODES nodes idle; source $LAB/env"
