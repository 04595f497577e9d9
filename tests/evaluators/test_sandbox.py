"""Both sandboxes against programs that lie, attack, exhaust and survive, eight at once."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluators import sandbox
from evaluators.sandbox import bubblewrap, interpreter, landlock, launch, tiers
from evaluators.sandbox.__main__ import main
from evaluators.sandbox.usage import remove

PROGRAMS = sorted((Path(__file__).parent / "hostile").glob("*.py"))
CANARY = Path("/tmp/hostile_canary/file")
SECRET = "SECRET_CANARY"
TESTS = """\
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(-5, 7) == 2
    assert candidate(123456, 654321) == 777777
"""
TIGHT = sandbox.Limits(cpu_s=1, wall_s=1.0)
"""For programs that run into the limits of time: the sooner, the cheaper."""
ENDLESS = re.compile("rs_(01|02|10|12|14|20|22|28|29)_|sv_(01|03|04|22)_")

# A stand-in for `python -m`, since another user's interpreter may have none of our packages.
BARE = """\
import sys, types
sys.modules["evaluators"] = types.ModuleType("evaluators")
sys.modules["evaluators"].__path__ = [sys.argv.pop(1)]
from evaluators.sandbox.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def works():
    """What is wrong with each tier here; None if it works."""
    return {tier: sandbox.trial(tier) for tier in sandbox.TIERS}


@pytest.fixture(params=sandbox.TIERS, scope="session")
def tier(request, works):
    return usable(request.param, works)


def usable(tier, works) -> str:
    """Skips for a tier that this machine lacks; one that starts and does not hold is a failure."""
    wrong = works[tier]
    assert wrong is None or not wrong.startswith("self-test"), wrong
    if wrong is not None:
        pytest.skip(f"{tier}: {wrong}")
    return tier


@pytest.fixture
def any_tier(works):
    for name, wrong in works.items():
        if wrong is None:
            return name
    pytest.skip(f"no sandbox: {works}")


def judged(program, tests=TESTS, tier=None, limits=None, **more) -> sandbox.Verdict:
    case = sandbox.Case(textwrap.dedent(program), "add", tests, **more)
    return sandbox.check(case, tier, limits)


def answer(program, tier, limits=None) -> str:
    """What the program's `add()` returns, as text, by way of a test that tells it."""
    tests = "def check(candidate):\n    raise ValueError(candidate())\n"
    found = judged(program, tests, tier, limits).reason
    assert found.startswith("ValueError"), found
    return found.removeprefix("ValueError").removeprefix(": ")


def offspring() -> set[int]:
    """The processes that descend from this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    grown = {os.getpid()}
    while grown:
        grown = {pid for pid, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


@contextmanager
def open_folder() -> Iterator[str]:
    """A folder that other users can enter, as /tmp is."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield folder


@pytest.fixture(scope="session")
def verdicts(tier):
    """The verdict of every program, with a canary beside them and a secret above them."""
    before = offspring()
    CANARY.parent.mkdir(exist_ok=True)
    CANARY.write_text("whole")
    for path, mode in ((CANARY.parent, 0o777), (CANARY, 0o666)):
        path.chmod(mode)

    def one(path: Path) -> sandbox.Verdict:
        limits = TIGHT if ENDLESS.match(path.name) else sandbox.Limits()
        return judged(path.read_text(), TESTS, tier, limits)

    with pytest.MonkeyPatch.context() as patch, open_folder() as folder:
        patch.setenv(SECRET, "1")
        patch.setattr(tempfile, "tempdir", folder)
        with ThreadPoolExecutor(8) as pool:
            stems = [path.stem for path in PROGRAMS]
            found = dict(zip(stems, pool.map(one, PROGRAMS), strict=True))
        found["litter"] = os.listdir(folder)
    found["survivors"] = offspring() - before
    yield found
    shutil.rmtree(CANARY.parent, ignore_errors=True)  # another run may have been quicker


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_gets_its_verdict(verdicts, path) -> None:
    wanted = re.match(r"# kind: [\w-]+; want: (pass|not-pass)", path.read_text())[1]
    verdict = verdicts[path.stem]
    assert verdict.passed is (wanted == "pass"), verdict.reason
    assert verdict.reason.isascii() and verdict.reason.isprintable() and len(verdict.reason) < 400
    assert "-OK" not in verdict.reason and SECRET not in verdict.reason


