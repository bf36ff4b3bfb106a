"""Runs the drift detectors of river, Evidently and alibi-detect on streams from files.

    peers.py river|kswin|evidently|cvm|mmd|lsdd FOLDER

index.json in the folder names the streams, which are rows of 32-bit floats. What was
measured goes to river.json and so on. All settings are the tools' defaults where they have
such.
"""

import json
import os
import pathlib
import sys
import time
import warnings

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")

import numpy as np

folder = pathlib.Path(sys.argv[2])
index = json.loads((folder / "index.json").read_text())
BEFORE, AFTER = index["before"], index["after"]
SLOW = index["slow"]  # streams and alarms of detectors that take milliseconds
figures = []


def load(name, columns):
    return np.fromfile(folder / f"{name}.f32", dtype="<f4").reshape(-1, columns)


class Kind:
    """The streams of one kind."""

    def __init__(self, entry):
        self.name, self.columns = entry["name"], entry["columns"]
        self.clean = load(self.name + "-clean", self.columns)
        self.references = []
        if entry["references"]:
            every = load(self.name + "-references", self.columns)
            self.references = np.split(every, entry["references"])
        self.changes = {c["name"]: load(c["file"], self.columns).reshape(
            -1, BEFORE + AFTER, self.columns) for c in entry["changes"]}


kinds = {entry["name"]: Kind(entry) for entry in index["kinds"]}


def record(detector, kind, settings, clean, delays):
    reference, warm = settings
    figures.append({"detector": detector, "kind": kind.name, "reference": reference,
                    "warm": warm, "clean": {"rows": clean[0], "alarms": clean[1]},
                    "delays": delays})
    (folder / f"{sys.argv[1]}.json").write_text(json.dumps(figures))
    print(f"{time.process_time():6.0f} s  {detector}, {kind.name}: {clean}, "
          f"{ {name: round(float(np.mean(d)), 1) for name, d in delays.items()} }",
          file=sys.stderr, flush=True)


def measure(name, kind, new, reference=0, alarms=400, rows=1 << 60, streams=400, warm=BEFORE):
    """Runs a detector row by row: new(i) makes the i-th, or begins anew; calling it with a
    row says whether there is an alarm. It sees at most that many rows or alarms without
    drift, and that many streams with. Of these it sees so many rows before the change:
    one with a window needs no more than fill it, and one that alarms all the time would have
    alarmed. Streams with an alarm before the change are left out."""
    detector, found, i = new(0), 0, 0
    limit = min(rows, len(kind.clean))
    while i < limit and found < alarms:
        for row in read(kind.clean[i:i + 100_000], kind):
            i += 1
            if detector(row):
                found += 1
                detector = new(found)
            if i >= limit or found >= alarms:
                break
    if found * BEFORE > 10 * i:
        warm = min(warm, 50)
    delays = {}
    for change, all_streams in kind.changes.items():
        delays[change] = []
        for k, stream in enumerate(all_streams[:streams]):
            detector, n = new(k), AFTER
            for n, row in enumerate(read(stream[BEFORE - warm:], kind), 1 - warm):
                if detector(row):
                    break
            if n > 0:
                delays[change].append(n)
    record(name, kind, (reference, warm), (i, found), delays)


def read(rows, kind):
    """Yields plain floats for one column, else arrays."""
    return rows[:, 0].tolist() if kind.columns == 1 else rows


def river_detector(cls, **settings):
    def new(i):
        d = cls(**settings)

        def update(x):
            d.update(x)
            return d.drift_detected
        return update
    return new


def run_river():
    """River's detectors see the values themselves, of categories their codes."""
    from river import drift

    for kind in kinds.values():
        if kind.columns == 1:
            measure("river ADWIN", kind, river_detector(drift.ADWIN))
            measure("river Page-Hinkley", kind, river_detector(drift.PageHinkley))


def run_kswin():
    """KSWIN is a thousand times as slow."""
    from river import drift

    for kind in kinds.values():
        if kind.columns == 1:
            measure("river KSWIN", kind, river_detector(drift.KSWIN, seed=1), alarms=SLOW,
                    rows=20_000, streams=SLOW, warm=100)


