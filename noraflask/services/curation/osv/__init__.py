"""Malicious-package feeds in the OSV format (ossf.github.io/osv-schema, 1.x), offline, to a block list: feed.import_osv(), then
blocklist.write_blocklist().

What a record says, and the rule that it becomes:

  introduced "0", never fixed   the whole package: one rule with version "*", whatever `versions` lists beside it (the schema's evaluation: a version
                                is affected when it is listed OR in a range)
  versions [...]                these versions, exactly
  a range with bounds           one rule for each interval, in the format's own range language; type GIT is not read
  neither, and malicious        the whole package; not malicious: undecided

Undecided are also names, versions and bounds that no rule can say (stars, spaces, brackets) and ranges that Ecosystem.parse_range() refuses: one
of them in the file would make the server refuse the file. They are counted and listed, never dropped in silence.

Malicious is a record with an id or alias `MAL-…`, with `database_specific.malicious-packages-origins`, or with CWE-506 (embedded malicious code) in
its or its packages' `database_specific`, where GitHub's advisories and OpenSSF's records have it.

A severity is a number (`severity[].score`, `database_specific.severity`, `.cvss` or `.cvss.score`) or a word, LOW, MODERATE, MEDIUM, HIGH, CRITICAL,
which counts as the top of its CVSS band, so that doubt blocks. CVSS vectors are not computed: a record with nothing else is counted as `no_severity`
and left out when `min_severity` is asked for. Malicious records need no severity.

Distributions' records name source packages; a rule for binary packages matches those of that name only.
"""
