"""Measuring with adb and benchmark_model: a stand-in adb records its calls and gives `shell` to a real shell."""

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import MEASURED_THERE, Profile
from edgecc.profile.benchmark_model import read_operators, read_timing
from edgecc.profile.devices import profile_on
from edgecc.profile.over_adb import parse

# As versions of 2019 to today print it; times in microseconds and milliseconds.
TIMING = """INFO: STARTING!
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.09
INFO: Initialized session in 3.1ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=120 first=9105 curr=4009 min=3585 max=9105 avg=4152.5 std=640

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=250 first=4040 curr=4001 min=3900 max=4400 avg=4010.5 std=52

INFO: Inference timings in us: Init: 3100, First inference: 9105, Warmup (avg): 4152.5, Inference (avg): 4010.5
INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=3.25
"""
NEWER = TIMING.replace("std=52", "std=52 p5=3920 median=4005 p95=4100")
ALIKE = re.sub(r"count=250 .*", "count=5 curr=4001(all same) p5=4001 median=4001 p95=4001", TIMING)
INIT = """Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

"""
HEAD = "Operator-wise Profiling Info for Regular Benchmark Runs:\n"
BUILTIN = f"""{INIT}INFO: {HEAD}============================== Run Order ==============================
\t  [node type]\t  [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t     CONV_2D\t   0.066\t    2.754\t    2.957\t 74.000%\t 74.000%\t     0.000\t        1\t[a/b c, d]:0
\t       DEPTHWISE_CONV_2D\t            2.033\t    0.628\t    0.520\t 26.000%\t100.000%\t     0.000\t        2\t[e]:1

============================== Top by Computation Time ==============================
\t  [node type]\t  [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t     CONV_2D\t   0.066\t    2.754\t    2.957\t 74.000%\t 74.000%\t     0.000\t        1\t[a/b c, d]:0
"""
COLUMNS = "   [node type]   [first]  [avg ms]   [%]   [cdf%]    [mem KB]    [times called]  [Name]"
DELEGATED = f"""{INIT}{HEAD}============================== Run Order ==============================
{COLUMNS}
      QUANTIZE            0.199           0.203   5.0%   5.0%   0.000   1   [q]:0
      TfLiteXNNPackDelegate       3.8     3.797   95.0%   100.0%   0.000   1   [y]:9

Timings (microseconds): count=50 first=4000 curr=4000 min=3990 max=4010 avg=4000 std=3
Delegate internal:
============================== Run Order ==============================
{COLUMNS}
  Convolution (NHWC, QC8) IGEMM   0.398   0.400   10.0%   10.0%   0.000   1   Delegate/Convolution (NHWC, QC8) IGEMM:0
      Max Pooling 2D   0.428   1.600   40.0%   50.0%   0.000   2   Delegate/Max Pooling 2D:1

"""
OLDER = DELEGATED.replace("Max Pooling 2D   0.4", "DelegateOpInvoke   0.4")

