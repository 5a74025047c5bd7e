"""Tests, the recorded corpus and the reference meter."""
