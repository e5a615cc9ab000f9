"""Files are written whole or not at all: kills, threads, full disks, links, modes, stale drafts."""

import ast
import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gpuprop
from gpuprop.io import replacing
from gpuprop.training import History

SUFFIXES = [".npz", ".safetensors"]


def write(path, text="new"):
    with replacing(path) as file:
        file.write(text)


def write_history(method):
    def write(path):
        history = History()
        history.rows.append({"epoch": 1, "loss": 0.5})
        getattr(history, method)(path)
    return write


WRITERS = {
    "replacing": write,
    "npz": lambda path: gpuprop.save(path, {"a": np.ones(3)}),
    "safetensors": lambda path: gpuprop.save(path, {"a": np.ones(3)}),
    **{name: write_history(f"to_{name}") for name in ("csv", "json", "jsonl")},
    "png": write_history("plot"),
}


@pytest.fixture(params=WRITERS)
def writer(request):
    return request.param, WRITERS[request.param]


def drafts(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".draft")]


WRITING_CALLS = {"write_text", "write_bytes", "tofile", "save", "savez", "savez_compressed",
                 "savetxt", "memmap", "mkstemp", "NamedTemporaryFile", "rename", "replace"}


def written_files(tree):
    """The calls in a module that write files: open() with a mode, and functions of libraries."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = ast.unparse(getattr(call.func, "value", ast.Constant("")))
        modes = [a.value for a in (*call.args, *(k.value for k in call.keywords))
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name == "open" and any(set(mode) & set("wax+") for mode in modes if len(mode) < 4):
            yield call
        if name in WRITING_CALLS and owner in ("np", "numpy", "os", "tempfile", "shutil", "path"):
            yield call


def test_the_library_writes_files_nowhere_else():
    root = Path(gpuprop.__file__).parent
    files = [*root.rglob("*.py"), *(root.parent / "backends").rglob("*.py")]
    assert len(files) > 100
    found = {str(path.relative_to(root.parent)) for path in files
             if any(written_files(ast.parse(path.read_text(encoding="utf-8"))))}
    allowed = {"gpuprop/io/_npz.py": "an entry of an archive that `replacing` opened",
               "gpuprop/_bench/measure.py": "the system's counter of memory"}
    assert found <= allowed.keys()


# ---- threads and processes -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_threads_that_save_and_load_one_path(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    states = [{"w": np.full(2000 * (k + 1), k), "k": k} for k in range(4)]
    gpuprop.save(path, states[0])
    errors, saving = [], threading.Event()

    def run(loop):
        try:
            loop()
        except Exception as e:
            errors.append(e)

    def save_often(k):
        for _ in range(25):
            gpuprop.save(path, states[k])

    def load_often():
        while not saving.is_set():
            state = gpuprop.load(path)
            np.testing.assert_array_equal(state["w"], states[state["k"]]["w"])

    savers = [threading.Thread(target=run, args=[lambda k=k: save_often(k)]) for k in range(4)]
    loaders = [threading.Thread(target=run, args=[load_often]) for _ in range(2)]
    for thread in savers + loaders:
        thread.start()
    for thread in savers:
        thread.join()
    saving.set()
    for thread in loaders:
        thread.join()
    assert errors == [] and list(tmp_path.iterdir()) == [path]


KILLS = """
import os, random, signal, sys, time
import numpy as np
import gpuprop

