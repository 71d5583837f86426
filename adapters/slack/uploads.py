"""Files onto Slack: reserved, uploaded, shared.

In: text with a name, and where it belongs. Out: a file there. Raises what slack_sdk raises.
"""

import aiohttp
from slack_sdk.web.async_client import AsyncWebClient

from bot.messages import Attachment


async def upload(web: AsyncWebClient, file: Attachment, channel: str, thread: str = "") -> None:
    """Share a file in a channel, or in a thread of it."""
    data = file.text.encode()
    reserved = await web.files_getUploadURLExternal(filename=file.name, length=len(data))
    async with aiohttp.ClientSession() as session, session.post(str(reserved["upload_url"]), data=data) as answer:
        answer.raise_for_status()
    await web.files_completeUploadExternal(
        files=[{"id": str(reserved["file_id"]), "title": file.name}],
        channel_id=channel,
        thread_ts=thread or None,
    )
