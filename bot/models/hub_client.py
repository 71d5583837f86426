"""Plan and run downloads of models from the Hugging Face hub into its own cache.

Downloads only config, tokenizer and the indexed safetensors files, or the GGUF files of one model, and verifies each
weight file against the hub's sha256. Interrupted downloads resume at the byte where they stopped. Never runs code of a
repository.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bot.config.settings import Settings
from bot.models import gguf_names, model_directory, model_files
from bot.models.file_download import LOCK, UNFINISHED, OnProgress, WeightFile, fetch_weights
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
        self._engine = settings.engine
        self._token = settings.hf_token.get_secret_value() if settings.hf_token else get_token()

    def plan(self, spec: ModelSpec) -> Download:
        """Ask the hub which files to download. Raises ModelError, or HubUnreachable after a timeout."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            info = within(REACH_S, lambda: api.model_info(spec.repo, files_metadata=True, timeout=REACH_S))
            files = {file.rfilename: file for file in info.siblings or ()}
            commit = info.sha or ""
            names = self._gguf_names(spec, commit, files) if spec.file else self._directory_names(spec, commit, files)
            sizes = {name: int(files[name].size or 0) for name in files}
            blobs = {name: files[name].lfs for name in names}
            weights = tuple(WeightFile(name, sizes[name], blob.sha256 if blob else "") for name, blob in blobs.items())
            card = info.card_data
        side_files = () if spec.file else model_directory.SIDE_FILES
        wanted = (*(name for name in side_files if name in files), *names)
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
        """Run the plan, resuming an interrupted one; return the directory or (first) GGUF file. Raises ModelError."""
        self._check_disk(download)
        if spec.file:  # before the files are there, so that `stored` finds what an interrupted pull leaves
            self._keep_record(spec, download, self._snapshot(spec.repo, download.commit))
        url = f"{self._endpoint}/{spec.repo}/resolve/{download.commit}"
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            fetch_weights(download.weights, url, self._token, self._blobs(spec.repo), progress)
            paths = [self._file(spec.repo, download.commit, name) for name in download.files]
        found = paths[0] if spec.file else paths[0].parent
        model_files.check(found)
        if not spec.file:
            self._keep_record(spec, download, found)
        return found

    def check_access(self, spec: ModelSpec) -> None:
        """Check, without downloading, that this account can download the model.

        Raises ModelError or HubUnreachable.
        """
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

        api = HfApi(endpoint=self._endpoint, token=self._token or False)
        with translate_hub_errors(spec.repo, self._endpoint, bool(self._token)):
            info = within(REACH_S, lambda: api.model_info(spec.repo, timeout=REACH_S))
            names = {file.rfilename for file in info.siblings or ()}
            if spec.file:
                first = gguf_names.choose(spec.repo, spec.file, names)
            else:
                _check_names(spec.repo, names)
                first = model_directory.CONFIG
            url = hf_hub_url(spec.repo, first, revision=info.sha, endpoint=self._endpoint)
            within(REACH_S, lambda: get_hf_file_metadata(url, token=self._token or False, timeout=REACH_S))

    def here(self, spec: ModelSpec) -> Path | None:
        """The directory or (first) GGUF file of the model if it is complete on this disk, else None."""
        return next((found for found in self.candidates(spec) if model_files.is_whole(found)), None)

    def candidates(self, spec: ModelSpec) -> list[Path]:
        """Directories or GGUF files that may hold the model, complete or not: of the recorded commit, and in the
        cache."""
        from huggingface_hub import try_to_load_from_cache

        record = self._read_record(spec)
        candidates = [Path(str(record.get("folder", "")), str(record.get("file", "")))] if record else []
        if spec.file:
            candidates += self._cached_files(spec)
        else:
            cached = try_to_load_from_cache(spec.repo, model_directory.CONFIG, cache_dir=self._cache)
            if isinstance(cached, str):
                candidates.append(Path(cached).parent)
        return candidates

    def stored(self, spec: ModelSpec) -> list[Path]:
        """All paths that pulls of this model created: its cache directory and the record of its commit.

        Of a repository with several GGUF files, only those of this model. The hub's own deletion API lists only
        complete downloads, and logs failures instead of raising them.
        """
        name = self._blobs(spec.repo).parent.name
        folders = [self._cache / name]
        for found in self.candidates(spec):  # the record may point into the cache of an earlier HF_HOME
            folders += [parent for parent in found.parents if parent.name == name]
        folders = list(dict.fromkeys(folders))
        if not spec.file:
            return [*folders, self._record(spec)]
        ours = self._stored_files(spec, folders)
        unfinished = {path.with_name(f"{path.name}{UNFINISHED}") for path in ours}
        blobs = {blob for folder in folders for blob in (folder / "blobs").glob("*") if blob.name != LOCK}
        return [*([*ours, *unfinished] if blobs - {*ours, *unfinished} else folders), self._record(spec)]

    def _stored_files(self, spec: ModelSpec, folders: Sequence[Path]) -> list[Path]:
        """The links to a model's GGUF files, and their blobs, complete or not."""
        found = [part for each in self.candidates(spec) for part in gguf_names.parts_of(each)]
        blobs = [part.resolve() for part in found if part.is_symlink()]
        recorded = self._read_record(spec).get("blobs")
        names = (
            [str(name) for name in recorded if re.fullmatch(r"[0-9a-f]{64}", str(name))]
            if isinstance(recorded, list)
            else []
        )
        return list(dict.fromkeys([*found, *blobs, *(folder / "blobs" / name for folder in folders for name in names)]))

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

    def _directory_names(self, spec: ModelSpec, commit: str, files: Collection[str]) -> tuple[str, ...]:
        """The files of a model of safetensors. Raises ModelError if there is none, or one that cannot be loaded."""
        _check_names(spec.repo, files)
        # Fails here if the account may not download from this repository.
        config = self._file(spec.repo, commit, model_directory.CONFIG)
        if self._engine == "auto":
            model_directory.check_quantization(spec.repo, model_directory.read_json(config))
        return self._weight_names(spec.repo, commit, files)

    def _gguf_names(self, spec: ModelSpec, commit: str, files: Collection[str]) -> tuple[str, ...]:
        """The GGUF files of a model, the first one first. Raises ModelError unless the name means one model."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        names = gguf_names.part_names(gguf_names.choose(spec.repo, spec.file, files))
        lost = [name for name in names if name not in files]
        if lost:
            raise ModelError(f"{spec.source} is not complete on the hub: {lost[0]} is not there.")
        url = hf_hub_url(spec.repo, names[0], revision=commit, endpoint=self._endpoint)
        # Fails here if the account may not download from this repository.
        within(REACH_S, lambda: get_hf_file_metadata(url, token=self._token or False, timeout=REACH_S))
        return names

    def _cached_files(self, spec: ModelSpec) -> Iterator[Path]:
        """The GGUF file of a model in each snapshot of the cache, `main` first; other programs may have fetched it."""
        head = self._blobs(spec.repo).with_name("refs") / "main"
        main = head.read_text("utf-8").strip() if head.is_file() else ""
        folders = [folder for folder in self._snapshot(spec.repo, "").glob("*") if folder.is_dir()]
        for folder in sorted(folders, key=lambda folder: (folder.name != main, -folder.stat().st_mtime)):
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()]
            with contextlib.suppress(ModelError):  # it is not in this one
                yield folder / gguf_names.choose(spec.repo, spec.file, names)

    def _snapshot(self, repo: str, commit: str) -> Path:
        return self._blobs(repo).with_name("snapshots") / commit

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

    def _record(self, spec: ModelSpec) -> Path:
        name = spec.repo.replace("/", "--").lower()
        file = f"--{hashlib.sha256(spec.file.lower().encode()).hexdigest()[:16]}" if spec.file else ""
        return self._records / f"{name}{file}.json"

    def _read_record(self, spec: ModelSpec) -> dict[str, object]:
        return model_directory.read_json(self._record(spec)) if self._record(spec).is_file() else {}

    def _keep_record(self, spec: ModelSpec, download: Download, folder: Path) -> None:
        """Remember which commit of a model was fetched, so that later ones do not replace it."""
        content: dict[str, object] = {"repo": spec.repo, "commit": download.commit, "folder": str(folder)}
        if spec.file:
            content |= {"file": download.files[0], "blobs": [weight.sha256 for weight in download.weights]}
        self._records.mkdir(parents=True, exist_ok=True)
        fresh = self._record(spec).with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(content), "utf-8")
        fresh.replace(self._record(spec))

    def _check_disk(self, download: Download) -> None:
        folder = next(folder for folder in (self._cache, *self._cache.parents) if folder.exists())
        free = shutil.disk_usage(folder).free
        if free < download.missing + SPARE_BYTES:
            raise ModelError(
                f"{download.name} needs {download.missing / 1e9:.1f} GB of disk; {folder} has {free / 1e9:.1f} left:"
                " make room, or set HF_HOME to a directory on a larger disk."
            )


def _check_names(repo: str, files: Collection[str]) -> None:
    """Raise ModelError unless these files include a config and safetensors weights."""
    if model_directory.CONFIG not in files:
        if models := gguf_names.models_in(files):
            example = gguf_names.label_of(models[0]) or models[0]
            raise ModelError(
                f"{repo} holds GGUF files, of which one must be named, as {repo}:{example}; there"
                f" {gguf_names.listed(models)}."
            )
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
