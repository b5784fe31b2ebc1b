"""`nora doctor`: is everything as it must be, on this machine and through the real front?

findings.py is what a check gives, examination.py the order of all checks. machine.py, files.py, server.py and redis.py look at this machine;
certificate.py and proxy.py look at the front, by the connections of front.py. What a format asks of a front is its own (format_checks.py says what
that may be). remedies.py holds the one line to change, for each proxy.
"""