ADB = """#!{python}
import json, os, re, shutil, subprocess, sys
root, words = {root!r}, sys.argv[1:]
with open(os.path.join(root, "calls"), "a") as file:
    file.write(json.dumps(words) + "\\n")
refusal = os.path.join(root, "refusal")
if os.path.exists(refusal):
    sys.stderr.write(open(refusal).read())
    sys.exit(1)
assert words[:2] == ["-s", "SERIAL:5555"], words
there = lambda path: path.replace("/data/local/tmp", root + "/device")
if words[2] == "push":
    shutil.copyfile(words[3], there(words[4]))
    print("1 file pushed, 0 skipped.")
elif words[2] == "get-state":
    print("device")
else:
    assert words[2] == "shell"
    text = there(" ".join(words[3:]))  # as adb does
    environment = dict(os.environ, PATH=root + "/bin:/usr/bin:/bin")
    sys.exit(subprocess.run(["/bin/sh", "-c", text], env=environment).returncode)
"""
GETPROP = """#!/bin/sh
case $1 in
  ro.product.model) echo "Pixel 9";;
  ro.product.cpu.abi) echo arm64-v8a;;
  ro.build.version.release) echo 16;;
  *) echo;;
esac
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Stand:
    """A stand-in adb first in PATH, a folder as device, and a stand-in benchmark_model that plays back output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program(folder / "here" / "adb", ADB.format(python=sys.executable, root=str(folder)))
        program(folder / "bin" / "getprop", GETPROP)
        (folder / "device").mkdir()
        self.plays(TIMING, BUILTIN)

    def plays(self, timing: str, table: str, code: int = 0) -> None:
        (self.folder / "timing").write_text(timing)
        (self.folder / "table").write_text(timing + table)
        self.tool = self.folder / "bench mark'$(touch ran)"
        self.tool.write_text(
            f"#!/bin/sh\ntest -f {self.folder}/device/edgecc-*/network.tflite || exit 9\n"
            f'case "$*" in *enable_op_profiling*) cat {self.folder}/table;; *) cat {self.folder}/timing;; esac\n'
            f"exit {code}\n"
        )

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def measured(self, path: Path, **words: Any) -> Profile:
        found = profile_on(f"adb://SERIAL:5555?benchmark={quote(str(self.tool))}", path, **words)
        assert isinstance(found, Profile)
        return found


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    (tmp_path / "stand").mkdir()
    made = Stand(tmp_path / "stand")
    monkeypatch.setenv("PATH", f"{made.folder}/here{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "-a b'\"$(touch ran);touch ran\n.tflite"
    path.write_bytes(b"network")
    return path


def test_a_profile_comes_back(stand: Stand, network: Path) -> None:
    found = stand.measured(network, threads=2)
    assert (found.tier, found.runs, found.threads, found.size_bytes) == (MEASURED_THERE, 250, 2, 7)
    assert (found.median_ms, found.p10_ms, found.p90_ms) == (None, None, None)
    assert (found.mean_ms, found.min_ms, found.typical_ms) == (4.0105, 3.9, 4.0105)
    assert found.memory_bytes == 3.25 * 2**20
    assert found.machine == "Pixel 9, arm64-v8a, Android 16"
    assert "it tells no median: the figure is the mean" in found.notes[0]
    assert "4.01 ms (mean, fastest 3.9 ms; 250 runs)" in found.table()
    assert [(o.type, o.us) for o in found.operators] == [("CONV_2D", 2957), ("DEPTHWISE_CONV_2D", 1040)]
    json.dumps(found.to_dict())


def test_only_our_own_names_reach_the_shell_of_the_device(stand: Stand, network: Path) -> None:
    stand.measured(network, runs=7)
    calls = stand.calls()
    folder = re.compile(r"/data/local/tmp/edgecc-[0-9a-f]{16}(/[a-z_.]+)?")
    for words in calls:
        assert words[:2] == ["-s", "SERIAL:5555"]
        if words[2] == "shell":
            assert all(re.fullmatch(r"[A-Za-z0-9_./=-]+", word) for word in words[3:]), words
    pushed = [words[3:] for words in calls if words[2] == "push"]
    assert [Path(here) for here, _ in pushed] == [network, stand.tool]
    assert all(here.startswith("/") and folder.fullmatch(there) for here, there in pushed)
    assert any("--num_runs=7" in words and "--min_secs=0" in words for words in calls)
    assert calls[-1][2:5] == ["shell", "rm", "-rf"]
    assert list((stand.folder / "device").iterdir()) == []
    assert list(stand.folder.parent.rglob("ran")) == []


def test_a_tool_that_is_there_already(stand: Stand, network: Path) -> None:
    installed = program(stand.folder / "device" / "tool", stand.tool.read_text())
    assert profile_on("adb://SERIAL:5555?installed=/data/local/tmp/tool", network).to_dict()["runs"] == 250
    assert len([words for words in stand.calls() if words[2] == "push"]) == 1
    assert installed.exists()


def test_newer_versions_tell_the_median() -> None:
    found = read_timing(NEWER)
    assert (found.median_ms, found.every_ms) == (4.005, None)
    assert "95 % 4.1 ms" in found.note
    assert "no median" not in found.note


def test_runs_that_are_all_alike_have_every_quantile() -> None:
    found = read_timing(ALIKE)
    assert (found.runs, found.median_ms, found.every_ms, found.min_ms) == (5, 4.001, 4.001, 4.001)
    assert found.note == ""


@pytest.mark.parametrize("line", ["count=250 first=4040 std=52", "count=0 min=1 avg=1", "count=5 curr=.."])
def test_statistics_that_make_no_sense(line: str) -> None:
    with pytest.raises(EdgeccError, match=f"tells no time of its runs: {re.escape(line)[:9]}"):
        read_timing(re.sub(r"count=250 .*", line, TIMING))


@pytest.mark.parametrize("text", [DELEGATED, OLDER])
def test_operators_of_a_delegate_count_once(text: str) -> None:
    found = read_operators(text)
    assert [(o.type, o.source, round(o.us)) for o in found] == [
        ("QUANTIZE", "builtin", 203),
        ("Convolution (NHWC, QC8) IGEMM", "xnnpack", 400),
        ("Max Pooling 2D", "xnnpack", 3200),
    ]
    assert sum(o.share for o in found) == pytest.approx(1)


def test_a_delegate_that_does_not_tell_stays_whole() -> None:
    found = read_operators(DELEGATED.partition("Delegate internal")[0])
    assert [o.type for o in found] == ["QUANTIZE", "TfLiteXNNPackDelegate"]
    assert read_operators(TIMING) == ()


def test_without_a_table_the_rest_is_told(stand: Stand, network: Path) -> None:
    stand.plays(NEWER, "")
    found = stand.measured(network)
    assert found.median_ms == 4.005
    assert "no times of operators" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n", "does not trust this machine"),
        ("error: device offline\n", "offline"),
        ("error: device 'SERIAL:5555' not found\n", "no device of that serial"),
        ("adb: something else\n", "adb fails: adb: something else"),
    ],
)  # fmt: skip
def test_what_adb_refuses(stand: Stand, network: Path, said: str, cause: str) -> None:
    (stand.folder / "refusal").write_text(said)
    with pytest.raises(EdgeccError, match=cause):
        stand.measured(network)


