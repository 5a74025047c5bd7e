"""Our own captures: one directory a case, each with the scenario that records it again."""
