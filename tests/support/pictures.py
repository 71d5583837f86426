"""Makes the README's pictures: `python -m tests.support.pictures [DIRECTORY]` writes conversation.png and terminal.svg.

The Discord picture shows messages that the real Discord adapter posted to the fake platform, with scripted answers. The
terminal picture is `inhouse chat` with the real SmolLM2 in a pseudo-terminal, which needs `inhouse pull smollm2` first.
Chromium shows the thumbs only where an emoji font is installed (Debian: fonts-noto-color-emoji).
"""

import asyncio
import html
import io
import os
import pty
import sys
import tempfile
import time
from pathlib import Path

import pyte
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text

from tests.support.builders.discord_service import DiscordServiceSetup, run_discord_service
from tests.support.chromium import run_chromium
from tests.support.fakes.discord import FakeDiscord, Message
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

QUESTIONS = (
    "How do I see the last ten lines of a log, in Python and in bash?",
    "Which of our services write to that log?",
    "Summarise yesterday's incident in two sentences, please.",
)
ANSWER = """In Python, keep only the newest lines while you read:

~~~python
from collections import deque

with open("app.log") as log:
    print(*deque(log, maxlen=10), sep="")
~~~

In bash it is `tail -n 10 app.log`.

| | reads | follows |
| --- | --- | --- |
| `deque` | the whole file | no |
| `tail -f` | its end | yes |"""
GROWING = "Three of them do: **billing**, which logs every invoice, **mailer**, and the nightly backup"

STYLE = """
body { margin: 0; background: #313338; color: #dbdee1; font: 16px/1.4 "DejaVu Sans", sans-serif; width: 860px }
main { padding: 18px 22px } article { display: flex; gap: 14px; margin-bottom: 18px }
i.face { flex: none; width: 40px; height: 40px; border-radius: 50%; color: #fff; font: 600 18px/40px "DejaVu Sans";
  text-align: center } h2 { margin: 0 0 2px; font-size: 15px; color: #f2f3f5 } p { margin: 2px 0 8px }
.bot { background: #5865f2; border-radius: 4px; font-size: 10px; padding: 1px 5px; margin-left: 6px; color: #fff }
.quote { color: #949ba4; font-size: 13px; margin-bottom: 3px } code { background: #2b2d31; border-radius: 3px;
  padding: 1px 4px; font-size: 14px } pre { background: #2b2d31; border: 1px solid #1e1f22; border-radius: 4px;
  padding: 9px; margin: 4px 0 8px } pre code { padding: 0 } .mention { background: #3c4270; color: #c9cdfb;
  border-radius: 3px; padding: 0 3px } button { background: #4e5058; color: #fff; border: 0; border-radius: 4px;
  font: 14px "DejaVu Sans"; padding: 7px 14px; margin: 2px 6px 0 0 } .danger { background: #da373c }
"""
FACES = {"ana": "#23a55a", "ben": "#e67e22", "Inhouse": "#5865f2"}


async def take_discord(target: Path, scratch: Path) -> None:
    """Takes a picture of a finished, a running and a queued answer in the layout of Discord's client."""
    gates = Gates()
    engine = ScriptedEngine(gates.passing, max_running=1)
    engine.answers(QUESTIONS[0], ANSWER)
    engine.answers(QUESTIONS[1], GROWING + " and two more")
    async with FakeDiscord() as server, run_discord_service(scratch, server, engine=engine) as setup:
        first = await setup.ana.says(setup.general, QUESTIONS[0], mention=True)
        await setup.answer_to(first)
        point = f"{QUESTIONS[1]}/{len(GROWING.split())}"
        gates.hold(point)
        for who, text in ((setup.ben, QUESTIONS[1]), (setup.ana, QUESTIONS[2])):
            await who.says(setup.general, text, mention=True)
        await server.until(lambda: "backup" in shown_text(setup) and "in line" in shown_text(setup))
        page = scratch / "page.html"
        page.write_text(_page(setup), "utf-8")
        async with run_chromium() as browser:
            tab = await browser.new_page(viewport={"width": 860, "height": 400})
            await tab.goto(page.as_uri())
            await tab.screenshot(path=target, full_page=True)
        await gates.open(point)


