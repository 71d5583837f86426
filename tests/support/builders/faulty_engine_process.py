"""The engine's own process with faults in it: a script that stands in for the interpreter which the service starts.

The runner, the connection and the model are real; `tests/support/builders/faulty_engine_server.py` says how the model
is made to fail. It comes in when torch does, after the hello, so that the process starts as the real one.
"""

import stat
import sys
from pathlib import Path

from bot.engine.server.runner import Runner
from bot.engine.server.runner import main as serve

DIRECTORY = "BROKEN_ENGINE"
"""The variable that names the directory in which faults are counted."""


def write_script(folder: Path) -> Path:
    """The script, for `sys.executable`."""
    script = folder / "broken-python"
    script.write_text(f"#!{sys.executable}\nfrom tests.support.builders.faulty_engine_process import main\nmain()\n")
    script.chmod(stat.S_IRWXU)
    return script


class BrokenRunner(Runner):
    """A runner whose host fails as it is told to."""

    def run(self) -> None:
        self._heart.start()
        from tests.support.builders.faulty_engine_server import install

        install()
        super().run()


def main() -> None:
    """Serve as the engine does."""
    import bot.engine.server.runner

    bot.engine.server.runner.Runner = BrokenRunner  # type: ignore[misc]  # what main makes
    serve()
