"""`dpi_probe.read` and what it returns."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import capture_files as captures
import dpi_probe
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from harness.core import wait_for


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames()))
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.pcap"
    path.write_bytes(captures.pcap(captures.many_frames(2_000)))
    return path


def test_a_flow_has_its_columns_as_attributes(small):
    (flow,) = dpi_probe.read(small)
    assert (flow.src_ip, flow.src_port, flow.dst_ip, flow.dst_port) == ("192.0.2.1", 50_000, "192.0.2.53", 53)
    assert (flow.packets_fwd, flow.packets_rev) == (1, 1)
    assert (flow.app, flow.server_name) == ("dns", "example.org")
    assert flow.src_mac == "02:00:5e:00:53:02"
    assert flow.start_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert flow.start_time_ns == captures.START
    assert flow.end_time_ns - flow.start_time_ns == 2 * captures.MILLISECOND
    assert flow.tcp_flags_fwd is None


def test_protocol_structs_are_nested_objects_or_none(small):
    (flow,) = dpi_probe.read(small)
    assert [query.name for query in flow.dns.queries] == ["example.org"]
    assert flow.dns.queries[0].class_ == "IN"
    assert flow.tls is None
    assert "example.org" in repr(flow.dns)
    assert repr(flow.dns).startswith("dns(")


def test_unknown_columns_are_attribute_errors(small):
    (flow,) = dpi_probe.read(small)
    with pytest.raises(AttributeError, match='Flow has no column "sorce_ip"'):
        _ = flow.sorce_ip
    with pytest.raises(AttributeError, match="dns has no column"):
        _ = flow.dns.nothing
    assert not hasattr(flow, "app_ns"), "only times have a form in nanoseconds"


def test_flows_cannot_be_changed(small):
    (flow,) = dpi_probe.read(small)
    for target in (flow, flow.dns):
        with pytest.raises(AttributeError):
            target.src_ip = "192.0.2.9"


def test_dir_to_dict_and_repr_tell_what_a_flow_is(small):
    (flow,) = dpi_probe.read(small)
    assert {"src_ip", "dns", "start_time_ns", "to_dict"} <= set(dir(flow))
    values = flow.to_dict()
    assert values["dns"]["queries"][0]["name"] == "example.org"
    assert values["start_time"] == flow.start_time
    assert repr(flow) == (
        "Flow(192.0.2.1:50000 → 192.0.2.53:53, udp, dns example.org, 2 packets, 130 bytes, "
        "2023-11-14T22:13:20.000000001Z)"
    )


def test_reading_again_gives_equal_flows(small):
    flows = dpi_probe.read(small)
    first, second = list(flows), list(flows)
    assert first == second
    assert len({*first, *second}) == 1


def test_every_flow_arrives_in_order_of_its_end(many):
    flows = list(dpi_probe.read(many, idle_timeout=0.5))
    assert len({flow.flow_id for flow in flows}) == len(flows) == 2_000
    ended = [flow.end_time_ns for flow in flows if flow.end_reason == "idle_timeout"]
    assert len(ended) > 1_000
    assert ended == sorted(ended)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_do_not_change_the_result(many, workers):
    alone = dpi_probe.read(many).to_arrow()
    assert dpi_probe.read(many, workers=workers).to_arrow().equals(alone)


def test_tables_have_the_same_rows_and_columns(many):
    flows = dpi_probe.read(many)
    arrow, polars, pandas = flows.to_arrow(), flows.to_polars(), flows.to_pandas()
    assert arrow.num_rows == polars.height == len(pandas) == 2_000
    assert arrow.column_names == polars.columns == list(pandas.columns)
    assert polars["start_time"].dtype == pl.Datetime("ns", "UTC")
    assert pandas["flow_id"].tolist() == polars["flow_id"].to_list() == arrow["flow_id"].to_pylist()


def test_pandas_has_the_same_types_for_every_capture_when_asked(small, tmp_path):
    # One has flags of TCP, the other none.
    both = tmp_path / "both.pcap"
    segment = struct.pack("!HHIIBBHHH", 50_001, 80, 1, 0, 5 << 4, 2, 1024, 0, 0)
    tcp = captures.ethernet(captures.ipv4("192.0.2.1", "192.0.2.53", 6, segment))
    both.write_bytes(captures.pcap([*captures.dns_frames(), (captures.START, tcp)]))
    frames = [dpi_probe.read(path).to_pandas(types_mapper=pd.ArrowDtype) for path in (small, both)]
    assert frames[0].dtypes.to_dict() == frames[1].dtypes.to_dict()
    assert frames[0]["tcp_flags_fwd"].dtype == pd.ArrowDtype(pa.uint16())
    assert sorted(frames[1]["tcp_flags_fwd"].dropna()) == [2]
    # Which they have not when nobody asks.
    plain = [dpi_probe.read(path).to_pandas() for path in (small, both)]
    assert plain[0].dtypes.to_dict() != plain[1].dtypes.to_dict()


def test_arrow_consumers_take_it_as_it_is(small):
    flows = dpi_probe.read(small)
    assert pa.table(flows).num_rows == 1
    assert pl.DataFrame(flows).height == 1
    schema = pa.schema(flows)
    assert schema.field("src_ip").metadata[b"kind"] == b"address"
    assert schema.field("packets_fwd").metadata[b"doc"].startswith(b"Packets")


def test_binary_addresses_are_what_is_sealed(small):
    (flow,) = dpi_probe.read(small, addresses="binary")
    assert flow.src_ip == bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    assert flow.src_mac == bytes.fromhex("02005e005302")
    assert dpi_probe.read(small, addresses="binary").to_arrow().schema.field("src_ip").type == pa.binary(16)


@pytest.mark.parametrize("suffix", ["ndjson", "csv"])
def test_files_for_people_have_addresses_as_text(small, tmp_path, suffix):
    target, binary = tmp_path / f"flows.{suffix}", tmp_path / f"binary.{suffix}"
    dpi_probe.read(small).write(target)
    flows = dpi_probe.read(small, addresses="binary")
    assert flows.write(binary) == 1
    assert "192.0.2.53" in binary.read_text()
    assert binary.read_bytes() == target.read_bytes()
    # Only there.
    assert flows.to_arrow().schema.field("src_ip").type == pa.binary(16)
    flows.write(tmp_path / "flows.parquet")
    assert pl.read_parquet(tmp_path / "flows.parquet")["src_ip"].dtype == pl.Binary


def test_protocols_choose_the_structs(small):
    names = dpi_probe.read(small, protocols=["tls"]).to_arrow().column_names
    assert "tls" in names
    assert "dns" not in names
    assert dpi_probe.read(small, protocols=[]).to_arrow().column_names[-1] == "shed"


def test_a_filter_passes_over_other_packets(many):
    flows = dpi_probe.read(many, filter="host 10.0.0.7")
    assert [flow.server_name for flow in flows] == ["host7.example"]
    assert flows.accounts["frames_delivered"] == 2


@pytest.mark.parametrize("suffix", ["ndjson", "csv", "parquet", "arrow"])
def test_write_chooses_the_format_by_suffix(many, tmp_path, suffix):
    flows = dpi_probe.read(many)
    target = tmp_path / f"flows.{suffix}"
    assert flows.write(target) == 2_000
    read = {
        "ndjson": lambda: pl.read_ndjson(target, infer_schema_length=None),
        "csv": lambda: pl.read_csv(target, infer_schema_length=None),
        "parquet": lambda: pl.read_parquet(target),
        "arrow": lambda: pl.read_ipc(target),
    }[suffix]()
    assert read["flow_id"].cast(pl.UInt64).to_list() == flows.to_polars()["flow_id"].to_list()


def test_ndjson_has_one_object_a_flow_without_nulls(small, tmp_path):
    target = tmp_path / "flows.ndjson"
    dpi_probe.read(small).write(target)
    (line,) = target.read_text().splitlines()
    record = json.loads(line)
    assert record["start_time"] == "2023-11-14T22:13:20.000000001Z"
    assert record["dns"]["queries"][0]["name"] == "example.org"
    assert "tls" not in record
    assert None not in record.values()


def test_csv_flattens_structs(small, tmp_path):
    target = tmp_path / "flows.csv"
    dpi_probe.read(small).write(target)
    header, _row = target.read_text().splitlines()
    assert "dns.queries" in header.split(",")
    assert "tls.sni" in header.split(",")


def test_an_output_must_not_be_an_input(small):
    with pytest.raises(dpi_probe.ConfigError, match="is also an input"):
        dpi_probe.read(small).write(small, format="ndjson")
    assert small.stat().st_size > 0


def test_the_format_must_be_known(small, tmp_path):
    with pytest.raises(dpi_probe.ConfigError, match="unknown suffix"):
        dpi_probe.read(small).write(tmp_path / "flows.xlsx")
    with pytest.raises(dpi_probe.ConfigError, match="allowed are ndjson, csv, parquet, arrow"):
        dpi_probe.read(small).write(tmp_path / "flows", format="xlsx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers: 0 is not allowed; give 1 to 256"),
        ({"workers": -1}, "workers: -1 is not allowed; give 1 to 256"),
        ({"workers": 257}, "workers: 257 is not allowed; give 1 to 256"),
        ({"workers": 2**64}, "workers: 18446744073709551616 is not allowed"),
        ({"workers": 1.5}, "workers: 1.5 is not allowed"),
        ({"idle_timeout": 0}, "idle_timeout: 0 is not allowed"),
        ({"idle_timeout": float("nan")}, "idle_timeout: nan is not allowed"),
        ({"idle_timeout": 10**400}, "idle_timeout: 1000"),
        ({"idle_timeout": 2, "active_timeout": 1}, "idle_timeout: 2 is above active_timeout"),
        ({"active_timeout": -1.5}, "active_timeout: -1.5 is not allowed"),
        ({"protocols": ["tsl"]}, 'protocols: "tsl" is not known; allowed are tls, '),
        ({"addresses": "hex"}, 'addresses: "hex" is not known'),
        ({"filter": "tcp prot 80"}, "syntax error"),
    ],
)
def test_settings_are_checked_at_once(small, settings, message):
    with pytest.raises(dpi_probe.ConfigError, match=message) as caught:
        dpi_probe.read(small, **settings)
    assert "\n" not in str(caught.value)


def test_no_path_is_a_clear_error():
    with pytest.raises(dpi_probe.ConfigError, match="at least one capture file"):
        dpi_probe.read([])


def test_a_path_that_the_system_refuses_is_told_at_once(tmp_path, small):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, words in (
        (small / "below", "Not a directory"),
        (loop, "symbolic links"),
        (tmp_path / ("x" * 300), "long"),
    ):
        with pytest.raises(dpi_probe.CaptureError, match=words) as caught:
            dpi_probe.read(path)
        assert "every packet before" not in str(caught.value)


def interrupted(tmp_path, use):
    """What a program prints, and how it ends, that gets one SIGINT while it waits for frames in `use`."""
    program = f"""
