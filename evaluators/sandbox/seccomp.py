"""The system calls of a program that only computes: a seccomp filter that lists what is allowed.

Whatever is not listed fails: a new process, another program, a socket, a signal, shared memory,
links and modes of files, and every call that a kernel may yet gain. Numbers are the kernel's
(arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h).
"""

import ctypes
import errno
import os
import struct

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_YOUNG = 424
"""From this number on calls are alike on all machines and newer than any C library needs, which
takes ENOSYS as the cue for an older one (clone3, whose flags no filter can read, is one)."""

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080


# The last: open stat lstat poll access pipe select dup2 pause alarm getdents rename mkdir rmdir
# unlink readlink getpgrp time.
_X86_ONLY = (2, 4, 6, 7, 21, 22, 23, 33, 34, 37, 78, 82, 83, 84, 87, 89, 111, 201)
_ABIS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, 0, _X86_ONLY),
    "aarch64": (0xC00000B7, 1, ()),
}
"""The machines: the kernel's mark, the column of the tables below, calls that only it has."""

_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "sendfile": (40, 71),
    "exit": (60, 93),
    "wait4": (61, 260),
    "uname": (63, 160),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "umask": (95, 166),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "getpriority": (140, 141),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "setrlimit": (160, 164),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "fadvise64": (221, 223),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "waitid": (247, 95),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "dup3": (292, 24),
    "pipe2": (293, 59),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "getcpu": (309, 168),
    "renameat2": (316, 276),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "copy_file_range": (326, 285),
    "statx": (332, 291),
    "rseq": (334, 293),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
}
"""Calls that are allowed whatever their arguments: their numbers on x86-64 and on aarch64."""

_CHOSEN = {
    # Duplicates, close-on-exec, status flags, pipe size. An owner or a signal for a descriptor
    # (F_SETOWN, F_SETSIG) would be a way to signal other processes.
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030, 1032)),
    # FIONREAD, FIOCLEX, FIONCLEX, FIONBIO and TCGETS: what opening a file asks.
    "ioctl": ((16, 29), 1, (0x541B, 0x5451, 0x5450, 0x5421, 0x5401)),
    # The name of a thread and of a mapping.
    "prctl": ((157, 167), 0, (15, 16, 0x53564D41)),
    # This process's own limits, which it can only lower.
    "prlimit64": ((302, 261), 0, (0,)),
}
"""Calls that are allowed for some values of one argument: numbers, which argument, its values."""

_CLONE = (56, 220)


def machine() -> str:
    return os.uname().machine


def supported() -> bool:
    """Whether this machine's system calls are known here."""
    return machine() in _ABIS


def program(name: str) -> bytes:
    """The filter for a machine, as the kernel's BPF instructions."""
    mark, column, more = _ABIS[name]
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, mark),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    numbers = [pair[column] for pair in _ALLOWED.values()]
    for number in (*numbers, *more):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for pair, argument, values in _CHOSEN.values():
        body = [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]
        for value in values:
            body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        body += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
        code += [(_EQUAL, 0, len(body), pair[column]), *body]
    code += [
        (_EQUAL, 0, 6, _CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_ANY_BIT, 0, 1, _CLONE_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_AT_LEAST, 0, 1, _YOUNG),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def no_new_privileges() -> None:
    """Gives up, for good, whatever a setuid file could grant; seccomp and Landlock need it.

    Raises:
        OSError: The kernel refuses.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)


def install() -> None:
    """Binds this process, which has one thread, to the filter.

    Raises:
        OSError: The kernel refuses.
        KeyError: The machine is unknown.
    """
    code = program(machine())
    instructions = ctypes.create_string_buffer(code, len(code))
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    )
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def _prctl(option: int, first: int, second: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
