"""Translate exceptions of huggingface_hub and the operating system into ModelError.

Each message is one sentence with the link or command that fixes the problem; network failures become HubUnreachable. No
message contains a token.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from bot.types.errors import ModelError


class HubUnreachable(ModelError):
    """The hub does not answer, or HF_HUB_OFFLINE forbids requests. Another source may have the model."""


@contextmanager
def translate_hub_errors(repo: str, endpoint: str, with_token: bool) -> Iterator[None]:
    """Translate every exception raised inside into a ModelError about `repo`."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise as_model_error(error, repo, endpoint, with_token) from error


def as_model_error(error: Exception, repo: str, endpoint: str, with_token: bool) -> ModelError:
    """Return the ModelError for an exception raised while requesting `repo`. with_token: a token was sent."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    chain = _chain(error)
    answered = next((link for link in chain if isinstance(link, HfHubHTTPError)), None)
    if answered is not None:
        return _http_error(answered, repo, f"{endpoint}/{repo}", endpoint, with_token)
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return HubUnreachable(
            "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it, or use a model that is already installed."
        )
    if isinstance(error, HFValidationError):
        return ModelError(f"{repo!r} cannot be the name of a repository: it must look like org/name.")
    disk = next((link for link in chain if isinstance(link, OSError) and link.errno is not None), None)
    if disk is not None and not isinstance(disk, ConnectionError | TimeoutError) and disk.filename:
        return _disk(disk)
    if disk is not None and disk.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk(disk)
    if isinstance(error, LocalEntryNotFoundError) or _is_transport(chain):
        return _unreachable(endpoint, _reason(chain[-1]))
    if isinstance(error, ValueError | AttributeError | KeyError | TypeError):
        return _unreachable(endpoint, "the server there is not a Hugging Face hub")
    return ModelError(f"{repo} could not be fetched: {_reason(error)}; run the same command again to go on.")


def _http_error(error: Exception, repo: str, page: str, endpoint: str, with_token: bool) -> ModelError:
    """The ModelError for an HTTP error response of the hub."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    response = getattr(error, "response", None)
    status = int(getattr(response, "status_code", 0))
    said = str(getattr(response, "headers", {}).get("X-Error-Message", ""))
    if isinstance(error, GatedRepoError):
        if not with_token:
            return ModelError(f"{repo} needs an account: accept its licence at {page}, then run `inhouse login`.")
        return ModelError(f"Your account has no access to {repo} yet: accept its licence at {page}, then try again.")
    if status == 401 and (with_token or "Invalid credentials" in said):
        return ModelError(
            f"The hub does not accept the token (HF_TOKEN or the stored login): make one at {endpoint}/settings/tokens,"
            " then run `inhouse login`."
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        if isinstance(error, EntryNotFoundError | RevisionNotFoundError):
            return ModelError(f"{repo} was changed on the hub while it was being fetched; run the same command again.")
        return ModelError(
            f"There is no model {repo} on the hub, or it is private: check the name, or run `inhouse login` with an"
            " account that may see it."
        )
    if status == 403:
        return ModelError(
            f"The token may not read {repo}: allow it to read gated repositories at {endpoint}/settings/tokens."
        )
    if status == 429:
        return ModelError("The hub got too many requests and refuses more for now. Try again in some minutes.")
    if status >= 500 or status == 407:
        return _unreachable(endpoint, f"it answers with error {status}")
    return ModelError(f"The hub refuses {repo} with error {status}{f' ({said})' if said else ''}.")


def _disk(error: OSError) -> ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError("The disk is full; make room (or move the cache with HF_HOME) and run the command again.")
    return ModelError(f"{error.filename} cannot be used: {error.strerror}.")


def _unreachable(endpoint: str, reason: str) -> HubUnreachable:
    return HubUnreachable(
        f"The hub at {endpoint} cannot be reached ({reason}); check the network and HTTPS_PROXY, then try again."
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and its chain of causes, the root cause last."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _is_transport(chain: list[BaseException]) -> bool:
    """Whether the request failed in transport. The HTTP client is httpx or httpx2, depending on the version."""
    return any(
        isinstance(link, ConnectionError | TimeoutError) or type(link).__module__.partition(".")[0].startswith("httpx")
        for link in chain
    )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
