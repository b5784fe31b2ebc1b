"""Metrics: what is counted while requests run, in cells that all processes of a server share, and what is looked up when somebody asks.

catalogue.py names every metric, counter_files.py keeps the numbers, counting.py is what services and the envelope call, counted_storage.py is a
storage that does so, scrape_metrics.py works out at each scrape what nobody has to count, such as free space. web/metrics.py answers `GET /metrics`.
"""
