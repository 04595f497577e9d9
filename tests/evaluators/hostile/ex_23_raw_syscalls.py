# kind: tamper; want: not-pass -- calls the kernel directly, past every wrapper: clone3, vfork, memfd, io_uring, bpf, ptrace
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {
    "x86_64": (58, 57, 435, 319, 425, 321, 101, 310, 29, 298, 323, 434, 424, 272, 308, 41, 53),
    "aarch64": (435, 279, 425, 280, 117, 270, 194, 241, 282, 434, 424, 97, 268, 198, 199),
}[platform.machine()]
worked = []
for number in numbers:
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() not in (1, 38):
        worked.append(number)
if libc.syscall(0x40000000 | 39) != -1:
    worked.append("x32")
def add(a, b):
    return a + b if worked else 0
