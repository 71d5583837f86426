"""Uploads files to Slack: reserves an address, uploads, shares.

Before sharing the file is invisible, so only that step must not be repeated.
"""

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import mapped_errors
from adapters.slack.web_client import proxy_for, session_of
from bot.types.errors import Rejected
from bot.types.messages import Attachment


async def upload(web: AsyncWebClient, file: Attachment, channel: str, thread: str = "") -> None:
    """Share a file in a channel, or in a thread of it. Raises RetryLater, Rejected, or OutcomeUnknown."""
    data = file.text.encode()
    async with mapped_errors():
        reserved = await web.files_getUploadURLExternal(filename=file.name, length=len(data))
        url = str(reserved["upload_url"])
        async with session_of(web) as session, session.post(url, data=data, proxy=proxy_for(url)) as answer:
            if 400 <= answer.status < 500:  # perhaps a firewall; a retry would not help
                raise Rejected(f"Slack's upload server refused the file (status {answer.status}).")
            answer.raise_for_status()
    async with mapped_errors(posting=True):
        await web.files_completeUploadExternal(
            files=[{"id": str(reserved["file_id"]), "title": file.name}],
            channel_id=channel,
            thread_ts=thread or None,
        )
