"""What one check may use."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one check. A program is one process: it cannot start another."""

    cpu_s: int = 4
    """CPU seconds of the program, over its threads. Independent of the machine's load, so it
    comes before `wall_s` for all that computes."""
    wall_s: float = 12.0
    """Seconds from the program's first instruction to the verdict; ends what sleeps."""
    start_s: float = 30.0
    """Seconds that the sandbox itself may take to start."""
    memory_mib: int = 512
    """Address space of the program."""
    file_mib: int = 16
    """The largest single file."""
    scratch_mib: int = 64
    """All files together, and separately all bytes written anywhere, the output included."""
    scratch_files: int = 2048
    open_files: int = 64
    threads: int = 64
    reply_mib: int = 8
    """All values returned, encoded."""

    def to_json(self) -> dict[str, float]:
        return asdict(self)