def shown_text(setup: DiscordServiceSetup) -> str:
    """The whole text of the channel."""
    return "\n".join(message.content for message in setup.general.history)


def _page(setup: DiscordServiceSetup) -> str:
    articles = "".join(map(_article, setup.general.history))
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><main>{articles}</main>"


def _article(message: Message) -> str:
    mention, is_bot = "<span class=mention>@Inhouse</span>", message.author.bot
    name = "Inhouse" if is_bot else message.author.name
    body = MarkdownIt("js-default", {"linkify": False, "breaks": True}).disable("table").render(_words(message))
    body = body.replace("@Inhouse", mention)
    quote = f"<div class=quote>↱ {html.escape(_words(message.reference))}</div>" if message.reference else ""
    buttons = "".join(
        f"<button class={'danger' if each.get('style') == 4 else 'plain'}>{html.escape(_label(each))}</button>"
        for each in message.buttons
    )
    badge = "<span class=bot>APP</span>" if is_bot else ""
    face = f'<i class=face style="background:{FACES[name]}">{name[0].upper()}</i>'
    return f"<article>{face}<div>{quote}<h2>{name}{badge}</h2>{body}{buttons}</div></article>"


def _words(message: Message) -> str:
    first, _, rest = message.content.partition(" ")
    return f"@Inhouse {rest}" if first.startswith("<@") else message.content


def _label(button: dict[str, object]) -> str:
    emoji = button.get("emoji")
    return str(button.get("label") or (emoji.get("name") if isinstance(emoji, dict) else ""))


def take_terminal(target: Path, scratch: Path) -> None:
    """Takes a picture of two questions to SmolLM2 in a terminal of 90 columns."""
    screen = pyte.Screen(90, 24)
    stream = pyte.ByteStream(screen)
    process, terminal = pty.fork()
    if process == 0:
        os.environ |= {"INHOUSE_STATE_DIR": str(scratch), "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm-256color"}
        os.execv(sys.executable, [sys.executable, "-m", "bot.cli", "chat", "--temperature", "0"])
    os.set_blocking(terminal, False)

    def read_until(words: str, times: int = 1) -> None:
        until = time.monotonic() + 100
        while "\n".join(screen.display).count(words) < times:
            assert time.monotonic() < until, "\n".join(screen.display)
            try:
                stream.feed(os.read(terminal, 65536))
            except BlockingIOError:
                time.sleep(0.05)

    read_until("smollm2")
    for number, question in enumerate(("What is the capital of France?", "And of Italy?"), 1):
        os.write(terminal, f"{question}\r".encode())
        read_until("tokens/s", number)
    console = Console(width=90, record=True, file=io.StringIO())
    lines = [_styled(screen, row) for row in range(24)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    console.print(Text("\n").join(lines))
    os.close(terminal)
    console.save_svg(str(target), title="make run")


def _styled(screen: pyte.Screen, row: int) -> Text:
    line = Text()
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        colour = "" if cell.fg == "default" else (f"#{cell.fg}" if len(cell.fg) == 6 and cell.fg.isalnum() else cell.fg)
        style = " ".join(filter(None, ["bold" if cell.bold else "", "italic" if cell.italics else ""]))
        line.append(cell.data, style=f"{style} {_known(colour)}".strip())
    return line


def _known(colour: str) -> str:
    return colour.replace("bright", "bright_") if not colour.startswith("#") else colour


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else "docs")
    with tempfile.TemporaryDirectory() as scratch_:
        asyncio.run(take_discord(folder / "conversation.png", Path(scratch_)))
    with tempfile.TemporaryDirectory() as scratch_:
        take_terminal(folder / "terminal.svg", Path(scratch_))
