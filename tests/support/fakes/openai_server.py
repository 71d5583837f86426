"""Exports the parts of the fake OpenAI-compatible server that tests use."""

from tests.support.fakes.openai.answer import Script
from tests.support.fakes.openai.server import KINDS, Asked, FakeOpenAI
from tests.support.fakes.openai.wire_faults import WireFault, WireFaults

__all__ = ["KINDS", "Asked", "FakeOpenAI", "Script", "WireFault", "WireFaults"]
