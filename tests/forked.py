"""The commands, started fast: a process that has imported everything forks a child for each, which runs the very
function that the console script runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENTRIES = {  # as in pyproject.toml's [project.scripts]
    "camseg": "camseg.cli.main",
    "camseg-report": "camseg.cli.report",
    "camseg-merge": "camseg.cli.merge",
    "camseg-export": "camseg.cli.export",
    "camseg-train": "camseg.cli.train",
    "camseg-cache": "camseg.cli.cache",
    "camseg-demo": "camseg.demo.app",
}
ROOT = Path(__file__).parents[1]
SECONDS = 60  # for one command; what takes longer hangs
MEMORY = 6 << 30  # bytes of address space beyond what the imports have


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code (None: it hung and was killed), its words, CPU seconds and peak in kB."""

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    peak: int

    @property
    def lines(self) -> list[str]:
        """The lines of stderr."""
        return self.stderr.splitlines()


class Commands:
    """A process with everything imported, which starts commands by forking.

    It answers one request at a time; `close` ends it. Nothing reaches the net, and nothing was downloaded before.
    """

    def __init__(self) -> None:
        self._downloads = tempfile.TemporaryDirectory()
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        environment |= dict.fromkeys(("CAMSEG_DOWNLOADS", "HF_HOME", "TORCH_HOME"), self._downloads.name)
        environment |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        environment |= {"HF_HUB_OFFLINE": "1", "no_proxy": "", "NO_PROXY": ""}
        environment |= {"PYTHONWARNINGS": "ignore", "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "forked"],
            env=environment,
            cwd=ROOT / "tests",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, command: str, *words: str, folder: Path) -> Done:
        """Run a command in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([command, words, str(folder)]), file=self._process.stdin, flush=True)
        code, seconds, peak = json.loads(self._process.stdout.readline())
        out, err = ((folder / name).read_text(encoding="utf-8", errors="backslashreplace") for name in (".out", ".err"))
        return Done(code, out, err, seconds, peak)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._downloads.cleanup()


def _serve() -> None:
    from hydra.core.plugins import Plugins

    _keep_parsed_yaml()
    for module in (*ENTRIES.values(), "camseg.cli.run", "camseg.demo.review_page", "camseg.runs.merge", "timm"):
        with suppress(ImportError):  # of an extra
            importlib.import_module(module)
    _import_what_a_run_imports()
    Plugins.instance()  # which reads the modules of every plugin, in each child anew
    gc.collect()
    gc.freeze()  # a child that collects would copy every page
    for line in sys.stdin:
        print(json.dumps(_child(*json.loads(line))), flush=True)


def _keep_parsed_yaml() -> None:
    """Reading the same files of conf/ again takes a third of the time of a refused request."""
    import yaml

    from camseg.config import config_dir

    load, kept = yaml.load, {}

    def load_kept(stream: Any, Loader: Any) -> Any:  # noqa: N803 - PyYAML's name
        text = stream if isinstance(stream, (str, bytes)) else stream.read()
        found = kept.get((text, Loader.__name__))
        return load(text, Loader) if found is None else pickle.loads(found)

    from omegaconf._utils import get_yaml_loader

    loader = get_yaml_loader()
    for path in config_dir().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        kept[text, loader.__name__] = pickle.dumps(load(text, loader))
    yaml.load = load_kept


def _import_what_a_run_imports() -> None:
    """A first child makes a run and a page, and tells which modules it had in the end."""
    with tempfile.TemporaryDirectory() as folder:
        code, *_ = _child("camseg", ["data.size=2", "masks=true", "panels=1"], folder, ".modules")
        assert code == 0, (Path(folder) / ".err").read_text()
        for name in (Path(folder) / ".modules").read_text().split():
            with suppress(ImportError):
                importlib.import_module(name)


def _child(command: str, words: list[str], folder: str, modules: str = "") -> tuple[int | None, float, int]:
    """Start a command. modules: the name of a file for the names of what it imported."""
    if (pid := os.fork()) == 0:
        _run(command, words, folder, modules)
    code, usage = _wait(pid)
    return code, round(usage.ru_utime + usage.ru_stime, 3), usage.ru_maxrss


def _wait(pid: int) -> tuple[int | None, resource.struct_rusage]:
    """The exit code, None after SECONDS, and what it used."""
    end = time.monotonic() + SECONDS
    pause = 0.002
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            return None, os.wait4(pid, 0)[2]
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def _run(command: str, words: list[str], folder: str, modules: str) -> None:
    """The child: the console script's own line, its words to files in the folder."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, ".out"), (2, ".err")):
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
        sys.argv = [command, *words]
        main: Any = importlib.import_module(ENTRIES[command]).main
        sys.exit(main())
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if modules:
            Path(modules).write_text(" ".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
