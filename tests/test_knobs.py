from gwcore.knobs import largest, said, saying

FLAT = (("max_tokens",), ("limit",))
NESTED = (("config", "max"), ("config_", "max_"))


def test_every_place_is_read_and_null_says_nothing():
    document = {"max_tokens": 5, "limit": 9, "config": {"max": None}, "config_": {"max_": 3}}
    assert list(said(document, FLAT)) == [5, 9]
    assert list(said(document, NESTED)) == [3]
    assert list(said({"config": "text"}, NESTED)) == []


def test_only_numbers_of_something_count():
    assert largest({"max_tokens": True, "limit": 7}, FLAT) == 7
    assert largest({"max_tokens": "many", "limit": -1}, FLAT) is None
    # who checks loosely reads these as numbers
    assert largest({"max_tokens": "5", "limit": 6.0}, FLAT) == 6
    assert largest({"max_tokens": "inf", "limit": float("nan")}, FLAT) is None


def test_the_largest_of_all_places_counts():
    assert largest({"config": {"max": 4}, "config_": {"max_": 3}}, NESTED) == 4
    assert largest({"max_tokens": 5, "limit": 9}, FLAT) == 9
    assert largest({"config": "text", "limit": 9}, NESTED) is None


def test_it_is_said_wherever_it_is_said_already_else_at_the_first_place():
    assert saying({}, FLAT, 1) == {"max_tokens": 1}
    assert saying({"limit": 9}, FLAT, 1) == {"limit": 1}
    assert saying({"max_tokens": 5, "limit": 9}, FLAT, 1) == {"max_tokens": 1, "limit": 1}
    assert saying({}, (), 1) == {}


def test_what_stands_beside_it_stays_and_the_document_is_not_changed():
    document = {"config_": {"seed": 1}}
    assert saying(document, NESTED, 2) == {"config_": {"seed": 1, "max_": 2}}
    assert saying({}, NESTED, 2) == {"config": {"max": 2}}
    assert document == {"config_": {"seed": 1}}
    both = (("config", "max"), ("config", "most"))
    assert saying({"config": {"max": 1, "most": 2}}, both, 3) == {"config": {"max": 3, "most": 3}}
    assert saying({}, (("a", "b", "c"),), 1) == {"a": {"b": {"c": 1}}}
