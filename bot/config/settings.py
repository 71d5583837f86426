"""Read the environment, systemd's credentials and `.env` in the working directory into one frozen `Settings`.

Order of precedence: command line, environment, files in $CREDENTIALS_DIRECTORY (named like the variables), `.env`. An
empty value counts as unset. All mistakes are reported in one ConfigError; the value of a token is never shown.
`.env.example` documents every setting.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from platformdirs import user_cache_path, user_state_path
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bot.config.address import Address
from bot.config.environment import ENV_SOURCE, scan_environment
from bot.config.server_args import refused_argument
from bot.config.setting_types import (
    ROLES,
    SHORTEST_TOKEN,
    Arguments,
    Certificates,
    Choice,
    DatabaseUrl,
    File,
    Folder,
    Hosts,
    HttpAddress,
    HttpToken,
    Ids,
    Layers,
    Roles,
    SlashCommand,
    Token,
    Urls,
    Words,
)
from bot.types.errors import ConfigError

PREFIX = "INHOUSE_"
TOKENS = {
    "hf_token": "HF_TOKEN",
    "discord_bot_token": "DISCORD_BOT_TOKEN",
    "slack_bot_token": "SLACK_BOT_TOKEN",
    "slack_app_token": "SLACK_APP_TOKEN",
    "http_token": "INHOUSE_HTTP_TOKEN",
    "engine_key": "INHOUSE_ENGINE_KEY",
    "database_url": "INHOUSE_DATABASE_URL",
}
"""Settings that hold a token, and the names of their variables."""

MANAGED = ("vllm", "llama.cpp")
"""Values of INHOUSE_ENGINE for a server that Inhouse runs."""

ENGINE_MISTAKE, ARGUMENTS_MISTAKE = "INHOUSE_ENGINE is ", "INHOUSE_ENGINE_ARGS has "
"""Beginnings of the mistakes of INHOUSE_ENGINE with another setting, and of a refused argument."""

STANDBY_MISTAKE, ROLES_MISTAKE = "INHOUSE_STANDBY is ", "INHOUSE_ROLES is "
"""Beginnings of the mistakes of these settings without a server's database."""


