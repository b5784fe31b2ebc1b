"""Docker and OCI images (OCI distribution-spec 1.1).

protocol/      the pure part: keys, names, manifests, ranges, scopes, answers
blueprint.py   the blueprint; routes.py imports all files that have views on it:
               blobs.py, manifests.py, uploads.py, listings.py, tokens.py, by the nouns of the specification
verdicts.py    what views ask the gate; images.py works the verdicts out, graphs.py holds which manifest holds which blob
stock.py       what there is, for those who know no format
setup.py       pages for its clients
doctor.py      what is asked of a front: canary.py pushes and pulls, canary_answers.py reads what comes back
format.py      all of it, as the frame knows it
"""
