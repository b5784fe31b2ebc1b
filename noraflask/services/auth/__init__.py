"""Who asks, and what they may.

principal.py   Action, Principal: the words of the question
rules.py       rights: allowed(), explain(); pure functions of a policy; name_patterns.py their patterns of names
users.py       names and passwords: the htpasswd and the groups file
tokens.py      API tokens, kept in storage as hashes; scopes.py what they are cut to
signing.py     bearer tokens that this registry signs, and their keys
oidc.py        identities of other issuers; discovery.py asks an issuer for its keys, key_sets.py reads them, issuer_keys.py keeps them
lockout.py     failed logins, counted for all workers of a server
credentials.py what a request carries to log in with
authenticator.py  from a request's headers to a Principal
logins.py         what outlives a reload: users, tokens, keys, lockout, and what is logged of logins
"""
