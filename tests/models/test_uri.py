"""Addresses of models: the whole path is the name, params have types, and no key ever stands in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ConfigError, PlanError, UnknownModelError
from planloom.models.uri import ModelUri, checked, parse_uri, uri_for


def test_a61_a_param_has_the_type_that_it_looks_like() -> None:
    uri = parse_uri("openai://gpt-4?temperature=0.2&max_tokens=100&a=true&b=false&c=1e3&d=-7&e=007&f=nan&g=text&h=")

    assert uri.params == {
        "temperature": 0.2,
        "max_tokens": 100,
        "a": True,
        "b": False,
        "c": 1000.0,
        "d": -7,
        "e": 7.0,
        "f": "nan",
        "g": "text",
        "h": "",
    }
    assert type(uri.params["temperature"]) is float
    assert type(uri.params["max_tokens"]) is int


def test_a61_the_whole_path_is_the_name() -> None:
    uri = parse_uri("huggingface://org/name")

    assert (uri.scheme, uri.name, uri.version) == ("huggingface", "org/name", "")


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("openai://gpt-4@2024-08-06", "gpt-4", "2024-08-06"),
        ("openai://gpt-4?version=2024", "gpt-4", "2024"),
        ("openai://gpt-4/latest", "gpt-4", "latest"),
        ("huggingface://org/name@main", "org/name", "main"),
        ("huggingface://org/latest-thing", "org/latest-thing", ""),
        ("openai://latest", "latest", ""),
        ("workers://@cf/meta/llama", "@cf/meta/llama", ""),
        ("workers://x@cf/meta", "x@cf/meta", ""),
        ("ollama://llama3:8b", "llama3:8b", ""),
        ("cassette:///tmp/answers.json", "/tmp/answers.json", ""),
        ("huggingface://org/a%40b", "org/a@b", ""),
        ("openai://gr%C3%BC%C3%9Fe%3F", "grüße?", ""),
    ],
)
def test_a61_a_version_is_what_stands_behind_the_last_at_or_is_named(text: str, name: str, version: str) -> None:
    uri = parse_uri(text)

    assert (uri.name, uri.version) == (name, version)


@pytest.mark.parametrize(
    "text",
    [
        "openai://gpt-4?temperature=0.2",
        "huggingface://org/name",
        "openai://gpt-4/latest",
        "openai://gpt-4@2024-08-06?max_tokens=7",
        "openai://m?base_url=http://127.0.0.1:8000/v1&key_env=MY_KEY",
        "ollama://llama3:8b",
    ],
)
def test_a61_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_uri(text)) == text


WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
PARAMS = st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
NOT_PARAMS = ("version", "base_url", "key_env")


def test_a61_a_name_that_ends_in_a_slash_keeps_its_version() -> None:
    uri = ModelUri("openai", "org/", "1")

    assert parse_uri(str(uri)) == uri


@given(
    scheme=st.sampled_from(["openai", "a+b", "x-1.0"]),
    name=WORDS,
    version=st.just("") | st.just("latest") | WORDS,
    params=st.dictionaries(WORDS.filter(lambda key: key not in NOT_PARAMS), PARAMS, max_size=3),
)
def test_a61_every_address_can_be_read_back(scheme: str, name: str, version: str, params: dict[str, object]) -> None:
    try:
        written = str(checked(ModelUri(scheme, name, version, params)))  # type: ignore[arg-type]
    except UnknownModelError:
        return  # a param that is called like a key

    read = parse_uri(written)

    assert (read.scheme, read.name, read.version) == (scheme, name, version)
    assert parse_uri(str(read)) == read
    assert {key: str(value) for key, value in read.params.items() if isinstance(value, str)} == {
        key: value for key, value in params.items() if isinstance(read.params[key], str)
    }


@pytest.mark.parametrize(
    "text",
    [
        "gpt-4",
        "://gpt-4",
        "1a://gpt-4",
        "openai://",
        "openai://?temperature=1",
        "openai://gpt-4?temperature",
        "openai://gpt-4?=1",
        "openai://gpt-4?a=1&a=2",
        "openai://gpt-4@1?version=2",
        "openai://gpt-4\ud800",
        "openai://m?base_url=localhost:8000",
        "openai://m?base_url=http://[::1",
        "openai://m?base_url=file:///etc/passwd",
    ],
)
def test_what_is_no_address_is_an_error_with_a_remedy(text: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        parse_uri(text)

    assert raised.value.remedy
    assert isinstance(raised.value, PlanError)
    assert isinstance(raised.value, ConfigError)


SECRET = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"openai://gpt-4?api_key={SECRET}",
        f"openai://gpt-4?API-KEY={SECRET}",
        f"openai://gpt-4?apikey={SECRET}",
        f"openai://gpt-4?key={SECRET}",
        f"openai://gpt-4?token={SECRET}",
        f"openai://gpt-4?auth_token={SECRET}",
        f"openai://gpt-4?secret={SECRET}",
        f"openai://gpt-4?password={SECRET}",
        f"openai://gpt-4?key_env={SECRET}",
        f"openai://gpt-4?base_url=https://user:{SECRET}@host/v1",
        f"openai://gpt-4?base_url=https://host/v1?api_key={SECRET}",
        f"openai://gpt-4?base_url=https%3A%2F%2Fhost%2Fv1%3Ftoken%3D{SECRET}",
    ],
)
def test_a_key_in_an_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UnknownModelError) as raised:
        parse_uri(text)

    assert SECRET not in str(raised.value)
    assert SECRET not in repr(raised.value.to_dict())
    assert "key_env" in str(raised.value)


@pytest.mark.parametrize(
    ("model", "provider", "uri"),
    [
        ("gpt-4o", None, "openai://gpt-4o"),
        ("gpt-4o-mini", None, "openai://gpt-4o-mini"),
        ("chatgpt-4o-latest", None, "openai://chatgpt-4o-latest"),
        ("o1", None, "openai://o1"),
        ("o3-mini", None, "openai://o3-mini"),
        ("o4-mini", None, "openai://o4-mini"),
        ("claude-sonnet-4-6", None, "anthropic://claude-sonnet-4-6"),
        ("gemini-2.5-flash", None, "google://gemini-2.5-flash"),
        ("gpt-4o", "openai", "openai://gpt-4o"),
        ("llama3:8b", "Ollama", "ollama://llama3:8b"),
        ("org/name", "vllm", "vllm://org/name"),
        ("openai://gpt-4?temperature=1", None, "openai://gpt-4?temperature=1"),
    ],
)
def test_a_bare_name_stands_for_an_address_where_it_is_well_known(model: str, provider: str | None, uri: str) -> None:
    assert uri_for(model, provider) == uri


@pytest.mark.parametrize("model", ["llama3", "o30", "o1x", "mistral-large", ""])
def test_a_bare_name_that_nobody_knows_asks_for_its_provider(model: str) -> None:
    with pytest.raises(UnknownModelError, match="provider="):
        uri_for(model)


def test_a_name_is_taken_as_it_stands_where_the_provider_is_given() -> None:
    assert parse_uri(uri_for("odd@name/latest", "vllm")).name == "odd@name/latest"
