"""Tests write what they spill below their own folder."""

import os

import pytest


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path):
    before = os.getcwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)