import dpi_probe, polars, signal, sys
def handler(number, frame):
    print("handler", flush=True)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
flows = dpi_probe.read(sys.argv[1])
print("reads", flush=True)
try:
    {use}
except KeyboardInterrupt:
    sum(range(100_000))
    print("interrupted", flush=True)
except Exception as error:
    sum(range(100_000))
    print("went on", flush=True)
"""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"reads\n"
        # Opened once the reader has come.
        with path.open("wb"):
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            output, errors = child.communicate(timeout=20)
    return output.split(), errors, child.returncode


def test_ctrl_c_is_not_lost_where_another_takes_the_stream(tmp_path):
    output, errors, status = interrupted(tmp_path, "polars.DataFrame(flows)")
    assert output == [b"handler"]
    assert b"KeyboardInterrupt" in errors
    assert status == -signal.SIGINT


def test_one_ctrl_c_is_one(tmp_path):
    assert interrupted(tmp_path, "flows.to_arrow()") == ([b"handler", b"interrupted"], b"", 0)


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path):
    missing = tmp_path / "missing.pcap"
    with pytest.raises(dpi_probe.CaptureError, match=str(missing)):
        dpi_probe.read(missing)
    with pytest.raises(OSError, match=str(missing)):
        dpi_probe.read([missing])


def test_a_damaged_file_gives_what_can_be_read_and_a_warning(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes(captures.pcap(captures.many_frames(100))[:-3])
    flows = dpi_probe.read(path)
    with pytest.warns(dpi_probe.CaptureWarning, match=r"cut\.pcap"):
        assert len(list(flows)) == 100
    (problem,) = flows.problems
    assert str(path) in problem
    assert flows.accounts["frames_delivered"] == 199


def test_several_files_are_one_capture(tmp_path):
    frames = captures.dns_frames()
    first, second = tmp_path / "1.pcap", tmp_path / "2.pcapng.gz"
    first.write_bytes(captures.pcap(frames[:1]))
    second.write_bytes(gzip.compress(captures.pcapng(frames[1:])))
    (flow,) = dpi_probe.read([first, second])
    assert (flow.packets_fwd, flow.packets_rev) == (1, 1)


def test_pcap_and_pcapng_give_the_same(tmp_path):
    frames = captures.many_frames(10)
    one, other = tmp_path / "a.pcap", tmp_path / "a.pcapng"
    one.write_bytes(captures.pcap(frames))
    other.write_bytes(captures.pcapng(frames))
    assert list(dpi_probe.read(one)) == list(dpi_probe.read(other))


def test_the_books_balance(many):
    flows = dpi_probe.read(many)
    assert flows.to_arrow().num_rows == 2_000
    accounts = flows.accounts
    undecodable = accounts["frames_undecodable"]
    assert isinstance(undecodable, dict)
    assert accounts["frames_delivered"] == 4_000 == accounts["frames_metered"] + sum(undecodable.values())


def test_notebooks_get_a_table(small):
    shown = dpi_probe.read(small)._repr_html_()
    assert "<td>example.org</td>" in shown
    assert repr(dpi_probe.read(small)) == f"<Flows of {str(small)!r}>"


def test_a_notebook_cannot_be_attacked_from_the_wire(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(captures.pcap(captures.dns_frames(name="<script>x")))
    assert "<script>" not in dpi_probe.read(path)._repr_html_()


def test_missing_packages_are_named_with_their_extra(small, monkeypatch):
    for package, call, extra in [
        ("pyarrow", "to_arrow", "arrow"),
        ("polars", "to_polars", "polars"),
        ("pandas", "to_pandas", "pandas"),
    ]:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"dpi-probe\[{extra}\]"):
            getattr(dpi_probe.read(small), call)()


def test_reading_leaves_no_warning_when_all_is_well(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dpi_probe.read(small).to_polars().height == 1


def test_an_iteration_that_is_left_early_leaves_no_thread_and_no_file(many):
    def looks(what, paths) -> bool:
        for path in paths:
            # It may be gone by now.
            with contextlib.suppress(OSError):
                if what(path):
                    return True
        return False

    def reads() -> bool:
        has_thread = looks(lambda name: name.read_text() == "dpi-read\n", Path("/proc/self/task").glob("*/comm"))
        return has_thread or looks(lambda file: file.samefile(many), Path("/proc/self/fd").iterdir())

    # More than may wait for its reader.
    flows = dpi_probe.read([many] * 40, idle_timeout=0.01)
    for _ in flows:
        assert reads()
        break
    wait_for(lambda: not reads(), "the thread to end", 20)
    read = flows.accounts["frames_delivered"]
    assert 0 < read < 160_000
    assert flows.accounts["frames_delivered"] == read, "the books stay"
    assert flows.problems == []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda flows: pickle.loads(pickle.dumps(flows))])  # noqa: S301
def test_a_copy_reads_the_same_for_itself(many, copied):
    flows = dpi_probe.read(many, filter="host 10.0.0.7", protocols=["dns"])
    before = copied(flows)
    (flow,) = flows
    after = copied(flows)
    assert [flow] == list(before) == list(after)
    assert before.accounts == after.accounts == flows.accounts
    assert list(copied(dpi_probe.read(many)).to_arrow().column_names) == dpi_probe.read(many).to_arrow().column_names


def test_a_copy_tells_of_a_missing_file_at_once(small):
    pickled = pickle.dumps(dpi_probe.read(small))
    small.unlink()
    with pytest.raises(dpi_probe.CaptureError, match=str(small)):
        pickle.loads(pickled)  # noqa: S301


FORKED = """
import os, signal, sys, dpi_probe
path, use = sys.argv[1:]
flows = dpi_probe.read([path] * 40, idle_timeout=0.01)
begun = iter(flows)
next(begun)
if os.fork() == 0:
    signal.alarm(30)
    try:
        {"begun": lambda: list(begun), "again": lambda: list(flows), "table": flows.to_arrow,
         "file": lambda: flows.write(path + ".ndjson")}[use]()
    except RuntimeError as error:
        print(error, flush=True)
        assert len(list(dpi_probe.read(path))) == 2_000
        sys.exit()
    os._exit(1)
_, status = os.wait()
assert status == 0, status
assert len(list(begun)) == 79_999
"""


@pytest.mark.parametrize("use", ["begun", "again", "table", "file"])
def test_a_forked_child_is_told_that_nobody_reads_there(many, use):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(many), use], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "belongs to another process; make another with read() in this process\n" in done.stdout
