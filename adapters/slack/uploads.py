"""Files onto Slack: reserved, uploaded, shared.

In: text with a name, and where it belongs. Out: a file there. Until it is shared nobody sees it, so only that step must
not be done twice.
"""

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import mapped_errors
from adapters.slack.web import proxy_for, session_of
from bot.errors import Rejected
from bot.messages import Attachment


async def upload(web: AsyncWebClient, file: Attachment, channel: str, thread: str = "") -> None:
    """Share a file in a channel, or in a thread of it. Raises RetryLater, Rejected, or OutcomeUnknown."""
    data = file.text.encode()
    async with mapped_errors():
        reserved = await web.files_getUploadURLExternal(filename=file.name, length=len(data))
        url = str(reserved["upload_url"])
        async with session_of(web) as session, session.post(url, data=data, proxy=proxy_for(url)) as answer:
            if 400 <= answer.status < 500:  # a firewall, perhaps: it would say the same again
                raise Rejected(f"The file was refused with status {answer.status} where Slack takes uploads.")
            answer.raise_for_status()
    async with mapped_errors(posting=True):
        await web.files_completeUploadExternal(
            files=[{"id": str(reserved["file_id"]), "title": file.name}],
            channel_id=channel,
            thread_ts=thread or None,
        )
