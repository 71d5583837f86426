"""Starts real model servers as processes on loopback, which end with the process that started them.

with llama_cpp(folder, logs) as server:
    ...  # the code under test talks to server.url, and asks for server.model
    server.kill()
    server.start()  # on the same port
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.peering.catalog import OFFLINE, VLLM, VLLM_SETTINGS
from bench.peering.environments import ensure
from bench.peering.gguf_cache import gguf_of
from bench.peering.ports import free_port

Json = dict[str, Any]  # Any: values of JSON

UNTIL_STDIN_ENDS = Path(__file__).with_name("until_stdin_ends.py")
ROOT = Path(__file__).parents[3]
START_S = 300.0
VLLM_START_S = 900.0
POLL_S = 0.05
UNTIL_S = 100.0


class RealServer:
    """A server's processes. title: as in `profiles`. model: the id under which it offers SmolLM2."""

    def __init__(
        self,
        title: str,
        model: str,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        start_s: float = START_S,
        environment: Mapping[str, str],
    ) -> None:
        self.title, self.model, self.port, self.log = title, model, port, log
        self._command, self._start_s, self._environment = command, start_s, {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def root(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The API's base."""
        return f"{self.root}/v1"

    @property
    def pid(self) -> int:
        """The first process of its group."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the processes and waits until the server is healthy."""
        self.spawn()
        assert self._process is not None
        until = time.monotonic() + self._start_s
        while not self._healthy():
            assert self._process.poll() is None, f"it ended at its start:\n{self.last_lines()}"
            assert time.monotonic() < until, f"it is not ready after {self._start_s:.0f} s:\n{self.last_lines()}"
            time.sleep(POLL_S)

    def spawn(self) -> None:
        """Starts the processes."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Sends SIGKILL to all its processes and waits for the end of the first."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()

    def ask(self, path: str, body: Json | None = None) -> Any:
        """The JSON answer to a GET, or to a POST of `body`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def until(self, path: str, fits: Callable[[Any], bool]) -> None:
        """Asks until the answer is as wanted."""
        end = time.monotonic() + UNTIL_S
        while not fits(answer := self.ask(path)):
            assert time.monotonic() < end, f"{path} is still {answer}"
            time.sleep(POLL_S)

    def until_metric(self, name: str, value: float) -> None:
        """Reads /metrics until a gauge has a value."""
        end = time.monotonic() + UNTIL_S
        while (found := self._metric(name)) != value:
            assert time.monotonic() < end, f"{name} is still {found}"
            time.sleep(POLL_S)

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=60) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[-1]) for line in lines if line.startswith(f"{name}{{"))

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-20:])

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.root}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def llama_cpp(
    folder: Path,
    logs: Path,
    *,
    dtype: str = "float16",
    slots: int = 4,
    window: int = 2048,
    mmproj: Path | None = None,
    template: str = "",
) -> RealServer:
    """llama.cpp's server with a model directory's weights, on one core.

    window: tokens of a slot. mmproj: the file of the part that reads pictures. template: instead of the model's.
    """
    port = free_port()
    program = "tests.support.real_servers.llama_cpp_program"
    room = ("--parallel", str(slots), "--ctx-size", str(slots * window), "--threads", "1")
    where = ("--model", str(gguf_of(folder, dtype)), "--alias", "smollm2", "--port", str(port))
    sees = ("--mmproj", str(mmproj)) if mmproj is not None else ()
    how = ("--chat-template", template) if template else ()
    command = (sys.executable, str(UNTIL_STDIN_ENDS), program, *where, *room, *sees, *how)
    shown = {"LLAMA_SERVER_SLOTS_DEBUG": "1"}  # /slots has the prompts
    return RealServer("llama.cpp", "smollm2", command, port, logs / f"llama_cpp-{port}.log", environment=shown)


def transformers_serve(folder: Path, logs: Path) -> RealServer:
    """`transformers serve` of a model directory, without batching, in the weights' own type."""
    port = free_port()
    module = "transformers.cli.transformers"
    where = ("--device", "cpu", "--host", "127.0.0.1", "--port", str(port))
    command = (sys.executable, str(UNTIL_STDIN_ENDS), module, "serve", str(folder), *where)
    environment = {**OFFLINE, "OMP_NUM_THREADS": "1"}
    return RealServer(
        "transformers serve", str(folder), command, port, logs / f"serve-{port}.log", environment=environment
    )


def vllm(folder: Path, logs: Path, *, dtype: str = "bfloat16", slots: int = 16, window: int = 2048) -> RealServer:
    """vLLM's CPU build, from an environment in the user's cache that is installed if missing."""
    port = free_port()
    module = "vllm.entrypoints.cli.main"
    room = ("--max-model-len", str(window), "--max-num-seqs", str(slots), "--enforce-eager")
    where = ("--dtype", dtype, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "smollm2")
    command = (str(ensure(VLLM)), str(UNTIL_STDIN_ENDS), module, "serve", str(folder), *where, *room)
    environment = {**OFFLINE, **VLLM_SETTINGS}
    log = logs / f"vllm-{port}.log"
    return RealServer("vLLM", "smollm2", command, port, log, start_s=VLLM_START_S, environment=environment)
