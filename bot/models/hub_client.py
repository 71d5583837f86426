"""Plan and run downloads of models from the Hugging Face hub into its own cache.

Downloads only config, tokenizer and the indexed safetensors files, and verifies each weight file against the hub's
sha256. Interrupted downloads resume at the byte where they stopped. Never runs code of a repository.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bot.config.settings import Settings
from bot.models import model_directory
from bot.models.file_download import OnProgress, WeightFile, fetch_weights
from bot.models.hub_errors import HubUnreachable, translate_hub_errors
from bot.models.model_spec import ModelSpec
from bot.types.errors import ModelError

REACH_S = 5.0
"""Timeout of one metadata request to the hub, name resolution included."""

SPARE_BYTES = 200_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Download:
    """The plan of a pull, to be shown before it runs. total: bytes of all files; missing: bytes not on this disk."""

    name: str
    origin: str
    commit: str
    files: tuple[str, ...]
    total: int
    missing: int
    licence: str
    licence_url: str
    gated: bool
    weights: tuple[WeightFile, ...] = ()


class Hub:
    """Client of one hub with one account's token. Its methods block: call them in a thread."""

    def __init__(self, settings: Settings, endpoint: str | None = None, cache: Path | None = None) -> None:
        """`endpoint` and `cache` default to HF_ENDPOINT and the cache below HF_HOME."""
        from huggingface_hub import constants, get_token

        self._endpoint = endpoint or constants.ENDPOINT
        self._cache = cache or Path(constants.HF_HUB_CACHE)
        self._records = settings.cache_dir / "commits"
        self._token = settings.hf_token.get_secret_value() if settings.hf_token else get_token()

    def plan(self, spec: ModelSpec) -> Download:
        """Ask the hub which files to download. Raises ModelError, or HubUnreachable after a timeout."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            info = within(REACH_S, lambda: api.model_info(spec.repo, files_metadata=True, timeout=REACH_S))
            files = {file.rfilename: file for file in info.siblings or ()}
            commit = info.sha or ""
            _check_names(spec.repo, files)
            # Fails here if the account may not download from this repository.
            config = self._file(spec.repo, commit, model_directory.CONFIG)
            model_directory.check_quantization(spec.repo, model_directory.read_json(config))
            names = self._weight_names(spec.repo, commit, files)
            sizes = {name: int(files[name].size or 0) for name in files}
            blobs = {name: files[name].lfs for name in names}
            weights = tuple(WeightFile(name, sizes[name], blob.sha256 if blob else "") for name, blob in blobs.items())
            card = info.card_data
        wanted = (*(name for name in model_directory.SIDE_FILES if name in files), *names)
        return Download(
            name=spec.name,
            origin=f"{self._endpoint}/{spec.repo}",
            commit=commit,
            files=wanted,
            total=sum(sizes[name] for name in wanted),
            missing=sum(weight.missing(self._blobs(spec.repo)) for weight in weights if weight.sha256),
            licence=spec.licence or _stated(card, "license_name", "license") or "not stated",
            licence_url=spec.licence_url or _stated(card, "license_link") or f"{self._endpoint}/{spec.repo}",
            gated=bool(info.gated),
            weights=weights,
        )

    def fetch(self, spec: ModelSpec, download: Download, progress: OnProgress) -> Path:
        """Run the plan, resuming an interrupted one; return the directory. Raises ModelError."""
        self._check_disk(download)
        url = f"{self._endpoint}/{spec.repo}/resolve/{download.commit}"
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            fetch_weights(download.weights, url, self._token, self._blobs(spec.repo), progress)
            paths = [self._file(spec.repo, download.commit, name) for name in download.files]
        folder = paths[0].parent
        model_directory.check(folder)
        self._records.mkdir(parents=True, exist_ok=True)
        record = self._record(spec.repo)
        fresh = record.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"repo": spec.repo, "commit": download.commit, "folder": str(folder)}), "utf-8")
        fresh.replace(record)
        return folder

    def check_access(self, spec: ModelSpec) -> None:
        """Check, without downloading, that this account can download the model.

        Raises ModelError or HubUnreachable.
        """
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            info = within(REACH_S, lambda: api.model_info(spec.repo, timeout=REACH_S))
            names = {file.rfilename for file in info.siblings or ()}
            _check_names(spec.repo, names)
            url = hf_hub_url(spec.repo, model_directory.CONFIG, revision=info.sha, endpoint=self._endpoint)
            within(REACH_S, lambda: get_hf_file_metadata(url, token=self._token or False, timeout=REACH_S))

    def here(self, spec: ModelSpec) -> Path | None:
        """The directory of the model if it is complete on this disk, else None."""
        return next((folder for folder in self.folders(spec) if model_directory.is_whole(folder)), None)

    def folders(self, spec: ModelSpec) -> list[Path]:
        """Directories that may hold the model, complete or not: of the recorded commit, and of the cache's `main`."""
        from huggingface_hub import try_to_load_from_cache

        candidates = []
        if self._record(spec.repo).is_file():
            candidates.append(Path(str(model_directory.read_json(self._record(spec.repo)).get("folder", ""))))
        cached = try_to_load_from_cache(spec.repo, model_directory.CONFIG, cache_dir=self._cache)
        if isinstance(cached, str):
            candidates.append(Path(cached).parent)
        return candidates

    def stored(self, spec: ModelSpec) -> list[Path]:
        """All paths that pulls of this model created: its cache directory and the record of its commit.

        The hub's own deletion API lists only complete downloads, and logs failures instead of raising them.
        """
        name = self._blobs(spec.repo).parent.name
        folders = [self._cache / name]
        for folder in self.folders(spec):  # the record may point into the cache of an earlier HF_HOME
            folders += [parent for parent in folder.parents if parent.name == name]
        return [*dict.fromkeys(folders), self._record(spec.repo)]

    def account(self) -> str:
        """The name of the account in use, '' without a token. Raises ModelError if the hub rejects the token."""
        return self.whoami(self._token) if self._token else ""

    def whoami(self, token: str) -> str:
        """The name of the account that owns a token. Raises ModelError if the hub rejects the token."""
        from huggingface_hub import HfApi

        with translate_hub_errors("the account", self._endpoint, True):
            answer = within(REACH_S, lambda: HfApi(endpoint=self._endpoint).whoami(token=token))
            return str(answer["name"])

    def remember(self, token: str) -> None:
        """Store a token where Hugging Face's own programs read it. Raises ModelError."""
        import huggingface_hub

        with translate_hub_errors("the account", self._endpoint, True):
            huggingface_hub.login(token=token)

    def _weight_names(self, repo: str, commit: str, files: Container[str]) -> tuple[str, ...]:
        """The safetensors files to download: the indexed ones, since a repository may hold its weights twice."""
        if model_directory.INDEX in files:
            names = model_directory.indexed(self._file(repo, commit, model_directory.INDEX))
            lost = [name for name in names if name not in files]
            if lost:
                raise ModelError(f"{repo} is not complete on the hub: its index names {lost[0]}, which is not there.")
            return (model_directory.INDEX, *names)
        return (model_directory.SINGLE,)

    def _file(self, repo: str, commit: str, name: str) -> Path:
        """Add one file to the snapshot: download a small file, or link a blob that is on this disk."""
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(
            repo,
            name,
            revision=commit,
            cache_dir=self._cache,
            endpoint=self._endpoint,
            token=self._token or False,
            tqdm_class=NoProgressBar,
        )
        return Path(path)

    def _blobs(self, repo: str) -> Path:
        from huggingface_hub.file_download import repo_folder_name

        return self._cache / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"

    def _record(self, repo: str) -> Path:
        return self._records / f"{repo.replace('/', '--').lower()}.json"

    def _check_disk(self, download: Download) -> None:
        folder = next(folder for folder in (self._cache, *self._cache.parents) if folder.exists())
        free = shutil.disk_usage(folder).free
        if free < download.missing + SPARE_BYTES:
            raise ModelError(
                f"{download.name} needs {download.missing / 1e9:.1f} GB of disk; {folder} has {free / 1e9:.1f} left:"
                " make room, or set HF_HOME to a directory on a larger disk."
            )


def _check_names(repo: str, files: Container[str]) -> None:
    """Raise ModelError unless these files include a config and safetensors weights."""
    if model_directory.CONFIG not in files:
        raise ModelError(f"{repo} holds no model that transformers can load: it has no {model_directory.CONFIG}.")
    if model_directory.INDEX not in files and model_directory.SINGLE not in files:
        raise ModelError(
            f"{repo} holds no safetensors weights (other formats can run code, and are not loaded); choose a repository"
            " that has them."
        )


def _stated(card: object, *names: str) -> str:
    """The first of these model card fields that is set, else ''."""
    return next((str(value) for name in names if (value := getattr(card, name, None))), "")


class NoProgressBar:
    """A tqdm replacement that shows nothing, for small files."""

    def __init__(self, **_: object) -> None:
        pass

    def __enter__(self) -> "NoProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, _: float) -> None:
        pass


def within(seconds: float, ask: Callable[[], T]) -> T:
    """Return the result of `ask`. Raises HubUnreachable after `seconds`.

    Runs `ask` in a thread: name resolution has no timeout, and the connect timeout applies to each address anew.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise HubUnreachable(f"The hub does not answer within {seconds:.0f} s; check the network, then try again.")
    return answers[0]