def run_evidently():
    """Evidently compares windows. The test is the one that its presets choose."""
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest

    def drifted(kind, reference, rows):
        of = "cat" if kind.name == "categories" else "num"
        past, live = pd.Series(reference[:, 0]), pd.Series(rows[:, 0])
        if of == "cat":
            past, live = past.astype(int).astype(str), live.astype(int).astype(str)
        test = get_stattest(past, live, of, None)
        return test(past, live, of, None).drifted, test.display_name

    window = 500
    for size in (1000, 10_000):
        for kind in kinds.values():
            if kind.columns > 1 or not kind.references:
                continue
            found, looks, title = 0, min(400, len(kind.clean) // window), ""
            for i in range(looks):
                rows = kind.clean[i * window:(i + 1) * window]
                yes, title = drifted(kind, kind.references[i % len(kind.references)][:size], rows)
                found += bool(yes)
            delays = {}
            for change, streams in kind.changes.items():
                delays[change] = []
                for i, stream in enumerate(streams[:100]):
                    # The change falls anywhere in a window, as it does in life.
                    phase = (i * window) // 100
                    delay = AFTER
                    for begin in range(BEFORE - phase, BEFORE + AFTER - window + 1, window):
                        reference = kind.references[i % len(kind.references)][:size]
                        if drifted(kind, reference, stream[begin:begin + window])[0]:
                            delay = begin + window - BEFORE
                            break
                    delays[change].append(delay)
            record(f"Evidently, windows of {window} ({title})", kind,
                   (size, window), (looks * window, found), delays)


ALIBI_REFERENCE = 500


def alibi_detector(detector, begin):
    def new(i):
        begin(i)

        def update(x):
            return detector.predict(np.atleast_1d(np.float32(x)))["data"]["is_drift"] == 1
        return update
    return new


def run_cvm():
    """alibi-detect's online detectors are told the wanted run length (ERT)."""
    from alibi_detect.cd import CVMDriftOnline

    # Thresholds depend on no distribution, so that one detector serves all references.
    cvm = CVMDriftOnline(kinds["normal"].references[0][:ALIBI_REFERENCE], ert=1000,
                         window_sizes=[20, 40], verbose=False)
    for name in ("normal", "t3", "cauchy", "ties"):
        kind = kinds[name]

        def begin(i):
            cvm.x_ref = kind.references[i % len(kind.references)][:ALIBI_REFERENCE]
            cvm._configure_ref()
            cvm.reset_state()
        measure("alibi-detect CVMDriftOnline, ERT 1000, windows 20 and 40", kind,
                alibi_detector(cvm, begin), ALIBI_REFERENCE, alarms=SLOW, streams=SLOW,
                warm=40)


def run_multivariate(name):
    """These take milliseconds a row and up to a minute for thresholds of one reference."""
    from alibi_detect import cd
    import tensorflow as tf

    tf.random.set_seed(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for kind in (kinds["pair"], kinds["normal"]):
        detector = getattr(cd, name)(kind.references[0][:ALIBI_REFERENCE], ert=100,
                                     window_size=20, backend="tensorflow", verbose=False)
        measure(f"alibi-detect {name}, ERT 100, window 20", kind,
                alibi_detector(detector, lambda i: detector.reset_state()), ALIBI_REFERENCE,
                alarms=SLOW // 2, streams=SLOW // 2, warm=20)


def draw_published():
    """Draws the two generated streams of the benchmark of DFKI: 154,987 rows, in which
    something changes every 5,000."""
    from river.datasets import synth

    length, every = 154_987, 5000
    rng = np.random.default_rng(531874)
    angle = np.linspace(0, 2 * np.pi, 501)
    rows, concept = np.empty((length, 4), "<f4"), -1
    for i in range(length):
        if i % every == 0:
            for _ in range(6):
                rng.uniform(-1, 1, 2)  # centres of the labels, which nothing here needs
            before = concept
            while concept == before:
                concept = rng.choice(3, 1)[0]
        sin, cos = np.sin(angle[i % 500]), np.cos(angle[i % 500])
        first = ((sin, cos), (-sin, cos), (-cos, -cos))[concept]
        rows[i] = np.array([*first, sin, cos]) + rng.normal(0, 0.25, 4)
    rows.tofile(folder / "sine.f32")

    stream = synth.Waveform(seed=2401137)
    rng = np.random.default_rng(2401137)
    shape = np.array(stream._H_FUNCTION)
    shapes = [shape, shape + 6, 6 - shape, -shape]
    concept = 0
    rows = np.empty((length, 21), "<f4")
    stream._H_FUNCTION = shapes[concept]
    for i, (x, _) in enumerate(stream.take(length)):
        rows[i] = list(x.values())
        if i % every == 0:
            before = concept
            while concept == before:
                concept = rng.choice(4, 1)[0]
            stream._H_FUNCTION = shapes[concept]
    rows.tofile(folder / "waveform.f32")


warnings.simplefilter("ignore")
np.random.seed(1)
if sys.argv[1] == "river":
    draw_published()
jobs = {"river": run_river, "kswin": run_kswin, "evidently": run_evidently, "cvm": run_cvm,
        "mmd": lambda: run_multivariate("MMDDriftOnline"),
        "lsdd": lambda: run_multivariate("LSDDDriftOnline")}
jobs[sys.argv[1]]()
