"""What a call remembers of its request."""

from gwcore.call import SESSION_HEADERS
from gwcore.testing import fakes


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
