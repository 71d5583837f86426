"""The methods for files, the assistant view, and views (modals)."""

from dataclasses import dataclass

from aiohttp import web

from tests.support.fakes.slack import checks, payloads
from tests.support.fakes.slack.api import Handler
from tests.support.fakes.slack.asks import Ask, SlackError
from tests.support.fakes.slack.messages import reach, thread
from tests.support.fakes.slack.state import Channel, File, Json
from tests.support.fakes.slack.store import SlackStore

STATUS_S = 120.0
MAX_FILE = 50_000_000


@dataclass
class Status:
    """The status under a thread, with its time span."""

    channel: str
    thread_ts: str
    text: str
    at: float
    until: float


class ExtraMethods:
    """The methods of files.*, assistant.* and views.*."""

    def __init__(self, store: SlackStore, bot_token: str) -> None:
        self._store, self._bot_token = store, bot_token
        self._reserved: dict[str, File] = {}
        self.statuses: list[Status] = []
        self.titles: dict[tuple[str, str], str] = {}
        self.prompts: dict[tuple[str, str], list[Json]] = {}
        self.views: list[Json] = []
        self.triggers: dict[str, float] = {}
        self.statuses_enabled = True
        self.upload_status = 200
        store.spoke = self._spoke

    def methods(self) -> dict[str, Handler]:
        """Method to handler."""
        return {
            "files.getUploadURLExternal": self.reserve,
            "files.completeUploadExternal": self.complete,
            "files.info": self.info,
            "assistant.threads.setStatus": self.set_status,
            "assistant.threads.setTitle": self.set_title,
            "assistant.threads.setSuggestedPrompts": self.set_prompts,
            "views.open": self.open_view,
        }

    # files

    def reserve(self, ask: Ask) -> Json:
        """Reserves an upload URL."""
        name, length = ask.required("filename"), ask.number("length", 0)
        if not 0 < length <= MAX_FILE:
            raise SlackError("file_upload_size_restricted")
        file = self.new_file(name, b"", "text/plain")
        self._reserved[file.id] = file
        return {"upload_url": f"{self._store.base_url}upload/{file.id}", "file_id": file.id}

    def new_file(self, name: str, data: bytes, mimetype: str) -> File:
        """Creates a file of the bot; the caller may set another `user`."""
        store = self._store
        file = File(store.clock.new_id("F"), name, data, mimetype, store.bot, store.clock.now())
        store.files[file.id] = file
        return file

    async def upload(self, request: web.Request) -> web.Response:
        """Stores the content of a reserved file."""
        file = self._reserved.get(request.match_info["file"])
        if file is None:
            return web.Response(status=404)
        if self.upload_status != 200:
            return web.Response(status=self.upload_status)
        file.data = await request.read()
        return web.Response(text=f"OK - {len(file.data)}")

    async def download(self, request: web.Request) -> web.Response:
        """Serves a file's content to tokens with files:read; others get the login page."""
        file = next((each for each in self._store.files.values() if each.id in request.match_info["file"]), None)
        allowed = request.headers.get("Authorization") == f"Bearer {self._bot_token}"
        if not allowed or "files:read" not in self._store.scopes:
            return web.Response(text="<html>log in</html>", content_type="text/html")
        if file is None or file.deleted:
            return web.Response(status=404)
        return web.Response(body=file.data, content_type=file.mimetype)

    def complete(self, ask: Ask) -> Json:
        """Shares uploaded files."""
        told = ask.items("files", "invalid_arguments") or []
        files = [self._reserved.pop(str(each.get("id")), None) for each in told]
        found = [file for file in files if file is not None and file.data]
        if not found or len(found) != len(told):
            raise SlackError("file_not_found")
        if ask.text("channel_id"):
            channel = reach(self._store, ask.text("channel_id"), to_write=True)
            parent = thread(channel, ask.text("thread_ts"))
            self._store.add(channel, self._store.bot, "", thread_ts=parent, subtype="file_share", files=found)
        return {"files": [{"id": file.id, "title": file.title or file.name} for file in found]}

    def info(self, ask: Ask) -> Json:
        """A file."""
        file = self._store.files.get(ask.required("file"))
        if file is None:
            raise SlackError("file_not_found")
        return {"file": payloads.file(file, self._store.base_url)}

    # the assistant view

    def set_status(self, ask: Ask) -> Json:
        """Sets the status under a thread, which ends with the next post there or after two minutes."""
        if not self.statuses_enabled:
            raise SlackError("not_allowed")
        channel, now = reach(self._store, ask.required("channel_id")), self._store.clock.now()
        ts, text = thread(channel, ask.required("thread_ts")), ask.text("status")
        self._end(channel.id, ts)
        self.statuses.append(Status(channel.id, ts, text, now, now + STATUS_S))
        self._store.changes.tell()
        return {}

    def set_title(self, ask: Ask) -> Json:
        """Sets the title of a thread in the assistant view."""
        channel = reach(self._store, ask.required("channel_id"))
        self.titles[channel.id, ask.required("thread_ts")] = ask.required("title")
        self._store.changes.tell()
        return {}

    def set_prompts(self, ask: Ask) -> Json:
        """Sets the suggested prompts."""
        channel = reach(self._store, ask.required("channel_id"))
        prompts = ask.items("prompts", "invalid_arguments") or []
        if not 1 <= len(prompts) <= 4 or not all(each.get("title") and each.get("message") for each in prompts):
            raise SlackError("invalid_arguments")
        self.prompts[channel.id, ask.text("thread_ts")] = prompts
        self._store.changes.tell()
        return {}

    def status_of(self, channel: Channel, thread_ts: str) -> str:
        """The current status under a thread."""
        now = self._store.clock.now()
        shown = [s for s in self.statuses if (s.channel, s.thread_ts) == (channel.id, thread_ts) and s.until > now]
        return shown[-1].text if shown else ""

    def _spoke(self, channel: Channel, thread_ts: str) -> None:
        self._end(channel.id, thread_ts)

    def _end(self, channel: str, thread_ts: str) -> None:
        for status in self.statuses:
            if (status.channel, status.thread_ts) == (channel, thread_ts):
                status.until = min(status.until, self._store.clock.now())

    # views

    def open_view(self, ask: Ask) -> Json:
        """Opens a modal, within three seconds of the trigger."""
        if self.triggers.get(ask.required("trigger_id"), 0.0) < self._store.clock.now() - 3.0:
            raise SlackError("expired_trigger_id")
        view = ask.mapping("view", "invalid_arguments") or {}
        checks.blocks(view.get("blocks") or [], most=100, in_view=True)
        self.views.append(view)
        return {"view": view | {"id": self._store.clock.new_id("V")}}
