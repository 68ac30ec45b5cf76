#!/usr/bin/env bash
# A slice of ten rows of a string_view array of pyarrow 26.0.1 keeps the text of all rows, and nothing that makes slices of
# other arrays small helps: concat_arrays, an IPC stream and a pickle of the slice carry all of it, take does not know the
# type, and nbytes, which for a string array counts only what the slice uses, counts all of it too, so one cannot even see
# the waste. Only a cast to string and back copies what is used. It hurts who sends pieces of tables between processes or caches them by nbytes.
# Fails when that changes. Needs the package index; installs into a temporary folder only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyarrow==26.0.1
cat >"$folder/program.py" <<'PROGRAM'
import pickle

import pyarrow as pa


def stream(array):
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], ["text"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().size


def sizes(kind):
    part = pa.array([f"{row:06} " + "x" * 93 for row in range(10_000)], kind).slice(5_000, 10)
    found = {
        "nbytes": part.nbytes,
        "concat_arrays": pa.concat_arrays([part]).get_total_buffer_size(),
        "IPC stream": stream(part),
        "pickle of a copy": len(pickle.dumps(pa.concat_arrays([part]))),
    }
    if kind == pa.string_view():
        found["cast and back"] = part.cast(pa.string()).cast(kind).get_total_buffer_size()
    return found


print(f"pyarrow {pa.__version__}: bytes for ten rows of 100 letters")
plain, views = sizes(pa.string()), sizes(pa.string_view())
for name, size in views.items():
    print(f"{name:18} string_view {size:>9,}" + (f"   string {plain[name]:>9,}" if name in plain else ""))
small = all(size < 10_000 for size in plain.values()) and views["cast and back"] < 10_000
large = all(size > 900_000 for name, size in views.items() if name != "cast and back")
raise SystemExit(0 if small and large else "this has changed: expected small strings, large views, and a small cast")
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
