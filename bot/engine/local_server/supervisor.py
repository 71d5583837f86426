"""Runs a server as its child and kills the whole process group once Inhouse is gone. A script: its imports are few.

`python -I supervisor.py OOM_SCORE COMMAND...`, as the leader of a process group; stdin is a pipe that Inhouse holds
open. SIGTERM is passed on to the server. When the server ends, the supervisor prints how (`STATUS`) and kills what the
server left in the group, and so itself.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

STATUS = "inhouse-supervisor: the server ended with status "
"""Begins the last line of the output; the return code follows, negative for a signal."""


def main() -> None:
    """Run the command of the arguments until it ends or stdin does. Never returns."""
    score, *command = sys.argv[1:]
    if score:  # of the server from its beginning
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(score)
    # Handlers, since the server would inherit ignored signals. A terminal's SIGINT does not reach this session.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]}: {error.strerror or error}", flush=True)
        _end(127)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    threading.Thread(target=_kill_with_parent, daemon=True).start()
    _end(server.wait())


def _kill_with_parent() -> None:
    """Wait for the end of stdin, which comes when Inhouse ends, also by SIGKILL."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def _end(status: int) -> None:
    with contextlib.suppress(OSError):  # Inhouse is gone
        print(f"\n{STATUS}{status}", flush=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
