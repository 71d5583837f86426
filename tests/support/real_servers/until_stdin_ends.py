"""Runs a module as a program until stdin ends: `python until_stdin_ends.py MODULE ARGUMENTS`.

Then kills its process group, so that a server ends with the test that started it, also with one that was killed.
Imports nothing of this project, because it runs in the servers' own environments, too.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.argv[0]
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
