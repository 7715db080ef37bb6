"""The conformance kit: fakes, a scriptable upstream, and test suites for plugins to inherit."""
