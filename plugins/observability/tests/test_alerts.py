"""Alerts, from the call that causes one to the message that tells it."""

import asyncio
import re
import ssl

import pytest
import trustme
from alerts_world import Mail, Slack, alerts
from obs_world import Place, ask, gateway, ok, plugin_of, streamed
from test_prometheus import AUTH, ONE

from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_observability.alerts import destinations
from gwcore_observability.alerts.plugin import Alerts

BAD = Answer(500, body=b"{}")


def slack(place, **settings):
    return {"chat": {"slack": place.url + "/services/T0/B0/xyzsecrettoken", **settings}}


async def test_an_upstream_that_fails_is_told_once_and_its_recovery_too():
    async with FakeUpstream(*[BAD] * 8) as up, Slack() as chat:
        up.default = ok()
        settings = {"upstreams": {"failures": 3}, "errors": None}
        async with gateway(up, alerts(slack(chat), **settings)) as (url, made):
            for _ in range(2):
                await ask(url)
            await asyncio.sleep(0.2)
            assert chat.texts == []  # two in a row are not three
            for _ in range(6):
                await ask(url)
            await chat.until("Upstream up/m is down")
            assert plugin_of(made, "alerts").health()["active"] == {"upstream": 1}
            await asyncio.sleep(0.3)  # several looks later
            assert len(chat.texts) == 1
            await ask(url)
            texts = await chat.until("Upstream up/m has recovered")
    assert len(texts) == 2
    assert "reason: unavailable" in texts[0] and "failures: " in texts[0]
    assert "🔴" in texts[0] and "🟢" in texts[1]


async def test_the_router_says_who_is_down_where_there_is_one():
    stack = "stack:\n  - fallback: {allowed_fails: 2, cooldown: 300ms}\n"
    async with FakeUpstream() as up, Slack() as chat:
        up.default = BAD
        async with gateway(up, alerts(slack(chat), upstreams={"failures": 1000}), stack=stack) as (url, _):
            for _ in range(3):
                await ask(url)
            await chat.until("Upstream up/m is down")
            up.default = ok()
            async with asyncio.timeout(10):
                while (await ask(url)).status_code != 200:
                    await asyncio.sleep(0.1)
            texts = await chat.until("has recovered")
    assert len([text for text in texts if "is down" in text]) == 1


async def test_error_rates_count_what_upstreams_do_wrong_and_not_what_clients_do():
    wrong = Answer(400, body=b'{"error": {"message": "no"}}')
    async with FakeUpstream(*[wrong] * 10, ok(), *[BAD] * 4) as up, Slack() as chat:
        up.default = ok()
        settings = {"errors": {"rate": "50%", "least": 5, "window": "10s"}, "upstreams": None}
        async with gateway(up, alerts(slack(chat), **settings)) as (url, made):
            for _ in range(10):
                await ask(url)
            await ask(url)
            await asyncio.sleep(0.2)
            assert list(plugin_of(made, "alerts").findings()) == []
            ids = [(await ask(url)).headers["x-gwcore-request-id"] for _ in range(4)]
            (text,) = await chat.until("80 % of attempts fail")
            assert f"last_id: {ids[-1]}" in text  # leads to trace, log and provider
            assert "up/m" in text and "failed: 4" in text and "attempts: 5" in text


async def test_slow_answers_and_hanging_ones():
    slow = Answer(body=ok().body, delay_head=0.3)
    async with FakeUpstream(slow, slow, Answer(delay_head=30)) as up, Slack() as chat:
        up.default = streamed()
        settings = {"slow": {"after": "250ms", "least": 2}, "hanging": {"after": "500ms"}}
        async with gateway(up, alerts(slack(chat), **settings)) as (url, _):
            for _ in range(2):
                await ask(url)
            await chat.until("2 of 2 answers took 0.25 s or more")
            hanging = asyncio.create_task(ask(url))
            texts = await chat.until("1 requests in flight, and nothing for 0.5 s")
            hanging.cancel()
            await asyncio.wait({hanging})
            await chat.until("no request hangs any more")
    assert re.search(r"oldest_id: \S+", "".join(texts))


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    return f"sqlite:///{tmp_path}/book.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


async def test_budgets_are_told_at_each_share_and_at_their_soft_limit(store, tmp_path):
    rules = '[{per: team, limit: "$0.00100", soft: "$0.00002", window: day}, {per: key, soft: "$0.00004", window: day}]'
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {rules}}}\n"
    stack = AUTH + budget + f'stores: {{rows: "{store}"}}\n'
    async with FakeUpstream() as up, Slack() as chat:
        up.default = ok()
        watch = alerts(slack(chat, kinds=["budget"]), budgets={"at": ["10%", 1]})
        async with gateway(up, watch, stack=stack) as (url, made):

            async def spend():
                assert (await ask(url, headers=ONE, max_tokens=10)).status_code == 200
                await asyncio.sleep(0.1)
                await plugin_of(made, "budget").gauges.look()

            await spend()  # $0.000023
            await chat.until("Budget of team t1 (day): soft limit reached")
            await spend()
            await chat.until("Budget of key one (day): soft limit reached")
            await spend()
            await spend()
            await asyncio.sleep(0.2)
            assert len(chat.texts) == 2
            await spend()  # $0.000115
            texts = await chat.until("Budget of team t1 (day): 10 % spent")
            assert len(texts) == 3 and "limit_usd: 0.001" in texts[-1] and "spent_usd: 0.000115" in texts[-1]


