"""Bad input of every kind, and the message that the user gets for it.

`python -m tests.integration.cases` prints all of them.
"""
