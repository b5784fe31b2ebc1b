"""`gunicorn -c etc/gunicorn.conf.py wsgi:app` serves this; `nora serve` needs no file."""

from noraflask.app import create_app
from noraflask.config import load

app = create_app(load())