async def test_a_budget_that_refuses_is_told_though_it_is_never_spent_to_the_last_cent(store, tmp_path):
    rules = '[{per: team, limit: "$0.0004", window: day}, {per: key, limit: $5, window: rolling 24h}]'
    budget = f"  - budget: {{store: rows, mode: direct, patience: 5s, unpriced: allow_unmetered, journal: {tmp_path}/j, rules: {rules}}}\n"
    stack = AUTH + budget + f'stores: {{rows: "{store}"}}\n'
    async with FakeUpstream() as up, Slack() as chat:
        up.default = ok()
        async with gateway(up, alerts(slack(chat), budgets={"at": [1]}), stack=stack) as (url, _):
            statuses = [(await ask(url, headers=ONE, max_tokens=10)).status_code for _ in range(20)]
            assert statuses[0] == 200 and statuses[-1] == 429
            (text,) = await chat.until("Budget of team t1 (day): exhausted, requests are refused")
    assert "limit_usd: 0.0004" in text and "refused: " in text and "last_id: " in text


async def test_alerts_are_signed_json_where_a_webhook_wants_them():
    async with FakeUpstream() as up, Place() as place:
        up.default = BAD
        to = {
            "ops": {"webhook": place.url + "/alerts", "secret": "sign-me-please", "headers": {"X-Token": "t0ken-value"}}
        }
        async with gateway(up, alerts(to, upstreams={"failures": 2}, errors=None)) as (url, _):
            for _ in range(3):
                await ask(url)
            await place.until(1)
    (seen,) = place.requests
    assert seen.header("webhook-signature").startswith("v1,") and seen.header("x-token") == "t0ken-value"
    (alert,) = seen.document
    assert (alert["kind"], alert["state"], alert["subject"]) == ("upstream", "firing", "upstream/up/m")
    assert set(alert) == {"id", "kind", "state", "subject", "title", "at", "since", "facts", "text"}


# ── mail ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server's context, and the file of who signed it."""
    authority = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context, str(file)


def mail_to(port, ca_file=None, **settings):
    return {
        "mail": {
            "email": {
                "host": "localhost", "port": port, "sender": "gw@example.org", "to": ["ops@example.org"],
                "ca_file": ca_file, **settings,
            }
        }
    }  # fmt: skip


async def failing(up, to, work, **settings):
    """A gateway whose upstream fails; ``work`` waits for what that causes."""
    up.default = BAD
    outbox = {"backoff": "100ms", "timeout": "2s", "flush": "200ms"}
    watch = alerts(to, upstreams={"failures": 2}, errors=None, outbox=outbox, **settings)
    async with gateway(up, watch) as (url, made):
        for _ in range(3):
            await ask(url, text="prompt-canary-5d1c")
        await work(made)


LOGIN = {"username": "gw", "password": "mail-password-77aa"}


async def test_a_mail_is_sent_sealed_after_a_login(tls):
    context, ca = tls
    server = Mail(context=context, login=("gw", LOGIN["password"]), replies=["451 4.3.0 later", "250 taken"])
    async with server.open() as port, FakeUpstream() as up:
        await failing(up, mail_to(port, ca, **LOGIN), lambda _: server.until(1))
    (mail,) = server.mails
    assert server.sealed == [True]
    assert mail["subject"] == "[gwcore] 🔴 Upstream up/m is down" and mail["to"] == "ops@example.org"
    assert "reason: unavailable" in mail.get_content() and mail["auto-submitted"] == "auto-generated"
    assert mail["message-id"].endswith("@example.org>")
    clear = "".join(line for sealed, line in server.lines if not sealed)
    assert "AUTH" not in clear and "MAIL" not in clear


async def test_a_mail_over_tls_from_the_first_byte_and_one_that_is_refused_for_good(tls):
    context, ca = tls
    server = Mail(context=context, offer=False, replies=["554 5.7.1 no spam here", "250 taken"])

    async def both(made):
        outbox = plugin_of(made, "alerts").mailboxes["mail"].outbox
        async with asyncio.timeout(10):
            while not outbox.rejected:
                await asyncio.sleep(0.02)

    async with server.open(sealed=True) as port, FakeUpstream() as up:
        await failing(up, mail_to(port, ca, security="tls"), both)
        await failing(up, mail_to(port, ca, security="tls"), lambda _: server.until(1))
    assert server.mails[0]["subject"] == "[gwcore] 🔴 Upstream up/m is down"


