"""`python -m bench.peers`: compares the whole bot with other servers on the same machine, weights and conversations.

Compares transformers' generate() in sequence, its own server with continuous batching, llama.cpp's server, vLLM, and
ours with its own engine and over these two servers: 1, 4, 8 and 16 conversations of three turns, greedy, 64 tokens per
answer, three rounds in which the peers alternate and no prompt repeats. Only one generates at a time. Prints a table,
and writes peers.svg and peers.jsonl into --into. Each uses the dtype that is fastest for it here; llama.cpp uses
float16 weights, as ours does on a CPU that packs.

The first run installs the other servers under the user's cache directory (half an hour, most of it compiling; --install
does only that). After that, a run takes about 25 minutes on two cores and connects only to loopback. generate() is
measured with at most four conversations, because more would only wait in its queue.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

import aiohttp

from bench.asking import measured_cpu
from bench.peering.catalog import LLAMA, PEERS, Ground, Peer
from bench.peering.chart import draw
from bench.peering.endless_model import endless
from bench.peering.environments import CannotInstall, ensure
from bench.peering.gguf_cache import gguf_of
from bench.peering.ports import free_port
from bench.peering.results import Run, figures, keep, read, table
from bench.peering.servers import CannotStart, Server
from bench.peering.talks import Answer, Client, talk
from bot.config.settings import load_settings
from bot.models.catalog import Catalog
from bot.models.hardware import choose_dtype
from bot.models.pull import pull

WARM_UP_TOKENS = 16
SERIAL = 4
"""Most conversations for a serial peer."""


@dataclass
class Field:
    """State of a whole run. `absent`: the reasons for peers that are not measured."""

    given: argparse.Namespace
    model: Path
    logs: Path
    session: aiohttp.ClientSession
    stack: ExitStack
    servers: list[Server] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    async def begin(self, peer: Peer) -> None:
        """Installs, starts and warms up a peer, or records why not."""
        began = monotonic()
        with ExitStack() as started:  # stops a server that failed to start
            try:
                ground = prepare(peer, self.model, self.given)
                if peer.endless:
                    ground = replace(ground, model=endless(self.model, self.logs / f"{peer.name} model"))
                server = Server(peer, ground, self.logs / f"{peer.name}.log")
                started.callback(server.stop)
                await server.ready(self.session)
                _, answers = await talk(self.client(server), f"before {peer.name}", 2, WARM_UP_TOKENS)
                if errors := [answer.error for answer in answers if answer.error]:
                    raise CannotStart(f"does not answer: {errors[0]}")
            except (CannotInstall, CannotStart) as problem:
                self.absent[peer.name] = str(problem)
                print(f"  {peer.name}: {problem}", flush=True)
                return
            self.stack.push(started.pop_all())
        print(f"  {peer.name} ({ground.dtype}) answers after {monotonic() - began:.0f} s", flush=True)
        await server.look()
        server.hold(True)
        self.servers.append(server)

    def client(self, server: Server) -> Client:
        """A client for a server."""
        return Client(self.session, server.url, str(self.model), server.peer.extra(server.ground))

    async def measure(self, server: Server, number: int, conversations: int) -> None:
        """One run of one peer."""
        tokens: int = self.given.tokens
        server.hold(False)
        async with server.weighed() as megabytes:
            seconds, answers = await talk(self.client(server), f"{number}.{conversations}", conversations, tokens)
        server.hold(True)
        good = [answer for answer in answers if not answer.error]
        run = Run(
            peer=server.peer.name,
            dtype=server.ground.dtype,
            round=number,
            conversations=conversations,
            seconds=round(seconds, 3),
            tokens=sum(answer.tokens for answer in good),
            first_ms=milliseconds(answer for answer in good if not answer.turn),
            later_ms=milliseconds(answer for answer in good if answer.turn),
            peak_mb=round(max(megabytes), 1),
            prompt_tokens=sum(answer.prompt_tokens for answer in good),
            short=sum(answer.tokens < tokens for answer in good),
            errors=tuple(answer.error for answer in answers if answer.error),
        )
        keep(run, self.given.into / "peers.jsonl")
        print(f"  {run.peer:10} {run.speed:6.1f} tokens/s   {run.short} short, {len(run.errors)} errors", flush=True)
        if not good:
            self.absent[run.peer] = f"no longer answered in round {number}: {run.errors[0]}"
            self.servers.remove(server)
            server.stop()


def milliseconds(answers: Iterable[Answer]) -> tuple[float, ...]:
    """Times to the first texts."""
    return tuple(round(answer.first_s * 1000, 1) for answer in answers)


def prepare(peer: Peer, model: Path, given: argparse.Namespace) -> Ground:
    """The inputs of a peer's command; installs and converts what is missing."""
    python = ensure(peer.recipe) if peer.recipe else Path(sys.executable)
    dtype: str = peer.dtype or (given.dtype if peer.recipe else given.ours)
    gguf = gguf_of(model, dtype) if peer.recipe is LLAMA else model
    return Ground(model, gguf, dtype, given.tokens, python, free_port())


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--peers", default=",".join(PEERS), help="of " + ", ".join(PEERS))
    parser.add_argument("--conversations", default="1,4,8,16", help="at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="an answer")
    parser.add_argument("--dtype", default="auto", help="auto (what suits the machine), float32 or bfloat16")
    parser.add_argument("--into", type=Path, default=Path(__file__).parent, help="where peers.svg and peers.jsonl go")
    parser.add_argument("--add", action="store_true", help="to the runs that peers.jsonl has already")
    parser.add_argument("--install", action="store_true", help="install the others and end")
    given = parser.parse_args()
    given.peers = given.peers.split(",")
    if unknown := set(given.peers) - set(PEERS):
        parser.error(f"There is no peer called {unknown.pop()}; there are {', '.join(PEERS)}.")
    given.conversations = [int(each) for each in given.conversations.split(",")]
    hardware = measured_cpu()
    given.ours = choose_dtype(given.dtype, hardware)
    given.dtype = choose_dtype(given.dtype, replace(hardware, packs=()))  # only ours packs weights
    return given


async def rounds(field: Field) -> None:
    """Runs every peer with every number of conversations; the first peer changes from round to round."""
    for number in range(field.given.rounds):
        for conversations in field.given.conversations:
            print(f"Round {number + 1}, {conversations} conversations:", flush=True)
            turn = number % max(1, len(field.servers))
            for server in (*field.servers[turn:], *field.servers[:turn]):
                if not server.peer.serial or conversations <= SERIAL:
                    await field.measure(server, number + 1, conversations)


async def main() -> None:
    """Measures, prints and draws."""
    given = arguments()
    settings = load_settings()
    model = pull(Catalog.of(settings).get("smollm2"), settings)
    peers = [PEERS[name] for name in given.peers]
    if given.install:
        for peer in peers:
            prepare(peer, model, given)
        return
    began = monotonic()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # SIGTERM must also stop the servers
    kept = given.into / "peers.jsonl"
    if not given.add:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("", "utf-8")
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            field = Field(given, model, Path(logs), session, stack)
            print("Starting, one after another:", flush=True)
            for peer in peers:
                await field.begin(peer)
            await rounds(field)
    rows = figures(read(kept))
    print(f"\n{table(rows, field.absent)}\n\nIt took {timedelta(seconds=round(monotonic() - began))}.")
    (given.into / "peers.svg").write_text(draw(rows), "utf-8")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit("It was told to stop before its end; peers.jsonl has the runs until then.")
