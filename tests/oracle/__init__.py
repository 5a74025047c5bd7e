"""A slow reference meter in plain Python, written from the definitions of the records and not from the probe's code.

It recomputes every column of the flow record but those of layer 7 (`app…`, `category`, `server_name`, the protocol
structs) and `flow_id`, with exact integer and fraction arithmetic. `python -m tests.oracle FILE` prints it as NDJSON;
`python -m tests.oracle.compare OURS.ndjson FILE` compares a program's output with it, column by column.
"""
