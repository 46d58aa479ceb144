"""Nothing that is printed, logged or raised holds a password of an address or a token."""

import contextlib
import io
import logging
import sys
import warnings
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm import secrets
from rlm.errors import ConfigError, StageError
from rlm.secrets import hidden_secrets, hide_in_file, plain_without_secrets, without_secrets

TOKEN = "hf_" + "aB3dE6gH9kLmN" * 2


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the machine that runs the tests."""
    for name in (*secrets.SECRET_VARIABLES, "MLFLOW_TRACKING_URI", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("POST http://ann:hunter2@127.0.0.1:9/api failed", "POST http://127.0.0.1:9/api failed"),
        ("postgresql://ann:hun/t@er:2%41@db.host/mlflow", "postgresql://db.host/mlflow"),
        ("mysql+pymysql://ann:x@h/db, http://bob:y@i", "mysql+pymysql://h/db, http://i"),
        ("'http://token@host/x'", "'http://host/x'"),
        ("http:/ann:hunt/er2@host/table.yaml: no such file", "http:/host/table.yaml: no such file"),
        ("files:/home/ann@lab/x, scale: a@b", "files:/home/ann@lab/x, scale: a@b"),
        ("next=http%3A%2F%2Fann%3Ahunter2%40host", "next=http%3A%2F%2Fhost"),
        (f"Bearer {TOKEN}.", "Bearer ***."),
        ("hf_hub_download of hf_transfer", "hf_hub_download of hf_transfer"),
        ("sqlite:////home/ann@lab/mlflow.db", "sqlite:////home/ann@lab/mlflow.db"),
        ("recall@5 of https://huggingface.co/bert", "recall@5 of https://huggingface.co/bert"),
    ],
)
def test_without_secrets__hides_what_has_the_form_of_one(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert str(ConfigError(text)) == shown and str(StageError(text)) == shown


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"]
)
def test_without_secrets__hides_values_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "open sésame/2")
    for form in ("open sésame/2", quote("open sésame/2", safe=""), "open s\\u00e9same/2"):
        assert without_secrets(f"it is {form}!") == "it is ***!"


def test_without_secrets__hides_the_token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text("an-old-token\n")
    assert without_secrets("with an-old-token") == "with ***"
    (tmp_path / "elsewhere").write_text("another-token")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert without_secrets("with another-token") == "with ***"


def test_without_secrets__hides_a_password_where_its_address_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://ann:hunt/er2%21secret@proxy:3128")
    for text in ("password 'hunt/er2%21secret'", "hunt/er2!secret", "port 'er2%21secret'", "user=ann pw=er2%21secret"):
        assert "secret" not in without_secrets(text)
    monkeypatch.setenv("https_proxy", "http://ann:mlflow@proxy:3128")
    assert without_secrets("mlflows of ann") == "mlflows of ann", "a short word hides no part of others"


@given(password=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=6))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_without_secrets__hides_any_password(password: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{password}@127.0.0.1:9")
        for form in (password, quote(password, safe=""), repr(password)[1:-1]):
            assert without_secrets(f"at http://ann:{form}@127.0.0.1:9/api: no") == "at http://127.0.0.1:9/api: no"
            assert form not in without_secrets(f"the password <{form}> is wrong").replace("the password", "")


def test_plain_without_secrets__is_the_same_in_every_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"name": "https://u:p@host/x", "files": ["a", TOKEN], "k": 3, "none": None, "tiny": "password1"}
    hidden = {"name": "https://host/x", "files": ["a", "***"], "k": 3, "none": None, "tiny": "password1"}
    monkeypatch.setenv("HF_TOKEN", "password1")
    assert plain_without_secrets(config) == hidden


def test_hidden_secrets__when_libraries_print_warn_and_log(capsys: pytest.CaptureFixture[str]) -> None:
    address = "http://ann:hunter2@host/x"
    with hidden_secrets():
        print("to", address)
        sys.stdout.writelines([address, "\n"])
        warnings.warn(f"cannot reach {address}", stacklevel=1)
        handler = logging.StreamHandler()
        handler.handle(logging.LogRecord("mlflow", logging.ERROR, "", 1, "%s is away", (address,), None))
        try:
            raise OSError(address)
        except OSError:
            sys.excepthook(*sys.exc_info())
    out, err = capsys.readouterr()
    assert out == "to http://host/x\nhttp://host/x\n"
    assert "hunter2" not in err and "http://host/x is away" in err and "OSError: http://host/x" in err
    print(address)
    assert address in capsys.readouterr().out, "the streams are as they were"


def test_hidden_secrets__keeps_what_a_stream_is() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with contextlib.redirect_stdout(stream), hidden_secrets():
        assert sys.stdout.isatty()
        with hidden_secrets():
            print("http://a:b@c", file=sys.stdout)
    assert stream.getvalue() == "http://c\n"


def test_hide_in_file__when_a_process_wrote_past_our_streams(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"one\r\n\xff http://ann:hunter2@host\ntwo")
    hide_in_file(log)
    assert log.read_bytes() == b"one\r\n\xff http://host\ntwo"
    before = log.stat().st_mtime_ns
    hide_in_file(log)
    assert log.stat().st_mtime_ns == before
    hide_in_file(tmp_path / "nothing")
