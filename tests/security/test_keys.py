"""Keys as text: what is read, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import base64
import logging

import pytest

from kernel import Key, Keyring, UsageError
from kernel.auth.keys import new_key

SECRET = bytes(range(200, 232))
ENCODED = base64.b64encode(SECRET).decode()


def test_a_key_that_was_made_can_be_read_again():
    key = new_key("alice/2")
    assert len(key.secret) == 32
    assert Keyring.parse(key.line(), "a test").find("alice/2") == key
    assert key.name == "alice"


def test_two_keys_that_are_made_differ():
    assert new_key("a").secret != new_key("a").secret


@pytest.mark.parametrize(
    "text",
    [
        f"alice:{ENCODED}",
        f"# made today\n\n  alice:{ENCODED}  \n",
        f"alice: {ENCODED}\r\n",
        f"alice:{base64.urlsafe_b64encode(SECRET).decode()}",
    ],
)
def test_texts_that_hold_a_key(text: str):
    ring = Keyring.parse(text, "a test")
    assert len(ring) == 1
    assert ring.first == Key("alice", SECRET)


def test_the_first_key_of_several_is_the_one_to_prove():
    ring = Keyring.parse(f"alice/2:{ENCODED}\nalice/1:{ENCODED}\nbob:{ENCODED}", "a test")
    assert ring.first.id == "alice/2"
    assert ring.find("bob") is not None
    assert ring.find("carol") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no key"),
        ("# nothing\n", "there is no key"),
        (ENCODED, "line 1: a key is ID:SECRET"),
        (f"alice:{ENCODED}\nbob:not base64!", "line 2: the secret is not base64"),
        (f"alice:{ENCODED[:-1]}", "line 1: the secret is not base64"),
        ("alice:c2hvcnQ=", "line 1: the secret has 5 bytes"),
        (f"alice:{base64.b64encode(bytes(257)).decode()}", "has 257 bytes"),
        (f"a b:{ENCODED}", "line 1: a key's id"),
        (f"{'a' * 64}:{ENCODED}", "a key's id"),
        (f"al\x1bice:{ENCODED}", "a key's id"),
        (f"alice/:{ENCODED}", "a key's id"),
        (f"alice:{ENCODED}\nalice:{ENCODED}", "'alice' stands there twice"),
    ],
)
def test_what_is_no_key_is_refused_by_its_line_and_never_shown(text: str, words: str):
    with pytest.raises(UsageError, match=r"keys\.txt") as caught:
        Keyring.parse(text, "keys.txt")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ENCODED[:10] not in str(caught.value)
    assert caught.value.__suppress_context__


def test_secrets_are_in_no_text_that_python_makes_of_them(caplog: pytest.LogCaptureFixture):
    key = Key("alice", SECRET)
    ring = Keyring([key])
    logging.getLogger("test").warning("%s %r %s", key, [key], {"ring": ring})
    shown = caplog.text + repr(key) + str(ring) + f"{key}{ring}" + repr(vars(ring))
    assert "alice" in shown
    for secret in (repr(SECRET)[2:-1], ENCODED, SECRET.hex(), base64.urlsafe_b64encode(SECRET).decode()):
        assert secret[:8] not in shown
