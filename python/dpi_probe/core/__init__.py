"""The collector: receive, verify, archive, index, query. Installed by the extra `core`.

A batch meets the modules in this order:

    ingest -> trust (whose certificate?) -> _native.verify_batch -> committer -> archive + catalog -> receipt
                                                                        |
    admin <- queries <- database process: indexer -> ClickHouse  <------+ (reads the archive's segments)

Two processes: the *service* receives and archives; the *database process*, of the lowest priority, owns
ClickHouse, fills it from the archive and answers queries, so that no insert and no query ever holds up a receipt.
"""