class Settings(BaseSettings):
    """All settings. A field's description completes the sentence 'it must be ...' in error messages."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        enable_decoding=False,
        extra="ignore",
        frozen=True,
        validate_by_name=True,
    )

    hf_token: Token = Field(None, validation_alias=TOKENS["hf_token"], description="the whole token, without spaces")
    discord_bot_token: Token = Field(
        None, validation_alias=TOKENS["discord_bot_token"], description="the whole token, without spaces"
    )
    discord_proxy: str | None = Field(None, pattern=r"^https?://\S+$", description="a URL such as http://proxy:3128")
    slack_bot_token: Token = Field(
        None, validation_alias=TOKENS["slack_bot_token"], description="a bot token, which begins with xoxb-"
    )
    slack_app_token: Token = Field(
        None, validation_alias=TOKENS["slack_app_token"], description="an app-level token, which begins with xapp-"
    )
    slack_command: SlashCommand = Field(
        "/inhouse", description="a slash and up to 31 lower-case letters, digits, - or _"
    )
    slack_api_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="a URL such as https://slack-gov.com/api/"
    )

    model: str = Field("smollm2", min_length=1, description="a catalog name, org/name, org/name:file.gguf or a path")
    models: Words = Field((), description="names, separated by commas")
    catalog: File | None = Field(None, description="a TOML file that exists")
    device: Annotated[Literal["auto", "cpu", "cuda"], Choice] = Field("auto", description="auto, cpu or cuda")
    dtype: Annotated[Literal["auto", "float16", "bfloat16", "float32"], Choice] = Field(
        "auto", description="auto, float16, bfloat16 or float32"
    )
    gpu_layers: Layers = Field(None, description="all, or how many layers to keep on the GPU, 0 or more")
    quantization: Annotated[Literal["none", "8bit", "4bit"], Choice] = Field("none", description="none, 8bit or 4bit")
    kv_cache_mb: int | None = Field(None, ge=16, le=10_000_000, description="a number of MB, 16 or more")
    kv_offload_mb: int = Field(0, ge=0, le=10_000_000, description="a number of MB")
    gpu_batch: Annotated[Literal["library", "rows"], Choice] = Field("library", description="library or rows")

    engine: Annotated[Literal["auto", "openai", "vllm", "llama.cpp"], Choice] = Field(
        "auto", description="auto, openai, vllm or llama.cpp"
    )
    engine_args: Arguments = Field((), description="arguments of the server's command, quoted as in a shell")
    engine_urls: Urls = Field(
        (), description="URLs such as http://gpu1:8000/v1, separated by commas, without user names and queries"
    )
    engine_key: Token = Field(None, description="the whole key, without spaces")
    engine_ca: Certificates | None = Field(None, description="a PEM file with certificates")
    engine_salts: bool = Field(True, description="yes or no")

    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="a number between 0 and 2")
    top_p: float = Field(0.95, ge=0.01, le=1, allow_inf_nan=False, description="a number between 0.01 and 1")
    repetition_penalty: float = Field(1.0, ge=1, le=2, allow_inf_nan=False, description="a number between 1 and 2")
    max_tokens: int = Field(512, ge=1, le=8192, description="a whole number between 1 and 8192")
    think_tokens: int = Field(2048, ge=0, le=65_536, description="a whole number between 0 and 65536")
    system_prompt: str | None = Field(None, description="a text")

    admins: Ids = Field(frozenset(), description="people as discord:<id> or slack:<id>, separated by commas")
    allow: Ids = Field(frozenset(), description="ids as discord:<id> or slack:<id>, separated by commas")
    deny: Ids = Field(frozenset(), description="ids as discord:<id> or slack:<id>, separated by commas")
    allow_bots: Ids = Field(frozenset(), description="ids as discord:<id> or slack:<id>, separated by commas")

    follow_threads: bool = Field(True, description="yes or no")
    reply_in_thread: bool | None = Field(None, description="yes or no")
    ambient: int = Field(0, ge=0, le=100, description="a whole number between 0 and 100")
    link_hosts: Hosts = Field(
        (), description="hosts such as docs.python.org or *.example.org in ASCII letters, separated by commas"
    )
    attach_over: int = Field(12_000, ge=0, le=1_000_000, description="a number of characters, 0 for never")
    catchup_messages: int = Field(50, ge=0, le=1000, description="a whole number between 0 and 1000")
    catchup_age: float = Field(
        3600, ge=0, le=604_800, allow_inf_nan=False, description="a number of seconds between 0 and 604800"
    )

    state_dir: Folder = Field(default_factory=lambda: user_state_path("inhouse", appauthor=False))
    cache_dir: Folder = Field(default_factory=lambda: user_cache_path("inhouse", appauthor=False))

    database_url: DatabaseUrl = Field(
        None,
        description="postgresql://user:password@host/name, with special characters of the password written as %xx",
    )
    standby: bool = Field(False, description="yes or no")
    roles: Roles = Field(ROLES, description="adapters, worker and web, or some of them, separated by commas")
    retention: int = Field(90, ge=0, le=36_500, description="a whole number of days, 0 for ever")

    queue_size: int = Field(64, ge=1, le=10_000, description="a whole number between 1 and 10000")
    per_user: int = Field(3, ge=1, le=100_000, description="a whole number between 1 and 100000")
    deadline: float = Field(
        600, ge=1, le=604_800, allow_inf_nan=False, description="a number of seconds between 1 and 604800"
    )
    drain: float = Field(30, ge=0, le=3600, allow_inf_nan=False, description="a number of seconds between 0 and 3600")

    http: HttpAddress = Field(Address("127.0.0.1", 8321), description="host:port, or off")
    http_token: HttpToken = Field(
        None, description=f"{SHORTEST_TOKEN} or more characters without spaces (`openssl rand -hex 24` makes some)"
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Choice] = Field(
        "info", description="debug, info, warning or error"
    )
    log_format: Annotated[Literal["text", "json"], Choice] = Field("text", description="text or json")

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.http is not None and not self.http.loopback and self.http_token is None:
            raise ValueError(
                f"INHOUSE_HTTP is {self.http}, which other machines can reach, and there is no INHOUSE_HTTP_TOKEN; set "
                "one (`openssl rand -hex 24` makes it), or use 127.0.0.1"
            )
        if self.standby and self.database_url is None:
            raise ValueError(
                f"{STANDBY_MISTAKE}yes, and there is no INHOUSE_DATABASE_URL; set it to the database of the Inhouse "
                "that this one stands by for"
            )
        if not {"adapters", "worker"} <= set(self.roles) and self.database_url is None:
            raise ValueError(
                f"{ROLES_MISTAKE}{','.join(self.roles)}, and there is no INHOUSE_DATABASE_URL; set it to the database "
                "of the hosts that have the other roles"
            )
        if self.engine == "openai":
            needed = {"INHOUSE_ENGINE_URLS": self.engine_urls, "INHOUSE_MODEL": "model" in self.model_fields_set}
            if missing := [name for name, given in needed.items() if not given]:
                raise ValueError(
                    f"{ENGINE_MISTAKE}openai, and there is no {' and no '.join(missing)}; set the server's address "
                    "(http://host:port/v1) and a model that it lists"
                )
        if self.engine in MANAGED:
            self._check_managed()
        return self

    def _check_managed(self) -> None:
        """Raise ValueError if another setting contradicts a server that Inhouse runs."""
        if self.engine_urls:
            raise ValueError(
                f"{ENGINE_MISTAKE}{self.engine}, which Inhouse runs itself, and INHOUSE_ENGINE_URLS is set; remove "
                "it, or set INHOUSE_ENGINE=openai to use the servers at these addresses"
            )
        if self.quantization != "none":
            raise ValueError(
                f"{ENGINE_MISTAKE}{self.engine}, and INHOUSE_QUANTIZATION is {self.quantization}, which is for "
                "INHOUSE_ENGINE=auto; remove it, and choose a model whose files are quantized"
            )
        if sentence := refused_argument(self.engine, self.engine_args):
            raise ValueError(sentence)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence; by default pydantic-settings prefers `.env` to credentials."""
        return init_settings, env_settings, file_secret_settings, dotenv_settings


