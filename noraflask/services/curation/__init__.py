"""Curation: what may be served. One gate, asked on indexes and on bytes; pure decisions; a policy that is replaced as a whole.

model.py       Package, Rule, RuleSet, Decision: the words
patterns.py    globs over names and versions, in linear time
files.py       rule files to a RuleSet, every problem with file and line: nora_files.py reads the JSON, toml_tables.py and toml_rules.py the TOML,
               rule_values.py the single values
compiling.py   a RuleSet as bytes, in the master
policy.py      these bytes as a Policy, in the workers, who share them
filters.py     what each filter says of a package
deciding.py    decide(), visible(), explain(): the filters in their order
loading.py     from the configuration to a policy that has passed its own tests
gate.py        Curation: check(), which alone gives the permit that serving demands
explaining.py  what every filter says, and what could be had instead
freeze.py      nothing new from upstream, at once
ledger.py      what was served, to whom
replay.py      a candidate policy over the ledger; who got what
osv/           malicious-package feeds into rules, offline
"""
