"""The keywords that options become."""

import pytest
from processes import gmdp_here

from gmdp import ConfigurationError
from gmdp.cli.options import security_keywords, split_endpoints

NONE = {"server_key": None, "curve_key": None, "username": None, "password_file": None}


def test_endpoints_are_separated_by_commas():
    assert split_endpoints("tcp://127.0.0.1:1, ipc://socket") == ["tcp://127.0.0.1:1", "ipc://socket"]


def test_keys_are_handed_on():
    keys = {**NONE, "server_key": "broker.key", "curve_key": "mine"}
    assert security_keywords(keys) == {"server_key": "broker.key", "curve_key": "mine", "username": None}


def test_the_password_is_the_first_line_of_a_file_or_in_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "password"
    file.write_text("secret\nmore\n")
    monkeypatch.setenv("GMDP_PASSWORD", "other")
    assert security_keywords({**NONE, "username": "me", "password_file": str(file)})["password"] == "secret"
    assert security_keywords({**NONE, "username": "me"})["password"] == "other"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"username": "me"}, "--password-file"),
        ({"password_file": "password"}, "--username"),
        ({"username": "me", "password_file": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_half_of_what_a_password_needs(options, word, monkeypatch):
    monkeypatch.delenv("GMDP_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match=word):
        security_keywords({**NONE, **options})


def test_a_stop_timeout_is_not_negative():
    assert "--stop-timeout" in gmdp_here("broker", "--stop-timeout", "-1").one_line()
