"""Injects faults into the real engine process: a script that replaces the interpreter which the service starts.

The runner, the connection and the model are real; `tests/support/builders/faulty_engine_server.py` makes the model
fail. Faults are installed when torch is imported, after the hello message, so that the process starts like the real
one.
"""

import stat
import sys
from pathlib import Path

from bot.engine.server.runner import Runner
from bot.engine.server.runner import main as serve

DIRECTORY = "BROKEN_ENGINE"
"""Environment variable with the directory in which faults are counted."""


def write_script(folder: Path) -> Path:
    """Writes the script that replaces `sys.executable`; its path."""
    script = folder / "broken-python"
    script.write_text(f"#!{sys.executable}\nfrom tests.support.builders.faulty_engine_process import main\nmain()\n")
    script.chmod(stat.S_IRWXU)
    return script


class BrokenRunner(Runner):
    """A runner whose EngineServer injects faults."""

    def run(self) -> None:
        self._heartbeat.start()
        from tests.support.builders.faulty_engine_server import install

        install()
        super().run()


def main() -> None:
    """Runs the engine's main function with a BrokenRunner."""
    import bot.engine.server.runner

    bot.engine.server.runner.Runner = BrokenRunner  # type: ignore[misc]  # the class that main instantiates
    serve()