@pytest.mark.parametrize("fault", ["no starttls", "stranger", "wrong password"])
async def test_a_server_that_is_not_what_it_should_be_gets_no_mail_and_no_password(tls, fault):
    context, ca = tls
    login = ("gw", "another" if fault == "wrong password" else LOGIN["password"])
    server = Mail(context=context, offer=fault != "no starttls", login=login)
    reasons = {
        "no starttls": "SMTPNotSupportedError",
        "stranger": "SSLCertVerificationError",
        "wrong password": "smtp_535",
    }

    async def waits(made):
        outbox = plugin_of(made, "alerts").mailboxes["mail"].outbox
        async with asyncio.timeout(10):
            while (outbox.last.reason, outbox.waiting) != (reasons[fault], 1):  # until an operator mends it
                await asyncio.sleep(0.02)

    async with server.open() as port, FakeUpstream() as up:
        await failing(up, mail_to(port, None if fault == "stranger" else ca, **LOGIN), waits)
    assert server.mails == []
    if fault != "wrong password":
        assert not [line for _, line in server.lines if line.startswith("AUTH")]


async def test_without_starttls_the_same_server_would_have_got_it(tls):
    """What the case above would look like if the client went on in the clear."""
    server = Mail(context=tls[0], offer=False)
    async with server.open() as port, FakeUpstream() as up:
        await failing(up, mail_to(port, security="none"), lambda _: server.until(1))
    assert server.sealed == [False]


# ── what is never told ───────────────────────────────────────────────────────────────────────────────────────────────


NASTY = "a<!channel>@all sk-upstream-secret-0001\n`https://evil.example`"
PROMPT = "prompt-canary-5d1c"


async def told_of_a_nasty_name(folder):
    """What a chat is told of a model that a client gave such a name, and whatever else was sent, kept or shown."""
    async with FakeUpstream() as up, Slack() as chat:
        up.default = Answer(500, body=f'{{"error": {{"message": "{PROMPT} sk-upstream-secret-0001"}}}}'.encode())
        outbox = {"folder": str(folder / "spill")}
        settings = {"upstreams": {"failures": 2}, "errors": {"least": 2, "rate": 0.5}, "outbox": outbox}
        async with gateway(up, alerts(slack(chat), **settings)) as (url, made):
            for _ in range(3):
                await ask(url, PROMPT, f"up/{NASTY}")
            await chat.until("is down")
            plugin = plugin_of(made, "alerts")
            shown = repr([plugin.health(), *plugin.metrics(), *plugin.setup.readings()])
    told = "".join(seen.body.decode() for seen in chat.requests)
    kept = b"".join(file.read_bytes() for file in (folder / "spill").rglob("*") if file.is_file()).decode()
    return chat.texts, told + kept + shown


async def test_no_secret_and_no_prompt_is_told_and_no_name_notifies_anybody(tmp_path):
    texts, everything = await told_of_a_nasty_name(tmp_path)
    assert not [word for word in ("sk-upstream-secret", PROMPT, "xyzsecrettoken") if word in everything]
    for text in texts:
        assert "<!" not in text and "@all" not in text and "https://" not in text and "[redacted]" in text


async def test_alerts_that_are_not_cleaned_are_seen(tmp_path, monkeypatch):
    """The negative control: names told as they are."""
    monkeypatch.setattr(Alerts, "_clean", lambda _self, alert: alert)
    monkeypatch.setattr(destinations, "_tame", str)
    texts, everything = await told_of_a_nasty_name(tmp_path)
    assert "sk-upstream-secret" in everything
    assert all("<!" in text and "@all" in text and "https://" in text for text in texts)


# ── what is beyond the limit, and destinations ───────────────────────────────────────────────────────────────────────


async def test_beyond_a_limit_alerts_are_held_back_and_told_together():
    async with FakeUpstream() as up, Slack() as chat:
        up.default = BAD
        to = slack(chat, limit="2/2s")
        async with gateway(up, alerts(to, upstreams={"failures": 2}, errors=None)) as (url, made):
            for n in range(5):
                for _ in range(2):
                    await ask(url, model=f"up/m{n}")
            texts = await chat.until("3 alerts were held back")
            assert "Upstream up/m4 is down" in texts[-1]
            assert plugin_of(made, "alerts").mailboxes["chat"].held == 3


async def test_each_destination_takes_its_kinds_and_a_dead_one_holds_up_nobody():
    async with FakeUpstream() as up, Slack() as chat, Slack(*[Answer(503)] * 50) as dead:
        up.default = BAD
        to = {
            "chat": {"slack": chat.url + "/x", "kinds": ["upstream"]},
            "dead": {"slack": dead.url + "/x"},
            "money": {"slack": dead.url + "/money", "kinds": ["budget", "report"]},
        }
        settings = {"upstreams": {"failures": 2}, "errors": {"least": 2}, "outbox": {"flush": 0}}
        async with gateway(up, alerts(to, **settings)) as (url, made):
            for _ in range(3):
                await ask(url)
            await chat.until("is down")
            boxes = plugin_of(made, "alerts").mailboxes
            async with asyncio.timeout(5):
                while boxes["dead"].told < 2:
                    await asyncio.sleep(0.01)
            assert boxes["money"].told == 0
            assert isinstance(plugin_of(made, "alerts"), Alerts)
        assert len(chat.texts) == 1