def test_they_leave_nothing_and_touch_nothing(verdicts) -> None:
    assert verdicts["survivors"] == set()
    assert verdicts["litter"] == []
    assert CANARY.read_text() == "whole"
    assert stat.S_IMODE(CANARY.stat().st_mode) == 0o666
    assert not Path("/tmp/hostile_suid").exists()


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("rs_09_many_files", "files|written"),
        ("rs_21_print_flood", "MiB written"),
        ("rs_23_deep_folders", "more than|cannot be read"),
        ("rs_26_huge_answer", "larger than allowed"),
        ("rs_27_deep_answer", "no valid JSON"),
        ("sv_03_catch_everything", "CPU time|no verdict within"),
        ("sv_22_never_answer", "no verdict within 1 s"),
        # Which it is depends on whether the pipe has one of the numbers that it floods.
        ("fp_20_forge_replies", "belongs to no call|a test failed"),
        ("fp_02_os_exit0", "the pipe ended"),
        ("ex_15_core_dump_setuid_file", "PermissionError|a test failed"),
    ],
)
def test_the_reason_is_the_limit_that_was_met(verdicts, stem, reason) -> None:
    assert re.search(reason, verdicts[stem].reason), verdicts[stem].reason


def test_a_program_sees_no_environment_and_no_tests(tier, monkeypatch) -> None:
    monkeypatch.setenv(SECRET, "1")
    marks = "SECRET_CANARY", "def check", "777777"
    program = f"""
        import os, sys, gc
        def add():
            words = [repr(dict(os.environ)), repr(sys.argv)]
            frame = sys._getframe()
            while frame:
                words.append(repr(frame.f_locals))
                frame = frame.f_back
            kinds = dict, list, tuple
            words += [repr(item) for item in gc.get_objects() if type(item) in kinds]
            text = " ".join(words)
            marks = [bytes.fromhex(mark).decode() for mark in {[m.encode().hex() for m in marks]}]
            return [mark for mark in marks if mark in text], "def add" in text
    """
    assert answer(program, tier) == "([], True)"


def test_a_program_is_nobody(tier) -> None:
    program = """
        import os
        def add():
            return os.getuid(), os.geteuid(), os.getgid(), os.getgroups()
    """
    uid, euid, gid, groups = eval(answer(program, tier))
    assert uid == euid
    if os.geteuid() == 0 and (tier == "bubblewrap" or launch.spare_user() is not None):
        assert uid != 0 and gid != 0
        assert 0 not in groups


def test_only_the_standard_library_is_visible(tier, tmp_path) -> None:
    hidden = tmp_path / "hidden.txt"
    hidden.write_text("x")
    hidden.chmod(0o644)
    data = Path(sandbox.__file__).parents[1] / "data" / "humaneval_test.parquet"
    packages = str(Path(os.__file__).parent / "site-packages"), "/usr/lib/python3/dist-packages"
    program = f"""
        import os, sys
        def add():
            seen = []
            for package in {packages!r}:
                for folder, _, names in os.walk(package):
                    for name in names:
                        try:
                            open(os.path.join(folder, name), "rb").read(1)
                            return [name]
                        except OSError:
                            pass
            for path in ({str(hidden)!r}, {str(data)!r}, {__file__!r}, "/etc/passwd",
                         "/proc/1/stat", "/proc/self/environ", "/sys/kernel/notes"):
                try:
                    open(path, "rb").read()
                    seen.append(path)
                except OSError:
                    pass
            for name in ("numpy", "pyarrow", "pytest", "evaluators.humaneval"):
                try:
                    __import__(name)
                    seen.append(name)
                except ImportError:
                    pass
            return seen + [path for path in sys.path if "packages" in path]
    """
    assert answer(program, tier) == "[]"


def test_a_program_writes_to_its_own_folder_only(tier) -> None:
    program = """
        import os, tempfile
        def add():
            written = []
            for folder in ("/", "/usr/lib", "/dev", "/dev/shm", "/var/tmp", "/run", os.getcwd()):
                try:
                    with open(os.path.join(folder, "new"), "w") as file:
                        file.write("x")
                    written.append(folder)
                except OSError:
                    pass
            return written == [os.getcwd()] == [tempfile.gettempdir()]
    """
    assert answer(program, tier) == "True"


def test_limits_hold_where_the_kernel_counts(tier) -> None:
    program = """
        import resource
        def add():
            kinds = "CPU", "AS", "FSIZE", "NOFILE", "CORE"
            found = [resource.getrlimit(getattr(resource, "RLIMIT_" + kind)) for kind in kinds]
            for kind in kinds:
                number = getattr(resource, "RLIMIT_" + kind)
                try:
                    resource.setrlimit(number, (resource.RLIM_INFINITY,) * 2)
                    found.append(kind)
                except (OSError, ValueError):
                    pass
            return found
    """
    limits = sandbox.Limits(cpu_s=2, memory_mib=300, file_mib=3, open_files=20)
    values = (2, 300 << 20, 3 << 20, 20, 0)
    assert eval(answer(program, tier, limits)) == [(value, value) for value in values]