def test_a_tool_that_fails(stand: Stand, network: Path) -> None:
    stand.plays("ERROR: Failed to load model network.tflite\nERROR: Benchmarking failed.\n", "", code=1)
    with pytest.raises(EdgeccError, match="benchmark_model fails: ERROR: Benchmarking failed"):
        stand.measured(network)
    stand.plays("ERROR: Failed to initialize\n", "")  # an old adb gives no exit code
    with pytest.raises(EdgeccError, match="tells no time: ERROR: Failed to initialize"):
        stand.measured(network)
    assert list((stand.folder / "device").iterdir()) == []


@pytest.mark.parametrize(
    "place",
    ["SERIAL", "-s?installed=/a", "a b?installed=/a", "x;y?installed=/a", "x?installed=/a;b", "x?installed=a",
     "x?installed=/a%20b", "x?benchmark=/no/such", "x?colour=red", "x?installed=/a&timeout=0"],
)  # fmt: skip
def test_wrong_places(place: str, network: Path) -> None:
    with pytest.raises(UsageError):
        profile_on(f"adb://{place}", network)


def test_wrong_files(tmp_path: Path, network: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"\.tflite"):
        profile_on("adb://x?installed=/a", tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="shapes"):
        profile_on("adb://x?installed=/a", network, input_shape={"x": (1,)})


def test_serials() -> None:
    for serial in ("emulator-5554", "192.168.0.7:5555", "adb-2A1._adb-tls-connect._tcp"):
        assert parse(f"{serial}?installed=/data/x&timeout=9").serial == serial


def test_without_adb(network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeccError, match="no `adb`"):
        profile_on("adb://x?installed=/a", network)
