"""Forks real services with a scripted platform and engine, in processes that a test can kill.

`python -m tests.support.fakes.scripted_service` imports all modules once and then reads commands on stdin. `start ROOT
PORT` forks a service and prints its process id: tests.support.builders.service.make_settings makes ROOT, PORT is a
World's. `wait PID` prints the exit status after the exit. Answers wait at the World's gates, which survive these
processes.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch

from bot.cli.run import serve
from bot.types.errors import EX_CONFIG, ConfigError
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_engine import ScriptedEngine


def run_service(root: Path, port: int) -> int:
    """Serves until SIGTERM; the exit status of `inhouse run`."""
    adapter = ScriptedAdapter(port)
    engine = ScriptedEngine(adapter.passing)
    try:
        with patch("bot.models.installed_models.probe", return_value=MACHINE):
            asyncio.run(serve(make_settings(root), [adapter], engine, (signal.SIGTERM,)))
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return EX_CONFIG
    return 0


def main() -> None:
    """Executes commands until stdin ends."""
    for line in sys.stdin:
        order, *words = line.split()
        if order == "wait":
            _, status = os.waitpid(int(words[0]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        process = os.fork()
        if process == 0:
            os._exit(run_service(Path(words[0]), int(words[1])))
        print(process, flush=True)


if __name__ == "__main__":
    main()
