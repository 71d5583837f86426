"""Downloads and decodes the files of a Slack message: text files and pictures; others become a sentence.

The bot's token is sent only to Slack hosts, and Slack's sign-in page is not mistaken for a file.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.error_mapping import mapped_errors
from adapters.slack.inbound.context_deadline import ContextDeadline
from adapters.slack.json_fields import body_of, object_of
from adapters.slack.payloads import SlackFile, file_of
from adapters.slack.web_client import proxy_for, session_of
from bot.platforms.pictures import MAX_PICTURE_BYTES, PictureReader, is_picture, picture_refusal
from bot.platforms.textfiles import MAX_BYTES, MAX_FILES, Files, gathered, read_as_text, refusal
from bot.types.display_names import as_code
from bot.types.errors import AdapterError
from bot.types.messages import Attachment, Picture

SCOPE = "files:read"
PICTURE_S = 2.5
"""Extra seconds for a picture; the event is still acknowledged then, if late."""
HOSTS = ("slack.com", "slack-gov.com", "slack-files.com")


class FileReader:
    """Downloads files with the bot's token."""

    def __init__(self, web: AsyncWebClient, identity: GetIdentity) -> None:
        self._web, self._identity = web, identity
        self._pictures = PictureReader()

    async def read(self, files: Sequence[SlackFile], deadline: ContextDeadline) -> Files:
        """Download and decode the files of a message; raises nothing."""
        found = await asyncio.gather(*(self._read(file, deadline) for file in files[:MAX_FILES]))
        return gathered(found, len(files))

    async def _read(self, file: SlackFile, deadline: ContextDeadline) -> Attachment | Picture | str:
        """One file, or a sentence why it was skipped."""
        picture = is_picture(file.name, file.media_type)
        if sentence := (picture_refusal if picture else refusal)(file.name, file.size):
            return sentence
        name = as_code(file.name)
        if file.deleted or file.external:
            return f"{name} is not on Slack itself, so I could not read it."
        if SCOPE not in self._identity().scopes:
            return f"I may not read files here (an admin of mine can add the scope {SCOPE}), so I left out {name}."
        late = f"{name} could not be fetched from Slack in time, so I left it out."
        if picture:
            reading: Awaitable[Picture | str] = self._pictures.read(
                file.name, partial(self._fetch, file, MAX_PICTURE_BYTES)
            )
            return await deadline.limit(reading, late, PICTURE_S)
        return await deadline.limit(self._read_text(file), late)

    async def _read_text(self, file: SlackFile) -> Attachment | str:
        data = await self._fetch(file, MAX_BYTES)
        if isinstance(data, str):
            return data
        return refusal(file.name, len(data)) or await asyncio.to_thread(read_as_text, file.name, data)

    async def _fetch(self, file: SlackFile, most: int) -> bytes | str:
        """Up to `most` bytes plus one chunk of a file, or a sentence if it cannot be fetched."""
        failed = f"{as_code(file.name)} could not be fetched from Slack, so I left it out."
        try:
            if not file.url:
                async with mapped_errors():
                    answer = await self._web.files_info(file=file.id)
                file = file_of({**object_of(body_of(answer), "file"), "file_access": ""})
            data = await self._download(file, most)
        except (AdapterError, aiohttp.ClientError, OSError, ValueError):
            return failed
        return failed if data is None else data

    async def _download(self, file: SlackFile, most: int) -> bytes | None:
        """Download up to `most` bytes plus one chunk; None if the response is not the file."""
        if not self._is_slacks(file.url):
            return None
        token = {"Authorization": f"Bearer {self._web.token}"}
        async with (
            session_of(self._web) as session,
            session.get(file.url, headers=token, proxy=proxy_for(file.url)) as answer,
        ):
            if answer.status != 200 or (answer.content_type == "text/html" and "html" not in file.media_type):
                return None
            data = bytearray()
            async for chunk in answer.content.iter_chunked(65_536):
                data += chunk
                if len(data) > most:
                    break
            return bytes(data)

    def _is_slacks(self, url: str) -> bool:
        """Whether the bot's token may be sent to this address."""
        parts, api = urlsplit(url), urlsplit(self._web.base_url)
        host = parts.hostname or ""
        ours = any(host == each or host.endswith(f".{each}") for each in HOSTS) and parts.scheme == "https"
        return ours or (parts.scheme, parts.netloc) == (api.scheme, api.netloc)
