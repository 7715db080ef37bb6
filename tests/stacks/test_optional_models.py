"""Operations whose model may be left out: moderations and image variations."""

import json

import httpx2 as httpx
import pytest

from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from tests.stacks.raw import exchange

ADMIN = "k-Vb3nQ8sLw1Zx6Tf9Yd2Rm5Hj7Pc4Ga0"
STACK = """\
gwcore: 1
upstreams:
  one: {{provider: openai-compatible, base_url: "{one}/v1"}}
  two: {{provider: openai-compatible, base_url: "{two}/v1"}}
models:
  guard: two/guard-1
  "*": pass
stack: [{stack}]
"""


@pytest.fixture
async def upstreams():
    async with FakeUpstream() as one, FakeUpstream() as two:
        one.default = two.default = Answer(body=b'{"id": "m", "results": []}')
        yield one, two


def stack(upstreams, more=""):
    return STACK.format(one=upstreams[0].url, two=upstreams[1].url, stack=more)


async def moderated(url, headers=(), **more):
    return await exchange(url, "POST", "/v1/moderations", json.dumps({"input": "x", **more}).encode(), headers)


@pytest.mark.parametrize("asked", ["guard", "two/guard-1"])
async def test_one_that_names_a_model_goes_to_its_upstream_alone(upstreams, asked):
    one, two = upstreams
    async with running(Gateway(stack(upstreams))) as url:
        answer = await moderated(url, model=asked)
        assert (answer.status, answer.headers["x-gwcore-model"]) == (200, "guard-1")
        assert two.requests[0].document == {"input": "x", "model": "guard-1"} and not one.requests


@pytest.mark.parametrize("more", [{}, {"model": None}, {"model": "omni-moderation-latest"}])
async def test_without_one_or_with_a_name_of_the_vendors_the_first_that_serves_it_is_asked(upstreams, more):
    one, two = upstreams
    async with running(Gateway(stack(upstreams))) as url:
        assert (await moderated(url, **more)).status == 200
        assert one.requests[0].document == {"input": "x", **more}
        assert (await moderated(url, [("x-gwcore-upstream", "two")], **more)).status == 200
        assert two.requests[0].document == {"input": "x", **more}


@pytest.mark.parametrize(("model", "arrives"), [(b"two/painter", b"painter"), (b"dall-e-2", b"dall-e-2"), (None, None)])
async def test_a_form_says_it_too(upstreams, model, arrives):
    one, two = upstreams
    named = b"" if model is None else b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % model
    form = named + b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--B--\r\n'
    async with running(Gateway(stack(upstreams))) as url:
        kind = [("content-type", "multipart/form-data; boundary=B")]
        assert (await exchange(url, "POST", "/v1/images/variations", form, kind)).status == 200
    (seen,) = (two if model == b"two/painter" else one).requests
    assert seen.body == (form if model is None else form.replace(model, arrives))


async def test_a_key_of_some_models_may_name_one_of_them(upstreams, tmp_path):
    one, two = upstreams
    auth = f"auth: {{admin_key: {ADMIN}, store: book}}"
    text = stack(upstreams, auth) + f'stores: {{book: "sqlite:///{tmp_path}/book.db"}}\n'
    async with running(Gateway(text, serve_admin=True)) as url, httpx.AsyncClient(base_url=url) as http:
        made = await http.post(
            "/key/generate", headers={"authorization": f"Bearer {ADMIN}"}, json={"models": ["guard"]}
        )
        bearer = [("authorization", f"Bearer {made.json()['key']}")]
        assert (await moderated(url, bearer, model="guard")).status == 200
        assert [len(upstream.requests) for upstream in upstreams] == [0, 1]
        for refused in ({"model": "one/other"}, {"model": "omni-moderation-latest"}, {}):
            assert (await moderated(url, bearer, **refused)).status == 403
    assert not one.requests and len(two.requests) == 1
