"""What a call remembers of its request."""

from gwcore.call import SESSION_HEADERS, Key
from gwcore.reply import Reply
from gwcore.testing import fakes
from gwcore.when import Condition


def test_a_header_is_the_first_of_its_name_and_of_several_names_the_first_that_is_there():
    call = fakes.call()
    call.headers = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert call.header(b"a") == b"1" and call.header(b"c") is None
    assert call.header(b"c", b"b", b"a") == b"2" and call.header(b"c", b"d") is None


def test_one_session_for_budgets_records_and_affinity():
    for name in SESSION_HEADERS:
        call = fakes.call()
        call.headers = [(b"user-agent", b"x"), (name, b"s-1")]
        assert call.session == b"s-1"
    call = fakes.call()
    assert call.session is None
    call = fakes.call()
    call.headers = [(b"x-session-id", b"theirs"), (b"x-gwcore-session-id", b"ours")]
    assert call.session == b"ours"


def test_a_twin_inherits_what_plugins_know_of_the_caller_and_nothing_of_the_answer():
    grant, told = Key("auth.grant", str), Key("ratelimit.told", list, own=True)
    call = fakes.call()
    call[grant], call[told] = "g", []
    twin = call.twin("gw-2", Reply(None))
    assert twin[grant] == "g" and told not in twin


def test_a_twin_of_another_operation_is_no_longer_what_its_call_was_decided_to_be():
    """A budget that is there for embeddings alone is there for the embedding that a cache makes of a chat's question."""
    condition = Condition(operations=["embeddings"])
    call = fakes.call()
    assert not condition(call)
    twin = call.twin("gw-2", Reply(None))
    twin.operation = "embeddings"
    assert condition(twin) and not condition(call)
