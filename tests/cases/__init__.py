"""Bad input of every kind, and the very words that a person gets for it.

`python -m tests.cases` lists them in a row.
"""
