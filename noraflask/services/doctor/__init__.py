"""`nora doctor`: is everything as it must be, on this machine and through the real front?

findings.py is what a check gives; machine.py, files.py and server.py look at this machine, certificate.py and canary.py at the front, by the
connections of front.py. remedies.py holds the one line to change, for each proxy.
"""
