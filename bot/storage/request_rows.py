"""Converts requests to table rows and back."""

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from bot.storage.outbox import usage_of
from bot.storage.row_types import StoredRequest
from bot.storage.tables import key_of
from bot.types.messages import FinishReason, GenerationRequest, Person, RequestKind, RequestStatus, SamplingParams

_PARAMS = TypeAdapter(SamplingParams)


def request_row(request: GenerationRequest) -> dict[str, Any]:  # Any: what columns hold
    """Row of a waiting request."""
    return {
        "request_id": request.request_id,
        **asdict(request.key),
        "message_id": request.message_id,
        "author_id": request.author.id,
        "author_name": request.author.name,
        "author_manages_channel": request.author.manages_channel,
        "author_manages_workspace": request.author.manages_workspace,
        "model": request.model,
        "params": _PARAMS.dump_json(request.params).decode(),
        "kind": request.kind,
        "attempts": request.attempts,
        "accepted_at": request.accepted_at,
        "wait_left_s": request.wait_left_s,
        "status": RequestStatus.WAITING,
        "error": "",
        "remark": request.remark,
        "service_runs": request.service_runs,
    }


def stored_request(row: RowMapping) -> StoredRequest:
    """Convert a row to a StoredRequest."""
    reason = row["finish_reason"]
    request = GenerationRequest(
        request_id=row["request_id"],
        key=key_of(row),
        message_id=row["message_id"],
        author=Person(
            row["author_id"], row["author_name"], row["author_manages_channel"], row["author_manages_workspace"]
        ),
        model=row["model"],
        params=_PARAMS.validate_json(row["params"]),
        attempts=row["attempts"],
        accepted_at=row["accepted_at"],
        wait_left_s=row["wait_left_s"],
        kind=RequestKind(row["kind"]),
        remark=row["remark"],
        service_runs=row["service_runs"],
    )
    return StoredRequest(
        request=request,
        status=RequestStatus(row["status"]),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=usage_of(row["usage"]),
        error=row["error"],
        finished_at=row["finished_at"],
    )