def test_memory_beyond_the_limit_is_an_error_of_the_program(tier) -> None:
    program = "def add(a, b):\n    return len(bytearray(100 << 20)) * 0 + a + b\n"
    assert judged(program, tier=tier).passed
    verdict = judged(program, tier=tier, limits=sandbox.Limits(memory_mib=100))
    assert not verdict.passed and "MemoryError" in verdict.reason


def test_threads_are_bounded(tier) -> None:
    program = """
        import threading, time
        threading.stack_size(1 << 16)
        def add(a, b):
            for _ in range(500):
                try:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                except RuntimeError:
                    return 0
            time.sleep(30)
            return a + b
    """
    begin = time.monotonic()
    verdict = judged(program, tier=tier)
    assert not verdict.passed and re.search("threads|a test failed", verdict.reason)
    assert time.monotonic() - begin < 10


def test_a_sleeping_program_ends_with_the_wall_limit(tier) -> None:
    begin = time.monotonic()
    program = "import time\ndef add(a, b):\n    time.sleep(60)\n"
    verdict = judged(program, tier=tier, limits=sandbox.Limits(wall_s=0.5))
    assert verdict == sandbox.Verdict(False, "no verdict within 0.5 s")
    assert time.monotonic() - begin < launch._GRACE_S  # the program was killed, not its keeper


def test_arguments_and_results_keep_their_types(tier) -> None:
    program = "def add(*values, **named):\n    return values, named\n"
    tests = """\
        def check(candidate):
            given = (True, 1, 1.0, -0.0, "\\ud800", b"x", None, 10 ** 5000, (1, [2]), {3: {4}}, 1j)
            (back, named) = candidate(*given, key=float("inf"))
            assert back == given and named == {"key": float("inf")}
            assert list(map(type, back)) == list(map(type, given))
            assert str(back[3]) == "-0.0"
            assert candidate(float("nan"))[0][0] != 0
        """
    assert judged(program, textwrap.dedent(tests), tier) == sandbox.Verdict(True, "passed")


def test_what_a_program_does_to_an_argument_stays_with_it(any_tier) -> None:
    program = "def add(items):\n    items.append(1)\n    return items\n"
    tests = (
        "def check(candidate):\n    mine = [0]\n    assert candidate(mine) == [0, 1] != mine == [0]"
    )
    assert judged(program, tests, any_tier).passed


def test_exceptions_cross_as_tests_expect_them(any_tier) -> None:
    program = """
        class Special(KeyError):
            pass
        def add(kind):
            if kind == "special":
                raise Special("text")
            raise {"value": ValueError, "stop": StopIteration, "exit": SystemExit}[kind]("text")
    """
    tests = """\
        def raised(candidate, kind):
            try:
                candidate(kind)
            except Exception as error:
                return type(error).__name__, str(error)
        def check(candidate):
            assert raised(candidate, "value") == ("ValueError", "text")
            assert raised(candidate, "special") == ("KeyError", '"Special: \\'text\\'"')
            assert raised(candidate, "stop")[0] == raised(candidate, "exit")[0] == "CandidateError"
        """
    assert judged(program, textwrap.dedent(tests), any_tier) == sandbox.Verdict(True, "passed")


SWALLOWING = """\
def check(candidate):
    try:
        assert candidate(1, 2) == 3
    except Exception:
        pass
    assert all(map(candidate, [1, 2], [3, 4]))
"""


@pytest.mark.parametrize(
    "body", ["__import__('os')._exit(0)", "raise StopIteration", "raise SystemExit(0)"]
)
def test_a_program_that_ends_cannot_hide_in_a_lenient_test(any_tier, body) -> None:
    assert judged("def add(a, b):\n    return 3\n", SWALLOWING, any_tier).passed
    assert not judged(f"def add(a, b):\n    {body}\n", SWALLOWING, any_tier).passed


@pytest.mark.parametrize("description", [["", ""], "", None, [1, 2], ["x" * 9000, "\x00\ud800"]])
def test_a_forged_error_is_still_a_fail(any_tier, description) -> None:
    program = f"""
        import os, sys
        def add(a, b):
            frame = sys._getframe(1)
            frame.f_locals["channel"].send(
                {{"id": frame.f_locals["request"]["id"], "error": {description!r}}}
            )
            os._exit(0)
    """
    verdict = judged(program, tier=any_tier)
    assert not verdict.passed
    assert 0 < len(verdict.reason) <= 400 and verdict.reason.isprintable()


