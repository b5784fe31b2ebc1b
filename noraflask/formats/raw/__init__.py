"""Files at any path, by plain HTTP.

protocol.py    the pure part: keys, digests, ranges, media types; conditions.py those of requests, listing.py pages and JSON of folders
blueprint.py   the blueprint; on it are routes.py (read, delete), uploads.py, folders.py
files.py       what the views share; sidecars.py the checksums beside a file
stock.py       what there is, for those who know no format
setup.py       the page for its clients
doctor.py      what is asked of a front
format.py      all of it, as the frame knows it
"""
