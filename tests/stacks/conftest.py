"""What several stacks need."""

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@pytest.fixture(scope="session")
def service_account():
    """A key file of Google's for tokens from a URL: ``service_account(url)`` is its text."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    known = {"type": "service_account", "project_id": "PROJECT", "client_email": "a@b.example", "private_key": pem}
    return lambda url: json.dumps({**known, "token_uri": f"{url}/token"})
