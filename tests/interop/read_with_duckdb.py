"""Count samples of each class in Arrow shards with DuckDB; print one JSON object: wnid -> count."""

import json
import sys

import duckdb
import pyarrow as pa

tables = [pa.ipc.open_file(pa.memory_map(path)).read_all() for path in sorted(sys.argv[1:])]
samples = pa.concat_tables([t.replace_schema_metadata() for t in tables])
print(json.dumps(dict(duckdb.sql("SELECT wnid, count(*) FROM samples GROUP BY wnid").fetchall())))
