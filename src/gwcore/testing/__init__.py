"""The conformance kit: fakes, a scriptable upstream, and the suites that a plugin inherits."""