path = sys.argv[1]
states = [{"w": np.full(100_000, k), "k": k} for k in range(2)]
gpuprop.save(path, states[0])
killed_with_draft = 0
for attempt in range(50):
    child = os.fork()
    if not child:
        while True:
            for state in states:
                gpuprop.save(path, state)
    time.sleep(random.uniform(0.001, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = gpuprop.load(path)
    assert (state["w"] == state["k"]).all()
    left = [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".draft")]
    killed_with_draft += bool(left)
    assert len(left) <= 1, left  # the next process removed the draft of the one before
gpuprop.save(path, states[1])
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
assert gpuprop.load(path)["k"] == 1
print(killed_with_draft)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fifty_kills(tmp_path, suffix):
    result = subprocess.run([sys.executable, "-c", KILLS, str(tmp_path / f"a{suffix}")],
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 5, "most kills must hit a save"


def test_a_live_draft_is_not_removed(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first:
        first.write("first")
        write(path, "second")
        assert len(drafts(tmp_path)) == 1
    assert path.read_text() == "first" and drafts(tmp_path) == []


def test_a_draft_of_another_live_process_is_not_removed(tmp_path):
    code = ("import sys; from gpuprop.io import replacing\n"
            "with replacing(sys.argv[1]) as file:\n"
            "    file.write('theirs'); print(flush=True); input()")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a.txt")], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    write(tmp_path / "a.txt", "ours")
    assert len(drafts(tmp_path)) == 1
    child.communicate("\n")
    assert child.returncode == 0 and (tmp_path / "a.txt").read_text() == "theirs"


def test_only_drafts_are_removed(tmp_path):
    token = "0123456789abcdef"
    stale = tmp_path / f".a.txt.{token}.draft"
    kept = [tmp_path / f".b.txt.{token}.draft", tmp_path / ".a.txt.notes.draft",
            tmp_path / f".a.txt.{token}.draft.txt"]
    for path in (stale, *kept):
        path.write_text("x")
    target = tmp_path / "target"
    target.write_text("x")
    link = tmp_path / ".a.txt.fedcba9876543210.draft"
    link.symlink_to(target)
    write(tmp_path / "a.txt")
    assert not stale.exists() and all(path.exists() for path in (*kept, target))


# ---- failures ------------------------------------------------------------------------------------


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk(tmp_path, writer, old):
    name, write = writer
    path = tmp_path / f"a.{name}"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(OSError) as caught, file_size_limit(1):
        write(path)
    assert "an existing file is unchanged" in caught.value.__notes__[0]
    assert str(path) in caught.value.__notes__[0]
    assert drafts(tmp_path) == []
    assert path.read_bytes() == old if old is not None else not path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, ZeroDivisionError])
def test_exceptions(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as file:
        file.write("new")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# an interrupt between open() and its `with` leaves the file to the garbage collector
def test_an_interrupt_before_the_draft_has_a_name(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("secrets.token_hex", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gpuprop.save(tmp_path / "a.npz", {"a": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_save(tmp_path):
    path = tmp_path / "a.npz"
    gpuprop.save(path, {"a": np.zeros(1)})
    for delay in np.linspace(0.001, 0.02, 10):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            for n in range(10_000):
                gpuprop.save(path, {"a": np.full(10_000, n)})
        a = gpuprop.load(path)["a"]
        assert (a == a[0]).all()
    gpuprop.save(path, {})
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_writing_to_the_disk(tmp_path, writer, monkeypatch):
    """The file is on the disk before it gets its name, and then the name."""
    name, write = writer
    path, calls = tmp_path / f"a.{name}", []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        mode = os.fstat(descriptor).st_mode
        calls.append("folder" if stat.S_ISDIR(mode) else "file")
        assert path.exists() == (calls[-1] == "folder")
        assert stat.S_ISDIR(mode) or os.fstat(descriptor).st_size > 0, "flushed before"
        fsync(descriptor)

    def watched_replace(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write(path)
    assert calls == ["file", "rename", "folder"]


# ---- modes, links and special files --------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o755, 0o200])
def test_the_mode_is_kept(tmp_path, writer, mode):
    name, write = writer
    path = tmp_path / f"a.{name}"
    path.write_bytes(b"the old text")
    path.chmod(mode)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() != b"the old text"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path, writer, umask):
    name, write = writer
    before = os.umask(umask)
    try:
        write(tmp_path / f"a.{name}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"a.{name}").stat().st_mode) == 0o666 & ~umask


def test_a_draft_is_no_more_readable_than_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0o600)
    with replacing(path):
        draft, = drafts(tmp_path)
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600


def test_the_owner_is_kept(tmp_path, monkeypatch):
    owners = []
    monkeypatch.setattr(os, "fchown", lambda descriptor, *owner: owners.append(owner))
    path = tmp_path / "a.txt"
    write(path)
    assert owners == []
    write(path)
    assert owners == [(path.stat().st_uid, path.stat().st_gid)]


def test_a_group_that_cannot_be_kept_gets_no_more_than_others(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError

    path = tmp_path / "a.txt"
    for mode, expected in [(0o660, 0o600), (0o664, 0o644), (0o646, 0o646), (0o6755, 0o755)]:
        path.write_text("old")
        path.chmod(mode)
        monkeypatch.setattr(os, "fchown", refuse)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_link_stays_and_its_target_is_replaced(tmp_path, writer):
    name, write = writer
    folder = tmp_path / "data"
    folder.mkdir()
    target, link = folder / "target", tmp_path / f"a.{name}"
    link.symlink_to(Path("data", "target"))
    for _ in range(2):  # first a dangling link
        write(link)
        assert link.is_symlink() and target.is_file() and not target.is_symlink()
        assert drafts(tmp_path) == drafts(folder) == []
    target.chmod(0o600)
    write(link)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_link_planted_at_the_name_of_the_draft(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("unharmed")
    for name in ("0" * 16, str(os.getpid())):
        monkeypatch.setattr("secrets.token_hex", lambda n, name=name: name)
        planted = tmp_path / f".a.txt.{name}.draft"
        planted.symlink_to(victim)
        with pytest.raises(FileExistsError):
            write(tmp_path / "a.txt")
        planted.unlink(missing_ok=True)
        planted.symlink_to(tmp_path / "nothing")
        with pytest.raises(FileExistsError):
            write(tmp_path / "a.txt")
    assert victim.read_text() == "unharmed" and not (tmp_path / "nothing").exists()


def test_folders_and_loops(tmp_path, writer):
    name, write = writer
    (tmp_path / f"a.{name}").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / f"a.{name}")
    (tmp_path / f"b.{name}").symlink_to(f"b.{name}")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / f"b.{name}")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pipe_is_written_to(tmp_path, suffix):
    pipe, copy = tmp_path / f"pipe{suffix}", tmp_path / f"copy{suffix}"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: copy.write_bytes(pipe.read_bytes()))
    reader.start()
    gpuprop.save(pipe, {"a": np.arange(3), "n": 1})
    reader.join()
    assert gpuprop.load(copy)["a"].tolist() == [0, 1, 2] and pipe.is_fifo()


def test_the_longest_names(tmp_path):
    for name in ("n" * 255, "数" * 85, "a" * 251 + ".npz"):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"
    assert drafts(tmp_path) == []


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for anyone but the superuser
    with pytest.raises(PermissionError, match="read-only"):
        write(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"]])
def test_other_types_of_paths(path):
    with pytest.raises(TypeError, match="path must be a path"):
        write(path)