def test_tests_see_the_helpers_and_the_program_under_its_name(any_tier) -> None:
    tests = "def check(candidate):\n    assert add(twice(2), 1) == 5 and add is candidate\n"
    setup = "def twice(n):\n    return 2 * n\ndef add(a, b):\n    '''Stub.'''\n"
    assert judged("def add(a, b):\n    return a + b\n", tests, any_tier, setup=setup).passed
    assert judged("def add(a, b):\n    return a + b\n", TESTS, any_tier, setup="def add(").passed


def test_random_tests_draw_the_same_numbers_each_time(any_tier) -> None:
    tests = "def check(candidate):\n    import random\n    raise ValueError(random.random())\n"
    program = "def add():\n    pass\n"
    reasons = {judged(program, tests, any_tier, seed=seed).reason for seed in (1, 1, 2)}
    assert len(reasons) == 2


@pytest.mark.parametrize(
    "program",
    [
        "",
        "add = 3",
        "def add(",
        "def add(a: Missing, b: int): return a + b",
        "import nothing_like_it",
        "def add(a, b): return\x00",
        "\ud800",
    ],
)
def test_a_program_that_does_not_load_fails(any_tier, program) -> None:
    verdict = judged(program, tier=any_tier)
    assert not verdict.passed and verdict.reason.startswith("the program does not load")


def test_an_endless_program_text_fails(any_tier) -> None:
    assert "longer than" in judged("#" * 1_000_001, tier=any_tier).reason
    assert judged("#" * 900_000 + "\ndef add(a, b): return a + b", tier=any_tier).passed


def test_a_judge_that_dies_is_no_pass(any_tier) -> None:
    tests = "def check(candidate):\n    import os\n    os._exit(0)\n"
    verdict = judged("def add(a, b):\n    return a + b\n", tests, any_tier)
    assert verdict == sandbox.Verdict(False, "checker error: the judge ended without a verdict")
    assert not judged("def add(a, b): return 0", "check = None", any_tier).passed
    assert not judged("def add(a, b): return 0", "no python", any_tier).passed


def test_a_sandbox_that_does_not_start_is_no_verdict(any_tier, monkeypatch) -> None:
    monkeypatch.setattr(interpreter, "_BOOT", "raise SystemExit('no such thing: {module}')")
    with pytest.raises(sandbox.SandboxError, match="no such thing"):
        judged("def add(a, b): return a + b", tier=any_tier)


