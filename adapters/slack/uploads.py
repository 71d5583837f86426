"""Files onto Slack: reserved, uploaded, shared.

In: text with a name, and where it belongs. Out: a file there. Until it is shared nobody sees it, so only that step must
not be done twice.
"""

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import mapped
from bot.messages import Attachment


async def upload(web: AsyncWebClient, file: Attachment, channel: str, thread: str = "") -> None:
    """Share a file in a channel, or in a thread of it. Raises RetryLater, Rejected, or OutcomeUnknown."""
    data = file.text.encode()
    async with mapped():
        reserved = await web.files_getUploadURLExternal(filename=file.name, length=len(data))
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=web.timeout)) as session,
            session.post(str(reserved["upload_url"]), data=data, proxy=web.proxy) as answer,
        ):
            answer.raise_for_status()
    async with mapped(posting=True):
        await web.files_completeUploadExternal(
            files=[{"id": str(reserved["file_id"]), "title": file.name}],
            channel_id=channel,
            thread_ts=thread or None,
        )