class Misconfigured(ConfigError):
    """Mistakes in the settings. mistakes: one sentence each; usable: the settings with defaults in their place.

    invalid: the fields of Settings that have such a default.
    """

    def __init__(self, mistakes: tuple[str, ...], usable: Settings, invalid: frozenset[str]) -> None:
        lines = [f"{len(mistakes)} mistakes in the configuration:", *(f"- {line}" for line in mistakes)]
        super().__init__(mistakes[0] if len(mistakes) == 1 else "\n".join(lines))
        self.mistakes, self.usable, self.invalid = mistakes, usable, invalid


def variable(name: str) -> str:
    """The environment variable of a field of Settings."""
    return TOKENS.get(name, PREFIX + name.upper())


def secrets(settings: Settings) -> tuple[str, ...]:
    """The values of all tokens and passwords that are set, for the log's redactor."""
    tokens = [token.get_secret_value() for name in TOKENS if (token := getattr(settings, name))]
    if settings.database_url is not None and (password := _password(settings.database_url.get_secret_value())):
        tokens.append(password)
    return tuple(tokens)


def _password(url: str) -> str:
    from sqlalchemy.engine import make_url  # slow to import

    return str(make_url(url).password or "")


def load_settings(**overrides: Any) -> Settings:  # Any: values of the command line, validated like all others
    """Load the settings. overrides: fields given on the command line; None counts as not given.

    Raises Misconfigured that lists every mistake, one line each, with its source and the valid values.
    """
    assert overrides.keys() <= Settings.model_fields.keys(), f"no such settings: {sorted(overrides)}"
    given = {name: value for name, value in overrides.items() if value is not None}
    scan = scan_environment(_is_ours)
    mistakes = [*scan.mistakes, *_unknown(scan.sources)]
    sources = scan.sources | {variable(name): "the command line" for name in given}
    settings: Settings | None = None
    invalid: set[str] = set()
    while settings is None:  # the validator of the whole model runs only once each field is valid
        try:
            settings = Settings(_env_file=scan.env_file, _secrets_dir=scan.credentials, **given)
        except ValidationError as error:
            mistakes += dict.fromkeys(_sentence(detail, sources) for detail in error.errors())
            if _defaults(error).items() <= given.items():
                raise  # a default is itself invalid: a bug
            now = _invalid(error)
            invalid |= now
            given = {name: value for name, value in given.items() if name not in now} | _defaults(error)
    if not mistakes:
        return settings
    raise Misconfigured(tuple(mistakes), settings, frozenset(invalid))