def test_nothing_survives_a_worker_that_is_killed(tier, tmp_path) -> None:
    (tmp_path / "endless.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    command = [sys.executable, "-m", "evaluators.sandbox", "--programs", str(tmp_path)]
    root = Path(sandbox.__file__).parents[2]
    before = offspring()
    worker = subprocess.Popen(
        [*command, "--tier", tier],
        cwd=root,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert b"sandbox: " in worker.stderr.readline()
        deadline = time.monotonic() + 20
        family: set[int] = set()
        while len(family) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            family = offspring() - before  # the worker, the judge and the program
    finally:
        worker.kill()
        worker.wait()
        worker.stderr.close()
    assert len(family) >= 3
    deadline = time.monotonic() + 10
    while any(map(_is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in family if _is_alive(pid)]


def _is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("name", sandbox.TIERS)
def test_an_ordinary_user_has_a_sandbox_too(works, tmp_path, name) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    usable(name, works)
    python = next(filter(os.path.exists, ("/usr/bin/python3", "/usr/local/bin/python3")), None)
    package = Path(sandbox.__file__).parent
    if python is None or not interpreter.reachable_by_others([python, str(package)]):
        pytest.skip("no Python, or not this package, is open to other users")
    with open_folder() as folder:
        for path in PROGRAMS:
            if path.stem in (
                "ok_04_tempfile",
                "ok_03_threads",
                "ex_06_kill_parent",
                "fp_05_always_equal",
            ):
                (Path(folder) / path.name).write_text(path.read_text())
        done = subprocess.run(
            [python, "-P", "-c", BARE, str(package.parent), "--programs", folder, "--tier", name],
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
        )
    assert done.stderr == f"sandbox: {name}\n"
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [
        ["ex_06_kill_parent", "fail"],
        ["fp_05_always_equal", "fail"],
        ["ok_03_threads", "pass"],
        ["ok_04_tempfile", "pass"],
    ]


# Forbids system calls as a container does, then runs the command line.
CONTAINER = """\
import ctypes, json, struct, sys
sys.path.insert(0, sys.argv.pop(1))
from evaluators.sandbox import seccomp
code = [(0x20, 0, 0, 0)]
for number in json.loads(sys.argv.pop(1)):
    code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 1)]
code += [(0x06, 0, 0, 0x7FFF0000)]
seccomp.program = lambda name: b"".join(struct.pack("=HBBI", *item) for item in code)
seccomp.no_new_privileges()
seccomp.install()
from evaluators.sandbox.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
NAMESPACES = {"x86_64": [272, 165, 308], "aarch64": [97, 40, 268]}
CLONE = {"x86_64": 56, "aarch64": 220}
LANDLOCK = [444]


def in_container(denied, folder) -> subprocess.CompletedProcess[str]:
    root = str(Path(sandbox.__file__).parents[2])
    arguments = [root, str(denied), "--programs", str(folder)]
    return subprocess.run(
        [sys.executable, "-c", CONTAINER, *arguments], capture_output=True, text=True
    )


def test_where_namespaces_are_forbidden_landlock_is_taken(works, tmp_path) -> None:
    usable("landlock", works)
    (tmp_path / "right.py").write_text("def add(a, b): return a + b\n")
    done = in_container(NAMESPACES[os.uname().machine], tmp_path)
    assert (done.returncode, done.stdout) == (0, "right pass passed\n"), done.stderr
    assert done.stderr == "sandbox: landlock\n"


def test_with_neither_nothing_runs(tmp_path) -> None:
    (tmp_path / "right.py").write_text("def add(a, b): return a + b\n")
    done = in_container([*NAMESPACES[os.uname().machine], *LANDLOCK], tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("right not_executed no sandbox, so that no program runs (bubble")
    assert "landlock: the kernel has no Landlock" in done.stdout


def test_the_best_tier_is_chosen_and_recorded(works) -> None:
    best = next((tier for tier, wrong in works.items() if wrong is None), None)
    found = sandbox.probe()
    assert found.tier == best
    assert found.to_json()["tier"] == best and set(found.to_json()) == {"tier", "tried", "python"}
    assert (best or "no sandbox") in found.reason
    begin = time.monotonic()
    assert sandbox.probe() is found
    assert time.monotonic() - begin < 0.01


@pytest.mark.parametrize(
    ("attribute", "value", "complaint"),
    [
        ("_ESCAPE", "def add():\n    return ['opens a socket']\n", "escapes.*opens a socket"),
        ("_RIGHT", "def add(a, b):\n    return 0\n", "a right program: a test failed"),
        ("_LIAR", "def add(a, b):\n    return a + b\n", "a lying program: passed"),
    ],
)
def test_a_tier_whose_self_test_fails_is_not_used(
    any_tier, monkeypatch, attribute, value, complaint
) -> None:
    monkeypatch.setattr(tiers, attribute, value)
    assert re.search(complaint, sandbox.trial(any_tier))


def test_a_tier_that_is_missing_is_told(monkeypatch) -> None:
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda name: None)
    assert sandbox.trial("bubblewrap") == "bwrap is not installed"
    monkeypatch.setattr(landlock, "_CREATE_RULESET", 10_000)
    assert sandbox.trial("landlock") == "the kernel has no Landlock"
    monkeypatch.setattr(tiers.seccomp, "machine", lambda: "riscv64")
    assert sandbox.trial("landlock") == "unknown machine riscv64"


def test_a_folder_of_the_programs_is_judged_line_by_line(any_tier, tmp_path, capsys) -> None:
    (tmp_path / "right.py").write_text("def add(a, b): return a + b\n")
    (tmp_path / "wrong.py").write_text("def add(a, b): return a - b\n")
    (tmp_path / "notes.txt").write_text("no program")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    assert main(["--programs", str(tmp_path), "--jobs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bytes fail the program does not load: SyntaxError")
    assert lines[1:] == ["right pass passed", "wrong fail a test failed"]


def test_a_folder_without_programs_is_an_error(tmp_path, capsys) -> None:
    assert main(["--programs", str(tmp_path)]) == 2
    assert "no *.py file" in capsys.readouterr().err


def test_what_a_dead_program_left_is_removed_without_following_links(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "link").symlink_to(outside)
    (scratch / "loop").symlink_to(scratch)
    (scratch / "shut").mkdir()
    (scratch / "shut" / "file").write_text("x")
    (scratch / "shut").chmod(0)
    here = os.open(scratch, os.O_RDONLY)
    name = "d" * 200
    for _ in range(40):  # deeper than any path may be long
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    remove(str(scratch))
    assert not scratch.exists()
    assert (outside / "kept").exists()
