"""The system call filter on both machines, run by an interpreter of its own instructions."""

import errno
import struct
from pathlib import Path

import pytest

from evaluators.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003}
MACHINES = ("x86_64", "aarch64")

# Numbers by machine, from the kernel's tables, apart from those of the filter itself.
DENIED = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "socketpair": (53, 199),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "truncate": (76, 45),
    "link": (86, None),
    "linkat": (265, 37),
    "symlinkat": (266, 36),
    "mknodat": (259, 33),
    "fchownat": (260, 54),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "setuid": (105, 146),
    "setresuid": (117, 147),
    "capset": (126, 91),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "seccomp": (317, 277),
    "open_by_handle_at": (304, 265),
    "fallocate": (285, 47),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "timer_create": (222, 107),
    "inotify_init1": (294, 26),
    "execveat": (322, 281),
}
YOUNG = {"clone3": 435, "pidfd_open": 434, "pidfd_send_signal": 424, "io_uring_setup": 425}


def run(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the filter says of one call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    instructions = list(struct.iter_unpack("<HBBI", program))
    place, register = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (register,) = struct.unpack_from("<I", data, operand)
            continue
        holds = {
            0x15: register == operand,
            0x35: register >= operand,
            0x45: bool(register & operand),
        }[code]
        place += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", DENIED)
def test_what_reaches_outside_is_denied(machine, name) -> None:
    number = DENIED[name][MACHINES.index(machine)]
    if number is not None:
        assert run(seccomp.program(machine), ARCH[machine], number) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", YOUNG)
def test_new_calls_do_not_exist(machine, name) -> None:
    assert run(seccomp.program(machine), ARCH[machine], YOUNG[name]) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_work_is_allowed(machine) -> None:
    numbers = {"x86_64": (0, 1, 9, 257, 202, 231), "aarch64": (63, 64, 222, 56, 98, 94)}[machine]
    for number in numbers:
        assert run(seccomp.program(machine), ARCH[machine], number) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_a_thread_is_allowed_and_a_process_is_not(machine) -> None:
    clone = {"x86_64": 56, "aarch64": 220}[machine]
    filtered = seccomp.program(machine)
    thread, child, namespace = 0x003D0F00, 0x01200011, 0x10000000
    assert run(filtered, ARCH[machine], clone, thread) == ALLOW
    assert run(filtered, ARCH[machine], clone, child) == EPERM
    assert run(filtered, ARCH[machine], clone, thread | namespace) == EPERM
    assert run(filtered, ARCH[machine], clone, namespace) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_are_looked_at(machine) -> None:
    filtered, arch = seccomp.program(machine), ARCH[machine]
    fcntl, ioctl, prctl, prlimit = {
        "x86_64": (72, 16, 157, 302),
        "aarch64": (25, 29, 167, 261),
    }[machine]
    assert run(filtered, arch, fcntl, 3, 3) == ALLOW  # F_GETFL
    assert run(filtered, arch, fcntl, 3, 8) == EPERM  # F_SETOWN
    assert run(filtered, arch, fcntl, 3, 10) == EPERM  # F_SETSIG
    assert run(filtered, arch, ioctl, 0, 0x5401) == ALLOW  # TCGETS
    assert run(filtered, arch, ioctl, 0, 0x5412) == EPERM  # TIOCSTI
    assert run(filtered, arch, prctl, 15) == ALLOW  # PR_SET_NAME
    assert run(filtered, arch, prctl, 1) == EPERM  # PR_SET_PDEATHSIG
    assert run(filtered, arch, prlimit, 0) == ALLOW
    assert run(filtered, arch, prlimit, 1234) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_another_machines_calls_end_the_process(machine) -> None:
    other = next(arch for name, arch in ARCH.items() if name not in (machine, "i386"))
    for arch in (other, ARCH["i386"]):
        assert run(seccomp.program(machine), arch, 0) == KILL
    assert run(seccomp.program(machine), ARCH[machine], 0x40000000) == EPERM  # x32


def test_numbers_are_the_kernels() -> None:
    headers = [
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm-generic/unistd.h"),
    ]
    if not all(header.exists() for header in headers):
        pytest.skip("the kernel's headers are not installed")
    for column, header in enumerate(headers):
        known = {}
        for line in header.read_text().splitlines():
            words = line.split()
            if len(words) == 3 and words[0] == "#define" and words[2].isdigit():
                known[words[1].removeprefix("__NR3264_").removeprefix("__NR_")] = int(words[2])
        for name, pair in seccomp._ALLOWED.items():
            wanted = known.get(name, known.get({"newfstatat": "fstatat"}.get(name, name)))
            assert pair[column] == wanted, name