def near_misses() -> tuple[str, ...]:
    """A sentence for each variable that is not read although its name is close to one of a setting that is not set.

    Of `.env` these are also the names without PREFIX; in the environment such a name may belong to another program.
    """
    sources = scan_environment(_is_ours).sources
    known = [name for name in map(variable, Settings.model_fields) if name not in sources]
    found = []
    for name, source in sources.items():
        meant = _nearest(name, known)
        if meant is None and source == ENV_SOURCE and PREFIX + name in known:
            meant = PREFIX + name
        if meant is not None and not _is_ours(name):
            found.append(f"{name} ({source}) is not a setting, so it has no effect; did you mean {meant}?")
    return tuple(found)


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """The closest known name that begins alike; so HF_TOKEN is not close to GH_TOKEN, which is another program's."""
    alike = [each for each in known if each[:2] == name[:2]]
    return next(iter(difflib.get_close_matches(name, alike, n=1, cutoff=0.8)), None)


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) or name in TOKENS.values()


def _unknown(sources: dict[str, str]) -> Iterator[str]:
    """A sentence for each variable that begins with PREFIX and is not a setting."""
    known = [variable(name).removeprefix(PREFIX) for name in Settings.model_fields]
    for name, source in sources.items():
        ending = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and ending not in known:
            near = difflib.get_close_matches(ending, known, n=1)
            advice = f"did you mean {PREFIX}{near[0]}?" if near else "remove it (.env.example lists all settings)"
            yield f"{name} ({source}) is not a setting; {advice}"


def _defaults(error: ValidationError) -> dict[str, object]:
    """Defaults for the invalid fields, by the names (alias or field) under which they override all sources."""
    fields = Settings.model_fields
    # an invalid address turns the status page off
    found = {
        name: None if name == "http" else fields[name].get_default(call_default_factory=True)
        for name in _invalid(error)
    }
    return {str(fields[name].validation_alias or name): value for name, value in found.items()}


def _invalid(error: ValidationError) -> set[str]:
    """The invalid fields; of the errors of the whole model (`_guarded`), the field whose default mends it."""
    errors = error.errors()
    whole = {_mending(detail["msg"]) for detail in errors if not detail["loc"]}
    return whole | {str(detail["loc"][0]).lower() for detail in errors if detail["loc"]}


def _mending(message: str) -> str:
    """The field whose default ends a mistake of the whole model."""
    if ARGUMENTS_MISTAKE in message:
        return "engine_args"
    if STANDBY_MISTAKE in message:
        return "standby"
    if ROLES_MISTAKE in message:
        return "roles"
    return "engine" if ENGINE_MISTAKE in message else "http"


def _sentence(detail: ErrorDetails, sources: dict[str, str]) -> str:
    if not detail["loc"]:  # an error of the whole model is already a sentence
        return detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0]).lower()
    source = sources.get(variable(name), "default")
    value = repr(detail["input"])
    if name in TOKENS:
        value = "no such URL" if name == "database_url" else "not a token"
    value = value if len(value) < 80 else value[:76] + "..."
    return f"{variable(name)} ({source}) is {value}; it must be {Settings.model_fields[name].description}"
