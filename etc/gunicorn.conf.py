"""`gunicorn -c etc/gunicorn.conf.py wsgi:app`: the same server as `nora serve`, for those who start gunicorn themselves."""

import sys

from noraflask import log
from noraflask.config import ConfigError, load
from noraflask.serve.settings import gunicorn_settings

try:
    _config = load()
except ConfigError as error:
    print("\n".join(error.problems), file=sys.stderr)
    sys.exit(78)  # EX_CONFIG, as `nora serve`
log.setup(_config.logging)
globals().update(gunicorn_settings(_config))
