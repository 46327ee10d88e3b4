"""The query ledger's speed and size, for batches as they are sent. One run, under a minute.

    python benchmarks/ledger.py                                # in a temporary directory
    python benchmarks/ledger.py --directory /data --rows 1000000

Prints JSON and writes it to --output: images per second reserved and recorded, with and without a sync of the
disk per commit; looked up (hits and misses); bytes of file per answer. Images are made before the clock starts, the
hash of an image is part of what is measured. Lookups and inserts run in a table that holds --rows answers already.
"""

import argparse
import json
import platform
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kdlightning.accounting.ledger import Answer, Cost, QueryLedger

TEACHER = {"url": "http://127.0.0.1:8000/v2/models/benchmark", "version": "1", "access": "soft"}


def batches(first: int, rows: int, size: int, image_bytes: int) -> list[list[bytes]]:
    """Images that differ in their first eight bytes."""
    pad = bytes(image_bytes - 8)
    numbers = range(first, first + rows)
    images = [number.to_bytes(8, "little") + pad for number in numbers]
    return [images[start : start + size] for start in range(0, rows, size)]


def insert(ledger: QueryLedger, parts: list[list[bytes]], answers: Answer) -> dict[str, float]:
    """Images per second of reserve and record, alone and together."""
    reserving = recording = 0.0
    cpu = time.process_time()
    for part in parts:
        start = time.perf_counter()
        request = ledger.reserve(TEACHER, part, Cost(sum(map(len, part)), 40 * len(part), 0.001 * len(part)))
        between = time.perf_counter()
        ledger.record(request, answers[: len(part)])
        end = time.perf_counter()
        reserving, recording = reserving + between - start, recording + end - between
    images = sum(map(len, parts))
    return {
        "images": images,
        "reserve_per_s": images / reserving,
        "record_per_s": images / recording,
        "both_per_s": images / (reserving + recording),
        "milliseconds_per_batch": 1e3 * (reserving + recording) / len(parts),
        "cpu_microseconds_per_image": 1e6 * (time.process_time() - cpu) / images,
    }


def look_up(ledger: QueryLedger, parts: list[list[bytes]], *, hits: bool) -> dict[str, float]:
    """Images per second of lookup."""
    start, cpu = time.perf_counter(), time.process_time()
    for part in parts:
        found = ledger.lookup(TEACHER, part)
        assert all((answer is not None) == hits for answer in found)
    images = sum(map(len, parts))
    return {
        "images": images,
        "lookup_per_s": images / (time.perf_counter() - start),
        "cpu_microseconds_per_image": 1e6 * (time.process_time() - cpu) / images,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="answers in the ledger (default %(default)s)")
    parser.add_argument("--classes", type=int, default=10, help="probabilities per answer (default %(default)s)")
    parser.add_argument("--image-bytes", type=int, default=3072, help="bytes of an image (default %(default)s)")
    parser.add_argument("--directory", type=Path, help="where the ledger is made (default: the temporary directory)")
    parser.add_argument("--output", type=Path, default=Path("ledger.json"), help="default %(default)s")
    options = parser.parse_args()
    answers = np.random.default_rng(0).random((256, options.classes), dtype=np.float32)
    record: dict[str, Any] = {
        "rows": options.rows, "answer": f"float32 ({options.classes},)", "image_bytes": options.image_bytes,
        "python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "machine": platform.machine(),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "ledger.sqlite"
        parts = batches(0, options.rows, 256, options.image_bytes)
        with QueryLedger(path) as ledger:
            record["insert_256"] = insert(ledger, parts, answers)
        record["bytes_per_answer"] = path.stat().st_size / options.rows
        with QueryLedger(path) as ledger:
            for size in (1, 32, 256):
                number = min(options.rows, 100 * size)
                some = batches(0, options.rows, size, options.image_bytes)[:: max(1, options.rows // number)]
                record[f"lookup_hits_{size}"] = look_up(ledger, some, hits=True)
                new = batches(1 << 40, number, size, options.image_bytes)
                record[f"lookup_misses_{size}"] = look_up(ledger, new, hits=False)
        first = 1 << 41
        for durable in (True, False):
            with QueryLedger(path, durable=durable) as ledger:
                for size in (1, 32, 256):
                    new = batches(first, 100 * size, size, options.image_bytes)
                    first += 100 * size
                    name = f"insert_{size}{'' if durable else '_not_durable'}_in_full_table"
                    record[name] = insert(ledger, new, answers)
        with QueryLedger(path, readonly=True) as ledger:
            start = time.perf_counter()
            assert ledger.verify() == []
            record["verify_s"] = time.perf_counter() - start
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
