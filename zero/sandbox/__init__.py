"""Foreign programs, run with nothing but features of the kernel. `pool.Sandbox` is the entrance; docs/sandbox.md says the rest.

On this side: pool.py (who runs what, and for how long), records.py. On the other side: fork_server.py (a warm interpreter that
forks), rootfs.py and jail.py (what a program sees), landlock.py, seccomp.py and supervisor.py (what it may do), program.py and
tests.py (what runs there), values.py (how values travel). They use the standard library alone: the server starts in an instant.
"""
