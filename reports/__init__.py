"""From a finished run's Parquet files to statistics, tables, charts and `report.html`.

The parts: `schema` (columns), `load` (reading a run), `statistics` (pure functions), `cells`,
`convergence` and `speed` (the numbers), `figures`, `render` and `terminal` (what people see).
Nothing is imported here: a worker that only needs `reports.schema` loads no chart library.
"""
