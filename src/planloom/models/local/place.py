"""Where a model that runs in this process lies: its address read, its folder found, its config looked at.

Rule 1: neither torch nor transformers is imported here: metadata and `ready` are cheap.
Rule 2: nothing is fetched, unless the operator's own address says `download=true`.
Rule 3: a name is looked up in the Hugging Face cache and nowhere else: it never means a folder that happens to be here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planloom.errors import ConfigError, UnknownFieldError, suggestion
from planloom.models import guard
from planloom.models.llm import COMMON_PARAMS
from planloom.models.scripted import file_of

if TYPE_CHECKING:
    from planloom.core.model_uri import ModelUri

EXTRA = "pip install 'planloom[transformers]'"
PACKAGES = ("torch", "transformers")
PARAMS = (*COMMON_PARAMS, "device", "download", "draft", "dtype", "speculate")
DTYPES = ("auto", "float32", "bfloat16", "float16")
SPECULATE = ("off", "ngram", "draft")
HUB = "https://huggingface.co"
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?|mps")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
"""What is fetched of a model: never a pickle, never code."""
_WINDOWS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx", "seq_length")
"""What configs call the number of tokens that a model takes."""

Speculate = Literal["off", "ngram", "draft"]


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Which weights are meant, and how they are held.

    Attributes:
        name: A folder, or a name at the Hugging Face hub.
        revision: Of a name: branch, tag or commit; "" for the one the cache has as its main one.
    """

    name: str
    revision: str = ""
    dtype: str = "auto"
    device: str = "auto"
    download: bool = False

    @property
    def folder(self) -> Path:
        """Return the folder that it lies in.

        Raises:
            ConfigError: It is not on this machine.
        """
        return _folder(self.name) if is_path(self.name) else _in_cache(self.name, self.revision)

    def fetched(self) -> Path:
        """Return the folder, fetched first if the operator said so.

        Raises:
            ConfigError: It is not here, and may not or cannot be fetched.
        """
        try:
            return self.folder
        except ConfigError:
            if not self.download or is_path(self.name):
                raise
        guard.check(HUB)
        return _download(self.name, self.revision)

    def check(self) -> None:
        """See that everything is there that will be read.

        Raises:
            ConfigError: Something is missing.
        """
        if self.download:
            return
        folder = self.folder
        config_of(folder)
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{folder} holds no weights as safetensors, and others are not read: a pickle can run anything",
                remedy="save the model with save_pretrained(folder, safe_serialization=True)",
            )
        if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise ConfigError(f"{folder} holds no tokenizer", remedy="save it there: tokenizer.save_pretrained(folder)")


def is_path(name: str) -> bool:
    """Return whether a model's name is a folder's."""
    return name.startswith(("/", ".", "~", "\\")) or ":" in name


def names_a_path(uri: ModelUri) -> bool:
    """Return whether an address of ours names a folder, for the model or for its draft."""
    return is_path(uri.name) or is_path(str(uri.params.get("draft", "")))


def place_of(uri: ModelUri) -> ModelPlace:
    """Return the place that an address names.

    Raises:
        UnknownFieldError: A param that these models do not have.
        ConfigError: The value of one is wrong.
    """
    for name in uri.params:
        if name not in PARAMS:
            raise UnknownFieldError(
                f"{uri.scheme}:// models have no param {name!r}; there are {', '.join(PARAMS)}",
                remedy=suggestion(name, PARAMS),
            )
    dtype, device = str(uri.params.get("dtype", "auto")), str(uri.params.get("device", "auto"))
    if dtype not in DTYPES:
        raise ConfigError(f"dtype of {uri} is {dtype!r}", remedy=f"use one of: {', '.join(DTYPES)}")
    if not _DEVICE.fullmatch(device):
        raise ConfigError(f"device of {uri} is {device!r}", remedy="use auto, cpu, cuda, cuda:N or mps")
    download = uri.params.get("download", False)
    if not isinstance(download, bool):
        raise ConfigError(f"download of {uri} is {download!r}", remedy="write download=true, or leave it out")
    if is_path(uri.name):
        return ModelPlace(str(file_of(uri)), "", dtype, device)
    revision = "" if uri.version == "latest" else uri.version
    return ModelPlace(_named(uri.name), revision, dtype, device, download)


def draft_of(uri: ModelUri, place: ModelPlace) -> ModelPlace | None:
    """Return the place of the draft model that an address names, held like the model itself; None without one."""
    draft = uri.params.get("draft")
    if draft is None:
        return None
    name, _, revision = str(draft).partition("@") if not is_path(str(draft)) else (str(draft), "", "")
    return ModelPlace(name if is_path(name) else _named(name), revision, place.dtype, place.device, place.download)


def speculate_of(uri: ModelUri) -> Speculate:
    """Return how answers are sped up: as the address says, else by its draft if it names one."""
    said = uri.params.get("speculate", "draft" if "draft" in uri.params else "off")
    if said not in SPECULATE:
        raise ConfigError(f"speculate of {uri} is {said!r}", remedy=f"use one of: {', '.join(SPECULATE)}")
    if said == "draft" and "draft" not in uri.params:
        raise ConfigError(f"{uri} names no draft", remedy="give draft=, or speculate=ngram, which needs none")
    return said  # type: ignore[return-value]  # it is in SPECULATE


def check_installed(scheme: str) -> None:
    """See that the extra is here.

    Raises:
        ConfigError: It is not; the remedy installs it.
    """
    missing = [name for name in PACKAGES if not _is_here(name)]
    if missing:
        raise ConfigError(
            f"{scheme}:// models need {' and '.join(missing)}, not installed here", remedy=EXTRA, missing=missing
        )


def _is_here(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # half of it is there, or it is blocked
        return False


def config_of(folder: Path) -> dict[str, Any]:
    """Return what a model's own config.json says.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", remedy="is this a model's folder?") from error
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ConfigError(f"{path} is no JSON object", remedy="is this a model's folder?")
    return told


def window_of(config: dict[str, Any]) -> int | None:
    """Return the tokens of prompt and answer that a model takes, or None where its config does not say."""
    text = config.get("text_config")
    for told in (config, text if isinstance(text, dict) else {}):
        for name in _WINDOWS:
            if isinstance(told.get(name), int) and told[name] > 0:
                return int(told[name])
    return None


def _named(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(f"{name!r} is no model's name", remedy="write org/name, or a folder: /path/to/folder")
    return name


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        raise ConfigError(f"there is no folder {name}", remedy="name the folder that the model was saved to")
    return path


def _in_cache(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download  # comes with transformers

    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (OSError, ValueError) as error:
        told = f"{name}@{revision}" if revision else name
        raise ConfigError(
            f"{told} is not in the Hugging Face cache of this machine, and nothing is fetched by itself",
            remedy=f"fetch it: hf download {name}; or let the operator's own address say ?download=true",
        ) from error


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download  # comes with transformers
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ConfigError(
            f"{name} could not be fetched: {type(error).__name__}", remedy="does it exist, and is there a network?"
        ) from error
