"""`gunicorn -c etc/gunicorn.conf.py wsgi:app` serves this; `nora serve` needs no file."""

import sys

from noraflask.app import ServedRegistry, create_app
from noraflask.config import ConfigError, load

try:
    app = ServedRegistry(create_app(load()))
except ConfigError as error:  # of the rule files that the configuration names
    print("\n".join(error.problems), file=sys.stderr)
    sys.exit(78)  # EX_CONFIG, as `nora serve`
