"""The system calls that the filter (seccomp.py) names, by what they are good for, with their numbers.

Each entry is NAME, its number on x86_64, its number on aarch64; a dash: that architecture has no such call. What is named
nowhere does not exist for a program: ENOSYS, as on an older kernel, so that libraries fall back on what they did before.
"""

from __future__ import annotations

import platform

# Always allowed: a program's own memory, descriptors, clock and threads, and the files that Landlock leaves it
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
preadv2 327 286, pwritev2 328 287, close 3 57, close_range 436 436, lseek 8 62, sendfile 40 71, copy_file_range
326 285, fstat 5 80, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44,
access 21 -, faccessat 269 48, faccessat2 439 439, getdents 78 -, getdents64 217 61, getcwd 79 17, readlink 89
-, readlinkat 267 78, pipe 22 -, pipe2 293 59, dup 32 23, dup2 33 -, dup3 292 24, fcntl 72 25, flock 73 32,
fsync 74 82, fdatasync 75 83, truncate 76 45, ftruncate 77 46, fallocate 285 47, fadvise64 221 223, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link
86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, chmod 90 -, fchmod 91 52, fchmodat 268 53, utime 132 -,
utimes 235 -, futimesat 261 -, utimensat 280 88, umask 95 166, select 23 -, pselect6 270 72, poll 7 -, ppoll 271
73, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, timerfd_create 283 85, timerfd_settime 286 86,
timerfd_gettime 287 87, signalfd 282 -, signalfd4 289 74, sendto 44 206, recvfrom 45 207, sendmsg 46 211,
recvmsg 47 212, shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209, setsockopt 54 208,
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214, msync 26 227, mincore 27
232, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128
137, rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -, nanosleep 35 101, clock_nanosleep 230 115,
clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153, getitimer 36 102,
setitimer 38 103, alarm 37 -, timer_create 222 107, timer_settime 223 110, timer_gettime 224 108,
timer_getoverrun 225 109, timer_delete 226 111, getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158,
getpgid 121 155, getpgrp 111 -, getsid 124 156, setsid 112 157, setpgid 109 154, getpriority 140 141, uname 63
160, sysinfo 99 179, getrlimit 97 163, setrlimit 160 164, getrusage 98 165, getrandom 318 278, sched_yield 24
124, sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146
125, sched_get_priority_min 147 126, futex 202 98, futex_waitv 449 449, set_robust_list 273 99, get_robust_list
274 100, set_tid_address 218 96, rseq 334 293, arch_prctl 158 -, membarrier 324 283, exit 60 93, exit_group 231
94, wait4 61 260, waitid 247 95, restart_syscall 219 128, getcpu 309 168
"""
# Attempts, by the name of what was tried
_NETWORK = """
socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242
"""
# Opening a file is an attempt if the path lies outside of what the program may see (supervisor.py)
_FILES = """
open 2 -, openat 257 56, creat 85 -, chdir 80 49
"""
_PROCESSES = """
fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, ptrace 101 117, process_vm_readv 310 270,
process_vm_writev 311 271, process_madvise 440 440, kcmp 312 272, pidfd_open 434 434, pidfd_getfd 438 438,
pidfd_send_signal 424 424, tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240
"""
_PRIVILEGES = """
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, fsopen 430 430,
fsconfig 431 431, fsmount 432 432, fspick 433 433, open_tree 428 428, move_mount 429 429, mount_setattr 442 442,
bpf 321 280, perf_event_open 298 241, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427,
userfaultfd 323 282, keyctl 250 219, add_key 248 217, request_key 249 218, kexec_load 246 104, kexec_file_load
320 294, init_module 175 105, finit_module 313 273, delete_module 176 106, reboot 169 142, swapon 167 224,
swapoff 168 225, acct 163 89, quotactl 179 60, open_by_handle_at 304 265, name_to_handle_at 303 264,
fanotify_init 300 262, setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147,
setresgid 119 149, setfsuid 122 151, setfsgid 123 152, setgroups 116 159, capset 126 91, sethostname 170 161,
setdomainname 171 162, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266,
iopl 172 -, ioperm 173 -, modify_ldt 154 -, seccomp 317 277, syslog 103 116, vhangup 153 58
"""
# Decided by their arguments (seccomp.py)
_CHECKED = """
clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, socketpair 53 199, ioctl 16 29, prctl 157 167,
prlimit64 302 261
"""


def _numbers(table: str) -> dict[str, int]:
    """Name -> number on this machine, of those that it has."""
    column = {"x86_64": 1, "aarch64": 2}.get(platform.machine(), 0)
    entries = [entry.split() for entry in table.replace("\n", " ").split(",")]
    return {entry[0]: int(entry[column]) for entry in entries if column and entry[column] != "-"}


ALLOWED = _numbers(_ALLOWED)
CHECKED = _numbers(_CHECKED)
ATTEMPTS = {
    "network": _numbers(_NETWORK),
    "files": _numbers(_FILES),
    "processes": _numbers(_PROCESSES),
    "privileges": _numbers(_PRIVILEGES),
}
# What a number stands for, in the words of an outcome: (kind of attempt, system call)
MEANING = {number: (kind, name) for kind, names in ATTEMPTS.items() for name, number in names.items()}
MEANING |= {
    number: (kind, name)
    for name, kind in (
        ("clone", "processes"),
        ("kill", "processes"),
        ("tgkill", "processes"),
        ("socketpair", "network"),
    )
    if (number := CHECKED.get(name)) is not None
}
MEANING |= {CHECKED["ioctl"]: ("privileges", "ioctl")} if CHECKED else {}
